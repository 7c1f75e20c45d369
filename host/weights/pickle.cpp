#include "weights/pickle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

namespace biophony {

namespace {

constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
constexpr size_t kMaxNodes = 4'000'000;      ///< also of what stands on the stack, and of marks
constexpr size_t kMaxItems = 4 * kMaxNodes;  ///< of all lists, tuples and dictionaries: they may share values

// Packages, modules and functions that no checkpoint's data needs; an entry covers everything below it.
constexpr std::string_view kRefused[] = {
    // programs, processes, the system
    "os", "posix", "nt", "posixpath", "ntpath", "sys", "subprocess", "_posixsubprocess", "multiprocessing",
    "concurrent", "asyncio", "pty", "ctypes", "_ctypes", "cffi",
    // text and files run as code, code loaded
    "runpy", "importlib", "_frozen_importlib", "_frozen_importlib_external", "imp", "pkgutil", "zipimport", "pickle",
    "_pickle", "cPickle", "marshal", "shelve", "pdb", "bdb", "cProfile", "timeit", "doctest", "pydoc", "idlelib",
    "lib2to3", "distutils", "setuptools", "pip", "ensurepip", "venv", "codeop", "operator.attrgetter",
    "operator.methodcaller", "_operator.attrgetter", "_operator.methodcaller", "types.CodeType", "types.FunctionType",
    "dill._dill._create_code", "dill._dill._create_function", "cloudpickle.cloudpickle._make_function", "numpy.load",
    "numpy.lib.npyio.load", "numpy.lib._npyio_impl.load", "numpy.testing", "numpy.f2py", "numpy.distutils",
    "pandas.read_pickle", "pandas.io.pickle.read_pickle", "joblib.load", "joblib.numpy_pickle.load", "torch.load",
    "torch.jit.load", "torch.jit.unsupported_tensor_ops.execWrapper", "torch.hub", "torch.serialization.load",
    "torch.serialization._load", "torch.serialization._legacy_load", "torch.utils.collect_env",
    "torch.utils.cpp_extension", "torch._inductor.codecache", "torch.distributed.rpc", "threading.Thread",
    "threading.Timer", "uuid._get_command_stdout", "popen2",
    // modules whose names a laboratory may have given its own packages: by function
    "code.interact", "code.InteractiveConsole", "code.InteractiveInterpreter", "commands.getoutput",
    "commands.getstatusoutput", "cmd.Cmd", "trace.Trace", "trace.main", "profile.run", "profile.runctx",
    "profile.Profile.run", "profile.Profile.runctx", "profile.Profile.runcall",
    // files and the network
    "shutil", "tempfile", "fileinput", "linecache", "io.open", "io.open_code", "io.FileIO", "_io.open", "_io.open_code",
    "_io.FileIO", "glob.glob", "glob.iglob", "logging.FileHandler", "logging.handlers", "logging.config",
    "logging.basicConfig", "socket", "_socket", "socketserver", "ssl", "urllib", "urllib2", "http", "httplib", "ftplib",
    "telnetlib", "smtplib", "poplib", "imaplib", "nntplib", "xmlrpc", "requests", "aiohttp", "httpx", "webbrowser"};

// What stands in builtins and is data, or a function that only computes: configurations keep some. Everything else
// there (eval, exec, open, __import__, …) is refused; getattr is judged by what it takes.
constexpr std::string_view kPlainBuiltins[] = {"set",        "frozenset",  "list",       "dict",      "tuple",
                                               "int",        "long",       "float",      "bool",      "str",
                                               "unicode",    "bytes",      "bytearray",  "object",    "complex",
                                               "slice",      "range",      "xrange",     "type",      "property",
                                               "memoryview", "basestring", "super",      "Ellipsis",  "NotImplemented",
                                               "reversed",   "max",        "min",        "sum",       "len",
                                               "abs",        "round",      "pow",        "divmod",    "sorted",
                                               "any",        "all",        "zip",        "enumerate", "iter",
                                               "next",       "hash",       "id",         "repr",      "chr",
                                               "ord",        "hex",        "bin",        "oct",       "ascii",
                                               "format",     "isinstance", "issubclass", "callable"};

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
    // A path is data, what it does is not: "pathlib.Path.unlink".
    if (covers("pathlib", module) && name.find('.') != std::string_view::npos) return true;
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
constexpr NamedOpcode kUnread[] = {{'F', "FLOAT"},        {'L', "LONG"},
                                   {'S', "STRING"},       {'V', "UNICODE"},
                                   {'P', "PERSID"},       {'g', "GET"},
                                   {'p', "PUT"},          {'i', "INST"},
                                   {'o', "OBJ"},          {0x82, "EXT1"},
                                   {0x83, "EXT2"},        {0x84, "EXT4"},
                                   {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};

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
        forbid_loose_getters();
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
    void push(Id id) {
        if (stack_.size() == kMaxNodes) refuse(fmt::format("it has more than {} values", kMaxNodes));
        stack_.push_back(id);
    }
    /// Counts what goes into lists, tuples and dictionaries.
    void hold(size_t items) {
        items_ += items;
        if (items_ > kMaxItems) refuse(fmt::format("its lists have more than {} values", kMaxItems));
    }
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
        hold(out.size());
        stack_.erase(from, stack_.end());
        marks_.pop_back();
        return out;
    }
    void push_tuple(size_t size) {
        hold(size);
        Node node{.kind = Kind::kTuple};
        node.items.resize(size);
        for (size_t i = size; i-- > 0;) node.items[i] = pop();
        push(std::move(node));
    }
    void remember(uint64_t index) {
        // Python numbers them from 0 on, so none is larger than the bytes that were read.
        if (index > at_ - begin_ || index > kMaxNodes)
            refuse(fmt::format("it remembers a value under the number {}, out of order", index));
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
        const bool getter = is_builtins(out_.text(module)) && out_.text(name) == "getattr";
        if (!getter && is_refused(out_.text(module), out_.text(name))) forbid(out_.text(module), out_.text(name));
        push(Node{.kind = Kind::kGlobal, .callable = module, .arguments = name});
        if (getter) getters_.push_back(stack_.back());
    }
    [[noreturn]] void forbid(std::string_view module, std::string_view name) const {
        throw Error(Code::kRunFailed,
                    fmt::format("asks for {}.{}, which would run code: a checkpoint needs nothing of the kind, so "
                                "nothing of this file is used",
                                shown(module), shown(name)));
    }
    bool is_getter(Id id) const { return std::binary_search(getters_.begin(), getters_.end(), id); }
    /// getattr(Model, 'Config') is how protocol 2 names a class within a class, and a method: the name Model.Config.
    /// Of an object it is judged as that of its class.
    void attribute(Id getter, Id arguments) {
        const std::vector<Id> none;
        const std::vector<Id>& items = out_.kind(arguments) == Kind::kTuple ? out_.nodes_[arguments].items : none;
        Id owner = items.size() == 2 ? items[0] : kNothing;
        if (out_.kind(owner) == Kind::kObject) owner = out_.nodes_[owner].callable;
        if (out_.kind(owner) != Kind::kGlobal || is_getter(owner) || out_.kind(items[1]) != Kind::kText)
            forbid(out_.text(out_.nodes_[getter].callable), "getattr");
        const Id module = out_.nodes_[owner].callable;
        const std::string name = fmt::format("{}.{}", out_.text(out_.nodes_[owner].arguments), out_.text(items[1]));
        if (name.size() > 1000) refuse("a name has more than 1000 bytes");
        if (is_refused(out_.text(module), name)) forbid(out_.text(module), name);
        const size_t begin = out_.pool_.size();
        if (begin + name.size() > 2 * kMaxBytes) refuse("its names are too long");
        out_.pool_ += name;
        const Id joined =
            add({.kind = Kind::kText, .integer = static_cast<int64_t>(begin), .length = out_.pool_.size() - begin});
        push(Node{.kind = Kind::kGlobal, .callable = module, .arguments = joined});
    }
    /// Handed to another function, getattr could take anything.
    void forbid_loose_getters() const {
        if (getters_.empty()) return;
        const auto check = [&](Id id) {
            if (is_getter(id)) forbid(out_.text(out_.nodes_[id].callable), "getattr");
        };
        check(stack_.back());
        for (const Node& node : out_.nodes_) {
            for (const Id item : node.items) check(item);
            if (node.kind == Kind::kObject || node.kind == Kind::kReference)
                for (const Id id : {node.callable, node.arguments, node.state}) check(id);
        }
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
        if (is_getter(callable)) return attribute(callable, arguments);
        if (out_.kind(callable) == Kind::kGlobal && out_.name(callable) == "collections.OrderedDict") {
            Node node{.kind = Kind::kDict, .pairs = true};
            if (ordered_items(arguments, node.items)) return push(std::move(node));
        }
        push(Node{.kind = Kind::kObject, .callable = callable, .arguments = arguments});
    }

    /// The arguments of collections.OrderedDict: none, or as Python 2 has it a list of pairs. False where it is
    /// neither.
    bool ordered_items(Id arguments, std::vector<Id>& out) {
        const auto is_list = [&](Id id) { return out_.kind(id) == Kind::kList || out_.kind(id) == Kind::kTuple; };
        if (out_.kind(arguments) != Kind::kTuple) return false;
        const std::vector<Id>& given = out_.nodes_[arguments].items;
        if (given.empty()) return true;
        if (given.size() != 1 || !is_list(given[0])) return false;
        const std::vector<Id>& pairs = out_.nodes_[given[0]].items;
        if (!std::all_of(pairs.begin(), pairs.end(),
                         [&](Id pair) { return is_list(pair) && out_.nodes_[pair].items.size() == 2; }))
            return false;
        hold(2 * pairs.size());
        for (const Id pair : pairs)
            out.insert(out.end(), out_.nodes_[pair].items.begin(), out_.nodes_[pair].items.end());
        return true;
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
            case '(':
                if (marks_.size() == kMaxNodes) refuse(fmt::format("it has more than {} marks", kMaxNodes));
                marks_.push_back(stack_.size());
                break;
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
            case 'I': written_integer(); break;
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
                hold(1);
                fill(top(), {value}, false);
                break;
            }
            case 's': {  // SETITEM
                const Id value = pop(), key = pop();
                hold(2);
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
    /// INT, the one text instruction that Python 2 writes in protocol 2 too: numbers beyond 32 bits.
    void written_integer() {
        std::string digits;
        for (char c = static_cast<char>(byte()); c != '\n'; c = static_cast<char>(byte())) {
            if (digits.size() == 20) refuse("a number has more than 20 digits");
            digits += c;
        }
        if (digits == "00" || digits == "01") return push(Node{.kind = Kind::kBool, .integer = digits == "01"});
        Node node{.kind = Kind::kInteger};
        const char* end = digits.data() + digits.size();
        if (const auto [stop, problem] = std::from_chars(digits.data(), end, node.integer);
            digits.empty() || problem != std::errc() || stop != end)
            refuse(fmt::format("'{}' is no whole number of 64 bits", shown(digits)));
        push(std::move(node));
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
    std::vector<Id> getters_;  ///< where getattr stands, ascending
    size_t remembered_ = 0, items_ = 0;
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
