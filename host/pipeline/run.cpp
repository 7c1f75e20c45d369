#include "pipeline/run.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <set>

#include "base/csv.hpp"
#include "base/files.hpp"
#include "base/nearest.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/run_directory.hpp"
#include "pipeline/schedule.hpp"
#include "pipeline/times.hpp"
#include "pipeline/watchdog.hpp"
#include "pipeline/work.hpp"

namespace biophony {

namespace {

const char* name_of(NodeState state, bool cached) {
    switch (state) {
        case NodeState::kNotSelected: return "not selected";
        case NodeState::kTaken: return "taken";
        case NodeState::kWaiting: return "not run";
        case NodeState::kRunning:
        case NodeState::kCancelled: return "cancelled";
        case NodeState::kDone: return cached ? "cached" : "made";
        case NodeState::kFailed: return "failed";
        case NodeState::kBlocked: return "blocked";
    }
    return "unknown";
}

bool is_there(NodeState state) {
    return state == NodeState::kDone || state == NodeState::kTaken;
}

/// The nodes that `name` means: the one with this id, else all with this stem.
std::vector<size_t> nodes_called(const Graph& graph, const std::string& name, const char* option) {
    if (const size_t node = graph.index_of(name); node < graph.nodes.size()) return {node};
    std::vector<size_t> out;
    for (size_t i = 0; i < graph.nodes.size(); ++i)
        if (graph.nodes[i].stem == name) out.push_back(i);
    if (!out.empty()) return out;
    std::set<std::string> names;
    for (const GraphNode& node : graph.nodes) names.insert({node.stem, node.id});
    throw Error(Code::kInvalid, with_nearest(fmt::format("{}: there is no node '{}'", option, name), name,
                                             std::vector<std::string>(names.begin(), names.end())));
}

/// How long nodes took in the run that this directory had before.
std::map<std::string, double> earlier_seconds(const fs::path& out) {
    try {
        std::map<std::string, double> seconds;
        if (!fs::exists(out / "manifest.json")) return {};
        const Json manifest = read_json(out / "manifest.json");
        for (const Json& node : manifest.at("nodes"))
            if (node.contains("seconds")) seconds[node.at("id")] = node.at("seconds");
        return seconds;
    } catch (const std::exception&) {
        return {};  // an estimate is all that hangs on it
    }
}

/// One error for all that failed.
std::optional<Error> failure_of(const std::vector<NodeOutcome>& outcomes, bool cancelled) {
    std::vector<const Error*> errors;
    bool unfinished = false;
    for (const NodeOutcome& outcome : outcomes) {
        if (outcome.state == NodeState::kFailed) errors.push_back(&*outcome.error);
        unfinished = unfinished || outcome.state == NodeState::kWaiting || outcome.state == NodeState::kCancelled;
    }
    if (cancelled && unfinished && errors.empty()) return Error(Code::kCancelled, "cancelled");
    if (errors.empty()) return std::nullopt;
    if (errors.size() == 1 && !cancelled) return *errors.front();
    std::string text = cancelled ? "cancelled; before that, " : "";
    text += errors.size() == 1 ? "a node failed:" : fmt::format("{} nodes failed:", errors.size());
    for (const Error* error : errors) text += fmt::format("\n    {}", error->what());
    return Error(cancelled ? Code::kCancelled : errors.front()->code(), text);
}

/// A run with its directory.
class Run {
public:
    Run(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer)
        : graph_(graph),
          registry_(registry),
          options_(options),
          observer_(observer),
          selected_(selected_nodes(graph, options.slice)),
          out_(open_run_directory(options.out)),
          lock_(out_),
          outcomes_(graph.nodes.size()) {
        options_.launch.plugin_folders = registry.folders();
    }

    RunResult run() {
        // The manifest of a cancelled run takes a moment, too.
        constexpr double kForTheManifest = 0.35;  // seconds
        Watchdog watchdog(options_, kCancelSeconds + kForTheManifest, Error(Code::kCancelled, "cancelled"));
        Work work(graph_, registry_, options_, observer_);
        RunLog log;
        observer_.begin(static_cast<size_t>(std::count(selected_.begin(), selected_.end(), true)));
        take_outside(work, log);
        // What is refused is refused up to here, and leaves the directory as it was.
        std::optional<Schedule> schedule;
        try {
            const std::map<std::string, double> earlier = earlier_seconds(out_);
            begin_directory(log);
            for (size_t i = 0; i < graph_.nodes.size(); ++i)
                if (outcomes_[i].state == NodeState::kTaken) show(i, *work.done()[i]);
            schedule.emplace(
                graph_, registry_, options_, observer_, work, outcomes_,
                Schedule::Hooks{
                    .log = [&](size_t i, std::string_view event, std::string_view text,
                               const std::string& time) { log.line(graph_.nodes[i].id, event, text, time); },
                    .expose = [this](size_t i, const Done& done) { show(i, done); },
                    .looked = [&] { return can_work(work, log); },
                    .earlier = earlier});
            schedule->run();
        } catch (...) {
            schedule.reset();
            failure_ = current_error();
        }
        const bool cancelled = options_.cancel != nullptr && options_.cancel->requested();
        if (!failure_) failure_ = failure_of(outcomes_, cancelled);
        bool settled = true;
        try {
            settled = work.store().settle([&] { return watchdog.asked_for() > kCancelSeconds; });
        } catch (const Error& error) {
            // A result that couldn't be synced was taken away from those that read it: theirs are no failures of
            // their own. The manifest has them.
            failure_ = failure_ && failure_->code() == Code::kCancelled
                           ? Error(Code::kCancelled, fmt::format("cancelled; before that, {}", error.what()))
                           : error;
        }
        if (!settled && !failure_)
            failure_ = Error(Code::kCancelled, "cancelled while results were being brought to the disk");
        attempt([&] { log.check(); });
        RunResult result;
        try {
            result = describe(work);
        } catch (...) {
            if (!failure_) failure_ = current_error();
            // It may say that all went well.
            std::error_code ignored;
            fs::remove(out_ / "manifest.json", ignored);
        }
        if (!settled || (schedule && schedule->abandoned())) {
            watchdog.stop();
            if (options_.abandon) options_.abandon(*failure_);
        }
        if (!problems_.empty()) throw ProblemsError(problems_);
        if (failure_) throw *failure_;
        return result;
    }

private:
    /// Does it; what goes wrong is the run's failure, where nothing else was before.
    template <class Body>
    void attempt(Body&& body) {
        try {
            body();
        } catch (...) {
            if (!failure_) failure_ = current_error();
        }
    }

    /// The directory becomes this run's: from here until the manifest is written it has none, nor anything else that
    /// sums up an earlier run.
    void begin_directory(RunLog& log) {
        mark_run_directory(out_);
        for (const char* file : {"manifest.json", "metrics.json", "metrics.csv", "skipped.csv"})
            fs::remove(out_ / file);
        std::set<fs::path> kept;
        for (const GraphOutput& output : graph_.outputs)
            for (const size_t n : output.nodes)
                if (!selected_[n]) keep(output, n, kept);
        remove_other_outputs(kept);
        write_json(out_ / "pipeline.effective.json", graph_.effective);
        write_json(out_ / "lock.json", {{"format", "biophony-lock/0"},
                                        {"biophony", options_.host.version},
                                        {"libtorch", options_.host.libtorch},
                                        {"plugins", lock_of(graph_, registry_)}});
        log.open(out_ / "log.jsonl");
    }

    /// With the data sets looked at: whether nothing is known that can't work, and there is room for what is to be
    /// made.
    bool can_work(Work& work, RunLog& log) {
        try {
            std::vector<fs::path> results(graph_.nodes.size());
            std::vector<bool> there(graph_.nodes.size());
            for (size_t i = 0; i < graph_.nodes.size(); ++i) {
                if (options_.cancel != nullptr) options_.cancel->check();
                const bool done = work.done()[i].has_value() || (selected_[i] && work.take(i));
                there[i] = done || !selected_[i];
                if (done) results[i] = work.done()[i]->result.folder;
            }
            const GraphDescription described = describe_graph(graph_, registry_, results);
            problems_ = described.problems;
            if (!problems_.empty()) throw ProblemsError(problems_);
            if (const auto free = free_space(work.store().root()))
                require_space(bytes_to_make(described, there), *free, work.store().root());
            return true;
        } catch (...) {
            failure_ = current_error();
            log.line("", failure_->code() == Code::kCancelled ? "cancelled" : "failed", failure_->what(), now());
            return false;
        }
    }

    void show(size_t i, const Done& done) const {
        expose(done.result, out_ / "nodes" / folder_name(graph_.nodes[i].id));
    }

    /// Takes what the slice needs of the nodes outside of it, and of the others what is there anyway.
    void take_outside(Work& work, RunLog& log) {
        if (options_.slice.empty()) return;
        const std::vector<bool> needed = graph_.with_inputs(selected_);
        for (size_t i = 0; i < graph_.nodes.size(); ++i) {
            if (selected_[i]) continue;
            const GraphNode& node = graph_.nodes[i];
            outcomes_[i].state = NodeState::kNotSelected;
            if (options_.cancel != nullptr) options_.cancel->check();
            if (node.type->volatile_source) {
                if (needed[i]) look_at(i, work, log);
            } else {
                Json record;
                if (const auto key = work.key_of(i, record)) work.take(i, *key);
            }
            if (work.done()[i]) {
                outcomes_[i].state = NodeState::kTaken;
                outcomes_[i].seconds = work.done()[i]->result.record.value("seconds", 0.0);
                log.line(node.id, "taken", "", now());
            }
        }
        std::vector<bool> there(graph_.nodes.size());
        for (size_t i = 0; i < there.size(); ++i) there[i] = work.done()[i].has_value();
        if (const auto missing = missing_for(graph_, selected_, there)) throw *missing;
    }
    void look_at(size_t i, Work& work, RunLog& log) {
        const GraphNode& node = graph_.nodes[i];
        std::string headline;
        try {
            work.make(
                i, [&](std::string_view line) { log.line(node.id, "log", line, now()); },
                [&](std::string_view line) {
                    log.line(node.id, "note", line, now());
                    observer_.note(node, line);
                },
                headline);
        } catch (...) {
            throw current_error().within({.node = node.id});
        }
    }

    /// Writes what people read of the run, with what there is.
    RunResult describe(const Work& work) {
        RunResult result;
        Json nodes = Json::array(), metrics = Json::object();
        std::string metrics_rows = "node,group,figure,value\n", skipped_rows = "file,reason\n";
        std::set<std::string> folders;
        for (size_t i = 0; i < graph_.nodes.size(); ++i) {
            const GraphNode& node = graph_.nodes[i];
            const NodeOutcome& outcome = outcomes_[i];
            Json entry = {{"id", node.id},
                          {"use", node.use()},
                          {"implied", node.implied},
                          {"seed", node.seed},
                          {"params", node.params}};
            entry["in"] = graph_.input_ids(node);
            // Others' results: work on them may go on.
            const Done* done = is_there(outcome.state) ? &*work.done()[i] : nullptr;
            entry["state"] = name_of(outcome.state, done != nullptr && done->cached);
            if (done != nullptr) {
                const fs::path target = out_ / "nodes" / folder_name(node.id);
                folders.insert(folder_name(node.id));
                entry["key"] = done->result.key;
                entry["digest"] = done->result.digest;
                entry["files"] = done->result.record.at("files");
                entry["seconds"] = outcome.seconds;
                entry["finished"] = done->result.record.value("finished", "");
                entry["headline"] = done->result.record.value("headline", "");
                try {
                    if (node.output() == port::kMetrics || node.output() == port::kReport)
                        work.store().verify(done->result);
                    if (node.output() == port::kMetrics)
                        add_metrics(node.id, read_json(target / "metrics.json"), metrics, metrics_rows);
                } catch (...) {
                    if (!failure_) failure_ = current_error().within({.node = node.id});
                }
                if (outcome.state == NodeState::kDone) {
                    ++(done->cached ? result.cached : result.made);
                    result.skipped.insert(result.skipped.end(), done->skipped.begin(), done->skipped.end());
                    if (!node.type->shown.empty() && fs::exists(target / node.type->shown))
                        result.reports.push_back(target / node.type->shown);
                }
            } else if (outcome.state == NodeState::kNotSelected) {
                folders.insert(folder_name(node.id));  // an earlier run's, if it is there
            } else if (outcome.error) {
                entry["error"] = outcome.error->what();
            } else if (outcome.state == NodeState::kBlocked) {
                entry["error"] = fmt::format("waits for {}, which failed", graph_.nodes[outcome.blocked_by].id);
            }
            if (!selected_[i]) ++result.left_out;
            nodes.push_back(std::move(entry));
        }
        // Nodes of an earlier form of the pipeline are no part of this run.
        std::error_code ignored;
        for (const auto& entry : fs::directory_iterator(out_ / "nodes", ignored))
            if (!folders.contains(entry.path().filename().string())) fs::remove_all(entry.path(), ignored);
        Json outputs = Json::object();
        attempt([&] { show_outputs(work, outputs); });
        for (const SkippedFile& file : result.skipped)
            skipped_rows += csv_field(file.file) + "," + csv_field(file.reason) + "\n";
        attempt([&] {
            write_json(out_ / "metrics.json", metrics);
            write_file_atomically(out_ / "metrics.csv", metrics_rows);
            write_file_atomically(out_ / "skipped.csv", skipped_rows);
        });
        result.seconds = since(begin_);
        utsname system{};
        ::uname(&system);
        Json selected = nullptr;
        if (!options_.slice.empty())
            selected = {{"to", options_.slice.to}, {"from", options_.slice.from}, {"only", options_.slice.only}};
        write_json(out_ / "manifest.json",
                   {{"format", "biophony-run/0"},
                    {"name", graph_.name},
                    {"started", started_},
                    {"seconds", result.seconds},
                    {"state", !failure_                              ? "finished"
                              : failure_->code() == Code::kCancelled ? "cancelled"
                                                                     : "failed"},
                    {"error", failure_ ? Json(failure_->what()) : Json(nullptr)},
                    {"selected", selected},
                    {"command_line", options_.command_line},
                    {"environment",
                     {{"biophony", options_.host.version},
                      {"libtorch", options_.host.libtorch},
                      {"cpu", options_.host.cpu_class},
                      {"threads", options_.threads},
                      {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)}}},
                    {"store", work.store().root().string()},
                    {"outputs", outputs},
                    {"nodes", nodes}});
        return result;
    }

    /// Links the results that the pipeline names under outputs/. `outputs` gets the ids behind each name.
    void show_outputs(const Work& work, Json& outputs) {
        std::set<fs::path> kept;
        for (const GraphOutput& output : graph_.outputs) {
            outputs[output.name] = Json::array();
            for (const size_t n : output.nodes) outputs[output.name].push_back(graph_.nodes[n].id);
        }
        for (const GraphOutput& output : graph_.outputs)
            for (const size_t n : output.nodes) {
                // As in nodes/, what an earlier run left of nodes outside of the selected part stays.
                const bool there = is_there(outcomes_[n].state);
                if (there) expose(work.done()[n]->result, output_folder(output, n));
                if (there || outcomes_[n].state == NodeState::kNotSelected) keep(output, n, kept);
            }
        remove_other_outputs(kept);
    }
    fs::path output_folder(const GraphOutput& output, size_t n) const {
        const fs::path named = out_ / "outputs" / output.name;
        return output.many ? named / folder_name(graph_.nodes[n].id) : named;
    }
    void keep(const GraphOutput& output, size_t n, std::set<fs::path>& kept) const {
        kept.insert({out_ / "outputs" / output.name, output_folder(output, n)});
    }
    void remove_other_outputs(const std::set<fs::path>& kept) const {
        auto remove_others = [&](const fs::path& from) {
            std::error_code ignored;
            for (const auto& entry : fs::directory_iterator(from, ignored))
                if (!kept.contains(entry.path())) fs::remove_all(entry.path(), ignored);
        };
        remove_others(out_ / "outputs");
        for (const GraphOutput& output : graph_.outputs)
            if (output.many) remove_others(out_ / "outputs" / output.name);
    }

    const Clock::time_point begin_ = Clock::now();
    const std::string started_ = now();
    const Graph& graph_;
    const Registry& registry_;
    RunOptions options_;
    RunObserver& observer_;
    std::vector<bool> selected_;
    fs::path out_;
    RunLock lock_;
    std::vector<NodeOutcome> outcomes_;
    std::optional<Error> failure_;
    std::vector<Diagnostic> problems_;  ///< where that is what failed
};

}  // namespace

std::vector<bool> selected_nodes(const Graph& graph, const Slice& slice) {
    const size_t count = graph.nodes.size();
    if (slice.empty()) return std::vector<bool>(count, true);
    std::vector<bool> to(count, slice.to.empty()), from(count, slice.from.empty()), only(count, false);
    for (const std::string& name : slice.to)
        for (const size_t node : nodes_called(graph, name, "--to")) to[node] = true;
    for (const std::string& name : slice.from)
        for (const size_t node : nodes_called(graph, name, "--from")) from[node] = true;
    for (const std::string& name : slice.only)
        for (const size_t node : nodes_called(graph, name, "--only")) only[node] = true;
    to = graph.with_inputs(std::move(to));
    for (size_t i = 0; i < count; ++i)  // every node stands behind its inputs
        for (const auto& [port, sources] : graph.nodes[i].inputs)
            for (const size_t source : sources) from[i] = from[i] || from[source];
    const bool between = !slice.to.empty() || !slice.from.empty();
    std::vector<bool> selected(count);
    for (size_t i = 0; i < count; ++i) selected[i] = only[i] || (between && to[i] && from[i]);
    if (std::find(selected.begin(), selected.end(), true) == selected.end())
        throw Error(Code::kInvalid, "--from and --to: nothing lies between");
    return selected;
}

std::optional<Error> missing_for(const Graph& graph, const std::vector<bool>& selected,
                                 const std::vector<bool>& there) {
    std::vector<bool> is_missing(graph.nodes.size(), false);
    std::vector<std::string> missing;
    std::set<std::string> wanting;
    for (size_t i = 0; i < graph.nodes.size(); ++i)
        if (selected[i])
            for (const auto& [port, sources] : graph.nodes[i].inputs)
                for (const size_t source : sources)
                    if (!selected[source] && !there[source]) {
                        is_missing[source] = true;
                        wanting.insert(graph.nodes[i].id);
                    }
    for (size_t i = 0; i < graph.nodes.size(); ++i)
        if (is_missing[i]) missing.push_back(graph.nodes[i].id);
    if (missing.empty()) return std::nullopt;
    constexpr size_t kShown = 4;
    std::string list, options;
    for (size_t m = 0; m < std::min(kShown, missing.size()); ++m) list += (m == 0 ? "" : ", ") + missing[m];
    if (missing.size() > kShown) list += fmt::format(" and {} more", missing.size() - kShown);
    // --to the users makes all that they need.
    const std::vector<std::string> ways =
        missing.size() > kShown ? std::vector<std::string>(wanting.begin(), wanting.end()) : missing;
    for (size_t w = 0; w < std::min(kShown, ways.size()); ++w) options += fmt::format(" --to '{}'", ways[w]);
    return Error(Code::kInvalid,
                 fmt::format("the selected nodes need results that aren't there: {}; make them first, with{}{}", list,
                             options, ways.size() > kShown ? " …" : ""));
}

RunResult run_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer) {
    return Run(graph, registry, options, observer).run();
}

}  // namespace biophony
