#include "pipeline/expand.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <unordered_set>

#include "base/nearest.hpp"

namespace biophony {

namespace {

/// Far more than anyone compares, far less than what fills the memory.
constexpr size_t kMostNodesOfAKey = 10'000;
constexpr size_t kMostNodes = 100'000;
constexpr size_t kMostExclusions = 1000;
constexpr size_t kMostValues = 100'000;
constexpr int kDeepest = 200;

/// Values of axes become parts of ids, and ids are written in references.
bool fits_in_an_id(const std::string& text) {
    return !text.empty() && text != "*" && text.front() != ' ' && text.back() != ' ' &&
           std::none_of(text.begin(), text.end(),
                        [](unsigned char c) { return c < 32 || c == '[' || c == ']' || c == ','; });
}

void read_axis(Definition& definition, Axis& axis) {
    const std::string address = pointer_join("/axes", axis.name);
    Traced list;
    axis.broken = true;
    if (!is_name(axis.name))
        return definition.problem(address,
                                  found_expected(fmt::format("the axis name '{}'", axis.name), std::string(kNameRule)));
    if (!substitute(definition, address, {}, nullptr, address, list)) return;
    const std::string here = list.address("");
    const std::string note = used_note(here, address);
    if (!list.value.is_array() || list.value.empty())
        return definition.problem(
            here, found_expected(describe(list.value),
                                 fmt::format("a list of values for the axis '{}', at least one", axis.name)) +
                      note);
    bool good = true;
    std::set<std::string> seen;
    for (size_t i = 0; i < list.value.size(); ++i) {
        const Json& value = list.value[i];
        AxisValue one{.value = value, .address = list.address(fmt::format("/{}", i))};
        one.text = value.is_string() ? value.get<std::string>() : value.dump();
        Message wrong;
        if (!value.is_string() && !value.is_number())
            wrong = found_expected(describe(value),
                                   fmt::format("a text or a number as a value of the axis '{}'", axis.name));
        else if (!fits_in_an_id(one.text))
            wrong = found_expected(describe(value),
                                   "a text that can stand in the name of a node: not empty, not '*', "
                                   "without brackets, commas, line breaks and spaces at its ends");
        else if (!seen.insert(one.text).second)
            wrong = fmt::format("the value '{}' stands twice in the axis '{}'; keep one", one.text, axis.name);
        if (!wrong.empty()) {
            definition.problem(one.address, wrong + note);
            good = false;
        }
        axis.place.emplace(one.text, axis.values.size());
        axis.values.push_back(std::move(one));
    }
    axis.broken = !good;
}

std::string text_of(const Json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
}

/// The values of an axis, and those that it has in the file where the command line has changed it.
std::vector<std::string> texts_in_file(const Definition& definition, const Axis& axis) {
    std::vector<std::string> out;
    for (const AxisValue& value : axis.values) out.push_back(value.text);
    const Json all = definition.original_axis(axis.name);
    for (size_t i = 0; all.is_array() && i < all.size(); ++i)
        if (!axis.place.contains(text_of(all[i]))) out.push_back(text_of(all[i]));
    return out;
}

void read_exclusions(Definition& definition, Expansion& out) {
    const std::string address = "/exclude";
    Traced list;
    if (definition.find(address) == nullptr || !substitute(definition, address, {}, nullptr, address, list)) return;
    auto wrong = [&](const std::string& pointer, const Message& message) {
        const std::string at = list.address(pointer);
        definition.problem(at, message + used_note(at, address + pointer));
    };
    if (!list.value.is_array())
        return wrong("", found_expected(describe(list.value),
                                        "a list of objects, axis → values, like [{\"method\": "
                                        "\"merger:average\", \"kind\": [\"probe\", \"knn\"]}]"));
    if (list.value.size() > kMostExclusions)
        return wrong("", found_expected(fmt::format("{} exclusions", list.value.size()),
                                        fmt::format("at most {}", kMostExclusions)));
    std::vector<std::string> names;
    for (const auto& [name, axis] : out.axes) names.push_back(name);
    for (size_t i = 0; i < list.value.size(); ++i) {
        const Json& entry = list.value[i];
        const std::string pointer = fmt::format("/{}", i);
        Exclusion exclusion{.address = list.address(pointer)};
        auto bad = [&](const std::string& below, const Message& message) {
            exclusion.idle = true;
            wrong(pointer + below, message);
        };
        if (!entry.is_object() || entry.empty())
            bad("", found_expected(describe(entry), "an object, axis → values, with at least one axis"));
        else
            for (const auto& [name, values] : entry.items()) {
                const std::string below = pointer_join("", name);
                const auto found = out.axes.find(name);
                if (found == out.axes.end()) {
                    bad(below,
                        with_nearest(fmt::format("there is no axis '{}'", name), name, names, "; there are none"));
                    continue;
                }
                const Axis& axis = found->second;
                exclusion.idle |= axis.broken;
                if (axis.broken) continue;
                const bool many = values.is_array();
                std::vector<std::string> all;  // where they are needed
                std::unordered_set<std::string> others;
                if (many && values.empty()) bad(below, "the list is empty, expected at least one value");
                std::vector<bool> taken(axis.values.size(), false);
                bool any = false;
                for (size_t v = 0; v < (many ? values.size() : 1); ++v) {
                    const Json& value = many ? values[v] : values;
                    const std::string at = many ? fmt::format("{}/{}", below, v) : below;
                    if (!value.is_string() && !value.is_number()) {
                        bad(at, found_expected(describe(value),
                                               fmt::format("a value of the axis '{}', or a list of values", name)));
                    } else if (const auto place = axis.place.find(text_of(value)); place != axis.place.end()) {
                        if (taken[place->second]) bad(at, fmt::format("'{}' stands twice; keep one", text_of(value)));
                        taken[place->second] = any = true;
                    } else {
                        // Where the command line has shortened the axis, what the file has stays right.
                        if (all.empty()) {
                            all = texts_in_file(definition, axis);
                            others.insert(all.begin(), all.end());
                        }
                        if (!others.contains(text_of(value)))
                            bad(at, with_nearest(fmt::format("'{}' is no value of the axis '{}'", text_of(value), name),
                                                 text_of(value), all));
                    }
                }
                exclusion.idle |= !any;
                exclusion.axes.emplace_back(&axis, std::move(taken));
            }
        out.exclusions.push_back(std::move(exclusion));
    }
}

bool has_axes_of(const NodeKey& key, const Exclusion& exclusion) {
    return !exclusion.idle && std::all_of(exclusion.axes.begin(), exclusion.axes.end(), [&](const auto& entry) {
        return std::find(key.axes.begin(), key.axes.end(), entry.first) != key.axes.end();
    });
}

/// An exclusion as seen from a key: by place among its axes.
struct OnKey {
    size_t number;
    std::vector<std::pair<size_t, const std::vector<bool>*>> values;
};

std::vector<OnKey> exclusions_of(const NodeKey& key, const std::vector<Exclusion>& exclusions) {
    std::vector<OnKey> out;
    for (size_t e = 0; e < exclusions.size(); ++e) {
        if (!has_axes_of(key, exclusions[e])) continue;
        OnKey on{.number = e, .values = {}};
        for (const auto& [axis, values] : exclusions[e].axes)
            on.values.emplace_back(std::find(key.axes.begin(), key.axes.end(), axis) - key.axes.begin(), &values);
        out.push_back(std::move(on));
    }
    return out;
}

void make_instances(Expansion& out, size_t k) {
    NodeKey& key = out.keys[k];
    const std::vector<OnKey> exclusions = exclusions_of(key, out.exclusions);
    std::vector<size_t> at(key.axes.size(), 0);
    for (bool more = true; more;) {
        const auto excluded = std::find_if(exclusions.begin(), exclusions.end(), [&](const OnKey& exclusion) {
            return std::all_of(exclusion.values.begin(), exclusion.values.end(),
                               [&](const auto& entry) { return (*entry.second)[at[entry.first]]; });
        });
        if (excluded != exclusions.end()) {
            key.grid.push_back(NodeKey::kExcluded + excluded->number);
        } else {
            Instance node{.key = k};
            std::string brackets;
            for (size_t a = 0; a < at.size(); ++a) {
                const AxisValue& value = key.axes[a]->values[at[a]];
                node.axes[key.axes[a]->name] = &value;
                brackets += (a == 0 ? "" : ",") + value.text;
            }
            node.id = at.empty() ? key.stem : key.stem + "[" + brackets + "]";
            key.grid.push_back(out.instances.size());
            out.instances.push_back(std::move(node));
            ++key.count;
        }
        more = false;
        for (size_t a = at.size(); a-- > 0 && !more;) {
            more = ++at[a] < key.axes[a]->values.size();
            if (!more) at[a] = 0;
        }
    }
}

NodeKey read_key(Definition& definition, const std::string& text, const std::map<std::string, Axis>& axes) {
    NodeKey key{.key = text, .stem = text, .address = pointer_join("/nodes", text), .broken = true};
    auto wrong = [&](const Message& message) {
        definition.problem(key.address, message);
        return key;
    };
    const size_t open = text.find('[');
    key.stem = text.substr(0, open);
    if (!is_name(key.stem) || (open != std::string::npos && (text.back() != ']' || text.size() < open + 3)))
        return wrong(found_expected(fmt::format("the node name '{}'", text),
                                    fmt::format("name or name[axis] or name[axis,axis]; names have {}", kNameRule)));
    if (key.stem == "params" || key.stem == "axes")
        return wrong(
            fmt::format("a node can't be called '{}', since --set {}.… means something else", key.stem, key.stem));
    if (open == std::string::npos) {
        key.broken = false;
        return key;
    }
    std::vector<std::string> names;
    for (const auto& [name, axis] : axes) names.push_back(name);
    bool broken = false;
    size_t count = 1;
    for (const std::string& name : split(std::string_view(text).substr(open + 1, text.size() - open - 2), ',')) {
        const auto found = axes.find(name);
        if (found == axes.end())
            return wrong(with_nearest(fmt::format("there is no axis '{}'", name), name, names, "; there are none"));
        if (std::find(key.axes.begin(), key.axes.end(), &found->second) != key.axes.end())
            return wrong(fmt::format("the axis '{}' stands twice; keep one", name));
        key.axes.push_back(&found->second);
        broken |= found->second.broken;
        count *= std::max<size_t>(1, found->second.values.size());
        if (count > kMostNodesOfAKey)
            return wrong(fmt::format("stands for more than {} nodes, expected fewer", kMostNodesOfAKey));
    }
    key.broken = broken;
    key.count = count;
    return key;
}

}  // namespace

std::string NodeKey::names_of_axes() const {
    std::string out;
    for (const Axis* axis : axes) out += (out.empty() ? "" : ", ") + axis->name;
    return out;
}

const NodeKey* Expansion::key_of_stem(const std::string& stem) const {
    const auto found = by_stem.find(stem);
    return found == by_stem.end() ? nullptr : &keys[found->second];
}

std::vector<std::string> Expansion::stems() const {
    std::vector<std::string> out;
    for (const NodeKey& key : keys) out.push_back(key.stem);
    return out;
}

int open_axes(const std::string& field, const NodeKey& key, const Instance& instance) {
    constexpr std::string_view kBegin = "with[";
    if (!field.starts_with(kBegin) || field.back() != ']' || key.axes.empty()) return -1;
    const std::vector<std::string> values =
        split(std::string_view(field).substr(kBegin.size(), field.size() - kBegin.size() - 1), ',');
    if (values.size() != key.axes.size()) return -1;
    int open = 0;
    for (size_t a = 0; a < values.size(); ++a) {
        if (values[a] == "*")
            ++open;
        else if (values[a] != instance.axes.find(key.axes[a]->name)->second->text)
            return -1;
    }
    return open < static_cast<int>(values.size()) ? open : -1;  // all of them are what "with" is for
}

std::vector<std::string> Expansion::overlays_of(const Definition& definition, const Instance& instance) const {
    const NodeKey& key = keys[instance.key];
    const Json* node = definition.find(key.address);
    std::vector<std::pair<int, std::string>> found;
    if (node == nullptr || !node->is_object()) return {};
    for (const auto& [field, value] : node->items()) {
        const int open = open_axes(field, key, instance);
        if (open >= 0) found.emplace_back(-open, field);
    }
    std::sort(found.begin(), found.end());
    std::vector<std::string> out;
    for (const auto& [open, field] : found) out.push_back(field);
    return out;
}

namespace {

/// Calls each(pointer) for every value that both set; what they set side by side in one object is no such thing.
void set_by_both(const Json& a, const Json& b, const std::string& pointer,
                 const std::function<void(const std::string&)>& each) {
    if (!a.is_object() || !b.is_object()) return each(pointer);
    for (const auto& [name, inner] : a.items())
        if (b.contains(name)) set_by_both(inner, b[name], pointer_join(pointer, name), each);
}

}  // namespace

bool check_overlays(Definition& definition, const NodeKey& key, const Instance& instance,
                    const std::vector<std::pair<std::string, Traced>>& laid) {
    bool good = true;
    for (size_t b = 1; b < laid.size(); ++b)
        for (size_t a = 0; a < b; ++a) {
            const int open = open_axes(laid[a].first, key, instance);
            if (open != open_axes(laid[b].first, key, instance)) continue;
            set_by_both(laid[a].second.value, laid[b].second.value, "", [&](const std::string& pointer) {
                if (std::any_of(laid.begin(), laid.end(), [&](const auto& other) {
                        return open_axes(other.first, key, instance) < open &&
                               other.second.value.contains(Json::json_pointer(pointer));
                    }))
                    return;
                good = false;
                definition.problem(
                    laid[b].second.address(pointer),
                    fmt::format("'{}' sets '{}' of '{}', too, and neither stands for fewer axes; set "
                                "it in 'with{}'",
                                laid[a].first, pointer.substr(1), instance.id, instance.id.substr(key.stem.size())));
            });
        }
    return good;
}

Expansion expand_axes(Definition& definition) {
    Expansion out;
    const Json& json = definition.json();
    for (const std::string& name : keys_of(json.value("axes", Json::object()))) {
        Axis& axis = out.axes[name];
        axis.name = name;
        read_axis(definition, axis);
    }
    read_exclusions(definition, out);
    // Objects are sorted by key; people think in the order of their text. What a pipeline's nodes replace stood where
    // the node stands that uses it.
    std::vector<std::pair<std::array<int, 4>, std::string>> texts;
    for (const std::string& text : keys_of(json.value("nodes", Json::object()))) {
        const Where own = definition.where(pointer_join("/nodes", text));
        const Inlined* inlined = definition.inlined(text);
        const Where outer = inlined == nullptr ? own : definition.where(pointer_join("/nodes", inlined->user));
        texts.push_back({{outer.line, outer.column, own.line, own.column}, text});
    }
    std::sort(texts.begin(), texts.end());
    for (const auto& [place, text] : texts) {
        NodeKey key = read_key(definition, text, out.axes);
        if (const NodeKey* other = out.key_of_stem(key.stem); other != nullptr) {
            definition.problem(key.address,
                               fmt::format("there are two nodes called '{}', here and in line {}; rename one", key.stem,
                                           definition.where(other->address).line));
            continue;
        }
        out.by_stem.emplace(key.stem, out.keys.size());
        out.keys.push_back(std::move(key));
    }
    for (size_t k = 0; k < out.keys.size(); ++k) {
        NodeKey& key = out.keys[k];
        const size_t most = key.count;
        key.first = out.instances.size();
        key.count = 0;
        if (key.broken) continue;
        if (out.instances.size() + most > kMostNodes) {
            key.broken = true;
            definition.problem(key.address, fmt::format("with this one, the pipeline stands for more than {} nodes, "
                                                        "expected fewer",
                                                        kMostNodes));
            break;
        }
        make_instances(out, k);
        key.broken = key.count == 0;
    }
    return out;
}

bool Expansion::uses_pipelines(const Definition& definition) const {
    return std::any_of(keys.begin(), keys.end(),
                       [&](const NodeKey& key) { return !pipeline_used(definition, key.address).empty(); });
}

void check_exclusions(Definition& definition, const Expansion& expansion) {
    std::vector<bool> used(expansion.exclusions.size(), false);
    bool broken = false;
    for (const NodeKey& key : expansion.keys) {
        if (!key.grid.empty() && key.count == 0)
            definition.problem(key.address,
                               fmt::format("nothing is left of '{}': all its nodes are excluded by {}", key.key,
                                           expansion.name_of_exclusion(definition, key.grid.front())));
        broken |= key.broken && key.grid.empty();
        for (const OnKey& exclusion : exclusions_of(key, expansion.exclusions)) used[exclusion.number] = true;
    }
    for (size_t e = 0; e < used.size() && !broken; ++e) {
        const Exclusion& exclusion = expansion.exclusions[e];
        if (used[e] || exclusion.idle) continue;
        std::vector<std::string> names;
        for (const auto& [axis, values] : exclusion.axes) names.push_back(axis->name);
        definition.problem(exclusion.address,
                           names.size() == 1
                               ? fmt::format("excludes nothing: no node has the axis '{}'", names[0])
                               : fmt::format("excludes nothing: no node has all the axes {}", fmt::join(names, ", ")));
    }
}

std::string Expansion::name_of_exclusion(const Definition& definition, size_t grid) const {
    const Where where = definition.where(exclusions[grid - NodeKey::kExcluded].address);
    return where.line > 0 ? fmt::format("{} in line {}", where.pointer, where.line) : where.text();
}

bool check_overlay_field(Definition& definition, const Expansion& expansion, const NodeKey& key,
                         const std::string& field) {
    std::vector<std::string> names;
    for (size_t i = 0; i < key.count && !key.axes.empty(); ++i) {
        const Instance& instance = expansion.instances[key.first + i];
        if (open_axes(field, key, instance) >= 0) return true;
        names.push_back("with" + instance.id.substr(key.stem.size()));
    }
    // Where the command line has shortened an axis, what the file says of its other values stays right; and so it does
    // of nodes that are excluded.
    const std::vector<std::string> values = split(std::string_view(field).substr(5, field.size() - 6), ',');
    bool known = !key.axes.empty() && values.size() == key.axes.size() && field.back() == ']' &&
                 std::any_of(values.begin(), values.end(), [](const auto& value) { return value != "*"; });
    for (size_t a = 0; known && a < values.size(); ++a) {
        if (values[a] == "*" || key.axes[a]->place.contains(values[a])) continue;
        const std::vector<std::string> all = texts_in_file(definition, *key.axes[a]);
        known = std::find(all.begin(), all.end(), values[a]) != all.end();
    }
    if (known) return false;
    definition.problem(
        pointer_join(key.address, field),
        with_nearest(fmt::format("'{}' names none of the nodes that '{}' stands for", field, key.key), field, names));
    return false;
}

std::string pipeline_used(const Definition& definition, const std::string& address_of_node) {
    const Json* use = definition.find(address_of_node + "/use");
    for (int i = 0; i < 100 && use != nullptr && Definition::is_param(*use) && (*use)["param"].is_string(); ++i)
        use = definition.find(pointer_join("/params", (*use)["param"].get<std::string>()));
    constexpr std::string_view kKind = "pipeline:";
    const bool uses = use != nullptr && use->is_string() && use->get_ref<const std::string&>().starts_with(kKind);
    return uses ? use->get<std::string>().substr(kKind.size()) : std::string();
}

namespace {

/// What --set calls a node of a pipeline may be its name inside, and the values of axes may stand at the node that uses
/// it: "one.expert.epochs" and "one[bird].expert.epochs" → "one.model[bird].epochs", which its id begins with.
std::string by_id(const Definition& definition, const std::string& given) {
    for (const auto& [key, inlined] : definition.all_inlined()) {
        if (!given.starts_with(inlined.stem)) continue;
        size_t at = inlined.stem.size();
        std::string brackets;
        if (at < given.size() && given[at] == '[') {
            const size_t close = std::min(given.find(']', at), given.size() - 1);
            brackets = given.substr(at, close + 1 - at);
            at = close + 1;
        }
        const std::string stem = key.substr(0, key.find('['));
        for (const std::string& name : {inlined.name, stem.substr(inlined.stem.size() + 1)}) {
            const size_t end = at + 1 + name.size();
            if (given.compare(at, end - at, "." + name) == 0 && end < given.size() &&
                (given[end] == '.' || (given[end] == '[' && brackets.empty())))
                return stem + brackets + given.substr(end);
        }
    }
    return given;
}

}  // namespace

void put_node_overrides(Definition& definition, const Expansion& expansion, const Overrides& overrides, bool users,
                        std::set<std::string>& done) {
    for (const auto& change : overrides.set) {
        const std::string& given = change.first;  // clang 14 captures no structured bindings
        const Json& value = change.second;
        const std::string section = given.substr(0, given.find('.'));
        if (section == "params" || section == "axes" || (!users && done.contains(given))) continue;
        const std::string name = by_id(definition, given);
        const Override by{
            .name = "--set " + given,
            .folder = overrides.working_folder.empty() ? std::filesystem::current_path() : overrides.working_folder};
        const Where where{.file = by.name};
        // The longest name wins: stems and values of axes may have dots.
        const NodeKey* key = nullptr;
        const Instance* node = nullptr;
        size_t length = 0;
        auto fits = [&](const std::string& candidate) {
            const bool fit = candidate.size() > length && name.starts_with(candidate) &&
                             (name.size() == candidate.size() || name[candidate.size()] == '.');
            if (fit) length = candidate.size();
            return fit;
        };
        for (const NodeKey& candidate : expansion.keys)
            if (fits(candidate.stem) || fits(candidate.key)) key = &candidate;
        for (const Instance& candidate : expansion.instances)
            if (fits(candidate.id)) {
                node = &candidate;
                key = &expansion.keys[candidate.key];
            }
        // What belongs to a node that uses a pipeline is put in first, but for what belongs to the nodes inside.
        const std::string pipeline = key == nullptr ? "" : pipeline_used(definition, key->address);
        const std::string params = pipeline.empty() ? "" : pointer_join("/pipelines", pipeline) + "/params";
        if (users) {
            const size_t bracket = name.find('[');
            const NodeKey* near = expansion.key_of_stem(name.substr(0, bracket));
            if (key == nullptr && bracket != std::string::npos && near != nullptr && !near->broken &&
                !pipeline_used(definition, near->address).empty()) {
                std::vector<std::string> names;
                for (size_t i = 0; i < near->count; ++i) names.push_back(expansion.instances[near->first + i].id);
                const std::string id = name.substr(0, std::min(name.find(']'), name.size() - 1) + 1);
                definition.problem(where, with_nearest(fmt::format("there is no node '{}'", id), id, names));
                done.insert(given);
            }
            if (pipeline.empty()) continue;
            const Json* inside = definition.find(pointer_join("/pipelines", pipeline) + "/nodes");
            const Json* outputs = definition.find(pointer_join("/pipelines", pipeline) + "/outputs");
            const std::string rest = name.substr(std::min(length + 1, name.size()));
            auto names_one = [&](const Json* nodes) {
                const std::vector<std::string> names = keys_of(nodes == nullptr ? Json() : *nodes);
                return std::any_of(names.begin(), names.end(), [&](const std::string& inner) {
                    return rest.starts_with(inner) &&
                           (rest.size() == inner.size() || rest[inner.size()] == '.' || rest[inner.size()] == '[');
                });
            };
            if (names_one(inside) || names_one(outputs)) continue;
            done.insert(given);
        }
        const std::string& first = name.substr(0, name.find_first_of(".["));
        if (key == nullptr && definition.broken_users().contains(first)) continue;
        if (key == nullptr) {
            std::vector<std::string> names = expansion.stems();
            const size_t open = name.find('[');
            const std::string stem = name.substr(0, std::min(open, name.find('.')));
            if (const NodeKey* near = expansion.key_of_stem(stem); near != nullptr && open != std::string::npos) {
                if (near->broken) continue;
                names.clear();
                for (size_t i = 0; i < near->count; ++i) names.push_back(expansion.instances[near->first + i].id);
                const std::string id =
                    name.substr(0, name.find(']') == std::string::npos ? name.size() : name.find(']') + 1);
                definition.problem(where, with_nearest(fmt::format("there is no node '{}'", id), id, names));
            } else {
                names.insert(names.end(), {"params", "axes"});
                definition.problem(where, with_nearest(fmt::format("there is no node '{}'", stem), stem, names));
            }
            continue;
        }
        if (length == name.size()) {
            definition.problem(
                where, found_expected("the name of a node", fmt::format("a parameter of it too: {}.parameter", name)));
            continue;
        }
        if (!definition.find(key->address)->is_object()) continue;  // told elsewhere
        const std::vector<std::string> path = split(std::string_view(name).substr(length + 1), '.');
        // Into a "with", or into what is laid over it for one node: there, what the path goes through is copied first,
        // so that items of lists can be set, too. `below`: what the field is laid over, "with" first.
        auto put = [&](const std::string& field, std::vector<std::string> below) {
            const std::string target = pointer_join(key->address, field);
            for (std::string& other : below) other = pointer_join(key->address, other);
            if (!params.empty()) below.insert(below.begin(), params);
            std::string at;
            for (size_t i = 0; i + 1 < path.size() && !below.empty(); ++i) {
                at += pointer_join("", path[i]);
                if (definition.find(target + at) != nullptr) continue;
                const auto from = std::find_if(below.rbegin(), below.rend(), [&](const std::string& other) {
                    return definition.find(other + at) != nullptr;
                });
                if (from == below.rend()) break;
                const std::string source = *from + at;
                // Of objects only what is said is laid over; they are made on the way.
                if (definition.find(source)->is_object() && !Definition::is_param(*definition.find(source))) continue;
                definition.copy(source, target + at);
                break;
            }
            std::vector<std::string> inside = path;
            inside.insert(inside.begin(), field);
            if (const std::string wrong = definition.put(key->address, inside, value, by); !wrong.empty())
                definition.problem(where, wrong);
        };
        if (node != nullptr && !key->axes.empty()) {
            std::vector<std::string> below = expansion.overlays_of(definition, *node);
            const std::string own = "with" + node->id.substr(key->stem.size());
            std::erase(below, own);
            below.insert(below.begin(), "with");
            put(own, below);
            continue;
        }
        put("with", {});
        // Said last, so it holds for each of the nodes, whatever was said of some of them before.
        auto says = [&](const std::string& field) {
            std::string at = pointer_join(key->address, field);
            if (const Json& all = *definition.find(at); Definition::is_param(all) && all["param"].is_string())
                at = pointer_join("/params", all["param"].get<std::string>());
            for (const std::string& step : path) {
                at += pointer_join("", step);
                const Json* found = definition.find(at);
                if (found == nullptr) return false;
                if (!found->is_structured() || Definition::is_param(*found)) return true;
            }
            return true;
        };
        std::set<std::string> put_in;
        for (size_t i = 0; i < key->count && !key->axes.empty(); ++i)
            for (const std::string& field : expansion.overlays_of(definition, expansion.instances[key->first + i]))
                if (says(field) && put_in.insert(field).second) put(field, {});
    }
}

std::string Traced::address(std::string_view pointer) const {
    const auto found = nearest_enclosing(from, pointer);
    return found == from.end() ? std::string(pointer)
                               : found->second + std::string(pointer.substr(found->first.size()));
}

void lay_over(Traced& base, const Traced& over) {
    auto lay = [&](auto& self, Json& at, const Json& value, const std::string& pointer) -> void {
        if (at.is_object() && value.is_object()) {
            for (const auto& [key, inner] : value.items()) self(self, at[key], inner, pointer_join(pointer, key));
            return;
        }
        at = value;
        const std::string below = pointer + "/", behind = pointer + "0";  // '0' follows '/'
        base.from.erase(base.from.lower_bound(below), base.from.lower_bound(behind));
        base.from[pointer] = over.address(pointer);
        for (auto from = over.from.lower_bound(below); from != over.from.lower_bound(behind); ++from)
            base.from.insert(*from);
    };
    lay(lay, base.value, over.value, "");
}

std::string used_note(const std::string& address, const std::string& used_by) {
    const bool elsewhere = address.starts_with("/params/") || address.starts_with("/axes/");
    return elsewhere && !address.starts_with(used_by) ? fmt::format(" (used by {})", used_by) : "";
}

Json braces_escaped(Json value) {
    if (value.is_string()) {
        std::string out;
        for (const char c : value.get_ref<const std::string&>())
            out += c == '{' || c == '}' ? std::string(2, c) : std::string(1, c);
        return out;
    }
    if (value.is_structured())
        for (auto& item : value) item = braces_escaped(item);
    return value;
}

namespace {

class Substitution {
public:
    Substitution(Definition& definition, const Instance* node, std::string used_by, Traced& out)
        : definition_(definition), node_(node), used_by_(std::move(used_by)), out_(out) {}

    bool run(const Json& in, const std::string& address) {
        out_ = {.value = {}, .from = {{"", address}}};
        value(in, "", address, 0, out_.value);
        return good_;
    }

private:
    void wrong(const std::string& address, const Message& message) {
        definition_.problem(address, message);
        good_ = false;
    }

    void value(const Json& in, const std::string& pointer, const std::string& address, int depth, Json& out) {
        if (++count_ > kMostValues || depth > kDeepest) {
            if (!too_much_) wrong(out_.from.at(""), "with its params put in, this is too large or too deeply nested");
            too_much_ = out_.too_large = true;
            return;
        }
        if (Definition::is_param(in)) return param(in, pointer, address, depth, out);
        if (in.is_string() && node_ != nullptr) return string(in.get_ref<const std::string&>(), pointer, address, out);
        if (in.is_object()) {
            out = Json::object();
            for (const auto& [key, inner] : in.items())
                value(inner, pointer_join(pointer, key), pointer_join(address, key), depth + 1, out[key]);
        } else if (in.is_array()) {
            out = Json::array();
            for (size_t i = 0; i < in.size(); ++i) {
                const std::string key = std::to_string(i);
                out.push_back(nullptr);
                value(in[i], pointer_join(pointer, key), pointer_join(address, key), depth + 1, out.back());
            }
        } else {
            out = in;
        }
    }

    void param(const Json& in, const std::string& pointer, const std::string& address, int depth, Json& out) {
        if (!in["param"].is_string())
            return wrong(pointer_join(address, "param"), found_expected(describe(in["param"]), "the name of a param"));
        const std::string name = in["param"];
        const std::string there = pointer_join("/params", name);
        if (definition_.find(there) == nullptr) {
            const std::vector<std::string> names = keys_of(definition_.json().value("params", Json::object()));
            return wrong(pointer_join(address, "param"),
                         with_nearest(fmt::format("there is no param '{}'", name), name, names, "; there are none"));
        }
        if (const auto found = std::find(open_.begin(), open_.end(), name); found != open_.end()) {
            // Told from its first name on, so that each way into the circle tells the same.
            std::vector<std::string> circle(found, open_.end());
            std::rotate(circle.begin(), std::min_element(circle.begin(), circle.end()), circle.end());
            circle.push_back(circle.front());
            return wrong(pointer_join("/params", circle.front()),
                         fmt::format("params refer to each other in a circle: {}", fmt::join(circle, " → ")));
        }
        open_.push_back(name);
        out_.from[pointer] = there;
        value(*definition_.find(there), pointer, there, depth + 1, out);
        open_.pop_back();
    }

    void string(const std::string& text, const std::string& pointer, const std::string& address, Json& out) {
        std::string filled;
        for (size_t i = 0; i < text.size(); ++i) {
            const char c = text[i];
            if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
                filled += c;
                ++i;
            } else if (c == '{') {
                const size_t end = text.find('}', i);
                const std::string name = end == std::string::npos ? "" : text.substr(i + 1, end - i - 1);
                if (!is_name(name))
                    return wrong(address, found_expected(describe(text),
                                                         "the name of an axis between { and }; a brace itself is "
                                                         "written {{") +
                                              used_note(address, used_by_ + pointer));
                const auto found = node_->axes.find(name);
                if (found == node_->axes.end()) {
                    std::vector<std::string> names;
                    for (const auto& [axis, value] : node_->axes) names.push_back(axis);
                    return wrong(
                        address,
                        fmt::format(
                            "'{{{}}}' names an axis that this node doesn't have; {}; a brace itself is written {{{{",
                            name, names.empty() ? "it has none" : fmt::format("it has: {}", fmt::join(names, ", "))) +
                            used_note(address, used_by_ + pointer));
                }
                if (i == 0 && end + 1 == text.size()) {
                    out = found->second->value;
                    out_.from[pointer] = found->second->address;
                    return;
                }
                filled += found->second->text;
                i = end;
            } else {
                filled += c;
            }
        }
        out = filled;
    }

    Definition& definition_;
    const Instance* node_;
    std::string used_by_;
    Traced& out_;
    std::vector<std::string> open_;  ///< params that are being put in
    size_t count_ = 0;
    bool too_much_ = false;
    bool good_ = true;
};

}  // namespace

bool substitute(Definition& definition, const std::string& address, const Json& missing, const Instance* node,
                const std::string& used_by, Traced& out) {
    const Json* found = definition.find(address);
    return Substitution(definition, node, used_by, out).run(found == nullptr ? missing : *found, address);
}

}  // namespace biophony
