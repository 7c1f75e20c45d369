// Multinomial logistic regression on features that are at hand: probes, and heads with a class for everything else.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "base/progress.hpp"

namespace biophony {

/// Features (N, D), any floating type, with N class indices from 0.
struct Examples {
    at::Tensor features;
    std::vector<int64_t> labels;
};

/// No derivative of a fit is above this at its end, but where rounding allows no lower one.
inline constexpr double kLogisticTolerance = 1e-6;

struct LogisticModel {
    at::Tensor weight;    ///< (C, D) float64, for the features as they are
    at::Tensor bias;      ///< (C) float64
    double strength = 0;  ///< λ below
    double loss = 0;      ///< what was minimised, at the end
    double gradient = 0;  ///< the largest of its derivatives there
    std::optional<double>
        valid_loss;        ///< mean cross-entropy of the held-out examples; only where the strength was chosen
    bool at_edge = false;  ///< the best strength was the first or last of the grid
};

/// Minimises mean cross-entropy + λ/2 · |W|² over features standardised by their mean and deviation, the intercept
/// unpenalised, until no derivative is above 1e-6 (L-BFGS, Nocedal 1980; deterministic). A feature that never varies
/// has weight 0. scikit-learn's C is 1/(λN). Without a strength λ, the one of 10^(1 … −5 in half decades) with the
/// least cross-entropy on `valid`; where that has no examples, 0.01. Throws Error(kRunFailed) where there is nothing to
/// fit.
LogisticModel fit_logistic(const Examples& train, const Examples& valid, int64_t classes,
                           std::optional<double> strength, Progress& progress, const Cancel& cancel);

/// The probe of Nihal's paper (2026): Adam (Kingma and Ba 2015) at 1e-3, 10 epochs in batches of 64, no weight decay,
/// cross-entropy on the features as they are; the weights start Xavier uniform, the biases at 0, as its heads do.
LogisticModel fit_probe_nihal2026(const Examples& train, int64_t classes, uint64_t seed, const Cancel& cancel);

}  // namespace biophony
