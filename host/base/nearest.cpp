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

/// Whether `part` stands in `name` between characters that are neither letters nor digits.
static bool is_part(std::string_view part, std::string_view name) {
    auto parts = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; };
    for (size_t at = name.find(part); at != std::string_view::npos; at = name.find(part, at + 1)) {
        const size_t end = at + part.size();
        if ((at == 0 || parts(name[at - 1])) && (end == name.size() || parts(name[end]))) return true;
    }
    return false;
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
    auto lower = [](std::string_view text) {
        std::string out(text);
        std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
        return out;
    };
    if (word.size() > 200) return {};
    const std::string wanted = lower(word);
    size_t best = std::max<size_t>(2, word.size() / 3) + 1;
    std::string found;
    constexpr size_t kShortestPart = 3;
    size_t left = 1000;  // comparing a word with ten thousand others takes longer than it helps
    for (const std::string& candidate : candidates) {
        const bool short_of = candidate.size() + best <= wanted.size(),
                   beyond = wanted.size() + best <= candidate.size();
        if (candidate.size() > 200 || short_of) continue;
        const bool part = wanted.size() >= kShortestPart && is_part(wanted, lower(candidate));
        if (beyond && !part) continue;
        if (left-- == 0) break;
        const size_t steps = edit_distance(wanted, lower(candidate)),
                     distance = part ? std::min<size_t>(steps, 1) : steps;
        // A name that shares nothing with the word is no help, however short both are.
        if (distance < best && distance < std::max(wanted.size(), candidate.size())) {
            best = distance;
            found = candidate;
        }
    }
    return found;
}

Message with_nearest(Message message, std::string_view word, std::span<const std::string> names,
                     std::string_view none) {
    if (message.found.empty()) message.found = fmt::format("'{}'", word);
    message.nearest = nearest(word, names);
    const bool few = !names.empty() && names.size() <= 20;
    if (message.expected.empty() && few) message.expected = fmt::format("one of {}", fmt::join(names, ", "));
    if (!message.nearest.empty())
        message.text += fmt::format("; did you mean '{}'?", message.nearest);
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
