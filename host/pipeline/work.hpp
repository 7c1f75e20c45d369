// The results of a graph as they come: taken from the store, or made.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/executor.hpp"
#include "pipeline/run.hpp"

namespace biophony {

/// A node's result.
struct Done {
    StoredResult result;
    bool cached = false;
    std::vector<SkippedFile> skipped;
};

/// The exception that is being handled, as an Error: of the C++ library's and LibTorch's the first line, without the
/// stack that may follow.
Error current_error();

/// Functions for a node may be called from any thread, for several nodes at once, when its inputs are done.
class Work {
public:
    /// `executor` makes the results; null = in this process. All of them outlive it.
    Work(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer,
         std::unique_ptr<Executor> executor = nullptr);
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

    const Store& store() const { return store_; }
    Executor& executor() { return *executor_; }
    const Keys& keys() const { return keys_; }
    const std::vector<std::optional<Done>>& done() const { return done_; }

    /// The key of node i, if all of its inputs are done.
    std::optional<std::string> key_of(size_t i, Json& record) const;
    /// Takes the result from the store, if it is there.
    bool take(size_t i);
    /// The same for a key that is known; whatever --no-cache says.
    bool take(size_t i, const std::string& key);
    /// The same for a key of which another machine said that it is there (Store::wait_for).
    bool wait_for(size_t i, const std::string& key);
    /// What the executor needs for node i; without the functions that follow it.
    Job job_of(size_t i, std::string key, Json record) const;
    /// Makes the result now, in this thread.
    void make(size_t i, const std::function<void(std::string_view)>& log,
              const std::function<void(std::string_view)>& note, std::string& headline);
    /// Node i's result is this.
    void set(size_t i, StoredResult result, bool cached);

private:
    const Graph& graph_;
    const Registry& registry_;
    const RunOptions& options_;
    RunObserver& observer_;
    Store store_;
    fs::path for_launched_;  ///< in the store: what launched programs read
    Keys keys_;
    std::unique_ptr<Executor> executor_;
    std::vector<std::optional<Done>> done_;
};

}  // namespace biophony
