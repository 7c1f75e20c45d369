#include "pipeline/run_node.hpp"

#include <fmt/format.h>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/nearest.hpp"
#include "pipeline/times.hpp"

namespace biophony::app {

namespace {

using Texts = std::vector<std::string>;

void add_node_options(options::options_description& described) {
    described.add_options()("_second", options::value<std::string>()->required(), "");
    described.add_options()("given", options::value<Texts>()->value_name("NODE=KEY")->composing(),
                            "an input's result, by its key in the store; may be given several times");
}

/// Ids have equals signs where axis values do; keys have none.
std::map<std::string, std::string> given_results(const options::variables_map& values) {
    std::map<std::string, std::string> given;
    if (values.count("given") == 0) return given;
    for (const std::string& text : values["given"].as<Texts>()) {
        const size_t at = text.rfind('=');
        if (at == std::string::npos || at == 0)
            throw Error(Code::kInvalid, fmt::format("--given: found '{}', expected NODE=KEY", text));
        given[text.substr(0, at)] = text.substr(at + 1);
    }
    return given;
}

}  // namespace

int run_node_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    add_node_options(more);
    if (!parse_pipeline(arguments, "run-node FILE NODE [options]",
                        "Runs one node: takes its inputs from the store, puts its result there, and prints one line of "
                        "JSON: node, key, digest, state (cached or made) and seconds. Data sets among its inputs are "
                        "looked at.",
                        true, values, more))
        return 0;
    int status = 0;
    const auto given = given_results(values);
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    const std::string name = values["_second"].as<std::string>();
    const size_t index = graph.index_of(name);
    if (index == graph.nodes.size()) {
        std::vector<std::string> names;
        for (const GraphNode& node : graph.nodes) names.push_back(node.id);
        throw Error(Code::kInvalid, with_nearest(fmt::format("there is no node '{}'", name), name, names));
    }
    RunOptions run = run_options(values, {});
    Console console;
    run.abandon = [](const Error& error) { leave(error); };
    console.begin(1);
    const auto begin = Clock::now();
    std::optional<Done> done;
    try {
        done = run_node(graph, registry, run, index, given, console);
    } catch (...) {
        console.clear();
        throw;
    }
    console.clear();
    for (const SkippedFile& file : done->skipped) fmt::print(stderr, "skipped {}: {}\n", file.file, file.reason);
    const Json told = {{"node", name},
                       {"key", done->result.key},
                       {"digest", done->result.digest},
                       {"state", done->cached ? "cached" : "made"},
                       {"seconds", done->cached ? done->result.record.value("seconds", 0.0) : since(begin)}};
    print_json(told, -1);
    return done->skipped.empty() ? 0 : kSkippedFilesStatus;
}

}  // namespace biophony::app
