#include "weights/checkpoint.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "base/files.hpp"
#include "base/json.hpp"
#include "base/nearest.hpp"
#include "weights/torch_container.hpp"

namespace biophony {

namespace {

using Id = Pickle::Id;
using Kind = Pickle::Kind;

constexpr std::array kStateDicts = {"model", "state_dict", "model_state_dict"};
constexpr std::array kConfigs = {"cfg",  "config", "hyper_parameters", "hparams", "model_config", "model_args",
                                 "args", "opt"};
constexpr size_t kMaxRank = 64;
constexpr int kMaxDepth = 64;               ///< of modules in modules, of values in a configuration
constexpr uint64_t kMaxSteps = 20'000'000;  ///< entries looked at: a value that stands in many places is walked in each
constexpr size_t kMaxTensors = 1'000'000;
constexpr uint64_t kMaxValues = 1'000'000;  ///< of a configuration
constexpr uint64_t kMaxText = 16 << 20;     ///< bytes of a configuration, and of all names of a module's tensors
constexpr uint64_t kAlwaysFits = 64 << 20;  ///< bytes that tensors may take however small the file is

[[noreturn]] void refuse(const std::string& what) {
    throw Error(Code::kRunFailed, what);
}

bool is_utf8(std::string_view text) {
    try {
        Json(text).dump();
        return true;
    } catch (const Json::exception&) {
        return false;
    }
}

std::string shown(std::string_view text) {
    const std::string cut(text.substr(0, 200));
    return is_utf8(cut) ? cut : Json(cut).dump(-1, ' ', true, Json::error_handler_t::replace);
}

/// Where the elements of a tensor lie: element i, j, … at first + i·strides[0] + j·strides[1] + …
struct View {
    size_t storage = 0;
    uint64_t first = 0;
    uint64_t extent = 0;  ///< elements from the first to the last one, both counted
    std::vector<uint64_t> strides;
    bool dense = true;  ///< row by row without gaps
};

/// Equal where two tensors are the same values in the same memory.
using Piece = std::tuple<size_t, uint64_t, DType, std::vector<int64_t>, std::vector<uint64_t>>;
Piece piece_of(const TensorInfo& tensor, const View& view) {
    return {view.storage, view.first, tensor.dtype, tensor.shape, view.strides};
}

/// Finds and describes what a pickle of torch.save holds.
class TorchValues {
public:
    TorchValues(const TorchContainer& container, uint64_t file_bytes)
        : container_(container), pickle_(container.pickle()), file_bytes_(file_bytes) {}

    std::vector<TensorInfo> tensors;
    std::vector<View> views;  ///< of each tensor
    std::vector<Checkpoint::Unreadable> unreadable;
    std::vector<std::string> ignored;
    std::string key, config, labels;

    void find(const std::string& wanted) {
        const Id root = pickle_.root();
        std::vector<Step> path;  // from the outermost value to the state dict
        if (!wanted.empty())
            path = walk(wanted);
        else
            path = choose(root);
        const Id chosen = path.back().value;
        key = path.size() == 1 ? "/" : path_text(path);
        collect(chosen);
        for (size_t i = path.size(); i-- > 0;) {
            const Id level = path[i].value;
            if (i + 1 == path.size() && path.size() > 1) continue;
            if (is_module(level)) continue;
            find_config(level, i + 1 < path.size() ? path[i + 1].name : std::string_view());
        }
    }

private:
    struct Step {
        std::string_view name;  ///< of the pickle, or of the path that was asked for
        Id value;
    };
    /// A value on the way down, by the one that it was found in: names may be long and paths many.
    struct Place {
        size_t parent;
        Id key, value;
    };

    void count(uint64_t steps) {
        steps_ += steps;
        if (steps_ > kMaxSteps) refuse("the same values stand in too many places of it");
    }

    // ---- what a value is

    /// The name below torch._utils or torch._tensor of what rebuilds a tensor; empty for anything else.
    std::string_view rebuilt_by(Id id) const {
        if (pickle_.kind(id) != Kind::kObject) return {};
        const Id callable = pickle_[id].callable;
        if (pickle_.kind(callable) != Kind::kGlobal) return {};
        const std::string_view module = pickle_.text(pickle_[callable].callable),
                               name = pickle_.text(pickle_[callable].arguments);
        return (module == "torch._utils" || module == "torch._tensor" || module == "torch.tensor") &&
                       name.starts_with("_rebuild_")
                   ? name
                   : std::string_view();
    }
    bool is_tensor(Id id) const { return !rebuilt_by(id).empty(); }
    bool is_dict(Id id) const {
        return id != Pickle::kNothing && pickle_[id].pairs &&
               (pickle_.kind(id) == Kind::kDict || pickle_.kind(id) == Kind::kObject);
    }
    bool is_script(Id id) const {
        return pickle_.kind(id) == Kind::kObject && pickle_.name(id).starts_with("__torch__.");
    }
    /// A pickled torch.nn.Module, by its state: the class may be anyone's.
    bool is_module(Id id) {
        const Id state = pickle_.state_dict(id);
        if (state == Pickle::kNothing) return false;
        if (is_script(id)) return true;
        count(pickle_[state].items.size());
        return is_dict(pickle_.find(state, "_parameters")) && is_dict(pickle_.find(state, "_modules"));
    }
    bool has_tensors(Id id) {
        if (is_dict(id)) {
            const std::vector<Id>& items = pickle_[id].items;
            count(items.size());
            for (size_t i = 0; i + 1 < items.size(); i += 2)
                if (pickle_.kind(items[i]) == Kind::kText && is_tensor(items[i + 1])) return true;
            return false;
        }
        if (!is_module(id)) return false;
        bool any = false;
        walk_module(id, [&](const std::string&, Id) { any = true; });
        return any;
    }
    std::string describe(Id id) {
        switch (pickle_.kind(id)) {
            case Kind::kNone: return "nothing";
            case Kind::kBool: return "a truth value";
            case Kind::kInteger:
            case Kind::kBigInteger:
            case Kind::kReal: return "a number";
            case Kind::kText: return "a text";
            case Kind::kBytes: return "bytes";
            case Kind::kList: return fmt::format("a list of {}", pickle_[id].items.size());
            case Kind::kTuple: return fmt::format("a tuple of {}", pickle_[id].items.size());
            case Kind::kSet: return fmt::format("a set of {}", pickle_[id].items.size());
            case Kind::kDict: return fmt::format("a dictionary of {}", pickle_[id].items.size() / 2);
            case Kind::kGlobal: return "the name " + shown(pickle_.name(id));
            case Kind::kReference: return "a storage";
            case Kind::kObject: break;
        }
        if (is_tensor(id)) return "a tensor";
        const std::string name = pickle_.name(id);
        return name.empty() ? "an object" : "an object of " + shown(name);
    }
    std::string key_text(Id id) const {
        if (pickle_.kind(id) == Kind::kText) return std::string(pickle_.text(id));
        if (pickle_.kind(id) == Kind::kInteger) return std::to_string(pickle_[id].integer);
        return "?";
    }

    // ---- which dictionary

    static std::string path_text(const std::vector<Step>& path) {
        std::string out;
        for (size_t i = 1; i < path.size(); ++i) {
            if (out.size() + path[i].name.size() > kMaxText) refuse("the names of its dictionaries are too long");
            if (i > 1) out += '/';
            out += path[i].name;
        }
        return out;
    }

    std::vector<Step> walk(const std::string& wanted) {
        std::vector<Step> path = {{"", pickle_.root()}};
        for (size_t begin = 0; wanted != "/" && begin <= wanted.size();) {
            const size_t end = std::min(wanted.find('/', begin), wanted.size());
            const std::string_view name = std::string_view(wanted).substr(begin, end - begin);
            begin = end + 1;
            const Id here = is_dict(path.back().value) ? path.back().value : pickle_.state_dict(path.back().value);
            Id next = Pickle::kNothing;
            std::vector<std::string> names;
            if (here != Pickle::kNothing)
                for (size_t i = 0; i + 1 < pickle_[here].items.size(); i += 2) {
                    const Id id = pickle_[here].items[i];
                    if (pickle_.kind(id) == Kind::kText ? pickle_.text(id) == name : key_text(id) == name)
                        next = pickle_[here].items[i + 1];
                    if (names.size() < 1000) names.push_back(shown(key_text(id)));
                }
            if (next == Pickle::kNothing)
                refuse(fmt::format("has nothing under '{}' of the path '{}'{}", shown(name), shown(wanted),
                                   did_you_mean(std::string(name), names)));
            path.push_back({name, next});
            if (path.size() > static_cast<size_t>(kMaxDepth)) refuse("the path has too many parts");
        }
        if (!has_tensors(path.back().value))
            refuse(fmt::format("what stands under '{}' is {} and has no tensors", shown(wanted),
                               describe(path.back().value)));
        return path;
    }

    std::vector<Step> choose(Id root) {
        if (is_dict(root)) {
            std::vector<Step> known;
            for (const char* name : kStateDicts) {
                count(pickle_[root].items.size());
                if (const Id value = pickle_.find(root, name); value != Pickle::kNothing && has_tensors(value))
                    known.push_back({name, value});
            }
            if (known.size() == 1) return {{"", root}, known[0]};
            if (known.size() > 1) ambiguous({{{"", root}, known[0]}, {{"", root}, known[1]}}, 2);
        }
        // Level by level. Every value is looked at once.
        std::unordered_set<Id> seen = {root};
        std::vector<Place> places = {{0, Pickle::kNothing, root}};
        std::vector<size_t> found;
        if (has_tensors(root)) found.push_back(0);
        const auto path_to = [&](size_t place) {
            std::vector<Step> path;
            for (; place > 0; place = places[place].parent)
                path.push_back({pickle_.text(places[place].key), places[place].value});
            path.push_back({"", root});
            std::reverse(path.begin(), path.end());
            return path;
        };
        size_t begin = 0;
        for (int depth = 0; depth < 8 && begin < places.size(); ++depth) {
            const size_t end = places.size();
            for (size_t parent = begin; parent < end; ++parent) {
                const Id here = places[parent].value;
                if (!is_dict(here)) continue;
                const std::vector<Id>& items = pickle_[here].items;
                count(items.size());
                for (size_t i = 0; i + 1 < items.size(); i += 2) {
                    // Under numbers lies what optimizers know of each parameter.
                    if (pickle_.kind(items[i]) != Kind::kText ||
                        (!is_dict(items[i + 1]) && pickle_.kind(items[i + 1]) != Kind::kObject))
                        continue;
                    if (is_tensor(items[i + 1]) || !seen.insert(items[i + 1]).second) continue;
                    places.push_back({parent, items[i], items[i + 1]});
                    if (has_tensors(items[i + 1])) found.push_back(places.size() - 1);
                }
            }
            if (found.size() == 1) return path_to(found[0]);
            if (!found.empty()) {
                std::vector<std::vector<Step>> listed;
                for (size_t i = 0; i < std::min(found.size(), kListed); ++i) listed.push_back(path_to(found[i]));
                ambiguous(listed, found.size());
            }
            begin = end;
        }
        refuse(fmt::format(
            "holds no state dict: the outermost value is {}, and no dictionary in it has tensors under names",
            describe(root)));
    }

    static constexpr size_t kListed = 8;

    [[noreturn]] void ambiguous(const std::vector<std::vector<Step>>& listed, size_t all) {
        std::vector<std::string> lines;
        for (const std::vector<Step>& path : listed)
            lines.push_back(fmt::format("'{}' ({} tensors)", path.size() == 1 ? "/" : shown(path_text(path)),
                                        count_tensors(path.back().value)));
        if (all > listed.size()) lines.push_back(fmt::format("… ({} in all)", all));
        refuse(
            fmt::format("has more than one dictionary of tensors; 'biophony convert --key PATH' takes one of them: {}",
                        fmt::join(lines, ", ")));
    }
    size_t count_tensors(Id id) {
        size_t out = 0;
        entries(id, [&](std::string_view, Id value) { out += is_tensor(value) ? 1 : 0; });
        return out;
    }

    // ---- its tensors

    /// Calls `body` with the name and value of every tensor that module.state_dict() would have had.
    template <class Body>
    void walk_module(Id module, Body&& body) {
        struct Frame {
            Id module;
            std::string prefix;
            int depth;
        };
        std::vector<Frame> open = {{module, "", 0}};
        uint64_t text = 0;
        while (!open.empty()) {
            const Frame frame = std::move(open.back());
            open.pop_back();
            if (frame.depth > kMaxDepth) refuse(fmt::format("its modules are nested deeper than {}", kMaxDepth));
            const Id state = pickle_.state_dict(frame.module);
            std::vector<Frame> inside;
            const auto each = [&](Id dict, auto&& use) {
                if (!is_dict(dict)) return;
                const std::vector<Id>& items = pickle_[dict].items;
                count(items.size() + 1);
                for (size_t i = 0; i + 1 < items.size(); i += 2) {
                    if (pickle_.kind(items[i]) != Kind::kText) continue;
                    text += frame.prefix.size() + pickle_.text(items[i]).size() + 1;
                    if (text > kMaxText) refuse("the names of its modules are too long");
                    use(frame.prefix + std::string(pickle_.text(items[i])), items[i + 1]);
                }
            };
            const auto tensor = [&](const std::string& name, Id value) {
                if (is_tensor(value)) body(name, value);
            };
            const auto deeper = [&](const std::string& name, Id value) {
                if (is_module(value)) inside.push_back({value, name + ".", frame.depth + 1});
            };
            if (is_script(frame.module)) {
                each(state, [&](const std::string& name, Id value) {
                    tensor(name, value);
                    deeper(name, value);
                });
            } else {
                if (state == Pickle::kNothing) continue;
                count(4 * pickle_[state].items.size());
                const Id passing = pickle_.find(state, "_non_persistent_buffers_set");
                each(pickle_.find(state, "_parameters"), tensor);
                each(pickle_.find(state, "_buffers"), [&](const std::string& name, Id value) {
                    if (!contains_text(passing, std::string_view(name).substr(frame.prefix.size())))
                        tensor(name, value);
                });
                each(pickle_.find(state, "_modules"), deeper);
            }
            open.insert(open.end(), inside.rbegin(), inside.rend());
        }
    }
    /// Whether a pickled set, set([…]) or a set of its own, has that text.
    bool contains_text(Id set, std::string_view text) {
        if (pickle_.kind(set) == Kind::kObject) set = pickle_.argument(set, 0);
        if (pickle_.kind(set) != Kind::kList && pickle_.kind(set) != Kind::kSet) return false;
        count(pickle_[set].items.size());
        return std::any_of(pickle_[set].items.begin(), pickle_[set].items.end(),
                           [&](Id id) { return pickle_.text(id) == text; });
    }

    template <class Body>
    void entries(Id id, Body&& body) {
        if (!is_dict(id)) return walk_module(id, body);
        const std::vector<Id>& items = pickle_[id].items;
        for (size_t i = 0; i + 1 < items.size(); i += 2)
            if (pickle_.kind(items[i]) == Kind::kText)
                body(pickle_.text(items[i]), items[i + 1]);
            else
                body(key_text(items[i]), items[i + 1]);
    }

    void collect(Id state_dict) {
        std::set<std::string> names;
        std::set<Piece> pieces;
        uint64_t end = 0, distinct = 0, others = 0;
        std::string other;
        entries(state_dict, [&](std::string_view entry, Id value) {
            if (!is_tensor(value)) {
                if (others++ == 0) other = fmt::format("'{}' is {}", shown(entry), describe(value));
                return;
            }
            const std::string name(entry);
            if (!is_utf8(name) || name == "__metadata__")
                refuse(fmt::format("'{}' can't be the name of a tensor", shown(name)));
            if (!names.insert(name).second) refuse(fmt::format("the tensor '{}' is there twice", shown(name)));
            if (names.size() > kMaxTensors) refuse(fmt::format("has more than {} tensors", kMaxTensors));
            TensorInfo info{.name = name};
            View view;
            if (const std::string why = describe_tensor(value, info, view); !why.empty()) {
                unreadable.push_back({name, why});
                return;
            }
            uint64_t bytes = size_of(info.dtype);
            for (const int64_t dimension : info.shape)
                if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes))
                    refuse(fmt::format("the shape of '{}' overflows", shown(name)));
            // Strides of zero repeat values without taking space. Beyond some measure that is no model. Layers may
            // share all they have.
            if (pieces.insert(piece_of(info, view)).second && (__builtin_add_overflow(distinct, bytes, &distinct) ||
                                                               distinct > std::max(kAlwaysFits, 16 * file_bytes_)))
                refuse(fmt::format("the tensor '{}' repeats its values until they are larger than the file by far",
                                   shown(name)));
            info.begin = end;
            if (__builtin_add_overflow(end, bytes, &end)) refuse("the length of its tensors overflows");
            info.end = end;
            tensors.push_back(std::move(info));
            views.push_back(std::move(view));
        });
        if (others > 0)
            ignored.push_back(fmt::format("{} entr{} of the state dict that {} no tensor: {}", others,
                                          others == 1 ? "y" : "ies", others == 1 ? "is" : "are", other));
        if (tensors.empty() && unreadable.empty()) refuse("the state dict has no tensors");
    }

    /// Whole numbers of a tuple, list or torch.Size.
    std::vector<int64_t> numbers(Id id, const std::string& name) const {
        if (pickle_.kind(id) == Kind::kObject) id = pickle_.argument(id, 0);
        if (pickle_.kind(id) != Kind::kTuple && pickle_.kind(id) != Kind::kList)
            refuse(fmt::format("the shape or strides of '{}' are no list", shown(name)));
        std::vector<int64_t> out;
        if (pickle_[id].items.size() > kMaxRank)
            refuse(fmt::format("'{}' has more than {} dimensions", shown(name), kMaxRank));
        for (const Id item : pickle_[id].items) {
            if (pickle_.kind(item) != Kind::kInteger || pickle_[item].integer < 0)
                refuse(fmt::format("the shape or strides of '{}' have something that is no whole number, or negative",
                                   shown(name)));
            out.push_back(pickle_[item].integer);
        }
        return out;
    }

    static std::optional<DType> named_dtype(std::string_view name) {
        constexpr std::pair<std::string_view, DType> kNames[] = {
            {"float32", DType::kF32}, {"float64", DType::kF64}, {"float16", DType::kF16}, {"bfloat16", DType::kBF16},
            {"int64", DType::kI64},   {"int32", DType::kI32},   {"int16", DType::kI16},   {"int8", DType::kI8},
            {"uint8", DType::kU8},    {"uint16", DType::kU16},  {"uint32", DType::kU32},  {"uint64", DType::kU64},
            {"bool", DType::kBool}};
        for (const auto& [known, dtype] : kNames)
            if (known == name) return dtype;
        return {};
    }

    /// Fills in what is known; returns why it can't be read, or nothing. Throws where it is broken.
    std::string describe_tensor(Id id, TensorInfo& info, View& view) const {
        std::string_view how = rebuilt_by(id);
        for (int i = 0; i < 8 && how != "_rebuild_tensor" && how != "_rebuild_tensor_v2" && how != "_rebuild_tensor_v3";
             ++i) {
            if (how == "_rebuild_parameter" || how == "_rebuild_parameter_with_state") {
                id = pickle_.argument(id, 0);
            } else if (how == "_rebuild_from_type_v2") {
                // (function, class, arguments, state): the arguments are those of the function.
                const Id function = pickle_.argument(id, 0), arguments = pickle_.argument(id, 2);
                if (pickle_.kind(function) != Kind::kGlobal || pickle_.kind(arguments) != Kind::kTuple)
                    return "it is of a class that isn't torch's own";
                const std::string_view name = pickle_.text(pickle_[function].arguments);
                if (name != "_rebuild_tensor" && name != "_rebuild_tensor_v2" && name != "_rebuild_tensor_v3")
                    return fmt::format("it is made by {}", shown(pickle_.name(function)));
                return strided(name, pickle_[arguments].items, info, view);
            } else if (how.empty()) {
                return fmt::format("it is made from {}",
                                   pickle_.name(id).empty() ? "something that is no tensor" : shown(pickle_.name(id)));
            } else {
                return how.find("sparse") != std::string_view::npos    ? "it is sparse"
                       : how.find("qtensor") != std::string_view::npos ? "it is quantised"
                                                                       : fmt::format("it is made by {}", shown(how));
            }
            how = rebuilt_by(id);
        }
        const Id arguments = pickle_[id].arguments;
        if (pickle_.kind(arguments) != Kind::kTuple)
            refuse(fmt::format("'{}' is rebuilt from nothing", shown(info.name)));
        return strided(how, pickle_[arguments].items, info, view);
    }

    std::string strided(std::string_view how, const std::vector<Id>& arguments, TensorInfo& info, View& view) const {
        const std::string& name = info.name;
        if (arguments.size() < 4)
            refuse(fmt::format("'{}' is rebuilt from {} values, expected at least 4", shown(name), arguments.size()));
        // Bytes of a pickle inside the pickle, made by torch.storage._load_from_bytes, stay closed.
        if (pickle_.kind(arguments[0]) != Kind::kReference)
            return fmt::format("its storage is made by {}", pickle_.name(arguments[0]).empty()
                                                                ? "something unknown"
                                                                : shown(pickle_.name(arguments[0])));
        const StorageReference storage = storage_reference(pickle_, arguments[0]);
        std::optional<DType> dtype = storage.dtype;
        std::string type(storage.type);
        if (how == "_rebuild_tensor_v3") {
            const Id global = arguments.size() > 6 ? arguments[6] : Pickle::kNothing;
            if (pickle_.kind(global) != Kind::kGlobal) refuse(fmt::format("'{}' says no type", shown(name)));
            type = shown(pickle_.name(global));
            dtype = named_dtype(pickle_.text(pickle_[global].arguments));
        }
        if (!dtype) return fmt::format("safetensors has nothing for {}", type);
        // What its values mean that the storage doesn't say: a negated view, a conjugated one.
        const size_t facts = how == "_rebuild_tensor_v3" ? 7 : 6;
        if (arguments.size() > facts && how != "_rebuild_tensor")
            for (const auto& [fact, word] : {std::pair("neg", "negated"), std::pair("conj", "conjugated")})
                if (const Id value = pickle_.find(arguments[facts], fact);
                    pickle_.kind(value) == Kind::kBool && pickle_[value].integer != 0)
                    return fmt::format("it is stored {}", word);
        info.dtype = *dtype;
        info.shape = numbers(arguments[2], name);
        const std::vector<int64_t> strides = numbers(arguments[3], name);
        if (strides.size() != info.shape.size())
            refuse(
                fmt::format("'{}' has {} dimensions and {} strides", shown(name), info.shape.size(), strides.size()));
        if (pickle_.kind(arguments[1]) != Kind::kInteger || pickle_[arguments[1]].integer < 0)
            refuse(fmt::format("'{}' begins at no whole number, or a negative one", shown(name)));

        // In elements of this tensor's type, which is the storage's, or counts its bytes.
        const uint64_t size = size_of(*dtype);
        uint64_t bytes = 0, first = 0;
        if (__builtin_mul_overflow(storage.elements, storage.element_size, &bytes))
            refuse(fmt::format("the storage of '{}' overflows", shown(name)));
        const uint64_t room = storage.count * storage.element_size / size, begin = storage.first * storage.element_size;
        const auto offset = static_cast<uint64_t>(pickle_[arguments[1]].integer);
        uint64_t last = 0, expected = 1;
        bool empty = false;
        view.dense = true;
        for (size_t d = info.shape.size(); d-- > 0;) {
            const auto dimension = static_cast<uint64_t>(info.shape[d]), stride = static_cast<uint64_t>(strides[d]);
            empty = empty || dimension == 0;
            uint64_t reach = 0;
            if (dimension > 0 &&
                (__builtin_mul_overflow(dimension - 1, stride, &reach) || __builtin_add_overflow(last, reach, &last)))
                refuse(fmt::format("the strides of '{}' overflow", shown(name)));
            view.dense = view.dense && (dimension == 1 || stride == expected);
            if (__builtin_mul_overflow(expected, dimension, &expected))
                refuse(fmt::format("the shape of '{}' overflows", shown(name)));
        }
        if (offset > room || (!empty && last >= room - offset))
            refuse(fmt::format("'{}' reaches to element {} of its storage, which has {}", shown(name),
                               empty ? offset : offset + last, room));
        if (begin % size != 0) refuse(fmt::format("'{}' begins within an element", shown(name)));
        first = begin / size + offset;
        view.storage = container_.storage(storage.key, bytes);
        view.first = first;
        view.extent = empty ? 0 : last + 1;
        view.dense = view.dense || empty;
        view.strides.assign(strides.begin(), strides.end());
        return {};
    }

    // ---- what stands beside it

    void find_config(Id level, std::string_view taken) {
        if (!is_dict(level)) return;
        const auto beside = [&](const char* name) {
            count(pickle_[level].items.size());
            return name == taken ? Pickle::kNothing : pickle_.find(level, name);
        };
        std::set<std::string, std::less<>> used = {std::string(taken)};
        for (const char* name : kConfigs) {
            if (!config.empty()) break;
            const Id value = beside(name);
            if (value == Pickle::kNothing || is_module(value)) continue;
            Json json;
            uint64_t text = 0;
            if (to_json(value, 0, text, json) && json.is_object() && !json.empty()) {
                config = json.dump(-1, ' ', false, Json::error_handler_t::replace);
                used.insert(name);
            }
        }
        if (labels.empty())
            if (const Id value = beside("label_dict"); is_dict(value)) {
                labels = label_list(value);
                if (!labels.empty()) used.insert("label_dict");
            }
        if (taken.empty()) return;
        const std::vector<Id>& items = pickle_[level].items;
        for (size_t i = 0; i + 1 < items.size() && ignored.size() < 100; i += 2)
            if (const std::string name = key_text(items[i]); !used.contains(name))
                ignored.push_back(fmt::format("{}: {}", shown(name), describe(items[i + 1])));
    }

    std::string label_list(Id dict) const {
        std::map<int64_t, std::string> names;
        uint64_t text = 0;
        const std::vector<Id>& items = pickle_[dict].items;
        for (size_t i = 0; i + 1 < items.size(); i += 2) {
            if (pickle_.kind(items[i]) != Kind::kInteger || pickle_.kind(items[i + 1]) != Kind::kText) return {};
            text += pickle_.text(items[i + 1]).size();
            if (text > kMaxText) refuse("its labels are too long");
            names[pickle_[items[i]].integer] = pickle_.text(items[i + 1]);
        }
        if (names.empty()) return {};
        const bool all = names.begin()->first == 0 && names.rbegin()->first == static_cast<int64_t>(names.size()) - 1;
        Json out = all ? Json::array() : Json::object();
        for (const auto& [number, name] : names) {
            if (all)
                out.push_back(name);
            else
                out[std::to_string(number)] = name;
        }
        return out.dump(-1, ' ', false, Json::error_handler_t::replace);
    }

    /// Plain values; what isn't plain is left out of dictionaries and null in lists. False where nothing is plain.
    bool to_json(Id id, int depth, uint64_t& text, Json& out) {
        if (++values_ > kMaxValues)
            refuse(fmt::format("its configuration has more than {} values: the same ones stand in too many places",
                               kMaxValues));
        if (depth > kMaxDepth || id == Pickle::kNothing) return false;
        const Pickle::Node& node = pickle_[id];
        const auto add_text = [&](std::string_view value) {
            text += value.size();
            if (text > kMaxText) refuse("its configuration is too long");
            return std::string(value);
        };
        switch (node.kind) {
            case Kind::kNone: out = nullptr; return true;
            case Kind::kBool: out = node.integer != 0; return true;
            case Kind::kInteger: out = node.integer; return true;
            case Kind::kReal: out = node.real; return std::isfinite(node.real);
            case Kind::kText: out = add_text(pickle_.text(id)); return true;
            case Kind::kList:
            case Kind::kTuple:
            case Kind::kSet: {
                out = Json::array();
                for (const Id item : node.items) {
                    Json value;
                    out.push_back(to_json(item, depth + 1, text, value) ? std::move(value) : Json());
                }
                return true;
            }
            case Kind::kDict: return pairs_to_json(id, depth, text, out);
            case Kind::kObject: break;
            default: return false;
        }
        if (is_tensor(id)) return false;
        if (node.pairs) return pairs_to_json(id, depth, text, out);
        if (const Id state = pickle_.state_dict(id); state != Pickle::kNothing) {
            // Objects of omegaconf keep what they hold under names of their own.
            count(2 * pickle_[state].items.size());
            for (const char* inner : {"_content", "_val"})
                if (const Id value = pickle_.find(state, inner); value != Pickle::kNothing)
                    return to_json(value, depth + 1, text, out);
            return pairs_to_json(state, depth, text, out);
        }
        // set([…]), an enumeration's value, and the like: one argument and no state. Whatever is made by a function of
        // a library, a number of numpy among them, is no plain value.
        const std::string name = pickle_.name(id);
        if (name.starts_with("numpy") || name.starts_with("torch") || pickle_.kind(node.arguments) != Kind::kTuple ||
            pickle_[node.arguments].items.size() != 1)
            return false;
        return to_json(pickle_[node.arguments].items[0], depth + 1, text, out);
    }
    bool pairs_to_json(Id id, int depth, uint64_t& text, Json& out) {
        out = Json::object();
        const std::vector<Id>& items = pickle_[id].items;
        for (size_t i = 0; i + 1 < items.size(); i += 2) {
            if (pickle_.kind(items[i]) != Kind::kText && pickle_.kind(items[i]) != Kind::kInteger) continue;
            std::string name = key_text(items[i]);
            text += name.size();
            if (text > kMaxText) refuse("its configuration is too long");
            Json value;
            if (to_json(items[i + 1], depth + 1, text, value)) out[std::move(name)] = std::move(value);
        }
        return true;
    }

    const TorchContainer& container_;
    const Pickle& pickle_;
    uint64_t file_bytes_;
    uint64_t steps_ = 0, values_ = 0;
};

/// The shards of a `*.index.json`: {"weight_map": {tensor: file}}, files beside it.
std::vector<fs::path> shards_of(const fs::path& path) {
    std::vector<Diagnostic> problems;
    const JsonText text = JsonText::parse(read_file(path), path.string(), problems);
    if (!problems.empty()) refuse("is no checkpoint: " + problems.front().message.text);
    if (!text.value().is_object() || !text.value().contains("weight_map") || !text.value()["weight_map"].is_object())
        refuse("is JSON, but no index of a checkpoint in shards: it has no weight_map");
    std::set<std::string> names;
    for (const auto& [tensor, file] : text.value()["weight_map"].items()) {
        if (!file.is_string() || file.get<std::string>().empty() ||
            file.get<std::string>().find('/') != std::string::npos)
            refuse(fmt::format("the shard of '{}' is {}, expected the name of a file beside this one", shown(tensor),
                               describe(file)));
        names.insert(file.get<std::string>());
    }
    if (names.empty()) refuse("its weight_map is empty");
    std::vector<fs::path> out;
    for (const std::string& name : names) out.push_back(path.parent_path() / name);
    return out;
}

}  // namespace

struct Checkpoint::State {
    ~State() {
        if (fd >= 0) ::close(fd);
    }

    fs::path path;
    int fd = -1;
    std::string container, key, config, labels;
    std::vector<TensorInfo> tensors;
    std::vector<Unreadable> unreadable;
    std::vector<std::string> ignored;
    std::unordered_map<std::string, size_t> index;  ///< name → place in `tensors`
    std::vector<std::string> tied;                  ///< of each tensor: the one before it; empty
    // of torch.save
    std::unique_ptr<TorchContainer> torch;
    std::vector<View> views;
    // of safetensors
    std::vector<SafetensorsFile> shards;
    std::vector<std::pair<size_t, TensorInfo>> sources;  ///< of each tensor: its shard, its place in it
};

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& file, const std::string& key) {
    auto state = std::make_unique<State>();
    state->path = file;
    const auto open_content = [&] {
        state->fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (state->fd < 0) throw_errno("read", file);
        struct stat status {};
        if (::fstat(state->fd, &status) != 0) throw_errno("read", file);
        if (!S_ISREG(status.st_mode))
            refuse(S_ISDIR(status.st_mode) ? "is a folder, expected a file" : "is no regular file");
        const auto size = static_cast<uint64_t>(status.st_size);
        std::array<char, 9> start{};
        const size_t known = std::min<uint64_t>(size, start.size());
        if (::pread(state->fd, start.data(), known, 0) != static_cast<ssize_t>(known)) throw_errno("read", file);
        // A length, whose upper bytes are zero, and '{'. Its first byte may be any, that of a pickle or of JSON too.
        const bool safetensors = start[8] == '{' && std::all_of(&start[4], &start[8], [](char c) { return c == 0; });
        if (!safetensors) state->torch = TorchContainer::open(state->fd, size, file);
        if (state->torch) {
            TorchValues values(*state->torch, size);
            values.find(key);
            state->container = state->torch->name();
            state->key = std::move(values.key);
            state->tensors = std::move(values.tensors);
            state->views = std::move(values.views);
            state->unreadable = std::move(values.unreadable);
            state->ignored = std::move(values.ignored);
            state->config = std::move(values.config);
            state->labels = std::move(values.labels);
            return;
        }
        if (!key.empty())
            refuse(fmt::format("is no PyTorch file, so nothing stands under the path '{}' in it", shown(key)));
        if (!safetensors && start[0] == '{') {
            for (const fs::path& shard : shards_of(file)) state->shards.push_back(SafetensorsFile::open(shard));
            state->container = fmt::format("safetensors in {} shards", state->shards.size());
        } else if (start[8] == '{') {
            state->shards.push_back(SafetensorsFile::open(file));
            state->container = "safetensors";
        } else {
            refuse("is no checkpoint: expected safetensors, an index of safetensors, or what torch.save writes");
        }
        uint64_t end = 0;
        for (size_t i = 0; i < state->shards.size(); ++i)
            for (const TensorInfo& tensor : state->shards[i].tensors()) {
                TensorInfo info = tensor;
                info.begin = end;
                info.end = end += tensor.bytes();
                state->tensors.push_back(std::move(info));
                state->sources.emplace_back(i, tensor);
            }
        const SafetensorsFile& head = state->shards.front();
        state->config = head.metadata().contains("cfg") ? head.metadata("cfg") : head.metadata("biophony.config");
        state->labels = head.metadata("labels");
    };
    try {
        open_content();
        std::map<Piece, size_t> pieces;
        state->tied.resize(state->tensors.size());
        for (size_t i = 0; i < state->tensors.size(); ++i) {
            const TensorInfo& tensor = state->tensors[i];
            if (!state->index.emplace(tensor.name, i).second)
                refuse(fmt::format("the tensor '{}' is there twice", shown(tensor.name)));
            if (state->views.empty() || tensor.bytes() == 0) continue;
            const auto [found, added] = pieces.emplace(piece_of(tensor, state->views[i]), i);
            if (!added) state->tied[i] = state->tensors[found->second].name;
        }
    } catch (const Error& error) {
        throw error.within({.file = file.string()});
    }
    return Checkpoint(std::move(state));
}

const fs::path& Checkpoint::path() const {
    return state_->path;
}
const std::string& Checkpoint::container() const {
    return state_->container;
}
const std::string& Checkpoint::key() const {
    return state_->key;
}
const std::vector<TensorInfo>& Checkpoint::tensors() const {
    return state_->tensors;
}
const std::vector<Checkpoint::Unreadable>& Checkpoint::unreadable() const {
    return state_->unreadable;
}
const std::vector<std::string>& Checkpoint::ignored() const {
    return state_->ignored;
}
const std::string& Checkpoint::config() const {
    return state_->config;
}
const std::string& Checkpoint::labels() const {
    return state_->labels;
}
std::string_view Checkpoint::tied_to(const TensorInfo& tensor) const {
    return state_->tied.at(state_->index.at(tensor.name));
}
const std::map<std::string, std::string>& Checkpoint::metadata() const {
    static const std::map<std::string, std::string> none;
    return state_->shards.empty() ? none : state_->shards.front().metadata();
}
const SafetensorsFile* Checkpoint::safetensors() const {
    return state_->shards.size() == 1 && state_->container == "safetensors" ? &state_->shards.front() : nullptr;
}
std::vector<fs::path> Checkpoint::files() const {
    std::vector<fs::path> out;
    for (const SafetensorsFile& shard : state_->shards) out.push_back(shard.path());
    if (out.empty()) out.push_back(state_->path);
    return out;
}

void Checkpoint::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
    const size_t i = state_->index.at(tensor.name);
    if (!state_->shards.empty()) {
        const auto& [shard, info] = state_->sources[i];
        return state_->shards[shard].read(info, offset, out);
    }
    if (offset > tensor.bytes() || out.size() > tensor.bytes() - offset)
        throw Error(Code::kInternal,
                    fmt::format("bytes {} to {} of tensor '{}' were asked for, it has {}", offset, offset + out.size(),
                                shown(tensor.name), tensor.bytes()),
                    {.file = state_->path.string()});
    if (out.empty()) return;
    try {
        const View& view = state_->views[i];
        const uint64_t size = size_of(tensor.dtype);
        if (view.dense) return state_->torch->read(view.storage, view.first * size + offset, out);

        // Strided: all that lies between the first and the last element, where that is little more than what is wanted;
        // else element by element.
        const bool together = view.extent <= 4 * tensor.elements() + 4096;
        std::vector<std::byte> all(together ? view.extent * size : 0);
        if (together) state_->torch->read(view.storage, view.first * size, all);
        std::array<std::byte, 16> one;
        std::vector<uint64_t> place(tensor.shape.size());  // of the next element
        uint64_t at = 0, rest = offset / size;
        for (size_t d = place.size(); d-- > 0;) {
            place[d] = rest % static_cast<uint64_t>(tensor.shape[d]);
            rest /= static_cast<uint64_t>(tensor.shape[d]);
            at += place[d] * view.strides[d];
        }
        for (uint64_t skip = offset % size; !out.empty(); skip = 0) {
            const std::byte* element = all.data() + at * size;
            if (!together) {
                state_->torch->read(view.storage, (view.first + at) * size, std::span(one).first(size));
                element = one.data();
            }
            const size_t bytes = std::min<uint64_t>(size - skip, out.size());
            std::copy_n(element + skip, bytes, out.begin());
            out = out.subspan(bytes);
            for (size_t d = place.size(); d-- > 0;) {
                at += view.strides[d];
                if (++place[d] < static_cast<uint64_t>(tensor.shape[d])) break;
                at -= place[d] * view.strides[d];
                place[d] = 0;
            }
        }
    } catch (const Error& error) {
        throw error.within({.file = state_->path.string()});
    }
}

void Checkpoint::read_floats(const TensorInfo& tensor, uint64_t first, std::span<float> out) const {
    if (first > tensor.elements() || out.size() > tensor.elements() - first)
        throw Error(Code::kInternal,
                    fmt::format("elements {} to {} of tensor '{}' were asked for, it has {}", first, first + out.size(),
                                shown(tensor.name), tensor.elements()),
                    {.file = state_->path.string()});
    const size_t i = state_->index.at(tensor.name);
    if (!state_->views.empty() && !state_->views[i].dense && tensor.dtype != DType::kF32 && is_floating(tensor.dtype)) {
        // Gathering is done once, not once for each piece that is widened.
        const uint64_t size = size_of(tensor.dtype);
        std::vector<std::byte> raw(out.size() * size);
        read(tensor, first * size, raw);
        return read_widened(tensor, first, out, state_->path, [&](uint64_t offset, std::span<std::byte> piece) {
            std::copy_n(raw.begin() + static_cast<std::ptrdiff_t>(offset - first * size), piece.size(), piece.begin());
        });
    }
    read_widened(tensor, first, out, state_->path,
                 [&](uint64_t offset, std::span<std::byte> raw) { read(tensor, offset, raw); });
}

fs::path sidecar_name(const fs::path& checkpoint) {
    fs::path out = checkpoint;
    return out.replace_extension("model_config.json");
}

fs::path sidecar_config(const fs::path& checkpoint) {
    const fs::path out = sidecar_name(checkpoint);
    return fs::is_regular_file(out) ? out : fs::path();
}

}  // namespace biophony
