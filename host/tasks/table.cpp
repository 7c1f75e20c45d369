// table: the product's one table. It implies the rows that every table has: base, joint and controls with the same
// heads as the scored models, joint's own head, the specialists within their groups and as an ensemble, the base with
// their heads, a random step and mel statistics. Folds and repeats of one model are one row.
#include "report/table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/files.hpp"
#include "base/schema.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/graph.hpp"
#include "tasks/features.hpp"
#include "tasks/node_types.hpp"

namespace biophony {

namespace {

constexpr const char* kBaseRow = "base";
constexpr const char* kJointRow = "joint";
constexpr const char* kRandomStepRow = "random step";
constexpr const char* kMelRow = "mel-statistics";
/// Filled in by expand_table(), so that they count for the key: what the controls' rows are called, and what rows are
/// missing and why.
constexpr const char* kControlRows = "control_rows";
constexpr const char* kMissingRows = "missing_rows";
/// Heads whose scores come from the experts' own heads.
constexpr const char* kRawHeads = "concatenate.raw";
constexpr const char* kGatedHeads = "gated";
constexpr std::array kHeadsOfExperts = {kRawHeads, "concatenate.public", kGatedHeads};
/// The heads whose training draws random numbers: with another seed it is another head.
constexpr const char* kDrawnHeads = "probe.nihal2026";
/// What a head that reads the experts' own encoders has in its name; the row says so already.
constexpr std::string_view kOwnEncoders = ", own encoders";

void run_table(TaskContext& context) {
    std::map<std::pair<std::string, std::string>, TableRow> rows;
    TableReference reference{.joint = context.inputs.contains("joint") ? kJointRow : "",
                             .base = context.inputs.contains("base") ? kBaseRow : ""};
    reference.controls = context.params.value(kControlRows, std::vector<std::string>());
    reference.missing = context.params.value(kMissingRows, std::vector<std::string>());
    for (const InputArtefact& score : context.input_list("scores")) {
        Predictions predictions = Predictions::from_json(read_json(score.folder / "predictions.json"));
        if (predictions.row == kEnsembleRow && predictions.head.ends_with(kOwnEncoders))
            predictions.head.resize(predictions.head.size() - kOwnEncoders.size());
        TableRow& row = rows[{predictions.row, predictions.head}];
        row.row = predictions.row;
        row.head = predictions.head;
        row.pooled_data = predictions.row == reference.joint;
        row.parts.push_back(std::move(predictions));
    }
    std::vector<TableRow> list;
    for (auto& [key, row] : rows) list.push_back(std::move(row));
    std::vector<Comparison> comparisons;
    for (const Json& entry : context.params.at("compare"))
        comparisons.push_back({entry.at("a"), entry.at("b"), entry.value("figure", "union") == "within"});
    const Table table =
        make_table(std::move(list), reference, context.params.at("resamples"), context.seed, comparisons);
    write_file_atomically(context.out / "table.txt", table.to_text());
    write_file_atomically(context.out / "table.csv", table.to_csv());
    write_file_atomically(context.out / "table.md", table.to_markdown());
    write_file_atomically(context.out / "species.csv", table.species_csv);
    write_file_atomically(context.out / "confusion.csv", table.confusion_csv);
    if (!comparisons.empty()) write_file_atomically(context.out / "compare.csv", table.to_compare_csv());
    write_json(context.out / "table.json", table.json);
    context.headline = fmt::format("{} rows", table.cells.size());
}

using Inputs = std::map<std::string, std::vector<size_t>>;
using AxisValues = std::vector<std::pair<std::string, std::string>>;

/// What the expansion of one table needs of the graph, and what it has made so far.
class Expander {
public:
    Expander(Graph& graph, size_t index) : graph_(graph), index_(index), table_(graph.nodes[index]) {
        scores_ = table_port("scores");
        for (const size_t score : scores_) {
            if (node(score).type->name != "evaluate") continue;
            evaluates_.push_back(score);
            for (const size_t model : sources_of(node(score), "model"))
                if (node(model).type->name == "head") heads_.push_back({score, model});
        }
    }

    void run() {
        check_splits();
        check_joint();
        std::map<std::string, std::vector<size_t>> controls = control_rows();
        imply_mel_statistics(controls);
        for (const auto& [row, encoders] : controls) control_names_.insert(row);
        const std::vector<size_t> joints = table_port("joint"), bases = table_port("base");
        for (const Scored& scored : heads_) {
            const bool experts = of_experts(kind_of(scored.head));
            if (node(scored.head).params.value("own_encoders", false)) continue;
            if (!bases.empty()) repeat_head(kBaseRow, scored, partner("base", bases, scored.head));
            if (!joints.empty()) repeat_head(kJointRow, scored, partner("joint", joints, scored.head));
            for (const auto& [row, encoders] : controls) {
                const size_t encoder = partner("controls", encoders, scored.head);
                // The experts' heads are made for the experts' architecture.
                if (!experts || item_of(encoder) == item_of(sources_of(node(scored.head), "encoder").at(0)))
                    repeat_head(row, scored, encoder);
            }
            add_random_step(scored);
        }
        add_heads_of_experts();
        score_joint();
        score_experts();
        for (const auto& [evaluate, repeats] : repeats_)
            if (Json& params = graph_.nodes[evaluate].params; params.contains("repeat"))
                params["repeat"] = repeats.size() == 1 ? *repeats.begin() : std::string();
        graph_.nodes[index_].inputs["scores"] = scores_;
        if (!control_names_.empty()) graph_.nodes[index_].params[kControlRows] = control_names_;
        if (!missing_.empty()) graph_.nodes[index_].params[kMissingRows] = missing_;
    }

private:
    /// A head that is scored in the text, and its score.
    struct Scored {
        size_t evaluate = 0, head = 0;
    };

    const GraphNode& node(size_t n) const { return graph_.nodes[n]; }
    std::vector<size_t> table_port(const char* name) const { return sources_of(table_, name); }
    std::string kind_of(size_t head) const { return node(head).params.value("kind", ""); }
    static bool of_experts(std::string_view kind) {
        return std::find(kHeadsOfExperts.begin(), kHeadsOfExperts.end(), kind) != kHeadsOfExperts.end();
    }

    std::set<size_t> data_of(size_t n) const {
        const std::vector<size_t> data = sources_of(node(n), "data");
        return {data.begin(), data.end()};
    }

    std::string names_of(const auto& nodes) const {
        std::vector<std::string> names;
        for (const size_t n : nodes) names.push_back("'" + node(n).id + "'");
        return names.empty() ? "nothing" : fmt::format("{}", fmt::join(names, ", "));
    }

    /// Whether no axis that both have has different values.
    bool agree(size_t a, size_t b) const {
        for (const auto& [axis, value] : node(a).axes)
            for (const auto& [other, its] : node(b).axes)
                if (axis == other && value != its) return false;
        return true;
    }
    bool share_an_axis(size_t a, size_t b) const {
        for (const auto& [axis, value] : node(a).axes)
            for (const auto& [other, its] : node(b).axes)
                if (axis == other) return true;
        return false;
    }

    /// The axes of `of` that its inputs share, by name. Implied nodes have their values in their names, "[0]", so that
    /// those of one fold are called the same whichever other folds run. Inputs of one port share an axis only if all
    /// have it, with the same value.
    AxisValues shared_axes(size_t of, const Inputs& inputs) const {
        AxisValues axes = node(of).axes;
        std::sort(axes.begin(), axes.end());
        std::erase_if(axes, [&](const auto& axis) {
            return std::none_of(inputs.begin(), inputs.end(), [&](const auto& input) {
                return !input.second.empty() &&
                       std::all_of(input.second.begin(), input.second.end(), [&](size_t source) {
                           const AxisValues& has = node(source).axes;
                           return std::find(has.begin(), has.end(), axis) != has.end();
                       });
            });
        });
        return axes;
    }
    static std::string in_brackets(const AxisValues& axes) {
        std::string out;
        for (const auto& [axis, value] : axes) out += (out.empty() ? "[" : ",") + value;
        return out.empty() ? out : out + "]";
    }

    /// Adds a node with these parameters, and returns its index. Its seed is the table's.
    size_t imply(std::string id, const NodeType& type, Json params, Inputs inputs) {
        if (const size_t there = graph_.index_of(id); there < graph_.nodes.size()) return there;
        GraphNode made;
        made.id = std::move(id);
        made.stem = made.id;
        made.type = &type;
        made.params = std::move(params);
        made.seed = table_.seed;
        made.inputs = std::move(inputs);
        made.implied = true;
        made.where = table_.where;
        graph_.nodes.push_back(std::move(made));
        return graph_.nodes.size() - 1;
    }

    /// The node that this table has implied with the same parameters, inputs and beginning of its name, else a new one:
    /// "stem[0]", and where that is another one "stem.2[0]". A new one has this seed; one that stands must have it only
    /// where `drawn`.
    size_t imply_once(const std::string& stem, const AxisValues& axes, const NodeType& type, const Json& params,
                      const Inputs& inputs, uint64_t seed, bool drawn = false) {
        const std::string values = in_brackets(axes);
        int count = 1;
        for (std::string name = stem + values;; name = fmt::format("{}.{}{}", stem, ++count, values)) {
            const size_t there = graph_.index_of(name);
            if (there == graph_.nodes.size()) {
                const size_t made = imply(name, type, params, inputs);
                graph_.nodes[made].axes = axes;
                graph_.nodes[made].seed = seed;
                return made;
            }
            if (node(there).params == params && connected(there) == inputs && (!drawn || node(there).seed == seed))
                return there;
        }
    }
    /// A node's inputs without those that its own type implies.
    Inputs connected(size_t n) const {
        Inputs inputs = node(n).inputs;
        inputs.erase("features");
        return inputs;
    }

    void add_score(size_t n) {
        if (std::find(scores_.begin(), scores_.end(), n) == scores_.end()) scores_.push_back(n);
    }

    /// Scores a model as `like` is, on those of the data where it isn't scored yet; what it says of a set doesn't
    /// depend on the others. "stem[0]" has the axes of `of` that only the data have. A row keeps its repeat where all
    /// who want it agree on one.
    void evaluate(const std::string& stem, const std::string& row, size_t model, size_t of,
                  const std::vector<size_t>& data, Json like, const std::set<std::string>& repeats) {
        std::vector<size_t> left = data;
        for (const size_t there : scores_of_[model]) {
            const std::set<size_t> scored = data_of(there);
            if (std::erase_if(left, [&](size_t set) { return scored.contains(set); }) > 0)
                repeats_[there].insert(repeats.begin(), repeats.end());
        }
        if (left.empty()) return;
        like["row"] = row;
        if (like.contains("repeat")) like["repeat"] = "";
        AxisValues axes = shared_axes(of, {{"data", left}});
        std::erase_if(axes, [&](const auto& axis) {
            const AxisValues& has = node(model).axes;
            return std::find(has.begin(), has.end(), axis) != has.end();
        });
        const size_t made = imply_once(stem, axes, *node_types().find("evaluate"), like,
                                       {{"model", {model}}, {"data", left}}, table_.seed);
        scores_of_[model].push_back(made);
        repeats_[made].insert(repeats.begin(), repeats.end());
        add_score(made);
    }
    std::string repeat_of(size_t evaluate) const {
        const Json repeat = node(evaluate).params.value("repeat", Json(""));
        return repeat.is_string() ? repeat.get<std::string>() : repeat.dump();
    }

    /// Makes a head and its score in a row; nodes of the same content that stand already serve again.
    void add_head(const std::string& row, const Scored& like, const Json& params, const Inputs& inputs) {
        const std::string stem = fmt::format("{}:{}.{}", table_.id, row, params.value("kind", "head"));
        const size_t made = imply_once(stem, shared_axes(like.head, inputs), *node_types().find("head"), params, inputs,
                                       node(like.head).seed, params.value("kind", "") == kDrawnHeads);
        evaluate(node(made).id + ".score", row, made, like.evaluate, sources_of(node(like.evaluate), "data"),
                 node(like.evaluate).params, {repeat_of(like.evaluate)});
    }

    /// The scored head once more, on another encoder.
    void repeat_head(const std::string& row, const Scored& scored, size_t encoder) {
        Inputs inputs = connected(scored.head);
        // Those who don't listen to the experts are the same with every seed of theirs.
        if (!of_experts(kind_of(scored.head))) inputs.erase("experts");
        inputs["encoder"] = {encoder};
        add_head(row, scored, node(scored.head).params, inputs);
    }

    /// The one among a port's nodes that a head is compared with: the only one, or, of those that stand for the same
    /// values of the axes that they share with the head, that which has the same data as the head.
    size_t partner(const std::string& port, const std::vector<size_t>& candidates, size_t head) const {
        const std::set<size_t> data = data_of(head);
        if (candidates.size() == 1) {
            // Made for one fold, it may have heard the test clips of another.
            const std::set<size_t> own = data_of(candidates[0]);
            const bool foreign =
                !own.empty() && std::none_of(data.begin(), data.end(), [&](size_t d) { return own.contains(d); });
            if (foreign &&
                std::any_of(heads_.begin(), heads_.end(), [&](const Scored& h) { return data_of(h.head) == own; }))
                throw Error(
                    Code::kInvalid,
                    fmt::format("the port '{}' has one node, {}, trained on {}, but '{}' is fitted on {}; expected one "
                                "for each fold",
                                port, names_of(candidates), names_of(own), node(head).id, names_of(data)));
            return candidates[0];
        }
        std::vector<size_t> like, fitting;
        for (const size_t candidate : candidates)
            if (agree(candidate, head)) like.push_back(candidate);
        for (const size_t candidate : like)
            if (data_of(candidate) == data) fitting.push_back(candidate);
        // A joint model may have backgrounds that the head doesn't have.
        if (fitting.empty())
            for (const size_t candidate : like)
                if (const std::set<size_t> scored = scored_data_of(candidate);
                    !scored.empty() && scored == scored_data_of(head))
                    fitting.push_back(candidate);
        // One that was trained on nothing, like a random start per seed, goes by its axes alone.
        if (fitting.empty() && like.size() == 1 && data_of(like[0]).empty() && share_an_axis(like[0], head))
            return like[0];
        if (fitting.size() != 1)
            throw Error(
                Code::kInvalid,
                fmt::format("the port '{}' has {} nodes ({}), and {} of them were trained on the data of '{}' ({}); "
                            "expected one",
                            port, candidates.size(), names_of(candidates), fitting.size(), node(head).id,
                            names_of(data)));
        return fitting[0];
    }

    /// The experts whose clips a head is fitted on: its own, else the table's.
    std::vector<size_t> experts_of(size_t head) const {
        if (std::vector<size_t> own = sources_of(node(head), "experts"); !own.empty()) return own;
        std::vector<size_t> out;
        for (const size_t expert : table_port("experts"))
            if (agree(expert, head) && heard_among(expert, data_of(head))) out.push_back(expert);
        return out;
    }

    /// A node's data without what no score of the text has, like backgrounds beside an expert's own clips.
    std::set<size_t> scored_data_of(size_t n) const {
        std::set<size_t> scored, out;
        for (const size_t evaluate : evaluates_) scored.merge(data_of(evaluate));
        for (const size_t set : data_of(n))
            if (scored.contains(set)) out.insert(set);
        return out;
    }
    bool heard_among(size_t expert, const std::set<size_t>& data) const {
        const std::set<size_t> heard = scored_data_of(expert);
        return !heard.empty() && std::includes(data.begin(), data.end(), heard.begin(), heard.end());
    }

    /// One table speaks of one split: rows of different splits would have no clip in common.
    void check_splits() const {
        for (const size_t evaluate : evaluates_) {
            const std::string first = node(evaluates_[0]).params.value("split", "test"),
                              split = node(evaluate).params.value("split", "test");
            if (split != first)
                throw Error(Code::kInvalid,
                            fmt::format("'{}' is scored on the split '{}' and '{}' on '{}'; expected one split for all "
                                        "scores of a table",
                                        node(evaluates_[0]).id, first, node(evaluate).id, split));
        }
    }

    /// The plugin that an encoder comes from; null where that can't be told.
    const ItemInfo* item_of(size_t encoder) const {
        for (size_t at = encoder;;) {
            if (node(at).item != nullptr) return node(at).item;
            std::vector<size_t> from = sources_of(node(at), "encoder");
            if (from.empty()) from = sources_of(node(at), "base");
            if (from.empty()) return nullptr;
            at = from[0];
        }
    }

    /// The gap to joint training speaks of merging only if everything else is equal.
    void check_joint() const {
        for (const size_t joint : table_port("joint")) {
            const std::set<size_t> data = data_of(joint);
            if (node(joint).type->name != "fine-tune" || data.empty()) continue;
            std::vector<size_t> experts;
            bool axes = table_port("joint").size() == 1;
            for (const size_t expert : table_port("experts")) {
                if (node(expert).type->name != "fine-tune" || !agree(joint, expert)) continue;
                experts.push_back(expert);
                axes |= share_an_axis(joint, expert);
            }
            // Folds that are written out have no axes to go by.
            if (!axes)
                std::erase_if(experts, [&](size_t expert) {
                    const std::set<size_t> heard = data_of(expert);
                    return std::none_of(heard.begin(), heard.end(), [&](size_t d) { return data.contains(d); });
                });
            if (experts.empty()) continue;
            std::set<size_t> heard;
            for (const size_t expert : experts) heard.merge(data_of(expert));
            if (heard != data)
                throw Error(Code::kInvalid,
                            fmt::format("'{}' was trained on {}, but the experts it is compared with ({}) on {}; "
                                        "expected the same clips",
                                        node(joint).id, names_of(data), names_of(experts), names_of(heard)));
            for (const size_t expert : experts) {
                if (sources_of(node(joint), "encoder") != sources_of(node(expert), "encoder"))
                    throw Error(Code::kInvalid,
                                fmt::format("'{}' starts from {}, but the expert '{}' from {}; expected the same base",
                                            node(joint).id, names_of(sources_of(node(joint), "encoder")),
                                            node(expert).id, names_of(sources_of(node(expert), "encoder"))));
                check_same_params(joint, expert);
            }
        }
    }

    void check_same_params(size_t joint, size_t expert) const {
        std::set<std::string> names;
        for (const size_t n : {joint, expert})
            for (const auto& [name, value] : node(n).params.items()) names.insert(name);
        for (const std::string& name : names) {
            const Json a = node(joint).params.value(name, Json()), b = node(expert).params.value(name, Json());
            auto text = [](const Json& value) { return value.is_null() ? std::string("nothing") : value.dump(); };
            if (a != b)
                throw Error(Code::kInvalid,
                            fmt::format("'{}' and the expert '{}' are trained differently: '{}' is {} and {}; expected "
                                        "the same, or the gap between them would not be that of merging",
                                        node(joint).id, node(expert).id, name, text(a), text(b)));
        }
    }

    /// Rows of controls, by name: what was trained on one fold each makes one row, called like the node without its
    /// axes.
    std::map<std::string, std::vector<size_t>> control_rows() const {
        std::map<std::string, std::vector<size_t>> of_stem, rows;
        for (const size_t control : table_port("controls")) of_stem[node(control).stem].push_back(control);
        for (const auto& [stem, nodes] : of_stem) {
            if (nodes.size() == 1 || !data_of(nodes[0]).empty())
                rows[stem] = nodes;
            else
                for (const size_t n : nodes) rows[node(n).id] = {n};
        }
        for (const char* taken : {kBaseRow, kJointRow, kSpecialistsRow, kEnsembleRow, kRandomStepRow})
            if (rows.contains(taken))
                throw Error(
                    Code::kInvalid,
                    fmt::format("a control is called '{}', which is the name of another row; expected another name",
                                taken));
        return rows;
    }

    /// Without a network: what a model doesn't gain on it, it hasn't learned.
    void imply_mel_statistics(std::map<std::string, std::vector<size_t>>& controls) {
        const std::vector<size_t> bases = table_port("base");
        if (bases.empty() || heads_.empty() || controls.contains(kMelRow)) return;
        std::vector<size_t> there = bases;
        for (const auto& [row, encoders] : controls) there.insert(there.end(), encoders.begin(), encoders.end());
        for (const size_t encoder : there)
            if (const ItemInfo* item = item_of(encoder); item != nullptr && item->id == kMelRow) return;
        const ItemInfo* item = graph_.registry == nullptr ? nullptr : graph_.registry->find("encoder", kMelRow);
        if (item == nullptr) {
            missing_.push_back(
                fmt::format("there is no control without a network: encoder:{} is not installed", kMelRow));
            return;
        }
        // Windows of the same length, where the base says how long its are.
        Json params = Json::object();
        std::vector<Diagnostic> problems;
        for (size_t at = bases[0]; at < graph_.nodes.size();) {
            const std::vector<size_t> from = sources_of(node(at), "encoder");
            if (from.empty()) {
                if (node(at).params.contains("window_seconds"))
                    params["window_seconds"] = node(at).params["window_seconds"];
                break;
            }
            at = from[0];
        }
        apply_schema(item->parameters, params, "", problems);
        if (!problems.empty()) {
            params = Json::object();
            apply_schema(item->parameters, params, "", problems);
        }
        const size_t made = imply(fmt::format("{}:{}", table_.id, kMelRow), *node_types().find("encoder"), params, {});
        graph_.nodes[made].item = item;
        controls[kMelRow] = {made};
    }

    /// A step of random direction, as long in each tensor as the merge's average, or as what its expression sums: what
    /// any step of this size does.
    void add_random_step(const Scored& scored) {
        const size_t merged = sources_of(node(scored.head), "encoder").at(0);
        if (node(merged).type->name != "compose") return;
        for (const Scored& other : heads_)
            for (const size_t encoder : sources_of(node(other.head), "encoder"))
                if (node(encoder).type->name == "compose" &&
                    node(encoder).params.dump().find("\"merger:random-step\"") != std::string::npos)
                    return;  // the pipeline has its own
        for (const char* id : {"average", "random-step"})
            if (graph_.registry == nullptr || graph_.registry->find("merger", id) == nullptr) {
                const std::string reason = fmt::format(
                    "there is no random step of matched norm: merger:{} is not "
                    "installed",
                    id);
                if (std::find(missing_.begin(), missing_.end(), reason) == missing_.end()) missing_.push_back(reason);
                return;
            }
        Inputs inputs = node(merged).inputs;
        auto names = node(merged).names;  // of the vectors; the result says them
        Json params = {{"stages", {{{"use", "merger:average"}}, {{"use", "merger:random-step"}}}}};
        if (node(merged).params.contains("expression")) {
            params["stages"][0] = node(merged).params.at("stages").at(0);
        } else {
            std::vector<std::pair<size_t, std::string>> vectors;
            for (size_t i = 0; i < inputs["vectors"].size(); ++i)
                vectors.emplace_back(inputs["vectors"][i], names["vectors"].at(i));
            std::sort(vectors.begin(), vectors.end());
            for (size_t i = 0; i < vectors.size(); ++i)
                std::tie(inputs["vectors"][i], names["vectors"][i]) = vectors[i];
        }
        const AxisValues axes = shared_axes(merged, inputs);
        const size_t made = imply_once(fmt::format("{}:random-step", table_.id), axes, *node_types().find("compose"),
                                       params, inputs, node(merged).seed);
        if (graph_.nodes[made].names.empty()) graph_.nodes[made].names = std::move(names);
        // Steps of other folds and repeats are the same row's, whether axes make them or the text.
        std::vector<size_t>& steps = steps_[{data_of(scored.head), in_brackets(axes), repeat_of(scored.evaluate)}];
        const auto place = std::find(steps.begin(), steps.end(), made) - steps.begin();
        if (static_cast<size_t>(place) == steps.size()) steps.push_back(made);
        const std::string row = place == 0 ? kRandomStepRow : fmt::format("{} {}", kRandomStepRow, place + 1);
        control_names_.insert(row);
        repeat_head(row, scored, made);
    }

    /// A head of another kind for what a scored head is made of, with its pooling.
    Json head_like(const Scored& scored, const char* kind) const {
        Json params = {{"kind", kind}};
        const Json& like = node(scored.head).params;
        if (like.contains("pooling") && std::string_view(kind) != kRawHeads) params["pooling"] = like.at("pooling");
        std::vector<Diagnostic> none;
        apply_schema(node_types().find("head")->parameters, params, "", none);
        return params;
    }

    /// The base under the experts' heads, which looks like composition and is none, and the experts together.
    void add_heads_of_experts() {
        if (table_port("experts").empty()) return;
        const std::vector<size_t> bases = table_port("base");
        std::set<std::string> scored_kinds, own_kinds;
        for (const Scored& scored : heads_)
            (node(scored.head).params.value("own_encoders", false) ? own_kinds : scored_kinds)
                .insert(kind_of(scored.head));
        const bool any = std::any_of(kHeadsOfExperts.begin(), kHeadsOfExperts.end(),
                                     [&](const char* kind) { return scored_kinds.contains(kind); });
        for (const Scored& scored : heads_) {
            const std::vector<size_t> experts = experts_of(scored.head);
            if (experts.empty() || node(scored.head).params.value("own_encoders", false)) continue;
            Inputs inputs = {{"data", sources_of(node(scored.head), "data")}, {"experts", experts}};
            if (!bases.empty() && !scored_kinds.contains(kRawHeads)) {
                Inputs on_base = inputs;
                on_base["encoder"] = {partner("base", bases, scored.head)};
                add_head(kBaseRow, scored, head_like(scored, kRawHeads), on_base);
            }
            const std::string kind = kind_of(scored.head);
            std::optional<Json> params;
            if (of_experts(kind)) {
                params = node(scored.head).params;
                if (std::vector<size_t> shared = sources_of(node(scored.head), "public"); !shared.empty())
                    inputs["public"] = shared;
            } else if (!any) {
                params = head_like(scored, kGatedHeads);
            }
            if (!params || experts.size() < 2 || own_kinds.contains(params->at("kind"))) continue;
            (*params)["own_encoders"] = true;
            if (params->at("kind") == kGatedHeads) {
                if (bases.empty()) continue;
                inputs["encoder"] = {partner("base", bases, scored.head)};
            }
            add_head(kEnsembleRow, scored, *params, inputs);
        }
    }

    /// The joint models with their own heads, scored as the heads that are compared with them.
    void score_joint() {
        const std::vector<size_t> joints = table_port("joint");
        struct How {
            size_t like = 0;
            std::set<std::string> repeats;
        };
        std::map<size_t, How> own;
        auto want = [&](size_t joint, size_t evaluate) {
            own[joint].like = evaluate;
            own[joint].repeats.insert(repeat_of(evaluate));
        };
        if (joints.size() == 1)
            for (const size_t evaluate : evaluates_) want(joints[0], evaluate);
        if (joints.size() > 1)
            for (const Scored& scored : heads_) want(partner("joint", joints, scored.head), scored.evaluate);
        for (const auto& [joint, how] : own) {
            const std::vector<size_t> data = sources_of(node(how.like), "data");
            if (node(joint).output() != port::kCheckpoint || data.empty()) continue;
            evaluate(
                fmt::format("{}:joint.own{}.score", table_.id, in_brackets(shared_axes(joint, {{"own", {joint}}}))),
                kJointRow, joint, how.like, data, node(how.like).params, how.repeats);
        }
    }

    void score_experts() {
        for (const size_t expert : table_port("experts")) {
            Json like = {{"split", "test"}, {"row", ""}};
            std::set<std::string> repeats;
            for (const size_t evaluate : evaluates_) {
                like = node(evaluate).params;
                if (agree(expert, evaluate) && heard_among(expert, data_of(evaluate)))
                    repeats.insert(repeat_of(evaluate));
            }
            evaluate(fmt::format("{}:{}.score", table_.id, node(expert).id), kSpecialistsRow, expert, expert,
                     sources_of(node(expert), "data"), like, repeats);
        }
    }

    Graph& graph_;
    const size_t index_;
    const GraphNode table_;
    std::vector<size_t> scores_;
    std::vector<size_t> evaluates_;  ///< the scores of the text that are evaluations
    std::vector<Scored> heads_;
    std::map<size_t, std::set<std::string>> repeats_;  ///< implied evaluation → the repeats that asked for it
    std::map<size_t, std::vector<size_t>> scores_of_;  ///< model → its implied evaluations
    /// A head's data, axes and repeat → the random steps for them.
    std::map<std::tuple<std::set<size_t>, std::string, std::string>, std::vector<size_t>> steps_;
    std::set<std::string> control_names_;
    std::vector<std::string> missing_;
};

void expand_table(Graph& graph, size_t index) {
    Expander(graph, index).run();
}

void describe_table(Describing& describing) {
    describing.out.holds = "predictions of all scores";
}

}  // namespace

NodeType table_type() {
    return {
        .name = "table",
        .summary = "all models side by side, with the rows that every table has",
        .inputs = {{.name = "scores", .types = {"metrics"}, .many = true, .summary = "the models to compare"},
                   {.name = "joint",
                    .types = {"checkpoint", "encoder"},
                    .many = true,
                    .required = false,
                    .summary =
                        "trained on all groups' clips as the experts are on theirs, one per fold and seed; scored "
                        "with its own head and with the models' heads"},
                   {.name = "base",
                    .types = {"encoder"},
                    .many = true,
                    .required = false,
                    .summary =
                        "the untouched base (one per fold, if it was trained on the folds' data); scored with the "
                        "models' heads, and with the experts' own"},
                   {.name = "controls",
                    .types = {"encoder", "checkpoint"},
                    .many = true,
                    .required = false,
                    .summary = "encoders for comparison; each gets the models' heads and a row with its own name"},
                   {.name = "experts",
                    .types = {"checkpoint"},
                    .many = true,
                    .required = false,
                    .summary = "the specialists; scored within their groups, and all together as an ensemble"}},
        .output = std::string(port::kReport),
        .shown = "table.txt",
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "resamples": {"type": "integer", "minimum": 100, "maximum": 100000, "default": 1000,
                              "description": "rounds of the bootstrap behind the intervals"},
                "compare": {
                    "type": "array", "default": [],
                    "description": "differences a − b of two rows with their intervals, printed below the table",
                    "items": {
                        "type": "object", "required": ["a", "b"],
                        "properties": {
                            "a": {"type": "string", "description": "a row and its head: \"average · ridge\""},
                            "b": {"type": "string", "description": "what is subtracted: \"base · ridge\""},
                            "figure": {"enum": ["within", "union"], "default": "union",
                                       "description": "best class of the clip's own group, or of all"}
                        }
                    }
                }
            }
        })"),
        .sources = sources::k_table,
        .run = run_table,
        .expand = expand_table,
        .describe = describe_table,
    };
}

}  // namespace biophony
