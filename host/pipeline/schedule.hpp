// Which nodes of a run are made, when, and beside which others.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/work.hpp"

namespace biophony {

/// Seconds that work has to end after a cancel.
inline constexpr double kCancelSeconds = 1.5;

enum class NodeState {
    kNotSelected,  ///< outside of the slice
    kTaken,        ///< outside of the slice, its result was in the store
    kWaiting,      ///< for inputs, or for its turn
    kRunning,
    kDone,
    kFailed,
    kBlocked,    ///< waits for a node that failed
    kCancelled,  ///< was running when the run was cancelled
};

/// What became of a node.
struct NodeOutcome {
    NodeState state = NodeState::kWaiting;
    double seconds = 0;  ///< of work: now, or when the result was made
    std::optional<Error> error;
    size_t blocked_by = 0;  ///< the node that failed
};

/// Runs nodes whose inputs are done, several at a time: torch nodes (and merges that borrow LibTorch) one at a time,
/// all in one thread, as LibTorch's settings are in part a thread's; others beside them. What is in the store is looked
/// up by a thread of its own, so neither a long node nor a large file keeps a finished result waiting. Nodes with equal
/// keys are made once. Results don't depend on which nodes ran beside which.
///
/// A node that fails: nothing new starts, what runs is let end, so that its results are kept; with keep_going all goes
/// on that doesn't depend on it. When cancelled, running nodes have 1.5 seconds to end.
class Schedule {
public:
    /// What the schedule tells, all in the thread that called run().
    struct Hooks {
        std::function<void(size_t node, std::string_view event, std::string_view text, const std::string& time)> log;
        std::function<void(size_t node, const Done& done)>
            expose;  ///< any thread: shows the result in the run directory
        /// All data sets were looked at, and nothing else is made yet; it may take results from the store. False ends
        /// the run.
        std::function<bool()> looked;
        std::map<std::string, double> earlier;  ///< node → seconds that it took in an earlier run
    };

    /// All outlive it. `outcomes` says which nodes are to run: those that
    /// are kWaiting; what is kTaken is done.
    Schedule(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer, Work& work,
             std::vector<NodeOutcome>& outcomes, Hooks hooks);
    ~Schedule();
    Schedule(const Schedule&) = delete;
    Schedule& operator=(const Schedule&) = delete;

    void run();
    /// Whether threads are still at work after a cancelled run(): then the process has to be left. The destructor would
    /// wait for them.
    bool abandoned() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace biophony
