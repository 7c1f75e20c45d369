// encoder: a base to start from, random or from a checkpoint. The work is in learn/run_encoder.cpp.
#include "node_sources.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

NodeType encoder_type() {
    return {
        .name = "encoder",
        .summary = "an encoder plugin with weights: a checkpoint's, or random ones from the seed",
        .output = std::string(port::kEncoder),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "checkpoint": {"type": "string", "format": "path", "x-must-exist": true,
                               "description": "a safetensors file with the encoder's weights and configuration; without it the weights are random"}
            }
        })"),
        .torch = true,
        .sources = sources::k_encoder,
        .run = [](TaskContext& context) { torch_runtime().run_encoder(context); },
    };
}

}  // namespace biophony
