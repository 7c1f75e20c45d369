// Linear discriminant analysis and class prototypes from sums that contributors can send.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>

#include "learn/ridge.hpp"

namespace biophony {

struct DiscriminantModel {
    at::Tensor weight;     ///< (C, D) float64
    at::Tensor bias;       ///< (C) float64
    double shrinkage = 0;  ///< of the covariance towards its diagonal
};

/// Gaussian classes with one covariance: score of class c = log posterior of x up to a term that all classes share,
/// μᵀΣ⁻¹x − μᵀΣ⁻¹μ/2 + log π. The features are divided by their deviation within classes, so that drawing the
/// covariance towards the identity draws it towards its diagonal: Σ = (1 − ρ)S + ρI with S the within-class covariance
/// of N − C degrees of freedom. Without a shrinkage ρ, the oracle approximating one (Chen, Wiesel, Eldar and Hero 2010,
/// eq. 23), which needs tr S and tr S² alone. π: all alike, or the classes' shares of the clips. The weights are given
/// for the features as they are; a feature that never varies within classes has weight 0. Throws Error(kRunFailed)
/// where no class has two clips.
DiscriminantModel solve_discriminant(const RidgeSums& sums, std::optional<double> shrinkage, bool train_priors);

/// What prototypes need: per class n and Σx, and over all clips Σx² of each feature; float64.
struct ClassSums {
    at::Tensor y;        ///< (C)
    at::Tensor xy;       ///< (D, C)
    at::Tensor squares;  ///< (D)

    ClassSums(int64_t features, int64_t classes);
    /// As RidgeSums::add.
    void add(const at::Tensor& features, std::span<const int64_t> labels);
    ClassSums& operator+=(const ClassSums& other);
};

struct Prototypes {
    at::Tensor means;    ///< (C, D) of the standardised features
    at::Tensor mean;     ///< (D) over all clips
    at::Tensor inverse;  ///< (D) one over the deviation over all clips; 0 for a feature that never varies
};
Prototypes solve_prototypes(const ClassSums& sums);

}  // namespace biophony
