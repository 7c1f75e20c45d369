#include "pipeline/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/nearest.hpp"
#include "base/schema.hpp"

namespace biophony {

namespace fs = std::filesystem;

bool is_node_kind(std::string_view name) {
    return name == "dataset" || name == "encoder";
}

namespace {

/// More connections than this are no pipeline that anybody could run.
constexpr size_t kMostEdges = 2'000'000;
/// All values of all nodes' parameters, with axes and params put in.
constexpr size_t kMostValuesInAll = 4'000'000;

size_t size_of(const Json& value) {
    size_t size = 1;
    if (value.is_structured())
        for (const auto& inner : value) size += size_of(inner);
    return size;
}

}  // namespace

Json parameters_of(const NodeType& type, const ItemInfo* item) {
    Json schema = type.parameters;
    if (!schema.is_object()) schema = {{"type", "object"}};
    if (!schema.contains("properties")) schema["properties"] = Json::object();
    if (item == nullptr || !item->parameters.is_object()) return schema;
    for (const auto& [key, value] : item->parameters.items()) {
        if (key == "properties")
            for (const auto& [name, property] : value.items()) schema["properties"].emplace(name, property);
        else if (key == "required" && schema.contains(key))
            schema[key].insert(schema[key].end(), value.begin(), value.end());
        else
            schema.emplace(key, value);
    }
    return schema;
}

namespace {

/// Calls each(pointer, text) for every string.
void collect_strings(const Json& value, const std::string& pointer,
                     const std::function<void(const std::string&, const std::string&)>& each) {
    if (value.is_string()) each(pointer, value.get_ref<const std::string&>());
    if (value.is_object())
        for (const auto& [key, inner] : value.items()) collect_strings(inner, pointer_join(pointer, key), each);
    if (value.is_array())
        for (size_t i = 0; i < value.size(); ++i) collect_strings(value[i], fmt::format("{}/{}", pointer, i), each);
}

class Checker {
public:
    Checker(Definition& definition, const Expansion& expansion, const NodeTypes& types, const Registry& registry)
        : definition_(definition),
          expansion_(expansion),
          types_(types),
          registry_(registry),
          nodes_(expansion.instances.size()) {}

    std::vector<CheckedNode> run(std::vector<GraphOutput>& outputs) {
        check_params();
        edges_known_ = definition_.broken_users().empty();
        for (const NodeKey& key : expansion_.keys) {
            edges_known_ &= !key.broken;
            if (!key.broken) check_fields(key);
        }
        for (size_t n = 0; n < nodes_.size() && go_on(); ++n) {
            if (!definition_.find(key_of(n).address)->is_object()) continue;
            find_type(n);
            find_seed(n);
            if (nodes_[n].type != nullptr) find_params(n);
        }
        for (size_t n = 0; n < nodes_.size() && go_on(); ++n) find_inputs(n);
        for (size_t n = 0; n < nodes_.size() && go_on(); ++n) check_by_type(n);
        if (go_on()) find_outputs(outputs);
        if (go_on()) find_circles();
        if (edges_known_ && go_on()) find_unused(outputs);
        return std::move(nodes_);
    }

private:
    const NodeKey& key_of(size_t n) const { return expansion_.keys[expansion_.instances[n].key]; }

    bool go_on() const { return !too_large_ && !definition_.too_many_problems(); }

    /// Params that nobody uses must be sound, too; and circles are told once, here.
    void check_params() {
        Traced ignored;
        for (const std::string& name : keys_of(definition_.json().value("params", Json::object()))) {
            const std::string address = pointer_join("/params", name);
            substitute(definition_, address, {}, nullptr, address, ignored);
            if (ignored.too_large) return;  // those that hold it are too large as well, and each takes its time
        }
    }

    void check_fields(const NodeKey& key) {
        static const std::vector<std::string> kFields = {"use", "in", "with", "seed", "notes"};
        const Json& node = *definition_.find(key.address);
        if (!node.is_object()) {
            edges_known_ = false;
            return definition_.problem(key.address, found_expected(describe(node), "a node: an object with \"use\""));
        }
        for (const std::string& field : keys_of(node)) {
            if (std::find(kFields.begin(), kFields.end(), field) != kFields.end()) continue;
            const std::string address = pointer_join(key.address, field);
            if (!field.starts_with("with[")) {
                definition_.problem(address, with_nearest(fmt::format("unknown key '{}'", field), field, kFields));
                continue;
            }
            check_overlay_field(definition_, expansion_, key, field);
        }
    }

    void find_type(size_t n) {
        CheckedNode& node = nodes_[n];
        const NodeKey& key = key_of(n);
        const std::string address = pointer_join(key.address, "use");
        auto wrong = [&](const Message& message, Code code = Code::kInvalid, const std::string& at = {}) {
            definition_.problem(at.empty() ? address : at, message + used_note(at, address), code);
        };
        if (definition_.find(address) == nullptr)
            return wrong(missing("the key \"use\"", "a node type or a plugin as \"kind:id\""));
        Traced use;
        if (!substitute(definition_, address, {}, &expansion_.instances[n], address, use)) return;
        const std::string at = use.address("");
        if (!use.value.is_string())
            return wrong(found_expected(describe(use.value), "a node type or a plugin as \"kind:id\""), Code::kInvalid,
                         at);
        const std::string name = use.value;
        const size_t colon = name.find(':');
        if (colon == std::string::npos) {
            node.type = is_node_kind(name) ? nullptr : types_.find(name);
            if (node.type != nullptr) return;
            if (is_node_kind(name))
                return wrong(with_nearest(found_expected("'" + name + "'",
                                                         fmt::format("a plugin of this kind, \"{}:id\"", name)),
                                          name + ":", items_of(name)),
                             Code::kInvalid, at);
            return wrong(with_nearest(fmt::format("there is no node type '{}'", name), name, all_uses()),
                         Code::kInvalid, at);
        }
        const std::string kind = name.substr(0, colon);
        if (kind == "merger")
            return wrong(
                fmt::format("a merger is no node by itself; use \"compose\" with \"stages\": [{{\"use\": {}}}]",
                            Json(name).dump()),
                Code::kInvalid, at);
        const NodeType* type = is_node_kind(kind) ? types_.find(kind) : nullptr;
        if (type == nullptr)
            return wrong(with_nearest(found_expected("'" + name + "'", "a node type, \"dataset:id\" or \"encoder:id\""),
                                      name, all_uses()),
                         Code::kInvalid, at);
        try {
            node.item = &registry_.require(name);
            node.type = type;
        } catch (const Error& error) {
            wrong(error.message(), error.code(), at);
        }
    }

    std::vector<std::string> items_of(std::string_view kind) const {
        std::vector<std::string> out;
        for (const ItemInfo* item : registry_.items(kind)) out.push_back(item->name());
        return out;
    }

    std::vector<std::string> all_uses() const {
        std::vector<std::string> out;
        for (const NodeType& type : types_.all())
            if (!is_node_kind(type.name)) out.push_back(type.name);
        for (const char* kind : {"dataset", "encoder"})
            for (const std::string& name : items_of(kind)) out.push_back(name);
        return out;
    }

    void find_seed(size_t n) {
        const std::string own = pointer_join(key_of(n).address, "seed");
        const bool has_own = definition_.find(own) != nullptr;
        const std::string address = has_own ? own : "/params/seed";
        Traced seed;
        if (definition_.find(address) == nullptr ||
            !substitute(definition_, address, {}, has_own ? &expansion_.instances[n] : nullptr, address, seed))
            return;
        if (seed.value.is_number_integer() && seed.value >= 0 && seed.value <= std::numeric_limits<int64_t>::max())
            nodes_[n].seed = seed.value;
        else
            definition_.problem(seed.address(""),
                                found_expected(describe(seed.value), fmt::format("a seed: a whole number from 0 to {}",
                                                                                 std::numeric_limits<int64_t>::max())) +
                                    (has_own ? used_note(seed.address(""), own) : ""));
    }

    /// Tells problems with pointers in the node's parameters, at the places where the values were written.
    void tell(size_t n, const std::vector<Diagnostic>& problems) {
        const std::string with = pointer_join(key_of(n).address, "with");
        for (const Diagnostic& problem : problems) {
            const Traced& params = nodes_[n].params;
            const std::string& pointer = problem.where.pointer;
            std::string address = params.address(pointer);
            // A wrong key stands where it was written, wherever its value comes from.
            if (problem.message.text.starts_with("unknown parameter")) {
                const size_t slash = pointer.rfind('/');
                const std::string key = params.address(pointer.substr(0, slash)) + pointer.substr(slash);
                if (definition_.find(key) != nullptr) address = key;
            }
            definition_.problem(address, problem.message + used_note(address, with + problem.where.pointer),
                                problem.code);
        }
    }

    void find_params(size_t n) {
        CheckedNode& node = nodes_[n];
        const Instance& instance = expansion_.instances[n];
        const NodeKey& key = key_of(n);
        const std::string with = pointer_join(key.address, "with");
        if (!substitute(definition_, with, Json::object(), &instance, with, node.params)) return;
        std::vector<std::pair<std::string, Traced>> laid;  // by field
        for (const std::string& field : expansion_.overlays_of(definition_, instance)) {
            if (!node.params.value.is_object()) break;  // told below
            const std::string address = pointer_join(key.address, field);
            Traced over;
            if (!substitute(definition_, address, {}, &instance, address, over)) return;
            if (!over.value.is_object())
                return definition_.problem(over.address(""), found_expected(describe(over.value), "an object") +
                                                                 used_note(over.address(""), address));
            lay_over(node.params, over);
            laid.emplace_back(field, std::move(over));
        }
        if (!check_overlays(definition_, key, instance, laid)) return;
        values_ += size_of(node.params.value);
        if (values_ > kMostValuesInAll) {
            too_large_ = true;
            return definition_.problem(with,
                                       fmt::format("with params and axes put in, all nodes together have more than {} "
                                                   "values in their parameters, expected fewer",
                                                   kMostValuesInAll));
        }
        std::vector<Diagnostic> problems;
        const auto [known, first] = schemas_.try_emplace({node.type, node.item});
        if (first) known->second = parameters_of(*node.type, node.item);
        const Json& schema = known->second;
        apply_schema(schema, node.params.value, "", problems);
        if (problems.empty()) {
            resolve_paths(schema, node.params.value, "", [&](std::string_view pointer) {
                node.paths.emplace_back(pointer);
                return definition_.folder(node.params.address(pointer));
            });
            for (const auto& [pointer, path] : paths_that_must_exist(schema, node.params.value, "")) {
                std::error_code failed;
                if (!fs::exists(path, failed))
                    problems.push_back({Code::kInvalid, {.pointer = pointer}, no_such_file(path)});
            }
        }
        node.params_are_good = problems.empty();
        tell(n, problems);
    }

    void find_inputs(size_t n) {
        CheckedNode& node = nodes_[n];
        const NodeKey& key = key_of(n);
        const std::string address = pointer_join(key.address, "in");
        const Json none = Json::object();
        const Json* in = definition_.find(address);
        if (in == nullptr) in = &none;
        if (!in->is_object()) {
            edges_known_ = false;
            return definition_.problem(address, found_expected(describe(*in), "an object: port → node"));
        }
        if (node.type == nullptr) edges_known_ = false;
        std::vector<std::string> ports;
        if (node.type != nullptr)
            for (const PortSpec& port : node.type->inputs)
                if (!port.implied) ports.push_back(port.name);
        std::set<std::string> misspelt;
        for (const auto& [name, sources] : in->items()) {
            const PortSpec* port = nullptr;
            if (node.type != nullptr)
                for (const PortSpec& candidate : node.type->inputs)
                    if (candidate.name == name && !candidate.implied) port = &candidate;
            const std::string at = pointer_join(address, name);
            if (node.type != nullptr && port == nullptr) {
                edges_known_ = false;
                misspelt.insert(nearest(name, ports));
                // Of a pipeline's node, where the name of the port stands, not what is given to it.
                const Inlined* inlined = definition_.inlined(key.key);
                const std::string own =
                    inlined == nullptr
                        ? at
                        : pointer_join(
                              pointer_join(pointer_join("/pipelines", inlined->pipeline) + "/nodes", inlined->name) +
                                  "/in",
                              name);
                definition_.problem(own, with_nearest(fmt::format("{} has no port '{}'", node.type->name, name), name,
                                                      ports, "; it takes no inputs"));
                continue;
            }
            find_sources(n, name, port, sources, at);
        }
        if (node.type == nullptr) return;
        for (const PortSpec& port : node.type->inputs)
            if (port.required && !port.implied && !in->contains(port.name) && !misspelt.contains(port.name))
                definition_.problem(address, missing(fmt::format("the port '{}' of {}", port.name, node.type->name),
                                                     any_of(port.types) + (port.many ? ", one or more" : "")));
    }

    void find_sources(size_t n, const std::string& name, const PortSpec* port, const Json& sources,
                      const std::string& address) {
        CheckedNode& node = nodes_[n];
        const bool many = port == nullptr || port->many;
        auto wrong = [&](const std::string& at, const Message& message) {
            edges_known_ = false;
            definition_.problem(at, message);
        };
        const bool named = sources.is_object() && (port == nullptr || port->named);
        if (!sources.is_string() && !sources.is_array() && !named)
            return wrong(
                address,
                found_expected(
                    describe(sources),
                    fmt::format("the name of a node{}{}", many ? ", or a list of names" : "",
                                port != nullptr && port->named ? R"(, or an object of them, {"name": "node"})" : "")));
        if (sources.is_array() && !many)
            return wrong(address, found_expected("a list", fmt::format("one node: the port '{}' of {} takes one", name,
                                                                       node.type->name)));
        if (sources.is_structured() && sources.empty() && port != nullptr && port->required)
            return wrong(address, fmt::format("the list is empty, expected at least one {} for the port '{}' of {}",
                                              any_of(port->types), name, node.type->name));
        std::vector<size_t>& inputs = node.inputs[name];
        std::unordered_set<size_t> seen;
        for_each_reference(sources, address, [&](const std::string& text, const std::string& at) {
            const Resolved& found = resolve(&expansion_.instances[n], text);
            if (!found.problem.empty()) return wrong(at, found.problem);
            if (!found.good) {
                edges_known_ = false;
                return;
            }
            if (named && found.nodes.size() != 1)
                return wrong(at, fmt::format("'{}' gives {} nodes, expected one for a name", text, found.nodes.size()));
            if (found.starred && !many)
                return wrong(
                    at,
                    fmt::format("the port '{}' of {} takes one node, '{}' gives {}; '*' is for ports that take lists",
                                name, node.type->name, text, found.nodes.size()));
            edges_ += found.nodes.size();
            if (edges_ > kMostEdges) {
                too_large_ = true;
                return wrong(at, fmt::format("with this one, the pipeline has more than {} connections, expected fewer",
                                             kMostEdges));
            }
            for (const size_t f : found.nodes) {
                const NodeType* type = nodes_[f].type;
                if (f == n) {
                    wrong(at, fmt::format("'{}' uses its own result", expansion_.instances[n].id));
                    continue;
                }
                if (port != nullptr && type != nullptr &&
                    std::find(port->types.begin(), port->types.end(), type->output) == port->types.end())
                    wrong_type(*node.type, *port, text, *type, at);
                if (!seen.insert(f).second)
                    definition_.problem(at, fmt::format("'{}' comes twice into the port '{}'; keep one",
                                                        expansion_.instances[f].id, name));
                else
                    inputs.push_back(f);
            }
        });
        if (port != nullptr && port->named) node.names[name] = named ? keys_of(sources) : names_in_list(inputs);
    }

    /// Tells that the node `text` of `type` gives what the port doesn't take.
    void wrong_type(const NodeType& user, const PortSpec& port, const std::string& text, const NodeType& type,
                    const std::string& at) {
        Message message(fmt::format("the port '{}' of {} takes {}, '{}' gives {}", port.name, user.name,
                                    any_of(port.types), text, type.output));
        message.found = type.output;
        message.expected = any_of(port.types);
        definition_.problem(at, std::move(message));
    }

    /// Calls each(text, address) for what stands in a port: one name, or a list or an object of names.
    void for_each_reference(const Json& sources, const std::string& address,
                            const std::function<void(const std::string&, const std::string&)>& each) {
        if (sources.is_string()) return each(sources, address);
        for (const auto& [key, source] : sources.items()) {
            if (!go_on()) return;
            const std::string at = pointer_join(address, key);
            if (source.is_string()) {
                each(source, at);
            } else {
                edges_known_ = false;
                definition_.problem(at, found_expected(describe(source), "the name of a node"));
            }
        }
    }

    /// What the sources of a list are called: by their value where each has one axis and no two are alike, else by id.
    std::vector<std::string> names_in_list(const std::vector<size_t>& sources) const {
        std::vector<std::string> names, ids;
        for (const size_t source : sources) {
            const NodeKey& key = key_of(source);
            ids.push_back(expansion_.instances[source].id);
            names.push_back(key.axes.size() == 1 ? expansion_.instances[source].axes.at(key.axes[0]->name)->text
                                                 : ids.back());
        }
        return std::set<std::string>(names.begin(), names.end()).size() == names.size() ? names : ids;
    }

    /// What a reference stands for.
    struct Resolved {
        std::vector<size_t> nodes;
        bool starred = false;  ///< may be any number of nodes
        bool good = false;
        Message problem;   ///< what to tell where it isn't; empty where the named node has a problem itself
        bool own = false;  ///< depends on the node at hand
    };

    /// What a reference stands for: "base", "clips[taxon]", "clips[bird]", "score[*,ridge]". `instance` is the node at
    /// hand, null for outputs. Valid until the next call.
    const Resolved& resolve(const Instance* instance, const std::string& text) {
        const NodeKey* key = instance == nullptr ? nullptr : &expansion_.keys[instance->key];
        const Inlined* inside = key == nullptr ? nullptr : definition_.inlined(key->key);
        std::string name = text;  // nodes of a pipeline see more
        if (inside != nullptr) name += "\n" + inside->user;
        if (const auto found = resolved_.find(name); found != resolved_.end()) return found->second;
        Resolved out = find_nodes(instance, key, inside, text);
        if (!out.own) return resolved_.emplace(std::move(name), std::move(out)).first->second;
        last_ = std::move(out);
        return last_;
    }

    Resolved find_nodes(const Instance* instance, const NodeKey* key, const Inlined* inside, const std::string& text) {
        Resolved out;
        auto wrong = [&](Message message) {
            out.problem = std::move(message);
            return std::move(out);
        };
        const size_t open = text.find('[');
        const std::string stem = text.substr(0, open);
        const NodeKey* target = expansion_.key_of_stem(stem);
        if (target == nullptr) return find_no_node(stem);
        if (const Inlined* inlined = definition_.inlined(target->key);
            inlined != nullptr && !inlined->output && (inside == nullptr || inside->user != inlined->user)) {
            if (outputs_of(inlined->stem).empty()) return out;  // they have problems themselves
            return wrong(fmt::format("'{}' is inside of the pipeline '{}', of which others can use {}", stem,
                                     inlined->pipeline, any_of(outputs_of(inlined->stem))));
        }
        if (target->broken) return out;
        const std::vector<const Axis*>& axes = target->axes;
        if (open == std::string::npos) {
            if (axes.empty()) {
                out.nodes.push_back(target->first);
                out.good = true;
                return out;
            }
            out.own = true;
            const bool has_them = instance != nullptr && std::all_of(axes.begin(), axes.end(), [&](const Axis* axis) {
                                      return instance->axes.contains(axis->name);
                                  });
            std::string stars;
            for (size_t a = 0; a < axes.size(); ++a) stars += a == 0 ? "*" : ",*";
            const std::string near = has_them ? target->key : fmt::format("{}[{}]", stem, stars);
            Message message(fmt::format(
                "'{}' stands for {} nodes, one for each {}; did you mean '{}'{}?", stem, target->count,
                target->names_of_axes(), near,
                has_them ? "" : fmt::format(", or one of them, like '{}'", expansion_.instances[target->first].id)));
            message.found = "'" + stem + "'";
            message.nearest = near;
            return wrong(std::move(message));
        }
        if (text.back() != ']') return wrong(found_expected(fmt::format("'{}'", text), "a ']' at the end"));
        if (axes.empty()) {
            Message message(fmt::format("found '{}', and '{}' has no axes", text, stem));
            message.found = "'" + text + "'";
            return wrong(suggesting(std::move(message), stem));
        }
        const std::vector<std::string> entries =
            split(std::string_view(text).substr(open + 1, text.size() - open - 2), ',');
        if (entries.size() != axes.size())
            return wrong(found_expected(fmt::format("{} in the brackets of '{}'", entries.size(), text),
                                        fmt::format("{}, for {}", axes.size(), target->names_of_axes())));
        // In the order of the target's axes, the last changing quickest.
        std::vector<size_t> found = {0};
        size_t stride = target->grid.size();
        for (size_t a = 0; a < axes.size(); ++a) {
            const Axis& axis = *axes[a];
            stride /= axis.values.size();
            std::vector<size_t> values;
            if (entries[a] == "*") {
                out.starred = true;
                for (size_t v = 0; v < axis.values.size(); ++v) values.push_back(v);
            } else {
                std::string value = entries[a];
                std::string note;
                if (expansion_.axes.contains(entries[a])) {
                    out.own = true;
                    if (instance == nullptr)
                        return wrong(
                            fmt::format("'{}' means a node's own value of the axis '{}', and an output has none; "
                                        "use '*' for all, or a value, like '{}'",
                                        text, entries[a], axis.values.front().text));
                    const auto own = instance->axes.find(entries[a]);
                    if (own == instance->axes.end())
                        return wrong(
                            fmt::format("'{}' means this node's own value of the axis '{}', and '{}' has no such axis; "
                                        "use '*' for all, or a "
                                        "value, like '{}'",
                                        text, entries[a], key->key, axis.values.front().text));
                    value = own->second->text;
                    note = fmt::format(", this node's value of '{}',", entries[a]);
                }
                const auto at = axis.place.find(value);
                if (at == axis.place.end()) {
                    std::vector<std::string> texts;
                    for (const AxisValue& candidate : axis.values) texts.push_back(candidate.text);
                    if (note.empty()) texts.push_back(axis.name);
                    return wrong(with_nearest(
                        fmt::format("'{}'{} is no value of the axis '{}' of '{}'", value, note, axis.name, stem), value,
                        texts));
                }
                values.push_back(at->second);
            }
            std::vector<size_t> next;
            for (const size_t f : found)
                for (const size_t v : values) next.push_back(f + v * stride);
            found = std::move(next);
        }
        for (const size_t place : found)
            if (target->grid[place] < NodeKey::kExcluded) out.nodes.push_back(target->grid[place]);
        if (out.nodes.empty()) {
            const std::string by = expansion_.name_of_exclusion(definition_, target->grid[found.front()]);
            if (out.starred) return wrong(fmt::format("nothing is left of '{}': it is excluded by {}", text, by));
            std::string id = stem;
            for (size_t a = 0; a < axes.size(); ++a) {
                const auto own =
                    instance == nullptr ? decltype(instance->axes.end()){} : instance->axes.find(entries[a]);
                const bool is_own =
                    instance != nullptr && own != instance->axes.end() && expansion_.axes.contains(entries[a]);
                id += (a == 0 ? "[" : ",") + (is_own ? own->second->text : entries[a]);
            }
            id += "]";
            return wrong(fmt::format(
                "'{}' is excluded by {}{}", id, by,
                id == text || instance == nullptr ? std::string() : fmt::format(", and '{}' uses it", instance->id)));
        }
        out.good = true;
        return out;
    }

    /// What is said of a name that no node has.
    Resolved find_no_node(const std::string& stem) const {
        Resolved out;
        for (const std::string& user : definition_.broken_users())
            if (stem == user || stem.starts_with(user + ".")) return out;
        if (const std::vector<std::string> outputs = outputs_of(stem); !outputs.empty())
            out.problem = fmt::format("'{}' stands for the nodes of a pipeline, of which others can use {}", stem,
                                      any_of(outputs));
        else
            out.problem = with_nearest(fmt::format("there is no node '{}'", stem), stem, expansion_.stems());
        return out;
    }

    /// "one.model", "one.vector" for "one", which uses a pipeline.
    std::vector<std::string> outputs_of(const std::string& user) const {
        std::vector<std::string> out;
        for (const auto& [key, inlined] : definition_.all_inlined())
            if (inlined.stem == user && inlined.output) out.push_back("'" + key + "'");
        return out;
    }

    void find_outputs(std::vector<GraphOutput>& outputs) {
        constexpr size_t kLongest = 100;
        const Json named = definition_.json().value("outputs", Json::object());
        for (const auto& [name, sources] : named.items()) {
            const std::string address = pointer_join("/outputs", name);
            if (!is_name(name) || name.size() > kLongest) {
                definition_.problem(
                    address, found_expected(fmt::format("the name '{}'", name),
                                            fmt::format("the name of a folder: {}, at most {}", kNameRule, kLongest)));
                continue;
            }
            if ((!sources.is_string() && !sources.is_array()) || sources.empty()) {
                edges_known_ = false;
                definition_.problem(address,
                                    found_expected(describe(sources), "the name of a node, or a list of names"));
                continue;
            }
            GraphOutput output{.name = name, .nodes = {}, .many = sources.is_array()};
            for_each_reference(sources, address, [&](const std::string& text, const std::string& at) {
                const Resolved& found = resolve(nullptr, text);
                edges_known_ &= found.good;
                if (!found.problem.empty()) definition_.problem(at, found.problem);
                output.many |= found.starred;
                for (const size_t n : found.nodes)
                    if (std::find(output.nodes.begin(), output.nodes.end(), n) == output.nodes.end())
                        output.nodes.push_back(n);
                    else
                        definition_.problem(at, fmt::format("'{}' comes twice into the output '{}'; keep one",
                                                            expansion_.instances[n].id, output.name));
            });
            outputs.push_back(std::move(output));
        }
    }

    void check_by_type(size_t n) {
        const CheckedNode& checked = nodes_[n];
        if (!checked.params_are_good || !checked.type->check) return;
        const Instance& instance = expansion_.instances[n];
        GraphNode node{.id = instance.id, .stem = key_of(n).stem, .type = checked.type, .item = checked.item};
        for (const Axis* axis : key_of(n).axes) node.axes.emplace_back(axis->name, instance.axes.at(axis->name)->text);
        for (const auto& [pointer, address] : checked.params.from)
            for (const auto& [axis, value] : instance.axes)
                if (value->address == address) node.axis_of[pointer] = axis;
        node.params = checked.params.value;
        node.seed = checked.seed;
        node.inputs = checked.inputs;
        node.names = checked.names;
        node.where = definition_.where(key_of(n).address);
        std::vector<Diagnostic> problems;
        try {
            checked.type->check(node, registry_, "", problems);
        } catch (const Error& error) {
            problems.push_back({error.code(), {.pointer = error.where().pointer}, error.message()});
        }
        nodes_[n].params_are_good = problems.empty();
        tell(n, problems);
    }

    std::vector<std::vector<size_t>> all_inputs() const {
        std::vector<std::vector<size_t>> out(nodes_.size());
        for (size_t n = 0; n < nodes_.size(); ++n)
            for (const auto& [port, sources] : nodes_[n].inputs)
                out[n].insert(out[n].end(), sources.begin(), sources.end());
        return out;
    }

    void find_circles() {
        const std::vector<std::vector<size_t>> inputs = all_inputs();
        std::vector<bool> done(nodes_.size(), false);
        for (const size_t n : order_of(inputs)) done[n] = true;
        // What is left waits for something that is left, so that going from input to input ends in a circle.
        std::set<std::set<size_t>> told;  // circles of the same keys, for other values of an axis
        std::vector<size_t> visited(nodes_.size(), 0);
        for (size_t start = 0; start < nodes_.size(); ++start) {
            std::vector<size_t> way;
            size_t at = start;
            for (; !done[at] && visited[at] == 0;
                 at = *std::find_if(inputs[at].begin(), inputs[at].end(), [&](size_t i) { return !done[i]; })) {
                visited[at] = start + 1;
                way.push_back(at);
            }
            if (done[at] || visited[at] != start + 1 || way.empty()) continue;
            way.erase(way.begin(), std::find(way.begin(), way.end(), at));
            std::set<size_t> keys;
            for (const size_t w : way) keys.insert(expansion_.instances[w].key);
            if (!told.insert(keys).second) continue;
            std::rotate(way.begin(), std::min_element(way.begin(), way.end()), way.end());
            std::string names;
            for (const size_t w : way) names += fmt::format("'{}' uses ", expansion_.instances[w].id);
            definition_.problem(
                pointer_join(key_of(way.front()).address, "in"),
                fmt::format("these nodes wait for each other: {}'{}'", names, expansion_.instances[way.front()].id));
        }
    }

    /// Results that nothing uses are what a pipeline is for, except data and bases, which nobody made.
    void find_unused(const std::vector<GraphOutput>& outputs) {
        std::vector<bool> used(nodes_.size(), false);
        for (const GraphOutput& output : outputs)
            for (const size_t n : output.nodes) used[n] = true;
        for (const std::vector<size_t>& sources : all_inputs())
            for (const size_t source : sources) used[source] = true;
        for (const NodeKey& key : expansion_.keys) {
            std::vector<std::string> unused;
            for (size_t n = key.first; n < key.first + key.count; ++n)
                if (!used[n] && nodes_[n].item != nullptr) unused.push_back(expansion_.instances[n].id);
            if (unused.size() == key.count && key.count > 0) unused = {key.key};
            for (const std::string& id : unused)
                definition_.problem(key.address, fmt::format("nothing uses '{}'; connect it, or take it out", id));
        }
    }

    Definition& definition_;
    const Expansion& expansion_;
    const NodeTypes& types_;
    const Registry& registry_;
    std::vector<CheckedNode> nodes_;
    std::map<std::pair<const NodeType*, const ItemInfo*>, Json> schemas_;
    std::unordered_map<std::string, Resolved> resolved_;  ///< references that mean the same wherever they stand
    Resolved last_;
    size_t edges_ = 0, values_ = 0;
    bool too_large_ = false;   ///< what is left isn't worth its time
    bool edges_known_ = true;  ///< false: a reference could not be followed, so what looks unused may be used
};

}  // namespace

std::vector<CheckedNode> check_nodes(Definition& definition, const Expansion& expansion, const NodeTypes& types,
                                     const Registry& registry, std::vector<GraphOutput>& outputs) {
    return Checker(definition, expansion, types, registry).run(outputs);
}

std::vector<size_t> order_of(const std::vector<std::vector<size_t>>& inputs) {
    std::vector<size_t> waits_for(inputs.size(), 0);
    std::vector<std::vector<size_t>> users(inputs.size());
    for (size_t n = 0; n < inputs.size(); ++n)
        for (const size_t input : inputs[n]) {
            ++waits_for[n];
            users[input].push_back(n);
        }
    std::priority_queue<size_t, std::vector<size_t>, std::greater<>> ready;
    for (size_t n = 0; n < inputs.size(); ++n)
        if (waits_for[n] == 0) ready.push(n);
    std::vector<size_t> order;
    while (!ready.empty()) {
        const size_t n = ready.top();
        ready.pop();
        order.push_back(n);
        for (const size_t user : users[n])
            if (--waits_for[user] == 0) ready.push(user);
    }
    return order;
}

Json effective_pipeline(Definition& definition, const Expansion& expansion, const std::vector<CheckedNode>& nodes) {
    // A path is rewritten where it stands, unless its text also says something else there (a label, an axis, a
    // template); then the node itself gets the path.
    std::map<std::string, std::string> wishes;  // address → absolute path
    std::set<std::string> other_uses;
    for (const auto& [name, axis] : expansion.axes)
        for (const AxisValue& value : axis.values) other_uses.insert(value.address);
    for (const CheckedNode& node : nodes) {
        const std::set<std::string> paths(node.paths.begin(), node.paths.end());
        collect_strings(node.params.value, "", [&](const std::string& pointer, const std::string& text) {
            if (paths.contains(pointer))
                wishes[node.params.address(pointer)] = text;
            else
                other_uses.insert(node.params.address(pointer));
        });
    }
    std::set<std::string> done;
    for (const auto& [address, path] : wishes) {
        const Json* raw = definition.find(address);
        const bool plain = raw != nullptr && raw->is_string() &&
                           raw->get_ref<const std::string&>().find_first_of("{}") == std::string::npos;
        if (!plain || (other_uses.contains(address) && *raw != path)) continue;
        definition.rewrite(address, braces_escaped(path));
        done.insert(address);
    }
    Json out = definition.json();
    // What the command line has taken off the axes is no value of theirs in a file that runs by itself.
    for (const NodeKey& key : expansion.keys)
        for (const std::string& field : keys_of(out["nodes"][key.key])) {
            if (!field.starts_with("with[")) continue;
            bool stands = false;
            for (size_t i = 0; i < key.count && !stands; ++i)
                stands = open_axes(field, key, expansion.instances[key.first + i]) >= 0;
            if (!stands) out["nodes"][key.key].erase(field);
        }
    if (out.contains("exclude")) {
        out["exclude"] = Json::array();
        for (const Exclusion& exclusion : expansion.exclusions) {
            if (exclusion.idle) continue;
            Json entry = Json::object();
            for (const auto& [axis, values] : exclusion.axes)
                for (size_t v = 0; v < values.size(); ++v)
                    if (values[v]) entry[axis->name].push_back(axis->values[v].value);
            out["exclude"].push_back(std::move(entry));
        }
    }
    for (size_t n = 0; n < nodes.size(); ++n)
        for (const std::string& pointer : nodes[n].paths) {
            if (done.contains(nodes[n].params.address(pointer))) continue;
            const NodeKey& key = expansion.keys[expansion.instances[n].key];
            const Json params = braces_escaped(nodes[n].params.value);
            Json& over = out["nodes"][key.key]
                            ["with" + (key.axes.empty() ? "" : expansion.instances[n].id.substr(key.stem.size()))];
            const std::string name = steps_of(pointer).front();
            if (Definition::is_param(over))
                over = params;
            else
                over[name] = params.at(name);
        }
    return out;
}

}  // namespace biophony
