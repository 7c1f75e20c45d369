#include "linalg/linalg.hpp"

#include <ATen/ops/linalg_eigh.h>

namespace biophony {

Eigen eigh(const at::Tensor& symmetric) {
    auto [values, vectors] = at::linalg_eigh(symmetric);
    return {values, vectors};
}

}  // namespace biophony
