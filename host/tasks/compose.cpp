// compose: base + task vectors + merge stages, or an expression of the vectors → one encoder.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/graph.hpp"
#include "tasks/arithmetic.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/expression.hpp"
#include "weights/geometry_observer.hpp"
#include "weights/merge.hpp"
#include "weights/stage_instance.hpp"

namespace biophony {

namespace {

constexpr const char* kSums = "merger:task-arithmetic";  ///< does the work of an expression

std::vector<MergeStage> stages_of(const Json& params, const Registry& registry, std::string_view pointer,
                                  std::vector<Diagnostic>& problems) {
    return read_stages(params.value("stages", Json::array()), registry, pointer_join(pointer, "stages"), problems);
}

/// The stage that an expression stands for.
Json stage_of(const std::string& expression, const std::vector<std::string>& names) {
    return {{"use", kSums}, {"with", {{"lambda_sum", 1}, {"coefficients", factors_of(expression, names)}}}};
}

bool needs_linalg(const std::vector<MergeStage>& stages) {
    return std::any_of(stages.begin(), stages.end(),
                       [](const MergeStage& stage) { return merger_traits(*stage.item).needs_linalg; });
}

/// Tells what the stage's plugin itself says of the parameters. `sum` = the stage is the expression's.
void ask_plugin(const MergeStage& stage, bool sum, const Json& params, std::string_view pointer,
                std::vector<Diagnostic>& problems) {
    // A registry needn't lie on the disk; and plugins with tensors would load LibTorch.
    if (stage.item->tier != "S" || !fs::exists(stage.item->library)) return;
    try {
        try_stage(stage);
    } catch (const Error& error) {
        const std::string& parameter = error.where().parameter;
        std::string at = pointer_join(pointer, "expression");
        if (!sum) {
            at = pointer_join(pointer_join(pointer, "stages"), std::to_string(stage.entry));
            if (const Json with = params.at("stages").at(stage.entry).value("with", Json::object());
                with.contains(parameter))
                at = pointer_join(pointer_join(at, "with"), parameter);
        }
        problems.push_back(
            {error.code(),
             {.pointer = at},
             fmt::format("{}{}: {}{}", stage.preset == nullptr ? "" : stage.preset->name() + " stands for ",
                         stage.item->name(), parameter.empty() ? "" : fmt::format("parameter '{}': ", parameter),
                         error.message().text)});
    }
}

void check_compose(const GraphNode& node, const Registry& registry, std::string_view pointer,
                   std::vector<Diagnostic>& problems) {
    const size_t before = problems.size();
    const bool expression = node.params.contains("expression");
    if (!expression && !node.params.contains("stages")) {
        problems.push_back({Code::kInvalid,
                            {.pointer = std::string(pointer)},
                            R"(found neither "stages" nor "expression", expected one of them)"});
        return;
    }
    std::vector<MergeStage> stages = stages_of(node.params, registry, pointer, problems);
    if (expression) {
        const std::string at = pointer_join(pointer, "expression");
        try {
            const Json list = {stage_of(node.params.at("expression"), vector_names(node))};
            std::vector<Diagnostic> found;
            std::vector<MergeStage> sum = read_stages(list, registry, "", found);
            for (const Diagnostic& problem : found)
                problems.push_back({problem.code, {.pointer = at}, problem.message});
            stages.insert(stages.begin(), sum.begin(), sum.end());
        } catch (const Error& error) {
            problems.push_back({error.code(), {.pointer = at}, error.message()});
        }
    }
    if (problems.size() != before) return;
    const auto vectors = node.inputs.find("vectors");
    size_t bad = 0;
    std::string problem = check_stages(stages, bad, vectors == node.inputs.end() ? 0 : vectors->second.size());
    if (problem.empty() && needs_linalg(stages) && libtorch_version() == "none")
        problem = "a stage needs linear algebra, and this build has no LibTorch";
    for (size_t i = 0; i < stages.size(); ++i)
        if (problem.empty() || i != bad) ask_plugin(stages[i], expression && i == 0, node.params, pointer, problems);
    if (problem.empty()) return;
    if (expression)
        problem = fmt::format("behind an expression, which is the combine, stand post stages alone: {}", problem);
    const std::string entry = std::to_string(bad < stages.size() ? stages[bad].entry : bad);
    problems.push_back({Code::kInvalid, {.pointer = pointer_join(pointer_join(pointer, "stages"), entry)}, problem});
}

/// An expression becomes the stage that it stands for, so that the key counts the plugin that does the work.
void expand_compose(Graph& graph, size_t index) {
    GraphNode& node = graph.nodes[index];
    if (!node.params.contains("expression")) return;
    Json stages = {stage_of(node.params.at("expression"), vector_names(node))};
    for (const Json& stage : node.params.value("stages", Json::array())) stages.push_back(stage);
    node.params["stages"] = std::move(stages);
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
    if (context.params.contains("expression"))
        options.metadata["biophony.expression"] = context.params.at("expression").get<std::string>();
    if (needs_linalg(stages)) options.linalg = torch_runtime().linalg();
    options.log = [&](int level, const std::string& text) {
        (level >= BPH_LOG_WARNING ? context.note : context.log)(text);
    };
    GeometryObserver observer(vector_names(context));
    options.observer = &observer;
    const auto begin = std::chrono::steady_clock::now();
    const MergeReport report = merge(context.input("base").folder / "encoder.safetensors", vectors, stages,
                                     context.out / "encoder.safetensors", options);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const Geometry& geometry = observer.geometry();
    std::vector<std::string> used;
    for (const MergeStage& stage : stages) used.push_back(stage.item->id);
    const std::vector<std::string> warnings = geometry.warnings(used);
    for (const std::string& warning : warnings) context.note(warning);
    write_json(context.out / "geometry.json", geometry.to_json(warnings));
    write_file_atomically(context.out / "geometry.csv", geometry.to_csv());
    context.headline =
        fmt::format("{} vectors, {:.2f} GB/s", vectors.size(),
                    static_cast<double>(report.bytes_read + report.bytes_written) / 1e9 / std::max(seconds, 1e-9));
}

void describe_compose(Describing& describing) {
    Description& out = describing.out;
    describe_vectors(describing, "base");
    out.origin = std::make_shared<const Origin>(Origin{.node = describing.index, .about = "compose", .file = {}});
    out.bytes = out.weights;
    std::vector<Diagnostic> told_before;
    bool whole = false, global = false;
    for (const MergeStage& stage : stages_of(describing.node.params, describing.registry, "", told_before)) {
        const MergerTraits traits = merger_traits(*stage.item);
        whole |= traits.scope == MergerTraits::Scope::kTensor || traits.scope == MergerTraits::Scope::kMatrix;
        global |= traits.scope == MergerTraits::Scope::kGlobal;
    }
    out.holds = whole    ? "one tensor of all vectors, a thread"
                : global ? "tiles of all vectors, what stages sum up"
                         : "tiles of all vectors";
    if (whole && out.largest_tensor)
        out.memory_bytes = (2 * describing.input_list("vectors").size() + 1) * *out.largest_tensor;
}

}  // namespace

NodeType compose_type() {
    return {
        .name = "compose",
        .summary = "merges task vectors into one encoder",
        .inputs = {{.name = "base", .types = {"encoder"}, .summary = "the common base"},
                   {.name = "vectors",
                    .types = {"task_vector"},
                    .many = true,
                    .summary = "one per expert, in this order, an object by name; expressions use the names",
                    .named = true}},
        .output = std::string(port::kEncoder),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "expression": {"type": "string", "minLength": 1,
                               "description": "instead of a combine, over the vectors' names: \"b + c - 0.5*a\" adds, \"-a\" takes away; stages are then post stages"},
                "stages": {
                    "type": "array", "minItems": 1, "description": "any transforms, one combine, any post stages",
                    "items": {
                        "type": "object", "required": ["use"], "x-plugins": "merger",
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
        .expand = expand_compose,
        .describe = describe_compose,
    };
}

}  // namespace biophony
