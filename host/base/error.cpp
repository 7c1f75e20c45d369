#include "base/error.hpp"

#include <fmt/format.h>

namespace biophony {

std::string Where::text() const {
    std::string out = file;
    if (line > 0) out += fmt::format(":{}", line);
    if (line > 0 && column > 0) out += fmt::format(":{}", column);
    auto add = [&out](std::string_view prefix, const std::string& part, std::string_view suffix = "") {
        if (part.empty()) return;
        if (!out.empty()) out += ": ";
        out += fmt::format("{}{}{}", prefix, part, suffix);
    };
    add("", pointer);
    add("node ", node);
    add("", plugin);
    add("parameter '", parameter, "'");
    return out;
}

Message found_expected(std::string found, std::string expected) {
    Message message(fmt::format("found {}, expected {}", found, expected));
    message.found = std::move(found);
    message.expected = std::move(expected);
    return message;
}

Message missing(std::string_view what, std::string expected) {
    Message message(fmt::format("{} is missing, expected {}", what, expected));
    message.expected = std::move(expected);
    return message;
}

Message operator+(Message message, std::string_view more) {
    message.text += more;
    return message;
}

Message operator+(std::string_view before, Message message) {
    message.text.insert(0, before);
    return message;
}

Message& operator+=(Message& message, std::string_view more) {
    message.text += more;
    return message;
}

Error::Error(Code code, Message message, Where where)
    : code_(code), message_(std::move(message)), where_(std::move(where)) {
    const std::string place = where_.text();
    text_ = place.empty() ? message_.text : place + ": " + message_.text;
}

Error Error::within(const Where& outer) const {
    Where merged = where_;
    if (merged.file.empty()) {
        merged.file = outer.file;
        merged.line = outer.line;
        merged.column = outer.column;
    }
    if (merged.pointer.empty()) merged.pointer = outer.pointer;
    if (merged.node.empty()) merged.node = outer.node;
    if (merged.plugin.empty()) merged.plugin = outer.plugin;
    if (merged.parameter.empty()) merged.parameter = outer.parameter;
    return Error(code_, message_, std::move(merged));
}

}  // namespace biophony
