// What training loops share: AdamW with its groups, and the course of the learning rate.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/optim/adamw.h>

#include <memory>
#include <vector>

#include "learn/encoder.hpp"

namespace biophony {

/// AdamW over an encoder and other tensors. Matrices and convolutions decay; biases, norms and gains don't.
class Optimiser {
public:
    Optimiser(const Encoder& encoder, const std::vector<at::Tensor>& others, double learning_rate, double weight_decay);
    void zero_grad() { adamw_->zero_grad(); }
    /// One step at `factor` times the learning rate, the gradient over all tensors cut to the norm `clip_norm`.
    void step(double factor, double clip_norm);

private:
    std::vector<at::Tensor> all_;
    double learning_rate_;
    std::unique_ptr<torch::optim::AdamW> adamw_;
};

/// The factor on the learning rate at `step` of `steps`: it rises over the share `warm_up`, then a cosine to 0.
double warm_up_then_cosine(int64_t step, int64_t steps, double warm_up);

}  // namespace biophony
