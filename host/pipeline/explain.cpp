#include "pipeline/explain.hpp"

#include <fmt/format.h>

#include <map>
#include <set>

#include "base/files.hpp"

namespace biophony {

namespace {

/// "2 recordings are new (a.wav, b.wav)"
void tell(const std::vector<std::string>& names, const char* what, std::vector<std::string>& out) {
    if (names.empty()) return;
    constexpr size_t kShown = 3;
    const std::vector<std::string> shown(names.begin(),
                                         names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size())));
    out.push_back(fmt::format("{} recording{} {} ({}{})", names.size(), names.size() == 1 ? "" : "s", what,
                              fmt::join(shown, ", "), names.size() > kShown ? ", …" : ""));
}

/// What two looks at a data set found otherwise.
std::vector<std::string> compare_data(const fs::path& then, const fs::path& now) {
    std::vector<std::string> out;
    try {
        const Json a = read_json(then / "dataset.json"), b = read_json(now / "dataset.json");
        std::map<std::string, std::string> before, after;
        for (const Json& recording : a.at("recordings")) before[recording.at("id")] = recording.at("content");
        for (const Json& recording : b.at("recordings")) after[recording.at("id")] = recording.at("content");
        std::vector<std::string> gone, added, changed;
        for (const auto& [id, hash] : before)
            if (!after.contains(id)) gone.push_back(id);
        for (const auto& [id, hash] : after) {
            const auto found = before.find(id);
            if (found == before.end())
                added.push_back(id);
            else if (found->second != hash)
                changed.push_back(id);
        }
        tell(added, added.size() == 1 ? "is new" : "are new", out);
        tell(gone, gone.size() == 1 ? "is gone" : "are gone", out);
        tell(changed, "changed", out);
        if (out.empty() && a.at("clips") != b.at("clips"))
            out.push_back(fmt::format("clips, labels or splits changed: {} clips, now {}", a.at("clips").size(),
                                      b.at("clips").size()));
    } catch (const std::exception&) {
        // One of them is damaged, or of another version.
    }
    return out;
}

class Causes {
public:
    Causes(const Graph& graph, const Plan& plan) : graph_(graph), plan_(plan) {}

    std::vector<Cause> of(const Difference& difference) {
        std::vector<Cause> out;
        for (const InputChange& input : difference.inputs)
            if (input.kind == InputChange::Kind::kChanged || input.kind == InputChange::Kind::kPending)
                out.push_back(cause(graph_.index_of(input.node), input.then));
        return out;
    }

private:
    Cause cause(size_t n, const std::string& digest) {
        const GraphNode& node = graph_.nodes[n];
        const PlannedNode& planned = plan_.nodes[n];
        Cause out{.node = node.id};
        if (!told_.insert(n).second) {
            out.told_before = true;
            return out;
        }
        // Equal results may have been made in several ways.
        const StoreEntry* then = nearest_result(plan_.index->with_digest(digest, node.id), planned, "");
        if (then == nullptr || then->text("type") != node.type->name) {
            out.reasons.push_back("the result that it had is no longer in the store");
            return out;
        }
        Difference difference = difference_to(*then, planned, graph_, *plan_.index);
        out.inputs = of(difference);
        std::erase_if(difference.inputs, [](const InputChange& input) {
            return input.kind == InputChange::Kind::kChanged || input.kind == InputChange::Kind::kPending;
        });
        out.reasons = difference.in_words(node.type->name);
        if (planned.result && node.type->volatile_source)
            for (std::string& line : compare_data(then->folder, planned.result->folder))
                out.reasons.push_back(std::move(line));
        if (out.reasons.empty() && out.inputs.empty())
            out.reasons.push_back(node.type->volatile_source   ? "what it found changed"
                                  : planned.result.has_value() ? "made of the same, yet with other bytes"
                                                               : "of the same record; its result is not in the store");
        return out;
    }

    const Graph& graph_;
    const Plan& plan_;
    std::set<size_t> told_;
};

}  // namespace

Explanation explain_node(const Graph& graph, const Plan& plan, size_t n) {
    const PlannedNode& planned = plan.nodes[n];
    const GraphNode& node = graph.nodes[n];
    Explanation out{.planned = &planned};
    out.other = nearest_result(plan.index->of_node(node.type->name, node.id), planned, planned.key);
    if (out.other == nullptr && !planned.result)
        out.other = nearest_result(plan.index->of_type(node.type->name), planned, planned.key);
    if (out.other == nullptr) return out;
    out.difference = difference_to(*out.other, planned, graph, *plan.index);
    if (planned.result && node.type->volatile_source)
        out.found = compare_data(out.other->folder, planned.result->folder);
    out.causes = Causes(graph, plan).of(out.difference);
    return out;
}

}  // namespace biophony
