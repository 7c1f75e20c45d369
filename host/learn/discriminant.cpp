#include "learn/discriminant.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "learn/tensors.hpp"
#include "linalg/linalg.hpp"

namespace biophony {

namespace {

/// Chen et al. 2010, eq. 23, from the traces of S and S², p features and n degrees of freedom.
double oracle_shrinkage(double trace, double trace_of_square, double p, double n) {
    const double numerator = (1 - 2 / p) * trace_of_square + trace * trace;
    const double denominator = (n + 1 - 2 / p) * (trace_of_square - trace * trace / p);
    return denominator <= 0 ? 1 : std::clamp(numerator / denominator, 0.0, 1.0);
}

}  // namespace

DiscriminantModel solve_discriminant(const RidgeSums& sums, std::optional<double> shrinkage, bool train_priors) {
    const auto classes = static_cast<double>(sums.y.size(0));
    const double freedom = sums.n - classes;
    if (freedom < 1)
        throw Error(Code::kRunFailed, fmt::format("found {} clips of {} classes; a discriminant needs a class with two",
                                                  sums.n, classes));
    const at::Tensor means = sums.xy / sums.y;  // (D, C)
    at::Tensor within = sums.xx - at::matmul(means * sums.y, means.t());
    within = (within + within.t()) / 2;
    const at::Tensor inverse = inverse_deviation(within.diagonal(), freedom, sums.xx.diagonal());
    within = within / freedom * at::outer(inverse, inverse);

    DiscriminantModel model;
    const double p = (inverse > 0).sum().item<double>();
    if (p == 0) throw Error(Code::kRunFailed, "no feature varies within a class, so a discriminant can't be fitted");
    model.shrinkage =
        shrinkage ? *shrinkage
                  : oracle_shrinkage(within.trace().item<double>(), within.square().sum().item<double>(), p, freedom);
    const Eigen eigen = eigh(within);
    const at::Tensor values = (1 - model.shrinkage) * eigen.values.clamp_min(0) + model.shrinkage;
    // A shrinkage of next to nothing leaves directions in which no clip differs from its class; they can't be used.
    const at::Tensor usable = at::where(values > kRounding * values.max(), 1 / values, at::zeros_like(values));
    // Around the common mean, so that large means don't cancel.
    const at::Tensor centre = sums.x / sums.n;
    const at::Tensor standard = (means - centre.unsqueeze(1)) * inverse.unsqueeze(1);  // (D, C)
    const at::Tensor solved = at::matmul(eigen.vectors, usable.unsqueeze(1) * at::matmul(eigen.vectors.t(), standard));
    const at::Tensor priors = train_priors ? (sums.y / sums.n).log() : at::zeros_like(sums.y);
    model.weight = (solved * inverse.unsqueeze(1)).t().contiguous();
    model.bias = priors - (standard * solved).sum(0) / 2 - at::matmul(model.weight, centre);
    return model;
}

ClassSums::ClassSums(int64_t features, int64_t classes)
    : y(at::zeros({classes}, at::kDouble)),
      xy(at::zeros({features, classes}, at::kDouble)),
      squares(at::zeros({features}, at::kDouble)) {}

void ClassSums::add(const at::Tensor& features, std::span<const int64_t> labels) {
    const at::Tensor wide = features.to(at::kDouble), hot = one_hot(labels, y.size(0));
    y += hot.sum(0);
    xy += at::matmul(wide.t(), hot);
    squares += wide.square().sum(0);
}

ClassSums& ClassSums::operator+=(const ClassSums& other) {
    y += other.y;
    xy += other.xy;
    squares += other.squares;
    return *this;
}

Prototypes solve_prototypes(const ClassSums& sums) {
    const double n = sums.y.sum().item<double>();
    Prototypes out;
    out.mean = sums.xy.sum(1) / n;
    out.inverse = inverse_deviation(sums.squares - n * out.mean.square(), n, sums.squares);
    out.means = (((sums.xy / sums.y).t() - out.mean) * out.inverse).contiguous();
    return out;
}

}  // namespace biophony
