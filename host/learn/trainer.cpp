#include "learn/trainer.hpp"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>

#include "base/random.hpp"
#include "learn/augment.hpp"
#include "learn/autocast.hpp"
#include "learn/optimiser.hpp"
#include "learn/ridge.hpp"
#include "learn/tensors.hpp"

namespace biophony {

namespace {

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& target, const Recipe& recipe) {
    return at::cross_entropy_loss(logits, target, {}, at::Reduction::Mean, -100, recipe.label_smoothing);
}

/// Xavier uniform, as the source paper's head; zero bias.
LinearHead fresh_head(int64_t classes, int64_t width, uint64_t seed) {
    Random random(seed);
    return {xavier_uniform(classes, width, random), at::zeros({classes})};
}

/// Scores (N, C) float64 of ridge probes that have not heard the window's recording, for features (N, D) float64: the
/// recordings are dealt to five folds, label by label, and each fold is scored by the ridge of this strength on the
/// others, solved in the space of windows. `target[i]` becomes -100, which the loss leaves out, where the others lack
/// the class.
at::Tensor unheard_scores(const at::Tensor& features, std::span<const int64_t> labels,
                          std::span<const std::string> recordings, int64_t classes, double strength,
                          std::vector<int64_t>& target) {
    constexpr int64_t kFolds = 5;
    std::map<int64_t, int64_t> dealt;             // label → how many recordings were dealt for it
    std::map<std::string, int64_t> of_recording;  // one with several labels counts for the first of them
    std::vector<int64_t> fold;
    for (size_t i = 0; i < labels.size(); ++i) {
        const auto [at, added] = of_recording.try_emplace(recordings[i], 0);
        if (added) at->second = dealt[labels[i]]++ % kFolds;
        fold.push_back(at->second);
    }
    at::Tensor scores = at::zeros({features.size(0), classes}, at::kDouble);
    target.assign(labels.size(), -100);
    for (int64_t f = 0; f < kFolds; ++f) {
        std::vector<int64_t> heard, unheard;
        for (size_t i = 0; i < fold.size(); ++i) (fold[i] == f ? unheard : heard).push_back(static_cast<int64_t>(i));
        if (heard.size() < 2 || unheard.empty()) continue;
        at::Tensor truth = at::zeros({static_cast<int64_t>(heard.size()), classes}, at::kDouble);
        std::vector<bool> known(static_cast<size_t>(classes), false);
        for (size_t i = 0; i < heard.size(); ++i) {
            const int64_t label = labels[static_cast<size_t>(heard[i])];
            truth[static_cast<int64_t>(i)][label] = 1;
            known[static_cast<size_t>(label)] = true;
        }
        const at::Tensor x = features.index_select(0, tensor_of(heard));
        const at::Tensor mean = x.mean(0, true), y_mean = truth.mean(0, true);
        const at::Tensor deviation = (x - mean).square().mean(0, true).sqrt();
        const at::Tensor scale = at::where(deviation > 0, deviation.reciprocal(), at::zeros_like(deviation));
        const at::Tensor z = (x - mean) * scale;
        const double varying = static_cast<double>((deviation > 0).sum().item<int64_t>());
        const double penalty = strength * static_cast<double>(heard.size()) * varying / static_cast<double>(x.size(1));
        const at::Tensor kernel =
            at::matmul(z, z.t()) + penalty * at::eye(static_cast<int64_t>(heard.size()), at::kDouble);
        const at::Tensor dual = at::linalg_solve(kernel, truth - y_mean);
        const at::Tensor places = tensor_of(unheard);
        const at::Tensor other = (features.index_select(0, places) - mean) * scale;
        scores.index_copy_(0, places, at::matmul(at::matmul(other, z.t()), dual) + y_mean);
        for (const int64_t i : unheard)
            if (const int64_t label = labels[static_cast<size_t>(i)]; known[static_cast<size_t>(label)])
                target[static_cast<size_t>(i)] = label;
    }
    return scores;
}

/// The ridge probe on the encoder as it is, its scores multiplied by the factor with which they are the best logits of
/// recordings that a probe has not heard: a head that pulls at the encoder as little as a linear one can. Held-out
/// clips have no part in it, so that they judge the start and the epochs alike.
LinearHead probe_head(Encoder& encoder, WindowFeatures& windows, const std::vector<int64_t>& labels,
                      const std::vector<std::string>& recordings, int64_t classes, const Recipe& recipe,
                      Progress& progress, const Cancel& cancel) {
    const at::NoGradGuard no_grad;
    const at::Tensor features =
        embed(encoder, windows, static_cast<size_t>(recipe.batch), progress, cancel, recipe.pooling).to(at::kDouble);
    RidgeSums sums(features.size(1), classes);
    sums.add(features, labels);
    const RidgeModel model = solve_ridge(sums, std::nullopt);
    std::vector<int64_t> truth;
    at::Tensor scores = unheard_scores(features, labels, recordings, classes, model.strength, truth);
    if (std::all_of(truth.begin(), truth.end(), [](int64_t label) { return label < 0; })) {
        // No label has two recordings: what the probe has heard is all there is.
        scores = model.scores(features);
        truth = labels;
    }
    const at::Tensor target = tensor_of(truth);
    auto loss = [&](double log_factor) {
        return loss_of(scores * std::exp(log_factor), target, recipe).item<double>();
    };
    // The loss is convex in the factor. Golden section between 1 and 1000.
    double low = 0, high = std::log(1000.0);
    for (const double golden = (std::sqrt(5.0) - 1) / 2; high - low > 1e-3;) {
        const double left = high - golden * (high - low), right = low + golden * (high - low);
        (loss(left) < loss(right) ? high : low) = loss(left) < loss(right) ? right : left;
    }
    const double factor = std::exp((low + high) / 2);
    return {(model.weight * factor).to(at::kFloat), (model.bias * factor).to(at::kFloat)};
}

/// The encoder's weights, unless it is frozen, and the head's.
Optimiser optimiser_of(const Encoder& encoder, const LinearHead& head, const Recipe& recipe, bool frozen) {
    std::vector<Optimiser::Group> groups;
    if (!frozen) {
        const DecayGroups parameters(encoder);
        groups.push_back({parameters.decayed, recipe.learning_rate, recipe.weight_decay});
        groups.push_back({parameters.plain, recipe.learning_rate, 0});
    }
    groups.push_back({{head.weight}, recipe.head_learning_rate, recipe.weight_decay});
    groups.push_back({{head.bias}, recipe.head_learning_rate, 0});
    return Optimiser(std::move(groups));
}

/// Copies of all weights, to come back to.
struct Snapshot {
    std::vector<at::Tensor> tensors, copies;

    Snapshot(const Encoder& encoder, const LinearHead& head) : tensors(encoder.parameters()) {
        for (const at::Tensor& buffer : encoder.buffers()) tensors.push_back(buffer);
        tensors.push_back(head.weight);
        tensors.push_back(head.bias);
        take();
    }
    void take() {
        copies.clear();
        for (const at::Tensor& tensor : tensors) copies.push_back(tensor.detach().clone());
    }
    void restore() {
        const at::NoGradGuard no_grad;
        for (size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(copies[i]);
    }
};

struct Score {
    double loss = 0, accuracy = 0;
    int64_t count = 0;
};

Score score(Encoder& encoder, WindowFeatures& windows, const std::vector<int64_t>& labels, const LinearHead& head,
            const Recipe& recipe, const Cancel& cancel) {
    const at::NoGradGuard no_grad;
    encoder.eval();
    Score total;
    const auto batch = static_cast<size_t>(recipe.batch);
    std::vector<size_t> known;
    for (size_t i = 0; i < labels.size(); ++i)
        if (labels[i] >= 0) known.push_back(i);
    for (size_t begin = 0; begin < known.size(); begin += batch) {
        cancel.check();
        const std::span<const size_t> indices(known.data() + begin, std::min(batch, known.size() - begin));
        std::vector<int64_t> truth;
        for (const size_t i : indices) truth.push_back(labels[i]);
        const at::Tensor logits =
            at::linear(pooled(encoder, windows.batch(indices), recipe.pooling), head.weight, head.bias);
        const at::Tensor target = tensor_of(truth);
        const auto n = static_cast<double>(indices.size());
        total.loss += loss_of(logits, target, recipe).item<double>() * n;
        total.accuracy += static_cast<double>(logits.argmax(1).eq(target).sum().item<int64_t>());
        total.count += static_cast<int64_t>(indices.size());
    }
    if (total.count > 0) {
        total.loss /= static_cast<double>(total.count);
        total.accuracy /= static_cast<double>(total.count);
    }
    return total;
}

struct TrainBatch {
    at::Tensor features;
    Mixture mixture;
};

TrainBatch train_batch(const Encoder& encoder, WindowFeatures& windows, std::span<const size_t> indices,
                       const Recipe& recipe, Random& random) {
    const at::NoGradGuard no_grad;
    TrainBatch out;
    if (recipe.changes_waves()) {
        at::Tensor waves = windows.waves(indices, recipe.random_start ? &random : nullptr);
        change_levels(waves, recipe, encoder.info().sample_rate, random);
        out.mixture = draw_mixture(recipe, indices.size(), random);
        out.features = encoder.features(mixed(waves, out.mixture));
    } else {
        out.features = windows.batch(indices);
    }
    mask_features(out.features, recipe, random);
    return out;
}

}  // namespace

TrainedHead train(Encoder& encoder, WindowFeatures& windows, const std::vector<int64_t>& labels,
                  const std::vector<std::string>& recordings, WindowFeatures& valid,
                  const std::vector<int64_t>& valid_labels, int64_t classes, const Recipe& recipe, uint64_t seed,
                  Progress& progress, const Cancel& cancel, const std::function<void(std::string_view)>& log) {
    // Dropout and layer drop draw from LibTorch's generator; torch nodes run one at a time.
    at::manual_seed(mix(seed, 1));
    TrainedHead out;
    out.head = recipe.head_start == Recipe::HeadStart::kProbe
                   ? probe_head(encoder, windows, labels, recordings, classes, recipe, progress, cancel)
                   : fresh_head(classes, pooled_width(encoder.info(), recipe.pooling), mix(seed, 2));
    out.head.weight.requires_grad_(true);
    out.head.bias.requires_grad_(true);

    const size_t count = windows.windows().size(), batch = static_cast<size_t>(recipe.batch);
    const auto per_epoch = static_cast<int64_t>((count + batch - 1) / batch);
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    out.history = Json::array();
    std::optional<Optimiser> optimiser;
    std::unique_ptr<Snapshot> best;
    double best_loss = std::numeric_limits<double>::infinity(), start_loss = best_loss;
    // Scores the weights as they are after `epoch` epochs, and keeps them where they are the best so far.
    auto validate = [&](int epoch, Json entry) {
        const Score held_out = score(encoder, valid, valid_labels, out.head, recipe, cancel);
        std::string text;
        if (entry.contains("train_loss")) text = fmt::format("train loss {:.4f}", entry["train_loss"].get<double>());
        if (held_out.count > 0) {
            if (!std::isfinite(held_out.loss))
                throw Error(Code::kRunFailed,
                            fmt::format("the validation loss after epoch {} is not finite; {}", epoch,
                                        epoch == 0 ? "the encoder that training starts from, or a clip, is broken"
                                                   : fmt::format("a lower learning rate than {} may help",
                                                                 recipe.learning_rate)));
            entry["valid_loss"] = held_out.loss;
            entry["valid_accuracy"] = held_out.accuracy;
            text += fmt::format("{}valid loss {:.4f}, valid accuracy {:.3f}", text.empty() ? "" : ", ", held_out.loss,
                                held_out.accuracy);
        }
        if (text.empty()) return;  // nothing is known of the start
        log(fmt::format("epoch {}/{}: {}", epoch, recipe.epochs, text));
        out.history.push_back(std::move(entry));
        if (epoch == 0) {
            start_loss = held_out.loss;
        } else if (!recipe.keep_best || held_out.count == 0) {
            out.kept_epoch = epoch;
        } else if (held_out.loss < best_loss) {
            best_loss = held_out.loss;
            out.kept_epoch = epoch;
            if (best == nullptr)
                best = std::make_unique<Snapshot>(encoder, out.head);
            else
                best->take();
        }
    };
    int64_t step = 0, first_step = 0, steps = 0;  // `steps` of the schedule that began at `first_step`
    int epoch = 0;
    validate(0, {{"epoch", 0}});
    const auto begin_time = std::chrono::steady_clock::now();
    for (; epoch < recipe.epochs && (recipe.patience == 0 || epoch - out.kept_epoch < recipe.patience); ++epoch) {
        const bool frozen = epoch < recipe.freeze_epochs;
        if (epoch == 0 || epoch == recipe.freeze_epochs) {
            optimiser.emplace(optimiser_of(encoder, out.head, recipe, frozen));
            first_step = step;
            steps = per_epoch * (recipe.epochs - epoch);
        }
        Random shuffle(mix(seed, 1000 + static_cast<uint64_t>(epoch)));
        for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[shuffle.below(i)]);
        encoder.train();
        double loss_sum = 0;
        for (size_t begin = 0; begin < count; begin += batch, ++step) {
            cancel.check();
            const std::span<const size_t> indices(order.data() + begin, std::min(batch, count - begin));
            Random random(mix(mix(seed, 3), static_cast<uint64_t>(step)));
            const TrainBatch input = train_batch(encoder, windows, indices, recipe, random);
            at::Tensor vectors;
            {
                const Autocast autocast(recipe.bfloat16);
                const at::AutoGradMode learns(!frozen);
                vectors = encoder.frames(input.features, std::nullopt);
            }
            vectors = pool(vectors.to(at::kFloat), encoder.info(), recipe.pooling);
            const at::Tensor logits = at::linear(vectors, out.head.weight, out.head.bias);
            std::vector<int64_t> truth, partners;
            for (const size_t i : indices) truth.push_back(labels[i]);
            at::Tensor loss = loss_of(logits, tensor_of(truth), recipe);
            if (!input.mixture.partners.empty()) {
                for (const size_t i : input.mixture.partners) partners.push_back(truth[i]);
                loss = loss * input.mixture.share +
                       loss_of(logits, tensor_of(partners), recipe) * (1 - input.mixture.share);
            }
            const double value = loss.item<double>();
            if (!std::isfinite(value))
                throw Error(
                    Code::kRunFailed,
                    fmt::format(
                        "the loss is no longer finite in epoch {} (step {}); a lower learning rate than {} may help",
                        epoch + 1, step + 1, recipe.learning_rate));
            const bool thawed = recipe.freeze_epochs > 0 && !frozen;
            const Pace now = pace(recipe, step - first_step, steps, thawed);
            optimiser->step(loss, now.rate, recipe.clip_norm, now.beta1);
            loss_sum += value * static_cast<double>(indices.size());
            progress.update(
                static_cast<double>(epoch) * static_cast<double>(count) + static_cast<double>(begin + indices.size()),
                static_cast<double>(count) * recipe.epochs, "windows");
        }
        validate(epoch + 1,
                 {{"epoch", epoch + 1}, {"train_loss", loss_sum / static_cast<double>(std::max<size_t>(1, count))}});
    }
    if (best != nullptr) best->restore();
    if (best != nullptr && best_loss >= start_loss)
        log(fmt::format("no epoch has a lower validation loss than the start, {:.4f}; epoch {}, the best one, is kept",
                        start_loss, out.kept_epoch));
    encoder.eval();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_time).count();
    out.windows_per_second = static_cast<double>(count) * epoch / std::max(seconds, 1e-9);
    out.head.weight = out.head.weight.detach();
    out.head.bias = out.head.bias.detach();
    return out;
}

}  // namespace biophony
