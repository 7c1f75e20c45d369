// Ridge regression from sums: what each contributor sends is n, Σx, Σy, XᵀX, XᵀY and YᵀY over its own clips; the sums
// of the sums give the classifier that pooling all clips would give (to rounding).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>

namespace biophony {

/// Sums over clips with features of size D and C classes, float64.
struct RidgeSums {
    double n = 0;
    at::Tensor x;   ///< (D) Σx
    at::Tensor y;   ///< (C) Σy, y one-hot
    at::Tensor xx;  ///< (D, D) XᵀX
    at::Tensor xy;  ///< (D, C) XᵀY
    at::Tensor yy;  ///< (C, C) YᵀY

    RidgeSums(int64_t features, int64_t classes);
    /// Adds clips: `features` (N, D), any floating type; `labels` N class indices in 0 … C − 1.
    void add(const at::Tensor& features, std::span<const int64_t> labels);
    RidgeSums& operator+=(const RidgeSums& other);
};

struct RidgeModel {
    at::Tensor weight;     ///< (C, D) float64
    at::Tensor bias;       ///< (C) float64
    double strength = 0;   ///< penalty relative to the mean variance of the standardised features
    double gcv = 0;        ///< generalised cross-validation score at this strength; lower is better
    bool at_edge = false;  ///< the best strength was the first or last of the grid
    /// features (N, D) → scores (N, C), float64.
    at::Tensor scores(const at::Tensor& features) const;
};

/// Minimises Σ|y − Wz − b|² + λ|W|² over z, the features divided by their standard deviation over all clips of the
/// sums; the intercept unpenalised, λ = strength · trace(centred ZᵀZ) / D. The weights are given for the features as
/// they are; a feature that never varies has weight 0. Without a strength, the one of 10^(-7 … 2 in half decades) with
/// the least generalised cross-validation score (Golub, Heath and Wahba 1979), which the sums allow. Throws
/// Error(kRunFailed) where there are fewer than two clips.
RidgeModel solve_ridge(const RidgeSums& sums, std::optional<double> strength);

}  // namespace biophony
