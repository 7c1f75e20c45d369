#include "base/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>

#include "base/files.hpp"

namespace biophony {

std::string Diagnostic::text() const {
    const std::string place = where.text();
    return place.empty() ? message.text : place + ": " + message.text;
}

std::string pointer_join(std::string_view pointer, std::string_view key) {
    std::string out(pointer);
    out += '/';
    for (const char c : key) {
        if (c == '~')
            out += "~0";
        else if (c == '/')
            out += "~1";
        else
            out += c;
    }
    return out;
}

std::string describe(const Json& value) {
    switch (value.type()) {
        case Json::value_t::null: return "null";
        case Json::value_t::object: return fmt::format("an object of {}", value.size());
        case Json::value_t::array: return fmt::format("an array of {}", value.size());
        case Json::value_t::string: {
            std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
            if (text.size() > 60) {
                size_t end = 57;
                while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // no halves of characters
                text = text.substr(0, end) + "…\"";
            }
            return "the string " + text;
        }
        case Json::value_t::boolean: return value.get<bool>() ? "true" : "false";
        default: return "the number " + value.dump();
    }
}

namespace {

void refuse_non_finite(const Json& value) {
    if (value.is_number_float() && !std::isfinite(value.get<double>()))
        throw Error(Code::kInternal, "a number that is not finite can't be written as JSON");
    if (value.is_structured())
        for (const auto& item : value) refuse_non_finite(item);
}

constexpr std::string_view kBehindToken = ",]} \n\t\r";

/// The text with U+FFFD for what is no UTF-8, so that a message about it is text.
std::string as_utf8(const std::string& text) {
    return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

/// Walks a text that is known to be JSON and notes where each value begins and which keys stand twice.
class Walker {
public:
    Walker(std::string_view text, std::string_view file,
           std::map<std::string, std::pair<int, int>, std::less<>>& places, std::vector<Diagnostic>& problems)
        : text_(text), file_(file), places_(places), problems_(problems) {}

    void walk() { value(""); }

private:
    void space() {
        while (at_ < text_.size() &&
               (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
            step();
    }
    void step() {
        if (text_[at_] == '\n') {
            ++line_;
            column_ = 1;
        } else {
            ++column_;
        }
        ++at_;
    }
    /// Steps over a string and returns its decoded content.
    std::string string() {
        const size_t begin = at_;
        step();
        while (text_[at_] != '"') {
            if (text_[at_] == '\\') step();
            step();
        }
        step();
        return Json::parse(text_.substr(begin, at_ - begin)).get<std::string>();
    }
    void value(const std::string& pointer) {
        space();
        if (pointer.size() <= kLongestPointer) places_.emplace(pointer, std::pair(line_, column_));
        if (text_[at_] == '{') {
            step();
            std::set<std::string> seen;
            for (space(); text_[at_] != '}'; space()) {
                const int line = line_, column = column_;
                const std::string key = string();
                if (key.size() > kLongestKey)
                    problem({.file = std::string(file_), .line = line, .column = column, .pointer = pointer},
                            fmt::format("found a key of {} bytes, expected at most {}", key.size(), kLongestKey));
                const std::string inner = key.size() > kLongestKey ? pointer : pointer_join(pointer, key);
                if (!seen.insert(key).second)
                    problem({.file = std::string(file_), .line = line, .column = column, .pointer = inner},
                            fmt::format("the key '{}' stands twice in one object; keep one", key));
                // A key's own place is more useful in a message than the place of its value.
                if (key.size() <= kLongestKey && inner.size() <= kLongestPointer) places_[inner] = {line, column};
                space();
                step();  // :
                value(inner);
                space();
                if (text_[at_] == ',') step();
            }
            step();
        } else if (text_[at_] == '[') {
            step();
            size_t index = 0;
            for (space(); text_[at_] != ']'; space()) {
                value(pointer_join(pointer, std::to_string(index++)));
                space();
                if (text_[at_] == ',') step();
            }
            step();
        } else if (text_[at_] == '"') {
            string();
        } else {
            const size_t begin = at_;
            const int line = line_, column = column_;
            while (at_ < text_.size() && kBehindToken.find(text_[at_]) == std::string_view::npos) step();
            const std::string_view token = text_.substr(begin, at_ - begin);
            if (!fits(token))
                problem({.file = std::string(file_), .line = line, .column = column, .pointer = pointer},
                        fmt::format("the whole number {} is too large to be kept as it is, expected one from {} to {}",
                                    token.size() > 40 ? fmt::format("{}…", token.substr(0, 37)) : std::string(token),
                                    std::numeric_limits<int64_t>::min(), std::numeric_limits<uint64_t>::max()));
        }
    }
    /// False for whole numbers that the parser would turn into others, without a word.
    static bool fits(std::string_view token) {
        if (token.find_first_not_of("-0123456789") != std::string_view::npos) return true;
        int64_t with_sign = 0;
        uint64_t without = 0;
        const char *begin = token.data(), *end = begin + token.size();
        return std::from_chars(begin, end, with_sign).ec == std::errc{} ||
               std::from_chars(begin, end, without).ec == std::errc{};
    }
    void problem(Where where, std::string message) {
        constexpr size_t kMost = 1000;
        if (problems_.size() < kMost) problems_.push_back({Code::kInvalid, std::move(where), std::move(message)});
    }

    /// Longer ones are nobody's words, and the pointers below them would fill the memory.
    static constexpr size_t kLongestKey = 1000, kLongestPointer = 10'000;

    std::string_view text_;
    std::string_view file_;
    std::map<std::string, std::pair<int, int>, std::less<>>& places_;
    std::vector<Diagnostic>& problems_;
    size_t at_ = 0;
    int line_ = 1, column_ = 1;
};

/// Deeper nesting is refused before the parser, whose stack it would use up. Counts outside of strings.
size_t too_deep_at(std::string_view text, int limit) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\')
                ++i;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > limit) return i;
        } else if (c == '}' || c == ']') {
            --depth;
        }
    }
    return std::string_view::npos;
}

std::pair<int, int> line_and_column(std::string_view text, size_t at) {
    int line = 1, column = 1;
    for (size_t i = 0; i < at && i < text.size(); ++i) {
        if (text[i] == '\n') {
            ++line;
            column = 1;
        } else {
            ++column;
        }
    }
    return {line, column};
}

/// Where the first number stands that no double can hold, and the number.
std::pair<size_t, std::string_view> overflow_at(std::string_view text) {
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        if (in_string) {
            if (text[i] == '\\')
                ++i;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '-' || (text[i] >= '0' && text[i] <= '9')) {
            const size_t end = std::min(text.find_first_of(kBehindToken, i), text.size());
            double value = 0;
            if (std::from_chars(text.data() + i, text.data() + end, value).ec == std::errc::result_out_of_range)
                return {i, text.substr(i, std::min<size_t>(end - i, 40))};
            i = end - 1;
        }
    }
    return {0, ""};
}

/// What is wrong at byte `at`, where that is a habit from elsewhere; else what the parser says.
std::string say(std::string_view text, size_t at, std::string what) {
    // What the parser read may be half a character; the place says it better.
    if (const size_t read = what.find("; last read: "); read != std::string::npos)
        what.erase(read, std::min(what.rfind("'; expected"), what.size() - 1) + 1 - read);
    if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff") || text.substr(0, 4).find('\0') < 4)
        return "the text is not in UTF-8, it looks like UTF-16; save it as UTF-8";
    const size_t back = at > 0 && at < text.size() && text[at] == '*' ? at - 1 : at;
    if (back < text.size() && (text[back] == '/' || text[back] == '#'))
        return "comments are not JSON; put the words into a \"notes\" value";
    size_t begin = std::min(at, text.size());
    while (begin > 0 && (std::isalnum(static_cast<unsigned char>(text[begin - 1])) != 0 || text[begin - 1] == '-'))
        --begin;
    size_t end = begin;
    while (end < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '-' || text[end] == '+'))
        ++end;
    std::string word(text.substr(begin, end - begin));
    std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::string bare =
        word.substr(word.find_first_not_of("+-") == std::string::npos ? 0 : word.find_first_not_of("+-"));
    if (bare == "nan" || bare == "inf" || bare == "infinity") return "JSON has no NaN and no infinity";
    if (bare == "true" || bare == "false" || bare == "none" || bare == "nil" || bare == "undefined")
        return "JSON writes true, false and null, in small letters";
    if (at < text.size() && text[at] == '\'') return "texts and keys stand in double quotes";
    size_t before = at;
    while (before > 0 && std::string_view(" \n\t\r").find(text[before - 1]) != std::string_view::npos) --before;
    if (at < text.size() && (text[at] == '}' || text[at] == ']') && before > 0 && text[before - 1] == ',')
        return "there is a comma behind the last item; take it out";
    if (what.find("object key") != std::string::npos && !word.empty()) return "keys stand in double quotes";
    return what;
}

}  // namespace

JsonText JsonText::parse(std::string text, std::string file, std::vector<Diagnostic>& problems) {
    JsonText out;
    out.file_ = std::move(file);
    auto problem_at = [&](size_t at, std::string message) {
        const auto [line, column] = line_and_column(text, at);
        problems.push_back({Code::kInvalid, {.file = out.file_, .line = line, .column = column}, as_utf8(message)});
    };
    if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
    if (const size_t at = too_deep_at(text, 200); at != std::string::npos) {
        problem_at(at, "nested more than 200 deep");
        return out;
    }
    try {
        out.value_ = Json::parse(text);
    } catch (const Json::parse_error& error) {
        const size_t at = error.byte > 0 ? error.byte - 1 : 0;
        // nlohmann's text ends in the useful part: "… - unexpected end of input; expected ']'".
        std::string what = error.what();
        if (const size_t colon = what.find(": ", what.find("column")); colon != std::string::npos)
            what = what.substr(colon + 2);
        problem_at(at, "not JSON: " + say(text, at, std::move(what)));
        return out;
    } catch (const Json::exception& error) {
        const auto [at, number] = overflow_at(text);
        problem_at(at, number.empty() ? fmt::format("not JSON: {}", error.what())
                                      : fmt::format("the number {} is too large", number));
        return out;
    }
    Walker(text, out.file_, out.places_, problems).walk();
    return out;
}

Where JsonText::where(std::string_view pointer) const {
    Where out{.file = file_, .pointer = std::string(pointer)};
    for (std::string_view at = pointer;; at = at.substr(0, at.rfind('/'))) {
        if (const auto found = places_.find(at); found != places_.end()) {
            out.line = found->second.first;
            out.column = found->second.second;
            return out;
        }
        if (at.empty()) return out;
    }
}

Json read_json(const std::filesystem::path& path) {
    try {
        return Json::parse(read_file(path));
    } catch (const Json::exception& error) {
        throw Error(Code::kRunFailed, fmt::format("not the JSON that was expected: {}", error.what()),
                    {.file = path.string()});
    }
}

void write_json(const std::filesystem::path& path, const Json& value) {
    refuse_non_finite(value);
    write_file_atomically(path, value.dump(2) + "\n");
}

std::string canonical(const Json& value) {
    refuse_non_finite(value);
    return value.dump();
}

}  // namespace biophony
