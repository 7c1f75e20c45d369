// From a pipeline's text to a checked graph.
//
// The format is described in docs/pipelines.md. Checking is a pure function of the text, the overrides, the node types
// and the plugins: it reads no audio, runs no plugin code, and reports every problem at once, sorted by position.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/json.hpp"
#include "pipeline/node_type.hpp"
#include "plugins/registry.hpp"

namespace biophony {

/// One node after the expansion of axes.
struct GraphNode {
    std::string id;                                         ///< "expert[bird]", "base"
    std::string stem;                                       ///< "expert"
    std::vector<std::pair<std::string, std::string>> axes;  ///< axis → value as text, in the order of the id
    const NodeType* type = nullptr;
    const ItemInfo* item = nullptr;  ///< for dataset:… and encoder:…
    Json params;  ///< effective: parameters and axis values put in, defaults filled in, paths absolute
    std::map<std::string, std::string> axis_of;  ///< pointer in params → the axis whose value stands there; for checks
    uint64_t seed = 0;                           ///< the node's own seed, else the pipeline's `params.seed`, else 0
    std::map<std::string, std::vector<size_t>> inputs;  ///< port → nodes, in order
    /// Ports with names → what the text calls their sources, in the order of `inputs`. In a list a source is called by
    /// its value where it has one axis, else by its id.
    std::map<std::string, std::vector<std::string>> names;
    bool implied = false;  ///< added by another node's type (a row of the table)
    Where where;           ///< of the node in the text
    /// Where its ports and parameters stand, by pointer below the node: "/in/vectors", "/with/checkpoint".
    std::map<std::string, Where, std::less<>> places;

    std::string output() const { return type->output; }
    /// As the text has it: "fine-tune", "encoder:beats".
    std::string use() const { return item == nullptr ? type->name : item->name(); }
};

/// A result that the pipeline names, or several.
struct GraphOutput {
    std::string name;
    std::vector<size_t> nodes;
    bool many = false;  ///< written as a list or with '*', however many that are
};

struct Graph {
    std::string name;
    std::string description;
    std::vector<GraphNode> nodes;  ///< every node stands behind its inputs
    std::vector<GraphOutput> outputs;
    Json effective;  ///< the pipeline as it will run, with overrides put in; can be run again by itself
    const Registry* registry = nullptr;  ///< the plugins it was checked against

    size_t index_of(std::string_view id) const;  ///< nodes.size() where there is none
    /// The nodes that use node `n`'s result.
    std::vector<size_t> users_of(size_t n) const;
    /// These nodes and all that they depend on.
    std::vector<bool> with_inputs(std::vector<bool> nodes) const;
    /// Port → ids of the nodes that feed it, in order: for files that tell of a node.
    Json input_ids(const GraphNode& node) const;
};

/// What the command line changes.
struct Overrides {
    /// "params.recipe" or "node.parameter" (dots go deeper; a node's stem means all its nodes) → value. Later wins.
    std::vector<std::pair<std::string, Json>> set;
    /// Files with objects laid over `params` (and `axes` under the key "axes"). Before `set`.
    std::vector<JsonText> params_files;
    /// Folder against which relative paths given by `set`, and those of the files, are resolved.
    std::filesystem::path working_folder;
};

/// Parses "name=value" of --set: the value is JSON where it parses as JSON, else text. Throws Error(kInvalid).
std::pair<std::string, Json> parse_set(std::string_view text);

/// Checks and expands. `file` names the pipeline in messages, and relative paths are resolved against its folder. Where
/// `problems` is not empty afterwards, the graph must not be used.
Graph make_graph(std::string text, const std::filesystem::path& file, const Overrides& overrides,
                 const NodeTypes& types, const Registry& registry, std::vector<Diagnostic>& problems);

/// Sorts by file, line, column, then drops exact repetitions.
void sort_problems(std::vector<Diagnostic>& problems);

}  // namespace biophony
