#include "pipeline/run.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <set>

#include "base/csv.hpp"
#include "base/schema.hpp"
#include "base/sha256.hpp"
#include "plugins/call.hpp"
#include "plugins/merger_traits.hpp"

namespace biophony {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::string now() {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                       fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

/// Parameters as they count for the key: a path stands for the file's content, wherever it lies.
Json params_for_key(const GraphNode& node) {
    Json params = node.params;
    auto schemas = {&node.type->parameters, node.item == nullptr ? nullptr : &node.item->parameters};
    for (const Json* schema : schemas) {
        if (schema == nullptr) continue;
        for (const auto& [pointer, path] : paths_that_must_exist(*schema, node.params, ""))
            if (fs::is_regular_file(path)) params[Json::json_pointer(pointer)] = "sha256:" + sha256_file(path);
    }
    return params;
}

/// The run's log: one JSON object a line, written as it happens.
class RunLog {
public:
    explicit RunLog(const fs::path& file) : out_(file, std::ios::trunc) {
        if (!out_) throw Error(Code::kRunFailed, "can't write", {.file = file.string()});
    }
    void line(std::string_view node, std::string_view event, std::string_view text) {
        out_ << Json{{"time", now()}, {"node", node}, {"event", event}, {"text", text}}.dump(
                    -1, ' ', false, Json::error_handler_t::replace)
             << std::endl;
    }

private:
    std::ofstream out_;
};

/// Links the result's files into `target`, or copies them where the file system can't link.
void expose(const StoredResult& result, const fs::path& target) {
    fs::remove_all(target);
    fs::create_directories(target);
    for (const Json& file : result.record.at("files")) {
        const fs::path from = result.folder / file.at("name").get<std::string>(),
                       to = target / file.at("name").get<std::string>();
        fs::create_directories(to.parent_path());
        std::error_code problem;
        fs::create_hard_link(from, to, problem);
        if (problem) fs::copy_file(from, to);
    }
}

/// Rows of metrics.csv: node, group, figure, value.
void add_metrics(const std::string& node, const Json& metrics, Json& all, std::string& rows) {
    all[node] = metrics;
    auto figures = [&](const std::string& group, const Json& entry) {
        for (const char* scope : {"within", "union"})
            for (const auto& [name, value] : entry.at(scope).items())
                rows += fmt::format("{},{},{}_{},{}\n", csv_field(node), csv_field(group), scope, name,
                                    value.is_null() ? std::string() : value.dump());
        rows += fmt::format("{},{},clips,{}\n", csv_field(node), csv_field(group), entry.at("clips").dump());
    };
    for (const auto& [group, entry] : metrics.at("groups").items()) figures(group, entry);
    figures("all", metrics.at("all"));
}

/// A node's folder in the run directory: its id as one path component. Ids may hold any axis value, so what a component
/// can't hold is written as %XX, and a long one ends in its hash.
std::string folder_name(const std::string& id) {
    std::string out;
    for (const char c : id) {
        if (c == '/' || c == '%' || (c == '.' && out.empty()))
            out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
        else
            out += c;
    }
    constexpr size_t kLongest = 200;
    return out.size() <= kLongest ? out : out.substr(0, kLongest - 18) + "~" + sha256_hex(id).substr(0, 16);
}

constexpr const char* kMarker = "biophony-run.txt";

struct Done {
    StoredResult result;
    bool cached = false;
    std::vector<SkippedFile> skipped;
};

class Runner {
public:
    Runner(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer)
        : graph_(graph),
          registry_(registry),
          options_(options),
          observer_(observer),
          store_(options.store),
          done_(graph.nodes.size()) {}

    const Store& store() const { return store_; }
    const std::vector<std::optional<Done>>& done() const { return done_; }

    /// The key of node i, if all of its inputs are done.
    std::optional<std::string> key_of(size_t i, Json& record) const {
        std::vector<std::vector<std::string>> digests;
        for (const auto& [port, sources] : graph_.nodes[i].inputs) {
            digests.emplace_back();
            for (const size_t source : sources) {
                if (!done_[source]) return std::nullopt;
                digests.back().push_back(done_[source]->result.digest);
            }
        }
        return node_key(graph_, graph_.nodes[i], digests, registry_, options_, record);
    }

    /// Takes the result from the store, if it is there.
    bool take(size_t i) {
        if (graph_.nodes[i].type->volatile_source || !options_.use_cache) return false;
        Json record;
        const auto key = key_of(i, record);
        if (!key) return false;
        std::optional<StoredResult> found = store_.find(*key);
        if (!found) return false;
        Done done{.result = std::move(*found), .cached = true};
        for (const Json& file : done.result.record.value("skipped", Json::array()))
            done.skipped.push_back({file.at("file"), file.at("reason")});
        done_[i] = std::move(done);
        return true;
    }

    /// Makes the result now.
    void make(size_t i, const std::function<void(std::string_view)>& log,
              const std::function<void(std::string_view)>& note, std::string& headline) {
        const GraphNode& node = graph_.nodes[i];
        Json record;
        const std::optional<std::string> key = key_of(i, record);
        TaskContext context;
        context.node = node.id;
        context.params = node.params;
        context.seed = node.seed;
        context.threads = options_.threads;
        context.item = node.item;
        context.registry = &registry_;
        for (const auto& [port, sources] : node.inputs)
            for (size_t s = 0; s < sources.size(); ++s) {
                const GraphNode& source = graph_.nodes[sources[s]];
                const StoredResult& input = done_[sources[s]]->result;
                if (verified_.insert(input.key).second) store_.verify(input);
                const auto names = node.names.find(port);
                context.inputs[port].push_back({source.id, source.output(), input.folder, input.digest,
                                                names == node.names.end() ? source.id : names->second.at(s)});
            }
        context.progress = &observer_.progress();
        context.cancel = options_.cancel;
        context.log = log;
        context.note = note;
        context.out = store_.make_temporary();
        try {
            const auto begin = Clock::now();
            {
                CrashContext crash(node.item == nullptr ? std::string() : node.item->name(), node.id);
                node.type->run(context);
            }
            Json skipped = Json::array();
            for (const SkippedFile& file : context.skipped)
                skipped.push_back({{"file", file.file}, {"reason", file.reason}});
            const Json about = {
                {"node", node.id},    {"type", node.type->name}, {"record", record}, {"headline", context.headline},
                {"skipped", skipped}, {"seconds", since(begin)}, {"finished", now()}};
            done_[i] = Done{.result = store_.put(context.out, node.type->volatile_source ? std::string() : *key, about),
                            .skipped = context.skipped};
            headline = context.headline;
        } catch (...) {
            std::error_code ignored;
            fs::remove_all(context.out, ignored);
            throw;
        }
    }

private:
    const Graph& graph_;
    const Registry& registry_;
    const RunOptions& options_;
    RunObserver& observer_;
    Store store_;
    std::vector<std::optional<Done>> done_;
    std::set<std::string> verified_;
};

/// LibTorch's and the C library's exceptions carry a stack after the first line.
std::string first_line(std::string_view text) {
    return std::string(text.substr(0, text.find('\n')));
}

/// The items that parameters name: every text that is an item's name, and for presets the items that they name.
void add_named_items(const Json& value, const Registry& registry, std::map<std::string, const ItemInfo*>& items) {
    if (value.is_string()) {
        const std::string text = value;
        const size_t colon = text.find(':');
        if (colon == std::string::npos) return;
        const ItemInfo* item = registry.find(text.substr(0, colon), text.substr(colon + 1));
        if (item == nullptr || !items.emplace(text, item).second) return;
        if (is_preset(*item)) add_named_items(item->raw["merger"]["preset"], registry, items);
    } else if (value.is_structured()) {
        for (const Json& inner : value) add_named_items(inner, registry, items);
    }
}

void add_encoders_upstream(const Graph& graph, const GraphNode& node, std::set<size_t>& seen,
                           std::map<std::string, const ItemInfo*>& items) {
    if (node.item != nullptr && node.item->kind == "encoder") items[node.item->name()] = node.item;
    for (const auto& [port, sources] : node.inputs)
        for (const size_t source : sources)
            if (seen.insert(source).second) add_encoders_upstream(graph, graph.nodes[source], seen, items);
}

/// The plugins whose code a node's result depends on.
std::map<std::string, const ItemInfo*> items_of(const Graph& graph, const GraphNode& node, const Registry& registry) {
    std::map<std::string, const ItemInfo*> items;
    if (node.item != nullptr) items[node.item->name()] = node.item;
    add_named_items(node.params, registry, items);
    std::set<size_t> seen;
    if (node.type->torch) add_encoders_upstream(graph, node, seen, items);
    return items;
}

Json lock_of(const Graph& graph, const Registry& registry) {
    Json plugins = Json::object();
    for (const GraphNode& node : graph.nodes)
        for (const auto& [name, item] : items_of(graph, node, registry))
            if (!plugins.contains(name))
                plugins[name] = {{"version", item->version},
                                 {"build", item->build},
                                 {"interface", item->interface_id},
                                 {"library", item->library.filename().string()},
                                 {"sha256", sha256_file(item->library)}};
    return plugins;
}

}  // namespace

std::string node_key(const Graph& graph, const GraphNode& node,
                     const std::vector<std::vector<std::string>>& input_digests, const Registry& registry,
                     const RunOptions& options, Json& record) {
    Json inputs = Json::object();
    size_t at = 0;
    for (const auto& [port, sources] : node.inputs) inputs[port] = input_digests.at(at++);
    record = {{"format", "biophony-key/0"},     {"type", node.type->name}, {"sources", node.type->sources},
              {"params", params_for_key(node)}, {"seed", node.seed},       {"inputs", inputs}};
    if (node.type->named) record["node"] = node.id;
    if (!node.names.empty()) record["names"] = node.names;
    record["plugins"] = Json::object();
    for (const auto& [name, item] : items_of(graph, node, registry)) record["plugins"][name] = item->build;
    if (node.type->torch)
        record["torch"] = {{"libtorch", options.host.libtorch},
                           {"device", "cpu"},
                           {"cpu", options.host.cpu_class},
                           {"threads", options.threads}};
    else if (node.type->uses_libtorch && node.type->uses_libtorch(node, registry))
        record["torch"] = {{"libtorch", options.host.libtorch}, {"device", "cpu"}, {"cpu", options.host.cpu_class}};
    return sha256_hex(canonical(record));
}

std::vector<PlannedNode> plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options,
                                    RunObserver& observer) {
    Runner runner(graph, registry, options, observer);
    observer.begin(graph.nodes.size());
    std::vector<PlannedNode> plan;
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
        const GraphNode& node = graph.nodes[i];
        PlannedNode planned{.node = &node};
        if (node.type->volatile_source) {
            observer.node_started(i, node);
            std::string headline;
            try {
                runner.make(
                    i, [](std::string_view) {}, [&](std::string_view line) { observer.note(node, line); }, headline);
            } catch (const Error& error) {
                throw error.within({.node = node.id});
            }
            planned.state = PlannedNode::State::kLooks;
            planned.reason = "looks at its files each time: " + headline;
            planned.key = runner.done()[i]->result.key;
        } else if (runner.take(i)) {
            planned.state = PlannedNode::State::kCached;
            planned.key = runner.done()[i]->result.key;
            planned.seconds = runner.done()[i]->result.record.value("seconds", 0.0);
            planned.reason = "result of " + runner.done()[i]->result.record.value("finished", std::string("?"));
        } else {
            Json record;
            if (const auto key = runner.key_of(i, record)) {
                planned.key = *key;
                planned.reason = options.use_cache ? "no result with this key yet" : "the cache is off";
            } else {
                std::vector<std::string> waits;
                for (const auto& [port, sources] : node.inputs)
                    for (const size_t source : sources)
                        if (!runner.done()[source]) waits.push_back(graph.nodes[source].id);
                planned.reason = fmt::format("waits for {}{}", waits.front(),
                                             waits.size() > 1 ? fmt::format(" and {} more", waits.size() - 1) : "");
            }
        }
        plan.push_back(std::move(planned));
    }
    return plan;
}

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
    Runner runner(graph, registry, options, observer);
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
    for (size_t i = 0; i < graph.nodes.size() && !failure; ++i) {
        const GraphNode& node = graph.nodes[i];
        try {
            if (options.cancel != nullptr) options.cancel->check();
            observer.node_started(i, node);
            const auto node_begin = Clock::now();
            std::string headline;
            const bool cached = runner.take(i);
            if (cached) {
                headline = runner.done()[i]->result.record.value("headline", std::string());
                seconds[i] = runner.done()[i]->result.record.value("seconds", 0.0);
                ++result.cached;
            } else {
                log.line(node.id, "started", node.type->name);
                runner.make(
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
            observer.node_finished(i, node, cached, seconds[i], headline);
            for (const SkippedFile& file : runner.done()[i]->skipped) {
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
        if (const auto& done = runner.done()[i]) {
            const fs::path target = out / "nodes" / folder_name(node.id);
            folders.insert(folder_name(node.id));
            if (node.output() == port::kMetrics || node.output() == port::kReport) runner.store().verify(done->result);
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
    if (failure) throw *failure;
    return result;
}

}  // namespace biophony
