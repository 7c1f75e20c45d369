#include "pipeline/inline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/nearest.hpp"

namespace biophony {

namespace {

/// As for what params may grow to (expand.cpp), for one node; and for all of them together.
constexpr size_t kMostValues = 100'000;
constexpr size_t kMostValuesInAll = 2'000'000;

const std::vector<std::string> kFields = {"use", "in", "with", "seed", "notes"};

/// Calls each(address, value) for the value and all that lies below.
template <class Each>
void walk(const Json& value, const std::string& address, const Each& each) {
    if (!each(address, value)) return;
    if (value.is_object())
        for (const auto& [key, inner] : value.items()) walk(inner, pointer_join(address, key), each);
    if (value.is_array())
        for (size_t i = 0; i < value.size(); ++i) walk(value[i], fmt::format("{}/{}", address, i), each);
}

size_t size_of(const Json& value) {
    size_t size = 1;
    if (value.is_structured())
        for (const auto& inner : value) size += size_of(inner);
    return size;
}

/// "taxon" of the first "{taxon}" in a text, empty where there is none; braces themselves are doubled.
std::string axis_in(const std::string& text) {
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '{') continue;
        if (i + 1 < text.size() && text[i + 1] == '{') {
            ++i;
            continue;
        }
        const size_t end = text.find('}', i);
        const std::string name = end == std::string::npos ? "" : text.substr(i + 1, end - i - 1);
        return is_name(name) ? name : "";
    }
    return {};
}

/// One entry of "pipelines".
struct Pipeline {
    std::string name;
    std::string address;
    const Json* json = nullptr;                  ///< null after a problem
    std::map<std::string, std::string> outputs;  ///< name inside → name outside
    std::vector<std::string> inputs;
    bool used = false;

    const Json& nodes() const { return json->at("nodes"); }
    Json params() const { return json->value("params", Json::object()); }
};

/// Checks what can be said of a pipeline without a node that uses it.
class PipelineCheck {
public:
    PipelineCheck(Definition& definition, Pipeline& pipeline) : definition_(definition), pipeline_(pipeline) {}

    bool run() {
        const Json* found = definition_.find(pipeline_.address);
        if (found == nullptr || found->is_null()) return false;  // a file that can't be read was told
        if (!found->is_object())
            wrong("", found_expected(describe(*found),
                                     "a pipeline, an object with \"nodes\" and \"outputs\", or the name of "
                                     "a file that holds one"));
        if (!good_) return false;
        pipeline_.json = found;
        check_keys();
        if (!shaped_) return false;
        check_inputs();
        check_params();
        check_outputs();
        for (const std::string& input : pipeline_.inputs)
            if (pipeline_.nodes().contains(input))
                wrong("/inputs", fmt::format("'{}' is an input and a node; rename one", input));
        for (const auto& [name, node] : pipeline_.nodes().items()) check_node(name, node);
        for (const std::string& input : pipeline_.inputs)
            if (good_ && !inputs_used_.contains(input))
                wrong("/inputs", fmt::format("no node takes the input '{}'; connect it, or take it out", input));
        return good_;
    }

private:
    void wrong(const std::string& below, const Message& message) {
        definition_.problem(pipeline_.address + below, message);
        good_ = false;
    }

    void check_keys() {
        static const std::vector<std::string> kHere = {"params", "inputs", "nodes", "outputs", "notes"};
        static const std::vector<std::string> kInFile = {"biophony", "$schema", "name",  "description", "notes",
                                                         "params",   "inputs",  "nodes", "outputs"};
        const Json& json = *pipeline_.json;
        const bool file = definition_.is_from_file(pipeline_.address);
        const std::vector<std::string>& keys = file ? kInFile : kHere;
        for (const std::string& key : keys_of(json)) {
            if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
            const std::string below = pointer_join("", key);
            if (key == "axes" || key == "exclude")
                wrong(below, fmt::format(
                                 "found \"{}\", and a pipeline of \"pipelines\" has no axes but those of the node that "
                                 "uses it",
                                 key));
            else if (key == "pipelines")
                wrong(below, "found \"pipelines\" inside of a pipeline of \"pipelines\"; there is one level of them");
            else
                wrong(below, with_nearest(fmt::format("unknown key '{}'", key), key, keys));
        }
        if (file && !json.contains("biophony"))
            wrong("", "the key \"biophony\" is missing, expected \"biophony\": 1");
        else if (file && (json["biophony"] != 1 || !json["biophony"].is_number_integer()))
            wrong("/biophony", found_expected(describe(json["biophony"]), "1, the only version of the format"));
        for (const char* key : {"$schema", "name", "description"})
            if (file && json.contains(key) && !json[key].is_string())
                wrong(pointer_join("", key), found_expected(describe(json[key]), "a text"));
        auto misshaped = [&](const std::string& below, const Message& message) {
            wrong(below, message);
            shaped_ = false;
        };
        for (const char* key : {"nodes", "outputs"})
            if (!json.contains(key))
                misshaped("", fmt::format("the key \"{}\" is missing{}", key,
                                          std::string_view(key) == "outputs"
                                              ? ", expected an object, name → node: what others may refer to"
                                              : ", expected an object of nodes"));
            else if (!json[key].is_object() || json[key].empty())
                misshaped(pointer_join("", key),
                          found_expected(describe(json[key]),
                                         fmt::format("an object with at least one {}",
                                                     std::string_view(key) == "nodes" ? "node" : "output")));
        if (json.contains("params") && !json["params"].is_object())
            misshaped("/params",
                      found_expected(describe(json["params"]), "an object, name → default, or null for none"));
        if (json.contains("inputs") && !json["inputs"].is_array())
            misshaped("/inputs", found_expected(describe(json["inputs"]), "a list of names"));
    }

    void check_inputs() {
        const Json inputs = pipeline_.json->value("inputs", Json::array());
        for (size_t i = 0; i < inputs.size(); ++i) {
            const std::string below = fmt::format("/inputs/{}", i);
            if (!inputs[i].is_string() || !is_name(inputs[i].get<std::string>())) {
                wrong(below, found_expected(describe(inputs[i]), fmt::format("the name of an input: {}", kNameRule)));
                continue;
            }
            const std::string name = inputs[i];
            if (std::find(pipeline_.inputs.begin(), pipeline_.inputs.end(), name) != pipeline_.inputs.end())
                wrong(below, fmt::format("the input '{}' stands twice; keep one", name));
            pipeline_.inputs.push_back(name);
        }
    }

    void check_params() {
        const Json params = pipeline_.params();
        for (const auto& [name, value] : params.items()) {
            if (pipeline_.nodes().contains(name))
                wrong(pointer_join("/params", name),
                      fmt::format("'{}' is a param and a node, and --set could mean either; rename one", name));
            walk(value, pointer_join("/params", name), [&](const std::string& below, const Json& at) {
                if (Definition::is_param(at)) {
                    wrong(below, found_expected(at.dump(), "a plain value: a default refers to no other param"));
                    return false;
                }
                if (at.is_string()) check_text(below, at);
                return true;
            });
        }
    }

    void check_outputs() {
        const std::vector<std::string> names = keys_of(pipeline_.nodes());
        for (const auto& [name, node] : pipeline_.json->at("outputs").items()) {
            const std::string below = pointer_join("/outputs", name);
            if (!is_name(name))
                wrong(below, found_expected(fmt::format("the name '{}'", name), std::string(kNameRule)));
            else if (!node.is_string())
                wrong(below, found_expected(describe(node), "the name of a node"));
            else if (!pipeline_.nodes().contains(node.get<std::string>()))
                wrong(below, with_nearest(fmt::format("there is no node '{}' in the pipeline '{}'",
                                                      node.get<std::string>(), pipeline_.name),
                                          node.get<std::string>(), names));
            else if (name != node && pipeline_.nodes().contains(name))
                wrong(below,
                      fmt::format("the output '{}' is the node '{}', and another node is called '{}'; rename one", name,
                                  node.get<std::string>(), name));
            else if (const auto [other, first] = pipeline_.outputs.emplace(node.get<std::string>(), name); !first)
                wrong(below, fmt::format("the node '{}' is the output '{}' already; keep one", node.get<std::string>(),
                                         other->second));
        }
    }

    void check_text(const std::string& below, const std::string& text) {
        if (const std::string axis = axis_in(text); !axis.empty())
            wrong(below,
                  fmt::format("'{{{}}}' names an axis, and a pipeline of \"pipelines\" has none; make it a param, "
                              "and give \"{{{}}}\" in the \"with\" of the node that uses it",
                              axis, axis));
    }

    void check_node(const std::string& name, const Json& node) {
        const std::string here = pointer_join("/nodes", name);
        if (name.find('[') != std::string::npos)
            return wrong(
                here, found_expected(fmt::format("'{}'", name),
                                     "a name without brackets: the axes are those of the node that uses the pipeline"));
        if (!is_name(name))
            return wrong(here, found_expected(fmt::format("the node name '{}'", name), std::string(kNameRule)));
        if (!node.is_object()) return wrong(here, found_expected(describe(node), "a node: an object with \"use\""));
        for (const std::string& field : keys_of(node)) {
            const std::string below = pointer_join(here, field);
            if (field.starts_with("with["))
                wrong(below, fmt::format("found '{}', and a pipeline of \"pipelines\" has no axes; lay it over the "
                                         "\"with\" of the node that uses it",
                                         field));
            else if (std::find(kFields.begin(), kFields.end(), field) == kFields.end())
                wrong(below, with_nearest(fmt::format("unknown key '{}'", field), field, kFields));
        }
        for (const char* field : {"use", "with", "seed"})
            if (node.contains(field))
                walk(node[field], pointer_join(here, field),
                     [&](const std::string& below, const Json& at) { return check_value(below, at); });
        if (node.contains("use") && node["use"].is_string() &&
            node["use"].get_ref<const std::string&>().starts_with("pipeline:"))
            wrong(here + "/use",
                  fmt::format("found {}, and a pipeline of \"pipelines\" can't use another: there is one "
                              "level of them",
                              node["use"].dump()));
        if (node.contains("in"))
            walk(node["in"], here + "/in", [&](const std::string& below, const Json& at) {
                if (at.is_string()) check_reference(below, at);
                return true;
            });
    }

    bool check_value(const std::string& below, const Json& value) {
        if (Definition::is_param(value) && value["param"].is_string()) {
            const std::string name = value["param"];
            const std::vector<std::string> names = keys_of(pipeline_.params());
            if (std::find(names.begin(), names.end(), name) == names.end())
                wrong(pointer_join(below, "param"),
                      with_nearest(fmt::format("the pipeline '{}' has no param '{}'", pipeline_.name, name), name,
                                   names, "; it has none"));
            return false;
        }
        if (Definition::is_param(value))
            wrong(pointer_join(below, "param"), found_expected(describe(value["param"]), "the name of a param"));
        if (value.is_string()) check_text(below, value);
        return true;
    }

    void check_reference(const std::string& below, const std::string& text) {
        const std::string stem = text.substr(0, text.find('['));
        std::vector<std::string> names = keys_of(pipeline_.nodes());
        names.insert(names.end(), pipeline_.inputs.begin(), pipeline_.inputs.end());
        if (std::find(names.begin(), names.end(), stem) == names.end())
            return wrong(below, with_nearest(fmt::format("there is no node and no input '{}' in the pipeline '{}'",
                                                         stem, pipeline_.name),
                                             stem, names));
        if (stem != text)
            return wrong(
                below,
                found_expected(fmt::format("'{}'", text),
                               fmt::format("'{}' without brackets: a pipeline of \"pipelines\" has no axes", stem)));
        inputs_used_.insert(stem);
    }

    Definition& definition_;
    Pipeline& pipeline_;
    std::set<std::string> inputs_used_;
    bool shaped_ = true;  ///< what holds nodes, outputs, params and inputs is of the right kind
    bool good_ = true;
};

/// The params of a pipeline as a node that uses it sets them.
struct Params {
    Traced values;  ///< object; names that have no value are missing
    size_t size = 0;
};

/// Puts a pipeline's nodes in the place of one node.
class Inliner {
public:
    Inliner(Definition& definition, const Expansion& expansion, const NodeKey& user, const Pipeline& pipeline,
            size_t& budget)
        : definition_(definition), expansion_(expansion), user_(user), pipeline_(pipeline), budget_(budget) {}

    bool run() {
        const Json& node = *definition_.find(user_.address);
        for (const std::string& field : keys_of(node)) {
            if (std::find(kFields.begin(), kFields.end(), field) != kFields.end()) continue;
            if (!field.starts_with("with["))
                wrong(pointer_join(user_.address, field),
                      with_nearest(fmt::format("unknown key '{}'", field), field, kFields));
            else
                check_overlay_field(definition_, expansion_, user_, field);
        }
        check_inputs();
        find_params();
        if (!good_) return false;

        Json nodes = Json::object();
        std::map<std::string, Inlined> inlined;
        for (const auto& [name, inner] : pipeline_.nodes().items()) {
            const std::string key = key_of(name);
            inlined[key] = {.user = user_.key,
                            .stem = user_.stem,
                            .pipeline = pipeline_.name,
                            .name = name,
                            .output = pipeline_.outputs.contains(name)};
            nodes[key] = put_node(name, inner, pointer_join("/nodes", key));
            if (!good_) return false;
        }
        definition_.inline_nodes(user_.key, std::move(nodes), std::move(inlined), from_);
        return true;
    }

private:
    void wrong(const std::string& address, const Message& message) {
        definition_.problem(address, message);
        good_ = false;
    }

    /// "one.model[taxon]" for "expert".
    std::string key_of(const std::string& name) const {
        const auto output = pipeline_.outputs.find(name);
        return user_.stem + "." + (output == pipeline_.outputs.end() ? name : output->second) +
               user_.key.substr(user_.stem.size());
    }

    void check_inputs() {
        const std::string address = pointer_join(user_.address, "in");
        const Json* in = definition_.find(address);
        const Json none = Json::object();
        if (in == nullptr) in = &none;
        if (!in->is_object()) return wrong(address, found_expected(describe(*in), "an object: input → node"));
        std::set<std::string> misspelt;
        for (const auto& [name, sources] : in->items()) {
            const std::string at = pointer_join(address, name);
            if (std::find(pipeline_.inputs.begin(), pipeline_.inputs.end(), name) == pipeline_.inputs.end()) {
                misspelt.insert(nearest(name, pipeline_.inputs));
                wrong(at, with_nearest(fmt::format("the pipeline '{}' has no input '{}'", pipeline_.name, name), name,
                                       pipeline_.inputs, "; it takes none"));
            }
            if (!sources.is_string() && !sources.is_structured())
                wrong(at, found_expected(describe(sources), "the name of a node, or a list of names"));
            walk(sources, at, [&](const std::string& place, const Json& source) {
                if (source.is_string() && source.get_ref<const std::string&>().starts_with(user_.stem + "."))
                    wrong(place, fmt::format("'{}' uses its own result", user_.stem));
                return true;
            });
        }
        for (const std::string& input : pipeline_.inputs)
            if (!in->contains(input) && !misspelt.contains(input))
                wrong(address,
                      missing(fmt::format("the input '{}' of the pipeline '{}'", input, pipeline_.name), "a node"));
    }

    /// Follows {"param": …} of the outer pipeline to its value.
    std::pair<const Json*, std::string> resolved(const Json& value, const std::string& address) const {
        std::pair<const Json*, std::string> out(&value, address);
        for (int i = 0; i < 100 && Definition::is_param(*out.first) && (*out.first)["param"].is_string(); ++i) {
            const std::string there = pointer_join("/params", (*out.first)["param"].get<std::string>());
            const Json* found = definition_.find(there);
            if (found == nullptr) break;  // told where it is put in
            out = {found, there};
        }
        return out;
    }

    /// Lays a value over what is at `pointer`, name by name inside of objects; {"param": …} is looked through for that.
    void lay(Json& at, const std::string& pointer, const Json& over, const std::string& address,
             std::map<std::string, std::string, std::less<>>& from) {
        if (at.is_object() && over.is_object()) {
            const auto [below, below_address] = resolved(at, nearest_enclosing_address(from, pointer));
            const auto [top, top_address] = resolved(over, address);
            const auto plain = [](const Json& value) { return value.is_object() && !Definition::is_param(value); };
            if (plain(*below) && plain(*top)) {
                if (below != &at) {
                    from[pointer] = below_address;
                    at = Json(*below);
                }
                for (const auto& [name, inner] : top->items()) {
                    const std::string there = pointer_join(pointer, name);
                    if (at.contains(name)) {
                        lay(at[name], there, inner, pointer_join(top_address, name), from);
                    } else {
                        at[name] = inner;
                        from[there] = pointer_join(top_address, name);
                    }
                }
                return;
            }
        }
        at = over;
        from.erase(from.lower_bound(pointer + "/"), from.lower_bound(pointer + "0"));  // '0' follows '/'
        from[pointer] = address;
    }

    static std::string nearest_enclosing_address(const std::map<std::string, std::string, std::less<>>& from,
                                                 const std::string& pointer) {
        const auto found = nearest_enclosing(from, pointer);
        return found->second + pointer.substr(found->first.size());
    }

    /// Lays an object of params over those at hand. False after a problem.
    bool lay_params(Params& params, const std::string& field) {
        const std::string address = pointer_join(user_.address, field);
        const Json* with = definition_.find(address);
        if (with == nullptr) return true;
        const auto [values, at] = resolved(*with, address);
        if (!values->is_object() || Definition::is_param(*values)) {
            wrong(at, found_expected(describe(*values), "an object: param → value") + used_note(at, address));
            return false;
        }
        const std::vector<std::string> names = keys_of(pipeline_.params());
        bool good = true;
        for (const auto& [name, value] : values->items()) {
            const std::string there = pointer_join(at, name);
            if (!pipeline_.params().contains(name)) {
                wrong(there, with_nearest(fmt::format("the pipeline '{}' has no param '{}'", pipeline_.name, name),
                                          name, names, "; it has none") +
                                 used_note(there, address));
                good = false;
                continue;
            }
            const std::string pointer = pointer_join("", name);
            if (params.values.value.contains(name)) {
                lay(params.values.value[name], pointer, value, there, params.values.from);
            } else {
                params.values.value[name] = value;
                params.values.from[pointer] = there;
            }
        }
        params.size = size_of(params.values.value);
        return good;
    }

    void find_params() {
        const Json defaults = pipeline_.params();
        params_.values.value = Json::object();
        params_.values.from[""] = pipeline_.address + "/params";
        for (const auto& [name, value] : defaults.items()) {
            if (value.is_null()) continue;
            params_.values.value[name] = value;
            params_.values.from[pointer_join("", name)] = pointer_join(pipeline_.address + "/params", name);
        }
        params_.size = size_of(params_.values.value);
        if (!lay_params(params_, "with")) return;

        std::set<std::string> missing;
        for (const auto& [name, value] : defaults.items())
            if (!params_.values.value.contains(name)) missing.insert(name);
        std::set<std::string> told;
        if (user_.axes.empty()) {
            told = missing;
        } else {
            for (size_t i = 0; i < user_.count && good_; ++i)
                find_params_of(expansion_.instances[user_.first + i], told, missing);
        }
        for (const std::string& name : told)
            wrong(pointer_join(user_.address, "with"),
                  fmt::format("the param '{}' of the pipeline '{}' is missing, and has no default", name,
                              pipeline_.name));
    }

    /// What "with[…]" of the node sets for one value of its axes.
    void find_params_of(const Instance& instance, std::set<std::string>& told, const std::set<std::string>& missing) {
        const std::vector<std::string> fields = expansion_.overlays_of(definition_, instance);
        if (fields.empty()) return told.insert(missing.begin(), missing.end()), void();
        OfOne one{.field = "with" + instance.id.substr(user_.stem.size()), .params = params_, .set = {}};
        std::vector<std::pair<std::string, Traced>> laid;
        for (const std::string& field : fields) {
            if (!lay_params(one.params, field)) return;
            const std::string address = pointer_join(user_.address, field);
            const auto [values, at] = resolved(*definition_.find(address), address);
            laid.push_back({field, Traced{.value = *values, .from = {{"", at}}}});
            for (const auto& [name, value] : values->items()) one.set.emplace(name, pointer_join(at, name));
        }
        good_ &= check_overlays(definition_, user_, instance, laid);
        for (const std::string& name : missing)
            if (!one.params.values.value.contains(name)) told.insert(name);
        of_one_.push_back(std::move(one));
    }

    bool take(size_t values) {
        count_ += values;
        if (count_ <= kMostValues && values <= budget_) {
            budget_ -= values;
            return true;
        }
        if (good_) wrong(user_.address, "with its params put in, this is too large");
        return false;
    }

    /// What stands inside of the pipeline at `address`, with params put in; keys whose value has none are left out.
    /// `from`, if any, gets where the values were written.
    bool put(const Json& in, const Params& params, const std::string& to, std::map<std::string, std::string>* from,
             Json& out) {
        if (!take(1)) return false;
        if (Definition::is_param(in)) {
            const std::string name = in["param"];
            const auto found = params.values.value.find(name);
            if (found == params.values.value.end()) return false;
            if (!take(params.size)) return false;
            out = *found;
            if (from == nullptr) return true;
            const std::string pointer = pointer_join("", name);
            const auto& places = params.values.from;
            (*from)[to] = nearest_enclosing_address(places, pointer);
            for (auto at = places.lower_bound(pointer + "/"); at != places.lower_bound(pointer + "0"); ++at)
                (*from)[to + at->first.substr(pointer.size())] = at->second;
            return true;
        }
        if (in.is_object()) {
            out = Json::object();
            for (const auto& [key, inner] : in.items()) {
                Json value;
                if (put(inner, params, pointer_join(to, key), from, value)) out[key] = std::move(value);
            }
        } else if (in.is_array()) {
            out = Json::array();
            for (size_t i = 0; i < in.size(); ++i) {
                out.push_back(nullptr);
                put(in[i], params, fmt::format("{}/{}", to, i), from, out.back());
            }
        } else {
            out = in;
        }
        return true;
    }

    /// Where the first param of the set that `in` takes stands; null where it takes none.
    static const std::string* taken(const Json& in, const std::map<std::string, std::string>& set) {
        if (Definition::is_param(in)) {
            const auto found = in["param"].is_string() ? set.find(in["param"].get<std::string>()) : set.end();
            return found == set.end() ? nullptr : &found->second;
        }
        if (in.is_structured())
            for (const Json& inner : in)
                if (const std::string* where = taken(inner, set); where != nullptr) return where;
        return nullptr;
    }
    static bool takes(const Json& in, const std::map<std::string, std::string>& set) {
        return taken(in, set) != nullptr;
    }

    struct OfOne {
        std::string field;  ///< "with[bird,0]"
        Params params;
        std::map<std::string, std::string> set;  ///< the params that differ → where that stands
    };

    /// What of `in` takes a param that differs for one node: objects name by name, lists as a whole.
    void put_difference(const Json& in, const OfOne& one, const std::string& to, const std::string& raw, Json& out) {
        if (in.is_object() && !Definition::is_param(in)) {
            out = Json::object();
            for (const auto& [key, inner] : in.items())
                if (takes(inner, one.set))
                    put_difference(inner, one, pointer_join(to, key), pointer_join(raw, key), out[key]);
            return;
        }
        from_[to] = raw;
        put(in, one.params, to, &from_, out);
    }

    Json put_node(const std::string& name, const Json& inner, const std::string& to) {
        const std::string raw = pointer_join(pipeline_.address + "/nodes", name);
        from_[to] = raw;
        count_ = 0;
        Json node = Json::object();
        for (const char* field : {"use", "with", "seed"}) {
            if (!inner.contains(field)) continue;
            Json value;
            if (put(inner[field], params_, pointer_join(to, field), &from_, value)) node[field] = std::move(value);
            for (const OfOne& one : of_one_)
                if (const std::string* where = taken(inner[field], one.set);
                    std::string_view(field) != "with" && where != nullptr)
                    wrong(*where,
                          fmt::format(
                              "\"{}\" of '{}' in the pipeline '{}' takes this param, so it can't differ among the "
                              "nodes of '{}'; give it as a text with an axis, like \"{{{}}}\"",
                              field, name, pipeline_.name, user_.key, user_.axes.front()->name));
        }
        if (inner.contains("with"))
            for (const OfOne& one : of_one_)
                if (takes(inner["with"], one.set))
                    put_difference(inner["with"], one, pointer_join(to, one.field), raw + "/with", node[one.field]);
        const std::string seed = pointer_join(user_.address, "seed");
        if (const Json* own = definition_.find(seed); own != nullptr && !inner.contains("seed")) {
            node["seed"] = *own;
            from_[pointer_join(to, "seed")] = seed;
        }
        if (inner.contains("notes")) node["notes"] = inner["notes"];
        if (inner.contains("in")) node["in"] = put_inputs(inner["in"], to + "/in", raw + "/in");
        return node;
    }

    Json put_inputs(const Json& in, const std::string& to, const std::string& raw) {
        if (!in.is_object()) return in;
        Json out = Json::object();
        for (const auto& [port, sources] : in.items()) {
            const std::string there = pointer_join(to, port), here = pointer_join(raw, port);
            if (sources.is_string()) {
                out[port] = put_source(sources, there, here);
            } else if (sources.is_array()) {
                Json& list = out[port] = Json::array();
                for (size_t i = 0; i < sources.size(); ++i) {
                    const std::string item = fmt::format("{}/{}", here, i);
                    auto next = [&] { return fmt::format("{}/{}", there, list.size()); };
                    const Json source = sources[i].is_string() ? put_source(sources[i], next(), item) : sources[i];
                    if (source.is_array() && sources[i].is_string()) {
                        // An input that is a list: its items take their places among the others.
                        const std::string given = from_.at(next());
                        for (size_t j = 0; j < source.size(); ++j) {
                            from_[next()] = fmt::format("{}/{}", given, j);
                            out[port].push_back(source[j]);
                        }
                    } else {
                        if (!sources[i].is_string()) from_[next()] = item;
                        out[port].push_back(source);
                    }
                    if (!take(1)) return out;
                }
            } else if (sources.is_object()) {
                out[port] = Json::object();
                for (const auto& [name, source] : sources.items())
                    out[port][name] = source.is_string()
                                          ? put_source(source, pointer_join(there, name), pointer_join(here, name))
                                          : source;
            } else {
                out[port] = sources;
            }
        }
        return out;
    }

    /// What a name inside stands for outside: one of the pipeline's nodes, or what the user's "in" says.
    Json put_source(const std::string& name, const std::string& to, const std::string& raw) {
        if (pipeline_.nodes().contains(name)) {
            from_[to] = raw;
            return key_of(name);
        }
        from_[to] = pointer_join(pointer_join(user_.address, "in"), name);
        const Json* given = definition_.find(from_[to]);
        return given == nullptr ? Json(nullptr) : *given;
    }

    Definition& definition_;
    const Expansion& expansion_;
    const NodeKey& user_;
    const Pipeline& pipeline_;
    size_t& budget_;
    Params params_;
    std::vector<OfOne> of_one_;
    std::map<std::string, std::string>
        from_;  ///< address of a node put in, or of what lies in it → where it was written
    size_t count_ = 0;
    bool good_ = true;
};

}  // namespace

void read_pipelines(Definition& definition) {
    for (const std::string& name : keys_of(definition.json().value("pipelines", Json::object()))) {
        const std::string address = pointer_join("/pipelines", name);
        if (const Json* found = definition.find(address); found->is_string())
            definition.read_file_at(address, found->get<std::string>());
    }
}

bool inline_pipelines(Definition& definition, const Expansion& expansion) {
    std::map<std::string, Pipeline> pipelines;
    for (const std::string& name : keys_of(definition.json().value("pipelines", Json::object()))) {
        Pipeline& pipeline = pipelines[name];
        pipeline.name = name;
        pipeline.address = pointer_join("/pipelines", name);
        bool good = is_name(name);
        if (!good)
            definition.problem(pipeline.address,
                               found_expected(fmt::format("the name '{}'", name), std::string(kNameRule)));
        good = PipelineCheck(definition, pipeline).run() && good;
        if (!good) pipeline.json = nullptr;
    }
    std::vector<std::string> names;
    for (const auto& [name, pipeline] : pipelines) names.push_back("pipeline:" + name);
    bool any = false;
    size_t budget = kMostValuesInAll;
    for (const NodeKey& key : expansion.keys) {
        const std::string used = pipeline_used(definition, key.address);
        if (used.empty()) continue;
        any = true;
        const auto found = pipelines.find(used);
        if (found == pipelines.end()) {
            const std::string name = "pipeline:" + used;
            definition.problem(
                key.address + "/use",
                used.find('{') != std::string::npos
                    ? found_expected("'" + name + "'",
                                     "the name of one pipeline: it is the same for all values of an axis")
                    : with_nearest(fmt::format("there is no '{}'", name), name, names,
                                   "; the pipeline has no \"pipelines\""));
            definition.drop_broken(key.key);
            continue;
        }
        found->second.used = true;
        if (key.broken || found->second.json == nullptr ||
            !Inliner(definition, expansion, key, found->second, budget).run())
            definition.drop_broken(key.key);
    }
    for (const auto& [name, pipeline] : pipelines)
        if (!pipeline.used)
            definition.problem(
                pipeline.address,
                fmt::format("no node uses the pipeline '{}'; use it as \"pipeline:{}\", or take it out", name, name));
    definition.drop("pipelines");
    return any;
}

}  // namespace biophony
