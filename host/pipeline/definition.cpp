#include "pipeline/definition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/nearest.hpp"

namespace biophony {

namespace fs = std::filesystem;

bool is_name(std::string_view text) {
    if (text.empty()) return false;
    return std::all_of(text.begin(), text.end(), [&](const char& c) {
        const auto u = static_cast<unsigned char>(c);
        const bool letter = (std::isalpha(u) != 0 && u < 128) || c == '_';
        return letter || (&c != text.data() && (std::isdigit(u) != 0 || c == '.' || c == '-'));
    });
}

std::vector<std::string> keys_of(const Json& object) {
    std::vector<std::string> out;
    if (object.is_object())
        for (const auto& [key, value] : object.items()) out.push_back(key);
    return out;
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> out;
    for (size_t begin = 0;;) {
        const size_t end = text.find(separator, begin);
        out.emplace_back(text.substr(begin, end - begin));
        if (end == std::string_view::npos) return out;
        begin = end + 1;
    }
}

std::vector<std::string> steps_of(std::string_view pointer) {
    if (pointer.empty()) return {};
    std::vector<std::string> steps = split(pointer.substr(1), '/');
    for (std::string& key : steps)
        for (size_t at = 0; (at = key.find('~', at)) != std::string::npos; ++at)
            key.replace(at, 2, key.compare(at, 2, "~1") == 0 ? "/" : "~");
    return steps;
}

std::string any_of(const std::vector<std::string>& names) {
    std::string out;
    for (size_t i = 0; i < names.size(); ++i) out += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
    return out;
}

namespace {

const std::vector<std::string> kTopLevel = {"biophony", "$schema", "name", "description",
                                            "notes",    "params",  "axes", "nodes"};

/// "recipe.rate" of --set params.recipe.rate → "recipe" where that is a known name, and the rest. The longest name
/// wins, as names may have dots.
std::string longest_name(const std::string& text, const std::vector<std::string>& names) {
    std::string best;
    for (const std::string& name : names)
        if (text.starts_with(name) && (text.size() == name.size() || text[name.size()] == '.') &&
            name.size() > best.size())
            best = name;
    return best;
}

}  // namespace

Definition::Definition(std::string text, const fs::path& file, const Overrides& overrides,
                       std::vector<Diagnostic>& problems)
    : problems_(problems), folder_(fs::absolute(file).lexically_normal().parent_path()) {
    const size_t before = problems.size();
    text_ = JsonText::parse(std::move(text), file.string(), problems);
    json_ = text_.value();
    if (!json_.is_object()) {
        if (problems.size() == before)
            problem("", fmt::format("found {}, expected a pipeline: an object with \"biophony\": 1 and \"nodes\"",
                                    describe(json_)));
        return;
    }
    usable_ = true;
    check_top_level();

    const fs::path working = overrides.working_folder.empty() ? fs::current_path() : overrides.working_folder;
    for (const auto& [path, value] : overrides.params_files) put_params_file(path, value, working);
    for (const auto& [name, value] : overrides.set) {
        const std::string section = name.substr(0, name.find('.'));
        if (section != "params" && section != "axes") continue;  // nodes come later, when the axes are known
        const std::string rest = name.size() > section.size() ? name.substr(section.size() + 1) : "";
        const Override by{.name = "--set " + name, .folder = working};
        const std::vector<std::string> names = keys_of(json_.value(section, Json::object()));
        const std::string found = longest_name(rest, names);
        if (rest.empty()) {
            problem(Where{.file = by.name},
                    fmt::format("found '{}', expected a name behind it, like {}.name=value", name, section));
            continue;
        }
        if (found.empty()) {
            problem(Where{.file = by.name},
                    fmt::format("the pipeline has no {} '{}'{}", section == "axes" ? "axis" : "param", rest,
                                names.empty() ? "; it has none" : did_you_mean(rest, names)));
            continue;
        }
        std::vector<std::string> path;
        if (rest.size() > found.size()) path = split(std::string_view(rest).substr(found.size() + 1), '.');
        if (const std::string wrong = put(pointer_join("/" + section, found), path, value, by); !wrong.empty())
            problem(Where{.file = by.name}, wrong);
    }
}

void Definition::check_top_level() {
    for (const std::string& key : keys_of(json_))
        if (std::find(kTopLevel.begin(), kTopLevel.end(), key) == kTopLevel.end()) {
            problem(pointer_join("", key), fmt::format("unknown key '{}'{}", key, did_you_mean(key, kTopLevel)));
        }
    if (!json_.contains("biophony"))
        problem("", "the key \"biophony\" is missing, expected \"biophony\": 1");
    else if (json_["biophony"] != 1 || !json_["biophony"].is_number_integer())
        problem("/biophony",
                fmt::format("found {}, expected 1, the only version of the format", describe(json_["biophony"])));
    for (const char* key : {"$schema", "name", "description"})
        if (json_.contains(key) && !json_[key].is_string())
            problem(pointer_join("", key), fmt::format("found {}, expected a text", describe(json_[key])));
    for (const char* key : {"params", "axes", "nodes"}) {
        if (json_.contains(key) && !json_[key].is_object()) {
            problem(pointer_join("", key), fmt::format("found {}, expected an object", describe(json_[key])));
            json_[key] = Json::object();
        } else if (std::string_view(key) == "nodes" && (!json_.contains(key) || json_[key].empty())) {
            problem("/nodes", json_.contains(key) ? "there are no nodes, expected at least one"
                                                  : "the key \"nodes\" is missing, expected an object of nodes");
            json_[key] = Json::object();
        }
    }
}

void Definition::put_params_file(const fs::path& path, const Json& value, const fs::path& working) {
    const fs::path full = path.is_absolute() ? path : working / path;
    const Where where{.file = path.string()};
    if (!value.is_object())
        return problem(where, fmt::format("found {}, expected an object of params", describe(value)));
    auto lay = [&](const std::string& section, const std::string& hidden, const Json& over) {
        const std::vector<std::string> names = keys_of(json_.value(section, Json::object()));
        for (const auto& [name, item] : over.items()) {
            if (section == "params" && name == "axes") continue;
            const std::string address = pointer_join("/" + section, name);
            if (std::find(names.begin(), names.end(), name) == names.end())
                problem(Where{.file = path.string(), .pointer = address.substr(hidden.size())},
                        fmt::format("the pipeline has no {} '{}'{}", section == "axes" ? "axis" : "param", name,
                                    names.empty() ? "; it has none" : did_you_mean(name, names)));
            else
                put(address, {}, item,
                    {.name = path.string(), .folder = full.lexically_normal().parent_path(), .hidden = hidden});
        }
    };
    lay("params", "/params", value);
    if (!value.contains("axes")) return;
    if (value["axes"].is_object())
        lay("axes", "", value["axes"]);
    else
        problem(Where{.file = path.string(), .pointer = "/axes"},
                fmt::format("found {}, expected an object of axes", describe(value["axes"])));
}

const Json* Definition::find(const std::string& address) const {
    const Json* at = &json_;
    for (const std::string& key : steps_of(address)) {
        if (at->is_object() && at->contains(key))
            at = &(*at)[key];
        else if (at->is_array() && !key.empty() && key.size() < 10 && std::all_of(key.begin(), key.end(), ::isdigit) &&
                 std::stoul(key) < at->size())
            at = &(*at)[std::stoul(key)];
        else
            return nullptr;
    }
    return at;
}

const Override* Definition::override_of(const std::string& address) const {
    const auto found = nearest_enclosing(overrides_, address);
    return found == overrides_.end() ? nullptr : &found->second;
}

Where Definition::where(const std::string& address) const {
    if (const Override* by = override_of(address))
        return {.file = by->name, .pointer = address.substr(std::min(by->hidden.size(), address.size()))};
    return text_.where(address);
}

fs::path Definition::folder(const std::string& address) const {
    const Override* by = override_of(address);
    return by != nullptr ? by->folder : folder_;
}

void Definition::problem(const std::string& address, std::string message, Code code) {
    problem(where(address), std::move(message), code);
}

void Definition::problem(Where where, std::string message, Code code) {
    problems_.push_back({code, std::move(where), std::move(message)});
}

std::string Definition::put(const std::string& address, const std::vector<std::string>& path, Json value, Override by) {
    Json* at = &json_;
    std::string here;
    std::vector<std::string> steps = steps_of(address);
    const size_t fixed = steps.size();
    steps.insert(steps.end(), path.begin(), path.end());
    for (size_t i = 0; i < steps.size(); ++i) {
        const std::string& key = steps[i];
        if (i >= fixed && is_param(*at))
            return fmt::format("'{}' lies inside of {}, which is set as a whole; set params.{} instead", key,
                               at->dump(), (*at)["param"].is_string() ? (*at)["param"].get<std::string>() : "…");
        if (key.empty()) return "found two dots in a row, or one at the end, expected a name between and after dots";
        here = pointer_join(here, key);
        if (at->is_null()) *at = Json::object();
        if (at->is_object()) {
            at = &(*at)[key];
        } else if (at->is_array()) {
            const bool number = key.size() < 7 && std::all_of(key.begin(), key.end(), ::isdigit);
            if (!number || std::stoul(key) >= at->size())
                return fmt::format("found '{}', expected the number of an item of an array of {}, from 0", key,
                                   at->size());
            at = &(*at)[std::stoul(key)];
        } else {
            return fmt::format("'{}' can't be set inside of {}, expected an object or an array", key, describe(*at));
        }
    }
    *at = std::move(value);
    // What was changed below is gone.
    const std::string below = here + "/";
    overrides_.erase(overrides_.lower_bound(below), overrides_.lower_bound(here + "0"));  // '0' follows '/'
    overrides_[here] = std::move(by);
    return {};
}

void Definition::copy(const std::string& from, const std::string& to) {
    const Json* found = find(from);
    const Json* parent = find(to.substr(0, to.rfind('/')));
    if (found == nullptr || (parent != nullptr && !parent->is_object())) return;
    json_[Json::json_pointer(to)] = Json(*found);
    std::map<std::string, Override> moved;
    if (const Override* by = override_of(from)) moved[to] = *by;
    for (auto at = overrides_.lower_bound(from + "/"); at != overrides_.lower_bound(from + "0"); ++at)
        moved[to + at->first.substr(from.size())] = at->second;
    overrides_.merge(moved);
}

void Definition::rewrite(const std::string& address, Json value) {
    Json* at = const_cast<Json*>(find(address));  // NOLINT: find() is shared by both kinds of callers
    if (at != nullptr) *at = std::move(value);
}

}  // namespace biophony
