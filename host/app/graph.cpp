#include "pipeline/graph.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "app/command.hpp"
#include "base/nearest.hpp"
#include "pipeline/diagram.hpp"

namespace biophony::app {

int graph_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    more.add_options()("format", options::value<std::string>()->value_name("FORMAT")->default_value("dot"),
                       "dot (for Graphviz), mermaid, or json");
    more.add_options()("collapsed", "one box for all nodes that a key of the text stands for, with their number");
    if (!parse_pipeline(arguments, "graph FILE [--format dot|mermaid|json] [--collapsed]",
                        "Prints the graph of a pipeline as the text of a picture; implied nodes are dashed. For "
                        "example: biophony graph FILE --collapsed | dot -Tsvg > graph.svg",
                        false, values, more))
        return 0;
    const std::vector<std::string> known = {"dot", "mermaid", "json"};
    const std::string format = values["format"].as<std::string>();
    if (std::find(known.begin(), known.end(), format) == known.end())
        throw Error(
            Code::kInvalid,
            with_nearest(fmt::format("--format: found '{}', expected dot, mermaid or json", format), format, known));
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    const Diagram diagram = diagram_of(graph, values.count("collapsed") > 0);
    fmt::print("{}", format == "dot" ? as_dot(diagram)
                     : format == "mermaid"
                         ? as_mermaid(diagram)
                         : as_json(diagram).dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
    return 0;
}

}  // namespace biophony::app
