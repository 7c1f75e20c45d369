// What a node's result depends on, and the key by which it is found again.
#pragma once

#include <map>
#include <set>
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

/// The keys of a graph's nodes. The key is the SHA-256 of a record (docs/formats/run-directory.md): typed, so that a
/// parameter can't be taken for a field, and with a version. The record has the build identity of every plugin whose
/// code takes part: the node's own item, items that its parameters name (merge stages, and those that presets stand
/// for), and for torch nodes the encoders upstream, whose forward pass they run. What it is made from must outlive it.
/// Any thread.
class Keys {
public:
    Keys(const Graph& graph, const Registry& registry, const HostFacts& host, unsigned threads);

    /// The record of node `n` but for its inputs' digests.
    Json record_without_inputs(size_t n) const;
    /// The whole record, given the inputs' digests in the order of `inputs` of the node.
    Json record(size_t n, const std::vector<std::vector<std::string>>& input_digests) const;
    /// The plugins whose code the node's result depends on, by name.
    std::map<std::string, const ItemInfo*> items_of(size_t n) const;

private:
    const Graph& graph_;
    const Registry& registry_;
    const HostFacts& host_;
    unsigned threads_;
    std::vector<std::set<const ItemInfo*>> encoders_;  ///< of each node: those of its own and upstream
};

/// A node's parameters as they count for its key: a file stands for its content, wherever it lies.
Json params_for_key(const GraphNode& node);

/// The key that belongs to a record.
std::string key_of_record(const Json& record);

/// The plugins that the graph's results depend on, with versions, builds and hashes: for lock.json.
Json lock_of(const Graph& graph, const Registry& registry);

}  // namespace biophony
