// What is known of a pipeline before it runs: nodes that can't go together are told, those that can are not.
#include "pipeline/describe.hpp"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "../pipeline/fake_types.hpp"
#include "sounds.hpp"
#include "tasks/clips.hpp"
#include "tasks/node_types.hpp"
#include "weights/safetensors.hpp"
#include "weights/task_vector.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

const Registry& registry() {
    static const Registry one = [] {
        PluginFile file{.path = "/nowhere/plugin.so", .version = "1.0"};
        file.items = {
            fake::item("dataset", "folder", R"({"type": "object", "required": ["folder"], "properties": {
                "folder": {"type": "string", "format": "path", "x-must-exist": true}}})"),
            fake::item("encoder", "beats", R"({"type": "object", "properties": {
                "width": {"type": "integer", "default": 8}, "patch": {"type": "integer", "default": 16},
                "window_seconds": {"type": "number", "default": 2}}})"),
            fake::item("encoder", "mel", R"({"type": "object", "properties": {}})"),
            fake::item("merger", "average", R"({"type": "object", "properties": {}})"),
        };
        file.items[1].raw = {{"encoder",
                              {{"sample_rate", 16000},
                               {"window_seconds", {{"parameter", "window_seconds"}}},
                               {"width", {{"parameter", "width"}}},
                               {"bands", {{"parameter", "patch"}, {"divides", 128}}}}}};
        file.items[2].raw = {{"encoder", {{"width", 4}, {"bands", 1}, {"trainable", false}}}};
        file.items[3].interface_id = "biophony.merger/0";
        file.items[3].tier = "S";
        file.items[3].raw = {{"merger", {{"stage", "combine"}, {"scope", "element"}, {"space", "delta"}}}};
        return Registry::of({file});
    }();
    return one;
}

struct Checked {
    Graph graph;
    GraphDescription described;
    std::string told, notes;

    const Description& of(const std::string& id) const {
        INFO(id);
        REQUIRE(graph.index_of(id) < graph.nodes.size());
        return described.nodes[graph.index_of(id)];
    }
};

/// Of two taxa with an expert each, a merge of theirs and a head on it. `sets`: what the data sets hold, by node, once
/// they were looked at.
Checked check(
    const std::function<void(Json&)>& change = [](Json&) {}, const std::map<std::string, ClipSet>& sets = {}) {
    Json pipeline = Json::parse(R"({
        "biophony": 1,
        "axes": {"taxon": ["bird", "frog"]},
        "nodes": {
            "base": {"use": "encoder:beats"},
            "clips[taxon]": {"use": "dataset:folder", "with": {"folder": "/tmp"}},
            "expert[taxon]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon]"}},
            "vector[taxon]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon]"}},
            "merged": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*]"]}, "with": {"stages": [{"use": "merger:average"}]}},
            "model": {"use": "head", "in": {"encoder": "merged", "data": ["clips[*]"], "experts": ["expert[*]"]}},
            "score": {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]"]}}
        }
    })");
    change(pipeline["nodes"]);
    Checked out;
    std::vector<Diagnostic> problems;
    out.graph = make_graph(pipeline.dump(1), "/tmp/p.json", {}, node_types(), registry(), problems);
    for (const Diagnostic& problem : problems) FAIL(problem.text());
    const TempFolder folder;
    std::vector<fs::path> results(out.graph.nodes.size());
    for (const auto& [id, set] : sets) {
        INFO(id);
        REQUIRE(out.graph.index_of(id) < results.size());
        results[out.graph.index_of(id)] = folder / unique_name();
        fs::create_directories(results[out.graph.index_of(id)]);
        set.save(results[out.graph.index_of(id)], {});
    }
    out.described = describe_graph(out.graph, registry(), results);
    for (const Diagnostic& problem : out.described.problems) out.told += problem.text() + "\n";
    for (const NodeNote& note : out.described.notes) out.notes += note.what.text() + "\n";
    return out;
}

/// Clips of 3 s, of each label one in every split, each in a recording of its own.
ClipSet set_of(const std::string& group, const std::vector<std::string>& labels, double rate = 48000) {
    ClipSet set{.group = group, .item = "dataset:folder", .params = Json::object()};
    for (const std::string& label : labels)
        for (const Split split : {Split::kTrain, Split::kValid, Split::kTest}) {
            ClipRecording recording{.id = fmt::format("{} {} {}", group, label, to_string(split))};
            recording.unit = recording.content = recording.id;
            recording.source.id = recording.id;
            recording.source.seconds = 3;
            recording.source.sample_rate = rate;
            set.clips.push_back({set.recordings.size(), 0, 3, label, split});
            set.recordings.push_back(std::move(recording));
        }
    return set;
}

std::map<std::string, ClipSet> two_sets() {
    return {{"clips[bird]", set_of("bird", {"crow", "wren"})}, {"clips[frog]", set_of("frog", {"bullfrog", "toad"})}};
}

}  // namespace

TEST_CASE("a good pipeline is described without a word") {
    const Checked before = check();
    CHECK(before.told == "");
    CHECK(before.notes == "");
    CHECK(before.of("merged").encoder == "encoder:beats");
    CHECK(before.of("merged").width == 8);
    CHECK(before.of("merged").bands == 8);  // 128 / 16
    CHECK(before.of("merged").sample_rate == 16000);
    CHECK(before.of("model").groups == std::vector<std::string>{"bird", "frog"});
    CHECK(!before.of("model").labels);
    CHECK(!before.of("model").bytes);

    const Checked after = check([](Json&) {}, two_sets());
    CHECK(after.told == "");
    CHECK(after.notes == "");
    CHECK(after.of("expert[frog]").labels == std::vector<std::string>{"bullfrog", "toad"});
    CHECK(after.of("model").labels == std::vector<std::string>{"bullfrog", "crow", "toad", "wren"});
    // 6 clips of 3 s are 2 windows of 2 s each (1.5 is rounded up), of 8 · 8 floats and the clip's number.
    CHECK(after.of("features:merged:clips[bird]").bytes == 12u * (64 * 4 + 8));
    // The weights (4 · 8) and, of each of two sets, XᵀX (8²) and XᵀY (8 · 4), in float64.
    CHECK(after.of("model").bytes == (32u + 2 * (64 + 32)) * 8);
    CHECK(memory_text(after.of("model")).starts_with("features of all clips, about "));
}

TEST_CASE("vectors of another architecture or base are told, at the port") {
    auto beside = [](Json other) {
        return [other](Json& nodes) {
            nodes["other"] = other;
            nodes["merged"]["in"]["base"] = "other";
        };
    };
    const std::string wide = check(beside({{"use", "encoder:beats"}, {"with", {{"width", 16}}}})).told;
    CHECK_THAT(wide, Contains("/nodes/merged/in/vectors: 'vector[bird]' is encoder:beats with width 8, 'other' with "
                              "width 16; expected task vectors of the base's architecture"));
    CHECK(std::count(wide.begin(), wide.end(), '\n') == 1);
    CHECK_THAT(check(beside({{"use", "encoder:mel"}})).told,
               Contains("'vector[bird]' is encoder:beats, 'other' is encoder:mel"));
    CHECK_THAT(
        check(beside({{"use", "encoder:beats"}, {"seed", 5}})).told,
        Contains("'vector[bird]' was taken from 'base' (and 1 more likewise), but is added to 'other', which has "
                 "other weights"));
    CHECK_THAT(check([](Json& nodes) {
                   nodes["twice"] = nodes["merged"];
                   nodes["twice"]["in"]["base"] = "merged";
               }).told,
               Contains("/nodes/twice/in/vectors: 'vector[bird]' was taken from 'base' (and 1 more likewise), but is "
                        "added to 'merged'"));
    for (const char* type : {"geometry", "sweep"})
        CHECK_THAT(
            check([&](Json& nodes) {
                nodes["other"] = {{"use", "encoder:beats"}, {"seed", 5}};
                nodes["here"] = {{"use", type}, {"in", {{"base", "other"}, {"vectors", {{"b", "vector[bird]"}}}}}};
                if (type == std::string("sweep")) {
                    nodes["here"]["in"]["targets"] = "clips[bird]";
                    nodes["here"]["with"] = {
                        {"expression", "x*b"}, {"grid", {{"x", {1}}}}, {"goal", "learn"}, {"judge", "ridge"}};
                }
            }).told,
            Contains("/nodes/here/in/vectors: 'vector[bird]' was taken from 'base', but is added to 'other'"));
    CHECK_THAT(check([](Json& nodes) {
                   nodes["other"] = {{"use", "encoder:beats"}, {"seed", 5}};
                   nodes["foreign"] = {{"use", "task-vector"}, {"in", {{"base", "other"}, {"model", "expert[frog]"}}}};
                   nodes["sum"] = {{"use", "arithmetic"},
                                   {"in", {{"vectors", {{"a", "vector[bird]"}, {"b", "foreign"}}}}},
                                   {"with", {{"expression", "a + b"}}}};
               }).told,
               Contains("/nodes/sum/in/vectors: 'foreign' was taken from 'other', but 'vector[bird]' from 'base'"));

    // A twin of the base has the same weights.
    CHECK(check(beside({{"use", "encoder:beats"}})).told == "");
    // So has what was trained for no step; what was trained for one has others.
    auto pretrained = [&](int steps) {
        return beside({{"use", "pretrain"},
                       {"in", {{"encoder", "base"}, {"data", "clips[bird]"}}},
                       {"with", {{"steps", steps}}}});
    };
    CHECK(check(pretrained(0)).told == "");
    CHECK_THAT(check(pretrained(1)).told, Contains("'other', which has other weights"));
}

TEST_CASE("files of the same weights are one base, whatever they are called") {
    const TempFolder folder;
    auto write = [&](const char* name, float value, const char* config = R"({"width": 8})", bool whole = true) {
        const EncoderCard card{
            .encoder = "encoder:beats",
            .config = Json::parse(config),
            .roles = {{"a", {{"kind", "matrix"}, {"block", 0}}}, {"b", {{"kind", "bias"}, {"block", 0}}}}};
        std::vector<SafetensorsWriter::Tensor> tensors = {{"a", DType::kF32, {100, 10}}};
        if (whole) tensors.push_back({"b", DType::kF32, {10}});
        SafetensorsWriter writer(folder / name, tensors, card.to_metadata());
        writer.write_floats("a", 0, std::vector<float>(1000, value));
        if (whole) writer.write_floats("b", 0, std::vector<float>(10, value));
        writer.finish();
        return (folder / name).string();
    };
    const std::string one = write("one.safetensors", 1), twin = write("twin.safetensors", 1),
                      other = write("other.safetensors", 2),
                      half = write("half.safetensors", 1, R"({"width": 8})", false);
    auto onto = [&](const std::string& file) {
        return check([&](Json& nodes) {
            nodes["base"]["with"]["checkpoint"] = one;
            nodes["other"] = {{"use", "encoder:beats"}, {"with", {{"checkpoint", file}}}};
            nodes["merged"]["in"]["base"] = "other";
        });
    };
    const Checked good = onto(twin);
    CHECK(good.told == "");
    CHECK(good.of("merged").bytes == 1010u * 4);
    CHECK(good.of("vector[bird]").bytes == 1010u * 4);
    CHECK(good.of("merged").config == Json{{"width", 8}});
    CHECK_THAT(onto(other).told, Contains("'other', which has other weights"));
    CHECK_THAT(onto(half).told,
               Contains("/nodes/other/with/checkpoint: " + half + ": lacks tensors that encoder:beats needs: b"));

    const std::string told = check([&](Json& nodes) {
                                 nodes["base"] = {{"use", "encoder:mel"}, {"with", {{"checkpoint", one}}}};
                             }).told;
    CHECK_THAT(told, Contains("/nodes/base/with/checkpoint: " + one + ": holds encoder:beats, expected encoder:mel"));
    // What it would have been isn't known, so nothing else is wrong.
    CHECK(std::count(told.begin(), told.end(), '\n') == 1);
    write_file_atomically(folder / "text.pt", "no checkpoint");
    CHECK_THAT(check([&](Json& nodes) { nodes["base"]["with"]["checkpoint"] = (folder / "text.pt").string(); }).told,
               Contains("text.pt: is no checkpoint"));
}

TEST_CASE("a model of another architecture than the base has no task vector; one of another start is noted") {
    CHECK_THAT(
        check([](Json& nodes) {
            nodes["wide"] = {{"use", "encoder:beats"}, {"with", {{"width", 16}}}};
            nodes["vector[taxon]"]["in"]["base"] = "wide";
        }).told,
        Contains("/nodes/vector[taxon]/in/model: 'expert[bird]' is encoder:beats with width 8, 'wide' with width "
                 "16; expected a model of the base's architecture"));
    const Checked noted = check([](Json& nodes) {
        nodes["other"] = {{"use", "encoder:beats"}, {"seed", 5}};
        nodes["vector[taxon]"]["in"]["base"] = "other";
        nodes["merged"]["in"]["base"] = "other";
    });
    CHECK(noted.told == "");
    CHECK_THAT(noted.notes, Contains("/nodes/vector[taxon]/in/base: 'expert[bird]' wasn't fine-tuned from 'other'"));
}

TEST_CASE("what is learned from needs two labels, and what is scored a label that is known") {
    auto sets = two_sets();
    sets["clips[frog]"] = set_of("frog", {"toad"});
    CHECK_THAT(check([](Json&) {}, sets).told,
               Contains("/nodes/expert[taxon]/in/data: 'expert[frog]': found 1 labels with train clips, expected at "
                        "least 2"));

    auto alone = [](const char* model, Json data, const char* split = "test") {
        return [=](Json& nodes) {
            nodes["alone"] = {
                {"use", "evaluate"}, {"in", {{"model", model}, {"data", data}}}, {"with", {{"split", split}}}};
        };
    };
    CHECK_THAT(check(alone("expert[bird]", "clips[frog]"), two_sets()).told,
               Contains("/nodes/alone/in/data: no clip of the test split has a label that the model knows: "
                        "'expert[bird]' knows 'crow', 'wren', the clips have 'bullfrog', 'toad'"));
    const Checked some = check(alone("expert[bird]", {"clips[*]"}), two_sets());
    CHECK(some.told == "");
    CHECK_THAT(some.notes, Contains("/nodes/alone/in/data: 2 clips of the test split will be left out: 'expert[bird]' "
                                    "has never seen their labels, 'bullfrog', 'toad'"));
    sets = two_sets();
    std::erase_if(sets["clips[bird]"].clips, [](const Clip& clip) { return clip.split == Split::kValid; });
    CHECK_THAT(check(alone("expert[bird]", "clips[bird]", "valid"), sets).told,
               Contains("no clip of the valid split has a label that the model knows: 'expert[bird]' knows 'crow', "
                        "'wren', and there are no clips"));
}

TEST_CASE("sets that can't stand together are told once") {
    const std::string told = check([](Json& nodes) { nodes["clips[taxon]"]["with"]["group_name"] = "all"; }).told;
    CHECK_THAT(told, Contains("/nodes/model/in/data: two data sets are called 'all' (the second is clips[frog])"));
    CHECK(std::count(told.begin(), told.end(), '\n') == 1);

    auto sets = two_sets();
    sets["clips[frog]"].recordings[0].content = sets["clips[bird]"].recordings[1].content;  // train there, valid here
    const std::string leak = check([](Json&) {}, sets).told;
    CHECK_THAT(leak, Contains("one recording is in the split valid of 'bird'"));
    CHECK(std::count(leak.begin(), leak.end(), '\n') == 1);
}

TEST_CASE("heads of experts need the experts of their data") {
    auto kind = [](const char* name, Json experts) {
        return [=](Json& nodes) {
            nodes["again"] = {
                {"use", "fine-tune"}, {"in", {{"encoder", "base"}, {"data", "clips[bird]"}}}, {"seed", 4}};
            nodes["model"]["in"]["experts"] = experts;
            nodes["model"]["with"]["kind"] = name;
        };
    };
    CHECK(check(kind("gated", {"expert[*]"}), two_sets()).told == "");
    CHECK_THAT(check(kind("gated", {"expert[*]", "again"})).told,
               Contains("/nodes/model/in/experts: 'model': two experts, 'expert[bird]' and 'again', were trained on "
                        "'bird'; expected one for each data set"));
    CHECK_THAT(check(kind("gated", {"expert[bird]"})).told, Contains("no expert was trained on 'frog'"));
    CHECK(check(kind("concatenate.raw", {"expert[bird]"})).told == "");
    CHECK_THAT(check(kind("concatenate.raw", {"expert[bird]"}), two_sets()).told,
               Contains("no expert knows the label 'bullfrog', 'toad', which the data sets have"));
    CHECK_THAT(
        check([](Json& nodes) {
            nodes["wide"] = {{"use", "encoder:beats"}, {"with", {{"width", 16}}}};
            nodes["model"]["in"]["encoder"] = "wide";
            nodes["model"]["with"]["kind"] = "concatenate.raw";
        }).told,
        Contains("/nodes/model/in/encoder: the head of 'expert[bird]' takes 8 features, but 'wide' gives 16 with "
                 "the pooling mean"));
    // Half the width in twice the bands are as many features, if the pooling is by bands; nobody said so.
    CHECK(check([](Json& nodes) {
              nodes["tall"] = {{"use", "encoder:beats"}, {"with", {{"width", 16}, {"patch", 32}}}};
              nodes["model"]["in"]["encoder"] = "tall";
              nodes["model"]["with"]["kind"] = "concatenate.raw";
          }).told == "");
}

TEST_CASE("an encoder without parameters isn't fine-tuned, and keeps no other's head") {
    CHECK_THAT(check([](Json& nodes) {
                   nodes["mel"] = {{"use", "encoder:mel"}};
                   nodes["tuned"] = {{"use", "fine-tune"}, {"in", {{"encoder", "mel"}, {"data", "clips[bird]"}}}};
               }).told,
               Contains("/nodes/tuned/in/encoder: encoder:mel has no parameters, so there is nothing to fine-tune"));
    CHECK_THAT(check([](Json& nodes) {
                   nodes["mel"] = {{"use", "encoder:mel"}};
                   nodes["kept"] = {{"use", "keep-head"}, {"in", {{"encoder", "mel"}, {"head", "model"}}}};
               }).told,
               Contains("/nodes/kept/in/encoder: 'mel' gives 4 numbers a frame, but the head 'model' was fitted on 8"));
}

TEST_CASE("recordings below the encoder's rate are noted once") {
    auto sets = two_sets();
    sets["clips[frog]"] = set_of("frog", {"bullfrog", "toad"}, 8000);
    const Checked checked = check([](Json&) {}, sets);
    CHECK(checked.told == "");
    CHECK_THAT(checked.notes,
               Contains("6 of the 6 recordings of 'clips[frog]' have a sample rate below the encoder's "
                        "16000 Hz, down to 8000 Hz: there is nothing to be heard in them above 4000 Hz"));
    CHECK(checked.described.notes.size() == 1);
}

TEST_CASE("a sweep chooses on valid clips with labels that its head knows") {
    auto sweep = [](Json& nodes) {
        nodes["before"] = {{"use", "head"}, {"in", {{"encoder", "base"}, {"data", "clips[bird]"}}}};
        nodes["sweep"] = {
            {"use", "sweep"},
            {"in",
             {{"base", "base"}, {"vectors", {{"b", "vector[bird]"}}}, {"targets", "clips[frog]"}, {"head", "before"}}},
            {"with", {{"expression", "x*b"}, {"grid", {{"x", {1}}}}, {"goal", "learn"}}}};
    };
    CHECK_THAT(
        check(sweep, two_sets()).told,
        Contains("/nodes/sweep/in/targets: no clip of 'frog' in the valid split has a label that the head knows"));
    auto sets = two_sets();
    std::erase_if(sets["clips[frog]"].clips, [](const Clip& clip) { return clip.split == Split::kValid; });
    CHECK_THAT(check(sweep, sets).told, Contains("the data set 'frog' has no clips in the valid split"));
}

TEST_CASE("what doesn't fit on the disk is refused, with what is free and what is needed") {
    const Checked checked = check([](Json&) {}, two_sets());
    std::vector<bool> none(checked.graph.nodes.size(), false), all(checked.graph.nodes.size(), true);
    const uint64_t needed = bytes_to_make(checked.described, none);
    // Features of two encoders are implied by no one here: two sets, on `merged`; one head; 4 scored clips.
    CHECK(needed == 2 * 12u * (64 * 4 + 8) + (32 + 2 * 96) * 8u + 4 * (4 * 4 + 400u));
    CHECK(bytes_to_make(checked.described, all) == 0);
    CHECK_NOTHROW(require_space(1000, 1020, "/store"));
    CHECK_NOTHROW(require_space(0, 0, "/store"));
    CHECK_THROWS_WITH(
        require_space(5'000'000'000, 5'000'000'000, "/store"),
        "/store: found 5.0 GB free, expected at least 5.1 GB for the results that are not there yet; make "
        "room, or choose another --store");
    CHECK(free_space("/tmp/no/such/folder/yet") == free_space("/tmp"));
}

TEST_CASE("data sets come first, and what is made of them next") {
    const Checked checked = check([](Json& nodes) {
        nodes["quiet"] = {{"use", "background"}, {"in", {{"data", "clips[frog]"}}}};
        nodes["gate"] = {{"use", "head"}, {"in", {{"encoder", "merged"}, {"data", "quiet"}}}};
    });
    size_t looking = 0;
    const std::vector<size_t> order = looking_first(checked.graph, looking);
    REQUIRE(order.size() == checked.graph.nodes.size());
    REQUIRE(looking == 3);
    for (size_t i = 0; i < order.size(); ++i)
        CHECK(checked.graph.nodes[order[i]].type->volatile_source == (i < looking));
}
