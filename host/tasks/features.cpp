// features: what an encoder makes of each window of a data set, for heads and evaluations. The work is in
// learn/run_features.cpp.
#include "tasks/features.hpp"

#include <algorithm>

#include "base/schema.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

std::vector<size_t> sources_of(const GraphNode& node, const std::string& port) {
    const auto found = node.inputs.find(port);
    return found == node.inputs.end() ? std::vector<size_t>{} : found->second;
}

std::vector<size_t> encoders_heard(const GraphNode& head) {
    if (head.type->name != "head" && head.type->name != "keep-head") return {};
    std::vector<size_t> out = sources_of(head, "encoder");
    if (head.params.value("own_encoders", false))
        for (const size_t expert : sources_of(head, "experts")) out.push_back(expert);
    return out;
}

void imply_features(Graph& graph, size_t user, const std::vector<FeaturesOf>& wanted) {
    const NodeType& type = *node_types().find("features");
    std::vector<size_t> connected;
    for (const FeaturesOf& pair : wanted) {
        const std::string id = "features:" + graph.nodes[pair.encoder].id + ":" + graph.nodes[pair.data].id;
        size_t there = graph.index_of(id);
        if (there == graph.nodes.size()) {
            GraphNode node;
            node.id = id;
            node.stem = id;
            node.type = &type;
            node.params = Json::object();
            std::vector<Diagnostic> none;
            apply_schema(type.parameters, node.params, "", none);
            node.inputs = {{"encoder", {pair.encoder}}, {"data", {pair.data}}};
            node.implied = true;
            node.where = graph.nodes[user].where;
            graph.nodes.push_back(std::move(node));
        }
        if (std::find(connected.begin(), connected.end(), there) == connected.end()) connected.push_back(there);
    }
    if (connected.empty())
        graph.nodes[user].inputs.erase("features");
    else
        graph.nodes[user].inputs["features"] = connected;
}

namespace {

void describe_features(Describing& describing) {
    Description& out = describing.out;
    const Description &encoder = *describing.input("encoder"), &data = *describing.input("data");
    take_encoder(out, encoder);
    note_rates(describing, encoder, "data");
    out.holds = "whole model, features of all clips";
    const std::optional<int64_t> size = pooled_size(encoder, "bands");
    if (!data.clips || !size || !encoder.window_seconds) return;
    const uint64_t windows = windows_of(*data.clips, *encoder.window_seconds, std::nullopt);
    out.bytes = windows * (static_cast<uint64_t>(*size) * sizeof(float) + sizeof(int64_t));
    out.memory_bytes = *out.bytes + encoder.weights.value_or(0);
}

}  // namespace

NodeType features_type() {
    return {
        .name = "features",
        .summary = "what an encoder makes of each window of a data set; heads and evaluations imply what they need",
        .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}, .summary = "stays as it is"},
                   {.name = "data", .types = {"dataset"}, .summary = "its clips of all splits"}},
        .output = std::string(port::kFeatures),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "batch": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 16, "description": "windows per forward pass"}
            }
        })"),
        .torch = true,
        .sources = sources::k_features,
        .run = [](TaskContext& context) { torch_runtime().run_features(context); },
        .describe = describe_features,
    };
}

}  // namespace biophony
