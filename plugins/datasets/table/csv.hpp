// Reading delimited text (RFC 4180), with line numbers for messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace biophony_table {

struct Row {
    size_t line = 0;  ///< 1-based, where the row begins
    std::vector<std::string> fields;
};

struct Table {
    std::vector<std::string> header;  ///< without blanks around names
    std::vector<Row> rows;            ///< each has as many fields as the header
};

/// Reads the text of a table: quoted fields with "" for a quote and line breaks within, LF, CRLF or CR line ends, a
/// byte order mark. Empty lines are passed over. `delimiter` '\0' = the one of ',', tab and ';' that the header has
/// most of. Throws std::runtime_error with the line: an open quote, text after a closing one, another number of fields
/// than the header has, no header, no UTF-8.
Table parse_table(std::string_view text, char delimiter);

}  // namespace biophony_table
