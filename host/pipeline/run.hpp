// Running a graph: results from the store or made now, and the run directory.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "pipeline/graph.hpp"
#include "pipeline/key.hpp"
#include "pipeline/store.hpp"

namespace biophony {

struct RunOptions {
    fs::path out;  ///< the run directory
    fs::path store;
    unsigned threads = 1;  ///< compute threads; part of the keys of torch nodes
    bool use_cache = true;
    HostFacts host;
    const Cancel* cancel = nullptr;
    std::vector<std::string> command_line;  ///< for the manifest
};

/// Follows a run; called from the running thread.
class RunObserver {
public:
    virtual ~RunObserver() = default;
    virtual void begin(size_t nodes) = 0;
    virtual void node_started(size_t index, const GraphNode& node) = 0;
    virtual Progress& progress() = 0;
    virtual void note(const GraphNode& node, std::string_view line) = 0;
    /// `seconds` as it took when it was made; `cached` = it wasn't made now.
    virtual void node_finished(size_t index, const GraphNode& node, bool cached, double seconds,
                               std::string_view headline) = 0;
};

struct RunResult {
    std::vector<SkippedFile> skipped;
    size_t made = 0, cached = 0;
    double seconds = 0;
    std::vector<fs::path> reports;  ///< texts in the run directory that the user is shown
};

/// Runs every node that has no result yet, in order; every sink runs. Writes the run directory, also when a node
/// fails: then with what was finished, and the error is thrown again afterwards, with the node's name.
RunResult run_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer);

}  // namespace biophony
