#include "learn/optimiser.hpp"

#include <torch/nn/utils/clip_grad.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace biophony {

Optimiser::Optimiser(const Encoder& encoder, const std::vector<at::Tensor>& others, double learning_rate,
                     double weight_decay)
    : learning_rate_(learning_rate) {
    std::vector<at::Tensor> decayed, plain;
    for (const auto& item : encoder.named_parameters())
        (item.value().dim() > 1 && encoder.role(item.key()).kind != "gain" ? decayed : plain).push_back(item.value());
    for (const at::Tensor& other : others) (other.dim() > 1 ? decayed : plain).push_back(other);
    for (const auto* list : {&decayed, &plain}) all_.insert(all_.end(), list->begin(), list->end());
    auto options = [&](double decay) { return torch::optim::AdamWOptions(learning_rate).weight_decay(decay); };
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(decayed, std::make_unique<torch::optim::AdamWOptions>(options(weight_decay)));
    groups.emplace_back(plain, std::make_unique<torch::optim::AdamWOptions>(options(0)));
    adamw_ = std::make_unique<torch::optim::AdamW>(groups, options(weight_decay));
}

void Optimiser::step(double factor, double clip_norm) {
    for (auto& group : adamw_->param_groups()) group.options().set_lr(learning_rate_ * factor);
    torch::nn::utils::clip_grad_norm_(all_, clip_norm);
    adamw_->step();
}

double warm_up_then_cosine(int64_t step, int64_t steps, double warm_up) {
    const double at = static_cast<double>(step), all = static_cast<double>(steps);
    const double rise = std::max(1.0, std::floor(warm_up * all));
    if (at < rise) return (at + 1) / rise;
    return 0.5 * (1 + std::cos(std::numbers::pi * (at - rise) / std::max(1.0, all - rise)));
}

}  // namespace biophony
