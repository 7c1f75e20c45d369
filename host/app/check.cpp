#include <fmt/format.h>

#include "app/command.hpp"

namespace biophony::app {

int check_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    add_format_option(more);
    if (!parse_pipeline(
            arguments, "check FILE [--set NAME=VALUE]… [--params FILE]… [--format json] [--plugin-path DIR]…",
            "Checks a pipeline: syntax, names, ports, parameters, plugins, files, and whether nodes can go together as "
            "far as that is known before audio is read. Reports every problem with its place.",
            false, values, more))
        return 0;
    format_of(values);
    int status = 0;
    const std::string file = values["_file"].as<std::string>();
    try {
        const Registry registry = make_registry(values);
        std::vector<NodeNote> notes;
        const Graph graph = load_pipeline(values, registry, status, &notes);
        // What would fail in a run is wrong with the pipeline, for whoever checks it.
        if (status != 0) return status == static_cast<int>(Code::kPlugin) ? status : static_cast<int>(Code::kInvalid);
        if (wants_json(values)) {
            Json report = check_report({}, notes, values);
            report["nodes"] = graph.nodes.size();
            print_json(report, 2);
            return 0;
        }
        for (const NodeNote& note : notes) fmt::print("note: {}\n", note.what.text());
        fmt::print("{}: ok, {} nodes\n", file, graph.nodes.size());
    } catch (const Error& error) {
        if (!wants_json(values)) throw;
        print_problems({{error.code(), error.where(), error.message()}}, values);
        return static_cast<int>(error.code());
    }
    return 0;
}

}  // namespace biophony::app
