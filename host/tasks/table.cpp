// table: the product's one table. It implies the rows that every table has: base and joint with the same heads as the
// scored models, joint's own head, and the specialists within their groups.
#include "report/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/graph.hpp"
#include "tasks/node_types.hpp"

namespace biophony {

namespace {

constexpr const char* kSpecialists = "specialists";

void run_table(TaskContext& context) {
    std::map<std::pair<std::string, std::string>, TableRow> rows;
    TableReference reference{.joint = context.inputs.contains("joint") ? "joint" : "",
                             .base = context.inputs.contains("base") ? "base" : ""};
    for (const InputArtefact& score : context.input_list("scores")) {
        Predictions predictions = Predictions::from_json(read_json(score.folder / "predictions.json"));
        TableRow& row = rows[{predictions.row, predictions.head}];
        if (!row.parts.empty() && predictions.row != kSpecialists)
            throw Error(
                Code::kRunFailed,
                fmt::format("two models are called '{}' with the head '{}'; give their evaluate nodes a \"row\"",
                            predictions.row, predictions.head));
        row.row = predictions.row;
        row.head = predictions.head;
        row.pooled_data = predictions.row == reference.joint;
        row.parts.push_back(std::move(predictions));
    }
    std::vector<TableRow> list;
    for (auto& [key, row] : rows) list.push_back(std::move(row));
    const Table table = make_table(std::move(list), reference, context.params.at("resamples"), context.seed);
    write_file_atomically(context.out / "table.txt", table.to_text());
    write_file_atomically(context.out / "table.csv", table.to_csv());
    write_file_atomically(context.out / "table.md", table.to_markdown());
    write_json(context.out / "table.json", table.json);
    context.headline = fmt::format("{} rows", table.cells.size());
}

/// Adds a node of a known type with its defaults, and returns its index.
size_t imply(Graph& graph, const GraphNode& owner, std::string id, const NodeType& type, Json params,
             std::map<std::string, std::vector<size_t>> inputs) {
    if (const size_t there = graph.index_of(id); there < graph.nodes.size()) return there;
    GraphNode node;
    node.id = std::move(id);
    node.stem = node.id;
    node.type = &type;
    node.params = std::move(params);
    node.seed = owner.seed;
    node.inputs = std::move(inputs);
    node.implied = true;
    node.where = owner.where;
    graph.nodes.push_back(std::move(node));
    return graph.nodes.size() - 1;
}

void expand_table(Graph& graph, size_t index) {
    const GraphNode table = graph.nodes[index];
    const NodeType& head_type = *node_types().find("head");
    const NodeType& evaluate_type = *node_types().find("evaluate");
    auto port = [&](const GraphNode& node, const char* name) {
        const auto found = node.inputs.find(name);
        return found == node.inputs.end() ? std::vector<size_t>{} : found->second;
    };
    auto evaluated = [&](const std::string& row, const Json& like) {
        Json params = like;
        params["row"] = row;
        return params;
    };
    std::vector<size_t> scores = port(table, "scores");
    const std::vector<size_t> given = scores;
    auto add_score = [&](size_t node) {
        if (std::find(scores.begin(), scores.end(), node) == scores.end()) scores.push_back(node);
    };

    Json plain = {{"split", "test"}, {"row", ""}, {"batch", 16}};
    std::vector<size_t> data;
    for (const size_t score : given) {
        const GraphNode evaluate = graph.nodes[score];
        if (evaluate.type->name != "evaluate") continue;
        plain = evaluate.params;
        data = port(evaluate, "data");
        for (const size_t model : port(evaluate, "model")) {
            const GraphNode head = graph.nodes[model];
            if (head.type->name != "head") continue;
            // One head per distinct set of parameters and data; the name says the kind, a number tells others apart.
            for (const char* reference : {"base", "joint"})
                for (const size_t encoder : port(table, reference)) {
                    std::string name = fmt::format("{}:{}.{}", table.id, reference, head.params.value("kind", "head"));
                    auto fits = [&](const GraphNode& node) {
                        return node.params == head.params && port(node, "data") == port(head, "data") &&
                               port(node, "encoder") == std::vector{encoder};
                    };
                    int count = 1;
                    for (size_t there;
                         (there = graph.index_of(name)) < graph.nodes.size() && !fits(graph.nodes[there]);)
                        name =
                            fmt::format("{}:{}.{}.{}", table.id, reference, head.params.value("kind", "head"), ++count);
                    std::map<std::string, std::vector<size_t>> inputs = head.inputs;
                    inputs["encoder"] = {encoder};
                    const size_t made = imply(graph, table, name, head_type, head.params, inputs);
                    add_score(imply(graph, table, name + ".score", evaluate_type, evaluated(reference, evaluate.params),
                                    {{"model", {made}}, {"data", port(evaluate, "data")}}));
                }
        }
    }
    for (const size_t joint : port(table, "joint"))
        if (graph.nodes[joint].output() == port::kCheckpoint && !data.empty())
            add_score(imply(graph, table, table.id + ":joint.own.score", evaluate_type, evaluated("joint", plain),
                            {{"model", {joint}}, {"data", data}}));
    for (const size_t expert : port(table, "experts"))
        add_score(imply(graph, table, fmt::format("{}:{}.score", table.id, graph.nodes[expert].id), evaluate_type,
                        evaluated(kSpecialists, plain),
                        {{"model", {expert}}, {"data", port(graph.nodes[expert], "data")}}));
    graph.nodes[index].inputs["scores"] = scores;
}

}  // namespace

NodeType table_type() {
    return {
        .name = "table",
        .summary = "all models side by side, with the rows that every table has",
        .inputs = {{.name = "scores", .types = {"metrics"}, .many = true, .summary = "the models to compare"},
                   {.name = "joint",
                    .types = {"checkpoint", "encoder"},
                    .required = false,
                    .summary = "trained on all groups' clips; scored with its own head and with the models' heads"},
                   {.name = "base",
                    .types = {"encoder"},
                    .required = false,
                    .summary = "the untouched base; scored with the models' heads"},
                   {.name = "experts",
                    .types = {"checkpoint"},
                    .many = true,
                    .required = false,
                    .summary = "the specialists; scored within their groups"}},
        .output = std::string(port::kReport),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "resamples": {"type": "integer", "minimum": 100, "maximum": 100000, "default": 1000,
                              "description": "rounds of the bootstrap behind the intervals"}
            }
        })"),
        .sources = sources::k_table,
        .run = run_table,
        .expand = expand_table,
    };
}

}  // namespace biophony
