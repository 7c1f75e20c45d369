#include "csv.hpp"

#include <algorithm>
#include <stdexcept>

namespace biophony_table {

namespace {

[[noreturn]] void fail(size_t line, const std::string& message) {
    throw std::runtime_error("line " + std::to_string(line) + ": " + message);
}

std::string_view trimmed(std::string_view text) {
    const size_t first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::string name_of(char delimiter) {
    return delimiter == '\t' ? "tab" : std::string("'") + delimiter + "'";
}

/// The most frequent outside of quotes in the first line that isn't empty.
char guess_delimiter(std::string_view text) {
    const size_t begin = std::min(text.find_first_not_of("\r\n"), text.size());
    std::string_view header = text.substr(begin);
    header = header.substr(0, header.find_first_of("\r\n"));
    char best = '\0';
    size_t most = 0;
    for (const char candidate : {',', '\t', ';'}) {
        size_t count = 0;
        bool quoted = false;
        for (const char c : header) {
            if (c == '"') quoted = !quoted;
            if (c == candidate && !quoted) ++count;
        }
        if (count > most) most = count, best = candidate;
    }
    if (best == '\0')
        fail(1, "found no comma, tab or semicolon in the header '" + std::string(header.substr(0, 80)) +
                    "', expected a table with at least the columns of the path and the label");
    return best;
}

void require_text(std::string_view text) {
    if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
        fail(1, "the table is UTF-16, expected UTF-8; save it as \"CSV UTF-8\"");
    if (text.starts_with("PK\x03\x04"))
        fail(1, "the file is a spreadsheet or zip archive, expected text; export it as CSV");
    size_t line = 1;
    for (size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i]);
        if (lead == 0) fail(line, "found a NUL byte, expected text");
        if (lead == '\n') ++line;
        const size_t length = lead < 0x80                   ? 1
                              : lead >= 0xc2 && lead < 0xe0 ? 2
                              : lead >= 0xe0 && lead < 0xf0 ? 3
                              : lead >= 0xf0 && lead < 0xf5 ? 4
                                                            : 0;
        bool good = length > 0 && i + length <= text.size();
        for (size_t k = 1; good && k < length; ++k) good = (static_cast<unsigned char>(text[i + k]) & 0xc0U) == 0x80;
        if (!good) fail(line, "found bytes that are not UTF-8; save the table as UTF-8");
        i += length;
    }
}

}  // namespace

Table parse_table(std::string_view text, char delimiter) {
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    require_text(text);
    if (text.find_first_not_of(" \t\r\n") == std::string_view::npos)
        throw std::runtime_error("the table is empty, expected a first line that names the columns");
    if (delimiter == '\0') delimiter = guess_delimiter(text);

    Table table;
    size_t line = 1, i = 0;
    while (i < text.size()) {
        Row row{line, {}};
        bool end_of_row = false, quotes = false;
        while (!end_of_row) {
            std::string field;
            if (i < text.size() && text[i] == '"') {
                quotes = true;
                const size_t opened = line;
                for (++i;; ++i) {
                    if (i >= text.size()) fail(opened, "a quoted field begins here and never ends");
                    if (text[i] == '"') {
                        if (i + 1 < text.size() && text[i + 1] == '"')
                            ++i;
                        else
                            break;
                    }
                    if (text[i] == '\n' || (text[i] == '\r' && (i + 1 >= text.size() || text[i + 1] != '\n'))) ++line;
                    field += text[i];
                }
                ++i;
                if (i < text.size() && text[i] != delimiter && text[i] != '\r' && text[i] != '\n')
                    fail(line, std::string("found '") + text[i] + "' after a closing quote, expected " +
                                   name_of(delimiter) +
                                   " or the end of the line; a quote within a field is written twice");
            } else {
                const size_t begin = i;
                while (i < text.size() && text[i] != delimiter && text[i] != '\r' && text[i] != '\n') ++i;
                field = text.substr(begin, i - begin);
            }
            row.fields.push_back(std::move(field));
            if (i < text.size() && text[i] == delimiter) {
                ++i;
                continue;
            }
            end_of_row = true;
            if (i < text.size()) {
                i += text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n' ? 2 : 1;
                ++line;
            }
        }
        if (row.fields.size() == 1 && row.fields[0].empty() && !quotes) continue;  // an empty line
        if (table.header.empty()) {
            for (const auto& field : row.fields) table.header.emplace_back(trimmed(field));
            continue;
        }
        if (row.fields.size() != table.header.size())
            fail(row.line, "found " + std::to_string(row.fields.size()) + " fields, expected " +
                               std::to_string(table.header.size()) + " as in the header (fields are separated by " +
                               name_of(delimiter) + ")");
        table.rows.push_back(std::move(row));
    }
    return table;
}

}  // namespace biophony_table
