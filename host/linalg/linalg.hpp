// The one place that wraps LibTorch's linear algebra.
#pragma once

#include <ATen/core/Tensor.h>

#include "biophony/c/linalg.h"

namespace biophony {

struct Eigen {
    at::Tensor values;   ///< (D), ascending
    at::Tensor vectors;  ///< (D, D), column i belongs to value i
};

/// Eigenvalues and vectors of a symmetric matrix (D, D), float64. Throws c10::Error where LAPACK doesn't converge.
Eigen eigh(const at::Tensor& symmetric);

/// The linear algebra that plugins are lent; see biophony/c/linalg.h. From here on, until somebody sets LibTorch's
/// threads again, each call works on its own thread alone, so that results don't depend on how many run at once. [any
/// thread]
const bph_linalg_v0* lent_linalg();

}  // namespace biophony
