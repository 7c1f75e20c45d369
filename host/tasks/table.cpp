// table: the product's one table. It implies the rows that every table has: base, joint and controls with the same
// heads as the scored models, joint's own head, and the specialists within their groups. Folds of one model are one
// row.
#include "report/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/graph.hpp"
#include "tasks/node_types.hpp"

namespace biophony {

namespace {

constexpr const char* kSpecialists = "specialists";
/// Filled in by expand_table(), so that it counts for the key: what the controls' rows are called.
constexpr const char* kControlRows = "control_rows";

void run_table(TaskContext& context) {
    std::map<std::pair<std::string, std::string>, TableRow> rows;
    TableReference reference{.joint = context.inputs.contains("joint") ? "joint" : "",
                             .base = context.inputs.contains("base") ? "base" : ""};
    reference.controls = context.params.value(kControlRows, std::vector<std::string>());
    for (const InputArtefact& score : context.input_list("scores")) {
        Predictions predictions = Predictions::from_json(read_json(score.folder / "predictions.json"));
        TableRow& row = rows[{predictions.row, predictions.head}];
        row.row = predictions.row;
        row.head = predictions.head;
        row.pooled_data = predictions.row == reference.joint;
        row.parts.push_back(std::move(predictions));
    }
    std::vector<TableRow> list;
    for (auto& [key, row] : rows) list.push_back(std::move(row));
    std::vector<Comparison> comparisons;
    for (const Json& entry : context.params.at("compare"))
        comparisons.push_back({entry.at("a"), entry.at("b"), entry.value("figure", "union") == "within"});
    const Table table =
        make_table(std::move(list), reference, context.params.at("resamples"), context.seed, comparisons);
    write_file_atomically(context.out / "table.txt", table.to_text());
    write_file_atomically(context.out / "table.csv", table.to_csv());
    write_file_atomically(context.out / "table.md", table.to_markdown());
    if (!comparisons.empty()) write_file_atomically(context.out / "compare.csv", table.to_compare_csv());
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

/// The sources of a port; none where it isn't connected.
std::vector<size_t> port_of(const GraphNode& node, const char* name) {
    const auto found = node.inputs.find(name);
    return found == node.inputs.end() ? std::vector<size_t>{} : found->second;
}

std::set<size_t> data_of(const Graph& graph, size_t node) {
    const std::vector<size_t> data = port_of(graph.nodes[node], "data");
    return {data.begin(), data.end()};
}

std::string names_of(const Graph& graph, const auto& nodes) {
    std::vector<std::string> names;
    for (const size_t node : nodes) names.push_back("'" + graph.nodes[node].id + "'");
    return names.empty() ? "nothing" : fmt::format("{}", fmt::join(names, ", "));
}

/// "[0]" for a head per fold: the values of the axes that it shares with all of its data; empty where there are none.
/// Implied nodes have it in their names, so that those of one fold are called the same whichever other folds run.
std::string shared_axes(const Graph& graph, size_t node) {
    std::vector<std::string> values;
    const std::vector<size_t> data = port_of(graph.nodes[node], "data");
    for (const auto& axis : graph.nodes[node].axes)
        if (!data.empty() && std::all_of(data.begin(), data.end(), [&](size_t d) {
                const auto& axes = graph.nodes[d].axes;
                return std::find(axes.begin(), axes.end(), axis) != axes.end();
            }))
            values.push_back(axis.second);
    return values.empty() ? std::string() : fmt::format("[{}]", fmt::join(values, ","));
}

/// The one among a port's nodes that a head is compared with: the only one, or that which has the same data as the
/// head.
size_t partner(const Graph& graph, const std::string& port, const std::vector<size_t>& candidates, size_t head,
               const std::vector<size_t>& heads) {
    const std::set<size_t> data = data_of(graph, head);
    auto fits = [&](size_t candidate) { return data_of(graph, candidate) == data; };
    if (candidates.size() == 1) {
        // Made for one fold, it may have heard the test clips of another.
        const std::set<size_t> own = data_of(graph, candidates[0]);
        const bool foreign =
            !own.empty() && std::none_of(data.begin(), data.end(), [&](size_t d) { return own.contains(d); });
        if (foreign && std::any_of(heads.begin(), heads.end(), [&](size_t h) { return data_of(graph, h) == own; }))
            throw Error(
                Code::kInvalid,
                fmt::format("the port '{}' has one node, {}, trained on {}, but '{}' is fitted on {}; expected one "
                            "for each fold",
                            port, names_of(graph, candidates), names_of(graph, own), graph.nodes[head].id,
                            names_of(graph, data)));
        return candidates[0];
    }
    const auto count = std::count_if(candidates.begin(), candidates.end(), fits);
    if (count != 1)
        throw Error(
            Code::kInvalid,
            fmt::format("the port '{}' has {} nodes ({}), and {} of them were trained on the data of '{}' ({}); "
                        "expected one",
                        port, candidates.size(), names_of(graph, candidates), count, graph.nodes[head].id,
                        names_of(graph, data)));
    return *std::find_if(candidates.begin(), candidates.end(), fits);
}

/// Rows of controls, by name: what was trained on one fold each makes one row, called like the node without its axes.
std::map<std::string, std::vector<size_t>> control_rows(const Graph& graph, const std::vector<size_t>& controls) {
    std::map<std::string, std::vector<size_t>> of_stem, rows;
    for (const size_t control : controls) of_stem[graph.nodes[control].stem].push_back(control);
    for (const auto& [stem, nodes] : of_stem) {
        if (nodes.size() == 1 || !data_of(graph, nodes[0]).empty())
            rows[stem] = nodes;
        else
            for (const size_t node : nodes) rows[graph.nodes[node].id] = {node};
    }
    for (const char* taken : {"base", "joint", kSpecialists})
        if (rows.contains(taken))
            throw Error(Code::kInvalid,
                        fmt::format("a control is called '{}', which is the name of another row; expected another name",
                                    taken));
    return rows;
}

void expand_table(Graph& graph, size_t index) {
    const GraphNode table = graph.nodes[index];
    const NodeType& head_type = *node_types().find("head");
    const NodeType& evaluate_type = *node_types().find("evaluate");
    auto evaluated = [&](const std::string& row, const Json& like) {
        Json params = like;
        params["row"] = row;
        return params;
    };
    std::vector<size_t> scores = port_of(table, "scores");
    const std::vector<size_t> given = scores;
    auto add_score = [&](size_t node) {
        if (std::find(scores.begin(), scores.end(), node) == scores.end()) scores.push_back(node);
    };
    // What every scored head is repeated on: row → encoders.
    std::map<std::string, std::vector<size_t>> references = control_rows(graph, port_of(table, "controls"));
    Json controls = Json::array();
    for (const auto& [row, nodes] : references) controls.push_back(row);
    if (!controls.empty()) graph.nodes[index].params[kControlRows] = controls;
    for (const char* reference : {"base", "joint"})
        if (const std::vector<size_t> nodes = port_of(table, reference); !nodes.empty()) references[reference] = nodes;
    const std::vector<size_t> joints = port_of(table, "joint");

    std::vector<size_t> heads;
    for (const size_t score : given)
        for (const size_t model : port_of(graph.nodes[score], "model"))
            if (graph.nodes[model].type->name == "head") heads.push_back(model);

    Json plain = {{"split", "test"}, {"row", ""}, {"batch", 16}};
    std::map<size_t, std::pair<Json, std::vector<size_t>>> own;  // joint → how and on what its own head is scored
    for (const size_t score : given) {
        const GraphNode evaluate = graph.nodes[score];
        if (evaluate.type->name != "evaluate") continue;
        plain = evaluate.params;
        const std::vector<size_t> data = port_of(evaluate, "data");
        if (joints.size() == 1) own[joints[0]] = {plain, data};
        for (const size_t model : port_of(evaluate, "model")) {
            const GraphNode head = graph.nodes[model];
            if (head.type->name != "head") continue;
            if (!joints.empty()) own[partner(graph, "joint", joints, model, heads)] = {plain, data};
            // One head per distinct set of parameters and data; the name says the kind, a number tells others apart.
            for (const auto& [reference, encoders] : references) {
                const size_t encoder =
                    partner(graph, reference == "base" || reference == "joint" ? reference : "controls", encoders,
                            model, heads);
                const std::string stem =
                    fmt::format("{}:{}.{}", table.id, reference, head.params.value("kind", "head"));
                const std::string fold = shared_axes(graph, model);
                std::string name = stem + fold;
                auto fits = [&](const GraphNode& node) {
                    return node.params == head.params && port_of(node, "data") == port_of(head, "data") &&
                           port_of(node, "encoder") == std::vector{encoder};
                };
                int count = 1;
                for (size_t there; (there = graph.index_of(name)) < graph.nodes.size() && !fits(graph.nodes[there]);)
                    name = fmt::format("{}.{}{}", stem, ++count, fold);
                std::map<std::string, std::vector<size_t>> inputs = head.inputs;
                inputs["encoder"] = {encoder};
                const size_t made = imply(graph, table, name, head_type, head.params, inputs);
                add_score(imply(graph, table, name + ".score", evaluate_type, evaluated(reference, evaluate.params),
                                {{"model", {made}}, {"data", data}}));
            }
        }
    }
    for (const auto& [joint, how] : own)
        if (graph.nodes[joint].output() == port::kCheckpoint && !how.second.empty())
            add_score(imply(graph, table, fmt::format("{}:joint.own{}.score", table.id, shared_axes(graph, joint)),
                            evaluate_type, evaluated("joint", how.first), {{"model", {joint}}, {"data", how.second}}));
    for (const size_t expert : port_of(table, "experts"))
        add_score(imply(graph, table, fmt::format("{}:{}.score", table.id, graph.nodes[expert].id), evaluate_type,
                        evaluated(kSpecialists, plain),
                        {{"model", {expert}}, {"data", port_of(graph.nodes[expert], "data")}}));
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
                    .many = true,
                    .required = false,
                    .summary = "trained on all groups' clips, one per fold; scored with its own head and with the "
                               "models' heads"},
                   {.name = "base",
                    .types = {"encoder"},
                    .many = true,
                    .required = false,
                    .summary =
                        "the untouched base (one per fold, if it was trained on the folds' data); scored with the "
                        "models' heads"},
                   {.name = "controls",
                    .types = {"encoder", "checkpoint"},
                    .many = true,
                    .required = false,
                    .summary = "encoders for comparison; each gets the models' heads and a row with its own name"},
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
                              "description": "rounds of the bootstrap behind the intervals"},
                "compare": {
                    "type": "array", "default": [],
                    "description": "differences a − b of two rows with their intervals, printed below the table",
                    "items": {
                        "type": "object", "required": ["a", "b"],
                        "properties": {
                            "a": {"type": "string", "description": "a row and its head: \"average · ridge\""},
                            "b": {"type": "string", "description": "what is subtracted: \"base · ridge\""},
                            "figure": {"enum": ["within", "union"], "default": "union",
                                       "description": "best class of the clip's own group, or of all"}
                        }
                    }
                }
            }
        })"),
        .sources = sources::k_table,
        .run = run_table,
        .expand = expand_table,
    };
}

}  // namespace biophony
