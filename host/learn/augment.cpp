#include "learn/augment.hpp"

#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace biophony {

double draw_beta(double alpha, Random& random) {
    for (;;) {
        const double x = std::pow(random.uniform(), 1 / alpha), y = std::pow(random.uniform(), 1 / alpha);
        if (x + y > 0 && x + y <= 1) return x / (x + y);
    }
}

void change_levels(at::Tensor& waves, const Recipe& recipe, double sample_rate, Random& random) {
    const int64_t length = waves.size(1);
    const auto longest =
        std::min<int64_t>(length, static_cast<int64_t>(std::floor(recipe.wave_mask_ms / 1000 * sample_rate)));
    for (int64_t i = 0; i < waves.size(0); ++i) {
        at::Tensor wave = waves[i];
        if (recipe.level_jitter_db > 0) wave.mul_(std::pow(10.0, recipe.level_jitter_db * random.normal() / 20));
        for (int mask = 0; mask < recipe.wave_masks; ++mask) {
            const auto width = static_cast<int64_t>(random.below(static_cast<uint64_t>(longest) + 1));
            const auto begin = static_cast<int64_t>(random.below(static_cast<uint64_t>(length - width) + 1));
            wave.narrow(0, begin, width).zero_();
        }
    }
}

Mixture draw_mixture(const Recipe& recipe, size_t batch, Random& random) {
    Mixture mixture;
    if (recipe.mixup_share <= 0 || random.uniform() >= recipe.mixup_share) return mixture;
    mixture.share = draw_beta(recipe.mixup_alpha, random);
    mixture.partners.resize(batch);
    std::iota(mixture.partners.begin(), mixture.partners.end(), size_t{0});
    for (size_t i = batch; i > 1; --i) std::swap(mixture.partners[i - 1], mixture.partners[random.below(i)]);
    return mixture;
}

at::Tensor mixed(const at::Tensor& waves, const Mixture& mixture) {
    if (mixture.partners.empty()) return waves;
    const std::vector<int64_t> order(mixture.partners.begin(), mixture.partners.end());
    return waves * mixture.share + waves.index_select(0, at::tensor(order)) * (1 - mixture.share);
}

void mask_features(at::Tensor& features, const Recipe& recipe, Random& random) {
    if (features.dim() != 3) return;
    for (int64_t i = 0; i < features.size(0); ++i) {
        at::Tensor window = features[i];
        auto mask = [&](int64_t axis, int count, int below) {
            const int64_t size = window.size(axis);
            for (int m = 0; m < count && below > 0; ++m) {
                const int64_t width = std::min(size, static_cast<int64_t>(random.below(static_cast<uint64_t>(below))));
                const auto begin = static_cast<int64_t>(random.below(static_cast<uint64_t>(size - width) + 1));
                window.narrow(axis, begin, width).zero_();
            }
        };
        mask(1, recipe.band_masks, recipe.band_mask_width);
        mask(0, recipe.time_masks, recipe.time_mask_width);
    }
}

}  // namespace biophony
