// The one exception type of the host, and the mapping to exit statuses.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace biophony {

/// Why something ended. The values are the exit statuses of the program.
enum class Code {
    kRunFailed = 1,  ///< a node failed: bad data, full disk, …
    kInvalid = 2,    ///< the pipeline or the command line is wrong
    kPlugin = 3,     ///< a plugin is missing or was refused
    kCancelled = 4,
    kInternal = 5,  ///< a bug here, or a plugin crashed
};
/// The run finished, and files were left out on the way.
inline constexpr int kSkippedFilesStatus = 6;

/// Where it happened, as far as known; empty parts are left out of the text.
struct Where {
    std::string file;     ///< pipeline, table, checkpoint, …
    int line = 0;         ///< 1-based; 0 = unknown
    int column = 0;       ///< 1-based, in bytes; 0 = unknown
    std::string pointer;  ///< JSON pointer
    std::string node;     ///< node id
    std::string plugin;   ///< "dataset:table"
    std::string parameter;

    /// "pipeline.json:3:7: /nodes/a/use" and the like; empty where nothing is known.
    std::string text() const;
};

/// What is said of a fault: one line for people and, where they are known, its parts for programs. A plain text is one.
struct Message {
    Message() = default;
    Message(std::string said) : text(std::move(said)) {}
    Message(const char* said) : text(said) {}

    bool empty() const { return text.empty(); }

    std::string text;      ///< "found the string "smal", expected one of "small", "nihal2026"; did you mean 'small'?"
    std::string found;     ///< in the words of the text: "the number 3", "'fiel'"
    std::string expected;  ///< in the words of the text
    std::string nearest;   ///< the one valid name that is near
};

/// "found FOUND, expected EXPECTED".
Message found_expected(std::string found, std::string expected);
/// "WHAT is missing, expected EXPECTED".
Message missing(std::string_view what, std::string expected);
/// The same parts, with more said behind or before.
Message operator+(Message message, std::string_view more);
Message operator+(std::string_view before, Message message);
Message& operator+=(Message& message, std::string_view more);

/// Thrown by everything in the host. what() is one line: where, what was found, what was expected.
class Error : public std::exception {
public:
    Error(Code code, Message message, Where where = {});
    Code code() const { return code_; }
    const Message& message() const { return message_; }
    const Where& where() const { return where_; }
    const char* what() const noexcept override { return text_.c_str(); }
    /// The same error with the parts of `outer` filled in that are unknown here.
    Error within(const Where& outer) const;

private:
    Code code_;
    Message message_;
    Where where_;
    std::string text_;
};

}  // namespace biophony
