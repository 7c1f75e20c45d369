#include <fmt/format.h>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/nearest.hpp"
#include "pipeline/explain.hpp"

namespace biophony::app {

namespace {

using State = PlannedNode::State;

std::string short_hash(const std::string& hash) {
    return hash.size() > 12 ? hash.substr(0, 12) : hash;
}

const char* word(InputChange::Kind kind) {
    switch (kind) {
        case InputChange::Kind::kChanged: return "changed";
        case InputChange::Kind::kNew: return "new";
        case InputChange::Kind::kGone: return "gone";
        case InputChange::Kind::kOrder: return "order";
        case InputChange::Kind::kPending: break;
    }
    return "pending";
}

Json json_of(const std::vector<Cause>& causes) {
    Json out = Json::array();
    for (const Cause& cause : causes)
        out.push_back({{"node", cause.node},
                       {"reasons", cause.reasons},
                       {"inputs", json_of(cause.inputs)},
                       {"told_before", cause.told_before}});
    return out;
}

Json json_of(const Explanation& explanation, const Graph& graph) {
    const PlannedNode& planned = *explanation.planned;
    const GraphNode& node = *planned.node;
    Json waits = Json::array(), inputs = Json::array();
    for (const size_t source : planned.waits) waits.push_back(graph.nodes[source].id);
    for (const auto& [port, digests] : planned.digests)
        for (size_t i = 0; i < digests.size(); ++i)
            inputs.push_back({{"port", port},
                              {"node", graph.nodes[node.inputs.at(port)[i]].id},
                              {"digest", digests[i].empty() ? Json(nullptr) : Json(digests[i])}});
    Json out = {{"format", "biophony-explain/0"},
                {"id", node.id},
                {"use", node.use()},
                {"state", to_string(planned.state)},
                {"reason", planned.reason},
                {"key", planned.key.empty() ? Json(nullptr) : Json(planned.key)},
                {"record", planned.record},
                {"inputs", inputs},
                {"waits", waits},
                {"seconds", planned.seconds ? Json(*planned.seconds) : Json(nullptr)},
                {"result", nullptr},
                {"other", nullptr}};
    if (planned.result)
        out["result"] = {{"folder", planned.result->folder.string()},
                         {"digest", planned.result->digest},
                         {"finished", planned.result->record.value("finished", Json())},
                         {"seconds", planned.result->record.value("seconds", Json())},
                         {"headline", planned.result->record.value("headline", Json())}};
    if (const StoreEntry* other = explanation.other) {
        Json changes = Json::array(), changed_inputs = Json::array();
        for (const Change& change : explanation.difference.changes) {
            Json entry = {{"pointer", change.pointer}, {"words", in_words(change, node.type->name)}};
            if (change.then) entry["then"] = *change.then;
            if (change.now) entry["now"] = *change.now;
            changes.push_back(entry);
        }
        for (const InputChange& input : explanation.difference.inputs)
            changed_inputs.push_back({{"port", input.port},
                                      {"kind", word(input.kind)},
                                      {"node", input.node.empty() ? Json(nullptr) : Json(input.node)},
                                      {"then", input.then.empty() ? Json(nullptr) : Json(input.then)}});
        out["other"] = {{"key", other->key},
                        {"node", other->text("node")},
                        {"folder", other->folder.string()},
                        {"finished", other->text("finished")},
                        {"seconds", other->seconds()},
                        {"changes", changes},
                        {"inputs", changed_inputs},
                        {"found", explanation.found},
                        {"causes", json_of(explanation.causes)}};
    }
    return out;
}

void print_causes(const std::vector<Cause>& causes, size_t depth) {
    for (const Cause& cause : causes) {
        std::string text = cause.told_before ? "see above" : joined(cause.reasons);
        if (text.empty()) text = "because of its inputs";
        fmt::print("{:{}}{}: {}\n", "", 2 * depth, cause.node, text);
        print_causes(cause.inputs, depth + 1);
    }
}

void print_leaves(const Json& value, const std::string& name) {
    if (!value.is_structured() || value.empty()) {
        fmt::print("    {:<30}  {}\n", name, brief(value));
        return;
    }
    size_t i = 0;
    for (const auto& entry : value.items())
        print_leaves(entry.value(),
                     (name.empty() ? "" : name + ".") + (value.is_object() ? entry.key() : std::to_string(i++)));
}

void print_difference(const Explanation& explanation) {
    const GraphNode& node = *explanation.planned->node;
    const StoreEntry* other = explanation.other;
    if (other == nullptr) {
        if (explanation.planned->result)
            fmt::print("\nThe store has no other result of this node.\n");
        else
            fmt::print("\nThe store has no result of a {} node.\n", node.type->name);
        return;
    }
    const bool own = other->text("node") == node.id;
    fmt::print("\nCompared with the nearest {}result of {}{}, made {} in {}\n  {}\n",
               explanation.planned->result ? "other " : "earlier ", own ? "this node" : other->text("node"),
               own ? "" : " (this node has none)", other->text("finished"), about(other->seconds()),
               other->folder.string());
    size_t width = 4;
    for (const Change& change : explanation.difference.changes) width = std::max(width, change.path().size());
    for (const Change& change : explanation.difference.changes)
        fmt::print("  {:<{}}  {} → {}\n", change.path(), width, brief(change.then), brief(change.now));
    for (const std::string& words : in_words(explanation.difference.inputs)) fmt::print("  {}\n", words);
    for (const InputChange& input : explanation.difference.inputs)
        if (input.kind == InputChange::Kind::kPending)
            fmt::print("  input {}: {} is not there yet\n", input.port, input.node);
    for (const std::string& line : explanation.found) fmt::print("  {}\n", line);
    if (explanation.difference.changes.empty() && explanation.difference.inputs.empty() && explanation.found.empty())
        fmt::print("  nothing differs\n");
    if (explanation.causes.empty()) return;
    fmt::print("\nWhy the inputs changed, or may change\n");
    print_causes(explanation.causes, 1);
}

void print(const Explanation& explanation, const Graph& graph) {
    const PlannedNode& planned = *explanation.planned;
    const GraphNode& node = *planned.node;
    fmt::print("{}  {}{}\n", node.id, node.use(), node.implied ? ", implied" : "");
    if (planned.state == State::kCached) {
        fmt::print("  cached: made {} in {}{}\n  {}\n", planned.result->record.value("finished", "?"),
                   about(planned.seconds.value_or(0)),
                   planned.result->record.value("headline", "").empty()
                       ? ""
                       : ", " + planned.result->record.value("headline", ""),
                   planned.result->folder.string());
    } else if (planned.state == State::kLooks) {
        fmt::print("  {}\n  {}\n", planned.reason, planned.result->folder.string());
    } else {
        fmt::print("  to run: {}{}\n", planned.reason,
                   planned.seconds ? fmt::format(" ({})", estimate(*planned.seconds)) : "");
    }
    print_difference(explanation);

    fmt::print("\nThe key {}\n",
               planned.key.empty() ? "is not known before its inputs are there; it is made of" : planned.key);
    const Json& record = planned.record;
    fmt::print("  type        {}, sources {}\n", node.type->name, short_hash(record.value("sources", "")));
    fmt::print("  seed        {}\n", record.at("seed").dump());
    fmt::print("  parameters{}\n", record.at("params").empty() ? "  none" : "");
    if (!record.at("params").empty()) print_leaves(record.at("params"), "");
    fmt::print("  plugins{}\n", record.at("plugins").empty() ? "     none" : "");
    for (const auto& entry : record.at("plugins").items())
        fmt::print("    {:<30}  build {}\n", entry.key(), short_hash(entry.value().get<std::string>()));
    if (!planned.digests.empty()) fmt::print("  inputs\n");
    for (const auto& [port, digests] : planned.digests)
        for (size_t i = 0; i < digests.size(); ++i)
            fmt::print("    {:<30}  {}\n", port + ": " + graph.nodes[node.inputs.at(port)[i]].id,
                       digests[i].empty() ? "not there yet" : short_hash(digests[i]));
    if (record.contains("torch")) {
        fmt::print("  torch\n");
        for (const auto& entry : record.at("torch").items())
            fmt::print("    {:<30}  {}\n", entry.key(), brief(entry.value()));
    }
}

}  // namespace

int explain_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    more.add_options()("_second", options::value<std::string>()->required(), "");
    add_format_option(more);
    if (!parse_pipeline(
            arguments, "explain FILE NODE [options]",
            "Says what one node's result depends on, whether it is there, and what differs from the nearest other "
            "result in the store: leaf by leaf, and for inputs down to the cause. Data sets upstream are looked at; "
            "nothing "
            "else runs.",
            true, values, more))
        return 0;
    const std::string format = format_of(values), id = values["_second"].as<std::string>();
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    const size_t node = graph.index_of(id);
    if (node == graph.nodes.size()) {
        std::vector<std::string> ids, of_stem;
        for (const GraphNode& one : graph.nodes) {
            ids.push_back(one.id);
            if (one.stem == id) of_stem.push_back(one.id);
        }
        throw Error(Code::kInvalid,
                    of_stem.empty() ? with_nearest(fmt::format("the pipeline has no node '{}'", id), id, ids)
                                    : fmt::format("'{}' stands for {} nodes, expected one of them, like '{}'", id,
                                                  of_stem.size(), of_stem.front()),
                    {.file = values["_file"].as<std::string>()});
    }
    Console console;
    const Plan plan = plan_graph(graph, registry, run_options(values, {}), console, node);
    console.clear();
    const Explanation explanation = explain_node(graph, plan, node);
    if (format == "json")
        print_json(json_of(explanation, graph));
    else
        print(explanation, graph);
    return 0;
}

}  // namespace biophony::app
