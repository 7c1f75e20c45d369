// compose: base + task vectors + merge stages → one encoder.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "node_sources.hpp"
#include "pipeline/graph.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/merge.hpp"

namespace biophony {

namespace {

std::vector<MergeStage> stages_of(const Json& params, const Registry& registry, std::string_view pointer,
                                  std::vector<Diagnostic>& problems) {
    return read_stages(params.at("stages"), registry, pointer_join(pointer, "stages"), problems);
}

bool needs_linalg(const std::vector<MergeStage>& stages) {
    return std::any_of(stages.begin(), stages.end(),
                       [](const MergeStage& stage) { return merger_traits(*stage.item).needs_linalg; });
}

void check_compose(const GraphNode& node, const Registry& registry, std::string_view pointer,
                   std::vector<Diagnostic>& problems) {
    const size_t before = problems.size();
    const std::vector<MergeStage> stages = stages_of(node.params, registry, pointer, problems);
    if (problems.size() != before) return;
    const auto vectors = node.inputs.find("vectors");
    size_t bad = 0;
    std::string problem = check_stages(stages, bad, vectors == node.inputs.end() ? 0 : vectors->second.size());
    if (problem.empty() && needs_linalg(stages) && libtorch_version() == "none")
        problem = "a stage needs linear algebra, and this build has no LibTorch";
    if (problem.empty()) return;
    const std::string entry = std::to_string(bad < stages.size() ? stages[bad].entry : bad);
    problems.push_back({Code::kInvalid, {.pointer = pointer_join(pointer_join(pointer, "stages"), entry)}, problem});
}

/// Whether the result depends on LibTorch: some stage asks for its linear algebra.
bool uses_libtorch(const GraphNode& node, const Registry& registry) {
    std::vector<Diagnostic> ignored;  // told when the node was checked
    return needs_linalg(stages_of(node.params, registry, "", ignored));
}

void run_compose(TaskContext& context) {
    std::vector<Diagnostic> problems;
    const std::vector<MergeStage> stages = stages_of(context.params, *context.registry, "", problems);
    if (!problems.empty()) throw Error(problems[0].code, problems[0].text());
    std::vector<fs::path> vectors;
    for (const InputArtefact& vector : context.input_list("vectors"))
        vectors.push_back(vector.folder / "task_vector.safetensors");
    Json run = Json::array();
    for (const MergeStage& stage : stages) {
        run.push_back({{"use", stage.item->name()}, {"with", stage.params}});
        if (stage.preset != nullptr) run.back()["preset"] = stage.preset->name();
    }
    MergeOptions options{
        .threads = context.threads, .seed = context.seed, .progress = context.progress, .cancel = context.cancel};
    options.node = context.node;
    options.metadata = {{"biophony.stages", canonical(run)},
                        {"biophony.stages_asked", canonical(context.params.at("stages"))}};
    if (needs_linalg(stages)) options.linalg = torch_runtime().linalg();
    options.log = [&](int level, const std::string& text) {
        (level >= BPH_LOG_WARNING ? context.note : context.log)(text);
    };
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
                            "use": {"type": "string", "description": "a merge plugin: \"merger:average\"; a preset stands for several"},
                            "with": {"type": "object", "description": "its parameters; see biophony inspect"}
                        }
                    }
                }
            }
        })"),
        .uses_libtorch = uses_libtorch,
        .sources = sources::k_compose,
        .run = run_compose,
        .check = check_compose,
    };
}

}  // namespace biophony
