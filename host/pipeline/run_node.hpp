// One node against a store, for a scheduler that isn't ours.
#pragma once

#include <map>
#include <string>

#include "pipeline/work.hpp"

namespace biophony {

/// The result of the node at `index`: from the store, or made now (with options.use_cache off in any case). Its inputs
/// are taken from the store: by the key that `given` has for their id, else by their own; data sets are looked at.
/// Throws Error(kRunFailed) where an input isn't there, naming it; kInvalid where `given` names what isn't a node or a
/// result. options.out and options.slice mean nothing here.
Done run_node(const Graph& graph, const Registry& registry, const RunOptions& options, size_t index,
              const std::map<std::string, std::string>& given, RunObserver& observer);

}  // namespace biophony
