// Self-attention and dropout as the Transformer encoders here need them: with gradients, on any device, and on CPUs
// through the loops of kernels.hpp.
#pragma once

#include <ATen/core/Tensor.h>

namespace biophony::encoders {

/// softmax(q kᵀ / √d + gate · bias) v, then per head: q, k, v (B, H, P, d) → (B, H, P, d) of their type. Undefined
/// tensors are left out.
struct Attend {
    at::Tensor bias;     ///< (H, P, P), of all clips
    at::Tensor gate;     ///< (B, H, P, 1), factor on the bias of a query
    at::Tensor padding;  ///< (B, P) bool, true = nobody attends to this key; no clip is padding from end to end
    double dropout = 0;  ///< of the probabilities; drawn from LibTorch's default generator of the CPU

    at::Tensor operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;
};

/// x with elements set to 0 with probability `share`, the others divided by 1 − share; x itself where not `training`.
/// On CPUs the draws come from one number of LibTorch's default generator.
at::Tensor dropout(const at::Tensor& x, double share, bool training);

}  // namespace biophony::encoders
