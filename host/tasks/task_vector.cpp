// task-vector: θ_model − θ_base (Ilharco et al. 2022), with base identity, recipe and labels inside.
#include <fmt/format.h>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "tasks/node_types.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

void run_task_vector(TaskContext& context) {
    const auto base = context.input("base").folder / "encoder.safetensors";
    const auto model = context.input("model").folder / "encoder.safetensors";
    const Json training = read_json(context.input("model").folder / "training.json");
    write_task_vector(base, model, context.out / "task_vector.safetensors",
                      {{"biophony.recipe", canonical(training.at("recipe"))},
                       {"biophony.labels", canonical(training.at("labels"))},
                       {"biophony.groups", canonical(training.at("groups"))}});
    context.headline =
        fmt::format("{:.1f} MB", static_cast<double>(fs::file_size(context.out / "task_vector.safetensors")) / 1e6);
}

}  // namespace

NodeType task_vector_type() {
    return {
        .name = "task-vector",
        .summary = "the difference of a fine-tuned encoder to its base",
        .inputs = {{.name = "base", .types = {"encoder"}, .summary = "the encoder that the model was fine-tuned from"},
                   {.name = "model", .types = {"checkpoint"}, .summary = "the fine-tuned model; its head is left out"}},
        .output = std::string(port::kTaskVector),
        .parameters = Json::parse(R"({"type": "object", "properties": {}})"),
        .sources = sources::k_task_vector,
        .run = run_task_vector,
    };
}

}  // namespace biophony
