#include "base/nearest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace biophony {

size_t edit_distance(std::string_view a, std::string_view b) {
    const size_t n = a.size(), m = b.size();
    std::vector<std::vector<size_t>> d(n + 1, std::vector<size_t>(m + 1));
    for (size_t i = 0; i <= n; ++i) d[i][0] = i;
    for (size_t j = 0; j <= m; ++j) d[0][j] = j;
    for (size_t i = 1; i <= n; ++i)
        for (size_t j = 1; j <= m; ++j) {
            const size_t cost = a[i - 1] == b[j - 1] ? 0 : 1;
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[n][m];
}

namespace {

char lower(char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

/// Whether `part`, in small letters, stands in `name` between characters that are neither letters nor digits.
bool is_part(std::string_view part, std::string_view name) {
    auto parts = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; };
    for (auto at = name.begin();; ++at) {
        at = std::search(at, name.end(), part.begin(), part.end(), [](char a, char b) { return lower(a) == b; });
        if (at == name.end()) return false;
        const auto end = at + static_cast<std::ptrdiff_t>(part.size());
        if ((at == name.begin() || parts(at[-1])) && (end == name.end() || parts(*end))) return true;
    }
}

}  // namespace

Near near_names(std::string_view word, std::span<const std::string> candidates) {
    auto small = [](std::string_view text) {
        std::string out(text);
        std::transform(out.begin(), out.end(), out.begin(), lower);
        return out;
    };
    if (word.size() > 200) return {};
    const std::string wanted = small(word);
    size_t best = std::max<size_t>(2, word.size() / 3) + 1;
    Near out;
    size_t left = 1000;  // comparing a word with ten thousand others takes longer than it helps
    for (const std::string& candidate : candidates) {
        if (candidate.size() > 200 || candidate.size() + best <= wanted.size() ||
            wanted.size() + best <= candidate.size())
            continue;
        if (left-- == 0) break;
        const size_t distance = edit_distance(wanted, small(candidate));
        // A name that shares nothing with the word is no help, however short both are.
        if (distance < best && distance < std::max(wanted.size(), candidate.size())) {
            best = distance;
            out.one = candidate;
        }
    }
    if (constexpr size_t kShortestPart = 3; best <= 1 || wanted.size() < kShortestPart) return out;
    std::vector<std::string> with_it;
    for (const std::string& candidate : candidates.first(std::min<size_t>(candidates.size(), 1000)))
        if (candidate.size() <= 200 && is_part(wanted, candidate)) with_it.push_back(candidate);
    if (with_it.size() == 1) out.one = with_it.front();
    if (constexpr size_t kMost = 8; with_it.size() > 1 && with_it.size() <= kMost) return {{}, std::move(with_it)};
    return out;
}

Message suggesting(Message message, std::string near) {
    if (!near.empty()) message.text += fmt::format("; did you mean '{}'?", near);
    message.nearest = std::move(near);
    return message;
}

Message with_nearest(Message message, std::string_view word, std::span<const std::string> names,
                     std::string_view none) {
    if (message.found.empty()) message.found = fmt::format("'{}'", word);
    const bool few = !names.empty() && names.size() <= 20;
    if (message.expected.empty() && few)
        message.expected = fmt::format("{}{}", names.size() > 1 ? "one of " : "", fmt::join(names, ", "));
    Near near = near_names(word, names);
    if (!near.one.empty()) return suggesting(std::move(message), std::move(near.one));
    if (!near.several.empty())
        message.text += fmt::format("; did you mean one of {}?", fmt::join(near.several, ", "));
    else if (few)
        message.text += fmt::format("; there are: {}", fmt::join(names, ", "));
    else if (names.empty())
        message.text += none;
    return message;
}

std::string did_you_mean(std::string_view word, std::span<const std::string> names) {
    return with_nearest(Message(), word, names).text;
}

}  // namespace biophony
