#include "pipeline/run_node.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "base/nearest.hpp"
#include "pipeline/schedule.hpp"
#include "pipeline/watchdog.hpp"

namespace biophony {

namespace {

class OneNode {
public:
    OneNode(const Graph& graph, const Registry& registry, const RunOptions& options,
            const std::map<std::string, std::string>& given, RunObserver& observer)
        : graph_(graph), observer_(observer), given_(given), work_(graph, registry, options, observer) {
        std::vector<std::string> names;
        for (const GraphNode& node : graph.nodes) names.push_back(node.id);
        for (const auto& [node, key] : given) {
            if (graph.index_of(node) == graph.nodes.size())
                throw Error(Code::kInvalid,
                            with_nearest(fmt::format("--given: there is no node '{}'", node), node, names));
            constexpr size_t kDigits = 64;
            if (key.size() != kDigits || key.find_first_not_of("0123456789abcdef") != std::string::npos)
                throw Error(
                    Code::kInvalid,
                    fmt::format("--given: found '{}' as the key of '{}', expected {} hex digits", key, node, kDigits));
        }
    }

    Done run(size_t i, bool use_cache) {
        const GraphNode& node = graph_.nodes[i];
        for (const auto& [port, sources] : node.inputs)
            for (const size_t source : sources) bring(source, node.id);
        Json record;
        const std::string key = node.type->volatile_source ? std::string() : *work_.key_of(i, record);
        if (!use_cache || key.empty() || !work_.take(i, key)) make(i);
        work_.store().settle();
        return *work_.done()[i];
    }

private:
    /// Node i's result, an input of `user`.
    void bring(size_t i, const std::string& user) {
        if (work_.done()[i]) return;
        const GraphNode& node = graph_.nodes[i];
        std::string key;
        if (const auto known = given_.find(node.id); known != given_.end()) {
            key = known->second;
        } else if (node.type->volatile_source) {
            return make(i);
        } else {
            for (const auto& [port, sources] : node.inputs)
                for (const size_t source : sources) bring(source, user);
            Json record;
            key = *work_.key_of(i, record);
        }
        if (!work_.take(i, key) && !(given_.contains(node.id) && work_.wait_for(i, key)))
            throw Error(Code::kRunFailed,
                        fmt::format("the input '{}' isn't in the store {} (key {}…); make it first: biophony run-node "
                                    "FILE '{}', or biophony run FILE --to '{}'",
                                    node.id, work_.store().root().string(), key.substr(0, 12), node.id, node.id),
                        {.node = user});
    }
    void make(size_t i) {
        const GraphNode& node = graph_.nodes[i];
        observer_.node_started(i, node);
        std::string headline;
        try {
            work_.make(
                i, [](std::string_view) {},
                [&](std::string_view line) {
                    const std::lock_guard lock(mutex_);
                    observer_.note(node, line);
                },
                headline);
        } catch (...) {
            throw current_error().within({.node = node.id});
        }
    }

    const Graph& graph_;
    RunObserver& observer_;
    const std::map<std::string, std::string>& given_;
    Work work_;
    std::mutex mutex_;
};

}  // namespace

Done run_node(const Graph& graph, const Registry& registry, const RunOptions& options, size_t index,
              const std::map<std::string, std::string>& given, RunObserver& observer) {
    const Watchdog watchdog(options, kCancelSeconds,
                            Error(Code::kCancelled, "cancelled", {.node = graph.nodes[index].id}));
    return OneNode(graph, registry, options, given, observer).run(index, options.use_cache);
}

}  // namespace biophony
