// arithmetic: one task vector from several, by an expression over their names.
#include "tasks/arithmetic.hpp"

#include <fmt/format.h>

#include <set>

#include "base/sha256.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "weights/expression.hpp"
#include "weights/task_vector.hpp"
#include "weights/vector_sum.hpp"

namespace biophony {

std::vector<std::string> vector_names(const GraphNode& node) {
    const auto found = node.names.find("vectors");
    return found == node.names.end() ? std::vector<std::string>{} : found->second;
}

std::vector<std::string> vector_names(const TaskContext& context) {
    std::vector<std::string> names;
    for (const InputArtefact& vector : context.input_list("vectors"))
        names.push_back(vector.name.empty() ? vector.node : vector.name);
    return names;
}

std::map<std::string, std::string> metadata_of_sum(const std::vector<InputArtefact>& vectors,
                                                   const std::string& expression) {
    std::set<std::string> labels, groups;
    for (const InputArtefact& vector : vectors) {
        const SafetensorsFile file = SafetensorsFile::open(vector.folder / "task_vector.safetensors");
        for (const auto& [key, all] : {std::pair("biophony.labels", &labels), std::pair("biophony.groups", &groups)})
            if (const Json list = Json::parse(file.metadata(key), nullptr, false); list.is_array())
                for (const Json& entry : list)
                    if (entry.is_string()) all->insert(entry.get<std::string>());
    }
    const Json values = {{"expression", expression}};
    return {{"biophony.labels", canonical(labels)},
            {"biophony.groups", canonical(groups)},
            {"biophony.recipe",
             canonical({{"name", "arithmetic"}, {"hash", sha256_hex(canonical(values))}, {"values", values}})}};
}

namespace {

void check_arithmetic(const GraphNode& node, const Registry&, std::string_view pointer,
                      std::vector<Diagnostic>& problems) {
    try {
        factors_of(node.params.at("expression").get<std::string>(), vector_names(node));
    } catch (const Error& error) {
        Diagnostic& problem = problems.emplace_back();
        problem.code = error.code();
        problem.where.pointer = pointer_join(pointer, "expression");
        problem.message = error.message();
    }
}

void run_arithmetic(TaskContext& context) {
    const std::string expression = context.params.at("expression");
    const std::vector<double> factors = factors_of(expression, vector_names(context));
    std::vector<fs::path> files;
    for (const InputArtefact& vector : context.input_list("vectors"))
        files.push_back(vector.folder / "task_vector.safetensors");
    const fs::path out = context.out / "task_vector.safetensors";
    write_vector_sum(files, factors, out, metadata_of_sum(context.input_list("vectors"), expression), context.progress,
                     context.cancel);
    context.headline =
        fmt::format("{} vectors, {:.1f} MB", files.size(), static_cast<double>(fs::file_size(out)) / 1e6);
}

void describe_arithmetic(Describing& describing) {
    Description& out = describing.out;
    describe_vectors(describing, "");
    out.bytes = out.weights;
    out.holds = "tiles of all vectors";
}

}  // namespace

NodeType arithmetic_type() {
    return {
        .name = "arithmetic",
        .summary = "one task vector from several, by an expression; compose takes expressions, too",
        .inputs = {{.name = "vectors",
                    .types = {"task_vector"},
                    .many = true,
                    .summary = "of one base, with the names of the expression",
                    .named = true}},
        .output = std::string(port::kTaskVector),
        .parameters = Json::parse(R"({
            "type": "object", "required": ["expression"],
            "properties": {
                "expression": {"type": "string", "minLength": 1,
                               "description": "over the vectors' names: \"b + c - 0.5*a\", \"-a\", \"(a + b) / 2\""}
            }
        })"),
        .sources = sources::k_arithmetic,
        .run = run_arithmetic,
        .check = check_arithmetic,
        .describe = describe_arithmetic,
    };
}

}  // namespace biophony
