// JSON as the host uses it: objects sorted by key, numbers printed shortest and locale-free, one canonical text.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace biophony {

using Json = nlohmann::json;

/// One problem of a document; several are collected before anything is reported.
struct Diagnostic {
    Code code = Code::kInvalid;
    Where where;      ///< file, line, column and pointer, as far as known
    Message message;  ///< what was found, what was expected, the nearest name

    std::string text() const;
};

/// Where each value of a JSON text begins, by JSON pointer; and the keys that stand twice in one object.
class JsonText {
public:
    /// Strict: one value, no comments, no trailing text, no duplicate keys, nested at most 200 deep, valid UTF-8, no
    /// whole number that would become another one, no key of more than 1000 bytes.
    /// Problems are appended to `problems` with file:line:column; the value is then null (or has the last duplicate).
    static JsonText parse(std::string text, std::string file, std::vector<Diagnostic>& problems);

    const Json& value() const { return value_; }
    const std::string& file() const { return file_; }
    /// The place of the value at `pointer`, or of the nearest enclosing value that the text has.
    Where where(std::string_view pointer) const;
    /// Whether the text itself has a value at `pointer`.
    bool has(std::string_view pointer) const { return places_.contains(pointer); }

private:
    Json value_;
    std::string file_;
    std::map<std::string, std::pair<int, int>, std::less<>> places_;
};

/// Reads and parses a file that the program itself wrote; throws Error(kRunFailed) with file and position.
Json read_json(const std::filesystem::path& path);
/// Two-space indented, with a final newline, written atomically.
void write_json(const std::filesystem::path& path, const Json& value);

/// The one text of a value: sorted keys, no white space, shortest round-trip numbers. Throws on NaN and infinity,
/// which JSON doesn't have.
std::string canonical(const Json& value);

/// Appends a key to a JSON pointer, escaping ~ and /.
std::string pointer_join(std::string_view pointer, std::string_view key);

/// What a message calls a value: "the string \"abc\"", "the number 3", "an array of 4", long text cut.
std::string describe(const Json& value);

}  // namespace biophony
