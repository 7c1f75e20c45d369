// The one place that wraps LibTorch's linear algebra.
#pragma once

#include <ATen/core/Tensor.h>

namespace biophony {

struct Eigen {
    at::Tensor values;   ///< (D), ascending
    at::Tensor vectors;  ///< (D, D), column i belongs to value i
};

/// Eigenvalues and vectors of a symmetric matrix (D, D), float64. Throws c10::Error where LAPACK doesn't converge.
Eigen eigh(const at::Tensor& symmetric);

}  // namespace biophony
