#include "pipeline/run.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <set>

#include "base/csv.hpp"
#include "base/files.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/run_directory.hpp"
#include "pipeline/times.hpp"
#include "pipeline/work.hpp"

namespace biophony {

namespace {

constexpr const char* kMarker = "biophony-run.txt";

/// LibTorch's and the C library's exceptions carry a stack after the first line.
std::string first_line(std::string_view text) {
    return std::string(text.substr(0, text.find('\n')));
}

/// With the data sets looked at: what can't work, and whether there is room for what is to be made. Takes what is in
/// the store already. Throws ProblemsError, Error.
void check_before_work(const Graph& graph, const Registry& registry, const RunOptions& options, Work& work) {
    std::vector<fs::path> results(graph.nodes.size());
    std::vector<bool> there(graph.nodes.size());
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
        there[i] = work.done()[i].has_value() || work.take(i);
        if (there[i]) results[i] = work.done()[i]->result.folder;
    }
    const GraphDescription described = describe_graph(graph, registry, results);
    if (!described.problems.empty()) throw ProblemsError(described.problems);
    if (const auto free = free_space(work.store().root()))
        require_space(bytes_to_make(described, there), *free, work.store().root());
}

}  // namespace

RunResult run_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer) {
    const auto begin = Clock::now();
    const std::string started = now();
    std::error_code problem;
    fs::create_directories(options.out, problem);
    if (problem) {
        errno = problem.value();
        throw_errno("make the run directory", options.out);
    }
    const fs::path out = fs::canonical(options.out);
    // Only a folder that a run made, or an empty one, is written to: everything below nodes/ is replaced.
    if (!fs::is_empty(out) && !fs::exists(out / kMarker))
        throw Error(
            Code::kInvalid,
            fmt::format(
                "the folder is not empty, and no earlier run made it (it lacks the file '{}'); choose another --out",
                kMarker),
            {.file = out.string()});
    write_file_atomically(out / kMarker,
                          "A biophony run directory; docs/formats/run-directory.md says what is in it.\n");
    Work work(graph, registry, options, observer);
    write_json(out / "pipeline.effective.json", graph.effective);
    const Json plugins = lock_of(graph, registry);
    write_json(out / "lock.json", {{"format", "biophony-lock/0"},
                                   {"biophony", options.host.version},
                                   {"libtorch", options.host.libtorch},
                                   {"plugins", plugins}});
    RunLog log(out / "log.jsonl");

    RunResult result;
    observer.begin(graph.nodes.size());
    std::optional<Error> failure;
    std::vector<double> seconds(graph.nodes.size(), 0);
    std::vector<Diagnostic> problems;
    size_t looking = 0;
    const std::vector<size_t> order = looking_first(graph, looking);
    for (size_t turn = 0; turn < order.size() && !failure; ++turn) {
        if (turn == looking) {
            try {
                check_before_work(graph, registry, options, work);
            } catch (const ProblemsError& error) {
                failure = error;
                problems = error.problems();
            } catch (const Error& error) {
                failure = error;
            }
            if (failure) {
                log.line("", "failed", failure->what());
                break;
            }
        }
        const size_t i = order[turn];
        const GraphNode& node = graph.nodes[i];
        try {
            if (options.cancel != nullptr) options.cancel->check();
            observer.node_started(turn, node);
            const auto node_begin = Clock::now();
            std::string headline;
            const bool cached = work.done()[i].has_value() || work.take(i);
            if (cached) {
                headline = work.done()[i]->result.record.value("headline", std::string());
                seconds[i] = work.done()[i]->result.record.value("seconds", 0.0);
                ++result.cached;
            } else {
                log.line(node.id, "started", node.type->name);
                work.make(
                    i, [&](std::string_view line) { log.line(node.id, "log", line); },
                    [&](std::string_view line) {
                        log.line(node.id, "note", line);
                        observer.note(node, line);
                    },
                    headline);
                seconds[i] = since(node_begin);
                ++result.made;
            }
            log.line(node.id, cached ? "cached" : "finished", headline);
            observer.node_finished(turn, node, cached, seconds[i], headline);
            for (const SkippedFile& file : work.done()[i]->skipped) {
                result.skipped.push_back(file);
                log.line(node.id, "skipped", file.file + ": " + file.reason);
            }
        } catch (const Error& error) {
            failure = error.within({.node = node.id});
        } catch (const std::exception& error) {
            failure = Error(Code::kRunFailed, first_line(error.what()), {.node = node.id});
        }
        if (failure) log.line(node.id, "failed", failure->what());
    }

    // The run directory, with what there is.
    Json nodes = Json::array(), metrics = Json::object();
    std::string metrics_rows = "node,group,figure,value\n", skipped_rows = "file,reason\n";
    std::set<std::string> folders;
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
        const GraphNode& node = graph.nodes[i];
        Json entry = {{"id", node.id},
                      {"use", node.item == nullptr ? node.type->name : node.item->name()},
                      {"implied", node.implied},
                      {"seed", node.seed},
                      {"params", node.params}};
        Json inputs = Json::object();
        for (const auto& [port, sources] : node.inputs) {
            inputs[port] = Json::array();
            for (const size_t source : sources) inputs[port].push_back(graph.nodes[source].id);
        }
        entry["in"] = inputs;
        if (const auto& done = work.done()[i]) {
            const fs::path target = out / "nodes" / folder_name(node.id);
            folders.insert(folder_name(node.id));
            if (node.output() == port::kMetrics || node.output() == port::kReport) work.store().verify(done->result);
            expose(done->result, target);
            entry["state"] = done->cached ? "cached" : "made";
            entry["key"] = done->result.key;
            entry["digest"] = done->result.digest;
            entry["files"] = done->result.record.at("files");
            entry["seconds"] = seconds[i];
            entry["finished"] = done->result.record.value("finished", "");
            entry["headline"] = done->result.record.value("headline", "");
            if (node.output() == port::kMetrics)
                add_metrics(node.id, read_json(target / "metrics.json"), metrics, metrics_rows);
            if (!node.type->shown.empty() && fs::exists(target / node.type->shown))
                result.reports.push_back(target / node.type->shown);
        } else {
            entry["state"] = failure && failure->where().node == node.id ? "failed" : "not run";
        }
        nodes.push_back(std::move(entry));
    }
    // Nodes of an earlier form of the pipeline are no part of this run.
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(out / "nodes", ignored))
        if (!folders.contains(entry.path().filename().string())) fs::remove_all(entry.path(), ignored);
    for (const SkippedFile& file : result.skipped)
        skipped_rows += csv_field(file.file) + "," + csv_field(file.reason) + "\n";
    write_json(out / "metrics.json", metrics);
    write_file_atomically(out / "metrics.csv", metrics_rows);
    write_file_atomically(out / "skipped.csv", skipped_rows);
    result.seconds = since(begin);
    utsname system{};
    ::uname(&system);
    write_json(out / "manifest.json",
               {{"format", "biophony-run/0"},
                {"name", graph.name},
                {"started", started},
                {"seconds", result.seconds},
                {"state", !failure                              ? "finished"
                          : failure->code() == Code::kCancelled ? "cancelled"
                                                                : "failed"},
                {"error", failure ? Json(failure->what()) : Json(nullptr)},
                {"command_line", options.command_line},
                {"environment",
                 {{"biophony", options.host.version},
                  {"libtorch", options.host.libtorch},
                  {"cpu", options.host.cpu_class},
                  {"threads", options.threads},
                  {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)}}},
                {"store", fs::absolute(options.store).lexically_normal().string()},
                {"nodes", nodes}});
    if (!problems.empty()) throw ProblemsError(problems);
    if (failure) throw *failure;
    return result;
}

}  // namespace biophony
