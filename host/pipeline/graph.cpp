#include "pipeline/graph.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "pipeline/check.hpp"
#include "pipeline/definition.hpp"
#include "pipeline/expand.hpp"
#include "pipeline/inline.hpp"

namespace biophony {

size_t Graph::index_of(std::string_view id) const {
    return static_cast<size_t>(
        std::find_if(nodes.begin(), nodes.end(), [&](const GraphNode& node) { return node.id == id; }) - nodes.begin());
}

std::vector<size_t> Graph::users_of(size_t n) const {
    std::vector<size_t> out;
    for (size_t i = 0; i < nodes.size(); ++i)
        if (std::any_of(nodes[i].inputs.begin(), nodes[i].inputs.end(), [&](const auto& input) {
                return std::find(input.second.begin(), input.second.end(), n) != input.second.end();
            }))
            out.push_back(i);
    return out;
}

std::vector<bool> Graph::with_inputs(std::vector<bool> out) const {
    for (size_t n = out.size(); n-- > 0;)  // every node stands behind its inputs
        if (out[n])
            for (const auto& [port, sources] : nodes[n].inputs)
                for (const size_t source : sources) out[source] = true;
    return out;
}

Json Graph::input_ids(const GraphNode& node) const {
    Json out = Json::object();
    for (const auto& [port, sources] : node.inputs) {
        out[port] = Json::array();
        for (const size_t source : sources) out[port].push_back(nodes[source].id);
    }
    return out;
}

std::pair<std::string, Json> parse_set(std::string_view text) {
    try {
        (void)Json(text).dump();
    } catch (const Json::exception&) {
        throw Error(Code::kInvalid, "--set: what stands behind it is not valid UTF-8");
    }
    const size_t equals = text.find('=');
    const std::string name(text.substr(0, equals));
    if (equals == std::string_view::npos || name.empty())
        throw Error(
            Code::kInvalid,
            fmt::format("--set: found '{}', expected name=value, like params.seed=7 or node.parameter=value", text));
    const std::string value(text.substr(equals + 1));
    std::vector<Diagnostic> problems;
    const JsonText parsed = JsonText::parse(value, "--set " + name, problems);
    if (problems.empty()) return {name, parsed.value()};
    // JSON with an own fault, like a key that stands twice, was hardly meant as a text.
    if (Json::accept(value)) throw Error(Code::kInvalid, problems[0].message, problems[0].where);
    return {name, Json(value)};
}

void sort_problems(std::vector<Diagnostic>& problems) {
    const auto key = [](const Diagnostic& problem) {
        return std::tie(problem.where.file, problem.where.line, problem.where.column, problem.where.pointer,
                        problem.message.text);
    };
    std::stable_sort(problems.begin(), problems.end(),
                     [&](const Diagnostic& a, const Diagnostic& b) { return key(a) < key(b); });
    problems.erase(std::unique(problems.begin(), problems.end(),
                               [&](const Diagnostic& a, const Diagnostic& b) { return key(a) == key(b); }),
                   problems.end());
}

namespace {

/// The nodes, each behind its inputs; in their own order where that allows it.
std::vector<size_t> turns_of(const Graph& graph) {
    std::vector<std::vector<size_t>> inputs(graph.nodes.size());
    for (size_t n = 0; n < inputs.size(); ++n)
        for (const auto& [port, sources] : graph.nodes[n].inputs)
            inputs[n].insert(inputs[n].end(), sources.begin(), sources.end());
    return order_of(inputs);
}

void sort_nodes(Graph& graph) {
    const std::vector<size_t> order = turns_of(graph);
    if (order.size() != graph.nodes.size())
        throw Error(Code::kInternal, "the nodes that a node type added wait for each other");
    std::vector<size_t> place(order.size());
    for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
    std::vector<GraphNode> sorted;
    for (const size_t n : order) {
        sorted.push_back(std::move(graph.nodes[n]));
        for (auto& [port, sources] : sorted.back().inputs)
            for (size_t& source : sources) source = place[source];
    }
    for (GraphOutput& output : graph.outputs)
        for (size_t& n : output.nodes) n = place[n];
    graph.nodes = std::move(sorted);
}

}  // namespace

Graph make_graph(std::string text, const std::filesystem::path& file, const Overrides& overrides,
                 const NodeTypes& types, const Registry& registry, std::vector<Diagnostic>& problems) {
    Graph graph;
    std::vector<Diagnostic> found;
    auto done = [&] {
        sort_problems(found);
        problems.insert(problems.end(), found.begin(), found.end());
        return std::move(graph);
    };
    Definition definition(std::move(text), file, overrides, found);
    if (!definition.usable()) return done();
    std::set<std::string> set_of_users;
    read_pipelines(definition);
    Expansion expansion = expand_axes(definition);
    if (definition.json().contains("pipelines") || expansion.uses_pipelines(definition)) {
        put_node_overrides(definition, expansion, overrides, true, set_of_users);
        if (inline_pipelines(definition, expansion)) expansion = expand_axes(definition);
    }
    put_node_overrides(definition, expansion, overrides, false, set_of_users);
    check_exclusions(definition, expansion);
    std::vector<CheckedNode> nodes = check_nodes(definition, expansion, types, registry, graph.outputs);
    if (!found.empty()) return done();

    graph.name = definition.json().value("name", "");
    graph.description = definition.json().value("description", "");
    graph.effective = effective_pipeline(definition, expansion, nodes);
    for (size_t n = 0; n < nodes.size(); ++n) {
        const Instance& instance = expansion.instances[n];
        const NodeKey& key = expansion.keys[instance.key];
        GraphNode node{
            .id = instance.id, .stem = key.stem, .type = nodes[n].type, .item = nodes[n].item, .seed = nodes[n].seed};
        for (const Axis* axis : key.axes) node.axes.emplace_back(axis->name, instance.axes.at(axis->name)->text);
        for (const auto& [port, sources] : nodes[n].inputs)
            node.places[pointer_join("/in", port)] = definition.where(pointer_join(key.address + "/in", port));
        for (const auto& [name, value] : nodes[n].params.value.items())
            node.places[pointer_join("/with", name)] =
                definition.where(nodes[n].params.address(pointer_join("", name)));
        node.params = std::move(nodes[n].params.value);
        node.inputs = std::move(nodes[n].inputs);
        node.names = std::move(nodes[n].names);
        node.where = definition.where(key.address);
        graph.nodes.push_back(std::move(node));
    }
    // Node types may add nodes behind the ones of the text, which keep their numbers meanwhile; what is added may imply
    // more. A node finds its inputs as they will be, wherever they stand in the text.
    graph.registry = &registry;
    std::set<std::string> inlined;
    for (const auto& [key, of] : definition.all_inlined()) inlined.insert(key.substr(0, key.find('[')));
    const std::vector<size_t> turns = turns_of(graph);
    for (size_t turn = 0; turn < graph.nodes.size(); ++turn) {
        const size_t n = turn < turns.size() ? turns[turn] : turn;
        if (!graph.nodes[n].type->expand) continue;
        const auto expand = graph.nodes[n].type->expand;
        try {
            expand(graph, n);
        } catch (const Error& error) {
            const GraphNode& node = graph.nodes[n];
            const bool inside = inlined.contains(node.stem);  // its place names no node of the graph
            found.push_back({error.code(), node.where,
                             error.message() + (inside ? fmt::format(" (in '{}')", node.id) : std::string())});
        }
    }
    if (found.empty()) sort_nodes(graph);
    return done();
}

}  // namespace biophony
