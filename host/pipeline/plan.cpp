#include "pipeline/plan.hpp"

#include <fmt/format.h>

#include "pipeline/describe.hpp"
#include "pipeline/work.hpp"

namespace biophony {

std::vector<PlannedNode> plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options,
                                    RunObserver& observer, std::string& needs) {
    Work work(graph, registry, options, observer);
    observer.begin(graph.nodes.size());
    std::vector<PlannedNode> plan;
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
        const GraphNode& node = graph.nodes[i];
        PlannedNode planned{.node = &node};
        if (node.type->volatile_source) {
            observer.node_started(i, node);
            std::string headline;
            try {
                work.make(
                    i, [](std::string_view) {}, [&](std::string_view line) { observer.note(node, line); }, headline);
            } catch (const Error& error) {
                throw error.within({.node = node.id});
            }
            planned.state = PlannedNode::State::kLooks;
            planned.reason = "looks at its files each time: " + headline;
            planned.key = work.done()[i]->result.key;
        } else if (work.take(i)) {
            planned.state = PlannedNode::State::kCached;
            planned.key = work.done()[i]->result.key;
            planned.seconds = work.done()[i]->result.record.value("seconds", 0.0);
            planned.reason = "result of " + work.done()[i]->result.record.value("finished", std::string("?"));
        } else {
            Json record;
            if (const auto key = work.key_of(i, record)) {
                planned.key = *key;
                planned.reason = options.use_cache ? "no result with this key yet" : "the cache is off";
            } else {
                std::vector<std::string> waits;
                for (const auto& [port, sources] : node.inputs)
                    for (const size_t source : sources)
                        if (!work.done()[source]) waits.push_back(graph.nodes[source].id);
                planned.reason = fmt::format("waits for {}{}", waits.front(),
                                             waits.size() > 1 ? fmt::format(" and {} more", waits.size() - 1) : "");
            }
        }
        plan.push_back(std::move(planned));
    }
    std::vector<fs::path> results(graph.nodes.size());
    for (size_t i = 0; i < results.size(); ++i)
        if (work.done()[i]) results[i] = work.done()[i]->result.folder;
    const GraphDescription described = describe_graph(graph, registry, results);
    if (!described.problems.empty()) throw ProblemsError(described.problems);
    for (const NodeNote& note : described.notes) observer.note(graph.nodes[note.node], note.what.message);
    std::vector<bool> there;
    for (const PlannedNode& planned : plan) there.push_back(planned.state != PlannedNode::State::kRun);
    needs = needs_text(graph, described, there);
    for (size_t i = 0; i < plan.size(); ++i) {
        plan[i].memory = memory_text(described.nodes[i]);
        plan[i].memory_bytes = described.nodes[i].memory_bytes.value_or(0);
        plan[i].bytes = described.nodes[i].bytes.value_or(0);
    }
    return plan;
}

}  // namespace biophony
