// head: a classifier for the union of labels on a frozen encoder. The work is in learn/run_head.cpp.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/schema.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
#include "tasks/features.hpp"
#include "tasks/head_rules.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony {

namespace {

constexpr const char* kPublicItem = "dataset:synthetic";

bool one_of(std::string_view text, std::initializer_list<std::string_view> list) {
    return std::find(list.begin(), list.end(), text) != list.end();
}

bool takes_public(std::string_view kind) {
    return one_of(kind, {"concatenate.public", "refit.public"});
}
bool takes_experts(std::string_view kind) {
    return one_of(kind, {"concatenate.raw", "concatenate.public", "gated"});
}
/// Whether the encoder that is given takes part: experts that read their own encoders need no other, but for a gate.
bool takes_encoder(std::string_view kind, bool own_encoders) {
    return kind == "gated" || !takes_experts(kind) || !own_encoders;
}

struct Parameter {
    const char* name;
    std::initializer_list<std::string_view> kinds;
};

const Parameter kParameters[] = {
    {"strength", {"ridge", "probe", "concatenate.public", "refit.public"}},
    {"shrinkage", {"lda", "gated"}},
    {"priors", {"lda", "gated"}},
    {"k", {"knn"}},
    {"shared_species", {"concatenate.raw", "concatenate.public", "refit.public"}},
    {"own_encoders", {"concatenate.raw", "concatenate.public", "gated"}},
    {"pooling",
     {"ridge", "lda", "prototype", "concatenate.public", "refit.public", "gated", "probe", "probe.nihal2026", "knn"}}};

void check_head(const GraphNode& node, const Registry&, std::string_view pointer, std::vector<Diagnostic>& problems) {
    const std::string kind = node.params.at("kind");
    // Where an axis gives the kind, one text serves all kinds: what only some of them use is no mistake.
    const bool one_of_many = node.axis_of.contains("/kind");
    auto wrong = [&](const char* at, const Message& message) {
        problems.push_back({Code::kInvalid, {.pointer = pointer_join(pointer, at)}, message});
    };
    for (const Parameter& parameter : kParameters)
        if (node.params.contains(parameter.name) && !one_of(kind, parameter.kinds) && !one_of_many)
            wrong(parameter.name, fmt::format("a head of the kind '{}' has no '{}'; it belongs to {}", kind,
                                              parameter.name, fmt::join(parameter.kinds, ", ")));
    if (takes_experts(kind) && !node.inputs.contains("experts"))
        wrong("kind", fmt::format("a head of the kind '{}' is made of the contributors' own heads; connect them to the "
                                  "port 'experts'",
                                  kind));
    if (node.inputs.contains("public") && !takes_public(kind) && !one_of_many)
        wrong("kind", fmt::format("a head of the kind '{}' uses no public clips; the port 'public' is for "
                                  "concatenate.public and refit.public",
                                  kind));
    const bool own = node.params.value("own_encoders", false), needed = takes_encoder(kind, own);
    if (needed && !node.inputs.contains("encoder"))
        wrong("kind", fmt::format("the port 'encoder' of head is missing, expected encoder or checkpoint{}",
                                  takes_experts(kind) && kind != "gated" ? "; only experts with \"own_encoders\": true "
                                                                           "need none"
                                                                         : ""));
    if (!needed && node.inputs.contains("encoder"))
        wrong("own_encoders", fmt::format("each head of '{}' reads its own expert's encoder, so the port 'encoder' has "
                                          "no use; take it out",
                                          kind));
}

/// Sounds that belong to nobody: recordings of places without animals, always the same.
size_t imply_public(Graph& graph, const GraphNode& head) {
    constexpr const char* kId = "public:background";
    if (const size_t there = graph.index_of(kId); there < graph.nodes.size()) return there;
    const ItemInfo* item = graph.registry->find("dataset", "synthetic");
    GraphNode node;
    node.params = {
        {"group", "background"}, {"group_name", "public"}, {"recordings", 60}, {"clips", 2}, {"clip_seconds", 3}};
    std::vector<Diagnostic> problems;
    if (item != nullptr) {
        Json own = {{"group_name", "public"}}, theirs = node.params;
        theirs.erase("group_name");
        apply_schema(node_types().find("dataset")->parameters, own, "", problems);
        apply_schema(item->parameters, theirs, "", problems);
        theirs.update(own);
        node.params = theirs;
    }
    if (item == nullptr || !problems.empty())
        throw Error(Code::kInvalid,
                    fmt::format("'{}' needs clips that are public; connect data sets to the port 'public' ({} with the "
                                "group 'background', which stands in for them, is not installed)",
                                head.id, kPublicItem));
    node.id = node.stem = kId;
    node.type = node_types().find("dataset");
    node.item = item;
    node.implied = true;
    node.where = head.where;
    graph.nodes.push_back(std::move(node));
    return graph.nodes.size() - 1;
}

/// A model, or one that it was made from, and a data set that it was trained on.
struct Heard {
    size_t model = 0, data = 0;
};

/// What a model and all those that it was made from (compositions, task vectors, trainings) were trained on.
std::vector<Heard> heard_by(const Graph& graph, size_t model) {
    std::vector<Heard> out;
    std::vector<size_t> open = {model};
    std::set<size_t> seen = {model};
    while (!open.empty()) {
        const size_t at = open.back();
        open.pop_back();
        for (const auto& [port, sources] : graph.nodes[at].inputs)
            for (const size_t source : sources) {
                if (graph.nodes[source].output() == port::kDataset)
                    out.push_back({at, source});
                else if (seen.insert(source).second)
                    open.push_back(source);
            }
    }
    return out;
}

/// Whether `set` is none of `data`, but another fold of one of them: nodes of one name in the text that differ in their
/// split alone, or in an axis of which all of `data` have one value.
bool another_fold(const Graph& graph, size_t set, const std::vector<size_t>& data) {
    if (std::find(data.begin(), data.end(), set) != data.end()) return false;
    const GraphNode& other = graph.nodes[set];
    auto recordings = [](const GraphNode& node) {
        Json params = node.params;
        params.erase("split");
        return params;
    };
    std::vector<const GraphNode*> alike;
    for (const size_t d : data)
        if (graph.nodes[d].stem == other.stem) alike.push_back(&graph.nodes[d]);
    for (const GraphNode* node : alike)
        if (node->item == other.item && node->inputs == other.inputs && node->params == other.params) return false;
    for (const GraphNode* node : alike)
        if (node->item == other.item && node->inputs == other.inputs && recordings(*node) == recordings(other))
            return true;
    if (alike.size() < 2) return false;
    return std::any_of(other.axes.begin(), other.axes.end(), [&](const auto& axis) {
        auto value_of = [&](const GraphNode& node) {
            for (const auto& [name, value] : node.axes)
                if (name == axis.first) return value;
            return std::string();
        };
        const std::string value = value_of(*alike[0]);
        return value != axis.second &&
               std::all_of(alike.begin(), alike.end(), [&](const GraphNode* node) { return value_of(*node) == value; });
    });
}

/// A head whose encoder or experts were trained on another fold of its data would be tested on what they have heard.
void check_folds(const Graph& graph, const GraphNode& head) {
    const std::vector<size_t> data = sources_of(head, "data");
    auto ids = [&](const std::vector<size_t>& nodes) {
        std::vector<std::string> out;
        for (const size_t n : nodes) out.push_back("'" + graph.nodes[n].id + "'");
        return fmt::format("{}", fmt::join(out, ", "));
    };
    for (const char* port : {"encoder", "experts"})
        for (const size_t model : sources_of(head, port)) {
            const std::string& id = graph.nodes[model].id;
            for (const Heard& heard : heard_by(graph, model))
                if (another_fold(graph, heard.data, data))
                    throw Error(Code::kInvalid,
                                fmt::format("'{}' is fitted on {}, but {} was trained on '{}', another fold of it, so "
                                            "the model would be tested on what it was trained on; expected models that "
                                            "were trained on the head's own data sets",
                                            head.id, ids(data),
                                            heard.model == model ? fmt::format("'{}'", id)
                                                                 : fmt::format("'{}', which '{}' is made from,",
                                                                               graph.nodes[heard.model].id, id),
                                            graph.nodes[heard.data].id));
        }
    for (const size_t expert : sources_of(head, "experts")) {
        const std::vector<size_t> heard = sources_of(graph.nodes[expert], "data");
        if (std::none_of(heard.begin(), heard.end(),
                         [&](size_t set) { return std::find(data.begin(), data.end(), set) != data.end(); }))
            throw Error(
                Code::kInvalid,
                fmt::format("the expert '{}' was trained on {}, which are none of the data sets of '{}' ({}); "
                            "expected experts that were trained on the head's data sets",
                            graph.nodes[expert].id, heard.empty() ? "no data set" : ids(heard), head.id, ids(data)));
    }
}

void expand_head(Graph& graph, size_t index) {
    {
        // What the kind doesn't use, which only an axis allows, says nothing about the head and isn't part of its key.
        GraphNode& node = graph.nodes[index];
        const std::string kind = node.params.at("kind");
        for (const Parameter& parameter : kParameters)
            if (!one_of(kind, parameter.kinds)) node.params.erase(parameter.name);
        if (!takes_public(kind)) node.inputs.erase("public");
        if (!takes_experts(kind)) node.inputs.erase("experts");
        if (!takes_encoder(kind, node.params.value("own_encoders", false))) node.inputs.erase("encoder");
    }
    const GraphNode head = graph.nodes[index];
    const std::string kind = head.params.at("kind");
    check_folds(graph, head);
    if (takes_public(kind) && sources_of(head, "public").empty())
        graph.nodes[index].inputs["public"] = {imply_public(graph, head)};
    const std::vector<size_t> data = sources_of(head, "data"), shared = sources_of(graph.nodes[index], "public"),
                              experts = sources_of(head, "experts");
    std::vector<FeaturesOf> wanted;
    if (kind == "concatenate.public") {
        // Which set is whose is known for sure when the experts are, by the groups that they have heard.
        for (const size_t expert : experts) {
            const std::vector<size_t> heard = sources_of(graph.nodes[expert], "data");
            for (const size_t set : data)
                if (std::find(heard.begin(), heard.end(), set) != heard.end()) wanted.push_back({expert, set});
            for (const size_t set : shared) wanted.push_back({expert, set});
        }
    } else if (kind != "concatenate.raw") {
        for (const size_t set : data) wanted.push_back({sources_of(head, "encoder").at(0), set});
        for (const size_t set : shared) wanted.push_back({sources_of(head, "encoder").at(0), set});
    }
    imply_features(graph, index, wanted);
}

/// The experts by their groups and labels, and by the width of their own heads.
void describe_experts(Describing& describing, const std::string& kind, const Together& data) {
    const std::vector<const Description*>& experts = describing.input_list("experts");
    std::vector<ExpertFacts> facts;
    bool groups_known = data.groups.size() == describing.input_list("data").size();
    for (size_t e = 0; e < experts.size(); ++e) {
        groups_known &= experts[e]->groups.has_value();
        facts.push_back(
            {describing.id("experts", e), experts[e]->groups.value_or(std::vector<std::string>()), experts[e]->labels});
    }
    try {
        if (groups_known) sets_of_experts(kind, facts, data.groups);
        if (data.looked && kind != "concatenate.public") require_known(data.train_labels, facts);
    } catch (const Error& error) {
        describing.problem("/in/experts", fmt::format("'{}': ", describing.node.id) + error.message(), error.code());
    }
    if (describing.node.params.value("own_encoders", false)) return;
    const Description& encoder = *describing.input("encoder");
    for (size_t e = 0; e < experts.size(); ++e)
        if (other_width(*experts[e], encoder, experts[e]->pooling)) {
            const std::string pooling = experts[e]->pooling.empty() ? "mean" : experts[e]->pooling;
            describing.problem("/in/encoder",
                               fmt::format("the head of '{}' takes {} features, but '{}' gives {} with the pooling {}; "
                                           "expected an encoder like the expert's",
                                           facts[e].node, *pooled_size(*experts[e], pooling), describing.id("encoder"),
                                           *pooled_size(encoder, pooling), pooling),
                               Code::kRunFailed);
        }
}

void describe_head(Describing& describing) {
    Description& out = describing.out;
    const std::string kind = describing.node.params.at("kind");
    if (const Description* encoder = describing.input("encoder")) take_encoder(out, *encoder);
    const Together data = describe_training(describing, "data");
    if (takes_experts(kind)) describe_experts(describing, kind, data);
    out.pooling = describing.node.params.value("pooling", "mean");
    out.holds = kind == "concatenate.raw" ? "own heads of all experts" : "features of all clips";

    // The encoder is a link to the one that there is; beside it lie the sums.
    const auto width = static_cast<uint64_t>(pooled_size(out, out.pooling).value_or(0));
    if (!data.looked || width == 0) return;
    const uint64_t labels = data.train_labels.size(), sets = data.sets.size();
    uint64_t numbers = labels * width;
    if (kind == "ridge" || kind == "lda") numbers += sets * (width * width + width * labels);
    if (kind == "gated") numbers += sets * (width * width + width * sets);
    if (kind == "prototype") numbers += sets * 2 * width * labels;
    out.bytes = numbers * sizeof(double);
    uint64_t windows = 0;
    for (const ClipSet* set : data.sets)
        if (out.window_seconds) windows += windows_of(*set, *out.window_seconds, std::nullopt);
    if (kind == "knn") *out.bytes += windows * width * sizeof(float);
    const uint64_t all_bands = static_cast<uint64_t>(pooled_size(out, "bands").value_or(0));
    if (kind != "concatenate.raw")
        out.memory_bytes = windows * (all_bands * sizeof(float) + width * sizeof(double)) + *out.bytes;
}

}  // namespace

NodeType head_type() {
    return {
        .name = "head",
        .summary = "a classifier over all labels of its data on a frozen encoder",
        .inputs = {{.name = "encoder",
                    .types = {"encoder", "checkpoint"},
                    .required = false,
                    .summary = "stays as it is; needed by all but concatenations of experts with their own encoders"},
                   {.name = "data",
                    .types = {"dataset"},
                    .many = true,
                    .summary = "one per contributor; what each sends of its own train clips depends on the kind"},
                   {.name = "experts",
                    .types = {"checkpoint"},
                    .many = true,
                    .required = false,
                    .summary = "the contributors' own models, for concatenate.raw, concatenate.public and gated"},
                   {.name = "public",
                    .types = {"dataset"},
                    .many = true,
                    .required = false,
                    .summary =
                        "clips that everybody has, for concatenate.public and refit.public: all of them, whatever "
                        "their labels, are \"other\"; without any, synthetic backgrounds"},
                   {.name = "features", .types = {"features"}, .many = true, .required = false, .implied = true}},
        .output = std::string(port::kHead),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "kind": {"enum": ["ridge", "lda", "prototype", "concatenate.raw", "concatenate.public", "refit.public", "gated",
                                  "probe", "probe.nihal2026", "knn"], "default": "ridge",
                         "description": "what is fitted, and from what contributors send; docs/pipelines.md has the table"},
                "name": {"type": "string", "default": "",
                         "description": "what tables call the head; empty = its kind and the parameters that are given. Heads of different names are not compared"},
                "pooling": {"enum": ["mean", "bands"],
                            "description": "mean over all frames (default), or over time for each frequency band of the encoder; contributors' own heads keep theirs"},
                "strength": {"type": "number", "exclusiveMinimum": 0,
                             "description": "of the penalty on standardised features; without it, ridge chooses by generalised cross-validation, the logistic regressions (probe, *.public) on the valid split"},
                "shrinkage": {"type": "number", "exclusiveMinimum": 0, "maximum": 1,
                              "description": "lda, gated: how far the covariance is drawn towards its diagonal; without it, the oracle approximating shrinkage"},
                "priors": {"enum": ["uniform", "train"],
                           "description": "lda, gated: all classes alike (default), or as frequent as in the train clips"},
                "k": {"type": "integer", "minimum": 1, "maximum": 10000, "description": "knn: neighbours, default 5"},
                "shared_species": {"enum": ["max", "mean"],
                                   "description": "concatenations: the score of a label that several contributors have, default max"},
                "own_encoders": {"type": "boolean",
                                 "description": "concatenate.raw, concatenate.public, gated: each expert's head reads its own encoder, at as many times the cost"}
            }
        })"),
        .torch = true,
        .sources = sources::k_head,
        .run = [](TaskContext& context) { torch_runtime().run_head(context); },
        .check = check_head,
        .expand = expand_head,
        .describe = describe_head,
    };
}

}  // namespace biophony
