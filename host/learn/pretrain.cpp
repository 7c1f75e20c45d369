#include "learn/pretrain.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <map>
#include <memory>

#include "base/random.hpp"
#include "learn/autocast.hpp"
#include "learn/optimiser.hpp"
#include "learn/pooling.hpp"
#include "learn/tensors.hpp"

namespace biophony {

namespace {

enum : uint64_t {
    kOfDropout = 1,
    kOfContrastive = 2,
    kOfSupervised = 3,
    kOfMasked = 4,
    kOfStream = 5,
    kOfMasks = 6
};  // what a seed is for

/// A linear layer with Xavier-uniform weights and a bias of zero.
struct Linear {
    Linear(int64_t out, int64_t in, Random& random)
        : weight(xavier_uniform(out, in, random).requires_grad_(true)), bias(at::zeros({out}).requires_grad_(true)) {}
    at::Tensor operator()(const at::Tensor& x) const { return at::linear(x, weight, bias); }
    at::Tensor weight, bias;
};

std::vector<Pooling> poolings_from(const std::string& text) {
    if (text == "both") return {Pooling::kMean, Pooling::kBands};
    return {pooling_from(text)};
}

/// An objective on frames, with the parameters of its own head.
class Objective {
public:
    virtual ~Objective() = default;
    struct Result {
        at::Tensor loss, accuracy;  ///< scalars; the loss with gradient
    };
    /// `frames` (B, T, D) float32 of the batch with these items.
    virtual Result operator()(const at::Tensor& frames, const std::vector<BatchItem>& items) = 0;
    const std::vector<at::Tensor>& parameters() const { return parameters_; }

protected:
    std::vector<at::Tensor> parameters_;
};

/// Each column with mean 0 and deviation 1 over the batch (batch normalisation without weights). All windows share a
/// large mean at first; without this their similarities are all but equal, and so is the loss for long.
at::Tensor standardised(const at::Tensor& x) {
    const at::Tensor centred = x - x.mean(0);
    return centred / (centred.square().mean(0) + 1e-5).sqrt();
}

class Contrastive : public Objective {
public:
    Contrastive(const EncoderInfo& info, const std::vector<ClipSet>& data, const BatchPlan& plan,
                const PretrainSettings::Contrastive& settings, uint64_t seed)
        : info_(info), pairs_(data, plan), temperature_(settings.temperature) {
        Random random(seed);
        for (const Pooling pooling : poolings_from(settings.pooling)) {
            const int64_t hidden = 2 * info.width;
            branches_.push_back({pooling, Linear(hidden, pooled_width(info, pooling), random),
                                 Linear(settings.projection, hidden, random)});
            for (const Linear* layer : {&branches_.back().first, &branches_.back().second})
                parameters_.insert(parameters_.end(), {layer->weight, layer->bias});
        }
    }

    Result operator()(const at::Tensor& frames, const std::vector<BatchItem>& items) override {
        const Pairs::Batch pairs = pairs_(items);
        Result total;
        const auto count = static_cast<double>(branches_.size());
        for (const Branch& branch : branches_) {
            const at::Tensor hidden = branch.first(standardised(pool(frames, info_, branch.pooling)));
            const at::Tensor z = branch.second(at::gelu(standardised(hidden)));
            const ContrastiveResult one =
                contrastive_loss(z / z.norm(2, {1}, true).clamp_min(1e-12), pairs.labels, pairs.excluded, temperature_);
            total.loss = total.loss.defined() ? total.loss + one.loss / count : one.loss / count;
            total.accuracy = total.accuracy.defined() ? total.accuracy + one.accuracy / count : one.accuracy / count;
        }
        return total;
    }

private:
    struct Branch {
        Pooling pooling;
        Linear first, second;
    };
    EncoderInfo info_;
    Pairs pairs_;
    double temperature_;
    std::vector<Branch> branches_;
};

class Supervised : public Objective {
public:
    Supervised(const EncoderInfo& info, const BatchPlan& plan, size_t sets,
               const PretrainSettings::Supervised& settings, uint64_t seed)
        : info_(info), poolings_(poolings_from(settings.pooling)), layers_(sets) {
        Random random(seed);
        for (size_t s = 0; s < sets; ++s)
            for (const Pooling pooling : poolings_) {
                const auto classes = static_cast<int64_t>(plan.labels(s).size());
                layers_[s].emplace_back(classes, pooled_width(info, pooling), random);
                parameters_.insert(parameters_.end(), {layers_[s].back().weight, layers_[s].back().bias});
            }
    }

    Result operator()(const at::Tensor& frames, const std::vector<BatchItem>& items) override {
        Result total{at::zeros({}), at::zeros({})};
        const auto count = static_cast<double>(poolings_.size() * items.size());
        for (size_t p = 0; p < poolings_.size(); ++p) {
            const at::Tensor features = pool(frames, info_, poolings_[p]);
            // The windows of a set stand side by side.
            for (size_t begin = 0, end = 0; begin < items.size(); begin = end) {
                std::vector<int64_t> truth;
                for (end = begin; end < items.size() && items[end].set == items[begin].set; ++end)
                    truth.push_back(items[end].label);
                const at::Tensor logits = layers_[items[begin].set][p](
                    features.narrow(0, static_cast<int64_t>(begin), static_cast<int64_t>(end - begin)));
                const at::Tensor target = tensor_of(truth);
                total.loss =
                    total.loss +
                    at::cross_entropy_loss(logits, target, {}, at::Reduction::Sum, -100, kLabelSmoothing) / count;
                total.accuracy = total.accuracy + logits.detach().argmax(1).eq(target).sum() / count;
            }
        }
        return total;
    }

private:
    EncoderInfo info_;
    std::vector<Pooling> poolings_;
    std::vector<std::vector<Linear>> layers_;  ///< set → pooling
};

}  // namespace

PretrainSettings PretrainSettings::from(const Json& params) {
    PretrainSettings out;
    const Json &contrastive = params.at("contrastive"), &supervised = params.at("supervised"),
               &masked = params.at("masked"), &augment = params.at("augment");
    out.steps = params.at("steps");
    out.batch = params.at("batch");
    out.views = contrastive.at("views");
    out.learning_rate = params.at("learning_rate");
    out.weight_decay = params.at("weight_decay");
    out.warm_up = params.at("warm_up");
    out.clip_norm = params.at("clip_norm");
    out.bfloat16 = params.at("precision") == "bf16";
    out.log_every = params.at("log_every");
    out.shares = params.value("shares", std::vector<double>());
    out.contrastive = {contrastive.at("weight"), contrastive.at("temperature"), contrastive.at("pooling"),
                       contrastive.at("projection")};
    out.supervised = {supervised.at("weight"), supervised.at("pooling")};
    out.masked = {masked.at("weight"), masked.at("share"), masked.at("codes"), masked.at("predictor_layers"),
                  masked.at("predictor_width")};
    const Json& background = augment.at("background");
    out.augmentation = {augment.at("gain_db").at(0), augment.at("gain_db").at(1),   augment.at("equaliser_db"),
                        background.at("share"),      background.at("snr_db").at(0), background.at("snr_db").at(1)};
    return out;
}

Pairs::Pairs(const std::vector<ClipSet>& data, const BatchPlan& plan) : data_(data) {
    std::map<std::string, int64_t> names, recordings;
    int64_t first = 0;
    for (size_t s = 0; s < data.size(); ++s) {
        first_.push_back(first);
        first += static_cast<int64_t>(plan.labels(s).size());
        auto& mine = names_.emplace_back();
        for (const std::string& label : plan.labels(s))
            mine.push_back(names.try_emplace(label, static_cast<int64_t>(names.size())).first->second);
        auto& heard = recordings_.emplace_back();
        for (const ClipRecording& recording : data[s].recordings)
            heard.push_back(
                recordings.try_emplace(recording.content, static_cast<int64_t>(recordings.size())).first->second);
    }
}

Pairs::Batch Pairs::operator()(const std::vector<BatchItem>& items) const {
    std::vector<int64_t> labels, names, recordings;
    for (const BatchItem& item : items) {
        labels.push_back(first_[item.set] + item.label);
        names.push_back(names_[item.set][static_cast<size_t>(item.label)]);
        recordings.push_back(recordings_[item.set][data_[item.set].clips[item.clip].recording]);
    }
    auto equal = [](const at::Tensor& x) { return x.unsqueeze(0).eq(x.unsqueeze(1)); };
    const at::Tensor label = tensor_of(labels);
    return {label, (equal(tensor_of(names)) | equal(tensor_of(recordings))).logical_and(equal(label).logical_not())};
}

ContrastiveResult contrastive_loss(const at::Tensor& z, const at::Tensor& labels, const at::Tensor& excluded,
                                   double temperature) {
    constexpr double kHidden = -1e6;  // finite, so that a row with nothing to see has a gradient, zero
    const at::Tensor self = at::eye(z.size(0), at::TensorOptions(at::kBool));
    const at::Tensor hidden = self | excluded;
    const at::Tensor positive = labels.unsqueeze(0).eq(labels.unsqueeze(1)).logical_and(hidden.logical_not());
    const at::Tensor similarity = at::matmul(z, z.t()).masked_fill(hidden, kHidden);  // (B, B)
    const at::Tensor scaled = similarity / temperature;
    const at::Tensor log_share = scaled - at::logsumexp(scaled, {1}, true);
    const at::Tensor positives = positive.sum(1);
    const at::Tensor counted = positives.gt(0);
    const at::Tensor each = log_share.masked_fill(positive.logical_not(), 0).sum(1) / positives.clamp_min(1);
    const at::Tensor rows = counted.sum().clamp_min(1);
    const at::Tensor right = positive.gather(1, similarity.detach().argmax(1, true)).squeeze(1);
    return {-each.sum() / rows, right.sum().to(at::kFloat) / rows};
}

Pretrained pretrain(Encoder& encoder, const std::vector<ClipSet>& data, const std::vector<ClipSet>& backgrounds,
                    const Registry& registry, const PretrainSettings& settings, uint64_t seed, size_t threads,
                    Progress& progress, const Cancel& cancel, const std::function<void(std::string_view)>& log) {
    // Dropout and layer drop draw from LibTorch's generator; torch nodes run one at a time.
    at::manual_seed(mix(seed, kOfDropout));
    const EncoderInfo info = encoder.info();
    const std::vector<double> shares =
        settings.shares.empty() ? std::vector<double>(data.size(), 1.0) : settings.shares;
    const BatchPlan plan(data, shares, settings.batch, settings.views, seed);
    struct Sums {
        double weight = 0, loss = 0, accuracy = 0, codes = 0;  ///< sums since the last entry of the history
    };
    std::map<std::string, Sums> sums;
    std::map<std::string, std::unique_ptr<Objective>> on_frames;
    if (settings.contrastive.weight > 0) {
        sums["contrastive"].weight = settings.contrastive.weight;
        on_frames["contrastive"] =
            std::make_unique<Contrastive>(info, data, plan, settings.contrastive, mix(seed, kOfContrastive));
    }
    if (settings.supervised.weight > 0) {
        sums["supervised"].weight = settings.supervised.weight;
        on_frames["supervised"] =
            std::make_unique<Supervised>(info, plan, data.size(), settings.supervised, mix(seed, kOfSupervised));
    }
    std::unique_ptr<MaskedPrediction> masked;
    if (settings.masked.weight > 0) {
        sums["masked"].weight = settings.masked.weight;
        masked = std::make_unique<MaskedPrediction>(info, settings.masked, mix(seed, kOfMasked));
    }
    DecayGroups learned(encoder);
    auto add_head = [&learned](const std::vector<at::Tensor>& parameters) {
        for (const at::Tensor& parameter : parameters)
            (parameter.dim() > 1 ? learned.decayed : learned.plain).push_back(parameter);
    };
    for (const auto& [name, objective] : on_frames) add_head(objective->parameters());
    if (masked) add_head(masked->parameters());
    Optimiser optimiser(
        {{learned.decayed, settings.learning_rate, settings.weight_decay}, {learned.plain, settings.learning_rate, 0}});
    WaveStream stream(data, backgrounds, registry, plan, settings.augmentation, info.sample_rate,
                      static_cast<size_t>(std::llround(info.window_seconds * info.sample_rate)), settings.steps,
                      mix(seed, kOfStream), threads);

    Pretrained out{.history = Json::array()};
    encoder.train();
    const auto begin = std::chrono::steady_clock::now();
    int64_t since = 0;
    for (int64_t step = 0; step < settings.steps; ++step) {
        cancel.check();
        const WaveBatch batch = stream.next(cancel);
        const at::Tensor features = encoder.features(batch.waves);
        at::Tensor loss = at::zeros({});
        auto add = [&](const std::string& name, const at::Tensor& part, const at::Tensor& accuracy) {
            Sums& sum = sums[name];
            loss = loss + sum.weight * part;
            sum.loss += part.item<double>();
            sum.accuracy += accuracy.item<double>();
        };
        if (!on_frames.empty()) {
            at::Tensor frames;
            {
                const Autocast autocast(settings.bfloat16);
                frames = encoder.frames(features, std::nullopt).to(at::kFloat);
            }
            for (const auto& [name, objective] : on_frames) {
                const Objective::Result result = (*objective)(frames, batch.items);
                add(name, result.loss, result.accuracy);
            }
        }
        if (masked) {
            const MaskedPrediction::Result result =
                (*masked)(encoder, features, settings.bfloat16, mix(mix(seed, kOfMasks), static_cast<uint64_t>(step)));
            add("masked", result.loss, result.accuracy);
            sums["masked"].codes += static_cast<double>(result.codes.flatten().bincount().gt(0).sum().item<int64_t>());
        }
        if (!std::isfinite(loss.item<double>()))
            throw Error(Code::kRunFailed,
                        fmt::format("the loss is no longer finite in step {}; a lower learning rate than {} may help",
                                    step + 1, settings.learning_rate));
        const double factor = warm_up_then_cosine(step, settings.steps, settings.warm_up);
        optimiser.step(loss, factor, settings.clip_norm);
        ++since;
        progress.update(static_cast<double>(step + 1) * static_cast<double>(settings.batch),
                        static_cast<double>(settings.steps) * static_cast<double>(settings.batch), "windows");
        if ((step + 1) % settings.log_every != 0 && step + 1 != settings.steps) continue;
        Json entry = {{"step", step + 1}, {"learning_rate", factor * settings.learning_rate}};
        std::string line = fmt::format("step {}/{}:", step + 1, settings.steps);
        for (auto& [name, sum] : sums) {
            const double loss_mean = sum.loss / static_cast<double>(since),
                         accuracy_mean = sum.accuracy / static_cast<double>(since);
            entry[name] = {{"loss", loss_mean}, {"accuracy", accuracy_mean}};
            if (name == "masked") entry[name]["codes"] = sum.codes / static_cast<double>(since);
            line += fmt::format(" {} loss {:.4f}, accuracy {:.3f};", name, loss_mean, accuracy_mean);
            sum = {.weight = sum.weight};
        }
        since = 0;
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        out.windows_per_second =
            static_cast<double>(step + 1) * static_cast<double>(settings.batch) / std::max(seconds, 1e-9);
        log(fmt::format("{} {:.0f} windows/s", line, out.windows_per_second));
        out.history.push_back(std::move(entry));
    }
    encoder.eval();
    return out;
}

}  // namespace biophony
