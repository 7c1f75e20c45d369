// Running a graph: results from the store or made now, and the run directory.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/executor.hpp"
#include "pipeline/graph.hpp"
#include "pipeline/key.hpp"
#include "pipeline/store.hpp"

namespace biophony {

/// Which nodes a run is about; each entry is a node's id, or a stem for all nodes that have it. Empty = all nodes.
struct Slice {
    std::vector<std::string> to;    ///< these and what they need
    std::vector<std::string> from;  ///< these and what depends on them; together with `to`, what is in both
    std::vector<std::string> only;  ///< these alone; added to the others

    bool empty() const { return to.empty() && from.empty() && only.empty(); }
};

struct RunOptions {
    fs::path out;  ///< the run directory
    fs::path store;
    unsigned threads = 1;     ///< compute threads; part of the keys of torch nodes
    unsigned jobs = 0;        ///< nodes at a time; 0 = a torch node and min(threads, 4) others
    bool use_cache = true;    ///< of the slice's nodes; what lies outside is taken in any case
    bool keep_going = false;  ///< a node that fails stops only those that depend on it
    Slice slice;
    Launch launch;  ///< without a prefix nodes run in this process
    HostFacts host;
    const Cancel* cancel = nullptr;
    /// Called where a run was cancelled, its run directory is written, and some node's work still hasn't come to an
    /// end: must leave the process. Without it run_graph() waits for the work, however long that takes.
    std::function<void(const Error&)> abandon;
    std::vector<std::string> command_line;  ///< for the manifest
};

/// How far a run is.
struct RunStatus {
    size_t nodes = 0, finished = 0, running = 0;
    bool ending = false;              ///< after a failure or a cancel: nothing new starts
    double seconds_left = -1;         ///< as earlier runs and nodes of the same name took; negative = not known
    const GraphNode* node = nullptr;  ///< of those that run, the one that has run longest; null = none
    double node_seconds = 0;          ///< for how long
    double done = 0, total = 0;       ///< what it last told of its progress; both 0 = nothing
    std::string unit;
    double unit_seconds = 0;  ///< for how long it has told of this unit
};

/// Follows a run. All functions are called from the thread that called run_graph(), whichever threads work.
class RunObserver {
public:
    virtual ~RunObserver() = default;
    virtual void begin(size_t nodes) = 0;
    virtual void node_started(size_t index, const GraphNode& node) = 0;
    /// For nodes that are made one after another, outside of a run (plan, run-node): of the one that started last.
    virtual Progress& progress() = 0;
    virtual void note(const GraphNode& node, std::string_view line) = 0;
    /// `seconds` as it took when it was made; `cached` = it wasn't made now.
    virtual void node_finished(size_t index, const GraphNode& node, bool cached, double seconds,
                               std::string_view headline) = 0;
    virtual void node_failed(size_t, const GraphNode&, const Error&) {}
    /// Some five times a second.
    virtual void status(const RunStatus&) {}
};

struct RunResult {
    std::vector<SkippedFile> skipped;
    size_t made = 0, cached = 0, left_out = 0;  ///< left out: not in the slice
    double seconds = 0;
    std::vector<fs::path> reports;  ///< texts in the run directory that the user is shown
};

/// The nodes of a slice, by index. Throws Error(kInvalid) with the nearest name for one that isn't there.
std::vector<bool> selected_nodes(const Graph& graph, const Slice& slice);

/// That the selected nodes need results of others that aren't `there`; nothing where they are.
std::optional<Error> missing_for(const Graph& graph, const std::vector<bool>& selected, const std::vector<bool>& there);

/// Makes every selected node's result that isn't there yet; ready nodes run beside each other (schedule.hpp). Writes
/// the run directory, also when nodes fail or the run is cancelled: then with what was finished, and the error is
/// thrown afterwards, with the node's name; of several failures all in one. Throws Error(kInvalid) where the slice
/// needs results from outside that aren't there, before anything is made, and where another run writes to the
/// directory.
RunResult run_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer);

}  // namespace biophony
