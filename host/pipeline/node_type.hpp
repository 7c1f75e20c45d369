// What a node can be: the description of a node type, known to the checker, and the function that does its work.
//
// A new node type is one file in host/tasks/ and one line in host/tasks/node_types.cpp.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/progress.hpp"
#include "plugins/registry.hpp"

namespace biophony {

/// What travels along an edge. A result is a folder; the type says what is in it.
namespace port {
inline constexpr std::string_view kDataset = "dataset";  ///< dataset.json: recordings, clips, splits, what was skipped
inline constexpr std::string_view kEncoder = "encoder";  ///< encoder.safetensors
inline constexpr std::string_view kCheckpoint = "checkpoint";  ///< encoder.safetensors, head.safetensors, training.json
inline constexpr std::string_view kTaskVector = "task_vector";  ///< task_vector.safetensors
inline constexpr std::string_view kFeatures = "features";       ///< features.safetensors, features.json
inline constexpr std::string_view kHead = "head";               ///< a head with the encoder it was fitted on
inline constexpr std::string_view kMetrics = "metrics";         ///< metrics.json, predictions.csv
inline constexpr std::string_view kReport = "report";           ///< table.txt, .csv, .md, .json
}  // namespace port

struct PortSpec {
    std::string name;
    std::vector<std::string> types;  ///< any of these
    bool many = false;               ///< takes a list; a single source counts as a list of one
    bool required = true;
    bool implied = false;  ///< connected by the node type's expand(); a pipeline's text can't name it
    std::string summary;
    bool named = false;  ///< of ports that take lists: also takes an object name → node, and its sources have names
};

/// One input of a running node: a finished result.
struct InputArtefact {
    std::string node;              ///< id of the node that made it
    std::string type;              ///< port type
    std::filesystem::path folder;  ///< its files; read-only
    std::string digest;            ///< SHA-256 over its files' names and hashes
    std::string name;              ///< what the pipeline calls it here, for ports with names; else as `node`
};

/// A file that was left out, and why.
struct SkippedFile {
    std::string file;
    std::string reason;
};

/// What a node's work gets, and gives back. Valid during run(); single-threaded unless said otherwise.
struct TaskContext {
    std::string node;
    Json params;  ///< effective: defaults filled in, paths absolute
    uint64_t seed = 0;
    unsigned threads = 1;
    const ItemInfo* item = nullptr;  ///< for nodes that are a plugin (dataset:…, encoder:…)
    const Registry* registry = nullptr;
    std::map<std::string, std::vector<InputArtefact>> inputs;  ///< by port
    std::filesystem::path out;                                 ///< an empty folder that becomes the result
    Progress* progress = nullptr;                              ///< never null
    const Cancel* cancel = nullptr;                            ///< never null
    std::function<void(std::string_view)> note;                ///< one line for the run's log and for the user
    std::function<void(std::string_view)> log;                 ///< one line for the run's log
    std::vector<SkippedFile> skipped;                          ///< filled by the task; makes the run end with status 6
    std::string headline;  ///< filled by the task: the number a user cares about ("412 clips/s")

    const InputArtefact& input(const std::string& port) const { return inputs.at(port).front(); }
    const std::vector<InputArtefact>& input_list(const std::string& port) const {
        static const std::vector<InputArtefact> none;
        const auto found = inputs.find(port);
        return found == inputs.end() ? none : found->second;
    }
};

struct GraphNode;
struct Graph;
class Describing;  // pipeline/describe.hpp

/// One node type. For plugins that are nodes (datasets, encoders) there is one per kind; `item` of the node says which.
struct NodeType {
    std::string name;  ///< "fine-tune"; for plugins the kind, "dataset"
    std::string summary;
    std::vector<PortSpec> inputs;
    std::string output;  ///< port type
    std::string shown;   ///< optional: a text of the result that the user sees when the run has ended, "table.txt"
    Json parameters;     ///< JSON Schema; for plugins the host's own part, joined with the item's
    bool torch = false;  ///< runs in the torch library: one at a time; key has LibTorch, CPU class and threads
    bool volatile_source = false;  ///< looks at the world outside (files): runs each time, its result's content counts
    bool named = false;            ///< the result carries the id of the node, so the id is part of the key
    /// Optional. Whether the result of this node depends on LibTorch and the processor's class, though not on threads,
    /// where it isn't a torch node altogether: a merge with stages that need linear algebra.
    std::function<bool(const GraphNode&, const Registry&)> uses_libtorch;
    std::string sources;  ///< identity of the code: SHA-256 over the sources it was built from
    std::function<void(TaskContext&)> run;
    /// Optional. Checks what the schema can't: appends problems with pointers below `pointer` (the node's "with").
    std::function<void(const GraphNode&, const Registry&, std::string_view pointer, std::vector<Diagnostic>&)> check;
    /// Optional. Adds the nodes that this one implies (the table's own rows) and connects them. Called once for each
    /// node, implied ones too.
    std::function<void(Graph&, size_t node)> expand;
    /// Optional. Says what can be known of the result before it is made, and what can't work, from the parameters and
    /// the descriptions of the inputs. Called when the pipeline is checked and again when its data sets have been
    /// looked at: reads no audio and no weights, and opens no torch library.
    std::function<void(Describing&)> describe;
};

class NodeTypes {
public:
    void add(NodeType type) { types_.push_back(std::move(type)); }
    const NodeType* find(std::string_view name) const {
        for (const NodeType& type : types_)
            if (type.name == name) return &type;
        return nullptr;
    }
    const std::vector<NodeType>& all() const { return types_; }

private:
    std::vector<NodeType> types_;
};

}  // namespace biophony
