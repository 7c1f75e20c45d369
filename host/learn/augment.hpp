// What happens to train windows before the encoder hears them. Everything is drawn from the Random that is passed in,
// in the order of the windows; nothing else is random.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/random.hpp"
#include "learn/recipe.hpp"

namespace biophony {

/// Beta(α, α) in [0, 1], 0 < α ≤ 1 (Jöhnk 1964).
double draw_beta(double alpha, Random& random);

/// waves (B, N), in place: a gain per window, then stretches of silence.
void change_levels(at::Tensor& waves, const Recipe& recipe, double sample_rate, Random& random);

/// Which windows a batch mixes, and how: wave i becomes share · wave i + (1 − share) · wave partner[i], and its loss
/// counts both labels in these shares (Zhang et al. 2018, arXiv 1710.09412).
struct Mixture {
    double share = 1;              ///< 1 = nothing is mixed
    std::vector<size_t> partners;  ///< a permutation of the batch; empty where nothing is mixed
};
Mixture draw_mixture(const Recipe& recipe, size_t batch, Random& random);
/// waves (B, N) → (B, N).
at::Tensor mixed(const at::Tensor& waves, const Mixture& mixture);

/// features (B, M, bands), in place: stretches of bands and of time set to 0, which is the mean of normalised features.
/// Features with other axes stay as they are.
void mask_features(at::Tensor& features, const Recipe& recipe, Random& random);

}  // namespace biophony
