// fine-tune: encoder + clips → encoder and a linear head. The work is in learn/run_fine_tune.cpp.
#include "node_sources.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

NodeType fine_tune_type() {
    return {
        .name = "fine-tune",
        .summary = "trains an encoder and a linear head on the clips of one or more data sets",
        .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}, .summary = "where training starts"},
                   {.name = "data",
                    .types = {"dataset"},
                    .many = true,
                    .summary = "clips; their train split is learned from"}},
        .output = std::string(port::kCheckpoint),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "recipe": {"enum": ["small", "nihal2026"], "default": "small", "description": "a versioned preset of all training settings, docs/recipes.md"},
                "epochs": {"type": "integer", "minimum": 0, "maximum": 10000, "description": "instead of the recipe's"},
                "batch": {"type": "integer", "minimum": 1, "maximum": 4096, "description": "instead of the recipe's; clips"},
                "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "of the encoder, instead of the recipe's"},
                "head_learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "of the head, instead of the recipe's"},
                "pooling": {"enum": ["mean", "bands"], "description": "of frames before the head, instead of the recipe's"},
                "activation_checkpointing": {"type": "boolean", "default": false, "description": "keep each block's input alone for the way back and compute the block again: much less memory, about a third more time, the same result"}
            }
        })"),
        .torch = true,
        .sources = sources::k_fine_tune,
        .run = [](TaskContext& context) { torch_runtime().run_fine_tune(context); },
    };
}

}  // namespace biophony
