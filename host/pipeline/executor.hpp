// Who makes results. The schedule (schedule.hpp) decides which nodes are made, and when, and beside which others; an
// executor makes one: in this process, or by launching a program that may run on another machine.
#pragma once

#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/graph.hpp"
#include "pipeline/store.hpp"

namespace biophony {

/// One finished input of a job.
struct JobInput {
    std::string node;  ///< its id
    const StoredResult* result = nullptr;
};

/// One node to be made, now that its inputs are there. What it points to outlives the execution.
struct Job {
    const GraphNode* node = nullptr;
    std::string key;  ///< empty for nodes that look at the world outside: the key is then that of the content
    Json record;      ///< what the key is the hash of
    std::map<std::string, std::vector<JobInput>> inputs;  ///< by port, in the order of the node's
    Progress* progress = nullptr;
    const Cancel* cancel = nullptr;              ///< may be null
    std::function<void(std::string_view)> log;   ///< one line for the run's log
    std::function<void(std::string_view)> note;  ///< one line for the log and for the user
};

class Executor {
public:
    virtual ~Executor() = default;
    /// Makes the node's result in the store and returns it; blocks until it is there. Throws Error. Any thread, several
    /// at once; torch nodes one at a time unless elsewhere() says otherwise.
    virtual StoredResult execute(const Job& job) = 0;
    /// Whether the work is done by other processes, which share nothing with each other.
    virtual bool elsewhere() const { return false; }
};

/// In this process. Inputs are compared with their hashes before the first use, and it is an error if a file of one is
/// changed while a node reads it.
class LocalExecutor : public Executor {
public:
    /// All three outlive it.
    LocalExecutor(const Graph& graph, const Registry& registry, const Store& store, unsigned threads)
        : graph_(graph), registry_(registry), store_(store), threads_(threads) {}
    StoredResult execute(const Job& job) override;

private:
    struct Seen {
        std::string files;  ///< size, time and inode of each
        std::shared_future<void> verified;
    };
    void verify_once(const StoredResult& input);
    /// Throws where a file isn't the one that was verified.
    void still_the_same(const StoredResult& input, const std::string& reader);

    const Graph& graph_;
    const Registry& registry_;
    const Store& store_;
    unsigned threads_;
    std::mutex mutex_;
    std::map<std::string, Seen> seen_;  ///< by key
};

/// How the program is started for each node.
struct Launch {
    std::vector<std::string> prefix;  ///< "srun", "-c", "4"
    fs::path program;                 ///< biophony
    fs::path pipeline;                ///< the effective one
    fs::path store;
    unsigned threads = 1;
    std::vector<fs::path> plugin_folders;
};

/// `PREFIX… biophony run-node PIPELINE NODE …` for each node. What the program writes to standard error goes to the log
/// and the user; its exit status becomes the error.
class LaunchExecutor : public Executor {
public:
    /// `store` outlives it.
    LaunchExecutor(Launch launch, const Store& store) : launch_(std::move(launch)), store_(store) {}
    StoredResult execute(const Job& job) override;
    bool elsewhere() const override { return true; }

private:
    Launch launch_;
    const Store& store_;
};

}  // namespace biophony
