#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "app/command.hpp"
#include "app/console.hpp"

namespace biophony::app {

namespace {

void print_records(const Plan& plan, const Graph& graph, const std::string& file) {
    Json nodes = Json::array();
    for (const PlannedNode& planned : plan.nodes) {
        if (planned.node == nullptr) continue;
        const GraphNode& node = *planned.node;
        Json waits = Json::array();
        for (const size_t source : planned.waits) waits.push_back(graph.nodes[source].id);
        nodes.push_back({{"id", node.id},
                         {"use", node.use()},
                         {"state", to_string(planned.state)},
                         {"reason", planned.reason},
                         {"key", planned.key.empty() ? Json(nullptr) : Json(planned.key)},
                         {"folder", planned.result ? Json(planned.result->folder.string()) : Json(nullptr)},
                         {"inputs", graph.input_ids(node)},
                         {"waits", waits},
                         {"implied", node.implied},
                         {"seconds", planned.seconds ? Json(*planned.seconds) : Json(nullptr)},
                         {"memory", planned.memory},
                         {"memory_bytes", planned.memory_bytes ? Json(*planned.memory_bytes) : Json(nullptr)},
                         {"bytes", planned.bytes ? Json(*planned.bytes) : Json(nullptr)}});
    }
    const Json out = {{"format", "biophony-plan/0"},
                      {"pipeline", file},
                      {"nodes", nodes},
                      {"to_run", plan.to_run},
                      {"seconds", plan.seconds},
                      {"without_estimate", plan.without_estimate},
                      {"bytes", plan.bytes},
                      {"free_bytes", plan.free ? Json(*plan.free) : Json(nullptr)},
                      {"fits", plan.no_room.empty()}};
    print_json(out);
}

/// The nodes' own reasons, those of the most nodes first; what waits for others and has none follows from them.
void print_reasons(const Plan& plan) {
    std::map<std::string, size_t> counts;
    size_t follow = 0;
    for (const PlannedNode& planned : plan.nodes) {
        if (planned.node == nullptr || planned.state != PlannedNode::State::kRun || planned.earlier == nullptr)
            continue;
        const std::vector<std::string> reasons = planned.difference.in_words(planned.node->type->name);
        follow += reasons.empty() && !planned.waits.empty() ? 1 : 0;
        for (const std::string& reason : reasons) ++counts[reason];
    }
    std::vector<std::pair<std::string, size_t>> sorted(counts.begin(), counts.end());
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    constexpr size_t kShown = 5;
    for (size_t i = 0; i < std::min(kShown, sorted.size()); ++i)
        fmt::print("  {:>5}  {}\n", sorted[i].second, sorted[i].first);
    if (sorted.size() > kShown) fmt::print("         … and {} more\n", sorted.size() - kShown);
    if (follow > 0) fmt::print("  {:>5}  only wait for others, and may turn out unchanged\n", follow);
}

}  // namespace

int plan_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    add_format_option(more);
    add_slice_options(more);
    if (!parse_pipeline(
            arguments, "plan FILE [options]",
            "Says for each node whether its result is there or would be made, why, and about how long that takes. Data "
            "sets are looked at; nothing else runs.",
            true, values, more))
        return 0;
    const std::string format = format_of(values);
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    RunOptions options_of_run = run_options(values, {});
    options_of_run.slice = slice_of(values);
    Console console;
    Plan plan;
    try {
        plan = plan_graph(graph, registry, options_of_run, console);
    } catch (const ProblemsError& error) {
        console.clear();
        print_problems(error.problems(), values);
        return static_cast<int>(error.code());
    }
    console.clear();
    if (format == "json") {
        print_records(plan, graph, values["_file"].as<std::string>());
        return 0;
    }
    size_t width = 4, use_width = 3;
    for (const PlannedNode& planned : plan.nodes) {
        if (planned.node == nullptr) continue;
        width = std::max(width, planned.node->id.size());
        use_width = std::max(use_width, planned.node->use().size());
    }
    for (const PlannedNode& planned : plan.nodes) {
        if (planned.node == nullptr) continue;
        fmt::print("{:<7} {:<{}}  {:<{}}  {:>9}  {}{}{}\n", to_string(planned.state), planned.node->id, width,
                   planned.node->use(), use_width,
                   planned.state != PlannedNode::State::kRun || !planned.seconds ? "" : about(*planned.seconds),
                   planned.reason, planned.node->implied ? " (implied)" : "",
                   planned.memory.empty() ? "" : fmt::format(" [{}]", planned.memory));
    }
    fmt::print("{} of {} nodes to run", plan.to_run, plan.count);
    if (plan.to_run > plan.without_estimate) fmt::print(", {}", estimate(plan.seconds));
    if (plan.without_estimate == plan.to_run && plan.to_run > 0)
        fmt::print("; how long they take isn't known, as none ran before with this store");
    else if (plan.without_estimate > 0)
        fmt::print(" and {} that never ran before", plan.without_estimate);
    fmt::print("\n");
    print_reasons(plan);
    if (!plan.needs.empty()) fmt::print("{}\n", plan.needs);
    if (!plan.no_room.empty()) fmt::print("{}\n", plan.no_room);
    return 0;
}

}  // namespace biophony::app
