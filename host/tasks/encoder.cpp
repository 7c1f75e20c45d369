// encoder: a base to start from, random or from a checkpoint. The work is in learn/run_encoder.cpp.
#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/graph.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/checkpoint.hpp"

namespace biophony {

namespace {

/// The configuration that lies beside a checkpoint without one becomes a parameter, so that its content counts for the
/// key. What can't be opened the run will tell.
void expand_encoder(Graph& graph, size_t index) {
    Json& params = graph.nodes[index].params;
    if (!params.contains("checkpoint") || params.contains("config")) return;
    const fs::path checkpoint = params["checkpoint"].get<std::string>(), beside = sidecar_config(checkpoint);
    if (beside.empty()) return;
    try {
        if (Checkpoint::open(checkpoint).config().empty()) params["config"] = beside.string();
    } catch (const Error&) {
    }
}

}  // namespace

NodeType encoder_type() {
    return {
        .name = "encoder",
        .summary = "an encoder plugin with weights: a checkpoint's, or random ones from the seed",
        .output = std::string(port::kEncoder),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "checkpoint": {"type": "string", "format": "path", "x-must-exist": true,
                               "description": "a file with the encoder's weights: safetensors, or what torch.save wrote (.pt, .pth, .ckpt), read without executing anything; without it the weights are random"},
                "config": {"type": "string", "format": "path", "x-must-exist": true,
                           "description": "a JSON object, the checkpoint's configuration, in place of the file's own; a checkpoint without one takes STEM.model_config.json beside it where that exists"}
            }
        })"),
        .torch = true,
        .sources = sources::k_encoder,
        .run = [](TaskContext& context) { torch_runtime().run_encoder(context); },
        .expand = expand_encoder,
    };
}

}  // namespace biophony
