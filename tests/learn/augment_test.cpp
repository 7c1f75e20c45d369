#include "learn/augment.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include <catch2/catch.hpp>

using namespace biophony;

namespace {

/// The longest and the number of runs of zeros in a line.
std::pair<int64_t, int> gaps(const at::Tensor& line) {
    int64_t longest = 0, run = 0;
    int count = 0;
    for (int64_t i = 0; i < line.size(0); ++i) {
        run = line[i].item<float>() == 0 ? run + 1 : 0;
        count += run == 1 ? 1 : 0;
        longest = std::max(longest, run);
    }
    return {longest, count};
}

}  // namespace

TEST_CASE("a mixture of two waves is their weighted sum") {
    const at::Tensor waves = at::tensor({1.0F, 2.0F, 3.0F, -4.0F}).reshape({2, 2});
    const at::Tensor half = mixed(waves, {.share = 0.75, .partners = {1, 0}});
    CHECK(at::equal(half, at::tensor({1.5F, 0.5F, 2.5F, -2.5F}).reshape({2, 2})));
    CHECK(at::equal(mixed(waves, {}), waves));
}

TEST_CASE("mixtures come as often as the recipe says, with shares of its distribution") {
    Recipe recipe;
    recipe.mixup_alpha = 0.3;
    recipe.mixup_share = 0.5;
    Random random(8);
    int count = 0;
    double sum = 0, squares = 0;
    for (int i = 0; i < 20000; ++i) {
        const Mixture mixture = draw_mixture(recipe, 4, random);
        if (mixture.partners.empty()) continue;
        ++count;
        sum += mixture.share;
        squares += mixture.share * mixture.share;
        std::vector<size_t> sorted = mixture.partners;
        std::sort(sorted.begin(), sorted.end());
        REQUIRE(sorted == std::vector<size_t>{0, 1, 2, 3});
    }
    CHECK(std::abs(count - 10000) < 300);
    // Beta(α, α) has the mean 1/2 and the variance 1 / (4 (2α + 1)) = 0.15625.
    CHECK(sum / count == Approx(0.5).margin(0.015));
    CHECK(squares / count - std::pow(sum / count, 2) == Approx(0.15625).margin(0.006));
    recipe.mixup_share = 0;
    CHECK(draw_mixture(recipe, 4, random).partners.empty());
}

TEST_CASE("stretches of silence are as many and as long as the recipe says") {
    Recipe recipe;
    recipe.wave_masks = 2;
    recipe.wave_mask_ms = 50;
    Random random(2);
    int64_t longest = 0;
    for (int i = 0; i < 50; ++i) {
        at::Tensor waves = at::ones({2, 4000});
        change_levels(waves, recipe, 8000, random);
        for (int64_t w = 0; w < 2; ++w) {
            const auto [length, count] = gaps(waves[w]);
            REQUIRE(count <= 2);
            REQUIRE(length <= 800);  // two that touch
            longest = std::max(longest, length);
            REQUIRE(waves[w].max().item<float>() == 1);
        }
    }
    CHECK(longest > 300);  // of 400
}

TEST_CASE("levels change by the recipe's decibels, a window as a whole") {
    Recipe recipe;
    recipe.level_jitter_db = 5.7;
    Random random(4);
    double sum = 0, squares = 0;
    at::Tensor waves = at::ones({4000, 2});
    change_levels(waves, recipe, 8000, random);
    for (int64_t i = 0; i < 4000; ++i) {
        REQUIRE(waves[i][0].item<float>() == waves[i][1].item<float>());
        const double decibels = 20 * std::log10(waves[i][0].item<double>());
        sum += decibels;
        squares += decibels * decibels;
    }
    CHECK(sum / 4000 == Approx(0).margin(0.3));
    CHECK(std::sqrt(squares / 4000) == Approx(5.7).margin(0.25));
}

TEST_CASE("masks of features keep their widths and their axes") {
    Recipe recipe;
    recipe.band_masks = 1;
    recipe.band_mask_width = 20;
    recipe.time_masks = 1;
    recipe.time_mask_width = 32;
    Random random(6);
    int64_t widest_band = 0, widest_time = 0;
    for (int i = 0; i < 100; ++i) {
        at::Tensor features = at::ones({2, 60, 128});
        mask_features(features, recipe, random);
        for (int64_t w = 0; w < 2; ++w) {
            const auto [bands, band_count] = gaps(features[w].amax(0));
            const auto [times, time_count] = gaps(features[w].amax(1));
            REQUIRE(bands < 20);
            REQUIRE(times < 32);
            REQUIRE(band_count <= 1);
            REQUIRE(time_count <= 1);
            REQUIRE(features[w].sum().item<double>() == static_cast<double>((60 - times) * (128 - bands)));
            widest_band = std::max(widest_band, bands);
            widest_time = std::max(widest_time, times);
        }
    }
    CHECK(widest_band >= 18);
    CHECK(widest_time >= 30);
    at::Tensor narrow = at::ones({3, 4, 5});
    mask_features(narrow, recipe, random);  // masks that are wider than the features
    at::Tensor other = at::ones({3, 40});
    mask_features(other, recipe, random);
    CHECK(other.sum().item<double>() == 120);
}
