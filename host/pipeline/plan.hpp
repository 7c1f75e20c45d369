// What a run would do, and why.
#pragma once

#include <string>
#include <vector>

#include "pipeline/run.hpp"

namespace biophony {

/// What would be done with each node.
struct PlannedNode {
    const GraphNode* node = nullptr;
    enum class State { kCached, kRun, kLooks } state = State::kRun;
    std::string reason;  ///< "no result with this key yet", "waits for expert[bird]", "looks at files each time"
    std::string key;     ///< empty where it depends on results that aren't there yet
    double seconds = 0;  ///< of a cached result: how long it took
};

/// Says what run_graph() would do. Data sets are looked at (their audio is read once), nothing else runs.
std::vector<PlannedNode> plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options,
                                    RunObserver& observer);

}  // namespace biophony
