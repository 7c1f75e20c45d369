// What a run would do, and why.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/record_diff.hpp"
#include "pipeline/run.hpp"
#include "pipeline/store_index.hpp"

namespace biophony {

/// One source of a node that isn't what it was when an earlier result was made.
struct InputChange {
    std::string port;
    enum class Kind {
        kChanged,  ///< `node` had the digest `then`
        kNew,      ///< `node` was no source
        kGone,     ///< what had the digest `then` is no source any more
        kOrder,    ///< the same sources in another order
        kPending   ///< `node` had the digest `then`; whether it will have it again isn't known yet
    } kind = Kind::kChanged;
    std::string node;  ///< id; where it is gone as far as the store knows it, else empty
    std::string then;  ///< digest; empty for new ones
};

/// "input data: clips[bird] changed", "input scores: a, b and 3 more are new": one line per port and kind, without
/// pending ones.
std::vector<std::string> in_words(const std::vector<InputChange>& inputs);

/// How a node differs from an earlier result.
struct Difference {
    std::vector<Change> changes;  ///< of the key's record without the inputs
    std::vector<InputChange> inputs;

    /// The changes, then the inputs.
    std::vector<std::string> in_words(std::string_view type) const;
};

/// What would be done with a node.
struct PlannedNode {
    const GraphNode* node = nullptr;  ///< null where the plan leaves it out
    enum class State { kCached, kRun, kLooks } state = State::kRun;
    std::string reason;  ///< "parameter epochs: 5 → 9", "waits for expert[bird]", "looks at its files each time"
    std::string key;     ///< empty where it depends on results that aren't there yet
    Json record;         ///< the key's; without "inputs" where those aren't there yet
    std::map<std::string, std::vector<std::string>> digests;  ///< port → of its sources; "" of those not there yet
    std::vector<size_t> waits;                                ///< sources that aren't there yet
    std::optional<StoredResult> result;                       ///< where it is there
    const StoreEntry* earlier = nullptr;  ///< of a node to run: the nearest earlier result of this node
    Difference difference;                ///< to `earlier`
    /// How long it took; of a node to run how long an earlier result of it, or of its siblings, took.
    std::optional<double> seconds;
    std::string memory;                           ///< of a node to run: what its work holds, see memory_text()
    std::optional<uint64_t> memory_bytes, bytes;  ///< of its work, and of its result on the disk
};

/// "cached", "run", "looks"
std::string_view to_string(PlannedNode::State state);

struct Plan {
    std::vector<PlannedNode> nodes;     ///< as in the graph
    std::unique_ptr<StoreIndex> index;  ///< of the store as it was before; null where nothing is to run
    size_t count = 0;                   ///< of nodes planned
    size_t to_run = 0;
    double seconds = 0;            ///< about what they take, as far as that is known
    size_t without_estimate = 0;   ///< of the nodes to run
    std::string needs;             ///< see needs_text()
    uint64_t bytes = 0;            ///< what the results of the nodes to run take on the disk, as far as that is known
    std::optional<uint64_t> free;  ///< bytes at the store; none where the file system doesn't say
    std::string no_room;           ///< where that is too little: what run would end with
};

/// Says what run_graph() would do with the nodes of its slice. Data sets are looked at (their audio is read once),
/// nothing else runs, and nothing else is written. Throws ProblemsError for what can't work, and Error as run_graph()
/// does for the slice. Where `target` is a node's index, only what it depends on
/// is planned, and the store is always read; the slice doesn't count then.
Plan plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer,
                std::optional<size_t> target = std::nullopt);

/// How a planned node differs from an earlier result.
Difference difference_to(const StoreEntry& earlier, const PlannedNode& planned, const Graph& graph,
                         const StoreIndex& index);

/// The result with the fewest differing leaves, of equally near ones the latest; one with the key `but_not` doesn't
/// count. Null where there is none.
const StoreEntry* nearest_result(const std::vector<const StoreEntry*>& results, const PlannedNode& planned,
                                 const std::string& but_not);

/// Parts of a reason as one line.
std::string joined(const std::vector<std::string>& reasons);

}  // namespace biophony
