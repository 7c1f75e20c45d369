// What heads and evaluations imply, and what the checker refuses of heads.
#include "../pipeline/fake_types.hpp"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <set>

#include "tasks/node_types.hpp"

using namespace biophony;

namespace {

const Registry& registry(bool synthetic) {
    auto make = [](bool with) {
        PluginFile file{.path = "/nowhere/plugin.so", .version = "1.0"};
        file.items = {
            fake::item("dataset", "folder", R"({"type": "object", "required": ["folder"], "properties": {
                "folder": {"type": "string", "format": "path", "x-must-exist": true}}})"),
            fake::item("encoder", "beats", R"({"type": "object", "properties": {}})"),
            fake::item("merger", "average", R"({"type": "object", "properties": {}})"),
        };
        file.items.back().interface_id = "biophony.merger/0";
        file.items.back().tier = "S";
        file.items.back().raw = {{"merger", {{"stage", "combine"}, {"scope", "element"}, {"space", "delta"}}}};
        if (with)
            file.items.push_back(
                fake::item("dataset", "synthetic", R"({"type": "object", "required": ["group"], "properties": {
                "group": {"enum": ["frog", "background"]}, "recordings": {"type": "integer", "default": 10},
                "clips": {"type": "integer", "default": 3}, "clip_seconds": {"type": "number", "default": 3},
                "seed": {"type": "integer", "default": 1}}})"));
        return Registry::of({file});
    };
    static const Registry plain = make(false), full = make(true);
    return synthetic ? full : plain;
}

Graph graph_of(const std::function<void(Json&)>& change, std::string& told, bool synthetic = true) {
    Json pipeline = Json::parse(R"({
        "biophony": 1,
        "axes": {"taxon": ["bird", "frog"]},
        "nodes": {
            "base": {"use": "encoder:beats"},
            "merged": {"use": "encoder:beats", "seed": 2},
            "clips[taxon]": {"use": "dataset:folder", "with": {"folder": "/tmp"}},
            "elsewhere": {"use": "dataset:folder", "with": {"folder": "/tmp"}},
            "expert[taxon]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon]"}},
            "model": {"use": "head", "in": {"encoder": "merged", "data": ["clips[*]"]}},
            "score": {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]", "elsewhere"]}},
            "table": {"use": "table", "in": {"scores": ["score"], "base": "base", "experts": ["expert[*]"]}}
        }
    })");
    change(pipeline);
    std::vector<Diagnostic> problems;
    Graph graph = make_graph(pipeline.dump(), "/tmp/p.json", {}, node_types(), registry(synthetic), problems);
    told.clear();
    for (const Diagnostic& problem : problems) told += problem.text() + "\n";
    return graph;
}

std::string told_of(const std::function<void(Json&)>& change, bool synthetic = true) {
    std::string told;
    graph_of(change, told, synthetic);
    return told;
}

std::set<std::string> features(const Graph& graph, const std::string& node) {
    INFO(node);
    REQUIRE(graph.index_of(node) < graph.nodes.size());
    std::set<std::string> out;
    const auto& inputs = graph.nodes[graph.index_of(node)].inputs;
    if (const auto found = inputs.find("features"); found != inputs.end())
        for (const size_t source : found->second) out.insert(graph.nodes[source].id);
    return out;
}

using Set = std::set<std::string>;

std::function<void(Json&)> kind(const std::string& name, Json with = Json::object(), bool experts = true) {
    return [=](Json& p) {
        Json& model = p["nodes"]["model"];
        model["with"] = with;
        model["with"]["kind"] = name;
        if (experts) model["in"]["experts"] = {"expert[*]"};
        if (with.value("own_encoders", false) && name != "gated") {
            model["in"].erase("encoder");
            p["nodes"].erase("merged");
        }
    };
}

}  // namespace

TEST_CASE("heads and evaluations imply features, once for each encoder and data set, on implied heads too") {
    std::string told;
    const Graph graph = graph_of([](Json&) {}, told);
    REQUIRE(told == "");
    const Set own = {"features:merged:clips[bird]", "features:merged:clips[frog]"};
    CHECK(features(graph, "model") == own);
    Set scored = own;
    scored.insert("features:merged:elsewhere");
    CHECK(features(graph, "score") == scored);
    CHECK(features(graph, "table:base.ridge") == Set{"features:base:clips[bird]", "features:base:clips[frog]"});
    CHECK(features(graph, "table:expert[frog].score") == Set{"features:expert[frog]:clips[frog]"});
    std::set<std::string> ids;
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        const GraphNode& node = graph.nodes[n];
        CHECK(ids.insert(node.id).second);
        for (const auto& [port, sources] : node.inputs)
            for (const size_t source : sources) CHECK(source < n);
    }
    const GraphNode& made = graph.nodes[graph.index_of("features:merged:clips[bird]")];
    CHECK(made.implied);
    CHECK(made.type->name == "features");
    CHECK(made.params == Json{{"batch", 16}});
}

TEST_CASE("what each kind of head hears") {
    std::string told;
    auto of = [&](const std::string& name, Json with = Json::object(), bool experts = true) {
        Graph graph = graph_of(kind(name, std::move(with), experts), told);
        INFO(told);
        REQUIRE(told == "");
        return std::pair{features(graph, "model"), features(graph, "score")};
    };
    const Set merged = {"features:merged:clips[bird]", "features:merged:clips[frog]"};
    Set merged_scored = merged;
    merged_scored.insert("features:merged:elsewhere");
    for (const char* name : {"ridge", "lda", "prototype", "probe", "probe.nihal2026", "knn"})
        CHECK(of(name, Json::object(), false) == std::pair{merged, merged_scored});
    CHECK(of("gated") == std::pair{merged, merged_scored});
    CHECK(of("concatenate.raw") == std::pair{Set{}, merged_scored});
    Set everybodys = merged;
    everybodys.insert("features:merged:public:background");
    CHECK(of("refit.public", Json::object(), false) == std::pair{everybodys, merged_scored});
    const Set experts = {"features:expert[bird]:clips[bird]", "features:expert[bird]:public:background",
                         "features:expert[frog]:clips[frog]", "features:expert[frog]:public:background"};
    CHECK(of("concatenate.public") == std::pair{experts, merged_scored});
    Set experts_scored;
    for (const char* expert : {"bird", "frog"})
        for (const char* data : {"clips[bird]", "clips[frog]", "elsewhere"})
            experts_scored.insert(std::string("features:expert[") + expert + "]:" + data);
    CHECK(of("concatenate.raw", {{"own_encoders", true}}) == std::pair{Set{}, experts_scored});
    CHECK(of("concatenate.public", {{"own_encoders", true}}) == std::pair{experts, experts_scored});
    Set both = experts_scored;
    both.insert(merged_scored.begin(), merged_scored.end());
    CHECK(of("gated", {{"own_encoders", true}}) == std::pair{merged, both});
}

TEST_CASE("public clips are synthetic backgrounds unless they are given") {
    std::string told;
    const Graph graph = graph_of(kind("refit.public", Json::object(), false), told);
    REQUIRE(told == "");
    const GraphNode& node = graph.nodes[graph.index_of("public:background")];
    CHECK(node.item->name() == "dataset:synthetic");
    CHECK(node.params.at("group") == "background");
    CHECK(node.params.at("recordings") == 60);
    CHECK(node.params.at("seed") == 1);
    CHECK(node.params.at("split").at("by") == "auto");
    CHECK_THAT(told_of(kind("refit.public", Json::object(), false), false),
               Catch::Contains("'model' needs clips that are public; connect data sets to the port 'public'"));
    CHECK(told_of(
              [](Json& p) {
                  kind("refit.public", Json::object(), false)(p);
                  p["nodes"]["model"]["in"]["public"] = "elsewhere";
              },
              false) == "");
}

TEST_CASE("what a kind from an axis doesn't use is no part of its head") {
    std::string told;
    const Graph graph = graph_of(
        [](Json& p) {
            p["axes"]["kind"] = {"ridge", "knn", "concatenate.raw", "refit.public"};
            p["nodes"].erase("model");
            p["nodes"]["model[kind]"] = {
                {"use", "head"},
                {"in",
                 {{"encoder", "merged"}, {"data", {"clips[*]"}}, {"experts", {"expert[*]"}}, {"public", "elsewhere"}}},
                {"with",
                 {{"kind", "{kind}"}, {"strength", 2}, {"k", 3}, {"pooling", "bands"}, {"shared_species", "mean"}}}};
            p["nodes"]["score"]["in"]["model"] = "model[ridge]";
        },
        told);
    REQUIRE(told == "");
    auto of = [&](const char* kind) {
        const GraphNode& node = graph.nodes[graph.index_of(fmt::format("model[{}]", kind))];
        Json out = node.params;
        out.erase("kind");
        out.erase("name");
        std::set<std::string> ports;
        for (const auto& [port, sources] : node.inputs) ports.insert(port);
        return std::pair(out, ports);
    };
    CHECK(of("ridge") == std::pair(Json{{"strength", 2}, {"pooling", "bands"}}, Set{"data", "encoder", "features"}));
    CHECK(of("knn") == std::pair(Json{{"k", 3}, {"pooling", "bands"}}, Set{"data", "encoder", "features"}));
    CHECK(of("concatenate.raw") == std::pair(Json{{"shared_species", "mean"}}, Set{"data", "encoder", "experts"}));
    CHECK(of("refit.public") == std::pair(Json{{"strength", 2}, {"pooling", "bands"}, {"shared_species", "mean"}},
                                          Set{"data", "encoder", "features", "public"}));
    // The table still finds the experts of heads without a use for them.
    CHECK(graph.index_of("table:base.concatenate.raw") < graph.nodes.size());
}

TEST_CASE("heads of models that were trained on another fold are refused") {
    auto told = [](const std::string& port, const Json& source, const std::string& kind, const Json& data) {
        return told_of([&](Json& p) {
            p["axes"]["fold"] = {0, 1};
            p["nodes"] = Json::parse(R"({
                "base": {"use": "encoder:beats"},
                "clips[taxon,fold]": {"use": "dataset:folder", "with": {"folder": "/tmp", "group_name": "{taxon}",
                    "split": {"by": "folds", "folds": 3, "fold": "{fold}"}}},
                "expert[taxon,fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon,fold]"}},
                "vector[taxon,fold]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon,fold]"}},
                "merged[fold]": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*,fold]"]},
                                 "with": {"stages": [{"use": "merger:average"}]}}
            })");
            p["nodes"]["model"] = {
                {"use", "head"}, {"in", {{"encoder", "base"}, {"data", data}}}, {"with", {{"kind", kind}}}};
            p["nodes"]["model"]["in"][port] = source;
        });
    };
    const Json first = {"clips[*,0]"};
    CHECK(told("experts", {"expert[*,0]"}, "concatenate.public", first) == "");
    CHECK(told("encoder", "merged[0]", "ridge", first) == "");
    for (const char* kind : {"concatenate.raw", "concatenate.public", "gated"})
        CHECK_THAT(told("experts", {"expert[bird,0]", "expert[frog,1]"}, kind, first),
                   Catch::Contains("'model' is fitted on 'clips[bird,0]', 'clips[frog,0]', but 'expert[frog,1]' was "
                                   "trained on 'clips[frog,1]', another fold of it"));
    for (const char* kind : {"ridge", "probe"})
        CHECK_THAT(told("encoder", "merged[1]", kind, first),
                   Catch::Contains("which 'merged[1]' is made from, was trained on 'clips["));
    CHECK_THAT(told("encoder", "merged[1]", "ridge", "clips[bird,0]"), Catch::Contains("another fold of it"));
    CHECK_THAT(told("encoder", "expert[bird,1]", "knn", first), Catch::Contains("another fold of it"));
    // Experts of others than the head's contributors.
    CHECK_THAT(told_of([](Json& p) {
                   kind("concatenate.raw")(p);
                   p["nodes"]["model"]["in"]["data"] = "clips[bird]";
                   p["nodes"]["clips[taxon]"]["with"]["group_name"] = "{taxon}";
               }),
               Catch::Contains("the expert 'expert[frog]' was trained on 'clips[frog]', which are none of the data "
                               "sets of 'model' ('clips[bird]')"));
}

TEST_CASE("heads that can't be are refused") {
    for (const char* node : {"model", "score"})
        CHECK_THAT(told_of([&](Json& p) { p["nodes"][node]["with"]["batch"] = 4; }), Catch::Contains("batch"));
    CHECK_THAT(told_of([](Json& p) { p["nodes"]["model"]["in"]["features"] = {"clips[*]"}; }),
               Catch::Contains("head has no port 'features'"));
    CHECK_THAT(told_of([](Json& p) { p["nodes"]["score"]["in"]["features"] = "clips[bird]"; }),
               Catch::Contains("evaluate has no port 'features'"));
    for (const char* name : {"concatenate.raw", "concatenate.public", "gated"})
        CHECK_THAT(told_of(kind(name, Json::object(), false)),
                   Catch::Contains("is made of the contributors' own heads; connect them to the port 'experts'"));
    CHECK_THAT(told_of(kind("ridge", {{"k", 3}})),
               Catch::Contains("a head of the kind 'ridge' has no 'k'; it belongs to knn"));
    CHECK_THAT(told_of(kind("knn", {{"strength", 1}})), Catch::Contains("a head of the kind 'knn' has no 'strength'"));
    CHECK_THAT(told_of(kind("concatenate.raw", {{"pooling", "bands"}})), Catch::Contains("has no 'pooling'"));
    CHECK_THAT(told_of(kind("lda", {{"own_encoders", true}}, false)), Catch::Contains("has no 'own_encoders'"));
    CHECK_THAT(told_of([](Json& p) { p["nodes"]["model"]["in"]["public"] = "elsewhere"; }),
               Catch::Contains("a head of the kind 'ridge' uses no public clips"));
    CHECK_THAT(told_of([](Json& p) {
                   p["nodes"]["model"]["in"].erase("encoder");
                   p["nodes"].erase("merged");
               }),
               Catch::Contains("the port 'encoder' of head is missing, expected encoder or checkpoint"));
    CHECK_THAT(told_of([](Json& p) {
                   kind("concatenate.raw", {{"own_encoders", true}})(p);
                   p["nodes"]["model"]["in"]["encoder"] = "base";
               }),
               Catch::Contains("so the port 'encoder' has no use; take it out"));
}
