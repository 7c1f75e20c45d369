#include "pipeline/definition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/files.hpp"
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

Message no_such_file(const fs::path& missing) {
    Message message("file not found: " + missing.string());
    message.found = "'" + missing.filename().string() + "'";
    std::vector<std::string> names;
    std::error_code failed;
    if (!fs::is_directory(missing.parent_path(), failed))
        return message + fmt::format("; the folder {} isn't there either", missing.parent_path().string());
    for (fs::directory_iterator at(missing.parent_path(), failed), end; !failed && at != end && names.size() < 10'000;
         at.increment(failed))
        names.push_back(at->path().filename().string());
    std::sort(names.begin(), names.end());
    return suggesting(std::move(message), nearest(missing.filename().string(), names));
}

namespace {

const std::vector<std::string> kTopLevel = {"biophony", "$schema", "name",      "description", "notes",  "params",
                                            "axes",     "exclude", "pipelines", "nodes",       "outputs"};

/// A pipeline with more text than this was written by a program that went wrong.
constexpr size_t kMostText = 16 << 20;

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
    : problems_(problems),
      folder_(fs::absolute(file).lexically_normal().parent_path()),
      shown_folder_(file.parent_path().string()) {
    const size_t before = problems.size();
    if (text.size() > kMostText) {
        problem(Where{.file = file.string()},
                found_expected(fmt::format("{} MiB", text.size() >> 20),
                               fmt::format("a pipeline, which has at most {}", kMostText >> 20)));
        return;
    }
    text_ = JsonText::parse(std::move(text), file.string(), problems);
    json_ = text_.value();
    if (!json_.is_object()) {
        if (problems.size() == before)
            problem("", found_expected(describe(json_), "a pipeline: an object with \"biophony\": 1 and \"nodes\""));
        return;
    }
    usable_ = true;
    check_top_level();

    const fs::path working = overrides.working_folder.empty() ? fs::current_path() : overrides.working_folder;
    for (const JsonText& params : overrides.params_files) put_params_file(params, working);
    for (const auto& [name, value] : overrides.set) {
        const std::string section = name.substr(0, name.find('.'));
        if (section != "params" && section != "axes") continue;  // nodes come later, when the axes are known
        const std::string rest = name.size() > section.size() ? name.substr(section.size() + 1) : "";
        const Override by{.name = "--set " + name, .folder = working};
        const std::vector<std::string> names = keys_of(json_.value(section, Json::object()));
        const std::string found = longest_name(rest, names);
        if (rest.empty()) {
            problem(Where{.file = by.name},
                    found_expected(fmt::format("'{}'", name),
                                   fmt::format("a name behind it, like {}.name=value", section)));
            continue;
        }
        if (found.empty()) {
            problem(Where{.file = by.name},
                    with_nearest(fmt::format("the pipeline has no {} '{}'", section == "axes" ? "axis" : "param", rest),
                                 rest, names, "; it has none"));
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
            problem(pointer_join("", key), with_nearest(fmt::format("unknown key '{}'", key), key, kTopLevel));
        }
    if (!json_.contains("biophony"))
        problem("", missing("the key \"biophony\"", "\"biophony\": 1"));
    else if (json_["biophony"] != 1 || !json_["biophony"].is_number_integer())
        problem("/biophony", found_expected(describe(json_["biophony"]), "1, the only version of the format"));
    for (const char* key : {"$schema", "name", "description"})
        if (json_.contains(key) && !json_[key].is_string())
            problem(pointer_join("", key), found_expected(describe(json_[key]), "a text"));
    for (const char* key : {"params", "axes", "nodes", "pipelines", "outputs"}) {
        if (json_.contains(key) && !json_[key].is_object()) {
            problem(pointer_join("", key), found_expected(describe(json_[key]), "an object"));
            json_[key] = Json::object();
        } else if (std::string_view(key) == "nodes" && (!json_.contains(key) || json_[key].empty())) {
            problem("/nodes", json_.contains(key) ? "there are no nodes, expected at least one"
                                                  : missing("the key \"nodes\"", "an object of nodes"));
            json_[key] = Json::object();
        }
    }
}

void Definition::put_params_file(const JsonText& file, const fs::path& working) {
    const Json& value = file.value();
    if (!value.is_object()) return problem(file.where(""), found_expected(describe(value), "an object of params"));
    const auto text = std::make_shared<const JsonText>(file);
    const fs::path folder = (working / file.file()).lexically_normal().parent_path();
    auto lay = [&](const std::string& section, const std::string& hidden, const Json& over) {
        const std::vector<std::string> names = keys_of(json_.value(section, Json::object()));
        for (const auto& [name, item] : over.items()) {
            if (section == "params" && name == "axes") continue;
            const std::string address = pointer_join("/" + section, name);
            if (std::find(names.begin(), names.end(), name) == names.end())
                problem(
                    file.where(address.substr(hidden.size())),
                    with_nearest(fmt::format("the pipeline has no {} '{}'", section == "axes" ? "axis" : "param", name),
                                 name, names, "; it has none"));
            else
                put(address, {}, item, {.name = file.file(), .folder = folder, .hidden = hidden, .text = text});
        }
    };
    lay("params", "/params", value);
    if (!value.contains("axes")) return;
    if (value["axes"].is_object())
        lay("axes", "", value["axes"]);
    else
        problem(file.where("/axes"), found_expected(describe(value["axes"]), "an object of axes"));
}

void Definition::read_file_at(const std::string& address, const std::string& name) {
    const fs::path full = (folder(address) / name).lexically_normal();
    const fs::path shown = fs::path(shown_folder_) / name;
    std::error_code failed;
    json_[Json::json_pointer(address)] = nullptr;
    if (!fs::exists(full, failed)) return problem(address, no_such_file(full));
    if (!fs::is_regular_file(full, failed) || fs::file_size(full, failed) > kMostText)
        return problem(address, fmt::format("{} is no file of at most {} MiB", full.string(), kMostText >> 20));
    std::string content;
    try {
        content = read_file(full);
    } catch (const Error& error) {
        return problem(address, error.what());
    }
    const size_t before = problems_.size();
    auto text = std::make_shared<JsonText>(JsonText::parse(std::move(content), shown.string(), problems_));
    if (problems_.size() == before) json_[Json::json_pointer(address)] = text->value();
    overrides_[address] = {
        .name = shown.string(), .folder = full.parent_path(), .hidden = address, .text = std::move(text)};
}

void Definition::inline_nodes(const std::string& user, Json nodes, std::map<std::string, Inlined> inlined,
                              const std::map<std::string, std::string>& from) {
    json_["nodes"].erase(user);
    for (auto& [key, node] : nodes.items()) {
        const std::string address = pointer_join("/nodes", key);
        if (json_["nodes"].contains(key)) {
            problem(address, fmt::format("there is a node '{}' already, of '{}'; rename one", key, user));
            inlined.erase(key);
            broken_users_.insert(user.substr(0, user.find('[')));
            continue;
        }
        json_["nodes"][key] = std::move(node);
    }
    inlined_.merge(inlined);
    for (const auto& [address, raw] : from)
        if (inlined_.contains(steps_of(address)[1])) moved_.emplace(address, raw);
}

void Definition::drop_broken(const std::string& user) {
    json_["nodes"].erase(user);
    broken_users_.insert(user.substr(0, user.find('[')));
}

Json Definition::original_axis(const std::string& name) const {
    auto entry = [&](const char* part, const std::string& key) {
        const Json all = text_.value().value(part, Json());
        return all.is_object() ? all.value(key, Json()) : Json();
    };
    auto resolved = [&](Json value) {
        for (int i = 0; i < 100 && is_param(value) && value["param"].is_string(); ++i)
            value = entry("params", value["param"].get<std::string>());
        return value;
    };
    Json list = resolved(entry("axes", name));
    for (auto& item : list)
        if (list.is_array()) item = resolved(item);
    return list;
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

std::string Definition::origin(std::string address) const {
    // What was moved comes from the text, which nothing was moved to.
    for (auto moved = nearest_enclosing(moved_, address); moved != moved_.end();
         moved = nearest_enclosing(moved_, address)) {
        const auto by = nearest_enclosing(overrides_, address);
        if (by != overrides_.end() && by->first.size() >= moved->first.size()) break;  // changed since
        address = moved->second + address.substr(moved->first.size());
    }
    return address;
}

Where Definition::where(const std::string& address) const {
    const std::string at = origin(address);
    const Override* by = override_of(at);
    // What the command line made on the way to something deeper comes from there, too.
    if (by == nullptr && !text_.has(at))
        if (const auto below = overrides_.lower_bound(at + "/");
            below != overrides_.end() && below->first.starts_with(at + "/"))
            by = &below->second;
    if (by == nullptr) return text_.where(at);
    const std::string below = at.substr(std::min(by->hidden.size(), at.size()));
    return by->text != nullptr ? by->text->where(below) : Where{.file = by->name, .pointer = below};
}

fs::path Definition::folder(const std::string& address) const {
    const Override* by = override_of(origin(address));
    return by != nullptr ? by->folder : folder_;
}

void Definition::problem(const std::string& address, Message message, Code code) {
    Where place = where(address);
    if (const std::string at = origin(address); at != address) {
        if (!told_.insert(fmt::format("inside {} {}", place.text(), message.text)).second) return;
        const std::string key = steps_of(address).at(1);
        message += fmt::format(" (in '{}')", key);
    }
    problem(std::move(place), std::move(message), code);
}

void Definition::problem(Where where, Message message, Code code) {
    if (too_many_problems() || !told_.insert(fmt::format("{} {}", where.text(), message.text)).second) return;
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
    moved_.erase(moved_.lower_bound(below), moved_.lower_bound(here + "0"));
    overrides_[here] = std::move(by);
    return {};
}

void Definition::copy(const std::string& from, const std::string& to) {
    const Json* found = find(from);
    const Json* parent = find(to.substr(0, to.rfind('/')));
    if (found == nullptr || (parent != nullptr && !parent->is_object())) return;
    json_[Json::json_pointer(to)] = Json(*found);
    std::map<std::string, Override> moved;
    if (const Override* by = override_of(origin(from)); by != nullptr && by->text == nullptr)
        moved[to] = *by;
    else if (const std::string at = origin(from); at != from || by != nullptr)
        moved_[to] = at;
    for (auto at = overrides_.lower_bound(from + "/"); at != overrides_.lower_bound(from + "0"); ++at)
        moved[to + at->first.substr(from.size())] = at->second;
    std::map<std::string, std::string> below;
    for (auto at = moved_.lower_bound(from + "/"); at != moved_.lower_bound(from + "0"); ++at)
        below[to + at->first.substr(from.size())] = at->second;
    moved_.merge(below);
    overrides_.merge(moved);
}

void Definition::rewrite(const std::string& address, Json value) {
    Json* at = const_cast<Json*>(find(address));  // NOLINT: find() is shared by both kinds of callers
    if (at != nullptr) *at = std::move(value);
}

}  // namespace biophony
