#include "base/json.hpp"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "base/files.hpp"

namespace biophony {

std::string Diagnostic::text() const {
    const std::string place = where.text();
    return place.empty() ? message : place + ": " + message;
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
        places_.emplace(pointer, std::pair(line_, column_));
        if (text_[at_] == '{') {
            step();
            std::set<std::string> seen;
            for (space(); text_[at_] != '}'; space()) {
                const int line = line_, column = column_;
                const std::string key = string();
                const std::string inner = pointer_join(pointer, key);
                if (!seen.insert(key).second)
                    problems_.push_back({Code::kInvalid,
                                         {.file = std::string(file_), .line = line, .column = column, .pointer = inner},
                                         fmt::format("the key '{}' stands twice in one object; keep one", key)});
                // A key's own place is more useful in a message than the place of its value.
                places_[inner] = {line, column};
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
            while (at_ < text_.size() && std::string_view(",]} \n\t\r").find(text_[at_]) == std::string_view::npos)
                step();
        }
    }

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

}  // namespace

JsonText JsonText::parse(std::string text, std::string file, std::vector<Diagnostic>& problems) {
    JsonText out;
    out.file_ = std::move(file);
    auto problem_at = [&](size_t at, std::string message) {
        const auto [line, column] = line_and_column(text, at);
        problems.push_back({Code::kInvalid, {.file = out.file_, .line = line, .column = column}, std::move(message)});
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
        const size_t back = at > 0 && at < text.size() && text[at] == '*' ? at - 1 : at;
        if (back < text.size() && (text[back] == '/' || text[back] == '#'))
            what = "comments are not JSON; put the words into a \"notes\" value";
        problem_at(at, "not JSON: " + as_utf8(what));
        return out;
    } catch (const Json::exception& error) {
        problem_at(0, fmt::format("not JSON: {}", as_utf8(error.what())));
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
