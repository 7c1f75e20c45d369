// encoder: a base to start from, random or from a checkpoint. The work is in learn/run_encoder.cpp.
#include <fmt/format.h>

#include <optional>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/graph.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/checkpoint.hpp"
#include "weights/encoder_checkpoint.hpp"

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

/// What the heads of the checkpoint's files tell.
void describe_checkpoint(Describing& describing, const fs::path& file, const std::string& config) {
    Description& out = describing.out;
    struct Head {
        std::optional<Json> config;
        std::vector<TensorInfo> tensors;
        std::optional<Error> problem;
    };
    std::any& known = describing.known[fmt::format("checkpoint:{}\n{}\n{}", out.encoder, file.string(), config)];
    if (!known.has_value()) {
        Head head;
        try {
            const EncoderCheckpoint checkpoint = open_encoder_checkpoint(out.encoder, file, config);
            if (checkpoint.card) head.config = checkpoint.card->config;
            head.tensors = checkpoint.file.tensors();
        } catch (const Error& error) {
            head.problem = error;
        }
        known = std::move(head);
    }
    const Head& head = std::any_cast<const Head&>(known);
    if (head.problem) return describing.problem("/with/checkpoint", head.problem->what(), head.problem->code());
    if (head.config) take_config(out, *describing.node.item, *head.config);
    take_sizes(out, head.tensors);
}

void describe_encoder(Describing& describing) {
    const GraphNode& node = describing.node;
    Description& out = describing.out;
    if (node.item == nullptr) return;
    Json params = node.params;
    params.erase("checkpoint");
    params.erase("config");
    out.encoder = node.item->name();
    Origin origin{.node = describing.index};
    if (node.params.contains("checkpoint")) {
        origin.kind = Origin::Kind::kFile;
        origin.file = node.params["checkpoint"].get<std::string>();
        describe_checkpoint(describing, origin.file, node.params.value("config", ""));
    } else {
        take_config(out, *node.item, params);
        // Without parameters there is nothing that a seed would change.
        if (encoder_facts(*node.item, params).trainable.value_or(true)) origin.kind = Origin::Kind::kRandom;
        origin.about = {node.item->name(), params, node.seed};
    }
    out.origin = std::make_shared<const Origin>(std::move(origin));
    if (!describing.result.empty()) take_file(out, describing.result / "encoder.safetensors", describing.registry);
    out.bytes = out.weights;
    out.holds = "whole model";
    if (out.weights) out.memory_bytes = 2 * *out.weights;
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
        .describe = describe_encoder,
    };
}

}  // namespace biophony
