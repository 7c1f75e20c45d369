#include "weights/pickle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_set>

namespace biophony {

namespace {

constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
constexpr size_t kMaxNodes = 4'000'000;

// Packages, modules and functions that no checkpoint's data needs; an entry covers everything below it.
constexpr std::string_view kRefused[] = {
    // programs, processes, the system
    "os", "posix", "nt", "posixpath", "ntpath", "sys", "subprocess", "_posixsubprocess", "multiprocessing",
    "concurrent", "asyncio", "pty", "ctypes", "_ctypes", "cffi",
    // text and files run as code, code loaded
    "runpy", "importlib", "_frozen_importlib", "_frozen_importlib_external", "imp", "pkgutil", "zipimport", "pickle",
    "_pickle", "cPickle", "marshal", "shelve", "pdb", "bdb", "cProfile", "timeit", "doctest", "pydoc", "idlelib",
    "lib2to3", "distutils", "setuptools", "pip", "ensurepip", "venv", "codeop", "operator.attrgetter",
    "operator.methodcaller", "_operator.attrgetter", "_operator.methodcaller", "numpy.load", "numpy.testing",
    "numpy.f2py", "numpy.distutils", "torch.load", "torch.jit.load", "torch.hub", "torch.serialization.load",
    "torch.utils.cpp_extension", "torch.distributed.rpc",
    // files and the network
    "shutil", "tempfile", "fileinput", "linecache", "io.open", "io.open_code", "io.FileIO", "_io.open", "_io.open_code",
    "_io.FileIO", "socket", "_socket", "socketserver", "ssl", "urllib", "urllib2", "http", "httplib", "ftplib",
    "telnetlib", "smtplib", "poplib", "imaplib", "nntplib", "xmlrpc", "requests", "aiohttp", "httpx", "webbrowser"};

// Modules of the same sort whose names a laboratory may have given its own packages: "code.interact" is Python's, while
// "code.model.Net" can't be.
constexpr std::string_view kRefusedModules[] = {"code", "commands", "popen2", "cmd", "trace", "profile", "glob"};

// What stands in builtins and is data. Everything else there (eval, exec, getattr, open, __import__, …) is refused.
constexpr std::string_view kPlainBuiltins[] = {"set",       "frozenset",      "list",    "dict",  "tuple",   "int",
                                               "long",      "float",          "bool",    "str",   "unicode", "bytes",
                                               "bytearray", "complex",        "object",  "slice", "range",   "xrange",
                                               "Ellipsis",  "NotImplemented", "reversed"};

bool is_builtins(std::string_view module) {
    return module == "builtins" || module == "__builtin__" || module == "__builtins__";
}

/// Whether `name` is `entry` or lies below it.
bool covers(std::string_view entry, std::string_view name) {
    return name.starts_with(entry) && (name.size() == entry.size() || name[entry.size()] == '.');
}

bool is_refused(std::string_view module, std::string_view name) {
    const std::string full = fmt::format("{}.{}", module, name);
    if (std::any_of(std::begin(kRefused), std::end(kRefused),
                    [&](std::string_view entry) { return covers(entry, full); }))
        return true;
    if (std::find(std::begin(kRefusedModules), std::end(kRefusedModules), module) != std::end(kRefusedModules))
        return true;
    // Newer protocols take attributes of attributes: the name "os.system" in the module torch is the function all the
    // same.
    std::string_view rest = name;
    bool first = true;
    while (true) {
        const size_t dot = rest.find('.');
        const std::string_view part = rest.substr(0, dot);
        if (first && is_builtins(module) &&
            std::find(std::begin(kPlainBuiltins), std::end(kPlainBuiltins), part) == std::end(kPlainBuiltins))
            return true;
        if (name.size() != part.size() &&
            (is_builtins(part) || part.starts_with("__") ||
             std::find(std::begin(kRefused), std::end(kRefused), part) != std::end(kRefused)))
            return true;
        if (dot == std::string_view::npos) return false;
        rest.remove_prefix(dot + 1);
        first = false;
    }
}

/// Names come from files: made printable and cut to a length that a message can bear.
std::string shown(std::string_view name) {
    std::string out;
    for (const char c : name.substr(0, 100)) out += c >= ' ' && c <= '~' ? c : '?';
    return name.size() > 100 ? out + "…" : out;
}

struct NamedOpcode {
    uint8_t code;
    std::string_view name;
};
constexpr NamedOpcode kUnread[] = {
    {'F', "FLOAT"},  {'I', "INT"},   {'L', "LONG"},  {'S', "STRING"},       {'V', "UNICODE"},
    {'P', "PERSID"}, {'g', "GET"},   {'p', "PUT"},   {'i', "INST"},         {'o', "OBJ"},
    {0x82, "EXT1"},  {0x83, "EXT2"}, {0x84, "EXT4"}, {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};

}  // namespace

/// The stack machine.
class Pickle::Machine {
public:
    Machine(const Source& source, uint64_t begin, uint64_t end)
        : source_(source),
          begin_(begin),
          end_(std::min(end, begin + std::min(kMaxBytes, UINT64_MAX - begin))),
          at_(begin),
          cut_(end_ < end) {}

    Pickle run() {
        while (step()) {
        }
        if (!marks_.empty() || stack_.size() != 1) refuse("it ends with an unfinished value");
        out_.root_ = stack_.back();
        out_.end_ = at_;
        return std::move(out_);
    }

private:
    using Node = Pickle::Node;

    [[noreturn]] void refuse(const std::string& what) const {
        throw Error(Code::kRunFailed, fmt::format("the pickle is broken at byte {}: {}", op_at_, what));
    }

    // ---- bytes

    void need(uint64_t bytes) const {
        if (bytes <= end_ - at_) return;
        refuse(cut_ ? fmt::format("it has more than {} MiB", kMaxBytes >> 20)
                    : fmt::format("{} bytes are announced and {} are left", bytes, end_ - at_));
    }
    /// One byte, through a window of the source.
    uint8_t byte() {
        need(1);
        if (at_ < window_begin_ || at_ >= window_begin_ + window_size_) {
            window_begin_ = at_;
            window_size_ = std::min<uint64_t>(window_.size(), end_ - at_);
            source_(at_, std::span(window_).first(window_size_));
        }
        return static_cast<uint8_t>(window_[at_++ - window_begin_]);
    }
    uint64_t number(int bytes) {
        uint64_t out = 0;
        for (int i = 0; i < bytes; ++i) out |= uint64_t{byte()} << (8 * i);
        return out;
    }
    /// A node whose bytes go to the pool.
    Id pooled(Kind kind, uint64_t length) {
        need(length);
        const size_t begin = out_.pool_.size();
        out_.pool_.resize(begin + length);
        if (length > 0 && at_ >= window_begin_ && at_ + length <= window_begin_ + window_size_)
            std::memcpy(out_.pool_.data() + begin, window_.data() + (at_ - window_begin_), length);
        else
            source_(at_, std::as_writable_bytes(std::span(out_.pool_).subspan(begin)));
        at_ += length;
        return add({.kind = kind, .integer = static_cast<int64_t>(begin), .length = length});
    }
    Id line() {
        const size_t begin = out_.pool_.size();
        while (true) {
            const auto c = static_cast<char>(byte());
            if (c == '\n') break;
            if (out_.pool_.size() - begin == 1000) refuse("a name has more than 1000 bytes");
            out_.pool_ += c;
        }
        return add({.kind = Kind::kText, .integer = static_cast<int64_t>(begin), .length = out_.pool_.size() - begin});
    }

    // ---- stack

    Id add(Node node) {
        if (out_.nodes_.size() == kMaxNodes) refuse(fmt::format("it has more than {} values", kMaxNodes));
        out_.nodes_.push_back(std::move(node));
        return static_cast<Id>(out_.nodes_.size() - 1);
    }
    void push(Id id) { stack_.push_back(id); }
    void push(Node node) { push(add(std::move(node))); }
    size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
    Id top() const {
        if (stack_.size() <= floor()) refuse("it takes a value from an empty stack");
        return stack_.back();
    }
    Id pop() {
        const Id id = top();
        stack_.pop_back();
        return id;
    }
    std::vector<Id> pop_to_mark() {
        if (marks_.empty()) refuse("it looks for a mark, and there is none");
        const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
        std::vector<Id> out(from, stack_.end());
        stack_.erase(from, stack_.end());
        marks_.pop_back();
        return out;
    }
    void push_tuple(size_t size) {
        Node node{.kind = Kind::kTuple};
        node.items.resize(size);
        for (size_t i = size; i-- > 0;) node.items[i] = pop();
        push(std::move(node));
    }
    void remember(uint64_t index) {
        // Python numbers them from 0 on, so none is larger than the bytes that were read.
        if (index > at_ - begin_) refuse(fmt::format("it remembers a value under the number {}, out of order", index));
        if (index >= memo_.size()) memo_.resize(index + 1, kNothing);
        if (memo_[index] == kNothing) ++remembered_;
        memo_[index] = top();
    }
    void recall(uint64_t index) {
        if (index >= memo_.size() || memo_[index] == kNothing)
            refuse(fmt::format("it recalls the value {}, which there isn't", index));
        push(memo_[index]);
    }

    // ---- values

    void global(Id module, Id name) {
        if (out_.kind(module) != Kind::kText || out_.kind(name) != Kind::kText)
            refuse("a name that it asks for is no text");
        if (out_.text(module).size() > 1000 || out_.text(name).size() > 1000) refuse("a name has more than 1000 bytes");
        if (is_refused(out_.text(module), out_.text(name)))
            throw Error(Code::kRunFailed,
                        fmt::format("asks for {}.{}, which would run code: a checkpoint needs nothing of the kind, so "
                                    "nothing of this file is used",
                                    shown(out_.text(module)), shown(out_.text(name))));
        push(Node{.kind = Kind::kGlobal, .callable = module, .arguments = name});
    }
    void fill(Id target, const std::vector<Id>& values, bool pairs) {
        if (pairs && values.size() % 2 != 0) refuse("a key has no value");
        Node& node = out_.nodes_[target];
        const bool fits = node.kind == Kind::kObject ? node.items.empty() || node.pairs == pairs
                          : pairs                    ? node.kind == Kind::kDict
                                                     : node.kind == Kind::kList || node.kind == Kind::kSet;
        if (!fits) refuse("values are added to something that can't hold them");
        if (values.empty()) return;
        node.pairs = pairs;
        node.items.insert(node.items.end(), values.begin(), values.end());
    }
    /// What calling would have made. An ordered dictionary is a dictionary; everything else stays a name with
    /// arguments.
    void call(Id callable, Id arguments) {
        if (out_.kind(callable) == Kind::kGlobal && out_.name(callable) == "collections.OrderedDict" &&
            out_.kind(arguments) == Kind::kTuple && out_.nodes_[arguments].items.empty()) {
            push(Node{.kind = Kind::kDict, .pairs = true});
            return;
        }
        push(Node{.kind = Kind::kObject, .callable = callable, .arguments = arguments});
    }

    bool step() {
        op_at_ = at_;
        const uint8_t op = byte();
        switch (op) {
            case 0x80:  // PROTO
                if (const uint8_t protocol = byte(); protocol > 5)
                    refuse(fmt::format("protocol {}, known are those up to 5", protocol));
                break;
            case 0x95: need(number(8)); break;  // FRAME: only a hint for buffering
            case '.': return false;             // STOP
            case '(': marks_.push_back(stack_.size()); break;
            case '0':  // POP
                if (!marks_.empty() && stack_.size() == marks_.back())
                    marks_.pop_back();
                else
                    pop();
                break;
            case '1': pop_to_mark(); break;
            case '2': push(top()); break;  // DUP
            case 'N': push(Node{.kind = Kind::kNone}); break;
            case 0x88: push(Node{.kind = Kind::kBool, .integer = 1}); break;
            case 0x89: push(Node{.kind = Kind::kBool}); break;
            case 'J': push(Node{.kind = Kind::kInteger, .integer = static_cast<int32_t>(number(4))}); break;
            case 'K': push(Node{.kind = Kind::kInteger, .integer = static_cast<int64_t>(number(1))}); break;
            case 'M': push(Node{.kind = Kind::kInteger, .integer = static_cast<int64_t>(number(2))}); break;
            case 0x8a: integer(number(1)); break;  // LONG1
            case 0x8b: integer(number(4)); break;  // LONG4
            case 'G': {                            // BINFLOAT, big-endian
                uint64_t bits = 0;
                for (int i = 0; i < 8; ++i) bits = bits << 8 | byte();
                push(Node{.kind = Kind::kReal, .real = std::bit_cast<double>(bits)});
                break;
            }
            case 0x8c: push(pooled(Kind::kText, number(1))); break;   // SHORT_BINUNICODE
            case 'X': push(pooled(Kind::kText, number(4))); break;    // BINUNICODE
            case 0x8d: push(pooled(Kind::kText, number(8))); break;   // BINUNICODE8
            case 'U': push(pooled(Kind::kText, number(1))); break;    // SHORT_BINSTRING: Python 2's text
            case 'T': push(pooled(Kind::kText, number(4))); break;    // BINSTRING
            case 'C': push(pooled(Kind::kBytes, number(1))); break;   // SHORT_BINBYTES
            case 'B': push(pooled(Kind::kBytes, number(4))); break;   // BINBYTES
            case 0x8e:                                                // BINBYTES8
            case 0x96: push(pooled(Kind::kBytes, number(8))); break;  // BYTEARRAY8
            case ']': push(Node{.kind = Kind::kList}); break;
            case ')': push(Node{.kind = Kind::kTuple}); break;
            case '}': push(Node{.kind = Kind::kDict, .pairs = true}); break;
            case 0x8f: push(Node{.kind = Kind::kSet}); break;
            case 'l': collect(Kind::kList); break;
            case 't': collect(Kind::kTuple); break;
            case 'd': collect(Kind::kDict); break;
            case 0x91: collect(Kind::kSet); break;  // FROZENSET
            case 0x85: push_tuple(1); break;
            case 0x86: push_tuple(2); break;
            case 0x87: push_tuple(3); break;
            case 'a': {  // APPEND
                const Id value = pop();
                fill(top(), {value}, false);
                break;
            }
            case 's': {  // SETITEM
                const Id value = pop(), key = pop();
                fill(top(), {key, value}, true);
                break;
            }
            case 'e':     // APPENDS
            case 0x90: {  // ADDITEMS
                const std::vector<Id> values = pop_to_mark();
                fill(top(), values, false);
                break;
            }
            case 'u': {  // SETITEMS
                const std::vector<Id> values = pop_to_mark();
                fill(top(), values, true);
                break;
            }
            case 'q': remember(number(1)); break;
            case 'r': remember(number(4)); break;
            case 0x94: remember(remembered_); break;  // MEMOIZE
            case 'h': recall(number(1)); break;
            case 'j': recall(number(4)); break;
            case 'c': {  // GLOBAL
                const Id module = line();
                global(module, line());
                break;
            }
            case 0x93: {  // STACK_GLOBAL
                const Id name = pop(), module = pop();
                global(module, name);
                break;
            }
            case 'R':     // REDUCE
            case 0x81: {  // NEWOBJ
                const Id arguments = pop(), callable = pop();
                call(callable, arguments);
                break;
            }
            case 0x92: {  // NEWOBJ_EX: the keywords are a first state
                const Id keywords = pop(), arguments = pop(), callable = pop();
                push(Node{.kind = Kind::kObject, .callable = callable, .arguments = arguments, .state = keywords});
                break;
            }
            case 'b': {  // BUILD. The state of a dictionary is what torch says of its own versions.
                const Id state = pop();
                if (Node& object = out_.nodes_[top()]; object.kind == Kind::kObject) object.state = state;
                break;
            }
            case 'Q': {  // BINPERSID
                const Id reference = pop();
                push(Node{.kind = Kind::kReference, .arguments = reference});
                break;
            }
            default: {
                const auto* known = std::find_if(std::begin(kUnread), std::end(kUnread),
                                                 [&](const NamedOpcode& row) { return row.code == op; });
                if (known != std::end(kUnread))
                    refuse(fmt::format("the instruction {} is not one that checkpoints have", known->name));
                refuse(fmt::format("there is no instruction {:#04x}", op));
            }
        }
        return true;
    }
    void integer(uint64_t bytes) {
        if (bytes > 8) return push(pooled(Kind::kBigInteger, bytes));
        const uint64_t raw = number(static_cast<int>(bytes));
        const int unused = 64 - 8 * static_cast<int>(bytes);  // the sign is the highest bit that was read
        push(Node{.kind = Kind::kInteger, .integer = bytes == 0 ? 0 : static_cast<int64_t>(raw << unused) >> unused});
    }
    void collect(Kind kind) {
        Node node{.kind = kind, .pairs = kind == Kind::kDict};
        node.items = pop_to_mark();
        if (node.pairs && node.items.size() % 2 != 0) refuse("a key has no value");
        push(std::move(node));
    }

    const Source& source_;
    uint64_t begin_, end_, at_, op_at_ = 0;
    bool cut_;
    std::array<std::byte, 4096> window_;
    uint64_t window_begin_ = 0, window_size_ = 0;
    std::vector<Id> stack_, memo_;
    std::vector<size_t> marks_;
    size_t remembered_ = 0;
    Pickle out_;
};

Pickle Pickle::read(const Source& source, uint64_t begin, uint64_t end) {
    return Machine(source, begin, end).run();
}

std::string_view Pickle::text(Id id) const {
    if (id == kNothing) return {};
    const Node& node = nodes_[id];
    if (node.kind != Kind::kText && node.kind != Kind::kBytes && node.kind != Kind::kBigInteger) return {};
    return std::string_view(pool_).substr(static_cast<size_t>(node.integer), node.length);
}

std::string Pickle::name(Id id) const {
    if (kind(id) == Kind::kObject) id = nodes_[id].callable;
    if (kind(id) != Kind::kGlobal) return {};
    return fmt::format("{}.{}", text(nodes_[id].callable), text(nodes_[id].arguments));
}

Pickle::Id Pickle::find(Id dict, std::string_view key) const {
    Id out = kNothing;
    if (dict == kNothing || !nodes_[dict].pairs) return out;
    const std::vector<Id>& items = nodes_[dict].items;
    for (size_t i = 0; i + 1 < items.size(); i += 2)
        if (kind(items[i]) == Kind::kText && text(items[i]) == key) out = items[i + 1];
    return out;
}

Pickle::Id Pickle::state_dict(Id object) const {
    if (kind(object) != Kind::kObject) return kNothing;
    const Id state = nodes_[object].state;
    if (kind(state) == Kind::kTuple && !nodes_[state].items.empty())
        return kind(nodes_[state].items[0]) == Kind::kDict ? nodes_[state].items[0] : kNothing;
    return kind(state) == Kind::kDict ? state : kNothing;
}

Pickle::Id Pickle::argument(Id object, size_t i) const {
    if (kind(object) != Kind::kObject) return kNothing;
    const Id arguments = nodes_[object].arguments;
    return kind(arguments) == Kind::kTuple && i < nodes_[arguments].items.size() ? nodes_[arguments].items[i]
                                                                                 : kNothing;
}

}  // namespace biophony
