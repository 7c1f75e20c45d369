#include "tasks/head_rules.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/error.hpp"

namespace biophony {

std::vector<std::vector<size_t>> sets_of_experts(const std::string& kind, const std::vector<ExpertFacts>& experts,
                                                 const std::vector<std::string>& groups) {
    const bool side_by_side = kind == "concatenate.raw";
    std::vector<std::vector<size_t>> out;
    std::map<size_t, std::string> taken;
    for (const ExpertFacts& expert : experts) {
        out.emplace_back();
        for (size_t i = 0; i < groups.size(); ++i) {
            if (std::find(expert.groups.begin(), expert.groups.end(), groups[i]) == expert.groups.end()) continue;
            if (const auto [other, fresh] = taken.emplace(i, expert.node); !fresh && !side_by_side)
                throw Error(Code::kRunFailed, fmt::format("two experts, '{}' and '{}', were trained on '{}'; expected "
                                                          "one for each data set",
                                                          other->second, expert.node, groups[i]));
            out.back().push_back(i);
        }
    }
    if (side_by_side) return out;
    for (size_t e = 0; e < experts.size(); ++e)
        if (out[e].empty())
            throw Error(Code::kRunFailed, fmt::format("'{}' was trained on none of the data sets of this head ({})",
                                                      experts[e].node, fmt::join(groups, ", ")));
    for (size_t i = 0; i < groups.size(); ++i)
        if (!taken.contains(i)) throw Error(Code::kRunFailed, fmt::format("no expert was trained on '{}'", groups[i]));
    if (kind == "gated" && experts.size() < 2)
        throw Error(Code::kRunFailed, "found one expert, expected at least 2 to choose between");
    return out;
}

void require_known(const std::vector<std::string>& labels, const std::vector<ExpertFacts>& experts) {
    std::vector<bool> known(labels.size(), false);
    bool all = true;
    for (const ExpertFacts& expert : experts) {
        all &= expert.labels.has_value();
        if (!expert.labels) continue;
        bool any = false;
        for (const std::string& label : *expert.labels) {
            const auto at = std::lower_bound(labels.begin(), labels.end(), label);
            if (at == labels.end() || *at != label) continue;
            known[static_cast<size_t>(at - labels.begin())] = any = true;
        }
        if (!any)
            throw Error(Code::kRunFailed, fmt::format("'{}' knows none of the data sets' labels; its labels are {}",
                                                      expert.node, fmt::join(*expert.labels, ", ")));
    }
    if (!all) return;
    std::vector<std::string> unknown;
    for (size_t c = 0; c < labels.size(); ++c)
        if (!known[c]) unknown.push_back("'" + labels[c] + "'");
    if (unknown.size() > 5) unknown.resize(5);
    if (!unknown.empty())
        throw Error(Code::kRunFailed, fmt::format("no expert knows the label {}, which the data sets have; connect "
                                                  "the experts that were trained on these data sets",
                                                  fmt::join(unknown, ", ")));
}

}  // namespace biophony
