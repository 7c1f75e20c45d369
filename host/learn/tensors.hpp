// Small tensors that several parts of learning make.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

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

/// Rows of zeros with a one at each class: (N, classes) float64.
inline at::Tensor one_hot(std::span<const int64_t> labels, int64_t classes) {
    at::Tensor out = at::zeros({static_cast<int64_t>(labels.size()), classes}, at::kDouble);
    auto cells = out.accessor<double, 2>();
    for (size_t i = 0; i < labels.size(); ++i) cells[static_cast<int64_t>(i)][labels[i]] = 1;
    return out;
}

/// Of a sum of squares, relative: less is rounding.
inline constexpr double kRounding = 1e-12;

/// One over the deviation of features whose squared deviations add up to `squares` over `n`, and their squares to
/// `raw_squares`; 0 for one that varies by rounding alone.
inline at::Tensor inverse_deviation(const at::Tensor& squares, double n, const at::Tensor& raw_squares) {
    return at::where(squares > kRounding * raw_squares, (squares / n).rsqrt(), at::zeros_like(squares));
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
