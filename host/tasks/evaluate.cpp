// evaluate: a model's predictions on held-out clips, and the figures. The work is in learn/run_evaluate.cpp.
#include "node_sources.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

NodeType evaluate_type() {
    return {
        .name = "evaluate",
        .summary = "predictions and figures of a model on held-out clips",
        .inputs = {{.name = "model", .types = {"head", "checkpoint"}, .summary = "an encoder with a head"},
                   {.name = "data", .types = {"dataset"}, .many = true, .summary = "one per group"}},
        .output = std::string(port::kMetrics),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "split": {"enum": ["train", "valid", "test"], "default": "test", "description": "which clips"},
                "row": {"type": "string", "default": "", "description": "what a table calls this model; empty = the node's axis values, else its name"},
                "batch": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 16, "description": "clips per forward pass"}
            }
        })"),
        .torch = true,
        .named = true,
        .sources = sources::k_evaluate,
        .run = [](TaskContext& context) { torch_runtime().run_evaluate(context); },
    };
}

}  // namespace biophony
