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
    std::string memory;  ///< what its work holds: "whole model, features of all clips, about 1.2 GB"
    uint64_t memory_bytes = 0, bytes = 0;  ///< of its work, and of its result on the disk; 0 = not known
};

/// Says what run_graph() would do. Data sets are looked at (their audio is read once), nothing else runs. Throws
/// ProblemsError for what can't work. `needs` becomes the needs_text() of what is to be made.
std::vector<PlannedNode> plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options,
                                    RunObserver& observer, std::string& needs);

}  // namespace biophony
