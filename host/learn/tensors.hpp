// Small tensors that several parts of learning make.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "base/random.hpp"

namespace biophony {

/// The values as int64 (N).
inline at::Tensor tensor_of(std::span<const int64_t> values) {
    at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
    std::copy(values.begin(), values.end(), out.data_ptr<int64_t>());
    return out;
}

/// Weights (out, in) of a linear layer, float32, Xavier uniform (Glorot and Bengio 2010).
inline at::Tensor xavier_uniform(int64_t out, int64_t in, Random& random) {
    at::Tensor weight = at::empty({out, in}, at::kFloat);
    const double limit = std::sqrt(6.0 / static_cast<double>(out + in));
    float* values = weight.data_ptr<float>();
    for (int64_t i = 0; i < weight.numel(); ++i) values[i] = static_cast<float>(random.uniform(-limit, limit));
    return weight;
}

}  // namespace biophony
