// What node types with an expression of task vectors share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "pipeline/graph.hpp"

namespace biophony {

/// The names of a node's task vectors, in the order of its port.
std::vector<std::string> vector_names(const GraphNode& node);
/// The same while it runs.
std::vector<std::string> vector_names(const TaskContext& context);

/// "biophony.labels", "biophony.groups" and "biophony.recipe" of a vector that is made from these by an expression:
/// labels and groups of all.
std::map<std::string, std::string> metadata_of_sum(const std::vector<InputArtefact>& vectors,
                                                   const std::string& expression);

}  // namespace biophony
