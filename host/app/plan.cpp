#include <fmt/format.h>

#include "app/command.hpp"
#include "app/console.hpp"

namespace biophony::app {

int plan_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    if (!parse_pipeline(
            arguments, "plan FILE [options]",
            "Says for each node whether its result is there or would be made, and why. Data sets are looked at; "
            "nothing else runs.",
            true, values, add_format_option))
        return 0;
    format_of(values);
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    Console console;
    std::vector<PlannedNode> plan;
    std::string needs;
    try {
        plan = plan_graph(graph, registry, run_options(values, {}), console, needs);
    } catch (const ProblemsError& error) {
        console.clear();
        print_problems(error.problems(), values);
        return static_cast<int>(error.code());
    }
    console.clear();
    size_t width = 4, to_run = 0;
    for (const PlannedNode& planned : plan) width = std::max(width, planned.node->id.size());
    for (const PlannedNode& planned : plan) {
        const char* state = planned.state == PlannedNode::State::kCached  ? "cached"
                            : planned.state == PlannedNode::State::kLooks ? "looks"
                                                                          : "run";
        to_run += planned.state == PlannedNode::State::kRun ? 1 : 0;
        const bool runs = planned.state == PlannedNode::State::kRun && !planned.memory.empty();
        fmt::print("{:<7} {:<{}}  {:<12} {}{}{}\n", state, planned.node->id, width,
                   planned.node->item == nullptr ? planned.node->type->name : planned.node->item->name(),
                   planned.reason, planned.node->implied ? " (implied by the table)" : "",
                   runs ? fmt::format(" [{}]", planned.memory) : "");
    }
    fmt::print("{} of {} nodes to run\n", to_run, plan.size());
    if (!needs.empty()) fmt::print("{}\n", needs);
    return 0;
}

}  // namespace biophony::app
