#include <fmt/format.h>

#include "app/command.hpp"

namespace biophony::app {

Json json_of(const ItemInfo& item) {
    Json out = item.raw;  // with what only its kind has
    out["name"] = item.name();
    out["version"] = item.version;
    out["parameters"] = item.parameters;
    out["library"] = item.library.string();
    out["build"] = item.build;
    return out;
}

Json json_of(const PluginFile& file) {
    Json items = Json::array();
    for (const ItemInfo& item : file.items) items.push_back(json_of(item));
    return {{"file", file.path.string()},     {"sha256", file.sha256}, {"version", file.version},
            {"state", to_string(file.state)}, {"reason", file.reason}, {"items", items}};
}

int plugins_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    add_plugin_options(described);
    add_format_option(described);
    options::variables_map values;
    if (!parse(arguments, "plugins [--format json] [--plugin-path DIR]…",
               "Lists every item of every plugin library that is found, and every library that was refused, with the "
               "reason.",
               described, {}, values))
        return 0;
    const Registry registry = make_registry(values);
    if (format_of(values) == "json") {
        Json files = Json::array(), folders = Json::array();
        for (const PluginFile& file : registry.files()) files.push_back(json_of(file));
        for (const fs::path& folder : registry.folders()) folders.push_back(folder.string());
        print_json(Json{{"libraries", files}, {"folders", folders}}, 2);
        return 0;
    }
    size_t width = 10;
    for (const ItemInfo* item : registry.items()) width = std::max(width, item->name().size());
    for (const ItemInfo* item : registry.items())
        fmt::print("{:<{}}  {:<8}  {}\n", item->name(), width, item->version,
                   item->title.empty() ? item->summary : item->title);
    bool refused = false;
    for (const PluginFile& file : registry.files()) {
        if (file.state == PluginState::kOk && file.reason.empty()) continue;
        if (!refused) fmt::print("\n");
        refused = true;
        fmt::print(
            "{} {}: {}\n", file.state == PluginState::kOk ? "note   " : "refused", file.path.string(),
            file.state == PluginState::kOk ? file.reason : fmt::format("{}: {}", to_string(file.state), file.reason));
    }
    if (registry.items().empty()) {
        fmt::print("no plugin was found; looked in:\n");
        for (const fs::path& folder : registry.folders()) fmt::print("  {}\n", folder.string());
    }
    return 0;
}

}  // namespace biophony::app
