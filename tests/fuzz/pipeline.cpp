// Pipelines of any content: a graph or problems with places, no crash, and a graph's own text stands for the same
// graph. The node types and plugins are those of the checker's tests; no file is looked at but part.json, which stands
// for a pipeline in the pipeline. Behind the pipeline's text may stand lines that begin with "--set " or "--params ",
// the command line's changes (a params file by its content).
#include <cstdio>
#include <cstdlib>
#include <set>

#include "../pipeline/fake_types.hpp"
#include "base/files.hpp"
#include "json_mutator.hpp"

namespace {

using namespace biophony;

#define HOLDS(condition) \
    if (!(condition)) fails(#condition, "")

[[noreturn]] void fails(const char* what, const std::string& about) {
    std::fprintf(stderr, "does not hold: %s\n%s\n", what, about.c_str());
    std::abort();
}

/// No file is named that could be there or not: that is for tests with files.
void drop_file_checks(Json& schema) {
    if (schema.is_object()) schema.erase("x-must-exist");
    if (schema.is_structured())
        for (Json& item : schema) drop_file_checks(item);
}

const NodeTypes& types() {
    static const NodeTypes all = [] {
        const NodeTypes fakes = fake::types();
        NodeTypes out;
        for (NodeType type : fakes.all()) {
            drop_file_checks(type.parameters);
            if (type.name == "compose") type.inputs.at(1).named = true;
            out.add(std::move(type));
        }
        return out;
    }();
    return all;
}

const Registry& registry() {
    static const Registry all = [] {
        const Registry fakes = fake::registry();
        std::vector<PluginFile> files = fakes.files();
        for (PluginFile& file : files)
            for (ItemInfo& item : file.items) drop_file_checks(item.parameters);
        return Registry::of(files);
    }();
    return all;
}

bool is_utf8(const std::string& text) {
    try {
        (void)Json(text).dump();
        return true;
    } catch (const Json::exception&) {
        return false;
    }
}

/// A folder with the one file that pipelines may name as a part.
const std::string& folder() {
    static const std::string path = [] {
        const fs::path out = fs::temp_directory_path() / "biophony-fuzz-pipeline";
        write_file_atomically(out / "part.json",
                              R"({"biophony": 1, "params": {"epochs": 1, "note": ""}, "inputs": ["data"],
            "nodes": {"base": {"use": "encoder:beats"}, "made": {"use": "fine-tune", "in": {"encoder": "base", "data": "data"},
                      "with": {"epochs": {"param": "epochs"}, "note": {"param": "note"}}}},
            "outputs": {"model": "made"}})");
        return out.string();
    }();
    return path;
}

/// What is said is readable, and where it is said to be there is something.
void check_problem(const Diagnostic& problem, const std::string& file, std::string_view text, bool by_others) {
    const std::string told = problem.text();
    if (problem.message.text.empty() || !is_utf8(told)) fails("a message is text", told);
    for (const std::string& part : {problem.message.found, problem.message.nearest})
        if (told.find(part) == std::string::npos) fails("what was found and what is near stand in the message", told);
    if (problem.code != Code::kInvalid && problem.code != Code::kPlugin) fails("problems are the user's", told);
    if (problem.where.file == folder() + "/part.json") return;
    if (problem.where.file != file) {
        if (!by_others) fails("the problem is in this file", told);
        return;
    }
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    for (int line = 1; line < problem.where.line; ++line) {
        const size_t end = text.find('\n');
        if (end == std::string_view::npos) fails("the line is one of the text", told);
        text.remove_prefix(end + 1);
    }
    const size_t length = std::min(text.find('\n'), text.size());
    if (problem.where.line < 1 || problem.where.column < 1 || static_cast<size_t>(problem.where.column) > length + 1)
        fails("the place is in the text", told);
}

/// Everything that a run would see of the nodes, in an order that doesn't depend on the text's.
std::string told(const Graph& graph) {
    std::vector<std::string> lines;
    for (const GraphNode& node : graph.nodes) {
        std::string line =
            fmt::format("{} {} {} {} {}", node.id, node.type->name, node.item == nullptr ? "-" : node.item->name(),
                        node.seed, canonical(node.params));
        for (const auto& [axis, value] : node.axes) line += fmt::format(" {}={}", axis, value);
        for (const auto& [port, sources] : node.inputs)
            for (const size_t source : sources) line += fmt::format(" {}:{}", port, graph.nodes.at(source).id);
        for (const auto& [port, names] : node.names)
            for (const std::string& name : names) line += fmt::format(" {}~{}", port, name);
        lines.push_back(line);
    }
    for (const GraphOutput& output : graph.outputs) {
        lines.push_back(fmt::format("output {} {}", output.name, output.many));
        for (const size_t node : output.nodes) lines.back() += " " + graph.nodes.at(node).id;
    }
    std::sort(lines.begin(), lines.end());
    return fmt::format("{}", fmt::join(lines, "\n"));
}

void check_graph(const Graph& graph) {
    HOLDS(!graph.nodes.empty());
    std::set<std::string> ids;
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        HOLDS(ids.insert(graph.nodes[n].id).second);
        for (const auto& [port, sources] : graph.nodes[n].inputs)
            for (const size_t source : sources) HOLDS(source < n);
    }
}

/// The text up to the first line of an option, and the options.
std::string read_options(std::string text, Overrides& overrides) {
    const size_t end = std::min(text.find("\n--set "), text.find("\n--params "));
    if (end == std::string::npos) return text;
    for (size_t at = end + 1; at < text.size();) {
        const std::string line = text.substr(at, text.find('\n', at) - at);
        at += line.size() + 1;
        const std::string value = line.substr(std::min(line.size(), line.find(' ') + 1));
        if (line.starts_with("--set ")) {
            try {
                overrides.set.push_back(parse_set(value));
            } catch (const Error& error) {
                if (error.code() != Code::kInvalid || !is_utf8(error.what())) fails("--set refuses", error.what());
            }
        } else if (line.starts_with("--params ")) {
            std::vector<Diagnostic> problems;
            const JsonText json = JsonText::parse(value, "values.params", problems);
            if (problems.empty()) overrides.params_files.push_back(json);
            for (const Diagnostic& problem : problems) check_problem(problem, "values.params", value, false);
        }
    }
    text.resize(end);
    return text;
}

/// True where a pipeline names another file as a part of it: none is opened that a fuzzer has thought of.
bool names_another_file(const std::string& text) {
    if (text.find("pipelines") == std::string::npos && text.find("\\u") == std::string::npos) return false;
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object() || !json.contains("pipelines") || !json["pipelines"].is_object()) return false;
    return std::any_of(json["pipelines"].begin(), json["pipelines"].end(),
                       [](const Json& part) { return part.is_string() && part != "part.json"; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Overrides overrides{.working_folder = "/fuzz/elsewhere"};
    const std::string text = read_options(std::string(reinterpret_cast<const char*>(data), size), overrides);
    if (names_another_file(text)) return 0;
    const std::string file = folder() + "/pipeline.json";
    std::vector<Diagnostic> problems;
    const Graph graph = make_graph(text, file, overrides, types(), registry(), problems);
    for (const Diagnostic& problem : problems)
        check_problem(problem, file, text, !overrides.set.empty() || !overrides.params_files.empty());
    if (!problems.empty()) return 0;
    check_graph(graph);
    const std::string effective = graph.effective.dump(2);
    const Graph again = make_graph(effective, "/fuzz/run/pipeline.effective.json", {}, types(), registry(), problems);
    if (!problems.empty()) fails("the effective pipeline is good", problems.front().text() + "\n" + effective);
    if (again.effective != graph.effective)
        fails("it is its own effective pipeline", effective + again.effective.dump(2));
    if (told(again) != told(graph)) fails("it stands for the same graph", told(graph) + "\n\n" + told(again));
    return 0;
}
