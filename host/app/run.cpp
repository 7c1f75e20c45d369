#include <fmt/format.h>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/files.hpp"

namespace biophony::app {

int run_command(const std::vector<std::string>& arguments) {
    options::variables_map values;
    options::options_description more;
    add_format_option(more);
    if (!parse_pipeline(
            arguments, "run FILE [options]",
            "Runs a pipeline: every node whose result isn't there yet. Kill it at any time; the next run goes on.",
            true, values, more))
        return 0;
    format_of(values);
    int status = 0;
    const Registry registry = make_registry(values);
    const Graph graph = load_pipeline(values, registry, status);
    if (status != 0) return status;
    std::vector<std::string> command_line = {"run"};
    command_line.insert(command_line.end(), arguments.begin(), arguments.end());
    const RunOptions run = run_options(values, command_line);
    Console console;
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
    for (const fs::path& report : result.reports) fmt::print("\n{}", read_file(report));
    constexpr size_t kShown = 10;
    for (size_t i = 0; i < std::min(kShown, result.skipped.size()); ++i)
        fmt::print(stderr, "skipped {}: {}\n", result.skipped[i].file, result.skipped[i].reason);
    if (result.skipped.size() > kShown) fmt::print(stderr, "… and {} more\n", result.skipped.size() - kShown);
    if (!result.skipped.empty())
        fmt::print(stderr, "{} files were left out; all reasons are in {}\n", result.skipped.size(),
                   (run.out / "skipped.csv").string());
    fmt::print("\n{} nodes: {} made, {} cached, {:.1f} s; everything is in {}\n", graph.nodes.size(), result.made,
               result.cached, result.seconds, run.out.string());
    return result.skipped.empty() ? 0 : kSkippedFilesStatus;
}

}  // namespace biophony::app
