// What heads and evaluations imply: the features of each encoder on each data set that they need.
#pragma once

#include <string>
#include <vector>

#include "pipeline/graph.hpp"

namespace biophony {

/// The sources of a port; none where it isn't connected.
std::vector<size_t> sources_of(const GraphNode& node, const std::string& port);

/// The encoders that a head's scores are made from: its own, or its experts' own, or both. Empty for another node.
std::vector<size_t> encoders_heard(const GraphNode& head);

/// An encoder and a data set, by their places in the graph.
struct FeaturesOf {
    size_t encoder = 0, data = 0;
};

/// Connects the port "features" of `user` with the features of each pair, and with nothing else. Nodes that aren't
/// there yet are added, called "features:ENCODER:DATA".
void imply_features(Graph& graph, size_t user, const std::vector<FeaturesOf>& wanted);

}  // namespace biophony
