#include "pipeline/executor.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include "base/files.hpp"
#include "pipeline/key.hpp"
#include "pipeline/times.hpp"
#include "plugins/call.hpp"

namespace biophony {

namespace {

/// What changes where somebody writes to a file of the result.
std::string stamp_of(const StoredResult& result) {
    std::string text;
    for (const Json& file : result.record.at("files")) {
        struct stat status {};
        if (::stat((result.folder / file.at("name").get_ref<const std::string&>()).c_str(), &status) != 0)
            text += "missing\n";
        else
            text += fmt::format("{} {}.{} {}\n", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec,
                                status.st_ino);
    }
    return text;
}

}  // namespace

void LocalExecutor::verify_once(const StoredResult& input) {
    std::promise<void> promise;
    std::shared_future<void> verified;
    {
        const std::lock_guard lock(mutex_);
        const auto [at, first] = seen_.try_emplace(input.key);
        if (first) {
            at->second = {stamp_of(input), promise.get_future().share()};
            verified = {};
        } else {
            verified = at->second.verified;
        }
    }
    if (verified.valid()) return verified.get();  // another node's, or this process made it
    try {
        store_.verify(input);
        promise.set_value();
    } catch (...) {
        promise.set_exception(std::current_exception());
        throw;
    }
}

void LocalExecutor::still_the_same(const StoredResult& input, const std::string& reader) {
    const std::lock_guard lock(mutex_);
    if (stamp_of(input) != seen_.at(input.key).files)
        throw Error(Code::kRunFailed, fmt::format("the result was changed while '{}' read it; run again", reader),
                    {.file = input.folder.string()});
}

StoredResult LocalExecutor::execute(const Job& job) {
    const GraphNode& node = *job.node;
    TaskContext context;
    context.node = node.id;
    context.params = node.params;
    context.seed = node.seed;
    context.threads = threads_;
    context.item = node.item;
    context.registry = &registry_;
    for (const auto& [port, sources] : node.inputs)
        for (size_t s = 0; s < sources.size(); ++s) {
            const GraphNode& source = graph_.nodes[sources[s]];
            const StoredResult& input = *job.inputs.at(port).at(s).result;
            verify_once(input);
            const auto names = node.names.find(port);
            context.inputs[port].push_back({source.id, source.output(), input.folder, input.digest,
                                            names == node.names.end() ? source.id : names->second.at(s)});
        }
    static const Cancel never;
    context.progress = job.progress;
    context.cancel = job.cancel == nullptr ? &never : job.cancel;
    context.log = job.log;
    context.note = job.note;
    context.out = store_.make_temporary();
    try {
        const auto begin = Clock::now();
        {
            const SyncLater later(context.out);  // the store syncs whole results
            CrashContext crash(node.item == nullptr ? std::string() : node.item->name(), node.id);
            node.type->run(context);
        }
        for (const auto& [port, inputs] : job.inputs)
            for (const JobInput& input : inputs) still_the_same(*input.result, node.id);
        if (job.record.contains("params") && params_for_key(node) != job.record["params"])
            throw Error(Code::kRunFailed,
                        "a file that a parameter names was changed while the node read it; run again");
        Json skipped = Json::array();
        for (const SkippedFile& file : context.skipped)
            skipped.push_back({{"file", file.file}, {"reason", file.reason}});
        const Json about = {
            {"node", node.id},    {"type", node.type->name}, {"record", job.record}, {"headline", context.headline},
            {"skipped", skipped}, {"seconds", since(begin)}, {"finished", now()}};
        StoredResult result = store_.put(context.out, job.key, about);
        // Hashed just now; from here on it is enough that nobody writes to it.
        std::promise<void> verified;
        verified.set_value();
        const std::lock_guard lock(mutex_);
        seen_.insert_or_assign(result.key, Seen{stamp_of(result), verified.get_future().share()});
        return result;
    } catch (...) {
        std::error_code ignored;
        fs::remove_all(context.out, ignored);
        throw;
    }
}

}  // namespace biophony
