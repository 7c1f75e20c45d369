// fine-tune: encoder + clips → encoder and a linear head. The work is in learn/run_fine_tune.cpp.
#include <fmt/format.h>

#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

namespace {

void describe_fine_tune(Describing& describing) {
    Description& out = describing.out;
    const Description& start = *describing.input("encoder");
    take_encoder(out, start);
    if (const ItemInfo* item = item_of(start, describing.registry);
        item != nullptr && !encoder_facts(*item, Json::object()).trainable.value_or(true))
        describing.problem("/in/encoder",
                           fmt::format("{} has no parameters, so there is nothing to fine-tune; give it a head instead",
                                       start.encoder),
                           Code::kRunFailed);
    const Together data = describe_training(describing, "data");
    note_rates(describing, start, "data");
    out.pooling = describing.node.params.value("pooling", "");
    out.bytes = out.weights;
    if (out.bytes && out.labels) *out.bytes += out.labels->size() * out.width.value_or(0) * sizeof(float);
    constexpr uint64_t kSound = uint64_t{4} << 30;
    describe_training_memory(describing, data.sets, kSound);
}

}  // namespace

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
        .describe = describe_fine_tune,
    };
}

}  // namespace biophony
