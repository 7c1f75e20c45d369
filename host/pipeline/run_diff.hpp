// What differs between two run directories.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/record_diff.hpp"

namespace biophony {

struct RunDifference {
    std::vector<Change> plugins;      ///< of lock.json: "/encoder:beats/build"
    std::vector<Change> environment;  ///< of manifest.json: threads, processor class, versions
    struct Node {
        std::string id;
        std::vector<Change> changes;  ///< "/use", "/seed", "/in/data/0", "/params/epochs"
    };
    std::vector<Node> nodes;  ///< of both, described otherwise
    std::vector<std::string> only_first, only_second;
    std::vector<std::string> data;        ///< data sets of both that found something else
    std::vector<std::string> results;     ///< all other nodes of both with other bytes
    std::vector<std::string> unfinished;  ///< nodes of both of which one has no result
    size_t same_results = 0;
    struct Figure {
        std::string node, group, name;  ///< "score", "all", "union.accuracy"
        std::optional<double> first, second;
    };
    std::vector<Figure> figures;  ///< those that differ
    size_t same_figures = 0;

    bool empty() const;
};

/// Compares what two runs left; times, places of folders and command lines don't count. Files and fields that an older
/// run lacks count as empty. Throws Error(kInvalid) where one is no run directory.
RunDifference compare_runs(const std::filesystem::path& first, const std::filesystem::path& second);

}  // namespace biophony
