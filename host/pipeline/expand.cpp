#include "pipeline/expand.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/nearest.hpp"

namespace biophony {

namespace {

/// Far more than anyone compares, far less than what fills the memory.
constexpr size_t kMostNodesOfAKey = 10'000;
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
                                  fmt::format("found the axis name '{}', expected letters, digits, '_', '-' and '.', "
                                              "with a letter or '_' in front",
                                              axis.name));
    if (!substitute(definition, address, {}, nullptr, address, list)) return;
    const std::string here = list.address("");
    const std::string note = used_note(here, address);
    if (!list.value.is_array() || list.value.empty())
        return definition.problem(here,
                                  fmt::format("found {}, expected a list of values for the axis '{}', at least one{}",
                                              describe(list.value), axis.name, note));
    bool good = true;
    std::set<std::string> seen;
    for (size_t i = 0; i < list.value.size(); ++i) {
        const Json& value = list.value[i];
        AxisValue one{.value = value, .address = list.address(fmt::format("/{}", i))};
        one.text = value.is_string() ? value.get<std::string>() : value.dump();
        std::string wrong;
        if (!value.is_string() && !value.is_number())
            wrong = fmt::format("found {}, expected a text or a number as a value of the axis '{}'", describe(value),
                                axis.name);
        else if (!fits_in_an_id(one.text))
            wrong = fmt::format(
                "found {}, expected a text that can stand in the name of a node: not empty, not '*', "
                "without brackets, commas, line breaks and spaces at its ends",
                describe(value));
        else if (!seen.insert(one.text).second)
            wrong = fmt::format("the value '{}' stands twice in the axis '{}'; keep one", one.text, axis.name);
        if (!wrong.empty()) {
            definition.problem(one.address, wrong + note);
            good = false;
        }
        axis.values.push_back(std::move(one));
    }
    axis.broken = !good;
}

NodeKey read_key(Definition& definition, const std::string& text, const std::map<std::string, Axis>& axes) {
    NodeKey key{.key = text, .stem = text, .address = pointer_join("/nodes", text), .broken = true};
    auto wrong = [&](const std::string& message) {
        definition.problem(key.address, message);
        return key;
    };
    const size_t open = text.find('[');
    key.stem = text.substr(0, open);
    if (!is_name(key.stem) || (open != std::string::npos && (text.back() != ']' || text.size() < open + 3)))
        return wrong(
            fmt::format("found the node name '{}', expected name or name[axis] or name[axis,axis]; names have letters, "
                        "digits, '_', '-' and '.', with a letter or '_' in front",
                        text));
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
            return wrong(fmt::format("there is no axis '{}'{}", name,
                                     names.empty() ? "; there are none" : did_you_mean(name, names)));
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

const NodeKey* Expansion::key_of_stem(std::string_view stem) const {
    for (const NodeKey& key : keys)
        if (key.stem == stem) return &key;
    return nullptr;
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
    for (const std::string& field : keys_of(node == nullptr || !node->is_object() ? Json::object() : *node)) {
        const int open = open_axes(field, key, instance);
        if (open >= 0) found.emplace_back(-open, field);
    }
    std::sort(found.begin(), found.end());
    std::vector<std::string> out;
    for (const auto& [open, field] : found) out.push_back(field);
    return out;
}

Expansion expand_axes(Definition& definition) {
    Expansion out;
    const Json& json = definition.json();
    for (const std::string& name : keys_of(json.value("axes", Json::object()))) {
        Axis& axis = out.axes[name];
        axis.name = name;
        read_axis(definition, axis);
    }
    // Objects are sorted by key; people think in the order of their text.
    std::vector<std::string> texts = keys_of(json.value("nodes", Json::object()));
    auto place = [&](const std::string& text) {
        const Where where = definition.where(pointer_join("/nodes", text));
        return std::pair(where.line, where.column);
    };
    std::stable_sort(texts.begin(), texts.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
    for (const std::string& text : texts) {
        NodeKey key = read_key(definition, text, out.axes);
        if (const NodeKey* other = out.key_of_stem(key.stem); other != nullptr) {
            definition.problem(key.address,
                               fmt::format("there are two nodes called '{}', here and in line {}; rename one", key.stem,
                                           definition.where(other->address).line));
            continue;
        }
        out.keys.push_back(std::move(key));
    }
    for (size_t k = 0; k < out.keys.size(); ++k) {
        NodeKey& key = out.keys[k];
        key.first = out.instances.size();
        key.count = 0;
        if (key.broken) continue;
        std::vector<size_t> at(key.axes.size(), 0);
        for (bool more = true; more;) {
            Instance node{.key = k};
            std::string brackets;
            for (size_t a = 0; a < at.size(); ++a) {
                const AxisValue& value = key.axes[a]->values[at[a]];
                node.axes[key.axes[a]->name] = &value;
                brackets += (a == 0 ? "" : ",") + value.text;
            }
            node.id = at.empty() ? key.stem : key.stem + "[" + brackets + "]";
            out.instances.push_back(std::move(node));
            ++key.count;
            more = false;
            for (size_t a = at.size(); a-- > 0 && !more;) {
                more = ++at[a] < key.axes[a]->values.size();
                if (!more) at[a] = 0;
            }
        }
    }
    return out;
}

void put_node_overrides(Definition& definition, const Expansion& expansion, const Overrides& overrides) {
    for (const auto& change : overrides.set) {
        const std::string& name = change.first;  // clang 14 captures no structured bindings
        const Json& value = change.second;
        const std::string section = name.substr(0, name.find('.'));
        if (section == "params" || section == "axes") continue;
        const Override by{
            .name = "--set " + name,
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
                definition.problem(where, fmt::format("there is no node '{}'{}", id, did_you_mean(id, names)));
            } else {
                names.insert(names.end(), {"params", "axes"});
                definition.problem(where, fmt::format("there is no node '{}'{}", stem, did_you_mean(stem, names)));
            }
            continue;
        }
        if (length == name.size()) {
            definition.problem(
                where, fmt::format("found the name of a node, expected a parameter of it too: {}.parameter", name));
            continue;
        }
        if (!definition.find(key->address)->is_object()) continue;  // told elsewhere
        const std::vector<std::string> path = split(std::string_view(name).substr(length + 1), '.');
        // Into a "with", or into what is laid over it for one node: there, what the path goes through is copied first,
        // so that items of lists can be set, too. `below`: what the field is laid over, "with" first.
        auto put = [&](const std::string& field, const std::vector<std::string>& below) {
            const std::string target = pointer_join(key->address, field);
            std::string at;
            for (size_t i = 0; i + 1 < path.size() && field != "with"; ++i) {
                at += pointer_join("", path[i]);
                if (definition.find(target + at) != nullptr) continue;
                const auto from = std::find_if(below.rbegin(), below.rend(), [&](const std::string& other) {
                    return definition.find(pointer_join(key->address, other) + at) != nullptr;
                });
                if (from == below.rend()) break;
                const std::string source = pointer_join(key->address, *from) + at;
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
        std::set<std::string> done;
        for (size_t i = 0; i < key->count && !key->axes.empty(); ++i)
            for (const std::string& field : expansion.overlays_of(definition, expansion.instances[key->first + i]))
                if (says(field) && done.insert(field).second) put(field, {});
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
    void wrong(const std::string& address, const std::string& message) {
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
            return wrong(pointer_join(address, "param"),
                         fmt::format("found {}, expected the name of a param", describe(in["param"])));
        const std::string name = in["param"];
        const std::string there = pointer_join("/params", name);
        if (definition_.find(there) == nullptr) {
            const std::vector<std::string> names = keys_of(definition_.json().value("params", Json::object()));
            return wrong(pointer_join(address, "param"),
                         fmt::format("there is no param '{}'{}", name,
                                     names.empty() ? "; there are none" : did_you_mean(name, names)));
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
                    return wrong(
                        address,
                        fmt::format("found {}, expected the name of an axis between {{ and }}; a brace itself is "
                                    "written {{{{",
                                    describe(text)) +
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
