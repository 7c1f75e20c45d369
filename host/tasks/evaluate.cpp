// evaluate: a model's predictions on held-out clips, and the figures. The work is in learn/run_evaluate.cpp.
#include <fmt/format.h>

#include <set>

#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
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

/// Encoders that a model reads side by side need windows of one length; mirrors what the run finds in their features.
void check_windows(Describing& describing, const std::vector<const Description*>& data) {
    const std::vector<const Description*>& features = describing.input_list("features");
    for (size_t s = 0; s < data.size(); ++s) {
        const size_t set = describing.node.inputs.at("data")[s];
        const Description* first = nullptr;
        std::string first_id;
        for (size_t f = 0; data[s]->clips && f < features.size(); ++f) {
            const size_t node = describing.node.inputs.at("features")[f];
            if (sources_of(describing.graph.nodes[node], "data") != std::vector{set} || !features[f]->window_seconds)
                continue;
            if (first == nullptr) {
                first = features[f];
                first_id = describing.id("features", f);
                continue;
            }
            const uint64_t one = windows_of(*data[s]->clips, *first->window_seconds, std::nullopt),
                           other = windows_of(*data[s]->clips, *features[f]->window_seconds, std::nullopt);
            if (one == other) continue;
            return describing.problem(
                "/in/model",
                fmt::format("'{}' and '{}', which '{}' reads side by side, have {} and {} windows of the "
                            "same clips; expected encoders whose windows are of one length",
                            first_id, describing.id("features", f), describing.id("model"), one, other),
                Code::kRunFailed);
        }
    }
}

void describe_evaluate(Describing& describing) {
    Description& out = describing.out;
    const Description& model = *describing.input("model");
    const std::vector<const Description*>& data = describing.input_list("data");
    const Together together = describe_data(describing, "data");
    out.holds = "features of all clips";
    check_windows(describing, data);
    if (!together.looked || !model.labels) return;
    const Split split = split_from(describing.node.params.value("split", "test"));
    size_t known = 0, clips = 0;
    std::set<std::string> unseen;
    for (const ClipSet* set : together.sets)
        for (const Clip& clip : set->clips) {
            if (clip.split != split) continue;
            ++clips;
            if (class_of(*model.labels, clip.label) >= 0)
                ++known;
            else
                unseen.insert(clip.label);
        }
    const std::vector<std::string> unseen_labels(unseen.begin(), unseen.end());
    out.bytes = known * (model.labels->size() * sizeof(float) + 400);
    if (known == 0)
        return describing.problem(
            "/in/data",
            fmt::format("no clip of the {} split has a label that the model knows: '{}' knows {}, {}", to_string(split),
                        describing.id("model"), few(*model.labels),
                        clips == 0 ? "and there are no clips" : "the clips have " + few(unseen_labels)),
            Code::kRunFailed);
    if (!unseen.empty() && !describing.node.implied)
        describing.note("/in/data",
                        fmt::format("{} clips of the {} split will be left out: '{}' has never seen their "
                                    "labels, {}",
                                    clips - known, to_string(split), describing.id("model"), few(unseen_labels)));
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
        .describe = describe_evaluate,
    };
}

}  // namespace biophony
