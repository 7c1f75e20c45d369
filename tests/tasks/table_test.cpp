// Real node types in pipelines with folds: what the table implies, and which joint model and base belong to which head.
#include "../pipeline/fake_types.hpp"

#include <catch2/catch.hpp>
#include <set>

#include "tasks/node_types.hpp"

using namespace biophony;

namespace {

/// The real node types are used; plugins are names with parameters. `controls`: those that a table implies.
Registry plugins_of(bool controls) {
    PluginFile file = fake::registry().files().front();
    file.items.push_back(fake::item("dataset", "synthetic", R"({"type": "object", "properties": {
        "group": {"type": "string"}, "recordings": {"type": "integer"}, "clips": {"type": "integer"},
        "clip_seconds": {"type": "number"}}})"));
    if (controls) {
        file.items.push_back(fake::item("merger", "random-step", R"({"type": "object", "properties": {}})"));
        file.items.push_back(fake::item(
            "encoder", "mel-statistics",
            R"({"type": "object", "properties": {"window_seconds": {"type": "number", "minimum": 0.2, "default": 5}}})"));
    }
    for (ItemInfo& item : file.items)
        if (item.kind == "merger") {
            item.interface_id = "biophony.merger/0";
            item.raw = {{"merger",
                         {{"stage", item.id == "random-step" ? "post" : "combine"},
                          {"scope", "tensor"},
                          {"space", "delta"},
                          {"random", item.id == "random-step"}}}};
        }
    return Registry::of({file});
}

/// `change` may spoil the pipeline; file names don't matter to the graph.
Graph graph_of(const std::function<void(Json&)>& change, std::string& told) {
    Json pipeline = Json::parse(R"({
        "biophony": 1,
        "axes": {"taxon": ["bird", "frog"], "fold": [0, 1, 2]},
        "nodes": {
            "base": {"use": "encoder:beats"},
            "mel-statistics": {"use": "encoder:beats", "with": {"depth": 1}},
            "clips[taxon,fold]": {"use": "dataset:folder", "with": {"folder": "/tmp",
                "group_name": "{taxon}", "split": {"by": "folds", "folds": 3, "fold": "{fold}", "seed": 1}}},
            "background[taxon,fold]": {"use": "background", "in": {"data": "clips[taxon,fold]"}},
            "expert[taxon,fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon,fold]"}},
            "random-start[fold]": {"use": "fine-tune", "in": {"encoder": "mel-statistics", "data": ["clips[*,fold]"]}},
            "joint[fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": ["clips[*,fold]"]}},
            "model[fold]": {"use": "head", "in": {"encoder": "base", "data": ["clips[*,fold]"]}},
            "score[fold]": {"use": "evaluate", "in": {"model": "model[fold]", "data": ["clips[*,fold]"]}, "with": {"row": "average"}},
            "group[fold]": {"use": "head", "in": {"encoder": "base", "data": ["background[*,fold]"]}},
            "told[fold]": {"use": "evaluate", "in": {"model": "group[fold]", "data": ["background[*,fold]"]}},
            "table": {"use": "table", "in": {"scores": ["score[*]"], "joint": ["joint[*]"], "base": "base",
                "experts": ["expert[*,*]"], "controls": ["mel-statistics", "random-start[*]"]},
                "with": {"compare": [{"a": "base · ridge", "b": "mel-statistics · ridge"}]}}
        }
    })");
    change(pipeline);
    static const Registry registry = plugins_of(false);
    std::vector<Diagnostic> problems;
    Graph graph = make_graph(pipeline.dump(), "/tmp/p.json", {}, node_types(), registry, problems);
    told.clear();
    for (const Diagnostic& problem : problems) told += problem.text() + "\n";
    return graph;
}

std::set<std::string> sources(const Graph& graph, const std::string& node, const char* port) {
    INFO(node);
    REQUIRE(graph.index_of(node) < graph.nodes.size());
    std::set<std::string> out;
    for (const size_t source : graph.nodes[graph.index_of(node)].inputs.at(port)) out.insert(graph.nodes[source].id);
    return out;
}

std::string told_of(const std::function<void(Json&)>& change) {
    std::string told;
    graph_of(change, told);
    return told;
}

}  // namespace

TEST_CASE("each fold's heads are repeated on the base, the fold's joint model and the controls") {
    std::string told;
    const Graph graph = graph_of([](Json&) {}, told);
    REQUIRE(told == "");
    for (const std::string fold : {"[0]", "[1]", "[2]"}) {
        const std::set<std::string> data = {"clips[bird," + fold.substr(1), "clips[frog," + fold.substr(1)};
        for (const auto& [row, encoder] : std::map<std::string, std::string>{{"base", "base"},
                                                                             {"joint", "joint" + fold},
                                                                             {"mel-statistics", "mel-statistics"},
                                                                             {"random-start", "random-start" + fold}}) {
            const std::string head = "table:" + row + ".ridge" + fold;
            CHECK(sources(graph, head, "encoder") == std::set{encoder});
            CHECK(sources(graph, head, "data") == data);
            CHECK(sources(graph, head + ".score", "data") == data);
            CHECK(graph.nodes[graph.index_of(head + ".score")].params.at("row") == row);
            CHECK(graph.nodes[graph.index_of(head)].implied);
        }
        const std::string own = "table:joint.own" + fold + ".score";
        CHECK(sources(graph, own, "model") == std::set{"joint" + fold});
        CHECK(sources(graph, own, "data") == data);
        CHECK(sources(graph, "table:expert[frog," + fold.substr(1) + ".score", "data") ==
              std::set{"clips[frog," + fold.substr(1)});
    }
    // 3 folds: the model, joint's own, 2 specialists, the 4 encoders, the experts' heads on the base and together.
    CHECK(sources(graph, "table", "scores").size() == 3 * (1 + 1 + 2 + 4 + 1 + 1));
    CHECK(graph.nodes[graph.index_of("table")].params.at("control_rows") == Json({"mel-statistics", "random-start"}));
}

TEST_CASE("one joint model is every head's, as long as no other fold's clips were in it") {
    std::string told;
    const Graph graph = graph_of(
        [](Json& p) {
            p["axes"]["fold"] = {1};
            p["nodes"]["table"]["in"]["joint"] = "joint[1]";
        },
        told);
    REQUIRE(told == "");
    CHECK(sources(graph, "table:joint.ridge[1]", "encoder") == std::set<std::string>{"joint[1]"});
    CHECK_THAT(
        told_of([](Json& p) { p["nodes"]["table"]["in"]["joint"] = "joint[1]"; }),
        Catch::Contains("the port 'joint' has one node, 'joint[1]', trained on 'clips[bird,1]', 'clips[frog,1]', but "
                        "'model[0]' is fitted on 'clips[bird,0]', 'clips[frog,0]'; expected one for each fold"));
    CHECK_THAT(told_of([](Json& p) {
                   p["nodes"]["table"]["in"]["joint"] = {"joint[0]", "joint[1]"};
               }),
               Catch::Contains("0 of them were trained on the data of 'model[2]'"));
    CHECK_THAT(told_of([](Json& p) {
                   p["nodes"]["table"]["in"]["base"] = {"base", "mel-statistics"};
               }),
               Catch::Contains("the port 'base' has 2 nodes ('base', 'mel-statistics'), and 0 of them"));
}

TEST_CASE("controls without data are rows of their own, and have names of their own") {
    std::string told;
    const Graph graph = graph_of(
        [](Json& p) {
            p["axes"]["depth"] = {1, 2};
            p["nodes"]["chance[depth]"] = {{"use", "encoder:beats"}, {"with", {{"depth", "{depth}"}}}};
            p["nodes"]["table"]["in"]["controls"] = {"chance[*]"};
            p["nodes"].erase("random-start[fold]");
            p["nodes"].erase("mel-statistics");
        },
        told);
    REQUIRE(told == "");
    CHECK(sources(graph, "table:chance[2].ridge[0]", "encoder") == std::set<std::string>{"chance[2]"});
    CHECK_THAT(told_of([](Json& p) { p["nodes"]["table"]["in"]["controls"] = {"base"}; }),
               Catch::Contains("a control is called 'base', which is the name of another row"));
}

TEST_CASE("folds that don't fit together are told") {
    auto split = [](Json with) {
        return told_of([&](Json& p) { p["nodes"]["clips[taxon,fold]"]["with"]["split"] = with; });
    };
    CHECK_THAT(split({{"by", "folds"}, {"folds", 3}, {"fold", 3}}),
               Catch::Contains("found the fold 3, expected 0 to 2 for 3 folds"));
    CHECK_THAT(split({{"by", "folds"}, {"folds", 3}}),
               Catch::Contains("'fold' is missing; expected which fold is the test split"));
    CHECK_THAT(split({{"by", "folds"}, {"fold", 0}}), Catch::Contains("'folds' is missing"));
    CHECK_THAT(split({{"by", "folds"}, {"folds", 2}, {"fold", 0}}), Catch::Contains("split/folds"));
    CHECK_THAT(split({{"by", "recording"}, {"fold", "{fold}"}}),
               Catch::Contains("found 'fold' with \"by\": \"recording\""));
    CHECK_THAT(
        told_of([](Json& p) { p["nodes"]["clips[taxon,fold]"]["with"].erase("group_name"); }),
        Catch::Contains("the group would be called 'bird,0', another one in each fold; expected a \"group_name\""));
    // By the axis, not by its value: here fold 0 stands for itself, and the axis "fold" for something else.
    CHECK(told_of([](Json& p) {
              Json& with = p["nodes"]["clips[taxon,fold]"]["with"];
              with.erase("group_name");
              with["split"]["fold"] = 0;
          }).find("another one in each fold") == std::string::npos);
    // A fold by way of a param is the axis's all the same.
    CHECK_THAT(told_of([](Json& p) {
                   p["params"]["which"] = "{fold}";
                   Json& with = p["nodes"]["clips[taxon,fold]"]["with"];
                   with.erase("group_name");
                   with["split"]["fold"] = {{"param", "which"}};
               }),
               Catch::Contains("another one in each fold"));
}

namespace {

/// Two folds and two seeds of experts, joint models and merges, scored with several heads.
Graph repeated_graph(const std::function<void(Json&)>& change, std::string& told, bool plugins = true) {
    Json pipeline = Json::parse(R"({
        "biophony": 1,
        "axes": {"taxon": ["bird", "frog"], "fold": [0, 1], "seed": [1, 2], "kind": ["ridge", "gated"]},
        "nodes": {
            "base": {"use": "encoder:beats"},
            "clips[taxon,fold]": {"use": "dataset:folder", "with": {"folder": "/tmp",
                "group_name": "{taxon}", "split": {"by": "folds", "folds": 3, "fold": "{fold}", "seed": 1}}},
            "expert[taxon,seed,fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon,fold]"}, "seed": "{seed}"},
            "vector[taxon,seed,fold]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon,seed,fold]"}},
            "joint[seed,fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": ["clips[*,fold]"]}, "seed": "{seed}"},
            "merged[seed,fold]": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*,seed,fold]"]},
                "with": {"stages": [{"use": "merger:average"}]}, "seed": "{seed}"},
            "model[kind,seed,fold]": {"use": "head", "in": {"encoder": "merged[seed,fold]", "data": ["clips[*,fold]"],
                "experts": ["expert[*,seed,fold]"]}, "with": {"kind": "{kind}"}},
            "score[kind,fold,seed]": {"use": "evaluate", "in": {"model": "model[kind,seed,fold]", "data": ["clips[*,fold]"]},
                "with": {"row": "average", "repeat": "{seed}"}},
            "table": {"use": "table", "in": {"scores": ["score[*,*,*]"], "joint": ["joint[*,*]"], "base": "base",
                "experts": ["expert[*,*,*]"]}}
        }
    })");
    change(pipeline);
    static const Registry with = plugins_of(true), without = plugins_of(false);
    std::vector<Diagnostic> problems;
    Graph graph = make_graph(pipeline.dump(), "/tmp/p.json", {}, node_types(), plugins ? with : without, problems);
    told.clear();
    for (const Diagnostic& problem : problems) told += problem.text() + "\n";
    return graph;
}

std::string repeated_told(const std::function<void(Json&)>& change) {
    std::string told;
    repeated_graph(change, told);
    return told;
}

const GraphNode& node_of(const Graph& graph, const std::string& id) {
    INFO(id);
    REQUIRE(graph.index_of(id) < graph.nodes.size());
    return graph.nodes[graph.index_of(id)];
}

bool has(const Graph& graph, const std::string& id) {
    return graph.index_of(id) < graph.nodes.size();
}

using Names = std::set<std::string>;

}  // namespace

TEST_CASE("seeds: each model has its own partner, and what doesn't depend on them is made once") {
    std::string told;
    const Graph graph = repeated_graph([](Json&) {}, told);
    REQUIRE(told == "");
    for (const std::string fold : {"0", "1"}) {
        CHECK(sources(graph, "table:base.ridge[" + fold + "]", "encoder") == Names{"base"});
        CHECK_FALSE(node_of(graph, "table:base.ridge[" + fold + "]").inputs.contains("experts"));
        CHECK(node_of(graph, "table:base.ridge[" + fold + "].score").params.at("repeat") == "");
        for (const std::string seed : {"1", "2"}) {
            const std::string at = "[" + fold + "," + seed + "]", other = "[" + seed + "," + fold + "]";
            CHECK(sources(graph, "table:joint.ridge" + at, "encoder") == Names{"joint" + other});
            CHECK(node_of(graph, "table:joint.ridge" + at + ".score").params.at("repeat") == seed);
            CHECK(node_of(graph, "table:joint.ridge" + at + ".score").params.at("row") == "joint");
            CHECK(node_of(graph, "table:joint.own" + at + ".score").params.at("repeat") == seed);
            CHECK(sources(graph, "table:joint.own" + at + ".score", "model") == Names{"joint" + other});
            CHECK(node_of(graph, "table:expert[frog," + seed + "," + fold + "].score").params.at("repeat") == seed);
            // The gate's heads are the seed's experts', on the base too.
            CHECK(sources(graph, "table:base.gated" + at, "experts") ==
                  Names{"expert[bird," + seed + "," + fold + "]", "expert[frog," + seed + "," + fold + "]"});
            CHECK(node_of(graph, "table:base.gated" + at + ".score").params.at("repeat") == seed);
        }
    }
    // No row has a clip twice in one repeat: row, head, fold and repeat tell all scores apart.
    std::set<std::tuple<std::string, std::string, std::string, Names>> rows;
    for (const std::string& score : sources(graph, "table", "scores")) {
        const GraphNode& node = node_of(graph, score);
        const GraphNode& model = graph.nodes[node.inputs.at("model").front()];
        const Json repeat = node.params.at("repeat");
        CHECK(rows.emplace(node.params.at("row"), model.params.value("kind", "own"),
                           repeat.is_string() ? repeat.get<std::string>() : repeat.dump(),
                           sources(graph, score, "data"))
                  .second);
    }
    std::set<std::string> ids;
    for (const GraphNode& node : graph.nodes) CHECK(ids.insert(node.id).second);
}

TEST_CASE("one of several seeds alone has the names that it has among them") {
    std::string told;
    const Graph all = repeated_graph([](Json&) {}, told);
    const Graph one = repeated_graph([](Json& p) { p["axes"]["seed"] = {2}, p["axes"]["fold"] = {1}; }, told);
    REQUIRE(told == "");
    for (const GraphNode& node : one.nodes) {
        INFO(node.id);
        REQUIRE(has(all, node.id));
        const GraphNode& same = all.nodes[all.index_of(node.id)];
        CHECK((same.params == node.params || node.type->name == "evaluate" || node.type->name == "table"));
        if (node.type->name != "table")
            for (const auto& [port, nodes] : node.inputs)
                CHECK(sources(one, node.id, port.c_str()) == sources(all, node.id, port.c_str()));
    }
}

TEST_CASE("a random step for each set of vectors, with all heads") {
    std::string told;
    const Graph graph = repeated_graph([](Json&) {}, told);
    const GraphNode& step = node_of(graph, "table:random-step[0,2]");
    CHECK(step.type->name == "compose");
    CHECK(step.params.at("stages") == Json::parse(R"([{"use": "merger:average"}, {"use": "merger:random-step"}])"));
    CHECK(step.seed == 2);
    CHECK(sources(graph, step.id, "vectors") == Names{"vector[bird,2,0]", "vector[frog,2,0]"});
    // Its result says the vectors' names, so they count for its key.
    CHECK(step.names == node_of(graph, "merged[2,0]").names);
    const Graph named = repeated_graph(
        [](Json& p) {
            p["nodes"]["merged[seed,fold]"]["in"]["vectors"] = {{"a", "vector[frog,seed,fold]"},
                                                                {"b", "vector[bird,seed,fold]"}};
        },
        told);
    CHECK(told == "");
    CHECK(sources(named, "table:random-step[0,2]", "vectors") == Names{"vector[bird,2,0]", "vector[frog,2,0]"});
    CHECK(node_of(named, "table:random-step[0,2]").names.at("vectors") == std::vector<std::string>{"b", "a"});
    for (const std::string kind : {"ridge", "gated"}) {
        CHECK(sources(graph, "table:random step." + kind + "[0,2]", "encoder") == Names{step.id});
        CHECK(node_of(graph, "table:random step." + kind + "[0,2].score").params.at("repeat") == "2");
    }
    CHECK(node_of(graph, "table").params.at("control_rows") == Json({"mel-statistics", "random step"}));
    CHECK_FALSE(node_of(graph, "table").params.contains("missing_rows"));

    // Another method on the same vectors shares it; another set of vectors is another row.
    auto change = [](const char* vectors) {
        return [vectors](Json& p) {
            p["axes"]["fold"] = {0};
            Json more = {{"use", "compose"}, {"in", {{"base", "base"}, {"vectors", {vectors}}}}};
            more["with"] = {{"stages", {{{"use", "merger:ties.global"}}}}};
            p["nodes"]["other[seed,fold]"] = more;
            p["nodes"]["other-model[seed,fold]"] = {
                {"use", "head"}, {"in", {{"encoder", "other[seed,fold]"}, {"data", {"clips[*,fold]"}}}}};
            p["nodes"]["other-score[seed,fold]"] = {
                {"use", "evaluate"},
                {"in", {{"model", "other-model[seed,fold]"}, {"data", {"clips[*,fold]"}}}},
                {"with", {{"row", "other"}, {"repeat", "{seed}"}}}};
            p["nodes"]["table"]["in"]["scores"].push_back("other-score[*,*]");
        };
    };
    const Graph same = repeated_graph(change("vector[*,seed,fold]"), told);
    REQUIRE(told == "");
    CHECK_FALSE(has(same, "table:random-step.2[0,1]"));
    CHECK_FALSE(has(same, "table:base.ridge.2[0]"));
    const Graph fewer = repeated_graph(change("vector[bird,seed,fold]"), told);
    REQUIRE(told == "");
    CHECK(sources(fewer, "table:random-step.2[0,1]", "vectors") == Names{"vector[bird,1,0]"});
    CHECK(node_of(fewer, "table:random step 2.ridge[0,1].score").params.at("row") == "random step 2");
    // Who has one in the text gets no other.
    const Graph own = repeated_graph(
        [](Json& p) {
            p["nodes"]["merged[seed,fold]"]["with"]["stages"].push_back({{"use", "merger:random-step"}});
        },
        told);
    REQUIRE(told == "");
    CHECK_FALSE(has(own, "table:random-step[0,1]"));
}

TEST_CASE("mel statistics get the heads that fit another architecture") {
    std::string told;
    const Graph graph = repeated_graph([](Json&) {}, told);
    const GraphNode& mel = node_of(graph, "table:mel-statistics");
    REQUIRE(mel.item != nullptr);
    CHECK(mel.item->id == "mel-statistics");
    CHECK(mel.params.at("window_seconds") == 5);
    CHECK(sources(graph, "table:mel-statistics.ridge[0]", "encoder") == Names{"table:mel-statistics"});
    CHECK(node_of(graph, "table:mel-statistics.ridge[0].score").params.at("repeat") == "");
    CHECK_FALSE(has(graph, "table:mel-statistics.gated[0,1]"));
    // A random start of the base's architecture gets all; the pipeline's own mel statistics are enough.
    const Graph given = repeated_graph(
        [](Json& p) {
            p["nodes"]["mel"] = {{"use", "encoder:mel-statistics"}, {"with", {{"window_seconds", 3}}}};
            p["nodes"]["chance[seed]"] = {{"use", "encoder:beats"}, {"seed", "{seed}"}};
            p["nodes"]["table"]["in"]["controls"] = {"mel", "chance[*]"};
        },
        told);
    REQUIRE(told == "");
    CHECK_FALSE(has(given, "table:mel-statistics"));
    CHECK(has(given, "table:mel.ridge[0]"));
    CHECK_FALSE(has(given, "table:mel.gated[0,1]"));
    CHECK(has(given, "table:chance[1].gated[0,1]"));

    const Graph without = repeated_graph([](Json&) {}, told, false);
    REQUIRE(told == "");
    CHECK_FALSE(has(without, "table:mel-statistics"));
    CHECK_THAT(node_of(without, "table").params.at("missing_rows").dump(),
               Catch::Contains("encoder:mel-statistics is not installed") &&
                   Catch::Contains("merger:random-step is not installed"));
}

TEST_CASE("the experts' heads on the base, and the experts together") {
    std::string told;
    const Graph graph = repeated_graph([](Json&) {}, told);
    const GraphNode& raw = node_of(graph, "table:base.concatenate.raw[0,1]");
    CHECK(raw.params.at("kind") == "concatenate.raw");
    CHECK(sources(graph, raw.id, "encoder") == Names{"base"});
    CHECK(sources(graph, raw.id, "experts") == Names{"expert[bird,1,0]", "expert[frog,1,0]"});
    CHECK(node_of(graph, raw.id + ".score").params.at("repeat") == "1");
    CHECK(node_of(graph, raw.id + ".score").params.at("row") == "base");
    const GraphNode& ensemble = node_of(graph, "table:ensemble.gated[0,1]");
    CHECK(ensemble.params.at("own_encoders") == true);
    CHECK(sources(graph, ensemble.id, "encoder") == Names{"base"});
    CHECK(node_of(graph, ensemble.id + ".score").params.at("row") == "ensemble");

    // Scored concatenations stand on the base already, and are the ensemble's heads, which need no encoder.
    const Graph concatenated = repeated_graph(
        [](Json& p) {
            p["axes"]["kind"] = {"ridge", "concatenate.raw", "concatenate.public"};
        },
        told);
    REQUIRE(told == "");
    CHECK_FALSE(has(concatenated, "table:ensemble.gated[0,1]"));
    for (const std::string kind : {"concatenate.raw", "concatenate.public"}) {
        CHECK(has(concatenated, "table:base." + kind + "[0,1]"));
        CHECK_FALSE(has(concatenated, "table:base." + kind + ".2[0,1]"));
        CHECK_FALSE(node_of(concatenated, "table:ensemble." + kind + "[0,1]").inputs.contains("encoder"));
    }
    // None of them is scored, and the head knows no experts: the table does.
    const Graph plain = repeated_graph(
        [](Json& p) {
            p["axes"]["kind"] = {"ridge"};
            p["nodes"]["model[kind,seed,fold]"]["in"].erase("experts");
            p["nodes"]["model[kind,seed,fold]"]["with"]["pooling"] = "bands";
        },
        told);
    REQUIRE(told == "");
    CHECK(sources(plain, "table:ensemble.gated[1,2]", "experts") == Names{"expert[bird,2,1]", "expert[frog,2,1]"});
    CHECK(node_of(plain, "table:ensemble.gated[1,2]").params.at("pooling") == "bands");
    CHECK_FALSE(node_of(plain, "table:base.concatenate.raw[1,2]").params.contains("pooling"));
    // Without experts there is neither.
    const Graph none = repeated_graph([](Json& p) { p["nodes"]["table"]["in"].erase("experts"); }, told);
    REQUIRE(told == "");
    CHECK_FALSE(has(none, "table:ensemble.gated[0,1]"));
    CHECK_FALSE(has(none, "table:base.concatenate.raw[0,1]"));
}

TEST_CASE("joint training that differs from the experts' is refused") {
    CHECK_THAT(repeated_told([](Json& p) { p["nodes"]["joint[seed,fold]"]["with"]["epochs"] = 3; }),
               Catch::Contains("'joint[1,0]' and the expert 'expert[bird,1,0]' are trained differently: 'epochs' is 3 "
                               "and nothing"));
    CHECK_THAT(
        repeated_told([](Json& p) { p["nodes"]["expert[taxon,seed,fold]"]["with[frog,1,1]"]["recipe"] = "nihal2026"; }),
        Catch::Contains("'joint[1,1]' and the expert 'expert[frog,1,1]'") &&
            Catch::Contains("'recipe' is \"small\" and \"nihal2026\""));
    CHECK_THAT(repeated_told([](Json& p) { p["nodes"]["table"]["in"]["experts"] = {"expert[bird,*,*]"}; }),
               Catch::Contains("'joint[1,0]' was trained on 'clips[bird,0]', 'clips[frog,0]', but the experts it is "
                               "compared with ('expert[bird,1,0]') on 'clips[bird,0]'"));
    CHECK_THAT(repeated_told([](Json& p) {
                   p["nodes"]["other"] = {{"use", "encoder:beats"}, {"with", {{"depth", 3}}}};
                   p["nodes"]["joint[seed,fold]"]["in"]["encoder"] = "other";
               }),
               Catch::Contains("'joint[1,0]' starts from 'other', but the expert 'expert[bird,1,0]' from 'base'"));
    // Another seed is no other training; a joint model from elsewhere is the user's own affair.
    CHECK(repeated_told([](Json& p) { p["nodes"]["joint[seed,fold]"]["seed"] = 77; }) == "");
    CHECK(repeated_told([](Json& p) {
              p["nodes"]["elsewhere"] = {{"use", "encoder:beats"}, {"with", {{"depth", 3}}}};
              p["nodes"]["table"]["in"]["joint"] = "elsewhere";
              p["nodes"].erase("joint[seed,fold]");
          }) == "");
}

namespace {

/// `model` and `score` once more with these changes, as row `row`.
void add_scored(Json& p, const std::string& row, const Json& head, const Json& score) {
    Json model = p["nodes"]["model[kind,seed,fold]"], evaluate = p["nodes"]["score[kind,fold,seed]"];
    model["with"] = {{"kind", "ridge"}};
    model["in"].erase("experts");
    model.merge_patch(head);
    evaluate["in"]["model"] = row + "-model[seed,fold]";
    evaluate["with"]["row"] = row;
    evaluate.merge_patch(score);
    p["nodes"][row + "-model[seed,fold]"] = model;
    p["nodes"][row + "-score[fold,seed]"] = evaluate;
    p["nodes"]["table"]["in"]["scores"].push_back(row + "-score[*,*]");
}

}  // namespace

TEST_CASE("public clips and the features of implied heads are implied in turn") {
    std::string told;
    const Graph graph = repeated_graph(
        [](Json& p) {
            p["axes"]["kind"] = {"ridge", "concatenate.public"};
            p["nodes"]["model[kind,seed,fold]"]["with"]["strength"] = 1;
        },
        told);
    REQUIRE(told == "");
    const Names experts = {"expert[bird,1,0]", "expert[frog,1,0]"};
    for (const std::string row : {"base", "joint", "random step", "ensemble"}) {
        const std::string id = "table:" + row + ".concatenate.public[0,1]";
        CHECK(sources(graph, id, "public") == Names{"public:background"});
        CHECK(sources(graph, id, "experts") == experts);
        // Each expert's head is fitted on what the expert makes of its own clips and the public ones.
        CHECK(sources(graph, id, "features") ==
              Names{"features:expert[bird,1,0]:clips[bird,0]", "features:expert[bird,1,0]:public:background",
                    "features:expert[frog,1,0]:clips[frog,0]", "features:expert[frog,1,0]:public:background"});
        CHECK(node_of(graph, id).inputs.contains("encoder") == (row != "ensemble"));
    }
    CHECK(sources(graph, "table:base.concatenate.public[0,1].score", "features") ==
          Names{"features:base:clips[bird,0]", "features:base:clips[frog,0]"});
    CHECK(sources(graph, "table:ensemble.concatenate.public[0,1].score", "features") ==
          Names{"features:expert[bird,1,0]:clips[bird,0]", "features:expert[bird,1,0]:clips[frog,0]",
                "features:expert[frog,1,0]:clips[bird,0]", "features:expert[frog,1,0]:clips[frog,0]"});
    CHECK(sources(graph, "table:mel-statistics.ridge[0]", "features") ==
          Names{"features:table:mel-statistics:clips[bird,0]", "features:table:mel-statistics:clips[frog,0]"});
    CHECK(sources(graph, "table:random step.ridge[0,1].score", "features") ==
          Names{"features:table:random-step[0,1]:clips[bird,0]", "features:table:random-step[0,1]:clips[frog,0]"});
    for (size_t n = 0; n < graph.nodes.size(); ++n)
        for (const auto& [port, nodes] : graph.nodes[n].inputs)
            for (const size_t source : nodes) CHECK(source < n);
}

TEST_CASE("experts that read their own encoders are the ensemble, whatever stands under it") {
    for (const std::string kind : {"concatenate.raw", "concatenate.public", "gated"}) {
        INFO(kind);
        std::string told;
        const Graph graph = repeated_graph(
            [&](Json& p) {
                Json head = {{"with", {{"kind", kind}, {"own_encoders", true}}},
                             {"in", {{"experts", {"expert[*,seed,fold]"}}}}};
                if (kind != "gated") head["in"]["encoder"] = nullptr;
                add_scored(p, "together", head, Json::object());
                p["axes"]["kind"] = {"ridge", kind};
                p["nodes"]["table"]["in"]["controls"] = {"base-2"};
                p["nodes"]["base-2"] = {{"use", "encoder:beats"}, {"with", {{"depth", 3}}}};
            },
            told);
        REQUIRE(told == "");
        for (const GraphNode& node : graph.nodes)
            if (node.implied && node.type->name == "head") {
                INFO(node.id);
                CHECK_FALSE(node.params.value("own_encoders", false));
            }
        for (const std::string row : {"base", "joint", "base-2", "random step"}) {
            INFO(row);
            CHECK(has(graph, "table:" + row + "." + kind + "[0,1]"));
            CHECK_FALSE(has(graph, "table:" + row + "." + kind + ".2[0,1]"));
        }
        CHECK_FALSE(has(graph, "table:ensemble." + kind + "[0,1]"));
    }
}

TEST_CASE("equal heads that are scored on other data are scored again, and on equal data once") {
    std::string told;
    auto on = [](Json data) {
        return [data](Json& p) { add_scored(p, "again", Json::object(), {{"in", {{"data", data}}}}); };
    };
    const std::string id = "table:base.ridge[0].score";
    const Graph same = repeated_graph(on({"clips[*,fold]"}), told);
    REQUIRE(told == "");
    CHECK_FALSE(has(same, "table:base.ridge.score.2[0]"));
    CHECK_FALSE(has(same, id + ".2"));
    // The set that is scored already isn't scored twice: the row would have its clips twice.
    const Graph more = repeated_graph(
        [&](Json& p) {
            p["nodes"]["far"] = {{"use", "dataset:folder"}, {"with", {{"folder", "/tmp"}, {"group_name", "far"}}}};
            on({"clips[*,fold]", "far"})(p);
        },
        told);
    REQUIRE(told == "");
    CHECK(sources(more, id, "data") == Names{"clips[bird,0]", "clips[frog,0]"});
    CHECK(sources(more, id + ".2", "data") == Names{"far"});
    CHECK(sources(more, id + ".2", "model") == Names{"table:base.ridge[0]"});
    CHECK(sources(more, "table", "scores").contains(id + ".2"));
    CHECK(node_of(more, id + ".2").params.at("row") == "base");
    // One head for all folds is scored on each of them.
    const Graph one = repeated_graph(
        [](Json& p) {
            p["nodes"]["public"] = {{"use", "dataset:folder"}, {"with", {{"folder", "/tmp"}, {"group_name", "all"}}}};
            p["nodes"]["table"]["in"].erase("joint");
            p["nodes"]["model[kind,seed,fold]"]["in"] = {{"encoder", "merged[seed,fold]"}, {"data", {"public"}}};
            p["axes"]["kind"] = {"ridge"};
        },
        told);
    REQUIRE(told == "");
    for (const std::string fold : {"0", "1"})
        CHECK(sources(one, "table:base.ridge.score[" + fold + "]", "data") ==
              Names{"clips[bird," + fold + "]", "clips[frog," + fold + "]"});

    CHECK_THAT(repeated_told([](Json& p) {
                   add_scored(p, "valid", Json::object(), {{"with", {{"split", "valid"}}}});
               }),
               Catch::Contains("is scored on the split 'test' and 'valid-score[0,1]' on 'valid'; expected one split"));
}

TEST_CASE("implied heads have the seed of the head that they repeat") {
    std::string told;
    auto with_kind = [](const char* kind) {
        return [kind](Json& p) {
            p["axes"]["kind"] = {kind};
            p["nodes"]["model[kind,seed,fold]"]["seed"] = "{seed}";
            p["nodes"]["table"]["seed"] = 9;
        };
    };
    const Graph drawn = repeated_graph(with_kind("probe.nihal2026"), told);
    REQUIRE(told == "");
    CHECK(node_of(drawn, "table:joint.probe.nihal2026[0,2]").seed == 2);
    // Where the seed matters, the base has one head for each.
    CHECK(node_of(drawn, "table:base.probe.nihal2026[0]").seed == 1);
    CHECK(node_of(drawn, "table:base.probe.nihal2026.2[0]").seed == 2);
    CHECK(node_of(drawn, "table:base.probe.nihal2026.2[0].score").params.at("repeat") == "2");
    const Graph ridge = repeated_graph(with_kind("ridge"), told);
    CHECK_FALSE(has(ridge, "table:base.ridge.2[0]"));
    CHECK(node_of(ridge, "table:ensemble.gated[1,2]").seed == 2);
}

TEST_CASE("folds that are written out share one random step's row") {
    std::string told;
    const Graph graph = repeated_graph(
        [](Json& p) {
            // Each node of each fold and seed by itself, without axes.
            Json out = Json::object();
            out["base"] = p["nodes"]["base"];
            Json scores = Json::array(), joints = Json::array(), experts = Json::array();
            for (const std::string fold : {"0", "1"}) {
                const std::string bird = "bird-" + fold, frog = "frog-" + fold;
                for (const std::string taxon : {"bird", "frog"}) {
                    const std::string at = taxon + "-" + fold;
                    out["clips-" + at] = {
                        {"use", "dataset:folder"},
                        {"with",
                         {{"folder", "/tmp"},
                          {"group_name", taxon},
                          {"split", {{"by", "folds"}, {"folds", 3}, {"fold", std::stoi(fold)}, {"seed", 1}}}}}};
                    out["expert-" + at] = {{"use", "fine-tune"},
                                           {"in", {{"encoder", "base"}, {"data", "clips-" + at}}}};
                    out["vector-" + at] = {{"use", "task-vector"},
                                           {"in", {{"base", "base"}, {"model", "expert-" + at}}}};
                    experts.push_back("expert-" + at);
                }
                const Json data = {"clips-" + bird, "clips-" + frog};
                out["joint-" + fold] = {{"use", "fine-tune"}, {"in", {{"encoder", "base"}, {"data", data}}}};
                joints.push_back("joint-" + fold);
                for (const std::string method : {"average", "ties.global"}) {
                    const std::string at = method.substr(0, 4) + "-" + fold;
                    out["merged-" + at] = {
                        {"use", "compose"},
                        {"in", {{"base", "base"}, {"vectors", {"vector-" + bird, "vector-" + frog}}}},
                        {"with", {{"stages", {{{"use", "merger:" + method}}}}}}};
                    out["model-" + at] = {{"use", "head"}, {"in", {{"encoder", "merged-" + at}, {"data", data}}}};
                    out["score-" + at] = {{"use", "evaluate"},
                                          {"in", {{"model", "model-" + at}, {"data", data}}},
                                          {"with", {{"row", method}}}};
                    scores.push_back("score-" + at);
                }
            }
            out["table"] = {{"use", "table"},
                            {"in", {{"scores", scores}, {"joint", joints}, {"base", "base"}, {"experts", experts}}}};
            p["nodes"] = out;
            p.erase("axes");
        },
        told);
    REQUIRE(told == "");
    CHECK(node_of(graph, "table").params.at("control_rows") == Json({"mel-statistics", "random step"}));
    std::set<Names> steps;
    for (const std::string& score : sources(graph, "table", "scores"))
        if (node_of(graph, score).params.at("row") == "random step")
            CHECK(steps.insert(sources(graph, score, "data")).second);
    CHECK(steps == std::set<Names>{{"clips-bird-0", "clips-frog-0"}, {"clips-bird-1", "clips-frog-1"}});
}

TEST_CASE("a class for everything else beside the experts' own clips changes nothing for the rest") {
    std::string told;
    const Graph graph = repeated_graph(
        [](Json& p) {
            p["nodes"]["other[taxon]"] = {{"use", "dataset:folder"},
                                          {"with", {{"folder", "/tmp"}, {"group_name", "no {taxon}"}}}};
            p["nodes"]["expert[taxon,seed,fold]"]["in"]["data"] = {"clips[taxon,fold]", "other[taxon]"};
            p["nodes"]["joint[seed,fold]"]["in"]["data"] = {"clips[*,fold]", "other[*]"};
            p["axes"]["kind"] = {"ridge"};
            p["nodes"]["model[kind,seed,fold]"]["in"].erase("experts");
        },
        told);
    REQUIRE(told == "");
    CHECK(sources(graph, "table:joint.ridge[1,2]", "encoder") == Names{"joint[2,1]"});
    CHECK(sources(graph, "table:ensemble.gated[1,2]", "experts") == Names{"expert[bird,2,1]", "expert[frog,2,1]"});
    CHECK(node_of(graph, "table:expert[bird,2,1].score").params.at("repeat") == "2");
    CHECK(sources(graph, "table:expert[bird,2,1].score", "data") == Names{"clips[bird,1]", "other[bird]"});
}
