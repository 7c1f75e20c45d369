// compose: its stages with presets written out, what is said of bad ones, and what its key counts.
#include "../pipeline/fake_types.hpp"

#include <catch2/catch.hpp>

#include "pipeline/run.hpp"
#include "tasks/node_types.hpp"
#include "weights/stages.hpp"

using namespace biophony;

namespace {

ItemInfo merger(const std::string& id, const Json& about, const char* properties = "{}") {
    ItemInfo out = fake::item("merger", id, R"({"type": "object"})");
    out.parameters["properties"] = Json::parse(properties);
    out.interface_id = "biophony.merger/0";
    out.tier = "S";
    out.build = "build of " + id;
    out.raw = {{"merger", about}};
    return out;
}

ItemInfo preset(const std::string& id, const char* stages, const char* properties = "{}") {
    return merger(id, {{"preset", Json::parse(stages)}}, properties);
}

Json about(const char* stage, const char* scope = "element") {
    return {{"stage", stage}, {"scope", scope}, {"space", "delta"}};
}

std::vector<ItemInfo> items() {
    Json isotropic = about("combine", "matrix");
    isotropic["needs"] = {"linalg"};
    return {
        fake::item("encoder", "beats", R"({"type": "object", "properties": {}})"),
        fake::item("dataset", "folder", R"({"type": "object", "properties": {"folder": {"type": "string"}}})"),
        merger(
            "trim", about("transform", "tensor"),
            R"({"density": {"type": "number", "maximum": 1, "default": 0.2}, "exact": {"type": "boolean", "default": true}})"),
        merger("elect", about("combine"), R"({"by": {"enum": ["mass", "count"], "default": "mass"}})"),
        merger("scale", about("post"), R"({"by": {"type": "number", "default": 1}})"),
        merger("weighted", about("combine"), R"({"weights": {"type": "array", "x-per-expert": true}})"),
        merger("isotropic", isotropic),
        preset("ties", R"([{"use": "merger:trim", "with": {"density": {"parameter": "density"}, "exact": false}},
                           {"use": "merger:elect"},
                           {"use": "merger:scale", "with": {"by": {"parameter": "lambda"}}}])",
               R"({"density": {"type": "number", "default": 0.1}, "lambda": {"type": "number"}})"),
        preset("iso", R"([{"use": "merger:isotropic"}])"),
        preset("twice", R"([{"use": "merger:ties"}])"),
        preset("gone", R"([{"use": "merger:trimm"}, {"use": "merger:elect"}])"),
        preset("odd",
               R"([{"use": "merger:trim", "with": {"densty": 1}}, {"use": "merger:elect", "with": {"by": "size"}}])"),
        preset("unsaid", R"([{"use": "merger:trim"}])"),
    };
}

Registry registry_with(const std::vector<ItemInfo>& all) {
    PluginFile file{.path = "/nowhere/plugin.so", .version = "1.0"};
    file.items = all;
    return Registry::of({file});
}
const Registry& registry() {
    static const Registry one = registry_with(items());
    return one;
}

/// A pipeline of two experts with this list of stages.
Graph graph_of(const char* stages, std::string& told, const Registry& plugins = registry()) {
    Json pipeline = Json::parse(R"({"biophony": 1, "axes": {"taxon": ["bird", "frog"]}, "nodes": {
        "base": {"use": "encoder:beats"},
        "clips[taxon]": {"use": "dataset:folder", "with": {"folder": "/tmp", "group_name": "{taxon}"}},
        "expert[taxon]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon]"}},
        "vector[taxon]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon]"}},
        "merged": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*]"]}, "with": {}}}})");
    pipeline["nodes"]["merged"]["with"]["stages"] = Json::parse(stages);
    std::vector<Diagnostic> problems;
    Graph graph = make_graph(pipeline.dump(), "/tmp/p.json", {}, node_types(), plugins, problems);
    told.clear();
    for (const Diagnostic& problem : problems) told += problem.text() + "\n";
    return graph;
}
std::string told_of(const char* stages, const Registry& plugins = registry()) {
    std::string told;
    graph_of(stages, told, plugins);
    return told;
}
/// The mergers as they are built.
const Registry& built() {
    static const Registry one = [] {
        const Registry plugins({std::filesystem::path(BPH_BUILD_DIR) / "plugins"}, false);
        std::vector<ItemInfo> all = {items()[0], items()[1]};
        for (const ItemInfo* item : plugins.items("merger")) all.push_back(*item);
        return registry_with(all);
    }();
    return one;
}

Json record_of(const char* stages, unsigned threads, const Registry& plugins = registry()) {
    std::string told;
    const Graph graph = graph_of(stages, told, plugins);
    REQUIRE(told.empty());
    const HostFacts host = {.version = "1", .libtorch = "2.13.0", .cpu_class = "avx2"};
    return Keys(graph, plugins, host, threads).record(graph.index_of("merged"), {{"b"}, {"1", "2"}});
}

}  // namespace

TEST_CASE("a preset is written out as the stages that it stands for") {
    auto read = [](const char* list) {
        std::vector<Diagnostic> problems;
        const std::vector<MergeStage> stages = read_stages(Json::parse(list), registry(), "/stages", problems);
        CHECK(problems.empty());
        Json out = Json::array();
        for (const MergeStage& stage : stages)
            out.push_back({stage.item->id, stage.params, stage.preset == nullptr ? "" : stage.preset->id, stage.entry});
        return out;
    };
    // A parameter's default is filled in; one that isn't given and has none leaves the stage's own default.
    CHECK(read(R"([{"use": "merger:ties"}])") == Json::parse(R"([
        ["trim", {"density": 0.1, "exact": false}, "ties", 0],
        ["elect", {"by": "mass"}, "ties", 0],
        ["scale", {"by": 1}, "ties", 0]])"));
    CHECK(read(R"([{"use": "merger:trim"}, {"use": "merger:ties", "with": {"density": 0.5, "lambda": 2}}])") ==
          Json::parse(R"([
        ["trim", {"density": 0.2, "exact": true}, "", 0],
        ["trim", {"density": 0.5, "exact": false}, "ties", 1],
        ["elect", {"by": "mass"}, "ties", 1],
        ["scale", {"by": 2}, "ties", 1]])"));
    CHECK(told_of(R"([{"use": "merger:trim"}, {"use": "merger:ties"}, {"use": "merger:scale"}])") == "");
}

TEST_CASE("bad presets and what they don't fit are told at the entry of the list") {
    CHECK_THAT(
        told_of(R"([{"use": "merger:twice"}])"),
        Catch::Contains("/nodes/merged/with/stages/0/use: merger:twice stands for merger:ties: that is a preset, too"));
    CHECK_THAT(
        told_of(R"([{"use": "merger:gone"}])"),
        Catch::Contains("/stages/0/use: merger:gone stands for merger:trimm: there is no merger 'trimm'; did you "
                        "mean 'trim'?"));
    const std::string odd = told_of(R"([{"use": "merger:odd"}])");
    CHECK_THAT(odd, Catch::Contains("/stages/0") &&
                        Catch::Contains("merger:odd stands for merger:trim: /densty: unknown parameter 'densty'"));
    CHECK_THAT(odd, Catch::Contains("merger:odd stands for merger:elect: /by: found the string \"size\""));
    CHECK_THAT(told_of(R"([{"use": "merger:ties", "with": {"density": 2}}])"),
               Catch::Contains("merger:ties stands for merger:trim: /density: found the number 2"));
    CHECK_THAT(told_of(R"([{"use": "merger:ties", "with": {"densty": 2}}])"),
               Catch::Contains("/stages/0/with/densty: unknown parameter 'densty'; did you mean 'density'?"));
    // The place is that of the entry, not of the stage in the preset.
    CHECK_THAT(told_of(R"([{"use": "merger:ties"}, {"use": "merger:elect"}])"),
               Catch::Contains("/stages/1: merger:elect is a second combine after merger:elect (of merger:ties)"));
    CHECK_THAT(told_of(R"([{"use": "merger:unsaid"}])"), Catch::Contains("/stages/0: no stage is a combine"));
    CHECK_THAT(told_of(R"([{"use": "merger:weighted", "with": {"weights": [1, 2, 3]}}])"),
               Catch::Contains("/stages/0: the parameter 'weights' of merger:weighted has 3 entries, expected one per "
                               "expert, 2"));
    CHECK(told_of(R"([{"use": "merger:weighted", "with": {"weights": [1, 2]}}])") == "");
}

TEST_CASE("a merge's key counts the builds of all its stages, and LibTorch where one needs its algebra") {
    const Json plain = record_of(R"([{"use": "merger:elect"}])", 2);
    CHECK(plain["plugins"] == Json{{"merger:elect", "build of elect"}});
    CHECK(!plain.contains("torch"));
    const Json ties = record_of(R"([{"use": "merger:ties"}])", 2);
    CHECK(ties["plugins"] == Json{{"merger:elect", "build of elect"},
                                  {"merger:scale", "build of scale"},
                                  {"merger:ties", "build of ties"},
                                  {"merger:trim", "build of trim"}});
    CHECK(!ties.contains("torch"));
    for (const char* stages : {R"([{"use": "merger:isotropic"}])", R"([{"use": "merger:iso"}])"}) {
        const Json record = record_of(stages, 2);
        CHECK(record["torch"] == Json{{"libtorch", "2.13.0"}, {"device", "cpu"}, {"cpu", "avx2"}});
        CHECK(record == record_of(stages, 3));
        CHECK(record["plugins"].contains("merger:isotropic"));
    }
}

TEST_CASE("what plugins say of their parameters is told before anything runs") {
    CHECK(told_of(R"([{"use": "merger:della"}])", built()) == "");
    CHECK(told_of(R"([{"use": "merger:consensus-ta"}])", built()) == "");
    CHECK(told_of(R"([{"use": "merger:tsv-m"}])", built()) == "");
    CHECK_THAT(told_of(R"([{"use": "merger:della", "with": {"density": 0.1, "epsilon": 0.15}}])", built()),
               Catch::Contains("/nodes/merged/with/stages/0") &&
                   Catch::Contains("merger:della stands for merger:magprune: ") && Catch::Contains("epsilon"));
    CHECK_THAT(told_of(R"([{"use": "merger:nuslerp", "with": {"weights": [0, 0]}}])", built()),
               Catch::Contains("/stages/0/with/weights: merger:nuslerp: parameter 'weights': expected two weights"));
    // All of them at once.
    const std::string both = told_of(
        R"([{"use": "merger:magprune", "with": {"density": 0.1}}, {"use": "merger:multislerp", "with": {"weights": [0, 0]}}])",
        built());
    CHECK_THAT(both, Catch::Contains("/stages/0") && Catch::Contains("/stages/1/with/weights: merger:multislerp: "));
    // What depends on the number of experts, two here.
    for (const char* stages :
         {R"([{"use": "merger:consensus-ta", "with": {"agree": 3}}])",
          R"([{"use": "merger:consensus-mask", "with": {"agree": 3}}, {"use": "merger:average"}])"})
        CHECK_THAT(told_of(stages, built()),
                   Catch::Contains("/stages/0: the parameter 'agree' of merger:consensus-mask") &&
                       Catch::Contains("is 3, expected at most the number of experts, 2"));
    CHECK_THAT(told_of(R"([{"use": "merger:task-arithmetic", "with": {"roles": {"norms": 0}}}])", built()),
               Catch::Contains("/stages/0/with/roles/norms: unknown parameter 'norms'; did you mean 'norm'?"));
    CHECK(told_of(R"([{"use": "merger:task-arithmetic", "with": {"roles": {"norm": 0, "fused_qkv": 2}}}])", built()) ==
          "");
}
