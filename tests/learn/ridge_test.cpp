#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "base/random.hpp"
#include "learn/ridge.hpp"

using namespace biophony;

namespace {

struct Problem {
    at::Tensor x;  // (N, D) float32
    std::vector<int64_t> labels;
    int64_t classes = 0;
};

Problem problem(int64_t n, int64_t d, int64_t classes, uint64_t seed, double offset = 3) {
    Problem out{at::zeros({n, d}), {}, classes};
    Random random(seed);
    auto cells = out.x.accessor<float, 2>();
    for (int64_t i = 0; i < n; ++i) {
        out.labels.push_back(static_cast<int64_t>(random.below(static_cast<uint64_t>(classes))));
        for (int64_t j = 0; j < d; ++j)
            cells[i][j] = static_cast<float>(random.normal() + offset + (j == out.labels.back() ? 1.5 : 0));
    }
    return out;
}

at::Tensor one_hot(const Problem& p) {
    at::Tensor y = at::zeros({p.x.size(0), p.classes}, at::kDouble);
    for (size_t i = 0; i < p.labels.size(); ++i) y[static_cast<int64_t>(i)][p.labels[i]] = 1;
    return y;
}

/// Ridge on the pooled clips, straight from its definition: standardised data, normal equations, unpenalised intercept.
at::Tensor pooled_scores(const Problem& p, double strength, const at::Tensor& test) {
    const at::Tensor x = p.x.to(at::kDouble), y = one_hot(p);
    const at::Tensor deviation = (x - x.mean(0)).square().mean(0).sqrt();
    const at::Tensor xc = (x - x.mean(0)) / deviation, yc = y - y.mean(0);
    const at::Tensor gram = at::matmul(xc.t(), xc);
    const double lambda = strength * gram.trace().item<double>() / static_cast<double>(x.size(1));
    const at::Tensor w = at::linalg_solve(gram + lambda * at::eye(x.size(1), at::kDouble), at::matmul(xc.t(), yc));
    return at::matmul((test.to(at::kDouble) - x.mean(0)) / deviation, w) + y.mean(0);
}

RidgeSums sums_of(const Problem& p, int64_t from, int64_t to) {
    RidgeSums sums(p.x.size(1), p.classes);
    sums.add(p.x.narrow(0, from, to - from), {p.labels.data() + from, static_cast<size_t>(to - from)});
    return sums;
}

}  // namespace

TEST_CASE("ridge from three contributors' sums is ridge on the pooled clips") {
    const Problem p = problem(240, 24, 7, 11);
    const at::Tensor test = problem(50, 24, 7, 12).x;
    for (const double strength : {1e-4, 1e-2, 1.0}) {
        RidgeSums total(24, 7);
        total += sums_of(p, 0, 50);
        total += sums_of(p, 50, 51);
        total += sums_of(p, 51, 240);
        const at::Tensor ours = solve_ridge(total, strength).scores(test), theirs = pooled_scores(p, strength, test);
        const double relative = ((ours - theirs).abs().max() / theirs.abs().max()).item<double>();
        INFO("strength " << strength << ", relative difference " << relative);
        CHECK(relative < 1e-5);
    }
}

TEST_CASE("ridge with fewer clips than features, far from the origin") {
    const Problem p = problem(30, 64, 4, 21, 100);
    const at::Tensor test = problem(20, 64, 4, 22, 100).x;
    RidgeSums total(64, 4);
    total += sums_of(p, 0, 10);
    total += sums_of(p, 10, 30);
    const at::Tensor ours = solve_ridge(total, 1e-2).scores(test), theirs = pooled_scores(p, 1e-2, test);
    CHECK(((ours - theirs).abs().max() / theirs.abs().max()).item<double>() < 1e-5);
}

TEST_CASE("generalised cross-validation from the sums equals its definition on the clips") {
    const Problem p = problem(120, 16, 5, 31);
    const RidgeModel model = solve_ridge(sums_of(p, 0, 120), 0.03);
    const at::Tensor x = p.x.to(at::kDouble), y = one_hot(p);
    const at::Tensor xc = (x - x.mean(0)) / (x - x.mean(0)).square().mean(0).sqrt();
    const at::Tensor gram = at::matmul(xc.t(), xc);
    const double lambda = 0.03 * gram.trace().item<double>() / 16;
    const double freedom = 1 + at::linalg_solve(gram + lambda * at::eye(16, at::kDouble), gram).trace().item<double>();
    const double rss = (y - pooled_scores(p, 0.03, p.x)).pow(2).sum().item<double>();
    const double expected = rss / 120 / std::pow(1 - freedom / 120, 2);
    CHECK(model.gcv == Approx(expected).epsilon(1e-8));
}

TEST_CASE("generalised cross-validation prefers shrinking when features are noise") {
    Problem noise = problem(60, 40, 3, 41);
    noise.x = at::rand({60, 40});
    const RidgeModel strong = solve_ridge(sums_of(noise, 0, 60), std::nullopt);
    const Problem clean = problem(400, 12, 4, 42);
    const RidgeModel weak = solve_ridge(sums_of(clean, 0, 400), std::nullopt);
    CHECK(strong.strength > weak.strength);
    for (double s = 1e-7; s < 200; s *= std::sqrt(10.0))
        CHECK(solve_ridge(sums_of(clean, 0, 400), s).gcv >= weak.gcv * (1 - 1e-9));
}

TEST_CASE("a ridge on more features than clips is sound, and one that fits its clips exactly doesn't win") {
    at::set_num_threads(1);
    Problem p = problem(80, 1536, 4, 51, 5);
    p.x.narrow(1, 800, 736).copy_(p.x.narrow(1, 0, 736) * 1e-3);  // columns that say the same on another scale
    const at::Tensor test = problem(20, 1536, 4, 52, 5).x;
    const RidgeModel chosen = solve_ridge(sums_of(p, 0, 80), std::nullopt);
    const at::Tensor ours = chosen.scores(test), theirs = pooled_scores(p, chosen.strength, test);
    CHECK(((ours - theirs).abs().max() / theirs.abs().max()).item<double>() < 1e-5);
    CHECK(std::isfinite(chosen.gcv));
    CHECK(chosen.gcv > 0);
    CHECK(chosen.strength > 1e-6);
}

TEST_CASE("a ridge's scores don't depend on the features' scales, and a constant feature has no weight") {
    const Problem p = problem(90, 10, 3, 61);
    Problem scaled = p;
    scaled.x = p.x.clone();
    scaled.x.select(1, 2).mul_(1000);
    scaled.x.select(1, 5).mul_(1e-3);
    scaled.x.select(1, 9).fill_(-15.94F);
    Problem without = p;
    without.x = p.x.clone();
    without.x.select(1, 9).fill_(0);
    const RidgeModel plain = solve_ridge(sums_of(without, 0, 90), 0.1),
                     other = solve_ridge(sums_of(scaled, 0, 90), 0.1);
    CHECK(((plain.scores(without.x) - other.scores(scaled.x)).abs().max()).item<double>() < 1e-5);
    CHECK(other.weight.select(1, 9).abs().max().item<double>() == 0);
    CHECK(plain.weight.select(1, 9).abs().max().item<double>() == 0);
}

TEST_CASE("ridge refuses what it can't fit") {
    RidgeSums empty(4, 2);
    CHECK_THROWS_WITH(solve_ridge(empty, std::nullopt), Catch::Contains("found 0 clips"));
}
