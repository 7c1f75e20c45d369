// biophony schema: JSON Schemas of what people write and of what runs leave.
#include <fmt/format.h>

#include "app/command.hpp"
#include "base/files.hpp"
#include "base/nearest.hpp"
#include "base/schema.hpp"
#include "pipeline/editor_schema.hpp"
#include "schemas.hpp"
#include "tasks/node_types.hpp"

namespace biophony::app {

namespace {

constexpr const char* kPipeline = "pipeline";

/// One JSON value, or one a line where the name ends in .jsonl; each with what messages call it.
std::vector<std::pair<std::string, std::string>> values_of(const fs::path& file) {
    std::string text = read_file(file);
    if (file.extension() != ".jsonl") return {{file.string(), std::move(text)}};
    std::vector<std::pair<std::string, std::string>> out;
    for (size_t begin = 0, line = 1; begin < text.size(); ++line) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        out.emplace_back(fmt::format("{}:{}", file.string(), line), text.substr(begin, end - begin));
        begin = end + 1;
    }
    return out;
}

}  // namespace

int schema_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    described.add_options()("_name", options::value<std::string>()->default_value(kPipeline), "");
    described.add_options()("check", options::value<std::vector<std::string>>()->value_name("FILE")->composing(),
                            "instead of printing the schema, check this file by it (.jsonl: each line); may be given "
                            "several times");
    described.add_options()("list", "the names of all schemas");
    add_plugin_options(described);
    options::positional_options_description positional;
    positional.add("_name", 1);
    options::variables_map values;
    if (!parse(arguments, "schema [NAME] [--check FILE]… [--plugin-path DIR]…",
               "Prints a JSON Schema (draft 7): of pipelines, from the node types and plugins that are installed, or "
               "of a file in a run directory. An editor completes and checks pipelines by it: name it in \"$schema\".",
               described, positional, values))
        return 0;
    std::vector<std::string> names = {kPipeline};
    for (const auto& [name, text] : kSchemas) names.emplace_back(name);
    if (values.count("list") > 0) {
        for (const auto& name : names) fmt::print("{}\n", name);
        return 0;
    }
    const std::string name = values["_name"].as<std::string>();
    Json schema;
    if (name == kPipeline) schema = pipeline_schema(node_types(), make_registry(values));
    for (const auto& [known, text] : kSchemas)
        if (name == known) schema = Json::parse(text);
    if (schema.is_null())
        throw Error(Code::kInvalid, with_nearest(fmt::format("there is no schema '{}'", name), name, names));
    if (values.count("check") == 0) {
        print_json(schema, 2);
        return 0;
    }
    size_t bad = 0;
    for (const std::string& file : values["check"].as<std::vector<std::string>>()) {
        const size_t before = bad;
        const auto all = values_of(file);
        for (const auto& [what, text] : all) {
            std::vector<Diagnostic> problems;
            const JsonText parsed = JsonText::parse(text, what, problems);
            if (problems.empty()) problems = problems_by_schema(schema, parsed.value());
            for (Diagnostic& problem : problems) {
                if (problem.where.file.empty()) problem.where.file = what;
                fmt::print(stderr, "{}\n", problem.text());
            }
            bad += problems.empty() ? 0 : 1;
        }
        if (bad == before)
            fmt::print("{}: fits the schema of {}\n", file, name);
        else
            fmt::print("{}: doesn't fit the schema of {}{}\n", file, name,
                       all.size() > 1 ? fmt::format(", in {} of {} lines", bad - before, all.size()) : "");
    }
    return bad == 0 ? 0 : static_cast<int>(Code::kInvalid);
}

}  // namespace biophony::app
