#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "learn/discriminant.hpp"
#include "learn/encoder.hpp"
#include "learn/features.hpp"
#include "learn/head_model.hpp"
#include "learn/logistic.hpp"
#include "learn/model_files.hpp"
#include "learn/ridge.hpp"
#include "learn/runtime.hpp"
#include "learn/tensors.hpp"
#include "tasks/head_rules.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

namespace {

/// Recordings of a class below which its sums say much about single clips.
constexpr size_t kFewRecordings = 5;

/// One contributor's sums, as they would be sent.
void save_sums(const std::filesystem::path& file, const std::string& format, double n,
               const std::vector<std::pair<std::string, at::Tensor>>& tensors, const std::vector<std::string>& labels,
               const std::string& group) {
    std::vector<SafetensorsWriter::Tensor> announced;
    for (const auto& [name, tensor] : tensors) announced.push_back({name, DType::kF64, tensor.sizes().vec()});
    SafetensorsWriter writer(file, announced,
                             {{"biophony.format", format},
                              {"biophony.group", group},
                              {"biophony.n", fmt::format("{}", n)},
                              {"biophony.labels", canonical(labels)}});
    for (const auto& [name, tensor] : tensors) {
        const at::Tensor dense = tensor.contiguous();
        writer.write(name, 0, {static_cast<const std::byte*>(dense.data_ptr()), dense.nbytes()});
    }
    writer.finish();
}

/// A contributor's own model: an encoder with a linear head, and the sets whose groups it has heard.
struct Expert {
    const InputArtefact* artefact = nullptr;
    std::vector<std::string> labels;
    LinearPart head;
    std::vector<size_t> sets;
};

/// Fits one head: what all kinds need, and a function for each.
class Fitting {
public:
    explicit Fitting(TaskContext& context)
        : context_(context),
          sets_(load_sets(context.input_list("data"))),
          labels_(trained_labels(sets_)),
          kind_(context.params.at("kind")),
          own_encoders_(context.params.value("own_encoders", false)),
          pooling_(pooling_from(context.params.value("pooling", "mean"))) {}

    void run() {
        const auto begin = std::chrono::steady_clock::now();
        if (const Cost* cost = cost_of(kind_)) {
            model_.sends = cost->sends;
            model_.pools_clips = cost->rounds == 0;
            details_ = {{"needs", cost->sends},
                        {"rounds", cost->rounds == 0 ? Json(nullptr) : Json(cost->rounds)},
                        {"pools_clips", model_.pools_clips}};
        }
        model_.labels = labels_;
        model_.pooling = pooling_;
        for (const ClipSet& set : sets_) model_.groups.push_back(set.group);
        model_.name = name();
        if (kind_ == "ridge") ridge();
        if (kind_ == "lda") discriminant();
        if (kind_ == "prototype") prototype();
        if (kind_ == "concatenate.raw") concatenate_raw();
        if (kind_ == "concatenate.public") concatenate_public();
        if (kind_ == "refit.public") refit_public();
        if (kind_ == "gated") gated();
        if (kind_ == "probe" || kind_ == "probe.nihal2026") probe();
        if (kind_ == "knn") neighbours();
        model_.save(context_.out / "head.safetensors");

        Json encoders = Json::array({nullptr});
        if (context_.inputs.contains("encoder")) {
            hand_on_encoder(context_.input("encoder"), context_.out);
            encoders[0] = context_.input("encoder").digest;
        }
        if (own_encoders_)
            for (const InputArtefact& expert : context_.input_list("experts")) {
                hand_on_encoder(expert, context_.out, fmt::format("encoder-{}.safetensors", encoders.size()));
                encoders.push_back(expert.digest);
            }
        details_.update({{"format", "biophony-head/0"},
                         {"kind", kind_},
                         {"name", model_.name},
                         {"labels", labels_},
                         {"groups", model_.groups},
                         {"pooling", to_string(pooling_)},
                         {"windows", windows_},
                         {"encoders", encoders}});
        write_json(context_.out / "head.json", details_);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        context_.headline = fmt::format("{} labels, {} windows{}, {:.1f} s", labels_.size(), windows_, told_, seconds);
    }

private:
    /// What a kind needs of contributors. No rounds: clips, or their features, in one place.
    struct Cost {
        const char* kind;
        const char* sends;
        int rounds;
    };
    static const Cost* cost_of(const std::string& kind) {
        static constexpr Cost kCosts[] = {{"ridge", "sums", 2},
                                          {"lda", "sums", 2},
                                          {"prototype", "class means", 2},
                                          {"concatenate.raw", "own heads", 1},
                                          {"concatenate.public", "own heads", 1},
                                          {"refit.public", "own heads", 2},
                                          {"gated", "sums, own heads", 2},
                                          {"probe", "clips", 0},
                                          {"probe.nihal2026", "clips", 0},
                                          {"knn", "clips", 0}};
        for (const Cost& cost : kCosts)
            if (kind == cost.kind) return &cost;
        return nullptr;
    }

    std::string name() const {
        const Json& params = context_.params;
        if (const std::string given = params.at("name"); !given.empty()) return given;
        std::string out = kind_;
        if (pooling_ != Pooling::kMean) out += fmt::format(", {}", to_string(pooling_));
        for (const char* number : {"strength", "shrinkage"})
            if (params.contains(number)) out += fmt::format(", {} {}", number, params[number].get<double>());
        if (params.contains("k") && params["k"] != 5) out += fmt::format(", k {}", params["k"].get<int>());
        if (params.value("priors", "uniform") != "uniform") out += ", train priors";
        if (params.value("shared_species", "max") != "max") out += ", mean of shared species";
        if (own_encoders_) out += ", own encoders";
        return out;
    }

    std::optional<double> number(const char* parameter) const {
        if (!context_.params.contains(parameter)) return std::nullopt;
        return context_.params[parameter].get<double>();
    }

    const FeatureSet& features(const InputArtefact& encoder, const InputArtefact& data, const ClipSet& clips) {
        const auto key = std::pair(encoder.digest, data.digest);
        const auto found = features_.find(key);
        if (found != features_.end()) return found->second;
        return features_
            .emplace(key, find_features(context_.input_list("features"), encoder.digest, data.digest, clips))
            .first->second;
    }

    /// The windows of one set's split whose label is among `labels`.
    Examples examples(const InputArtefact& encoder, size_t set, Split split, const std::vector<std::string>& labels) {
        const FeatureSet& from = features(encoder, context_.input_list("data")[set], sets_[set]);
        std::vector<int64_t> rows;
        Examples out;
        for (const int64_t w : from.windows_of(sets_[set], split)) {
            const Clip& clip = sets_[set].clips[static_cast<size_t>(from.clips[static_cast<size_t>(w)])];
            const int64_t label = class_of(labels, clip.label);
            if (label < 0) continue;
            rows.push_back(w);
            out.labels.push_back(label);
        }
        out.features = from.pooled(pooling_).index_select(0, tensor_of(rows));
        return out;
    }

    Examples joined(const std::vector<Examples>& parts) {
        Examples out;
        std::vector<at::Tensor> all;
        for (const Examples& part : parts) {
            all.push_back(part.features);
            out.labels.insert(out.labels.end(), part.labels.begin(), part.labels.end());
        }
        out.features = at::cat(all);
        return out;
    }

    /// Of several sets of one contributor; each set's sums say nothing more than this.
    Examples examples(const InputArtefact& encoder, const std::vector<size_t>& sets, Split split,
                      const std::vector<std::string>& labels) {
        std::vector<Examples> parts;
        for (const size_t set : sets) parts.push_back(examples(encoder, set, split, labels));
        return joined(parts);
    }

    std::vector<size_t> all_sets() const {
        std::vector<size_t> out(sets_.size());
        for (size_t i = 0; i < out.size(); ++i) out[i] = i;
        return out;
    }

    std::vector<std::string> labels_of(const std::vector<size_t>& sets) const {
        std::set<std::string> out;
        for (const size_t set : sets)
            for (const Clip& clip : sets_[set].clips)
                if (clip.split == Split::kTrain) out.insert(clip.label);
        return {out.begin(), out.end()};
    }

    void linear(const at::Tensor& weight, const at::Tensor& bias) {
        std::vector<int64_t> classes;
        for (size_t c = 0; c < labels_.size(); ++c) classes.push_back(static_cast<int64_t>(c));
        model_.form = LinearModel{
            {.weight = weight, .bias = bias, .pooling = pooling_, .encoder = 0, .classes = std::move(classes)}};
    }

    /// Sums of few recordings say much about each; whoever sends them should know.
    void note_rare_classes() {
        size_t rare = 0;
        for (const ClipSet& set : sets_) {
            std::map<std::string, std::set<std::string>> recordings;
            for (const Clip& clip : set.clips)
                if (clip.split == Split::kTrain) recordings[clip.label].insert(set.recordings[clip.recording].unit);
            for (const auto& [label, units] : recordings) rare += units.size() < kFewRecordings ? 1 : 0;
        }
        details_["classes_of_few_recordings"] = rare;
        if (rare > 0)
            context_.note(
                fmt::format("{} classes of a contributor have fewer than {} train recordings; what is sent of "
                            "them says much about single recordings",
                            rare, kFewRecordings));
    }

    // Kinds that work on sums: one contributor after the other sees its own clips only.

    RidgeSums total_sums() {
        const InputArtefact& encoder = context_.input("encoder");
        std::optional<RidgeSums> total;
        for (size_t i = 0; i < sets_.size(); ++i) {
            const Examples own = examples(encoder, i, Split::kTrain, labels_);
            RidgeSums sums(own.features.size(1), static_cast<int64_t>(labels_.size()));
            if (!own.labels.empty()) sums.add(own.features, own.labels);
            send(i, sums, labels_, sets_[i].group);
            if (total)
                *total += sums;
            else
                total = std::move(sums);
            windows_ += own.labels.size();
        }
        note_rare_classes();
        return std::move(*total);
    }

    void send(size_t contributor, const RidgeSums& sums, const std::vector<std::string>& labels,
              const std::string& group) {
        save_sums(context_.out / fmt::format("sums-{}.safetensors", contributor), "ridge-sums/0", sums.n,
                  {{"sum_x", sums.x}, {"sum_y", sums.y}, {"xx", sums.xx}, {"xy", sums.xy}, {"yy", sums.yy}}, labels,
                  group);
    }

    void ridge() {
        const RidgeModel model = solve_ridge(total_sums(), number("strength"));
        if (model.at_edge)
            context_.note(fmt::format("the best ridge strength, {:.3g}, lies at the edge of the grid that was searched",
                                      model.strength));
        linear(model.weight, model.bias);
        details_.update({{"strength", model.strength}, {"gcv", model.gcv}, {"strength_at_edge", model.at_edge}});
        told_ = fmt::format(", strength {:.2g}", model.strength);
    }

    bool train_priors() const { return context_.params.value("priors", "uniform") == "train"; }

    void discriminant() {
        const DiscriminantModel model = solve_discriminant(total_sums(), number("shrinkage"), train_priors());
        linear(model.weight, model.bias);
        details_["shrinkage"] = model.shrinkage;
        told_ = fmt::format(", shrinkage {:.2g}", model.shrinkage);
    }

    void prototype() {
        std::optional<ClassSums> total;
        for (size_t i = 0; i < sets_.size(); ++i) {
            const Examples own = examples(context_.input("encoder"), i, Split::kTrain, labels_);
            ClassSums sums(own.features.size(1), static_cast<int64_t>(labels_.size()));
            sums.add(own.features, own.labels);
            save_sums(context_.out / fmt::format("sums-{}.safetensors", i), "class-sums/0",
                      static_cast<double>(own.labels.size()),
                      {{"sum_y", sums.y}, {"xy", sums.xy}, {"squares", sums.squares}}, labels_, sets_[i].group);
            if (total)
                *total += sums;
            else
                total = std::move(sums);
            windows_ += own.labels.size();
        }
        note_rare_classes();
        Prototypes prototypes = solve_prototypes(*total);
        model_.form = CosineModel{prototypes.means, prototypes.mean, prototypes.inverse};
    }

    // Kinds that are made of contributors' heads.

    std::vector<Expert> experts() {
        std::vector<Expert> out;
        std::vector<ExpertFacts> facts;
        for (const InputArtefact& artefact : context_.input_list("experts")) {
            const HeadModel head = HeadModel::load(artefact.folder / "head.safetensors");
            const auto* form = std::get_if<LinearModel>(&head.form);
            if (form == nullptr)
                throw Error(Code::kRunFailed, fmt::format("the head of '{}' is not linear", artefact.node));
            out.push_back({.artefact = &artefact, .labels = head.labels, .head = form->part, .sets = {}});
            facts.push_back({artefact.node, head.groups, head.labels});
        }
        const std::vector<std::vector<size_t>> sets = sets_of_experts(kind_, facts, model_.groups);
        for (size_t e = 0; e < out.size(); ++e) out[e].sets = sets[e];
        if (kind_ != "concatenate.public") require_known(labels_, facts);
        return out;
    }

    /// A contributor's scores of its own labels as a part of the union's; other labels have no place there.
    LinearPart part_of(const at::Tensor& weight, const at::Tensor& bias, const std::vector<std::string>& labels,
                       Pooling pooling, size_t encoder) const {
        LinearPart part{.pooling = pooling, .encoder = encoder};
        std::vector<int64_t> rows;
        for (size_t k = 0; k < labels.size(); ++k)
            if (const int64_t c = class_of(labels_, labels[k]); c >= 0) {
                rows.push_back(static_cast<int64_t>(k));
                part.classes.push_back(c);
            }
        part.weight = weight.index_select(0, tensor_of(rows));
        part.bias = bias.index_select(0, tensor_of(rows));
        return part;
    }

    /// What an expert's contributor is called: "frog", "frog+bird".
    std::string groups_of(const Expert& expert) const {
        std::vector<std::string> groups;
        for (const size_t set : expert.sets) groups.push_back(sets_[set].group);
        return fmt::format("{}", fmt::join(groups, "+"));
    }

    size_t encoder_of(size_t expert) const { return own_encoders_ ? expert + 1 : 0; }

    void check_width(const LinearPart& part, const std::string& node) {
        if (own_encoders_ || part.encoder != 0) return;
        if (!info_) {
            info_ = load_encoder(context_.input("encoder").folder / "encoder.safetensors", *context_.registry)
                        .module->info();
        }
        if (const int64_t width = pooled_width(*info_, part.pooling); width != part.weight.size(1))
            throw Error(
                Code::kRunFailed,
                fmt::format("the head of '{}' takes {} features, but '{}' gives {} with the pooling {}; expected "
                            "an encoder like the expert's",
                            node, part.weight.size(1), context_.input("encoder").node, width, to_string(part.pooling)));
    }

    std::vector<LinearPart> own_heads(const std::vector<Expert>& all) {
        std::vector<LinearPart> parts;
        for (size_t e = 0; e < all.size(); ++e) {
            const LinearPart& head = all[e].head;
            parts.push_back(part_of(head.weight, head.bias, all[e].labels, head.pooling, encoder_of(e)));
            check_width(parts.back(), all[e].artefact->node);
        }
        return parts;
    }

    void side_by_side(std::vector<LinearPart> parts) {
        model_.form =
            SideBySideModel{std::move(parts), context_.params.value("shared_species", std::string("max")) == "mean"};
    }

    void concatenate_raw() { side_by_side(own_heads(experts())); }

    /// The windows of the public sets on this encoder, all of the class `other`. Nobody is tested on public clips, so
    /// those of the test split are train clips, too.
    struct PublicExamples {
        Examples train, valid;
    };
    PublicExamples public_examples(const InputArtefact& encoder, int64_t other) {
        std::set<std::vector<std::string>> ours;
        for (const ClipSet& set : sets_)
            for (const ClipRecording& recording : set.recordings)
                for (const auto& identity : identities(set, recording)) ours.insert(identity);
        std::vector<Examples> train, valid;
        for (const InputArtefact& data : context_.input_list("public")) {
            const ClipSet set = ClipSet::load(data.folder);
            for (const ClipRecording& recording : set.recordings)
                for (const auto& identity : identities(set, recording))
                    if (ours.contains(identity))
                        throw Error(Code::kRunFailed,
                                    fmt::format("the recording '{}' is in the public data set '{}' and in a data set "
                                                "of this head; public clips must show none of the labels",
                                                recording.id, data.node));
            const FeatureSet& from = features(encoder, data, set);
            const at::Tensor all = from.pooled(pooling_);
            std::vector<int64_t> rows[2];
            for (size_t w = 0; w < from.clips.size(); ++w)
                rows[set.clips.at(static_cast<size_t>(from.clips[w])).split == Split::kValid].push_back(
                    static_cast<int64_t>(w));
            for (const bool held_out : {false, true})
                (held_out ? valid : train)
                    .push_back({all.index_select(0, tensor_of(rows[held_out])),
                                std::vector<int64_t>(rows[held_out].size(), other)});
        }
        return {joined(train), joined(valid)};
    }

    /// What users should know of a fit.
    void note_fit(const LogisticModel& model, const std::string& contributor = "") {
        const std::string whose = contributor.empty() ? "" : fmt::format(" of '{}'", contributor);
        if (model.at_edge)
            context_.note(fmt::format("the best strength{}, {:.3g}, lies at the edge of the grid that was searched",
                                      whose, model.strength));
        if (model.gradient > kLogisticTolerance)
            context_.note(
                fmt::format("the fit{} ended before its optimum: its largest derivative is {:.3g}, expected "
                            "at most {:.3g}",
                            whose, model.gradient, kLogisticTolerance));
    }
    static Json told_of(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

    /// One contributor's logistic regression with the public clips as one more class, as log-odds against it.
    LinearPart against_public(const InputArtefact& encoder, const std::vector<size_t>& sets,
                              const std::string& contributor, size_t heard_by) {
        const std::vector<std::string> own = labels_of(sets);
        if (own.empty())
            throw Error(Code::kRunFailed, fmt::format("the contributor '{}' has no train clips", contributor));
        const auto other = static_cast<int64_t>(own.size());
        const Examples train = examples(encoder, sets, Split::kTrain, own);
        windows_ += train.labels.size();
        const PublicExamples everybody = public_examples(encoder, other);
        if (everybody.train.labels.empty())
            throw Error(Code::kRunFailed, "the public data sets have no clips outside of the valid split");
        // A contributor fits once, whatever its head is then put on: what is fitted in this process is remembered.
        static std::map<std::string, LogisticModel> known;
        Json key = {encoder.digest, to_string(pooling_), context_.params.value("strength", Json())};
        for (const size_t set : sets) key.push_back(context_.input_list("data")[set].digest);
        for (const InputArtefact& data : context_.input_list("public")) key.push_back({"public", data.digest});
        auto found = known.find(key.dump());
        if (found == known.end()) {
            constexpr size_t kMost = 64;
            if (known.size() >= kMost) known.clear();
            // Public clips alone would favour whatever calls everything "other".
            Examples valid = examples(encoder, sets, Split::kValid, own);
            if (!valid.labels.empty()) valid = joined({valid, everybody.valid});
            found = known
                        .emplace(key.dump(), fit_logistic(joined({train, everybody.train}), valid, other + 1,
                                                          number("strength"), *context_.progress, *context_.cancel))
                        .first;
        }
        const LogisticModel& fitted = found->second;
        note_fit(fitted, contributor);
        details_["contributors"].push_back({{"name", contributor},
                                            {"labels", own},
                                            {"train_windows", train.labels.size()},
                                            {"public_windows", everybody.train.labels.size()},
                                            {"strength", fitted.strength},
                                            {"valid_loss", told_of(fitted.valid_loss)},
                                            {"strength_at_edge", fitted.at_edge},
                                            {"largest_derivative", fitted.gradient}});
        return part_of(fitted.weight.narrow(0, 0, other) - fitted.weight[other],
                       fitted.bias.narrow(0, 0, other) - fitted.bias[other], own, pooling_, heard_by);
    }

    void concatenate_public() {
        const std::vector<Expert> all = experts();
        std::vector<LinearPart> parts;
        for (size_t e = 0; e < all.size(); ++e) {
            parts.push_back(against_public(*all[e].artefact, all[e].sets, groups_of(all[e]), encoder_of(e)));
            check_width(parts.back(), all[e].artefact->node);
        }
        side_by_side(std::move(parts));
    }

    void refit_public() {
        std::vector<LinearPart> parts;
        for (size_t i = 0; i < sets_.size(); ++i)
            parts.push_back(against_public(context_.input("encoder"), {i}, sets_[i].group, 0));
        side_by_side(std::move(parts));
    }

    void gated() {
        const std::vector<Expert> all = experts();
        std::vector<std::string> names;
        for (const Expert& expert : all) names.push_back(groups_of(expert));
        std::optional<RidgeSums> total;
        for (size_t e = 0; e < all.size(); ++e) {
            Examples own = examples(context_.input("encoder"), all[e].sets, Split::kTrain, labels_);
            if (own.labels.empty())
                throw Error(Code::kRunFailed, fmt::format("the group '{}' has no train clips", names[e]));
            windows_ += own.labels.size();
            own.labels.assign(own.labels.size(), static_cast<int64_t>(e));
            RidgeSums sums(own.features.size(1), static_cast<int64_t>(all.size()));
            sums.add(own.features, own.labels);
            send(e, sums, names, names[e]);
            if (total)
                *total += sums;
            else
                total = std::move(sums);
        }
        const DiscriminantModel gate = solve_discriminant(*total, number("shrinkage"), train_priors());
        GatedModel model{.gate = {.weight = gate.weight, .bias = gate.bias, .pooling = pooling_}, .parts = {}};
        for (size_t e = 0; e < all.size(); ++e) model.gate.classes.push_back(static_cast<int64_t>(e));
        model.parts = own_heads(all);
        model_.form = std::move(model);
        details_["shrinkage"] = gate.shrinkage;
        told_ = fmt::format(", shrinkage {:.2g}", gate.shrinkage);
    }

    // Kinds that need everybody's clips in one place.

    void probe() {
        const InputArtefact& encoder = context_.input("encoder");
        const auto classes = static_cast<int64_t>(labels_.size());
        const Examples train = examples(encoder, all_sets(), Split::kTrain, labels_);
        windows_ = train.labels.size();
        if (kind_ == "probe.nihal2026") {
            const LogisticModel model = fit_probe_nihal2026(train, classes, context_.seed, *context_.cancel);
            return linear(model.weight, model.bias);
        }
        const LogisticModel model = fit_logistic(train, examples(encoder, all_sets(), Split::kValid, labels_), classes,
                                                 number("strength"), *context_.progress, *context_.cancel);
        note_fit(model);
        linear(model.weight, model.bias);
        details_.update({{"strength", model.strength},
                         {"valid_loss", told_of(model.valid_loss)},
                         {"strength_at_edge", model.at_edge},
                         {"largest_derivative", model.gradient}});
        told_ = fmt::format(", strength {:.2g}", model.strength);
    }

    void neighbours() {
        Examples train = examples(context_.input("encoder"), all_sets(), Split::kTrain, labels_);
        windows_ = train.labels.size();
        const at::Tensor length = train.features.norm(2, 1, true).clamp_min(1e-30);
        NeighboursModel model{train.features / length, std::move(train.labels), context_.params.value("k", int64_t{5})};
        details_["k"] = model.k;
        model_.form = std::move(model);
    }

    TaskContext& context_;
    std::vector<ClipSet> sets_;
    std::vector<std::string> labels_;
    std::string kind_;
    bool own_encoders_;
    Pooling pooling_;
    std::map<std::pair<std::string, std::string>, FeatureSet> features_;  // by the digests of encoder and data
    std::optional<EncoderInfo> info_;
    HeadModel model_;
    Json details_ = Json::object();
    size_t windows_ = 0;  ///< train windows of contributors
    std::string told_;
};

}  // namespace

void run_head(TaskContext& context) {
    const at::NoGradGuard no_grad;
    Fitting(context).run();
}

}  // namespace biophony
