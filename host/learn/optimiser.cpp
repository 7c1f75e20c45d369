#include "learn/optimiser.hpp"

#include <torch/nn/utils/clip_grad.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.hpp"

namespace biophony {

Optimiser::Optimiser(std::vector<Group> groups) {
    std::vector<torch::optim::OptimizerParamGroup> parts;
    for (Group& group : groups) {
        if (group.tensors.empty()) continue;
        all_.insert(all_.end(), group.tensors.begin(), group.tensors.end());
        parts.emplace_back(group.tensors,
                           std::make_unique<torch::optim::AdamWOptions>(
                               torch::optim::AdamWOptions(group.learning_rate).weight_decay(group.weight_decay)));
        groups_.push_back(std::move(group));
    }
    adamw_ = std::make_unique<torch::optim::AdamW>(parts, torch::optim::AdamWOptions());
}

void Optimiser::step(const at::Tensor& loss, double factor, double clip_norm, double beta1) {
    for (size_t g = 0; g < groups_.size(); ++g) {
        auto& options = static_cast<torch::optim::AdamWOptions&>(adamw_->param_groups()[g].options());
        options.lr(groups_[g].learning_rate * factor);
        options.betas({beta1, 0.999});
    }
    adamw_->zero_grad();
    loss.backward();
    if (!std::isfinite(torch::nn::utils::clip_grad_norm_(all_, clip_norm)))
        throw Error(Code::kRunFailed, "the gradient is no longer finite; a lower learning rate may help");
    adamw_->step();
}

DecayGroups::DecayGroups(const Encoder& encoder) {
    for (const auto& item : encoder.named_parameters())
        (item.value().dim() > 1 && encoder.role(item.key()).kind != "gain" ? decayed : plain).push_back(item.value());
}

double warm_up_then_cosine(int64_t step, int64_t steps, double warm_up) {
    const double at = static_cast<double>(step), all = static_cast<double>(steps);
    const double rise = std::max(1.0, std::floor(warm_up * all));
    if (at < rise) return (at + 1) / rise;
    return 0.5 * (1 + std::cos(std::numbers::pi * (at - rise) / std::max(1.0, all - rise)));
}

}  // namespace biophony
