#include "pipeline/run_diff.hpp"

#include <fmt/format.h>

#include <map>
#include <set>
#include <tuple>

#include "base/files.hpp"

namespace biophony {

namespace {

Json part(const Json& value, const char* name, Json otherwise) {
    if (!value.is_object()) return otherwise;
    const auto found = value.find(name);
    return found == value.end() || found->type() != otherwise.type() ? otherwise : *found;
}

std::string text(const Json& value, const char* name) {
    return part(value, name, "").get<std::string>();
}

/// Empty where the file isn't there.
Json read_object(const fs::path& path) {
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return Json::object();
    const Json value = read_json(path);
    if (!value.is_object())
        throw Error(Code::kInvalid, found_expected(describe(value), "an object"), {.file = path.string()});
    return value;
}

Json manifest_of(const fs::path& folder) {
    std::error_code ignored;
    if (!fs::is_directory(folder, ignored))
        throw Error(Code::kInvalid,
                    fs::exists(folder, ignored) ? "is a file, expected a run directory" : "there is no such folder",
                    {.file = folder.string()});
    if (!fs::exists(folder / "manifest.json", ignored))
        throw Error(Code::kInvalid,
                    fs::exists(folder / "biophony-run.txt", ignored)
                        ? "the run in this folder hasn't ended: it lacks manifest.json"
                        : "is no run directory: it lacks manifest.json",
                    {.file = folder.string()});
    Json manifest = read_object(folder / "manifest.json");
    if (!text(manifest, "format").starts_with("biophony-run/"))
        throw Error(Code::kInvalid,
                    fmt::format("the format is {}, expected one like \"biophony-run/0\"",
                                describe(manifest.value("format", Json()))),
                    {.file = (folder / "manifest.json").string()});
    return manifest;
}

/// Plugins by name, with what tells them apart. A library's file differs with each compilation, so it doesn't count.
Json plugins_of(const fs::path& folder) {
    Json out = Json::object();
    const Json plugins = part(read_object(folder / "lock.json"), "plugins", Json::object());
    for (const auto& entry : plugins.items())
        for (const char* name : {"version", "build", "interface"})
            if (entry.value().is_object() && entry.value().contains(name)) out[entry.key()][name] = entry.value()[name];
    return out;
}

std::map<std::string, Json> nodes_of(const Json& manifest) {
    std::map<std::string, Json> out;
    for (const Json& node : part(manifest, "nodes", Json::array()))
        if (const std::string id = text(node, "id"); !id.empty()) out[id] = node;
    return out;
}

Json description_of(const Json& node) {
    Json out = Json::object();
    for (const char* name : {"use", "seed", "in", "params"})
        if (node.contains(name)) out[name] = node[name];
    return out;
}

using Figures = std::map<std::tuple<std::string, std::string, std::string>, double>;

Figures figures_of(const fs::path& folder) {
    Figures out;
    const auto add = [&](const std::string& node, const std::string& group, const Json& entry) {
        for (const char* scope : {"within", "union"}) {
            const Json figures = part(entry, scope, Json::object());
            for (const auto& figure : figures.items())
                if (figure.value().is_number())
                    out[{node, group, fmt::format("{}.{}", scope, figure.key())}] = figure.value().get<double>();
        }
        if (entry.is_object() && entry.contains("clips") && entry["clips"].is_number())
            out[{node, group, "clips"}] = entry["clips"].get<double>();
    };
    const Json metrics = read_object(folder / "metrics.json");
    for (const auto& node : metrics.items()) {
        add(node.key(), "all", part(node.value(), "all", Json::object()));
        const Json groups = part(node.value(), "groups", Json::object());
        for (const auto& group : groups.items()) add(node.key(), group.key(), group.value());
    }
    return out;
}

}  // namespace

bool RunDifference::empty() const {
    return plugins.empty() && environment.empty() && nodes.empty() && only_first.empty() && only_second.empty() &&
           data.empty() && results.empty() && unfinished.empty() && figures.empty();
}

RunDifference compare_runs(const fs::path& first, const fs::path& second) {
    const Json a = manifest_of(first), b = manifest_of(second);
    RunDifference out;
    out.plugins = differences(plugins_of(first), plugins_of(second));
    out.environment = differences(part(a, "environment", Json::object()), part(b, "environment", Json::object()));
    std::map<std::string, Json> before = nodes_of(a), after = nodes_of(b);
    for (const auto& [id, node] : before)
        if (!after.contains(id)) out.only_first.push_back(id);
    for (const auto& [id, node] : after)
        if (!before.contains(id)) out.only_second.push_back(id);
    for (const auto& [id, node] : before) {
        const auto found = after.find(id);
        if (found == after.end()) continue;
        std::vector<Change> changes = differences(description_of(node), description_of(found->second));
        if (!changes.empty()) out.nodes.push_back({id, std::move(changes)});
        const std::string then = text(node, "digest"), now = text(found->second, "digest");
        if (then.empty() != now.empty())
            out.unfinished.push_back(id);
        else if (then == now)
            out.same_results += then.empty() ? 0 : 1;
        else if (const std::string use = text(node, "use"); use.starts_with("dataset:") || use == "background")
            out.data.push_back(id);
        else
            out.results.push_back(id);
    }
    const Figures old_figures = figures_of(first), new_figures = figures_of(second);
    std::set<Figures::key_type> names;
    for (const auto& [name, value] : old_figures) names.insert(name);
    for (const auto& [name, value] : new_figures) names.insert(name);
    for (const auto& name : names) {
        const auto then = old_figures.find(name), now = new_figures.find(name);
        RunDifference::Figure figure{std::get<0>(name), std::get<1>(name), std::get<2>(name), {}, {}};
        if (then != old_figures.end()) figure.first = then->second;
        if (now != new_figures.end()) figure.second = now->second;
        if (figure.first == figure.second)
            ++out.same_figures;
        else
            out.figures.push_back(figure);
    }
    return out;
}

}  // namespace biophony
