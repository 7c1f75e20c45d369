#include "pipeline/describe.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "pipeline/definition.hpp"
#include "pipeline/units.hpp"

namespace biophony {

namespace {

namespace fs = std::filesystem;

Diagnostic diagnostic(const GraphNode& node, std::string_view at, Message message, Code code) {
    // The nearest place that the text has: the port's or the parameter's, else the node's.
    const auto place = nearest_enclosing(node.places, at);
    return {code, place == node.places.end() ? node.where : place->second, std::move(message)};
}

}  // namespace

void Describing::problem(std::string_view at, Message message, Code code) {
    problems.push_back(diagnostic(node, at, std::move(message), code));
}

void Describing::note(std::string_view at, Message message) {
    notes.push_back(diagnostic(node, at, std::move(message), Code::kInvalid));
}

GraphDescription describe_graph(const Graph& graph, const Registry& registry, const std::vector<fs::path>& results) {
    GraphDescription out;
    std::map<std::string, std::any> known;
    std::vector<Diagnostic> of_implied;
    out.nodes.resize(graph.nodes.size());
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        const GraphNode& node = graph.nodes[n];
        if (!node.type->describe) continue;
        Describing describing(graph, n, registry, out.nodes, known);
        if (n < results.size()) describing.result = results[n];
        for (const auto& [port, sources] : node.inputs)
            for (const size_t source : sources) describing.inputs[port].push_back(&out.nodes[source]);
        try {
            node.type->describe(describing);
        } catch (const Error& error) {
            describing.problem("", error.message(), error.code());
        }
        out.nodes[n] = std::move(describing.out);
        // What a wrong node would give is not known, so that its users aren't wrong, too.
        if (!describing.problems.empty()) out.nodes[n] = {.holds = std::move(out.nodes[n].holds)};
        std::vector<Diagnostic>& all = node.implied ? of_implied : out.problems;
        for (Diagnostic& problem : describing.problems) all.push_back(std::move(problem));
        for (Diagnostic& note : describing.notes) out.notes.push_back({n, std::move(note)});
    }
    // Implied nodes are made like those of the text, and what is wrong with these is wrong with them.
    if (out.problems.empty()) out.problems = std::move(of_implied);
    sort_problems(out.problems);
    return out;
}

std::string memory_text(const Description& description) {
    if (description.holds.empty()) return {};
    return description.memory_bytes
               ? fmt::format("{}, about {}", description.holds, bytes_text(*description.memory_bytes))
               : description.holds;
}

std::string needs_text(const Graph& graph, const GraphDescription& described, const std::vector<bool>& there) {
    size_t most = graph.nodes.size(), unknown = 0;
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        if (n < there.size() && there[n]) continue;
        const std::optional<uint64_t>& bytes = described.nodes[n].memory_bytes;
        if (bytes && (most == graph.nodes.size() || *bytes > *described.nodes[most].memory_bytes)) most = n;
        // What streams says what it holds, and how much is no question of the input.
        if (!described.nodes[n].bytes && !described.nodes[n].encoder.empty()) ++unknown;
    }
    std::string text;
    if (most < graph.nodes.size())
        text = fmt::format("{} holds most in memory: {}", graph.nodes[most].id, memory_text(described.nodes[most]));
    if (const uint64_t bytes = bytes_to_make(described, there); bytes > 0)
        text += fmt::format("{}results take about {} on the disk{}", text.empty() ? "" : "; ", bytes_text(bytes),
                            unknown == 0 ? "" : fmt::format(", and {} more of a size that isn't known yet", unknown));
    return text;
}

uint64_t bytes_to_make(const GraphDescription& described, const std::vector<bool>& there) {
    uint64_t sum = 0;
    for (size_t n = 0; n < described.nodes.size(); ++n)
        if (n >= there.size() || !there[n]) sum += described.nodes[n].bytes.value_or(0);
    return sum;
}

void require_space(uint64_t needed, uint64_t free, const fs::path& store) {
    const uint64_t margin = needed / 50;  // what lies beside: records, tables
    if (needed == 0 || needed + margin <= free) return;
    throw Error(Code::kRunFailed,
                fmt::format("found {} free, expected at least {} for the results that are not there yet; make room, or "
                            "choose another --store",
                            bytes_text(free), bytes_text(needed + margin)),
                {.file = store.string()});
}

std::optional<uint64_t> free_space(const fs::path& folder) {
    std::error_code problem;
    fs::path at = fs::absolute(folder, problem);
    while (!problem && !fs::exists(at, problem) && at.has_relative_path()) {
        problem.clear();
        at = at.parent_path();
    }
    const fs::space_info space = fs::space(at, problem);
    if (problem) return std::nullopt;
    return space.available;
}

Code code_of(const std::vector<Diagnostic>& problems) {
    const Code first = problems.front().code;
    const bool one =
        std::all_of(problems.begin(), problems.end(), [&](const Diagnostic& problem) { return problem.code == first; });
    return one ? first : Code::kInvalid;
}

namespace {

Error one_error(const std::vector<Diagnostic>& problems) {
    if (problems.size() == 1) return Error(problems[0].code, problems[0].message, problems[0].where);
    std::string text = fmt::format("{} problems", problems.size());
    for (const Diagnostic& problem : problems) text += "\n  " + problem.text();
    return Error(code_of(problems), text);
}

}  // namespace

ProblemsError::ProblemsError(std::vector<Diagnostic> problems)
    : Error(one_error(problems)), problems_(std::move(problems)) {}

std::vector<size_t> looking_first(const Graph& graph, size_t& looking) {
    std::vector<bool> looks(graph.nodes.size(), false);
    std::vector<size_t> order, others;
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        looks[n] = graph.nodes[n].type->volatile_source;
        for (const auto& [port, sources] : graph.nodes[n].inputs)
            for (const size_t source : sources) looks[n] = looks[n] && looks[source];
        (looks[n] ? order : others).push_back(n);
    }
    looking = order.size();
    order.insert(order.end(), others.begin(), others.end());
    return order;
}

}  // namespace biophony
