#include <fmt/format.h>

#include "app/command.hpp"

namespace biophony::app {

int plugins_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    add_plugin_options(described);
    options::variables_map values;
    if (!parse(arguments, "plugins [--plugin-path DIR]…",
               "Lists every item of every plugin library that is found, and every library that was refused, with the "
               "reason.",
               described, {}, values))
        return 0;
    const Registry registry = make_registry(values);
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
