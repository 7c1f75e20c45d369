#include "learn/logistic.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <numeric>

#include "base/error.hpp"
#include "base/random.hpp"
#include "learn/tensors.hpp"
#include "linalg/linalg.hpp"

namespace biophony {

namespace {

constexpr double kSearchTolerance = 1e-4;

/// The mean cross-entropy and its derivative with respect to the scores, (N, C).
double cross_entropy(const at::Tensor& scores, const at::Tensor& target, at::Tensor* derivative = nullptr) {
    const at::Tensor log_p = at::log_softmax(scores, 1), column = target.unsqueeze(1);
    const auto n = static_cast<double>(target.size(0));
    if (derivative != nullptr) {
        *derivative = log_p.exp();
        derivative->scatter_add_(1, column, at::full_like(column, -1, derivative->options()));
        *derivative /= n;
    }
    return -log_p.gather(1, column).sum().item<double>() / n;
}

/// The function to minimise. Weights and biases are one vector: (C, D + 1) flat, the bias last in each row.
class Objective {
public:
    Objective(at::Tensor x, at::Tensor target, int64_t classes)
        : x_(std::move(x)), target_(std::move(target)), classes_(classes) {}
    double strength = 0;

    int64_t size() const { return classes_ * (x_.size(1) + 1); }
    at::Tensor scores(const at::Tensor& at, const at::Tensor& x) const {
        const at::Tensor w = at.view({classes_, x.size(1) + 1});
        return at::addmm(w.select(1, x.size(1)), x, w.narrow(1, 0, x.size(1)).t());
    }
    double operator()(const at::Tensor& at, at::Tensor& gradient) const {
        const int64_t d = x_.size(1);
        const at::Tensor w = at.view({classes_, d + 1}).narrow(1, 0, d);
        at::Tensor derivative;
        const double loss = cross_entropy(scores(at, x_), target_, &derivative);
        gradient =
            at::cat({at::matmul(derivative.t(), x_) + strength * w, derivative.sum(0).unsqueeze(1)}, 1).flatten();
        return loss + strength / 2 * w.square().sum().item<double>();
    }

private:
    at::Tensor x_, target_;
    int64_t classes_;
};

/// From `at` downhill until no derivative is above the tolerance. Returns the value; `gradient` is that at the end.
double minimise(const Objective& objective, at::Tensor& at, at::Tensor& gradient, double tolerance,
                const Cancel& cancel) {
    constexpr size_t kMemory = 10;
    constexpr int kSteps = 2000, kHalvings = 40;
    struct Pair {
        at::Tensor s, y;
        double sy;
    };
    std::deque<Pair> memory;
    auto dot = [](const at::Tensor& a, const at::Tensor& b) { return at::dot(a, b).item<double>(); };
    double value = objective(at, gradient);
    for (int step = 0; step < kSteps && gradient.abs().max().item<double>() > tolerance; ++step) {
        cancel.check();
        at::Tensor direction = -gradient;
        std::vector<double> alpha(memory.size());
        for (size_t i = memory.size(); i-- > 0;) {
            alpha[i] = dot(memory[i].s, direction) / memory[i].sy;
            direction -= alpha[i] * memory[i].y;
        }
        if (!memory.empty()) direction *= memory.back().sy / dot(memory.back().y, memory.back().y);
        for (size_t i = 0; i < memory.size(); ++i)
            direction += (alpha[i] - dot(memory[i].y, direction) / memory[i].sy) * memory[i].s;
        double slope = dot(direction, gradient);
        if (!(slope < 0)) {  // rounding has spoilt what is remembered
            memory.clear();
            direction = -gradient;
            slope = dot(direction, gradient);
        }
        double length = memory.empty() ? std::min(1.0, 1 / std::sqrt(-slope)) : 1;
        at::Tensor next, next_gradient;
        double next_value = 0;
        int halvings = 0;
        for (; halvings < kHalvings; ++halvings, length /= 2) {
            next = at + length * direction;
            next_value = objective(next, next_gradient);
            if (next_value <= value + 1e-4 * length * slope) break;
        }
        if (halvings == kHalvings) break;  // as low as rounding allows
        Pair pair{next - at, next_gradient - gradient, 0};
        pair.sy = dot(pair.s, pair.y);
        if (pair.sy > 1e-12 * dot(pair.y, pair.y)) {
            memory.push_back(std::move(pair));
            if (memory.size() > kMemory) memory.pop_front();
        }
        at = next;
        gradient = next_gradient;
        value = next_value;
    }
    return value;
}

void check_examples(const Examples& train) {
    if (train.labels.empty()) throw Error(Code::kRunFailed, "found no clips to fit a logistic regression");
}

}  // namespace

LogisticModel fit_logistic(const Examples& train, const Examples& valid, int64_t classes,
                           std::optional<double> strength, Progress& progress, const Cancel& cancel) {
    const at::NoGradGuard no_grad;
    check_examples(train);
    const at::Tensor raw = train.features.to(at::kDouble);
    const at::Tensor mean = raw.mean(0), squares = (raw - mean).square().mean(0);
    const at::Tensor inverse = inverse_deviation(squares, 1, raw.square().mean(0));
    at::Tensor x = (raw - mean) * inverse, basis;
    // With fewer examples than features the weights lie in the span of the examples, where the problem is smaller.
    if (x.size(0) < x.size(1)) {
        const Eigen eigen = eigh(at::matmul(x, x.t()));
        const at::Tensor kept = (eigen.values > 1e-12 * eigen.values.max()).nonzero().flatten();
        const at::Tensor left = eigen.vectors.index_select(1, kept), length = eigen.values.index_select(0, kept).sqrt();
        basis = at::matmul(x.t(), left) / length;  // (D, R), orthonormal columns
        x = left * length;
    }
    auto shortened = [&](const at::Tensor& standard) {
        return basis.defined() ? at::matmul(standard, basis) : standard;
    };
    Objective objective(x, tensor_of(train.labels), classes);

    LogisticModel model;
    at::Tensor at = at::zeros({objective.size()}, at::kDouble), gradient;
    if (strength) {
        model.strength = *strength;
    } else if (valid.labels.empty()) {
        model.strength = 0.01;
    } else {
        // From strong to weak, each starting where the last ended.
        const at::Tensor held_out = shortened((valid.features.to(at::kDouble) - mean) * inverse);
        const at::Tensor target = tensor_of(valid.labels);
        constexpr int kFirst = 2, kLast = -10;
        at::Tensor best;
        double least = std::numeric_limits<double>::infinity();
        for (int half_decade = kFirst; half_decade >= kLast; --half_decade) {
            objective.strength = std::pow(10.0, half_decade / 2.0);
            minimise(objective, at, gradient, kSearchTolerance, cancel);
            const double loss = cross_entropy(objective.scores(at, held_out), target);
            progress.update(kFirst - half_decade + 1, kFirst - kLast + 1, "strengths");
            if (loss < least) {
                least = loss;
                model.strength = objective.strength;
                model.at_edge = half_decade == kFirst || half_decade == kLast;
                best = at.clone();
            } else if (loss > 1.05 * least) {
                break;  // weaker ones only fit the train clips more closely, and take longest
            }
        }
        if (!best.defined()) throw Error(Code::kRunFailed, "no strength gives the valid clips a finite cross-entropy");
        model.valid_loss = least;
        at = best;
    }
    objective.strength = model.strength;
    model.loss = minimise(objective, at, gradient, kLogisticTolerance, cancel);
    model.gradient = gradient.abs().max().item<double>();
    const int64_t d = x.size(1);
    const at::Tensor w = at.view({classes, d + 1}), slopes = w.narrow(1, 0, d);
    model.weight = ((basis.defined() ? at::matmul(slopes, basis.t()) : slopes) * inverse).contiguous();
    model.bias = w.select(1, d) - at::matmul(model.weight, mean);
    return model;
}

LogisticModel fit_probe_nihal2026(const Examples& train, int64_t classes, uint64_t seed, const Cancel& cancel) {
    constexpr double kRate = 1e-3, kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
    constexpr int kEpochs = 10;
    constexpr size_t kBatch = 64;
    const at::NoGradGuard no_grad;
    check_examples(train);
    Random random(seed);
    const at::Tensor x = train.features.to(at::kFloat), target = tensor_of(train.labels);
    struct Parameter {
        at::Tensor value, first, second;
        explicit Parameter(at::Tensor start)
            : value(std::move(start)), first(at::zeros_like(value)), second(at::zeros_like(value)) {}
    };
    Parameter weight(xavier_uniform(classes, x.size(1), random)), bias(at::zeros({classes}, at::kFloat));
    int64_t step = 0;
    auto update = [&](Parameter& parameter, const at::Tensor& gradient) {
        const auto t = static_cast<double>(step);
        parameter.first = kBeta1 * parameter.first + (1 - kBeta1) * gradient;
        parameter.second = kBeta2 * parameter.second + (1 - kBeta2) * gradient.square();
        const at::Tensor deviation = (parameter.second / (1 - std::pow(kBeta2, t))).sqrt() + kEpsilon;
        parameter.value -= kRate / (1 - std::pow(kBeta1, t)) * parameter.first / deviation;
    };
    std::vector<int64_t> order(train.labels.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    LogisticModel model;
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
        cancel.check();
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
        for (size_t begin = 0; begin < order.size(); begin += kBatch) {
            ++step;
            const at::Tensor rows = tensor_of(std::span(order).subspan(begin, std::min(kBatch, order.size() - begin)));
            const at::Tensor part = x.index_select(0, rows);
            at::Tensor derivative;
            model.loss =
                cross_entropy(at::addmm(bias.value, part, weight.value.t()), target.index_select(0, rows), &derivative);
            update(weight, at::matmul(derivative.t(), part));
            update(bias, derivative.sum(0));
        }
    }
    model.weight = weight.value.to(at::kDouble);
    model.bias = bias.value.to(at::kDouble);
    return model;
}

}  // namespace biophony
