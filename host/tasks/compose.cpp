// compose: base + task vectors + merge stages → one encoder.
#include <fmt/format.h>

#include <chrono>

#include "base/nearest.hpp"
#include "base/schema.hpp"
#include "node_sources.hpp"
#include "pipeline/graph.hpp"
#include "tasks/node_types.hpp"
#include "weights/merge.hpp"

namespace biophony {

namespace {

/// Parses "stages", fills in the merger's defaults, and says what is wrong.
std::vector<MergeStage> stages_of(const Json& params, const Registry& registry, std::string_view pointer,
                                  std::vector<Diagnostic>& problems) {
    std::vector<MergeStage> stages;
    const std::string list = pointer_join(pointer, "stages");
    for (size_t i = 0; i < params.at("stages").size(); ++i) {
        const Json& entry = params["stages"][i];
        const std::string at = pointer_join(list, std::to_string(i));
        const std::string use = entry.at("use");
        if (!use.starts_with("merger:")) {
            std::vector<std::string> names;
            for (const ItemInfo* item : registry.items("merger")) names.push_back(item->name());
            problems.push_back({Code::kInvalid,
                                {.pointer = pointer_join(at, "use")},
                                fmt::format("found '{}', expected a merge stage, \"merger:…\"{}", use,
                                            did_you_mean("merger:" + use, names))});
            continue;
        }
        MergeStage stage;
        try {
            stage.item = &registry.require(use);
        } catch (const Error& error) {
            problems.push_back({error.code(), {.pointer = pointer_join(at, "use")}, error.message()});
            continue;
        }
        stage.params = entry.value("with", Json::object());
        apply_schema(stage.item->parameters, stage.params, pointer_join(at, "with"), problems);
        stages.push_back(std::move(stage));
    }
    return stages;
}

void check_compose(const GraphNode& node, const Registry& registry, std::string_view pointer,
                   std::vector<Diagnostic>& problems) {
    const size_t before = problems.size();
    const std::vector<MergeStage> stages = stages_of(node.params, registry, pointer, problems);
    if (problems.size() != before) return;
    size_t bad = 0;
    if (const std::string problem = check_stages(stages, bad); !problem.empty())
        problems.push_back(
            {Code::kInvalid, {.pointer = pointer_join(pointer_join(pointer, "stages"), std::to_string(bad))}, problem});
}

void run_compose(TaskContext& context) {
    std::vector<Diagnostic> problems;
    const std::vector<MergeStage> stages = stages_of(context.params, *context.registry, "", problems);
    if (!problems.empty()) throw Error(problems[0].code, problems[0].text());
    std::vector<fs::path> vectors;
    for (const InputArtefact& vector : context.input_list("vectors"))
        vectors.push_back(vector.folder / "task_vector.safetensors");
    Json names = Json::array();
    for (const MergeStage& stage : stages) names.push_back({{"use", stage.item->name()}, {"with", stage.params}});
    MergeOptions options{
        .threads = context.threads, .seed = context.seed, .progress = context.progress, .cancel = context.cancel};
    options.node = context.node;
    options.metadata = {{"biophony.stages", canonical(names)}};
    const auto begin = std::chrono::steady_clock::now();
    const MergeReport report = merge(context.input("base").folder / "encoder.safetensors", vectors, stages,
                                     context.out / "encoder.safetensors", options);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    context.headline =
        fmt::format("{} vectors, {:.2f} GB/s", vectors.size(),
                    static_cast<double>(report.bytes_read + report.bytes_written) / 1e9 / std::max(seconds, 1e-9));
}

}  // namespace

NodeType compose_type() {
    return {
        .name = "compose",
        .summary = "merges task vectors into one encoder",
        .inputs =
            {{.name = "base", .types = {"encoder"}, .summary = "the common base"},
             {.name = "vectors", .types = {"task_vector"}, .many = true, .summary = "one per expert, in this order"}},
        .output = std::string(port::kEncoder),
        .parameters = Json::parse(R"({
            "type": "object", "required": ["stages"],
            "properties": {
                "stages": {
                    "type": "array", "minItems": 1, "description": "any transforms, one combine, any post stages",
                    "items": {
                        "type": "object", "required": ["use"],
                        "properties": {
                            "use": {"type": "string", "description": "a merge plugin: \"merger:average\""},
                            "with": {"type": "object", "description": "its parameters; see biophony inspect"}
                        }
                    }
                }
            }
        })"),
        .sources = sources::k_compose,
        .run = run_compose,
        .check = check_compose,
    };
}

}  // namespace biophony
