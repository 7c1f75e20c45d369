// What a head asks of the models that it is made of. Held to when a pipeline is checked, as far as groups and labels
// are known then, and when the head is made.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace biophony {

/// A contributor's own model.
struct ExpertFacts {
    std::string node;
    std::vector<std::string> groups;                 ///< that it was trained on
    std::optional<std::vector<std::string>> labels;  ///< that it knows, sorted; none = not known yet
};

/// For each expert the data sets of a head of this kind that are its own: places in `groups`, the sets' names. Throws
/// Error(kRunFailed) where a kind that fits or gates by contributor has two experts for a set, a set without one, or an
/// expert without a set.
std::vector<std::vector<size_t>> sets_of_experts(const std::string& kind, const std::vector<ExpertFacts>& experts,
                                                 const std::vector<std::string>& groups);

/// Throws Error(kRunFailed) where an expert whose labels are known has none of `labels`, the head's, or where one of
/// these is known to none; both sorted.
void require_known(const std::vector<std::string>& labels, const std::vector<ExpertFacts>& experts);

}  // namespace biophony
