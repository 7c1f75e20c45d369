#include "pipeline/plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "pipeline/describe.hpp"
#include "pipeline/work.hpp"

namespace biophony {

namespace {

/// The digests of a port's sources in an earlier record.
std::vector<std::string> digests_then(const Json& record, const std::string& port) {
    std::vector<std::string> out;
    const Json inputs = record.value("inputs", Json::object());
    if (const auto found = inputs.find(port); found != inputs.end() && found->is_array())
        for (const Json& digest : *found)
            if (digest.is_string()) out.push_back(digest);
    return out;
}

Json without_inputs(const Json& record) {
    Json out = record;
    out.erase("inputs");
    return out;
}

size_t distance(const Json& then, const PlannedNode& planned) {
    size_t count = differences(without_inputs(then), without_inputs(planned.record)).size();
    for (const auto& [port, now] : planned.digests) {
        std::vector<std::string> gone = digests_then(then, port);
        if (gone == now) continue;
        size_t added = 0, unknown = 0;
        for (const std::string& digest : now)
            if (const auto same = std::find(gone.begin(), gone.end(), digest); same != gone.end())
                gone.erase(same);
            else
                ++(digest.empty() ? unknown : added);
        // One that isn't there yet may turn out to be any of those.
        const size_t lost = gone.size() - std::min(gone.size(), unknown);
        count += std::max(added + lost, size_t{unknown == 0});
    }
    return count;
}

/// Why a node has no result with its key.
void explain_run(PlannedNode& planned, const Graph& graph, const RunOptions& options, const StoreIndex& index,
                 bool damaged) {
    const GraphNode& node = *planned.node;
    planned.earlier = nearest_result(index.of_node(node.type->name, node.id), planned, "");
    std::vector<std::string> reasons;
    if (planned.earlier == nullptr) {
        planned.seconds = index.usual_seconds(node.type->name, node.id.substr(0, node.id.find('[')));
        if (planned.waits.empty() || !options.use_cache) reasons.push_back("no earlier result of this node");
    } else {
        planned.seconds = planned.earlier->seconds();
        planned.difference = difference_to(*planned.earlier, planned, graph, index);
        reasons = planned.difference.in_words(node.type->name);
    }
    if (damaged) reasons = {"its result is damaged"};
    if (!options.use_cache) reasons = {"the cache is off"};
    constexpr size_t kShown = 3;
    if (reasons.size() > kShown) {
        const size_t more = reasons.size() - kShown;
        reasons.resize(kShown);
        reasons.push_back(fmt::format("{} more", more));
    }
    if (!planned.waits.empty())
        reasons.push_back(
            fmt::format("waits for {}{}", graph.nodes[planned.waits.front()].id,
                        planned.waits.size() > 1 ? fmt::format(" and {} more", planned.waits.size() - 1) : ""));
    planned.reason = joined(reasons);
}

}  // namespace

std::string_view to_string(PlannedNode::State state) {
    switch (state) {
        case PlannedNode::State::kCached: return "cached";
        case PlannedNode::State::kLooks: return "looks";
        case PlannedNode::State::kRun: break;
    }
    return "run";
}

std::string joined(const std::vector<std::string>& reasons) {
    return fmt::format("{}", fmt::join(reasons, "; "));
}

std::vector<std::string> in_words(const std::vector<InputChange>& inputs) {
    using Kind = InputChange::Kind;
    std::vector<std::string> out;
    std::vector<std::pair<std::string, Kind>> told;
    for (const InputChange& first : inputs) {
        const std::pair group(first.port, first.kind);
        if (first.kind == Kind::kPending || std::find(told.begin(), told.end(), group) != told.end()) continue;
        told.push_back(group);
        if (first.kind == Kind::kOrder) {
            out.push_back(fmt::format("input {}: its order changed", first.port));
            continue;
        }
        std::vector<std::string> names;
        for (const InputChange& input : inputs)
            if (std::pair(input.port, input.kind) == group)
                names.push_back(input.node.empty() ? brief(Json(input.then)) : input.node);
        const bool one = names.size() == 1;
        constexpr size_t kShown = 3;
        std::string list;
        if (names.size() <= kShown) {
            for (size_t i = 0; i < names.size(); ++i)
                list += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
        } else {
            list = fmt::format("{}, {} and {} more", names[0], names[1], names.size() - 2);
        }
        out.push_back(fmt::format("input {}: {} {}", first.port, list,
                                  first.kind == Kind::kChanged ? "changed"
                                  : first.kind == Kind::kNew   ? (one ? "is new" : "are new")
                                                               : (one ? "is gone" : "are gone")));
    }
    return out;
}

std::vector<std::string> Difference::in_words(std::string_view type) const {
    std::vector<std::string> out;
    for (const Change& change : changes) out.push_back(biophony::in_words(change, type));
    for (std::string& words : biophony::in_words(inputs)) out.push_back(std::move(words));
    return out;
}

Difference difference_to(const StoreEntry& earlier, const PlannedNode& planned, const Graph& graph,
                         const StoreIndex& index) {
    const Json& then = record_of(earlier);
    Difference out{.changes = differences(without_inputs(then), without_inputs(planned.record))};
    const auto known_as = [&](const std::string& digest, const std::string& like) {
        const std::vector<const StoreEntry*> results = index.with_digest(digest, like);
        return results.empty() ? std::string() : results.front()->text("node");
    };
    const auto same_node = [](const std::string& digest_now) {
        return digest_now.empty() ? InputChange::Kind::kPending : InputChange::Kind::kChanged;
    };
    for (const auto& [port, digests] : planned.digests) {
        const std::vector<size_t>& sources = planned.node->inputs.at(port);
        const std::vector<std::string> before = digests_then(then, port);
        if (before == digests) continue;
        std::vector<std::string> gone = before;  // that no source of now has
        std::vector<size_t> added;               // places whose digest was not there
        for (size_t i = 0; i < digests.size(); ++i) {
            const auto same = std::find(gone.begin(), gone.end(), digests[i]);
            if (same != gone.end())
                gone.erase(same);
            else
                added.push_back(i);
        }
        if (gone.empty() && added.empty()) {
            out.inputs.push_back({port, InputChange::Kind::kOrder, "", ""});
            continue;
        }
        // What one node made then and now belongs together; where names don't tell, the place does.
        std::vector<size_t> without_partner;
        for (const size_t i : added) {
            const std::string& id = graph.nodes[sources[i]].id;
            const auto partner = std::find_if(gone.begin(), gone.end(),
                                              [&](const std::string& digest) { return known_as(digest, id) == id; });
            if (partner == gone.end()) {
                without_partner.push_back(i);
                continue;
            }
            out.inputs.push_back({port, same_node(digests[i]), id, *partner});
            gone.erase(partner);
        }
        for (const size_t i : without_partner) {
            const std::string& id = graph.nodes[sources[i]].id;
            const auto partner = i < before.size() && before.size() == digests.size()
                                     ? std::find(gone.begin(), gone.end(), before[i])
                                     : gone.end();
            if (partner != gone.end() && known_as(*partner, "").empty()) {
                out.inputs.push_back({port, same_node(digests[i]), id, *partner});
                gone.erase(partner);
            } else {
                out.inputs.push_back({port, InputChange::Kind::kNew, id, ""});
            }
        }
        for (const std::string& digest : gone)
            out.inputs.push_back({port, InputChange::Kind::kGone, known_as(digest, ""), digest});
    }
    const Json inputs_then = then.value("inputs", Json::object());
    for (const auto& entry : inputs_then.items())
        if (!planned.digests.contains(entry.key()))
            for (const std::string& digest : digests_then(then, entry.key()))
                out.inputs.push_back({entry.key(), InputChange::Kind::kGone, known_as(digest, ""), digest});
    return out;
}

const StoreEntry* nearest_result(const std::vector<const StoreEntry*>& results, const PlannedNode& planned,
                                 const std::string& but_not) {
    const StoreEntry* best = nullptr;
    size_t least = 0;
    for (const StoreEntry* entry : results) {
        if (entry->key == but_not) continue;
        const size_t here = distance(record_of(*entry), planned);
        if (best != nullptr && (here > least || (here == least && entry->text("finished") <= best->text("finished"))))
            continue;
        best = entry;
        least = here;
    }
    return best;
}

namespace {

/// With the data sets looked at: what can't work, what should be known, and what the nodes to run need.
void describe_plan(Plan& plan, const Graph& graph, const Registry& registry, RunObserver& observer,
                   const fs::path& store) {
    std::vector<fs::path> results(graph.nodes.size());
    std::vector<bool> there(graph.nodes.size());
    for (size_t i = 0; i < results.size(); ++i) {
        if (plan.nodes[i].result) results[i] = plan.nodes[i].result->folder;
        there[i] = plan.nodes[i].node == nullptr || plan.nodes[i].state != PlannedNode::State::kRun;
    }
    const GraphDescription described = describe_graph(graph, registry, results);
    if (!described.problems.empty()) throw ProblemsError(described.problems);
    for (const NodeNote& note : described.notes) observer.note(graph.nodes[note.node], note.what.message.text);
    plan.needs = needs_text(graph, described, there);
    plan.bytes = bytes_to_make(described, there);
    plan.free = free_space(store);
    if (plan.free) try {
            require_space(plan.bytes, *plan.free, store);
        } catch (const Error& error) {
            plan.no_room = error.what();
        }
    for (size_t i = 0; i < results.size(); ++i) {
        if (there[i]) continue;
        plan.nodes[i].memory = memory_text(described.nodes[i]);
        plan.nodes[i].memory_bytes = described.nodes[i].memory_bytes;
        plan.nodes[i].bytes = described.nodes[i].bytes;
    }
}

}  // namespace

Plan plan_graph(const Graph& graph, const Registry& registry, const RunOptions& options, RunObserver& observer,
                std::optional<size_t> target) {
    Work work(graph, registry, options, observer);
    std::vector<bool> selected(graph.nodes.size(), false);
    if (target)
        selected[*target] = true;
    else
        selected = selected_nodes(graph, options.slice);
    const std::vector<bool> planned_ones = graph.with_inputs(selected);
    observer.begin(graph.nodes.size());
    Plan plan;
    plan.nodes.resize(graph.nodes.size());
    std::vector<bool> damaged(graph.nodes.size(), false);
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
        if (!planned_ones[i]) continue;
        const GraphNode& node = graph.nodes[i];
        PlannedNode& planned = plan.nodes[i];
        planned.node = &node;
        std::vector<std::vector<std::string>> digests;
        for (const auto& [port, sources] : node.inputs) {
            digests.emplace_back();
            for (const size_t source : sources) {
                const std::optional<StoredResult>& input = plan.nodes[source].result;
                digests.back().push_back(input ? input->digest : "");
                if (!input && std::find(planned.waits.begin(), planned.waits.end(), source) == planned.waits.end())
                    planned.waits.push_back(source);
            }
            planned.digests[port] = digests.back();
        }
        if (!planned.waits.empty()) {
            planned.record = work.keys().record_without_inputs(i);
            continue;
        }
        planned.record = work.keys().record(i, digests);
        if (node.type->volatile_source) {
            for (const auto& [port, sources] : node.inputs)
                for (const size_t source : sources)
                    if (!work.done()[source]) work.take(source);
            observer.node_started(i, node);
            std::string headline;
            try {
                work.make(
                    i, [](std::string_view) {}, [&](std::string_view line) { observer.note(node, line); }, headline);
            } catch (const Error& error) {
                throw error.within({.node = node.id});
            }
            planned.state = PlannedNode::State::kLooks;
            planned.reason = "looks at its files each time: " + headline;
            planned.result = work.done()[i]->result;
            planned.key = planned.result->key;
            continue;
        }
        planned.key = key_of_record(planned.record);
        if (!options.use_cache && (selected[i] || target)) continue;
        planned.result = work.store().find(planned.key);
        if (planned.result) {
            planned.state = PlannedNode::State::kCached;
            planned.reason = "made " + planned.result->record.value("finished", std::string("?"));
            planned.seconds = planned.result->record.value("seconds", 0.0);
        } else {
            damaged[i] = fs::exists(work.store().folder_of(planned.key));
        }
    }
    if (!target) {
        // What lies outside of the slice is taken, not planned.
        std::vector<bool> there(graph.nodes.size());
        for (size_t i = 0; i < there.size(); ++i) there[i] = plan.nodes[i].result.has_value();
        if (const auto missing = missing_for(graph, selected, there)) throw *missing;
        for (size_t i = 0; i < there.size(); ++i)
            if (!selected[i]) plan.nodes[i].node = nullptr;
    }
    for (const PlannedNode& planned : plan.nodes) plan.count += planned.node == nullptr ? 0 : 1;
    const auto runs = [](const PlannedNode& planned) {
        return planned.node != nullptr && planned.state == PlannedNode::State::kRun;
    };
    if (target || std::any_of(plan.nodes.begin(), plan.nodes.end(), runs))
        plan.index = std::make_unique<StoreIndex>(work.store().root());
    for (size_t i = 0; i < plan.nodes.size(); ++i) {
        PlannedNode& planned = plan.nodes[i];
        if (!runs(planned)) continue;
        explain_run(planned, graph, options, *plan.index, damaged[i]);
        ++plan.to_run;
        if (planned.seconds)
            plan.seconds += *planned.seconds;
        else
            ++plan.without_estimate;
    }
    if (!target) describe_plan(plan, graph, registry, observer, work.store().root());
    return plan;
}

}  // namespace biophony
