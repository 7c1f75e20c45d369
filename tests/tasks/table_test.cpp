// Real node types in pipelines with folds: what the table implies, and which joint model and base belong to which head.
#include "../pipeline/fake_types.hpp"

#include <catch2/catch.hpp>
#include <set>

#include "tasks/node_types.hpp"

using namespace biophony;

namespace {

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
    static const Registry registry = fake::registry();
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
    // 3 folds: the model, joint's own, 2 specialists, and the 4 encoders.
    CHECK(sources(graph, "table", "scores").size() == 3 * (1 + 1 + 2 + 4));
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
