#include "learn/ridge.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "learn/tensors.hpp"
#include "linalg/linalg.hpp"

namespace biophony {

RidgeSums::RidgeSums(int64_t features, int64_t classes)
    : x(at::zeros({features}, at::kDouble)),
      y(at::zeros({classes}, at::kDouble)),
      xx(at::zeros({features, features}, at::kDouble)),
      xy(at::zeros({features, classes}, at::kDouble)),
      yy(at::zeros({classes, classes}, at::kDouble)) {}

void RidgeSums::add(const at::Tensor& features, std::span<const int64_t> labels) {
    const at::Tensor wide = features.to(at::kDouble);
    const at::Tensor hot = one_hot(labels, y.size(0));
    n += static_cast<double>(wide.size(0));
    x += wide.sum(0);
    y += hot.sum(0);
    xx += at::matmul(wide.t(), wide);
    xy += at::matmul(wide.t(), hot);
    yy += at::matmul(hot.t(), hot);
}

RidgeSums& RidgeSums::operator+=(const RidgeSums& other) {
    n += other.n;
    x += other.x;
    y += other.y;
    xx += other.xx;
    xy += other.xy;
    yy += other.yy;
    return *this;
}

at::Tensor RidgeModel::scores(const at::Tensor& features) const {
    return at::matmul(features.to(at::kDouble), weight.t()) + bias;
}

RidgeModel solve_ridge(const RidgeSums& sums, std::optional<double> strength) {
    if (sums.n < 2)
        throw Error(Code::kRunFailed, fmt::format("found {} clips to fit a ridge head, expected at least 2", sums.n));
    const auto d = static_cast<double>(sums.x.size(0));
    const at::Tensor mean_x = sums.x / sums.n, mean_y = sums.y / sums.n;
    // Centring in the sums leaves the intercept out of the penalty.
    at::Tensor gram = sums.xx - sums.n * at::outer(mean_x, mean_x);
    gram = (gram + gram.t()) / 2;
    at::Tensor cross = sums.xy - sums.n * at::outer(mean_x, mean_y);
    // One over each feature's deviation; a feature that never varies has rounding only, and gets no weight.
    const at::Tensor squares = gram.diagonal();
    const at::Tensor inverse_scale = inverse_deviation(squares, sums.n, sums.xx.diagonal());
    gram = gram * at::outer(inverse_scale, inverse_scale);
    cross = cross * inverse_scale.unsqueeze(1);
    const double total = sums.yy.trace().item<double>() - sums.n * (mean_y * mean_y).sum().item<double>();

    const Eigen eigen = eigh(gram);
    const at::Tensor values = eigen.values.clamp_min(0);  // tiny negative ones are rounding
    const double scale = std::max(values.sum().item<double>() / d, std::numeric_limits<double>::min());
    const at::Tensor rotated = at::matmul(eigen.vectors.t(), cross);  // (D, C)
    const at::Tensor energy = (rotated * rotated).sum(1);             // (D)

    // With λ: W = V (Λ + λ)⁻¹ Vᵀ XᵀY; RSS = total − Σ e (2/(v+λ) − v/(v+λ)²); degrees of freedom = 1 + Σ v/(v+λ).
    auto score = [&](double s) {
        const at::Tensor inverse = 1.0 / (values + s * scale);
        const double rss = total - (energy * (2.0 * inverse - values * inverse * inverse)).sum().item<double>();
        const double freedom = 1.0 + (values * inverse).sum().item<double>();
        const double left = 1.0 - freedom / sums.n;
        // What is left of a fit that goes through all clips is rounding, and mustn't win.
        return left <= 0 ? std::numeric_limits<double>::infinity()
                         : std::max(rss, kRounding * total) / sums.n / (left * left);
    };
    RidgeModel model;
    if (strength) {
        model.strength = *strength;
        model.gcv = score(*strength);
    } else {
        model.gcv = std::numeric_limits<double>::infinity();
        constexpr int kFirst = -14, kLast = 4;
        for (int half_decade = kFirst; half_decade <= kLast; ++half_decade) {
            const double s = std::pow(10.0, half_decade / 2.0);
            if (const double g = score(s); g < model.gcv || model.strength == 0) {
                model.gcv = g;
                model.strength = s;
                model.at_edge = half_decade == kFirst || half_decade == kLast;
            }
        }
    }
    const at::Tensor inverse = 1.0 / (values + model.strength * scale);
    const at::Tensor scaled = at::matmul(eigen.vectors, inverse.unsqueeze(1) * rotated);  // (D, C)
    const at::Tensor weight = inverse_scale.unsqueeze(1) * scaled;
    model.bias = mean_y - at::matmul(mean_x, weight);
    model.weight = weight.t().contiguous();
    return model;
}

}  // namespace biophony
