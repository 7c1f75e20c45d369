// What can be known of a pipeline's results before they are made.
//
// Each node type says what it can of a node's result, from the node's parameters and from what is known of its inputs
// alone: which encoder, which labels, how large. What isn't known is absent, and what is absent is never wrong. So
// nodes that can't go together are told before anything is trained: when a pipeline is checked, from parameters,
// manifests and the heads of files; and once more when the data sets have been looked at, from their classes and clips.
#pragma once

#include <any>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/graph.hpp"

namespace biophony {

struct ClipSet;  // tasks/clips.hpp

/// Where an encoder's weights come from, by which two bases are told apart without reading them.
struct Origin {
    enum class Kind {
        kRandom,   ///< of `about` and a seed
        kFile,     ///< read from `file`
        kTrained,  ///< of `about`: all that the training depends on
        kMade      ///< otherwise: merged, chosen
    };
    Kind kind = Kind::kMade;
    size_t node = 0;  ///< that made them, in the graph
    Json about;
    std::filesystem::path file;
};

/// What is known of a result.
struct Description {
    // Of the encoder that the result holds, or that it was made with: encoder, checkpoint, task_vector, features, head.
    std::string encoder;         ///< "encoder:beats"
    std::optional<Json> config;  ///< its configuration; together with `encoder` the architecture
    std::optional<double> sample_rate, window_seconds;
    std::optional<int64_t> width, bands, blocks;  ///< as EncoderInfo has them
    std::optional<uint64_t> weights;              ///< bytes of its tensors
    std::optional<uint64_t> largest_tensor;       ///< bytes
    std::shared_ptr<const Origin> origin;         ///< of its weights
    std::shared_ptr<const Origin> base;           ///< of a task vector: what it was taken from

    // Of what was learned from, or can be.
    std::optional<std::vector<std::string>> labels;  ///< sorted, unique
    std::optional<std::vector<std::string>> groups;  ///< in the order of the data sets
    std::shared_ptr<const ClipSet> clips;            ///< of a data set that was looked at
    std::string pooling;                             ///< of a checkpoint's own head: "mean"; empty = unknown

    // What it takes to make it.
    std::optional<uint64_t> bytes;         ///< on the disk, about
    std::string holds;                     ///< in memory, in words: "tiles of all vectors"
    std::optional<uint64_t> memory_bytes;  ///< of that, at least
};

/// One node while it is described.
class Describing {
public:
    const Graph& graph;
    const size_t index;  ///< of the node in it
    const GraphNode& node;
    const Registry& registry;
    /// The node's result where it is there already (a data set that was looked at), else empty.
    std::filesystem::path result;
    /// By port, in order.
    std::map<std::string, std::vector<const Description*>> inputs;
    /// What was said of a node that stands before this one.
    const Description& described(size_t node_index) const { return nodes_[node_index]; }
    /// For what several nodes ask, and what is found out once.
    std::map<std::string, std::any>& known;
    Description out;

    const std::vector<const Description*>& input_list(const std::string& port) const {
        static const std::vector<const Description*> none;
        const auto found = inputs.find(port);
        return found == inputs.end() ? none : found->second;
    }
    /// The only input of a port; null where it isn't connected.
    const Description* input(const std::string& port) const {
        return input_list(port).empty() ? nullptr : input_list(port).front();
    }
    /// The id of the i-th node of a port.
    const std::string& id(const std::string& port, size_t i = 0) const {
        return graph.nodes[node.inputs.at(port).at(i)].id;
    }

    /// What can't work. `at` is a place below the node: "/in/vectors", "/with/checkpoint", or empty. The code is the
    /// one that the run would end with.
    void problem(std::string_view at, Message message, Code code = Code::kInvalid);
    /// What the user should know, though it works.
    void note(std::string_view at, Message message);

    Describing(const Graph& graph_, size_t index_, const Registry& registry_, const std::vector<Description>& nodes,
               std::map<std::string, std::any>& known_)
        : graph(graph_), index(index_), node(graph_.nodes[index_]), registry(registry_), known(known_), nodes_(nodes) {}
    std::vector<Diagnostic> problems, notes;

private:
    const std::vector<Description>& nodes_;
};

/// What the user should know of a node, though it works.
struct NodeNote {
    size_t node = 0;
    Diagnostic what;
};

struct GraphDescription {
    std::vector<Description> nodes;    ///< as the graph's
    std::vector<Diagnostic> problems;  ///< sorted
    std::vector<NodeNote> notes;       ///< in the order of the nodes
};

/// Problems that were found before any work began, as one error: several are told one a line.
class ProblemsError : public Error {
public:
    /// `problems` are one or more; the code is code_of() them.
    explicit ProblemsError(std::vector<Diagnostic> problems);
    const std::vector<Diagnostic>& problems() const { return problems_; }

private:
    std::vector<Diagnostic> problems_;
};

/// Describes every node behind its inputs. `results`: for each node the folder of its result, where that is there; may
/// be shorter than the graph. What a node's problem makes unknown is no further problem. Throws nothing but what is a
/// bug: an Error of a node type is a problem of its node.
GraphDescription describe_graph(const Graph& graph, const Registry& registry,
                                const std::vector<std::filesystem::path>& results = {});

/// "whole model, gradients and optimiser, at least 1.4 GB"; empty where nothing is known.
std::string memory_text(const Description& description);
/// Of the nodes that aren't `there` the one whose work holds most, and what their results take on the disk:
/// "expert[bird] holds most: whole model, …, about 1.2 GB; results take about 3.4 GB on the disk". Empty where nothing
/// of either is known.
std::string needs_text(const Graph& graph, const GraphDescription& described, const std::vector<bool>& there);

/// What results take on the disk that are made: those that aren't `there`. Unknown ones count nothing.
uint64_t bytes_to_make(const GraphDescription& described, const std::vector<bool>& there);
/// Throws Error(kRunFailed) where `free` bytes at `store` are too few for `needed` and some more for what isn't known.
void require_space(uint64_t needed, uint64_t free, const std::filesystem::path& store);
/// What is free there for this user, in the folder or the nearest above that exists; nothing where it doesn't say.
std::optional<uint64_t> free_space(const std::filesystem::path& folder);

/// The code of several problems together: kPlugin or kRunFailed where all have it, else kInvalid.
Code code_of(const std::vector<Diagnostic>& problems);

/// The graph's nodes with those that look at the world (data sets) first, and how many these are: when they are done,
/// the graph can be described a second time, and nothing else has been made. Each node stands behind its inputs.
std::vector<size_t> looking_first(const Graph& graph, size_t& looking);

}  // namespace biophony
