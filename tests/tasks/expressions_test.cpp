// Expressions in pipelines: names of vectors, what check says before anything runs, and what keys count.
#include "../pipeline/fake_types.hpp"

#include <catch2/catch.hpp>

#include "pipeline/run.hpp"
#include "tasks/node_types.hpp"
#include "tasks/sweep.hpp"

using namespace biophony;

namespace {

ItemInfo merger(const std::string& id, const char* stage, const char* properties) {
    ItemInfo out = fake::item("merger", id, R"({"type": "object"})");
    out.parameters["properties"] = Json::parse(properties);
    out.interface_id = "biophony.merger/0";
    out.tier = "S";
    out.build = "build of " + id;
    out.raw = {{"merger", {{"stage", stage}, {"scope", "element"}, {"space", "delta"}}}};
    return out;
}

const Registry& registry() {
    static const Registry one = [] {
        PluginFile file{.path = "/nowhere/plugin.so", .version = "1.0"};
        file.items = {
            fake::item("encoder", "beats", R"({"type": "object", "properties": {}})"),
            fake::item("dataset", "folder", R"({"type": "object", "properties": {"folder": {"type": "string"}}})"),
            merger("task-arithmetic", "combine",
                   R"({"lambda_sum": {"type": "number"}, "coefficients": {"type": "array", "x-per-expert": true}})"),
            merger("average", "combine", "{}"),
            merger("trim", "transform", "{}"),
            merger("random-step", "post", "{}")};
        return Registry::of({file});
    }();
    return one;
}

Json pipeline_with(const char* node) {
    Json pipeline = Json::parse(R"({"biophony": 1, "axes": {"taxon": ["bird", "frog", "insect"]}, "nodes": {
        "base": {"use": "encoder:beats"},
        "clips[taxon]": {"use": "dataset:folder", "with": {"folder": "/tmp", "group_name": "{taxon}"}},
        "expert[taxon]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon]"}},
        "vector[taxon]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon]"}},
        "before": {"use": "head", "in": {"encoder": "base", "data": ["clips[*]"]}},
        "after": {"use": "head", "in": {"encoder": "expert[bird]", "data": ["clips[*]"]}},
        "own": {"use": "head", "in": {"data": ["clips[*]"], "experts": ["expert[*]"]},
                "with": {"kind": "concatenate.raw", "own_encoders": true}}}})");
    pipeline["nodes"]["made"] = Json::parse(node);
    return pipeline;
}

Graph graph_of(const char* node, std::string& told) {
    std::vector<Diagnostic> problems;
    Graph graph = make_graph(pipeline_with(node).dump(), "/tmp/p.json", {}, node_types(), registry(), problems);
    told.clear();
    for (const Diagnostic& problem : problems) told += problem.text() + "\n";
    return graph;
}

std::string told_of(const std::string& node) {
    std::string told;
    graph_of(node.c_str(), told);
    return told;
}

std::string compose(const std::string& vectors, const std::string& with) {
    return R"({"use": "compose", "in": {"base": "base", "vectors": )" + vectors + R"(}, "with": )" + with + "}";
}

std::string sweep(const std::string& with, const std::string& in = R"("controls": "clips[frog]", "head": "before")") {
    return R"({"use": "sweep", "in": {"base": "base", "vectors": {"b": "vector[bird]"}, "targets": "clips[bird]", )" +
           in + R"(}, "with": )" + with + "}";
}

}  // namespace

TEST_CASE("vectors are called as the pipeline names them, or by their axis") {
    std::string told;
    const Graph graph = graph_of(
        compose(R"({"x": "vector[insect]", "y": "vector[bird]"})", R"({"expression": "x - 2*y"})").c_str(), told);
    REQUIRE(told == "");
    const GraphNode& made = graph.nodes.at(graph.index_of("made"));
    CHECK(made.names.at("vectors") == std::vector<std::string>{"x", "y"});
    REQUIRE(made.inputs.at("vectors").size() == 2);
    CHECK(graph.nodes.at(made.inputs.at("vectors")[0]).id == "vector[insect]");
    CHECK(
        made.params.at("stages") ==
        Json::parse(R"([{"use": "merger:task-arithmetic", "with": {"lambda_sum": 1, "coefficients": [1.0, -2.0]}}])"));

    // The key counts the plugin that does the work, and the names.
    const HostFacts host;
    const Json record = Keys(graph, registry(), host, 1).record(graph.index_of("made"), {{"b"}, {"1", "2"}});
    CHECK(record["plugins"] == Json{{"merger:task-arithmetic", "build of task-arithmetic"}});
    CHECK(record["names"]["vectors"] == Json{"x", "y"});

    CHECK(told_of(compose(R"(["vector[*]"])", R"({"expression": "frog + insect - bird"})")) == "");
    CHECK(told_of(compose(R"("vector[bird]")", R"({"expression": "-bird"})")) == "");
    CHECK(
        told_of(
            R"({"use": "arithmetic", "in": {"vectors": ["vector[*]"]}, "with": {"expression": "(frog + insect - bird)/2"}})") ==
        "");
}

TEST_CASE("what is wrong with names and expressions is told before anything runs") {
    CHECK_THAT(
        told_of(compose(R"(["vector[*]"])", R"({"expression": "frog + insekt - bird"})")),
        Catch::Contains(
            "/nodes/made/with/expression: at 8 of \"frog + insekt - bird\": there is no vector 'insekt'; did you mean "
            "'insect'?"));
    CHECK_THAT(told_of(compose(R"({"x": "vector[*]"})", R"({"expression": "x"})")),
               Catch::Contains("/nodes/made/in/vectors/x: 'vector[*]' gives 3 nodes, expected one for a name"));
    CHECK_THAT(told_of(compose(R"({"x": "vektor[bird]"})", R"({"expression": "x"})")),
               Catch::Contains("/in/vectors/x: there is no node 'vektor'; did you mean 'vector'?"));
    CHECK_THAT(told_of(compose(R"({"x": "vector[bird]", "y": "vector[bird]"})", R"({"expression": "x + y"})")),
               Catch::Contains("comes twice"));
    CHECK_THAT(told_of(compose("{}", R"({"expression": "x"})")), Catch::Contains("the list is empty"));
    CHECK_THAT(told_of(compose("7", R"({"expression": "x"})")),
               Catch::Contains(R"(or an object of them, {"name": "node"})"));
    // Other ports have no names.
    CHECK_THAT(told_of(R"({"use": "head", "in": {"encoder": "base", "data": {"a": "clips[bird]"}}})"),
               Catch::Contains("expected the name of a node, or a list of names"));

    CHECK_THAT(told_of(compose(R"(["vector[*]"])", "{}")),
               Catch::Contains("found neither \"stages\" nor \"expression\""));
    CHECK_THAT(
        told_of(compose(R"("vector[bird]")", R"({"expression": "bird", "stages": [{"use": "merger:average"}]})")),
        Catch::Contains("/with/stages/0: behind an expression") && Catch::Contains("second combine"));
    CHECK_THAT(told_of(compose(R"("vector[bird]")", R"({"expression": "bird", "stages": [{"use": "merger:trim"}]})")),
               Catch::Contains("/with/stages/0: behind an expression"));
    CHECK(told_of(compose(R"("vector[bird]")",
                          R"({"expression": "-bird", "stages": [{"use": "merger:random-step"}]})")) == "");
    CHECK_THAT(
        told_of(R"({"use": "arithmetic", "in": {"vectors": ["vector[*]"]}, "with": {"expression": "frog - bird"}})"),
        Catch::Contains("leaves out the vector 'insect'"));
}

TEST_CASE("grids are lists, or steps that come out") {
    CHECK(grids_of(Json::parse(R"({"a": [0.5, 1], "b": {"from": 0.1, "to": 1, "step": 0.05}})")).at("b").size() == 19);
    CHECK(grids_of(Json::parse(R"({"b": {"from": 0.1, "to": 1, "step": 0.05}})")).at("b")[4] == 0.3);
    CHECK(grids_of(Json::parse(R"({"b": {"from": -1, "to": -1, "step": 1}})")).at("b") == std::vector<double>{-1});
    for (const char* bad :
         {R"({"a": []})", R"({"a": 1})", R"({"a": ["x"]})", R"({"a": [1, 1]})", R"({"a": {"from": 0, "to": 1}})",
          R"({"a": {"from": 0, "to": 1, "step": 0.3}})", R"({"a": {"from": 1, "to": 0, "step": 0.5}})",
          R"({"a": {"from": 0, "to": 1, "step": 0}})", R"({"a": {"from": 0, "to": 1e9, "step": 1}})",
          R"({"a": {"from": 0, "to": 999, "step": 1}, "b": {"from": 0, "to": 99, "step": 1}})"}) {
        INFO(bad);
        CHECK_THROWS_AS(grids_of(Json::parse(bad)), Error);
    }
}

TEST_CASE("a sweep is checked before anything runs") {
    const std::string good = R"({"expression": "-scale*b", "grid": {"scale": [0.1, 0.2]}, "goal": "forget"})";
    CHECK(told_of(sweep(good)) == "");
    CHECK_THAT(told_of(sweep(R"({"expression": "-scal*b", "grid": {"scale": [0.1]}, "goal": "forget"})")),
               Catch::Contains("/with/expression: at 2 of") && Catch::Contains("did you mean 'scale'?"));
    CHECK_THAT(told_of(sweep(R"({"expression": "-b*b", "grid": {"b": [0.1]}, "goal": "forget"})")),
               Catch::Contains("/with/grid/b: 'b' is also the name of a vector"));
    CHECK_THAT(told_of(sweep(R"({"expression": "-b", "grid": {"scale": [0.1]}, "goal": "forget"})")),
               Catch::Contains("doesn't use 'scale'"));
    CHECK_THAT(told_of(sweep(R"({"expression": "-b", "grid": {}, "goal": "forget"})")),
               Catch::Contains("/with/grid: the grid has no coefficient"));
    CHECK_THAT(
        told_of(sweep(R"({"expression": "-s*b", "grid": {"s": {"from": 0, "to": 1, "step": 0.3}}, "goal": "forget"})")),
        Catch::Contains("/with/grid/s: from 0 to 1 in steps of 0.3 doesn't come out"));
    CHECK_THAT(told_of(sweep(R"({"expression": "-s*b", "grid": {"s": [1]}, "goal": "forgt"})")),
               Catch::Contains("did you mean 'forget'?"));
    CHECK_THAT(told_of(sweep(good, R"("controls": "clips[frog]")")),
               Catch::Contains("/with/judge: a fixed head comes from outside"));
    CHECK_THAT(told_of(sweep(R"({"expression": "-s*b", "grid": {"s": [1]}, "goal": "forget", "judge": "ridge"})")),
               Catch::Contains("/with/judge: a ridge head is fitted at each point"));
    CHECK_THAT(told_of(sweep(good, R"("head": "before")")),
               Catch::Contains("/with/goal: forgetting alone is easily had"));
    CHECK(told_of(sweep(
              R"({"expression": "s*b", "grid": {"s": [1]}, "goal": "learn", "judge": "ridge", "pooling": "bands"})",
              R"("controls": [])")) == "");

    // A term that is always there would make another base.
    CHECK_THAT(told_of(sweep(R"({"expression": "2*b - s*b", "grid": {"s": [1]}, "goal": "forget"})")),
               Catch::Contains("/with/expression: the term 2*b has no coefficient"));
    CHECK(told_of(sweep(R"({"expression": "s*(2*b - b) ", "grid": {"s": [1]}, "goal": "forget"
})")) == "");
    // A floor is for controls.
    CHECK_THAT(
        told_of(sweep(R"({"expression": "s*b", "grid": {"s": [1]}, "goal": "learn", "judge": "ridge", "floor": 0.9})",
                      R"("controls": [])")),
        Catch::Contains("/with/floor: the floor is for the port 'controls'"));
    CHECK(told_of(sweep(R"({"expression": "s*b", "grid": {"s": [1]}, "goal": "learn", "floor": 0.9})")) == "");
    // What stands behind the ports.
    CHECK_THAT(told_of(sweep(good, R"("controls": ["clips[*]"], "head": "before")")),
               Catch::Contains("'made': 'clips[bird]' is among the targets and among the controls"));
    CHECK_THAT(told_of(sweep(good, R"("controls": "clips[frog]", "head": "after")")),
               Catch::Contains("the head 'after' was fitted on 'expert[bird]', expected one on the base of the sweep, "
                               "'base'"));
    CHECK_THAT(told_of(sweep(good, R"("controls": "clips[frog]", "head": "own")")),
               Catch::Contains("the head 'own' reads its experts' own encoders"));
}

TEST_CASE("names that no expression can have are told as such") {
    Json pipeline = pipeline_with(compose(R"(["vector[*]"])", R"({"expression": "near + frog"})").c_str());
    pipeline["axes"]["taxon"] = {"cricket-near", "frog"};
    pipeline["nodes"].erase("after");
    std::vector<Diagnostic> problems;
    make_graph(pipeline.dump(), "/tmp/p.json", {}, node_types(), registry(), problems);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0].text(), Catch::Contains("/nodes/made/with/expression: 'cricket-near' can't stand in an "
                                                   "expression") &&
                                       Catch::Contains(R"({"cricket_near": …})"));
    CHECK_THAT(
        told_of(R"({"use": "arithmetic", "in": {"vectors": {"1st": "vector[bird]"}}, "with": {"expression": "x"}})"),
        Catch::Contains("'1st' can't stand in an expression") && Catch::Contains(R"({"v1st": …})"));
    CHECK_THAT(told_of(sweep(R"({"expression": "-sc*b", "grid": {"s-c": [1]}, "goal": "forget"})")),
               Catch::Contains("/with/grid/s-c: 's-c' can't stand in an expression"));
    CHECK(told_of(compose(R"({"τ": "vector[bird]"})", R"({"expression": "-τ"})")) == "");
}
