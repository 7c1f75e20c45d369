// What a node's result depends on, and the key by which it is found again.
#pragma once

#include <string>
#include <vector>

#include "pipeline/graph.hpp"

namespace biophony {

/// Facts about this program and machine that enter keys and the run's manifest.
struct HostFacts {
    std::string version;    ///< of biophony
    std::string libtorch;   ///< "2.13.0"
    std::string cpu_class;  ///< "avx512+amx"
};

/// The key of a node, given its inputs' digests in the order of `node.inputs`: SHA-256 of a typed record, which is
/// returned in `record`. The record has the build identity of every plugin whose code takes part: the node's own item,
/// items that its parameters name (merge stages, and those that presets stand for), and for torch nodes the encoders
/// upstream, whose forward pass they run.
std::string node_key(const Graph& graph, const GraphNode& node,
                     const std::vector<std::vector<std::string>>& input_digests, const Registry& registry,
                     const HostFacts& host, unsigned threads, Json& record);

/// The plugins that the graph's results depend on, with versions, builds and hashes: for lock.json.
Json lock_of(const Graph& graph, const Registry& registry);

}  // namespace biophony
