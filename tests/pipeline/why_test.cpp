// Keys, plans and their reasons, on node types that write down what they were given.
#include <catch2/catch.hpp>
#include <fstream>

#include "base/files.hpp"
#include "fake_types.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/explain.hpp"
#include "pipeline/plan.hpp"
#include "pipeline/run.hpp"
#include "quiet.hpp"

using namespace biophony;
using State = PlannedNode::State;

namespace {

/// Written to by an encoder node, as if somebody did meanwhile; empty = nothing is.
fs::path changed_meanwhile;

/// What a node's bytes depend on: all but "note".
void write_down(TaskContext& context) {
    if (!changed_meanwhile.empty() && context.params.contains("checkpoint"))
        std::ofstream(changed_meanwhile) << "something else";
    Json params = context.params;
    params.erase("note");
    std::string text = fmt::format("{} {}\n", params.dump(), context.seed);
    for (const auto& [port, inputs] : context.inputs)
        for (const InputArtefact& input : inputs) text += fmt::format("{} {}\n", port, input.digest);
    std::ofstream(context.out / "result.txt") << text;
    if (context.inputs.contains("model") && context.inputs.contains("data"))  // an evaluation
        std::ofstream(context.out / "metrics.json")
            << R"({"groups": {}, "all": {"within": {}, "union": {}, "clips": 1}})";
}

/// A folder's files are its recordings, their text is their hash.
void look_at(TaskContext& context) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(context.params.at("folder").get<std::string>()))
        files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    Json recordings = Json::array();
    for (const fs::path& file : files)
        recordings.push_back({{"id", file.filename().string()}, {"content", read_file(file)}});
    std::ofstream(context.out / "dataset.json") << Json{{"recordings", recordings}, {"clips", Json::array()}}.dump();
    context.headline = fmt::format("{} recordings", files.size());
}

/// A pipeline of fake nodes with a store and data of its own.
struct World {
    fs::path folder = fs::temp_directory_path() / ("bph-why-" + unique_name());
    NodeTypes types;
    Registry registry = Registry::of({});
    std::vector<std::string> builds = {"build 1"};
    Json pipeline = Json::parse(R"({"biophony": 1, "name": "t", "axes": {"taxon": ["bird", "frog"]}, "nodes": {
        "base":          {"use": "encoder:beats"},
        "clips[taxon]":  {"use": "dataset:folder", "with": {"folder": "{taxon}"}},
        "expert[taxon]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon]"}, "with": {"epochs": 5}},
        "vector[taxon]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon]"}},
        "merged":        {"use": "compose", "in": {"base": "base", "vectors": ["vector[*]"]}, "with": {"stages": [{"use": "merger:average"}]}},
        "model":         {"use": "head", "in": {"encoder": "merged", "data": ["clips[*]"]}, "with": {"strength": 1}},
        "score":         {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]"]}}}})");
    std::function<void(Describing&)> describe_head;
    RunOptions options;
    Quiet quiet;
    Cancel cancel;
    Graph graph;

    World() {
        for (const char* taxon : {"bird", "frog", "whale"}) {
            write(fmt::format("{}/a.wav", taxon), fmt::format("{} a", taxon));
            write(fmt::format("{}/b.wav", taxon), fmt::format("{} b", taxon));
        }
        write("plugin.so", "");
        options.store = folder / "store";
        options.out = folder / "run";
        options.host = {.version = "1", .libtorch = "2.12", .cpu_class = "avx2"};
        options.cancel = &cancel;
        use_types("sources 1");
        use_build("build 1");
    }
    ~World() { fs::remove_all(folder); }

    void write(const std::string& name, const std::string& text) const {
        fs::create_directories((folder / name).parent_path());
        std::ofstream(folder / name) << text;
    }
    void use_types(const std::string& sources_of_fine_tune) {
        const NodeTypes shapes = fake::types();
        types = {};
        for (NodeType type : shapes.all()) {
            type.sources = type.name == "fine-tune" ? sources_of_fine_tune : "sources 1";
            type.run = type.name == "dataset" ? look_at : write_down;
            if (type.name == "head") type.describe = describe_head;
            types.add(type);
        }
    }
    void use_build(const std::string& of_beats) {
        PluginFile file{.path = folder / "plugin.so", .version = "1.0"};
        const Registry shapes = fake::registry();
        for (const ItemInfo* known : shapes.items()) {
            ItemInfo item = *known;
            item.library = folder / "plugin.so";
            item.build = item.id == "beats" ? of_beats : "build 1";
            file.items.push_back(item);
        }
        registry = Registry::of({file});
    }
    void check() {
        std::vector<Diagnostic> problems;
        graph = make_graph(pipeline.dump(), folder / "p.json", {}, types, registry, problems);
        for (const Diagnostic& problem : problems) UNSCOPED_INFO(problem.text());
        REQUIRE(problems.empty());
    }
    RunResult run() {
        check();
        return run_graph(graph, registry, options, quiet);
    }
    Plan plan(const char* target = nullptr) {
        check();
        return plan_graph(graph, registry, options, quiet,
                          target == nullptr ? std::nullopt : std::optional(graph.index_of(target)));
    }
    const PlannedNode& of(const Plan& plan, const char* id) const { return plan.nodes.at(graph.index_of(id)); }
    std::string reason(const char* id) {
        const Plan one = plan();
        return fmt::format("{}: {}", to_string(of(one, id).state), of(one, id).reason);
    }
    Json record(const char* id) {
        check();
        return Keys(graph, registry, options.host, options.threads).record_without_inputs(graph.index_of(id));
    }
    Json& with(const char* id) { return pipeline["nodes"][id]["with"]; }
};

std::map<std::string, fs::file_time_type> files_below(const fs::path& folder) {
    std::map<std::string, fs::file_time_type> out;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (entry.is_regular_file()) out[entry.path().string()] = entry.last_write_time();
    return out;
}

std::vector<std::string> told(const std::vector<Cause>& causes, const std::string& indent = "") {
    std::vector<std::string> out;
    for (const Cause& cause : causes) {
        out.push_back(indent + cause.node + ": " + (cause.told_before ? "before" : joined(cause.reasons)));
        for (const std::string& line : told(cause.inputs, indent + "  ")) out.push_back(line);
    }
    return out;
}

}  // namespace

TEST_CASE("a plan without earlier results says what waits for what") {
    World world;
    const Plan plan = world.plan();
    CHECK(plan.count == 10);
    CHECK(plan.to_run == 8);
    CHECK(plan.without_estimate == 8);
    CHECK(world.of(plan, "clips[bird]").state == State::kLooks);
    CHECK(world.of(plan, "clips[bird]").reason == "looks at its files each time: 2 recordings");
    CHECK(world.of(plan, "base").reason == "no earlier result of this node");
    CHECK(world.of(plan, "expert[bird]").reason == "waits for base");
    CHECK(world.of(plan, "merged").reason == "waits for base and 2 more");
    CHECK(world.of(plan, "merged").key.empty());
    CHECK_FALSE(world.of(plan, "base").key.empty());
}

TEST_CASE("after a run everything is there, and planning writes nothing more") {
    World world;
    CHECK(world.run().made == 10);
    const auto before = files_below(world.options.store / "objects");
    const Plan plan = world.plan();
    CHECK(plan.to_run == 0);
    CHECK(plan.index == nullptr);
    CHECK(world.of(plan, "score").state == State::kCached);
    REQUIRE(world.of(plan, "score").result);
    CHECK(world.of(plan, "score").key == world.of(plan, "score").result->key);
    world.with("expert[taxon]")["epochs"] = 9;
    CHECK(world.plan().to_run == 7);
    CHECK(files_below(world.options.store / "objects") == before);
}

TEST_CASE("a plan tells what nodes hold in memory, what they take on the disk, and when that is full") {
    World world;
    uint64_t bytes = 4'200'000;
    world.describe_head = [&](Describing& describing) {
        describing.out.holds = "features of one group";
        describing.out.memory_bytes = 1'250'000'000;
        describing.out.bytes = bytes;
    };
    world.use_types("sources 1");
    const Plan plan = world.plan();
    CHECK(world.of(plan, "model").memory == "features of one group, about 1.2 GB");
    CHECK(world.of(plan, "model").memory_bytes == 1'250'000'000);
    CHECK(world.of(plan, "model").bytes == 4'200'000);
    CHECK(world.of(plan, "score").memory.empty());
    CHECK(plan.needs ==
          "model holds most in memory: features of one group, about 1.2 GB; results take about 4.2 MB on the disk");
    CHECK(plan.bytes == 4'200'000);
    CHECK(plan.free.value_or(0) > 0);
    CHECK(plan.no_room.empty());
    bytes = uint64_t{1} << 60;
    CHECK_THAT(world.plan().no_room, Catch::Contains("expected at least 1175979.9 TB for the results"));
    CHECK_THROWS_WITH(world.run(), Catch::Contains("expected at least 1175979.9 TB for the results"));
    bytes = 4'200'000;
    world.run();
    CHECK(world.plan().bytes == 0);
    CHECK(world.plan().needs.empty());
}

TEST_CASE("a part of a pipeline is planned as it would run") {
    World world;
    world.options.slice.only = {"merged"};
    CHECK_THROWS_WITH(world.plan(),
                      Catch::Contains("need results that aren't there: base, vector[bird], vector[frog]"));
    world.options.slice = {.to = {"vector"}, .from = {}, .only = {}};
    const Plan part = world.plan();
    CHECK(part.count == 7);
    CHECK(part.to_run == 5);
    CHECK(part.nodes.at(world.graph.index_of("merged")).node == nullptr);
    CHECK(world.run().made == 7);
    world.options.slice = {.to = {}, .from = {}, .only = {"merged"}};
    world.options.use_cache = false;  // of the part alone
    const Plan one = world.plan();
    CHECK(one.count == 1);
    CHECK(one.to_run == 1);
    CHECK_FALSE(world.of(one, "merged").key.empty());
}

TEST_CASE("a reason says what changed since the nearest earlier result") {
    World world;
    world.run();
    SECTION("a parameter of one node, and what follows") {
        world.with("expert[taxon]")["epochs"] = 9;
        CHECK(world.reason("expert[bird]") == "run: parameter epochs: 5 → 9");
        CHECK(world.reason("vector[bird]") == "run: waits for expert[bird]");
        world.with("model")["strength"] = 2;
        CHECK(world.reason("model") == "run: parameter strength: 1 → 2; waits for merged");
        CHECK(world.reason("base").starts_with("cached: made 2"));
    }
    SECTION("of several earlier results the nearest counts") {
        world.with("expert[taxon]") = {{"epochs", 9}, {"note", "x"}};
        world.run();
        world.with("expert[taxon]") = {{"epochs", 5}, {"note", "y"}};
        CHECK(world.reason("expert[bird]") == "run: parameter note is new: y");
        world.with("expert[taxon]") = {{"epochs", 9}, {"note", "y"}};
        CHECK(world.reason("expert[bird]") == "run: parameter note: x → y");
    }
    SECTION("a parameter that is gone") {
        world.with("expert[taxon]") = Json::object();
        CHECK(world.reason("expert[bird]") == "run: parameter epochs is gone (was 5)");
    }
    SECTION("more than three changes are counted") {
        world.pipeline["nodes"]["expert[taxon]"]["seed"] = 4;
        world.with("expert[taxon]") = {{"epochs", 6}, {"note", "x"}};
        world.use_types("sources 2");
        world.use_build("build 2");
        CHECK(world.reason("expert[bird]") ==
              "run: parameter epochs: 5 → 6; parameter note is new: x; plugin encoder:beats was rebuilt; 2 more; waits "
              "for base");
    }
    SECTION("a seed") {
        world.pipeline["nodes"]["expert[taxon]"]["seed"] = 4;
        CHECK(world.reason("expert[frog]") == "run: seed 0 → 4");
    }
    SECTION("a plugin, also where it is upstream") {
        world.use_build("build 2");
        CHECK(world.reason("base") == "run: plugin encoder:beats was rebuilt");
        CHECK(world.reason("expert[bird]") == "run: plugin encoder:beats was rebuilt; waits for base");
        CHECK(world.reason("vector[bird]") == "run: waits for base and 1 more");
    }
    SECTION("another merger") {
        world.with("merged")["stages"] = Json::parse(R"([{"use": "merger:ties.global"}])");
        CHECK(world.reason("merged") ==
              "run: parameter stages.0.use: merger:average → merger:ties.global; plugin merger:average takes no part "
              "any more; plugin merger:ties.global takes part now");
    }
    SECTION("the node type's sources") {
        world.use_types("sources 2");
        CHECK(world.reason("expert[bird]") == "run: the sources of fine-tune changed");
    }
    SECTION("the machine") {
        world.options.threads = 4;
        world.options.host.libtorch = "2.13";
        CHECK(world.reason("base") == "run: LibTorch 2.12 → 2.13; threads 1 → 4");
        CHECK(world.reason("vector[bird]") == "run: waits for base and 1 more");
    }
    SECTION("the files of a data set") {
        world.write("bird/c.wav", "bird c");
        CHECK(world.reason("expert[bird]") == "run: input data: clips[bird] changed");
        CHECK(world.reason("expert[frog]").starts_with("cached"));
    }
    SECTION("another source") {
        world.pipeline["axes"]["taxon"] = {"bird", "frog", "whale"};
        CHECK(world.reason("expert[whale]") == "run: no earlier result of this node");
        CHECK(world.reason("merged") == "run: input vectors: vector[whale] is new; waits for vector[whale]");
        world.run();
        world.pipeline["axes"]["taxon"] = {"frog", "whale"};
        // Two vectors of three are nearer to the last result than to the first.
        CHECK(world.reason("merged") == "run: input vectors: vector[bird] is gone");
    }
    SECTION("the order of sources") {
        world.pipeline["axes"]["taxon"] = {"frog", "bird"};
        CHECK(world.reason("merged").starts_with("run: "));
        CHECK_THAT(world.reason("model"), Catch::Contains("input data: its order changed"));
    }
    SECTION("a damaged result") {
        const Plan plan = world.plan();
        const fs::path file = world.of(plan, "merged").result->folder / "result.txt";
        fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
        fs::resize_file(file, 1);
        CHECK(world.reason("merged") == "run: its result is damaged");
    }
    SECTION("no cache") {
        world.options.use_cache = false;
        CHECK(world.reason("base") == "run: the cache is off");
    }
}

TEST_CASE("equal bytes upstream keep what is downstream") {
    World world;
    world.run();
    world.with("expert[taxon]")["note"] = "only a word";
    CHECK(world.reason("vector[bird]") == "run: waits for expert[bird]");  // nobody knows yet
    const RunResult result = world.run();
    CHECK(result.made == 4);  // the two experts, and the data sets, which are looked at
    CHECK(world.plan().to_run == 0);
}

TEST_CASE("a file counts by its content, which may not change while a node reads it") {
    World world;
    world.write("a.bin", "one");
    world.write("b.bin", "one");
    world.with("base") = {{"checkpoint", "a.bin"}};
    world.run();
    world.with("base") = {{"checkpoint", "b.bin"}};
    CHECK(world.plan().to_run == 0);
    world.write("b.bin", "two");
    CHECK(world.reason("base") == "run: the file of parameter checkpoint changed");
    changed_meanwhile = world.folder / "b.bin";
    CHECK_THROWS_WITH(world.run(), Catch::Contains("was changed while the node read it"));
    changed_meanwhile.clear();
    CHECK_NOTHROW(world.run());
    CHECK(world.plan().to_run == 0);
}

TEST_CASE("earlier times are the estimate; a new sibling's is the median of the others") {
    World world;
    world.run();
    std::map<std::string, double> seconds;
    for (const StoreEntry& entry : list_store(world.options.store)) seconds[entry.text("node")] = entry.seconds();
    world.pipeline["axes"]["taxon"] = {"bird", "frog", "whale"};
    world.with("expert[taxon]")["epochs"] = 9;
    const Plan plan = world.plan();
    CHECK(world.of(plan, "expert[bird]").seconds == seconds.at("expert[bird]"));
    CHECK(world.of(plan, "expert[whale]").seconds == std::max(seconds.at("expert[bird]"), seconds.at("expert[frog]")));
    CHECK(plan.without_estimate == 0);
    double sum = 0;
    for (const PlannedNode& planned : plan.nodes)
        if (planned.state == State::kRun) sum += *planned.seconds;
    CHECK(plan.seconds == Approx(sum));
}

TEST_CASE("an explanation goes down to the causes") {
    World world;
    world.run();
    world.write("bird/c.wav", "bird c");
    world.write("bird/b.wav", "other sounds");
    world.with("expert[taxon]")["epochs"] = 9;
    const Plan plan = world.plan("score");
    const Explanation why = explain_node(world.graph, plan, world.graph.index_of("score"));
    REQUIRE(why.other != nullptr);
    CHECK(why.other->text("node") == "score");
    CHECK(why.difference.changes.empty());
    CHECK(told(why.causes) ==
          std::vector<std::string>{"clips[bird]: 1 recording is new (c.wav); 1 recording changed (b.wav)",
                                   "model: ", "  clips[bird]: before", "  merged: ", "    vector[bird]: ",
                                   "      expert[bird]: parameter epochs: 5 → 9", "        clips[bird]: before",
                                   "    vector[frog]: ", "      expert[frog]: parameter epochs: 5 → 9"});

    const Plan of_data = world.plan("clips[bird]");
    CHECK(of_data.count == 1);
    const Explanation data = explain_node(world.graph, of_data, world.graph.index_of("clips[bird]"));
    CHECK(data.found == std::vector<std::string>{"1 recording is new (c.wav)", "1 recording changed (b.wav)"});

    // What was made once is compared with what was made another time.
    world.run();
    const Plan cached = world.plan("expert[frog]");
    const Explanation frog = explain_node(world.graph, cached, world.graph.index_of("expert[frog]"));
    CHECK(frog.planned->state == State::kCached);
    REQUIRE(frog.other != nullptr);
    CHECK(frog.difference.in_words("fine-tune") == std::vector<std::string>{"parameter epochs: 5 → 9"});
}

TEST_CASE("a renamed node is compared with its type's results, and a pruned cause is said to be gone") {
    World world;
    world.run();
    world.pipeline["nodes"]["specialist[taxon]"] = world.pipeline["nodes"]["expert[taxon]"];
    world.pipeline["nodes"]["specialist[taxon]"]["with"]["epochs"] = 6;
    {
        const Plan plan = world.plan("specialist[frog]");
        const Explanation why = explain_node(world.graph, plan, world.graph.index_of("specialist[frog]"));
        REQUIRE(why.other != nullptr);
        CHECK(why.other->text("node") == "expert[frog]");
        CHECK(why.difference.in_words("fine-tune") == std::vector<std::string>{"parameter epochs: 5 → 6"});
    }
    world.write("bird/c.wav", "bird c");
    std::vector<StoreEntry> entries = list_store(world.options.store);
    std::erase_if(entries, [](const StoreEntry& entry) { return entry.text("node") != "clips[bird]"; });
    CHECK(entries.size() == 1);
    remove_results(world.options.store, entries, false);
    const Plan plan = world.plan("expert[bird]");
    CHECK(world.of(plan, "expert[bird]").reason == "input data: clips[bird] changed");
    CHECK(told(explain_node(world.graph, plan, world.graph.index_of("expert[bird]")).causes) ==
          std::vector<std::string>{"clips[bird]: the result that it had is no longer in the store"});
}

TEST_CASE("a key's record keeps fields, parameters and plugins apart") {
    World world;
    world.run();
    // The field and the parameter of that name are different leaves.
    const Json expert = world.record("expert[bird]");
    CHECK(expert.at("format") == "biophony-key/0");
    CHECK(expert.at("params") == Json{{"recipe", "small"}, {"epochs", 5}});
    CHECK(expert.at("seed") == 0);
    CHECK_FALSE(expert.contains("item"));
    CHECK(world.record("base").at("item") == "encoder:beats");
    // Torch nodes count the encoders upstream, others don't.
    CHECK(world.record("score").at("plugins") == Json{{"encoder:beats", "build 1"}});
    CHECK(world.record("vector[bird]").at("plugins") == Json::object());
    CHECK(world.record("merged").at("plugins") == Json{{"merger:average", "build 1"}});
    CHECK_FALSE(world.record("merged").contains("torch"));

    // A parameter that is taken away, or said to be null, or a number that is written as text, is another record.
    const auto key_with = [&](const Json& with) {
        world.with("model") = with;
        return key_of_record(world.record("model"));
    };
    const std::set<std::string> keys = {key_with({{"strength", 1}}), key_with(Json::object()),
                                        key_with({{"strength", 2}}), key_with({{"strength", 1.5}})};
    CHECK(keys.size() == 4);
    CHECK(key_with({{"kind", "ridge"}, {"strength", 1}}) == key_with({{"strength", 1}}));  // the default, said aloud
    CHECK_THROWS(canonical(Json{{"strength", std::numeric_limits<double>::quiet_NaN()}}));
    CHECK_THROWS(canonical(Json{{"strength", std::numeric_limits<double>::infinity()}}));
    CHECK(canonical(Json::parse("[0.1, 1e22, 5e-324, 1.0, 1]")) == "[0.1,1e+22,5e-324,1.0,1]");
}

TEST_CASE("which of two plugins the node is makes a difference, where parameters name both") {
    PluginFile file{.path = "/nowhere/plugin.so", .version = "1.0"};
    for (const char* id : {"a", "b"})
        file.items.push_back(fake::item("encoder", id, R"({"type": "object", "properties": {
            "first": {"type": "string"}, "second": {"type": "string"}}})"));
    file.items.push_back(fake::item("dataset", "none", R"({"type": "object", "properties": {}})"));
    const Registry registry = Registry::of({file});
    const NodeTypes types = fake::types();
    const HostFacts host;
    const auto key_of = [&](const char* use) {
        std::vector<Diagnostic> problems;
        const Graph graph = make_graph(fmt::format(R"({{"biophony": 1, "name": "t", "nodes": {{
                "x": {{"use": "{}", "with": {{"first": "encoder:a", "second": "encoder:b"}}}},
                "clips": {{"use": "dataset:none"}},
                "y": {{"use": "fine-tune", "in": {{"encoder": "x", "data": "clips"}}}}}}}})",
                                                   use),
                                       "/p.json", {}, types, registry, problems);
        REQUIRE(problems.empty());
        return key_of_record(Keys(graph, registry, host, 1).record_without_inputs(graph.index_of("x")));
    };
    CHECK(key_of("encoder:a") != key_of("encoder:b"));
}
