#include "learn/optimiser.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/nn/utils/clip_grad.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.hpp"

namespace biophony {

Optimiser::Optimiser(std::vector<Group> groups) {
    for (Group& group : groups) {
        if (group.tensors.empty()) continue;
        State state;
        for (const at::Tensor& tensor : group.tensors) {
            state.first.push_back(at::zeros_like(tensor));
            state.second.push_back(at::zeros_like(tensor));
            state.steps.push_back(at::zeros({}, at::kFloat));
        }
        all_.insert(all_.end(), group.tensors.begin(), group.tensors.end());
        states_.push_back(std::move(state));
        groups_.push_back(std::move(group));
    }
}

void Optimiser::step(const at::Tensor& loss, double factor, double clip_norm, double beta1) {
    for (const at::Tensor& tensor : all_) tensor.mutable_grad().reset();
    loss.backward();
    if (!std::isfinite(torch::nn::utils::clip_grad_norm_(all_, clip_norm)))
        throw Error(Code::kRunFailed, "the gradient is no longer finite; a lower learning rate may help");
    const at::NoGradGuard no_grad;
    for (size_t g = 0; g < groups_.size(); ++g) {
        const Group& group = groups_[g];
        State& state = states_[g];
        // What has no gradient (a block that was skipped) stays as it is, its own count of steps too.
        std::vector<at::Tensor> tensors, gradients, first, second, steps;
        for (size_t i = 0; i < group.tensors.size(); ++i) {
            const at::Tensor& gradient = group.tensors[i].grad();
            if (!gradient.defined()) continue;
            tensors.push_back(group.tensors[i]);
            gradients.push_back(gradient.contiguous());
            first.push_back(state.first[i]);
            second.push_back(state.second[i]);
            steps.push_back(state.steps[i].add_(1));
        }
        if (tensors.empty()) continue;
        at::_fused_adamw_(tensors, gradients, first, second, {}, steps, group.learning_rate * factor, beta1, 0.999,
                          group.weight_decay, 1e-8, /*amsgrad=*/false, /*maximize=*/false);
        // The fused step doesn't count as a change, and encoders keep what they made of weights that haven't changed.
        for (const at::Tensor& tensor : tensors) tensor.unsafeGetTensorImpl()->bump_version();
    }
}

DecayGroups::DecayGroups(const Encoder& encoder) {
    for (const auto& item : encoder.named_parameters())
        if (const std::string kind = encoder.role(item.key()).kind; kind != "excluded")
            (item.value().dim() > 1 && kind != "gain" ? decayed : plain).push_back(item.value());
}

double warm_up_then_cosine(int64_t step, int64_t steps, double warm_up) {
    const double at = static_cast<double>(step), all = static_cast<double>(steps);
    const double rise = std::max(1.0, std::floor(warm_up * all));
    if (at < rise) return (at + 1) / rise;
    return 0.5 * (1 + std::cos(std::numbers::pi * (at - rise) / std::max(1.0, all - rise)));
}

}  // namespace biophony
