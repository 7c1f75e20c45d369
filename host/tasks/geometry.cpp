// geometry: norms, angles, signs and overlap of task vectors, without merging.
#include "weights/geometry.hpp"

#include <fmt/format.h>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/arithmetic.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"

namespace biophony {

namespace {

void run_geometry(TaskContext& context) {
    std::vector<fs::path> files;
    for (const InputArtefact& vector : context.input_list("vectors"))
        files.push_back(vector.folder / "task_vector.safetensors");
    const Geometry geometry = geometry_of(context.input("base").folder / "encoder.safetensors", files,
                                          vector_names(context), context.threads, context.progress, context.cancel);
    const std::vector<std::string> warnings = geometry.warnings();
    for (const std::string& warning : warnings) context.note(warning);
    write_json(context.out / "geometry.json", geometry.to_json(warnings));
    write_file_atomically(context.out / "geometry.csv", geometry.to_csv());
    write_file_atomically(context.out / "geometry.txt", geometry.to_text(warnings));
    context.headline =
        files.size() < 2 ? fmt::format("norm {:.4g}", geometry.whole().norms[0])
                         : fmt::format("mean cosine {:.4f}, same sign {:.4f}, norms within × {:.2f}",
                                       geometry.mean_cosine(), geometry.mean_sign_agreement(), geometry.norm_balance());
}

void describe_geometry(Describing& describing) {
    describe_vectors(describing, "base");
    describing.out.holds = "tiles of all vectors";
}

}  // namespace

NodeType geometry_type() {
    return {
        .name = "geometry",
        .summary = "norms, angles, signs and overlap of task vectors against chance, without merging",
        .inputs =
            {{.name = "base", .types = {"encoder"}, .summary = "the common base"},
             {.name = "vectors", .types = {"task_vector"}, .many = true, .summary = "of this base", .named = true}},
        .output = std::string(port::kReport),
        .shown = "geometry.txt",
        .parameters = Json::parse(R"({"type": "object", "properties": {}})"),
        .sources = sources::k_geometry,
        .run = run_geometry,
        .describe = describe_geometry,
    };
}

}  // namespace biophony
