// Node types and plugins for the checker's tests: the shapes of the real ones, with nothing behind.
#pragma once

#include <fmt/format.h>

#include "base/nearest.hpp"
#include "base/schema.hpp"
#include "pipeline/graph.hpp"

namespace fake {

using namespace biophony;

/// A table implies one score for its base; the node's id is "table:base".
inline void expand_table(Graph& graph, size_t index) {
    const auto base = graph.nodes[index].inputs.find("base");
    if (base == graph.nodes[index].inputs.end()) return;
    const GraphNode score = graph.nodes[graph.nodes[index].inputs.at("scores").front()];
    const GraphNode model = graph.nodes[score.inputs.at("model").front()];
    GraphNode head = model;
    head.id = head.stem = graph.nodes[index].id + ":base";
    head.axes.clear();
    head.implied = true;
    head.inputs["encoder"] = base->second;
    graph.nodes.push_back(head);
    GraphNode evaluate = score;
    evaluate.id = evaluate.stem = head.id + ".score";
    evaluate.axes.clear();
    evaluate.implied = true;
    evaluate.inputs["model"] = {graph.nodes.size() - 1};
    graph.nodes.push_back(evaluate);
    graph.nodes[index].inputs["scores"].push_back(graph.nodes.size() - 1);
}

/// As the real one does: each stage is a merger, with parameters of its own.
inline void check_compose(const GraphNode& node, const Registry& registry, std::string_view pointer,
                          std::vector<Diagnostic>& problems) {
    const Json& stages = node.params.at("stages");
    for (size_t i = 0; i < stages.size(); ++i) {
        const std::string at = fmt::format("{}/stages/{}", pointer, i);
        const std::string use = stages[i].at("use");
        std::vector<std::string> names;
        for (const ItemInfo* item : registry.items("merger")) names.push_back(item->name());
        const ItemInfo* item = use.starts_with("merger:") ? registry.find("merger", use.substr(7)) : nullptr;
        if (item == nullptr) {
            problems.push_back({Code::kPlugin,
                                {.pointer = at + "/use"},
                                fmt::format("there is no '{}'{}", use, did_you_mean(use, names))});
            continue;
        }
        Json with = stages[i].value("with", Json::object());
        apply_schema(item->parameters, with, at + "/with", problems);
    }
}

inline NodeTypes types() {
    NodeTypes all;
    all.add({.name = "dataset",
             .output = "dataset",
             .parameters = Json::parse(R"({"type": "object", "properties": {
                 "split": {"type": "object", "default": {}, "properties": {
                     "by": {"enum": ["auto", "source", "recording", "folds"], "default": "auto"},
                     "folds": {"type": "integer", "minimum": 3}, "fold": {"type": "integer", "minimum": 0},
                     "seed": {"type": "integer", "minimum": 0, "default": 0}}},
                 "group_name": {"type": "string", "default": ""}}})"),
             .volatile_source = true});
    all.add({.name = "encoder",
             .output = "encoder",
             .parameters = Json::parse(R"({"type": "object", "properties": {
                 "checkpoint": {"type": "string", "format": "path", "x-must-exist": true}}})"),
             .torch = true});
    all.add({.name = "fine-tune",
             .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}},
                        {.name = "data", .types = {"dataset"}, .many = true}},
             .output = "checkpoint",
             .parameters = Json::parse(R"({"type": "object", "properties": {
                 "recipe": {"enum": ["small"], "default": "small"},
                 "epochs": {"type": "integer", "minimum": 0, "maximum": 10000},
                 "note": {"type": "string"}}})"),
             .torch = true});
    all.add({.name = "task-vector",
             .inputs = {{.name = "base", .types = {"encoder"}}, {.name = "model", .types = {"checkpoint"}}},
             .output = "task_vector",
             .parameters = Json::parse(R"({"type": "object", "properties": {}})")});
    all.add({.name = "compose",
             .inputs = {{.name = "base", .types = {"encoder"}},
                        {.name = "vectors", .types = {"task_vector"}, .many = true}},
             .output = "encoder",
             .parameters = Json::parse(R"({"type": "object", "required": ["stages"], "properties": {
                 "stages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["use"], "x-plugins": "merger", "properties": {
                     "use": {"type": "string"}, "with": {"type": "object"}}}}}})"),
             .check = check_compose});
    all.add({.name = "head",
             .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}},
                        {.name = "data", .types = {"dataset"}, .many = true},
                        {.name = "experts", .types = {"checkpoint"}, .many = true, .required = false}},
             .output = "head",
             .parameters = Json::parse(R"({"type": "object", "properties": {
                 "kind": {"enum": ["concatenate.raw", "prototype", "ridge"], "default": "ridge"},
                 "strength": {"type": "number", "exclusiveMinimum": 0}}})"),
             .torch = true});
    all.add(
        {.name = "evaluate",
         .inputs = {{.name = "model", .types = {"head", "checkpoint"}},
                    {.name = "data", .types = {"dataset"}, .many = true}},
         .output = "metrics",
         .parameters = Json::parse(
             R"({"type": "object", "properties": {"split": {"enum": ["train", "valid", "test"], "default": "test"}}})"),
         .torch = true});
    all.add({.name = "table",
             .inputs = {{.name = "scores", .types = {"metrics"}, .many = true},
                        {.name = "joint", .types = {"checkpoint", "encoder"}, .many = true, .required = false},
                        {.name = "base", .types = {"encoder"}, .many = true, .required = false},
                        {.name = "controls", .types = {"encoder", "checkpoint"}, .many = true, .required = false},
                        {.name = "experts", .types = {"checkpoint"}, .many = true, .required = false}},
             .output = "report",
             .parameters = Json::parse(R"({"type": "object", "properties": {
                 "compare": {"type": "array", "default": [], "items": {"type": "object", "required": ["a", "b"], "properties": {
                     "a": {"type": "string"}, "b": {"type": "string"}, "figure": {"enum": ["within", "union"]}}}}}})"),
             .expand = expand_table});
    return all;
}

inline ItemInfo item(std::string kind, std::string id, const char* parameters) {
    return {.kind = std::move(kind),
            .id = std::move(id),
            .version = "1.0",
            .parameters = Json::parse(parameters),
            .library = "/nowhere/plugin.so"};
}

inline Registry registry() {
    PluginFile file{.path = "/nowhere/plugin.so", .version = "1.0"};
    file.items = {
        item("dataset", "table", R"({"type": "object", "required": ["file"], "properties": {
            "file": {"type": "string", "format": "path", "x-must-exist": true},
            "audio_folder": {"type": "string", "format": "path"},
            "where": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}}}})"),
        item("dataset", "folder", R"({"type": "object", "required": ["folder"], "properties": {
            "folder": {"type": "string", "format": "path", "x-must-exist": true},
            "index": {"type": "string", "format": "path", "default": "index.csv"},
            "files": {"type": "array", "items": {"type": "string", "format": "path"}}}})"),
        item("encoder", "beats", R"({"type": "object", "properties": {"depth": {"type": "integer", "default": 2}}})"),
        item("merger", "average", R"({"type": "object", "properties": {}})"),
        item(
            "merger", "ties.global",
            R"({"type": "object", "properties": {"density": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.2}}})"),
    };
    return Registry::of({file});
}

}  // namespace fake
