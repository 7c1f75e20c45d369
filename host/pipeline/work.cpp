#include "pipeline/work.hpp"

#include "pipeline/key.hpp"

namespace biophony {

Error current_error() {
    try {
        throw;
    } catch (const Error& error) {
        return error;
    } catch (const fs::filesystem_error& error) {
        return Error(Code::kRunFailed, "can't read or write: " + error.code().message(),
                     {.file = error.path1().string()});
    } catch (const std::exception& error) {
        const std::string text = error.what();
        return Error(Code::kRunFailed, text.substr(0, text.find('\n')));
    } catch (...) {
        return Error(Code::kRunFailed, "an exception of no known type");
    }
}

Work::Work(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer,
           std::unique_ptr<Executor> executor)
    : graph_(graph),
      registry_(registry),
      options_(options),
      observer_(observer),
      store_(options.store),
      keys_(graph, registry, options.host, options.threads),
      executor_(std::move(executor)),
      done_(graph.nodes.size()) {
    if (executor_ == nullptr && !options.launch.prefix.empty()) {
        Launch launch = options.launch;
        launch.store = store_.root();
        launch.threads = options.threads;
        for_launched_ = store_.make_temporary();
        launch.pipeline = for_launched_ / "pipeline.effective.json";
        write_json(launch.pipeline, graph.effective);
        executor_ = std::make_unique<LaunchExecutor>(std::move(launch), store_);
    }
    if (executor_ == nullptr) executor_ = std::make_unique<LocalExecutor>(graph, registry, store_, options.threads);
}

Work::~Work() {
    std::error_code ignored;
    if (!for_launched_.empty()) fs::remove_all(for_launched_, ignored);
}

std::optional<std::string> Work::key_of(size_t i, Json& record) const {
    std::vector<std::vector<std::string>> digests;
    for (const auto& [port, sources] : graph_.nodes[i].inputs) {
        digests.emplace_back();
        for (const size_t source : sources) {
            if (!done_[source]) return std::nullopt;
            digests.back().push_back(done_[source]->result.digest);
        }
    }
    record = keys_.record(i, digests);
    return key_of_record(record);
}

bool Work::take(size_t i) {
    if (graph_.nodes[i].type->volatile_source || !options_.use_cache) return false;
    Json record;
    const auto key = key_of(i, record);
    return key && take(i, *key);
}

bool Work::take(size_t i, const std::string& key) {
    std::optional<StoredResult> found = store_.find(key);
    if (!found) return false;
    store_.used(*found);
    set(i, std::move(*found), true);
    return true;
}

bool Work::wait_for(size_t i, const std::string& key) {
    std::optional<StoredResult> found = store_.wait_for(key, options_.cancel);
    if (!found) return false;
    set(i, *std::move(found), true);
    return true;
}

void Work::set(size_t i, StoredResult result, bool cached) {
    Done done{.result = std::move(result), .cached = cached};
    for (const Json& file : done.result.record.value("skipped", Json::array()))
        done.skipped.push_back({file.at("file"), file.at("reason")});
    done_[i] = std::move(done);
}

Job Work::job_of(size_t i, std::string key, Json record) const {
    Job job{.node = &graph_.nodes[i], .key = std::move(key), .record = std::move(record), .cancel = options_.cancel};
    // Nodes that look at the world have no key of it; but what they were asked for is told, too.
    if (job.record.is_null()) key_of(i, job.record);
    for (const auto& [port, sources] : graph_.nodes[i].inputs)
        for (const size_t source : sources)
            job.inputs[port].push_back({graph_.nodes[source].id, &done_[source]->result});
    return job;
}

void Work::make(size_t i, const std::function<void(std::string_view)>& log,
                const std::function<void(std::string_view)>& note, std::string& headline) {
    Json record;
    std::string key = *key_of(i, record);
    if (graph_.nodes[i].type->volatile_source) key.clear();
    Job job = job_of(i, std::move(key), std::move(record));
    job.progress = &observer_.progress();
    job.log = log;
    job.note = note;
    set(i, executor_->execute(job), false);
    headline = done_[i]->result.record.value("headline", std::string());
}

}  // namespace biophony
