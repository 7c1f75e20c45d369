// Why a node would run, or did: what its key is made of, and what differs from an earlier result, down to the causes.
#pragma once

#include <string>
#include <vector>

#include "pipeline/plan.hpp"

namespace biophony {

/// Why a node isn't what it was when an earlier result was made.
struct Cause {
    std::string node;
    std::vector<std::string> reasons;  ///< in words, its own; without those that its inputs are
    std::vector<Cause> inputs;         ///< why these changed
    bool told_before = false;          ///< the node stands elsewhere in the tree, with its reasons
};

struct Explanation {
    const PlannedNode* planned = nullptr;
    /// The nearest other result of this node; where it has none, and is to run, of a node of the same type. May be
    /// null.
    const StoreEntry* other = nullptr;
    Difference difference;           ///< to `other`
    std::vector<std::string> found;  ///< what a data set found otherwise than `other`, in words
    std::vector<Cause> causes;       ///< of the inputs that changed, or are not there yet
};

/// `plan` was made with this node as its target.
Explanation explain_node(const Graph& graph, const Plan& plan, size_t node);

}  // namespace biophony
