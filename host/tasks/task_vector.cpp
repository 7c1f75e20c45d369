// task-vector: θ_model − θ_base (Ilharco et al. 2022), with base identity, recipe and labels inside.
#include <fmt/format.h>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
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
                       {"biophony.groups", canonical(training.at("groups"))}},
                      context.params.at("encoding"));
    context.headline =
        fmt::format("{:.1f} MB", static_cast<double>(fs::file_size(context.out / "task_vector.safetensors")) / 1e6);
}

/// Whether the model may have been fine-tuned from these weights: some encoder on its way isn't surely another.
bool descends(Describing& describing, size_t model, const Origin& base) {
    for (size_t at = model;;) {
        const auto from = describing.graph.nodes[at].inputs.find("encoder");
        if (from == describing.graph.nodes[at].inputs.end() || from->second.empty()) return false;
        at = from->second.front();
        const std::shared_ptr<const Origin>& origin = describing.described(at).origin;
        if (origin && same_weights(describing, *origin, base) != Same::kNo) return true;
    }
}

void describe_task_vector(Describing& describing) {
    Description& out = describing.out;
    const Description &base = *describing.input("base"), &model = *describing.input("model");
    const std::string &of = describing.id("base"), &tuned = describing.id("model");
    take_encoder(out, base.encoder.empty() ? model : base);
    out.base = base.origin;
    out.labels = model.labels;
    out.groups = model.groups;
    const std::string encoding = describing.node.params.at("encoding");
    if (out.weights) out.bytes = *out.weights / (encoding == "dense-f32" ? 1 : encoding == "affine-u8" ? 4 : 2);
    out.holds = "tiles of both";
    if (const std::string other = other_architecture(tuned, model, of, base); !other.empty())
        describing.problem("/in/model", other + "; expected a model of the base's architecture", Code::kRunFailed);
    else if (base.origin && !descends(describing, describing.node.inputs.at("model").front(), *base.origin))
        describing.note("/in/base",
                        fmt::format("'{}' wasn't fine-tuned from '{}', so the difference is not that of the "
                                    "fine-tuning alone",
                                    tuned, of));
}

}  // namespace

NodeType task_vector_type() {
    return {
        .name = "task-vector",
        .summary = "the difference of a fine-tuned encoder to its base",
        .inputs = {{.name = "base", .types = {"encoder"}, .summary = "the encoder that the model was fine-tuned from"},
                   {.name = "model", .types = {"checkpoint"}, .summary = "the fine-tuned model; its head is left out"}},
        .output = std::string(port::kTaskVector),
        .parameters =
            {{"type", "object"},
             {"properties",
              {{"encoding",
                {{"type", "string"},
                 {"enum", task_vector_encodings()},
                 {"default", task_vector_encodings().front()},
                 {"description",
                  "how the differences are stored: exactly to rounding; in half the bytes; or as 8-bit codes between a "
                  "tensor's least and largest, in a quarter"}}}}}},
        .sources = sources::k_task_vector,
        .run = run_task_vector,
        .describe = describe_task_vector,
    };
}

}  // namespace biophony
