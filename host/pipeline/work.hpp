// The results of a graph as they come: taken from the store, or made.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pipeline/run.hpp"

namespace biophony {

/// A node's result.
struct Done {
    StoredResult result;
    bool cached = false;
    std::vector<SkippedFile> skipped;
};

/// [main]
class Work {
public:
    Work(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer)
        : graph_(graph),
          registry_(registry),
          options_(options),
          observer_(observer),
          store_(options.store),
          keys_(graph, registry, options.host, options.threads),
          done_(graph.nodes.size()) {}

    const Store& store() const { return store_; }
    const std::vector<std::optional<Done>>& done() const { return done_; }

    /// The key of node i, if all of its inputs are done.
    std::optional<std::string> key_of(size_t i, Json& record) const;
    /// Takes the result from the store, if it is there.
    bool take(size_t i);
    /// Makes the result now.
    void make(size_t i, const std::function<void(std::string_view)>& log,
              const std::function<void(std::string_view)>& note, std::string& headline);

private:
    const Graph& graph_;
    const Registry& registry_;
    const RunOptions& options_;
    RunObserver& observer_;
    Store store_;
    Keys keys_;
    std::vector<std::optional<Done>> done_;
    std::set<std::string> verified_;
};

}  // namespace biophony
