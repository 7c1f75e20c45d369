// What training loops share: AdamW with its groups, and the course of the learning rate.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "learn/encoder.hpp"

namespace biophony {

/// AdamW (Loshchilov and Hutter 2019; β₂ 0.999, ε 1e-8) with a rate and a decay per group of tensors; one pass over
/// weights, gradients and moments a step.
class Optimiser {
public:
    struct Group {
        std::vector<at::Tensor> tensors;
        double learning_rate = 0, weight_decay = 0;
    };
    /// Groups without tensors are left out.
    explicit Optimiser(std::vector<Group> groups);
    /// Gradients of `loss`, cut to the norm `clip_norm` over all tensors, then one step at `factor` times each group's
    /// learning rate. Throws Error(kRunFailed), and leaves the tensors as they are, where that norm is not finite.
    void step(const at::Tensor& loss, double factor, double clip_norm, double beta1 = 0.9);

private:
    struct State {
        std::vector<at::Tensor> first, second;  ///< moments of each tensor
        std::vector<at::Tensor> steps;          ///< float32 scalars
    };
    std::vector<Group> groups_;
    std::vector<State> states_;
    std::vector<at::Tensor> all_;
};

/// An encoder's parameters: matrices and convolutions, which decay, and biases, norms and gains, which don't. Those
/// with the role "excluded" (a published classifier) aren't learnt.
struct DecayGroups {
    std::vector<at::Tensor> decayed, plain;
    explicit DecayGroups(const Encoder& encoder);
};

/// The factor on the learning rate at `step` of `steps`: it rises over the share `warm_up`, then a cosine to 0.
double warm_up_then_cosine(int64_t step, int64_t steps, double warm_up);

}  // namespace biophony
