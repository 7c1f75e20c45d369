// Running: which nodes run beside which, what a failure and a cancel leave, slices, locks, executors.
#include <sys/stat.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "base/files.hpp"
#include "pipeline/executor.hpp"
#include "pipeline/run.hpp"
#include "pipeline/run_directory.hpp"
#include "pipeline/run_node.hpp"
#include "quiet.hpp"

using namespace biophony;
using namespace std::chrono_literals;

namespace {

struct Folder {
    fs::path path = fs::temp_directory_path() / ("bph-run-" + unique_name());
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
};

/// What the nodes of a test do, beside writing the digests of their inputs.
std::function<void(TaskContext&)> behaviour;

void work(TaskContext& context) {
    if (behaviour) behaviour(context);
    std::string text = context.params.dump() + "\n";
    for (const auto& [port, inputs] : context.inputs)
        for (const InputArtefact& input : inputs) text += input.node + " " + read_file(input.folder / "out.txt");
    write_file_atomically(context.out / "out.txt", text);
    context.headline = "done";
}

const NodeTypes& types() {
    static const NodeTypes all = [] {
        NodeTypes made;
        const Json none = Json::parse(R"({"type": "object"})");
        made.add({.name = "plain", .output = "x", .parameters = none, .run = work});
        made.add({.name = "torch", .output = "x", .parameters = none, .torch = true, .run = work});
        made.add({.name = "looks", .output = "x", .parameters = none, .volatile_source = true, .run = work});
        made.add({.name = "lent",
                  .output = "x",
                  .parameters = none,
                  .uses_libtorch = [](const GraphNode&, const Registry&) { return true; },
                  .run = work});
        return made;
    }();
    return all;
}

class Pipeline {
public:
    Pipeline() {
        behaviour = nullptr;
        options.out = folder.path / "out";
        options.store = folder.path / "store";
        options.threads = 2;
    }
    ~Pipeline() { behaviour = nullptr; }
    void add(const std::string& id, const char* type, const std::vector<std::string>& inputs = {},
             Json params = nullptr) {
        GraphNode node;
        node.id = id;
        node.stem = id.substr(0, id.find('['));
        node.type = types().find(type);
        node.params = params.is_null() ? Json{{"name", id}} : params;
        for (const std::string& input : inputs) node.inputs["in"].push_back(graph.index_of(input));
        graph.nodes.push_back(node);
    }
    RunResult run() {
        struct Noted : Quiet {
            void note(const GraphNode& node, std::string_view line) override {
                notes += node.id + ": " + std::string(line) + "\n";
            }
            std::string notes;
        } quiet;
        try {
            const RunResult result = run_graph(graph, registry, options, quiet);
            notes = quiet.notes;
            return result;
        } catch (...) {
            notes = quiet.notes;
            throw;
        }
    }
    /// Node → state, as the manifest has it.
    std::map<std::string, std::string> states() const {
        std::map<std::string, std::string> out;
        const Json all = manifest();
        for (const Json& node : all.at("nodes")) out[node.at("id")] = node.at("state");
        return out;
    }
    Json manifest() const { return read_json(options.out / "manifest.json"); }
    bool shows(const std::string& node) const { return fs::exists(options.out / "nodes" / node / "out.txt"); }

    Folder folder;
    Graph graph;
    Registry registry = Registry::of({});
    RunOptions options;
    std::string notes;
};

/// Counts who is at work.
struct Meter {
    std::atomic<int> torch{0}, others{0}, all{0}, most_torch{0}, most_others{0}, most_all{0};
    static void raise(std::atomic<int>& most, int now) {
        int before = most;
        while (before < now && !most.compare_exchange_weak(before, now)) {
        }
    }
    void watch(TaskContext& context, bool is_torch) {
        std::atomic<int>& kind = is_torch ? torch : others;
        raise(is_torch ? most_torch : most_others, ++kind);
        raise(most_all, ++all);
        std::this_thread::sleep_for(10ms);
        static_cast<void>(context);
        --all, --kind;
    }
};

std::string error_of(const std::function<void()>& body, Code expected) {
    try {
        body();
    } catch (const Error& error) {
        CHECK(error.code() == expected);
        return error.what();
    }
    FAIL("nothing was thrown");
    return {};
}

}  // namespace

TEST_CASE("one torch node at a time, a few others beside it") {
    for (const auto& [jobs, threads, others, all] :
         {std::tuple{0u, 2u, 2, 3}, std::tuple{0u, 16u, 4, 5}, std::tuple{1u, 8u, 1, 1}, std::tuple{3u, 1u, 3, 3}}) {
        Pipeline pipeline;
        pipeline.options.jobs = jobs;
        pipeline.options.threads = threads;
        for (int i = 0; i < 8; ++i) {
            pipeline.add("t" + std::to_string(i), i % 2 == 0 ? "torch" : "lent");
            pipeline.add("p" + std::to_string(i), i % 2 == 0 ? "plain" : "looks");
        }
        Meter meter;
        std::mutex mutex;
        std::set<std::thread::id> torch_threads;
        behaviour = [&](TaskContext& context) {
            const bool torch = context.node[0] == 't';
            if (torch) {
                const std::lock_guard lock(mutex);
                torch_threads.insert(std::this_thread::get_id());
            }
            meter.watch(context, torch);
        };
        CHECK(pipeline.run().made == 16);
        INFO("jobs " << jobs << ", threads " << threads);
        CHECK(meter.most_torch == 1);
        CHECK(torch_threads.size() == 1);
        CHECK(meter.most_others <= others);
        CHECK(meter.most_all <= all);
        if (jobs != 1) CHECK(meter.most_all > 1);
    }
}

TEST_CASE("results don't depend on what ran beside what") {
    std::map<std::string, std::string> digests[2];
    for (const unsigned jobs : {1u, 8u}) {
        Pipeline pipeline;
        pipeline.options.jobs = jobs;
        for (int i = 0; i < 30; ++i) {
            std::vector<std::string> inputs;
            for (int j = 0; j < i; j += 1 + i % 4) inputs.push_back("n" + std::to_string(j));
            pipeline.add("n" + std::to_string(i), i % 3 == 0 ? "torch" : "plain", inputs);
        }
        CHECK(pipeline.run().made == 30);
        const Json manifest = pipeline.manifest();
        for (const Json& node : manifest.at("nodes")) digests[jobs == 1 ? 0 : 1][node.at("id")] = node.at("digest");
        const RunResult again = pipeline.run();
        CHECK(again.made == 0);
        CHECK(again.cached == 30);
    }
    CHECK(digests[0].size() == 30);
    CHECK(digests[0] == digests[1]);
}

TEST_CASE("nodes with equal keys are made once, with the cache and without") {
    for (const bool cache : {true, false}) {
        Pipeline pipeline;
        pipeline.options.use_cache = cache;
        for (const char* id : {"a", "b", "c", "d"}) pipeline.add(id, "plain", {}, {{"same", 1}});
        pipeline.add("e", "plain", {"a", "d"});
        std::atomic<int> made{0};
        behaviour = [&](TaskContext&) {
            ++made;
            std::this_thread::sleep_for(20ms);
        };
        const RunResult result = pipeline.run();
        CHECK(made == 2);
        CHECK(result.made == 2);
        CHECK(result.cached == 3);
        for (const char* id : {"a", "b", "c", "d", "e"}) CHECK(pipeline.shows(id));
    }
}

TEST_CASE("a failure lets running nodes end and starts nothing new") {
    Pipeline pipeline;
    pipeline.add("bad", "plain");
    pipeline.add("slow", "plain");
    pipeline.add("user", "plain", {"bad"});
    for (int i = 0; i < 4; ++i) pipeline.add("later" + std::to_string(i), "plain", {"slow"});
    std::atomic<bool> failed{false}, slow_began{false};
    behaviour = [&](TaskContext& context) {
        if (context.node == "bad") {
            while (!slow_began) std::this_thread::sleep_for(1ms);
            failed = true;
            throw Error(Code::kRunFailed, "no such sound");
        }
        slow_began = true;
        while (!failed) std::this_thread::sleep_for(1ms);
        std::this_thread::sleep_for(50ms);
    };
    CHECK(error_of([&] { pipeline.run(); }, Code::kRunFailed) == "node bad: no such sound");
    const auto states = pipeline.states();
    CHECK(states.at("bad") == "failed");
    CHECK(states.at("slow") == "made");
    CHECK(pipeline.shows("slow"));
    CHECK(states.at("user") == "blocked");
    CHECK(states.at("later0") == "not run");
    CHECK(pipeline.manifest().at("state") == "failed");
    // The next run goes on from there.
    behaviour = nullptr;
    const RunResult result = pipeline.run();
    CHECK(result.made == 6);
    CHECK(result.cached == 1);
}

TEST_CASE("with keep-going all goes on that doesn't depend on what failed, and every failure is told") {
    Pipeline pipeline;
    pipeline.options.keep_going = true;
    pipeline.add("a", "plain");
    pipeline.add("bad1", "torch", {"a"});
    pipeline.add("bad2", "plain", {"a"});
    pipeline.add("b", "plain", {"bad1", "a"});
    pipeline.add("c", "torch", {"b"});
    pipeline.add("good", "plain", {"a"});
    pipeline.add("better", "torch", {"good"});
    behaviour = [](TaskContext& context) {
        if (context.node == "bad1") throw Error(Code::kInvalid, "first");
        if (context.node == "bad2") throw std::runtime_error("second\nand a stack");
    };
    const std::string told = error_of([&] { pipeline.run(); }, Code::kInvalid);
    CHECK(told == "2 nodes failed:\n    node bad1: first\n    node bad2: second");
    const auto states = pipeline.states();
    CHECK(states.at("b") == "blocked");
    CHECK(states.at("c") == "blocked");
    CHECK(states.at("better") == "made");
    const Json manifest = pipeline.manifest();
    for (const Json& node : manifest.at("nodes")) {
        if (node.at("id") == "c") CHECK(node.at("error") == "waits for bad1, which failed");
        if (node.at("id") == "bad2") CHECK(node.at("error") == "node bad2: second");
    }
}

TEST_CASE("nodes with the key of one that failed fail by themselves") {
    Pipeline pipeline;
    pipeline.options.keep_going = true;
    pipeline.add("a", "plain", {}, {{"same", 1}});
    pipeline.add("b", "plain", {}, {{"same", 1}});
    std::atomic<int> tries{0};
    behaviour = [&](TaskContext&) {
        std::this_thread::sleep_for(20ms);
        if (++tries == 1) throw Error(Code::kRunFailed, "once");
    };
    CHECK_THROWS_AS(pipeline.run(), Error);
    CHECK(tries == 2);
    const auto states = pipeline.states();
    CHECK(std::set<std::string>{states.at("a"), states.at("b")} == std::set<std::string>{"failed", "made"});
}

TEST_CASE("a node that comes to the key of one that has failed tries by itself") {
    Pipeline pipeline;
    pipeline.options.keep_going = true;
    // x and y have the same content, so a and b the same key; b gets there when a has long failed.
    pipeline.add("x", "plain", {}, {{"same", 1}});
    pipeline.add("y", "lent", {}, {{"same", 1}});
    pipeline.add("a", "plain", {"x"}, {{"same", 2}});
    pipeline.add("b", "plain", {"y"}, {{"same", 2}});
    std::atomic<bool> failed{false};
    behaviour = [&](TaskContext& context) {
        if (context.node == "y") {
            while (!failed) std::this_thread::sleep_for(1ms);
            std::this_thread::sleep_for(50ms);
        }
        if (context.node == "a") {
            failed = true;
            throw Error(Code::kRunFailed, "once");
        }
    };
    CHECK(error_of([&] { pipeline.run(); }, Code::kRunFailed) == "node a: once");
    CHECK(pipeline.states().at("a") == "failed");
    CHECK(pipeline.states().at("b") == "made");
}

namespace {

/// File → content, of everything in the folder but the lock.
std::map<std::string, std::string> contents(const fs::path& folder) {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (entry.is_regular_file() && entry.path().filename() != "run.lock")
            out[entry.path().lexically_relative(folder).string()] = read_file(entry.path());
    return out;
}

}  // namespace

TEST_CASE("a run that is refused leaves the directory as it was") {
    Pipeline pipeline;
    pipeline.add("clips", "looks");
    pipeline.add("a", "plain", {"clips"});
    pipeline.add("b", "plain", {"a"});
    pipeline.graph.outputs = {{.name = "result", .nodes = {2}}};
    pipeline.run();
    const auto before = contents(pipeline.options.out);
    CHECK(before.contains("outputs/result/out.txt"));
    pipeline.graph.nodes[1].params = {{"other", 1}};
    pipeline.graph.effective = {{"other", 1}};
    pipeline.options.slice = {.only = {"b"}};
    CHECK_THROWS_WITH(pipeline.run(), Catch::Contains("aren't there: a"));
    pipeline.options.slice = {.only = {"nobody"}};
    CHECK_THROWS_WITH(pipeline.run(), Catch::Contains("there is no node 'nobody'"));
    pipeline.options.slice = {.only = {"a"}};
    behaviour = [](TaskContext&) { throw Error(Code::kRunFailed, "no sound"); };
    CHECK(error_of([&] { pipeline.run(); }, Code::kRunFailed) == "node clips: no sound");
    CHECK(contents(pipeline.options.out) == before);
}

TEST_CASE("while a run is on, nothing sums up an earlier one") {
    Pipeline pipeline;
    pipeline.add("a", "plain");
    pipeline.add("b", "plain");
    pipeline.graph.outputs = {{.name = "one", .nodes = {0}}, {.name = "two", .nodes = {1}}};
    pipeline.run();
    bool seen = false;
    std::set<std::string> named;
    behaviour = [&](TaskContext&) {
        seen = true;
        for (const char* file : {"manifest.json", "metrics.json", "metrics.csv", "skipped.csv"})
            if (fs::exists(pipeline.options.out / file)) named.insert(file);
        for (const auto& entry : fs::directory_iterator(pipeline.options.out / "outputs"))
            named.insert(entry.path().filename());
    };
    pipeline.options.use_cache = false;
    pipeline.options.slice = {.only = {"a"}};
    pipeline.run();
    CHECK(seen);
    CHECK(named == std::set<std::string>{"two"});  // it is no part of what was asked for
    CHECK(fs::exists(pipeline.options.out / "outputs" / "one" / "out.txt"));
    named.clear();
    pipeline.options.slice = {};
    pipeline.run();
    CHECK(named.empty());
}

TEST_CASE("files where folders should be are told, and the manifest says that the run failed") {
    for (const char* name : {"outputs", "nodes"}) {
        Pipeline pipeline;
        pipeline.add("a", "plain");
        pipeline.graph.outputs = {{.name = "result", .nodes = {0}}};
        pipeline.run();
        fs::remove_all(pipeline.options.out / name);
        std::ofstream(pipeline.options.out / name) << "x";
        const std::string told = error_of([&] { pipeline.run(); }, Code::kRunFailed);
        CHECK_THAT(told, Catch::Contains("can't show a result as: Not a directory"));
        CHECK(pipeline.manifest().at("state") == "failed");
        CHECK(pipeline.manifest().at("error") == told);
    }
}

TEST_CASE("a result is shown whole, or what was there stays") {
    Folder folder;
    StoredResult one{.key = "1", .folder = folder.path / "one"}, two{.key = "2", .folder = folder.path / "two"};
    for (const char* name : {"a.txt", "b.txt"}) write_file_atomically(one.folder / name, "one");
    write_file_atomically(two.folder / "a.txt", "two");
    one.record = two.record = Json::parse(R"({"files": [{"name": "a.txt"}, {"name": "b.txt"}]})");
    const fs::path shown = folder.path / "nodes" / "n";
    expose(one, shown);
    CHECK(contents(shown) == std::map<std::string, std::string>{{"a.txt", "one"}, {"b.txt", "one"}});
    CHECK_THROWS_WITH(expose(two, shown), Catch::Contains("can't show a result as: No such file"));
    CHECK(contents(shown) == std::map<std::string, std::string>{{"a.txt", "one"}, {"b.txt", "one"}});
    write_file_atomically(two.folder / "b.txt", "two");
    expose(two, shown);
    CHECK(contents(shown) == std::map<std::string, std::string>{{"a.txt", "two"}, {"b.txt", "two"}});
    CHECK(contents(folder.path / "nodes").size() == 2);
    // What a kill left on its way is removed by the next run.
    Pipeline pipeline;
    pipeline.add("a", "plain");
    fs::create_directories(pipeline.options.out / "nodes");
    write_file_atomically(pipeline.options.out / "biophony-run.txt", "");
    write_file_atomically(pipeline.options.out / "nodes" / ".new~left" / "out.txt", "of a kill");
    pipeline.run();
    CHECK(!fs::exists(pipeline.options.out / "nodes" / ".new~left"));
}

TEST_CASE("the time after a cancel holds also where the deciding thread is busy") {
    Pipeline pipeline;
    Cancel cancel;
    pipeline.options.cancel = &cancel;
    std::atomic<bool> left{false};
    pipeline.options.abandon = [&](const Error& error) {
        CHECK(error.code() == Code::kCancelled);
        left = true;  // where the program would leave the process
    };
    pipeline.add("clips", "looks");
    pipeline.add("a", "plain");
    pipeline.add("b", "plain", {"clips", "a"});
    pipeline.options.slice = {.to = {"a"}};
    pipeline.run();
    // A data set outside of the slice is looked at before anything else.
    pipeline.options.slice = {.only = {"b"}};
    const auto begin = std::chrono::steady_clock::now();
    behaviour = [&](TaskContext&) {
        cancel.request();
        while (!left && std::chrono::steady_clock::now() - begin < 20s) std::this_thread::sleep_for(1ms);
    };
    CHECK_THROWS_AS(pipeline.run(), Error);
    CHECK(left);
    CHECK(std::chrono::steady_clock::now() - begin < 5s);
}

TEST_CASE("a cancel ends running nodes, and the manifest says so") {
    Pipeline pipeline;
    Cancel cancel;
    pipeline.options.cancel = &cancel;
    pipeline.add("first", "plain");
    pipeline.add("heeds", "torch", {"first"});
    pipeline.add("after", "plain", {"heeds"});
    behaviour = [&](TaskContext& context) {
        if (context.node != "heeds") return;
        cancel.request();
        while (true) context.cancel->check();
    };
    CHECK(error_of([&] { pipeline.run(); }, Code::kCancelled) == "cancelled");
    const auto states = pipeline.states();
    CHECK(pipeline.manifest().at("state") == "cancelled");
    CHECK(states.at("first") == "made");
    CHECK(states.at("heeds") == "cancelled");
    CHECK(states.at("after") != "made");
    CHECK(fs::is_empty(pipeline.options.store / "tmp"));
}

TEST_CASE("work that heeds no cancel is left after its time, with the run directory written") {
    Pipeline pipeline;
    Cancel cancel;
    std::atomic<bool> release{false};
    bool written = false;
    pipeline.options.cancel = &cancel;
    pipeline.options.abandon = [&](const Error& error) {
        CHECK(error.code() == Code::kCancelled);
        written = pipeline.manifest().at("state") == "cancelled" && pipeline.states().at("deaf") == "cancelled";
        release = true;  // where the program would leave the process
    };
    pipeline.add("deaf", "plain");
    behaviour = [&](TaskContext&) {
        cancel.request();
        while (!release) std::this_thread::sleep_for(1ms);
    };
    const auto begin = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(pipeline.run(), Error);
    CHECK(written);
    const auto took = std::chrono::steady_clock::now() - begin;
    CHECK(took > 1.4s);
    CHECK(took < 5s);
}

TEST_CASE("slices") {
    Pipeline pipeline;
    pipeline.add("clips", "looks");
    pipeline.add("base", "plain");
    for (const char* taxon : {"bird", "frog"}) {
        const std::string in = std::string("[") + taxon + "]";
        pipeline.add("expert" + in, "plain", {"base", "clips"});
        pipeline.add("vector" + in, "plain", {"expert" + in});
    }
    pipeline.add("merged", "plain", {"vector[bird]", "vector[frog]"});
    pipeline.add("score", "plain", {"merged", "clips"});
    auto names = [&](Slice slice) {
        std::string out;
        const std::vector<bool> selected = selected_nodes(pipeline.graph, slice);
        for (size_t i = 0; i < selected.size(); ++i)
            if (selected[i]) out += (out.empty() ? "" : " ") + pipeline.graph.nodes[i].id;
        return out;
    };
    CHECK(names({}) == "clips base expert[bird] vector[bird] expert[frog] vector[frog] merged score");
    CHECK(names({.to = {"vector[frog]"}}) == "clips base expert[frog] vector[frog]");
    CHECK(names({.to = {"expert"}}) == "clips base expert[bird] expert[frog]");
    CHECK(names({.from = {"merged"}}) == "merged score");
    CHECK(names({.from = {"vector[bird]", "vector[frog]"}}) == "vector[bird] vector[frog] merged score");
    CHECK(names({.only = {"vector", "base"}}) == "base vector[bird] vector[frog]");
    CHECK(names({.to = {"merged"}, .from = {"expert[bird]"}}) == "expert[bird] vector[bird] merged");
    CHECK(names({.from = {"score"}, .only = {"base"}}) == "base score");
    CHECK(error_of([&] { names({.to = {"vektor"}}); }, Code::kInvalid).find("did you mean 'vector'?") !=
          std::string::npos);
    CHECK_THROWS_WITH(names({.to = {"base"}, .from = {"score"}}), Catch::Contains("nothing lies between"));

    // Nothing is made where something is missing.
    std::atomic<int> made{0};
    behaviour = [&](TaskContext& context) { made += context.node == "clips" ? 0 : 1; };
    pipeline.options.slice = {.only = {"merged", "base"}};
    const std::string told = error_of([&] { pipeline.run(); }, Code::kInvalid);
    CHECK(told.find("vector[bird], vector[frog]") != std::string::npos);
    CHECK(told.find("--to 'vector[bird]'") != std::string::npos);
    CHECK(made == 0);

    pipeline.options.slice = {.to = {"vector"}};
    RunResult result = pipeline.run();
    CHECK(result.made == 6);
    CHECK(result.left_out == 2);
    CHECK(pipeline.states().at("merged") == "not selected");
    pipeline.options.slice = {.only = {"merged"}};
    result = pipeline.run();
    CHECK(result.made == 1);
    CHECK(pipeline.states().at("vector[bird]") == "taken");
    CHECK(pipeline.states().at("score") == "not selected");
    // Without the cache just the slice is made again; what was shown stays.
    pipeline.options.use_cache = false;
    pipeline.options.slice = {.only = {"vector[bird]"}};
    made = 0;
    pipeline.run();
    CHECK(made == 1);
    CHECK(pipeline.states().at("expert[bird]") == "taken");
    CHECK(pipeline.states().at("merged") == "not selected");
    CHECK(pipeline.shows("merged"));
    // A result of another pipeline's form, outside of the slice, stays to be seen.
    pipeline.graph.nodes[pipeline.graph.index_of("merged")].params = {{"other", 1}};
    pipeline.run();
    CHECK(pipeline.states().at("merged") == "not selected");
    CHECK(pipeline.shows("merged"));
}

TEST_CASE("an input that is written to while a node reads it is told") {
    Pipeline pipeline;
    pipeline.add("a", "plain");
    pipeline.add("b", "plain", {"a"});
    behaviour = [](TaskContext& context) {
        if (context.node != "b") return;
        const fs::path file = context.input("in").folder / "out.txt";
        ::chmod(file.c_str(), 0644);
        std::ofstream(file, std::ios::app) << "more";
    };
    CHECK_THROWS_WITH(pipeline.run(), Catch::Contains("was changed while 'b' read it"));
}

TEST_CASE("two runs don't write to one directory") {
    Pipeline pipeline;
    pipeline.add("a", "plain");
    behaviour = [&](TaskContext&) {
        const std::string told = error_of([&] { RunLock second(pipeline.options.out); }, Code::kInvalid);
        CHECK(told.find("another run (process " + std::to_string(::getpid())) != std::string::npos);
    };
    pipeline.run();
    RunLock free(pipeline.options.out);
    // A folder that nobody's run made is left alone.
    pipeline.options.out = pipeline.folder.path / "mine";
    fs::create_directories(pipeline.options.out);
    std::ofstream(pipeline.options.out / "letter.txt") << "x";
    CHECK_THROWS_WITH(pipeline.run(), Catch::Contains("no earlier run made it"));
    CHECK(!fs::exists(pipeline.options.out / "run.lock"));
}

TEST_CASE("one node against a store") {
    Pipeline pipeline;
    pipeline.add("clips", "looks");
    pipeline.add("base", "plain", {"clips"});
    pipeline.add("merged", "plain", {"base"});
    Quiet quiet;
    auto node = [&](const char* id, const std::map<std::string, std::string>& given = {}) {
        return run_node(pipeline.graph, pipeline.registry, pipeline.options, pipeline.graph.index_of(id), given, quiet);
    };
    const std::string told = error_of([&] { node("merged"); }, Code::kRunFailed);
    CHECK(told.find("node merged: the input 'base' isn't in the store") != std::string::npos);
    CHECK(told.find("biophony run FILE --to 'base'") != std::string::npos);
    const Done base = node("base");
    CHECK(!base.cached);
    CHECK(node("base").cached);
    const Done merged = node("merged");
    // What is given is taken as it is: its own inputs aren't looked at.
    behaviour = [](TaskContext& context) {
        if (context.node == "clips") throw Error(Code::kRunFailed, "the disk is elsewhere");
    };
    CHECK_THROWS_AS(node("merged"), Error);
    const Done again = node("merged", {{"base", base.result.key}});
    CHECK(again.cached);
    CHECK(again.result.key == merged.result.key);
    CHECK_THROWS_WITH(node("merged", {{"basis", base.result.key}}), Catch::Contains("there is no node 'basis'"));
    CHECK_THROWS_WITH(node("merged", {{"base", "abc"}}), Catch::Contains("expected 64 hex digits"));
    // What somebody says is there is waited for.
    Cancel cancel;
    pipeline.options.cancel = &cancel;
    std::thread later([&] {
        std::this_thread::sleep_for(200ms);
        cancel.request();
    });
    CHECK_THROWS_WITH(node("merged", {{"base", std::string(64, 'a')}}), Catch::Contains("cancelled"));
    later.join();
}

TEST_CASE("launched programs: what they say, how they end") {
    Pipeline pipeline;
    pipeline.add("n[x]", "torch", {}, {{"a", 1}});
    auto ends = [&](const std::string& script) {
        pipeline.options.launch.prefix = {"/bin/sh", "-c", script, "sh"};
        pipeline.options.launch.program = "/opt/biophony";
        try {
            pipeline.run();
        } catch (const Error& error) {
            return "[" + std::to_string(static_cast<int>(error.code())) + "] " + error.what();
        }
        return std::string("ended well");
    };
    CHECK(ends("echo hello >&2; echo 'biophony: node n[x]: no sound' >&2; exit 3") == "[3] node n[x]: no sound");
    CHECK(pipeline.notes == "n[x]: hello\n");
    CHECK(ends("exit 7") == "[1] node n[x]: the launched program ended with status 7");
    CHECK(ends("kill -9 $$").find("[5] node n[x]: the launched program was ended by signal 9") == 0);
    CHECK(ends("echo nonsense").find("without telling the result's key") != std::string::npos);
    CHECK(ends("echo '{\"key\": \"ab12\"}'").find("made the key ab12…, expected") != std::string::npos);
    const fs::path arguments = pipeline.folder.path / "arguments";
    ends("printf '%s\\n' \"$@\" > " + arguments.string() + "; exit 1");
    std::istringstream words(read_file(arguments));
    std::vector<std::string> told;
    for (std::string word; std::getline(words, word);) told.push_back(word);
    REQUIRE(told.size() == 9);
    CHECK(told[2].starts_with((pipeline.options.store / "tmp").string()));
    CHECK(fs::path(told[2]).filename() == "pipeline.effective.json");
    told.erase(told.begin() + 2);
    CHECK(told == std::vector<std::string>{"/opt/biophony", "run-node", "n[x]", "--store",
                                           pipeline.options.store.string(), "--threads", "2", "--no-cache"});
    CHECK(fs::is_empty(pipeline.options.store / "tmp"));
    // A grandchild that stays behind and holds the pipes.
    const auto begin = std::chrono::steady_clock::now();
    CHECK(ends("sleep 8 & echo 'biophony: node n[x]: no sound' >&2; exit 3") == "[3] node n[x]: no sound");
    CHECK(std::chrono::steady_clock::now() - begin < 5s);
    pipeline.options.launch.prefix = {"/nowhere/srun"};
    CHECK_THROWS_WITH(pipeline.run(), Catch::Contains("ended with status 127"));
    // What is in the store is taken without launching anything.
    pipeline.options.launch.prefix.clear();
    pipeline.run();
    CHECK(ends("exit 7") == "ended well");
}

TEST_CASE("a launched program is ended by a cancel") {
    Pipeline pipeline;
    Cancel cancel;
    pipeline.options.cancel = &cancel;
    pipeline.options.launch.prefix = {"/bin/sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60", "sh"};
    pipeline.add("n", "plain");
    std::thread later([&] {
        std::this_thread::sleep_for(200ms);
        cancel.request();
    });
    const auto begin = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(pipeline.run(), Error);
    later.join();
    CHECK(std::chrono::steady_clock::now() - begin < 4s);
    CHECK(pipeline.states().at("n") == "cancelled");
}

TEST_CASE("many small nodes cost little") {
    Pipeline pipeline;
    pipeline.options.threads = 4;
    for (int i = 0; i < 300; ++i)
        pipeline.add("n" + std::to_string(i), "plain",
                     i < 4 ? std::vector<std::string>{} : std::vector{"n" + std::to_string(i - 4)});
    const auto begin = std::chrono::steady_clock::now();
    CHECK(pipeline.run().made == 300);
    const std::chrono::duration<double, std::milli> made = std::chrono::steady_clock::now() - begin;
    const auto middle = std::chrono::steady_clock::now();
    CHECK(pipeline.run().cached == 300);
    const std::chrono::duration<double, std::milli> cached = std::chrono::steady_clock::now() - middle;
    // On a quiet machine half of a millisecond, and a tenth. Syncing each by itself would take ten.
    CHECK(made.count() / 300 < 8);
    CHECK(cached.count() / 300 < 2);
    INFO("made " << made.count() / 300 << " ms a node, cached " << cached.count() / 300 << " ms");
    if (std::getenv("BPH_SHOW_TIMES") != nullptr)
        WARN("made " << made.count() / 300 << " ms a node; cached " << cached.count() / 300 << " ms");
}

TEST_CASE("named outputs are linked under their names, and follow the pipeline") {
    Pipeline p;
    p.add("a[bird]", "plain");
    p.add("a[x/y]", "plain");
    p.add("b", "plain", {"a[bird]"});
    p.graph.outputs = {{.name = "result", .nodes = {2}}, {.name = "parts", .nodes = {0, 1}, .many = true}};
    p.run();
    const fs::path outputs = p.options.out / "outputs";
    auto manifest = [&] { return read_json(p.options.out / "manifest.json").at("outputs"); };
    CHECK(manifest() == Json::parse(R"({"result": ["b"], "parts": ["a[bird]", "a[x/y]"]})"));
    CHECK(read_file(outputs / "result" / "out.txt") == read_file(p.options.out / "nodes" / "b" / "out.txt"));
    CHECK(fs::exists(outputs / "parts" / "a[bird]" / "out.txt"));
    CHECK(fs::exists(outputs / "parts" / "a[x%2Fy]" / "out.txt"));
    // Others now: a list where one was, fewer in the list, one name gone.
    p.graph.outputs = {{.name = "parts", .nodes = {1}, .many = true}, {.name = "other", .nodes = {0}}};
    p.run();
    CHECK(!fs::exists(outputs / "result"));
    CHECK(!fs::exists(outputs / "parts" / "a[bird]"));
    CHECK(fs::exists(outputs / "parts" / "a[x%2Fy]" / "out.txt"));
    p.graph.outputs = {{.name = "parts", .nodes = {1}}};
    p.run();
    CHECK(fs::exists(outputs / "parts" / "out.txt"));
    CHECK(!fs::exists(outputs / "parts" / "a[x%2Fy]"));
    CHECK(!fs::exists(outputs / "other"));
    p.graph.outputs.clear();
    p.run();
    CHECK((!fs::exists(outputs) || fs::is_empty(outputs)));
}
