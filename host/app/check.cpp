#include <fmt/format.h>

#include "app/command.hpp"

namespace biophony::app {

int check_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    if (!parse_pipeline(
            arguments, "check FILE [--set NAME=VALUE]… [--params FILE]… [--plugin-path DIR]…",
            "Checks a pipeline: syntax, names, ports, parameters, plugins, files. Reports every problem with its "
            "place; reads no audio.",
            false, values))
        return 0;
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status == 0) fmt::print("{}: ok, {} nodes\n", values["_file"].as<std::string>(), graph.nodes.size());
    return status;
}

}  // namespace biophony::app
