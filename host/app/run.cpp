#include <fmt/format.h>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/files.hpp"

namespace biophony::app {

namespace {

void add_schedule_options(options::options_description& described) {
    add_format_option(described);
    described.add_options()("out", options::value<std::string>()->value_name("DIR"),
                            "the run directory; runs/NAME of the pipeline's file where it isn't given");
    described.add_options()(
        "jobs", options::value<int>()->value_name("N"),
        "nodes at a time, 1 = one after another; a torch node and a few others where it isn't given. "
        "Results don't depend on it");
    described.add_options()("keep-going", "where a node fails, go on with all that doesn't depend on it");
    add_slice_options(described);
    described.add_options()("launch", options::value<std::string>()->value_name("COMMAND"),
                            "run each node as COMMAND biophony run-node …, such as \"srun -c 4\"; the store must be "
                            "seen from where it runs");
}

void read_schedule_options(const options::variables_map& values, RunOptions& run) {
    run.slice = slice_of(values);
    run.keep_going = values.count("keep-going") > 0;
    if (values.count("jobs") > 0) {
        const int jobs = values["jobs"].as<int>();
        if (jobs < 1 || jobs > 1024)
            throw Error(Code::kInvalid, fmt::format("--jobs: found {}, expected a number from 1 to 1024", jobs));
        run.jobs = static_cast<unsigned>(jobs);
    }
    if (values.count("launch") > 0) {
        run.launch.prefix = options::split_unix(values["launch"].as<std::string>());
        run.launch.program = fs::read_symlink("/proc/self/exe");
        if (run.launch.prefix.empty()) throw Error(Code::kInvalid, "--launch: found nothing, expected a command");
    }
}

/// docs/formats/schemas/run.schema.json
void print_result(const RunResult& result, const Graph& graph, const fs::path& out) {
    Json outputs = Json::object(), reports = Json::array(), skipped = Json::array();
    for (const GraphOutput& output : graph.outputs)
        if (const fs::path folder = out / "outputs" / output.name; fs::exists(folder))
            outputs[output.name] = folder.string();
    for (const fs::path& report : result.reports) reports.push_back(report.string());
    for (const SkippedFile& file : result.skipped) skipped.push_back({{"file", file.file}, {"reason", file.reason}});
    const Json told = {{"format", "biophony-run-result/0"},
                       {"state", "finished"},
                       {"nodes", graph.nodes.size()},
                       {"made", result.made},
                       {"cached", result.cached},
                       {"not_selected", result.left_out},
                       {"skipped", skipped},
                       {"seconds", result.seconds},
                       {"out", out.string()},
                       {"outputs", outputs},
                       {"reports", reports}};
    print_json(told);
}

}  // namespace

int run_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    add_schedule_options(more);
    if (!parse_pipeline(
            arguments, "run FILE [options]",
            "Runs a pipeline: every node whose result isn't there yet. Kill it at any time; the next run goes on.",
            true, values, more))
        return 0;
    const std::string format = format_of(values);
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    std::vector<std::string> command_line = {"run"};
    command_line.insert(command_line.end(), arguments.begin(), arguments.end());
    RunOptions run = run_options(values, command_line);
    read_schedule_options(values, run);
    Console console;
    run.abandon = [&console](const Error& error) {
        console.clear();
        leave(error);
    };
    RunResult result;
    try {
        result = run_graph(graph, registry, run, console);
    } catch (const ProblemsError& error) {
        console.clear();
        print_problems(error.problems(), values);
        return static_cast<int>(error.code());
    } catch (...) {
        console.clear();
        throw;
    }
    console.clear();
    if (format == "json") {
        print_result(result, graph, fs::absolute(run.out));
        return result.skipped.empty() ? 0 : kSkippedFilesStatus;
    }
    for (const fs::path& report : result.reports) fmt::print("\n{}", read_file(report));
    constexpr size_t kShown = 10;
    for (size_t i = 0; i < std::min(kShown, result.skipped.size()); ++i)
        fmt::print(stderr, "skipped {}: {}\n", result.skipped[i].file, result.skipped[i].reason);
    if (result.skipped.size() > kShown) fmt::print(stderr, "… and {} more\n", result.skipped.size() - kShown);
    if (!result.skipped.empty())
        fmt::print(stderr, "{} files were left out; all reasons are in {}\n", result.skipped.size(),
                   (run.out / "skipped.csv").string());
    fmt::print("\n{} nodes: {} made, {} cached, {}{:.1f} s; everything is in {}\n", graph.nodes.size(), result.made,
               result.cached, result.left_out > 0 ? fmt::format("{} not selected, ", result.left_out) : "",
               result.seconds, run.out.string());
    return result.skipped.empty() ? 0 : kSkippedFilesStatus;
}

}  // namespace biophony::app
