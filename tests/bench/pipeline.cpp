// For tests/bench/pipeline.sh: what running a node costs beside its work, and what that can't go below.
//
//   bench_pipeline make NODES WIDTH FOLDER     makes and runs WIDTH chains of NODES trivial nodes in all, one job a
//                                              time; prints seconds: to check the text, to make everything, to run
//                                              again with everything cached
//   bench_pipeline floor NODES FOLDER          for each node, a file of the same size: written, synced, renamed, read
//                                              back and hashed; prints the seconds
//
// A trivial node writes 4 KiB that depend on its parameter, so that all results differ, and reads nothing.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "../pipeline/quiet.hpp"
#include "base/files.hpp"
#include "base/sha256.hpp"
#include "pipeline/run.hpp"

namespace {

using namespace biophony;

constexpr size_t kBytes = 4096;

std::string content(int64_t number) {
    std::string text;
    while (text.size() < kBytes) text += fmt::format("{:015}\n", number);
    return text;
}

NodeTypes types() {
    NodeTypes all;
    all.add({.name = "trivial",
             .inputs = {{.name = "from", .types = {"trivial"}, .many = true, .required = false}},
             .output = "trivial",
             .parameters = Json::parse(R"({"type": "object", "properties": {"number": {"type": "integer"}}})"),
             .sources = "trivial",
             .run = [](TaskContext& context) {
                 write_file_atomically(context.out / "content.txt",
                                       content(context.params.at("number").get<int64_t>()));
             }});
    return all;
}

std::string pipeline(size_t nodes, size_t width) {
    Json text = {{"biophony", 1}, {"nodes", Json::object()}};
    for (size_t i = 0; i < nodes; ++i) {
        Json& node = text["nodes"][fmt::format("n{:06}", i)] = {{"use", "trivial"}, {"with", {{"number", i}}}};
        if (i >= width) node["in"] = {{"from", fmt::format("n{:06}", i - width)}};
    }
    return text.dump(1);
}

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

int make(size_t nodes, size_t width, const fs::path& folder) {
    const NodeTypes known = types();
    const Registry registry = Registry::of({});
    std::vector<Diagnostic> problems;
    auto begin = Clock::now();
    const Graph graph = make_graph(pipeline(nodes, width), folder / "pipeline.json", {}, known, registry, problems);
    const double checked = since(begin);
    for (const Diagnostic& problem : problems) fmt::print(stderr, "{}\n", problem.text());
    if (!problems.empty()) return 1;
    Quiet observer;
    RunOptions options{.out = folder / "run", .store = folder / "store"};
    begin = Clock::now();
    RunResult result = run_graph(graph, registry, options, observer);
    const double made = since(begin);
    if (result.made != nodes) return 1;
    begin = Clock::now();
    result = run_graph(graph, registry, options, observer);
    if (result.cached != nodes) return 1;
    fmt::print("{:.6f} {:.6f} {:.6f}\n", checked, made, since(begin));
    return 0;
}

int floor_of(size_t nodes, const fs::path& folder) {
    fs::create_directories(folder);
    const auto begin = Clock::now();
    for (size_t i = 0; i < nodes; ++i) {
        const fs::path file = folder / fmt::format("n{:06}", i);
        write_file_atomically(file, content(static_cast<int64_t>(i)));
        if (sha256_file(file).empty()) return 1;
    }
    fmt::print("{:.6f}\n", since(begin));
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    try {
        if (arguments.size() == 4 && arguments[0] == "make")
            return make(std::stoul(arguments[1]), std::stoul(arguments[2]), arguments[3]);
        if (arguments.size() == 3 && arguments[0] == "floor") return floor_of(std::stoul(arguments[1]), arguments[2]);
    } catch (const std::exception& error) {
        fmt::print(stderr, "{}\n", error.what());
        return 1;
    }
    fmt::print(stderr, "Usage: bench_pipeline make NODES WIDTH FOLDER | floor NODES FOLDER\n");
    return 2;
}
