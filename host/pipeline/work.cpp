#include "pipeline/work.hpp"

#include <chrono>

#include "base/files.hpp"
#include "pipeline/key.hpp"
#include "pipeline/times.hpp"
#include "plugins/call.hpp"

namespace biophony {

std::optional<std::string> Work::key_of(size_t i, Json& record) const {
    std::vector<std::vector<std::string>> digests;
    for (const auto& [port, sources] : graph_.nodes[i].inputs) {
        digests.emplace_back();
        for (const size_t source : sources) {
            if (!done_[source]) return std::nullopt;
            digests.back().push_back(done_[source]->result.digest);
        }
    }
    return node_key(graph_, graph_.nodes[i], digests, registry_, options_.host, options_.threads, record);
}

bool Work::take(size_t i) {
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

void Work::make(size_t i, const std::function<void(std::string_view)>& log,
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

}  // namespace biophony
