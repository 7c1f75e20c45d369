// The nodes of a pipeline, checked against node types and plugins: what each is, with which parameters, fed by what.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "pipeline/expand.hpp"

namespace biophony {

/// Kinds of plugins that are nodes by themselves ("dataset", "encoder"); the others serve a node type.
bool is_node_kind(std::string_view name);
/// A node type's own parameters with those of the plugin beside (null where there is none): JSON Schema.
Json parameters_of(const NodeType& type, const ItemInfo* item);

/// What is known of one instance; one per Expansion::instances.
struct CheckedNode {
    const NodeType* type = nullptr;  ///< null after a problem with "use"
    const ItemInfo* item = nullptr;
    Traced params;  ///< effective
    bool params_are_good = false;
    uint64_t seed = 0;
    std::map<std::string, std::vector<size_t>> inputs;      ///< port → instances
    std::map<std::string, std::vector<std::string>> names;  ///< see GraphNode::names
    std::vector<std::string> paths;                         ///< pointers in params of what the schema calls a path
};

/// `outputs` gets those of the pipeline; their nodes are instances.
std::vector<CheckedNode> check_nodes(Definition& definition, const Expansion& expansion, const NodeTypes& types,
                                     const Registry& registry, std::vector<GraphOutput>& outputs);

/// The order in which every node stands behind its inputs, else as the nodes stand. Shorter than `inputs` where nodes
/// wait for each other in a circle. `inputs[n]` = the nodes that n uses.
std::vector<size_t> order_of(const std::vector<std::vector<size_t>>& inputs);

/// The pipeline with all paths absolute, so that it says the same from any folder.
Json effective_pipeline(Definition& definition, const Expansion& expansion, const std::vector<CheckedNode>& nodes);

}  // namespace biophony
