#include "learn/trainer.hpp"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "base/random.hpp"

namespace biophony {

namespace {

at::Tensor tensor_of(std::span<const int64_t> values) {
    at::Tensor out = at::zeros({static_cast<int64_t>(values.size())}, at::kLong);
    std::copy(values.begin(), values.end(), out.data_ptr<int64_t>());
    return out;
}

/// Xavier uniform, as the source paper's head; zero bias.
LinearHead fresh_head(int64_t classes, int64_t width, uint64_t seed) {
    LinearHead head{at::zeros({classes, width}), at::zeros({classes})};
    const double limit = std::sqrt(6.0 / static_cast<double>(classes + width));
    Random random(seed);
    float* values = head.weight.data_ptr<float>();
    for (int64_t i = 0; i < head.weight.numel(); ++i) values[i] = static_cast<float>(random.uniform(-limit, limit));
    head.weight.requires_grad_(true);
    head.bias.requires_grad_(true);
    return head;
}

struct Score {
    double loss = 0, accuracy = 0;
    int64_t count = 0;
};

Score score(Encoder& encoder, WindowFeatures& windows, const std::vector<int64_t>& labels, const LinearHead& head,
            size_t batch) {
    const at::NoGradGuard no_grad;
    encoder.eval();
    Score total;
    std::vector<size_t> known;
    for (size_t i = 0; i < labels.size(); ++i)
        if (labels[i] >= 0) known.push_back(i);
    for (size_t begin = 0; begin < known.size(); begin += batch) {
        const std::span<const size_t> indices(known.data() + begin, std::min(batch, known.size() - begin));
        std::vector<int64_t> truth;
        for (const size_t i : indices) truth.push_back(labels[i]);
        const at::Tensor logits = at::linear(pooled(encoder, windows.batch(indices)), head.weight, head.bias);
        const at::Tensor target = tensor_of(truth);
        const auto n = static_cast<double>(indices.size());
        total.loss += at::cross_entropy_loss(logits, target).item<double>() * n;
        total.accuracy += static_cast<double>(logits.argmax(1).eq(target).sum().item<int64_t>());
        total.count += static_cast<int64_t>(indices.size());
    }
    if (total.count > 0) {
        total.loss /= static_cast<double>(total.count);
        total.accuracy /= static_cast<double>(total.count);
    }
    return total;
}

}  // namespace

at::Tensor embed(Encoder& encoder, WindowFeatures& windows, size_t batch, Progress& progress, const Cancel& cancel,
                 Pooling pooling) {
    const at::NoGradGuard no_grad;
    encoder.eval();
    std::vector<at::Tensor> parts;
    std::vector<size_t> all(windows.windows().size());
    std::iota(all.begin(), all.end(), size_t{0});
    for (size_t begin = 0; begin < all.size(); begin += batch) {
        cancel.check();
        const std::span<const size_t> indices(all.data() + begin, std::min(batch, all.size() - begin));
        parts.push_back(pooled(encoder, windows.batch(indices), pooling));
        progress.update(static_cast<double>(begin + indices.size()), static_cast<double>(all.size()), "windows");
    }
    if (parts.empty()) return at::zeros({0, pooled_width(encoder.info(), pooling)});
    return at::cat(parts);
}

TrainedHead train(Encoder& encoder, WindowFeatures& windows, const std::vector<int64_t>& labels, WindowFeatures& valid,
                  const std::vector<int64_t>& valid_labels, int64_t classes, const Recipe& recipe, uint64_t seed,
                  Progress& progress, const Cancel& cancel, const std::function<void(std::string_view)>& log) {
    // Dropout and layer drop draw from LibTorch's generator; torch nodes run one at a time.
    at::manual_seed(mix(seed, 1));
    TrainedHead out;
    out.head = fresh_head(classes, encoder.info().width, mix(seed, 2));

    std::vector<at::Tensor> decayed, plain, all;
    for (const auto& item : encoder.named_parameters()) {
        all.push_back(item.value());
        (item.value().dim() > 1 && encoder.role(item.key()).kind != "gain" ? decayed : plain).push_back(item.value());
    }
    all.push_back(out.head.weight);
    all.push_back(out.head.bias);
    auto group = [&](std::vector<at::Tensor> tensors, double rate, double decay) {
        return torch::optim::OptimizerParamGroup(
            std::move(tensors),
            std::make_unique<torch::optim::AdamWOptions>(torch::optim::AdamWOptions(rate).weight_decay(decay)));
    };
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.push_back(group(decayed, recipe.learning_rate, recipe.weight_decay));
    groups.push_back(group(plain, recipe.learning_rate, 0));
    groups.push_back(group({out.head.weight}, recipe.head_learning_rate, recipe.weight_decay));
    groups.push_back(group({out.head.bias}, recipe.head_learning_rate, 0));
    const double rates[] = {recipe.learning_rate, recipe.learning_rate, recipe.head_learning_rate,
                            recipe.head_learning_rate};
    torch::optim::AdamW optimiser(groups, torch::optim::AdamWOptions(recipe.learning_rate));

    const size_t count = windows.windows().size(), batch = static_cast<size_t>(recipe.batch);
    const auto per_epoch = static_cast<int64_t>((count + batch - 1) / batch);
    const int64_t steps = per_epoch * recipe.epochs;
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    out.history = Json::array();
    int64_t step = 0;
    const auto begin_time = std::chrono::steady_clock::now();
    for (int epoch = 0; epoch < recipe.epochs; ++epoch) {
        Random random(mix(seed, 1000 + static_cast<uint64_t>(epoch)));
        for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
        encoder.train();
        double loss_sum = 0;
        for (size_t begin = 0; begin < count; begin += batch, ++step) {
            cancel.check();
            const std::span<const size_t> indices(order.data() + begin, std::min(batch, count - begin));
            std::vector<int64_t> truth;
            for (const size_t i : indices) truth.push_back(labels[i]);
            const double factor = schedule(recipe, step, steps);
            for (size_t g = 0; g < 4; ++g) optimiser.param_groups()[g].options().set_lr(rates[g] * factor);
            optimiser.zero_grad();
            const at::Tensor logits =
                at::linear(pooled(encoder, windows.batch(indices)), out.head.weight, out.head.bias);
            at::Tensor loss = at::cross_entropy_loss(logits, tensor_of(truth));
            const double value = loss.item<double>();
            if (!std::isfinite(value))
                throw Error(
                    Code::kRunFailed,
                    fmt::format(
                        "the loss is no longer finite in epoch {} (step {}); a lower learning rate than {} may help",
                        epoch + 1, step + 1, recipe.learning_rate));
            loss.backward();
            torch::nn::utils::clip_grad_norm_(all, recipe.clip_norm);
            optimiser.step();
            loss_sum += value * static_cast<double>(indices.size());
            progress.update(
                static_cast<double>(epoch) * static_cast<double>(count) + static_cast<double>(begin + indices.size()),
                static_cast<double>(count) * recipe.epochs, "windows");
        }
        const Score held_out = score(encoder, valid, valid_labels, out.head, batch);
        Json entry = {{"epoch", epoch + 1}, {"train_loss", loss_sum / static_cast<double>(std::max<size_t>(1, count))}};
        if (held_out.count > 0) {
            entry["valid_loss"] = held_out.loss;
            entry["valid_accuracy"] = held_out.accuracy;
        }
        log(fmt::format("epoch {}/{}: train loss {:.4f}{}", epoch + 1, recipe.epochs, entry["train_loss"].get<double>(),
                        held_out.count > 0 ? fmt::format(", valid loss {:.4f}, valid accuracy {:.3f}", held_out.loss,
                                                         held_out.accuracy)
                                           : ""));
        out.history.push_back(std::move(entry));
    }
    encoder.eval();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_time).count();
    out.windows_per_second = static_cast<double>(count) * recipe.epochs / std::max(seconds, 1e-9);
    out.head.weight = out.head.weight.detach();
    out.head.bias = out.head.bias.detach();
    return out;
}

}  // namespace biophony
