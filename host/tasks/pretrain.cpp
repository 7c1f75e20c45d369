// pretrain: encoder + clips → encoder. The work is in learn/run_pretrain.cpp.
#include <fmt/format.h>

#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/graph.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

namespace {

void check_pretrain(const GraphNode& node, const Registry&, std::string_view pointer,
                    std::vector<Diagnostic>& problems) {
    const Json& params = node.params;
    auto wrong = [&](const char* place, Message message) {
        problems.push_back({Code::kInvalid, {.pointer = std::string(pointer) + place}, std::move(message)});
    };
    const auto data = node.inputs.find("data");
    if (params.contains("shares") && data != node.inputs.end()) {
        if (params["shares"].size() != data->second.size())
            wrong("/shares", found_expected(fmt::format("{} shares for {} data sets", params["shares"].size(),
                                                        data->second.size()),
                                            "one for each"));
        double sum = 0;
        for (const Json& share : params["shares"]) sum += share.get<double>();
        if (sum <= 0) wrong("/shares", "all shares are 0");
    }
    if (params["contrastive"]["weight"] == 0 && params["supervised"]["weight"] == 0 && params["masked"]["weight"] == 0)
        wrong("", "nothing to learn: the weights of contrastive, supervised and masked are 0");
    const int64_t batch = params["batch"], views = params["contrastive"]["views"];
    if (batch % views != 0)
        wrong("/batch", found_expected(std::to_string(batch), fmt::format("a multiple of the {} views", views)));
    auto range = [&](const Json& pair, const char* place) {
        if (pair[0].get<double>() > pair[1].get<double>()) wrong(place, "the first number is above the second");
    };
    range(params["augment"]["gain_db"], "/augment/gain_db");
    range(params["augment"]["background"]["snr_db"], "/augment/background/snr_db");
}

void describe_pretrain(Describing& describing) {
    const GraphNode& node = describing.node;
    Description& out = describing.out;
    const Description& start = *describing.input("encoder");
    take_encoder(out, start);
    const Together data = describe_data(describing, "data");
    describe_data(describing, "backgrounds");
    if (node.params.value("steps", int64_t{1}) == 0) {
        out.origin = start.origin;
    } else {
        Origin origin{.kind = Origin::Kind::kTrained, .node = describing.index};
        Json params = node.params;
        params.erase("log_every");
        Json heard = Json::array();
        for (const auto& [port, sources] : node.inputs)
            for (const size_t source : sources) {
                const GraphNode& from = describing.graph.nodes[source];
                heard.push_back({port, from.item == nullptr ? from.id : from.item->name(), from.params});
            }
        origin.about = {params, node.seed, heard};
        out.origin = std::make_shared<const Origin>(std::move(origin));
    }
    note_rates(describing, start, "data");
    out.bytes = out.weights;
    constexpr uint64_t kSound = uint64_t{1} << 30;
    describe_training_memory(describing, data.sets, kSound);
}

}  // namespace

NodeType pretrain_type() {
    return {
        .name = "pretrain",
        .summary = "trains an encoder on many clips, so that it becomes a base to start from",
        .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}, .summary = "where training starts"},
                   {.name = "data",
                    .types = {"dataset"},
                    .many = true,
                    .summary = "clips; their train split is learned from"},
                   {.name = "backgrounds",
                    .types = {"dataset"},
                    .many = true,
                    .required = false,
                    .summary = "clips; those of the train split are mixed in below the others"}},
        .output = std::string(port::kEncoder),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "steps": {"type": "integer", "minimum": 0, "maximum": 10000000, "default": 2000, "description": "batches"},
                "batch": {"type": "integer", "minimum": 2, "maximum": 16384, "default": 128, "description": "windows per step, all views counted"},
                "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.001, "description": "of AdamW, at its highest; it falls to 0 along a cosine"},
                "weight_decay": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.05, "description": "decoupled; not on biases, norms and gains"},
                "warm_up": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.05, "description": "share of the steps in which the learning rate rises"},
                "clip_norm": {"type": "number", "exclusiveMinimum": 0, "default": 1, "description": "largest norm of the gradient"},
                "precision": {"enum": ["float32", "bf16"], "default": "float32", "description": "of the encoder's forward passes; bf16 is faster on processors made for it"},
                "log_every": {"type": "integer", "minimum": 1, "default": 50, "description": "steps per line of the log and entry of the history"},
                "shares": {"type": "array", "items": {"type": "number", "minimum": 0}, "description": "part of a batch from each data set, in their order; equal where left out"},
                "contrastive": {
                    "type": "object", "default": {}, "description": "supervised contrastive loss: windows of one label are drawn together",
                    "properties": {
                        "weight": {"type": "number", "minimum": 0, "default": 1, "description": "of this loss; 0 = off"},
                        "temperature": {"type": "number", "exclusiveMinimum": 0, "default": 0.1, "description": "of the softmax over similarities"},
                        "pooling": {"enum": ["mean", "bands", "both"], "default": "both", "description": "from frames to one vector; both: the mean of two losses"},
                        "projection": {"type": "integer", "minimum": 2, "maximum": 4096, "default": 128, "description": "numbers per window that are compared, behind two layers that are thrown away"},
                        "views": {"type": "integer", "minimum": 2, "maximum": 64, "default": 2, "description": "windows of each label that a batch draws, from different recordings where possible; also where the weight is 0"}
                    }
                },
                "supervised": {
                    "type": "object", "default": {}, "description": "cross-entropy over each data set's own labels, smoothed by 0.1",
                    "properties": {
                        "weight": {"type": "number", "minimum": 0, "default": 0, "description": "of this loss; 0 = off"},
                        "pooling": {"enum": ["mean", "bands", "both"], "default": "both", "description": "from frames to one vector; both: the mean of two losses"}
                    }
                },
                "masked": {
                    "type": "object", "default": {}, "description": "BEATs' masked prediction: the encoder sees some tokens, a small Transformer predicts a random projection's codes of the others; costs a second pass",
                    "properties": {
                        "weight": {"type": "number", "minimum": 0, "default": 0, "description": "of this loss; 0 = off"},
                        "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.75, "description": "of the tokens that are hidden"},
                        "codes": {"type": "integer", "minimum": 2, "maximum": 65536, "default": 1024, "description": "of the tokenizer, which is random and stays as it is"},
                        "predictor_layers": {"type": "integer", "minimum": 1, "maximum": 32, "default": 2, "description": "blocks of the predictor, which is thrown away"},
                        "predictor_width": {"type": "integer", "minimum": 8, "maximum": 4096, "multipleOf": 8, "default": 192, "description": "of the predictor"}
                    }
                },
                "augment": {
                    "type": "object", "default": {}, "description": "what is done to the waves; where a window begins is always random",
                    "properties": {
                        "gain_db": {"type": "array", "items": {"type": "number", "minimum": -60, "maximum": 60}, "minItems": 2, "maxItems": 2, "default": [-6, 6], "description": "lowest and highest change of the level"},
                        "equaliser_db": {"type": "number", "minimum": 0, "maximum": 30, "default": 4, "description": "standard deviation of a smooth random filter's gain over log frequency; 0 = off"},
                        "background": {
                            "type": "object", "default": {}, "description": "clips of the port backgrounds, where there are any, below the window",
                            "properties": {
                                "share": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5, "description": "of the windows"},
                                "snr_db": {"type": "array", "items": {"type": "number", "minimum": -40, "maximum": 60}, "minItems": 2, "maxItems": 2, "default": [3, 20], "description": "lowest and highest ratio of the window's power to the background's"}
                            }
                        }
                    }
                }
            }
        })"),
        .torch = true,
        .sources = sources::k_pretrain,
        .run = [](TaskContext& context) { torch_runtime().run_pretrain(context); },
        .check = check_pretrain,
        .describe = describe_pretrain,
    };
}

}  // namespace biophony
