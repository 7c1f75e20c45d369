// Running a graph: keys, results from the store or made now, and the run directory.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "pipeline/graph.hpp"
#include "pipeline/store.hpp"

namespace biophony {

/// Facts about this program and machine that enter keys and the run's manifest.
struct HostFacts {
    std::string version;    ///< of biophony
    std::string libtorch;   ///< "2.13.0"
    std::string cpu_class;  ///< "avx512+amx"
};

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

/// What would be done with each node.
struct PlannedNode {
    const GraphNode* node = nullptr;
    enum class State { kCached, kRun, kLooks } state = State::kRun;
    std::string reason;  ///< "no result with this key yet", "waits for expert[bird]", "looks at files each time"
    std::string key;     ///< empty where it depends on results that aren't there yet
    double seconds = 0;  ///< of a cached result: how long it took
};

/// The key of a node, given its inputs' digests in the order of `node.inputs`: SHA-256 of a typed record, which is
/// returned in `record`. The record has the build identity of every plugin whose code takes part: the node's own item,
/// items that its parameters name (merge stages, and those that presets stand for), and for torch nodes the encoders
/// upstream, whose forward pass they run.
std::string node_key(const Graph& graph, const GraphNode& node,
                     const std::vector<std::vector<std::string>>& input_digests, const Registry& registry,
                     const RunOptions& options, Json& record);

/// Runs every node that has no result yet, in order; every sink runs. Writes the run directory, also when a node
/// fails: then with what was finished, and the error is thrown again afterwards, with the node's name.
RunResult run_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer);

/// Says what run_graph() would do. Data sets are looked at (their audio is read once), nothing else runs.
std::vector<PlannedNode> plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options,
                                    RunObserver& observer);

}  // namespace biophony
