// Writing CSV.
#pragma once

#include <string>

namespace biophony {

/// A field, quoted where RFC 4180 asks for it.
inline std::string csv_field(const std::string& text) {
    if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"') out += '"';
        out += c;
    }
    return out + '"';
}

}  // namespace biophony
