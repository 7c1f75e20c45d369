// sweep: an expression of task vectors with coefficients that are chosen on validation clips. The work is in
// learn/run_sweep.cpp.
#include "tasks/sweep.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/arithmetic.hpp"
#include "tasks/describing.hpp"
#include "tasks/features.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/expression.hpp"

namespace biophony {

namespace {
constexpr size_t kMostPoints = 10'000;
}

std::map<std::string, std::vector<double>> grids_of(const Json& grid) {
    std::map<std::string, std::vector<double>> out;
    size_t points = 1;
    for (const auto& [name, values] : grid.items()) {
        const std::string at = pointer_join("", name);
        auto wrong = [&](const Message& what) { throw Error(Code::kInvalid, what, {.pointer = at}); };
        std::vector<double>& list = out[name];
        if (values.is_array()) {
            for (const Json& value : values) {
                if (!value.is_number()) wrong(found_expected(describe(value), "a number"));
                list.push_back(value.get<double>());
            }
        } else if (values.is_object() && values.size() == 3 && values.contains("from") && values.contains("to") &&
                   values.contains("step") && values["from"].is_number() && values["to"].is_number() &&
                   values["step"].is_number()) {
            const double from = values["from"], to = values["to"], step = values["step"];
            const double steps = std::round((to - from) / step);
            if (!(step > 0) || !(to >= from) || std::abs(from + steps * step - to) > 1e-6 * step)
                wrong(fmt::format("from {} to {} in steps of {} doesn't come out, expected whole steps upwards", from,
                                  to, step));
            if (steps >= static_cast<double>(kMostPoints))
                wrong(fmt::format("that are {:.0f} values, expected at most {}", steps + 1, kMostPoints));
            // 0.1 + 3 · 0.05 as one writes it, not as it adds up.
            for (int i = 0; i <= static_cast<int>(steps); ++i)
                list.push_back(std::round((from + i * step) * 1e9) / 1e9);
        } else {
            wrong(fmt::format(R"(found {}, expected a list of numbers or {{"from": 0.1, "to": 1, "step": 0.05}})",
                              describe(values)));
        }
        if (list.empty()) wrong("the list is empty, expected one value or more");
        if (std::set<double>(list.begin(), list.end()).size() != list.size()) wrong("a value stands twice");
        points *= list.size();
        if (points > kMostPoints) wrong(fmt::format("the grids have more than {} points in all", kMostPoints));
    }
    return out;
}

namespace {

void check_sweep(const GraphNode& node, const Registry&, std::string_view pointer, std::vector<Diagnostic>& problems) {
    auto wrong = [&](std::string_view at, const Message& message) {
        problems.push_back({Code::kInvalid, {.pointer = std::string(pointer) + std::string(at)}, message});
    };
    const std::vector<std::string> vectors = vector_names(node);
    std::vector<std::string> coefficients;
    try {
        const size_t before = problems.size();
        for (const auto& [name, values] : grids_of(node.params.at("grid"))) {
            coefficients.push_back(name);
            if (!is_expression_name(name)) wrong(pointer_join("/grid", name), no_expression_name(name));
            if (std::find(vectors.begin(), vectors.end(), name) != vectors.end())
                wrong(pointer_join("/grid", name), fmt::format("'{}' is also the name of a vector", name));
        }
        if (coefficients.empty()) wrong("/grid", "the grid has no coefficient; compose takes expressions without any");
        if (problems.size() != before) return;
    } catch (const Error& error) {
        return wrong("/grid" + error.where().pointer, error.message());
    }
    try {
        const LinearForm form =
            parse_expression(node.params.at("expression").get<std::string>(), vectors, coefficients);
        // All coefficients 0 must be the base, which every point is compared with.
        if (const auto constant = form.find({}); constant != form.end())
            for (const auto& [vector, factor] : constant->second)
                wrong("/expression",
                      fmt::format("the term {}*{} has no coefficient, so that the base would be no point "
                                  "of the sweep; each term needs one, of the grid",
                                  factor, vector));
    } catch (const Error& error) {
        wrong("/expression", error.message());
    }
    const std::string judge = node.params.at("judge");
    const bool fixed = judge == "fixed";
    if (fixed && !node.inputs.contains("head"))
        wrong("/judge",
              "a fixed head comes from outside: connect the one that was fitted on the base to the port "
              "'head', or let \"judge\" fit one at each point (ridge, lda, prototype)");
    if (!fixed && node.inputs.contains("head"))
        wrong("/judge", fmt::format("a {} head is fitted at each point, so the port 'head' has no use; take it out, or "
                                    "write \"judge\": \"fixed\"",
                                    judge));
    if (fixed && node.params.contains("pooling"))
        wrong("/pooling", "a fixed head keeps the pooling that it was fitted with; take this out");
    if (node.params.contains("floor") && sources_of(node, "controls").empty())
        wrong("/floor", "the floor is for the port 'controls', to which nothing is connected; take this out");
    if (node.params.at("goal") == "forget" && sources_of(node, "controls").empty())
        wrong("/goal",
              "forgetting alone is easily had by breaking the encoder: connect what must stay to the port "
              "'controls'");
}

/// What the check of the node alone can't see: what stands behind its ports.
void check_sources(Graph& graph, size_t index) {
    const GraphNode& node = graph.nodes[index];
    auto wrong = [&](const Message& what) { throw Error(Code::kInvalid, fmt::format("'{}': ", node.id) + what); };
    const std::vector<size_t> targets = sources_of(node, "targets");
    for (const size_t set : sources_of(node, "controls"))
        if (std::find(targets.begin(), targets.end(), set) != targets.end())
            wrong(
                fmt::format("'{}' is among the targets and among the controls, expected one of them; what is to change "
                            "can't be what must stay",
                            graph.nodes[set].id));
    for (const size_t source : sources_of(node, "head")) {
        const GraphNode& head = graph.nodes[source];
        if (head.params.value("own_encoders", false))
            wrong(fmt::format("the head '{}' reads its experts' own encoders, expected one that reads the base",
                              head.id));
        const size_t base = sources_of(node, "base").at(0);
        for (const size_t encoder : sources_of(head, "encoder"))
            if (encoder != base)
                wrong(fmt::format("the head '{}' was fitted on '{}', expected one on the base of the sweep, '{}'",
                                  head.id, graph.nodes[encoder].id, graph.nodes[base].id));
    }
}

void describe_sweep(Describing& describing) {
    Description& out = describing.out;
    describe_vectors(describing, "base");
    out.origin = std::make_shared<const Origin>(Origin{.node = describing.index, .about = "sweep", .file = {}});
    out.bytes = out.weights;
    out.holds = "whole model, a direction for each coefficient, features of all clips";
    const Description* head = describing.input("head");
    for (const char* port : {"targets", "controls"}) {
        describe_data(describing, port);
        const std::vector<const Description*>& data = describing.input_list(port);
        for (size_t i = 0; i < data.size(); ++i) {
            if (!data[i]->clips) continue;
            const ClipSet& set = *data[i]->clips;
            const std::string at = std::string("/in/") + port;
            if (clips_of(set, Split::kValid) == 0)
                describing.problem(at,
                                   fmt::format("the data set '{}' has no clips in the valid split, on which a sweep "
                                               "chooses",
                                               set.group),
                                   Code::kRunFailed);
            else if (head != nullptr && head->labels &&
                     std::none_of(set.clips.begin(), set.clips.end(), [&](const Clip& clip) {
                         return clip.split == Split::kValid && class_of(*head->labels, clip.label) >= 0;
                     }))
                describing.problem(
                    at, fmt::format("no clip of '{}' in the valid split has a label that the head knows", set.group),
                    Code::kRunFailed);
        }
    }
}

}  // namespace

NodeType sweep_type() {
    return {
        .name = "sweep",
        .summary = "base + an expression of task vectors, its coefficients chosen on validation clips",
        .inputs =
            {{.name = "base", .types = {"encoder"}, .summary = "the common base"},
             {.name = "vectors",
              .types = {"task_vector"},
              .many = true,
              .summary = "with the names of the expression",
              .named = true},
             {.name = "targets",
              .types = {"dataset"},
              .many = true,
              .summary = "what is to be forgotten or learned; their mean accuracy is what counts"},
             {.name = "controls",
              .types = {"dataset"},
              .many = true,
              .required = false,
              .summary = "what must stay: each keeps the floor"},
             {.name = "head",
              .types = {"head"},
              .required = false,
              .summary =
                  "for \"judge\": \"fixed\": fitted before, on the base, on targets and controls; read as it is"}},
        .output = std::string(port::kEncoder),
        .shown = "sweep.txt",
        .parameters = Json::parse(R"({
            "type": "object", "required": ["expression", "grid", "goal"],
            "properties": {
                "expression": {"type": "string", "minLength": 1,
                               "description": "over the names of vectors and coefficients: \"-scale*a\", \"x*a + y*b\", \"scale*(b + c - a)\""},
                "grid": {"type": "object", "additionalProperties": true,
                         "description": "coefficient → its values, a list or {\"from\": 0.1, \"to\": 1, \"step\": 0.05}; all combinations are tried"},
                "goal": {"enum": ["forget", "learn"],
                         "description": "forget takes the least mean accuracy of the targets, learn the greatest"},
                "floor": {"type": "number", "minimum": 0, "maximum": 1,
                          "description": "share of its accuracy on the base that each control must keep at a point that may be chosen; default 0.95"},
                "judge": {"enum": ["fixed", "ridge", "lda", "prototype"], "default": "fixed",
                          "description": "fixed reads the port 'head', which was fitted before; the others fit a head at each point on the train clips"},
                "pooling": {"enum": ["mean", "bands"], "description": "of heads that are fitted; mean (default) or bands"},
                "figure": {"enum": ["union", "within"], "default": "union",
                           "description": "best class of all that the head knows, or of the clip's own group"},
                "batch": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 16, "description": "windows per forward pass"}
            }
        })"),
        .torch = true,
        .sources = sources::k_sweep,
        .run = [](TaskContext& context) { torch_runtime().run_sweep(context); },
        .check = check_sweep,
        .expand = check_sources,
        .describe = describe_sweep,
    };
}

}  // namespace biophony
