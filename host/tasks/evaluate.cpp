// evaluate: a model's predictions on held-out clips, and the figures. The work is in learn/run_evaluate.cpp.
#include "node_sources.hpp"
#include "tasks/features.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

namespace {

void expand_evaluate(Graph& graph, size_t index) {
    const std::vector<size_t> models = sources_of(graph.nodes[index], "model");
    std::vector<FeaturesOf> wanted;
    for (const size_t model : models) {
        const bool is_head = graph.nodes[model].output() == port::kHead;
        for (const size_t encoder : is_head ? encoders_heard(graph.nodes[model]) : std::vector{model})
            for (const size_t set : sources_of(graph.nodes[index], "data")) wanted.push_back({encoder, set});
    }
    imply_features(graph, index, wanted);
}

}  // namespace

NodeType evaluate_type() {
    return {
        .name = "evaluate",
        .summary = "predictions and figures of a model on held-out clips",
        .inputs = {{.name = "model", .types = {"head", "checkpoint"}, .summary = "an encoder with a head"},
                   {.name = "data", .types = {"dataset"}, .many = true, .summary = "one per group"},
                   {.name = "features", .types = {"features"}, .many = true, .required = false, .implied = true}},
        .output = std::string(port::kMetrics),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "split": {"enum": ["train", "valid", "test"], "default": "test", "description": "which clips"},
                "row": {"type": "string", "default": "", "description": "what a table calls this model; empty = the node's axis values, else its name"},
                "repeat": {"type": ["string", "number"], "default": "", "description": "which of several trainings with other seeds this is; tables average the repeats of a clip"}
            }
        })"),
        .torch = true,
        .named = true,
        .sources = sources::k_evaluate,
        .run = [](TaskContext& context) { torch_runtime().run_evaluate(context); },
        .expand = expand_evaluate,
    };
}

}  // namespace biophony
