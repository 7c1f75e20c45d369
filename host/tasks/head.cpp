// head: a classifier for the union of labels on a frozen encoder. The work is in learn/run_head.cpp.
#include "node_sources.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

NodeType head_type() {
    return {
        .name = "head",
        .summary = "a classifier over all labels of its data on a frozen encoder",
        .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}, .summary = "stays as it is"},
                   {.name = "data",
                    .types = {"dataset"},
                    .many = true,
                    .summary = "one per contributor; each sends sums over its own train clips"},
                   {.name = "experts",
                    .types = {"checkpoint"},
                    .many = true,
                    .required = false,
                    .summary = "for kinds that use the contributors' own heads"}},
        .output = std::string(port::kHead),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "kind": {"enum": ["ridge"], "default": "ridge",
                         "description": "ridge: ridge regression on one-hot labels from summed statistics: n, Σx, Σy, XᵀX, XᵀY, YᵀY"},
                "name": {"type": "string", "default": "",
                         "description": "what tables call the head; empty = its kind, pooling and strength where they aren't the defaults. Heads of different names are not compared"},
                "strength": {"type": "number", "exclusiveMinimum": 0,
                             "description": "ridge penalty relative to the variance of the standardised features, which is 1; without it, chosen by generalised cross-validation"},
                "pooling": {"enum": ["mean", "bands"], "default": "mean",
                            "description": "mean over all frames, or over time for each frequency band of the encoder"},
                "batch": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 16, "description": "clips per forward pass"}
            }
        })"),
        .torch = true,
        .sources = sources::k_head,
        .run = [](TaskContext& context) { torch_runtime().run_head(context); },
    };
}

}  // namespace biophony
