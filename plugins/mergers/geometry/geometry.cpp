// Merges on the sphere, and Model Stock: combinations Σ c_i x_i of a tensor's experts whose coefficients depend on
// their lengths and angles alone, so on the matrix of their inner products.
//   slerp        Shoemake 1985, "Animating rotation with quaternion curves", section 3.3
//   nuslerp, multislerp, karcher   mergekit; the Karcher mean is that of the sphere, Karcher 1977
//   model-stock  Jang et al. 2024, "Model Stock", arXiv 2403.19522
#include <tuple>

#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;

namespace {

/// ⟨x_i, x_j⟩ of the experts, in float64.
class Gram {
public:
    explicit Gram(const sdk::Tile& tile) : n_(tile.experts()), sums_(n_ * n_) {
        constexpr size_t kBlock = 2048;  // so that a block of all experts stays in the cache for all pairs
        for (size_t from = 0; from < tile.size(); from += kBlock) {
            const size_t count = std::min(kBlock, tile.size() - from);
            for (size_t i = 0; i < n_; ++i)
                for (size_t j = i; j < n_; ++j) {
                    const float *const a = tile.expert(i).data() + from, *const b = tile.expert(j).data() + from;
                    sums_[i * n_ + j].add(count, [&](size_t k) { return static_cast<double>(a[k]) * b[k]; });
                }
        }
    }
    size_t size() const { return n_; }
    double at(size_t i, size_t j) const { return sums_[std::min(i, j) * n_ + std::max(i, j)].value(); }
    double norm(size_t i) const { return std::sqrt(at(i, i)); }
    /// 0 where one of them is.
    double cosine(size_t i, size_t j) const {
        const double norms = norm(i) * norm(j);
        return norms > 0 ? std::clamp(at(i, j) / norms, -1.0, 1.0) : 0;
    }

private:
    size_t n_;
    std::vector<numbers::Sum> sums_;
};

/// What a point of the sphere between a and b, at the fraction t of the way, has of each.
struct Pair {
    double a, b;
};
Pair on_the_arc(double cosine, double t, bool straight) {
    if (straight) return {1 - t, t};
    const double angle = std::acos(cosine);
    return {std::sin((1 - t) * angle) / std::sin(angle), std::sin(t * angle) / std::sin(angle)};
}

void check_two(const sdk::Tile& tile) {
    if (tile.experts() != 2)
        throw sdk::Error("takes exactly 2 experts, found " + std::to_string(tile.experts()), BPH_INVALID_ARGUMENT);
}

/// sin((1 − t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, Ω being the angle between them
class Slerp : public sdk::Merger {
public:
    explicit Slerp(const sdk::Params& params) : t_(params.at("t")) {}

    void element(const sdk::Tile& tile) const override {
        check_two(tile);
        const double cosine = Gram(tile).cosine(0, 1);
        const Pair c = on_the_arc(cosine, t_, std::fabs(cosine) > 0.9995);
        numbers::write_combination(tile, std::array{c.a, c.b});
    }

private:
    double t_;
};

/// Slerp by weights, of the whole tensor or of each of its rows or columns.
class NuSlerp : public sdk::Merger {
public:
    explicit NuSlerp(const sdk::Params& params) : along_(params.at("along")) {
        std::vector<double> weights = numbers::per_expert(params, "weights");
        if (weights.empty()) weights = {1, 1};
        if (weights.size() != 2 || weights[0] + weights[1] <= 0)
            throw sdk::Error("expected two weights that aren't both 0", BPH_INVALID_ARGUMENT, "weights");
        t_ = weights[1] / (weights[0] + weights[1]);
    }

    void element(const sdk::Tile& tile) const override {
        check_two(tile);
        const auto shape = tile.shape();
        if (along_ == "tensor" || shape.size() < 2) return numbers::write_combination(tile, coefficients(Gram(tile)));
        along_ == "rows" ? rows(tile, shape.back()) : columns(tile, tile.size() / shape.front());
    }

private:
    std::array<double, 2> coefficients(const Gram& gram) const {
        return of(gram.at(0, 0), gram.at(1, 1), gram.at(0, 1));
    }
    std::array<double, 2> of(double aa, double bb, double ab) const {
        const double norms = std::sqrt(aa) * std::sqrt(bb);
        const double cosine = norms > 0 ? std::clamp(ab / norms, -1.0, 1.0) : 0;
        const Pair c = on_the_arc(cosine, t_, std::sin(std::acos(cosine)) < 1e-8);
        return {c.a, c.b};
    }
    /// Runs of the last dimension.
    void rows(const sdk::Tile& tile, size_t length) const {
        for (size_t from = 0; from < tile.size(); from += length) {
            const auto a = tile.expert(0).subspan(from, length), b = tile.expert(1).subspan(from, length);
            const auto [p, q] = of(numbers::dot(a, a), numbers::dot(b, b), numbers::dot(a, b));
            for (size_t k = 0; k < length; ++k) tile.out()[from + k] = static_cast<float>(p * a[k] + q * b[k]);
        }
    }
    /// Places that differ in the first dimension only, `stride` apart.
    void columns(const sdk::Tile& tile, size_t stride) const {
        const auto a = tile.expert(0), b = tile.expert(1);
        std::vector<double> aa(stride), bb(stride), ab(stride), p(stride), q(stride);
        for (size_t from = 0; from < tile.size(); from += stride)
            for (size_t c = 0; c < stride; ++c) {
                const double x = a[from + c], y = b[from + c];
                aa[c] += x * x, bb[c] += y * y, ab[c] += x * y;
            }
        for (size_t c = 0; c < stride; ++c) std::tie(p[c], q[c]) = std::tuple_cat(of(aa[c], bb[c], ab[c]));
        for (size_t from = 0; from < tile.size(); from += stride)
            for (size_t c = 0; c < stride; ++c)
                tile.out()[from + c] = static_cast<float>(p[c] * a[from + c] + q[c] * b[from + c]);
    }

    std::string along_;
    double t_;
};

/// A combination of the experts by its coefficients, with what the inner products say of it.
struct Combination {
    const Gram& gram;
    std::vector<double> c;

    explicit Combination(const Gram& of) : gram(of), c(of.size()) {}
    double dot(size_t j) const {
        double sum = 0;
        for (size_t i = 0; i < c.size(); ++i) sum += c[i] * gram.at(i, j);
        return sum;
    }
    double norm() const {
        double sum = 0;
        for (size_t j = 0; j < c.size(); ++j) sum += c[j] * dot(j);
        return std::sqrt(std::max(sum, 0.0));
    }
    void scale(double by) {
        for (double& value : c) value *= by;
    }
};

/// Of directions that cancel out there is no mean; then it is the plain one.
void write_mean(const sdk::Tile& tile, std::span<const double> weights) {
    tile.call().log("the experts' directions cancel out in at least one tensor, which gets their plain mean",
                    BPH_LOG_WARNING);
    numbers::write_combination(tile, weights);
}

/// The point of the unit sphere with the least mean squared angle to the experts' directions, by steps along the mean
/// of the tangents; as long as the experts are on average.
class Karcher : public sdk::Merger {
public:
    explicit Karcher(const sdk::Params& params)
        : most_steps_(params.at("max_iter")), tolerance_(params.at("tolerance")) {}

    void element(const sdk::Tile& tile) const override {
        const Gram gram(tile);
        const size_t n = gram.size();
        std::vector<size_t> used;
        double length = 0;
        for (size_t i = 0; i < n; ++i) {
            length += gram.norm(i) / static_cast<double>(n);
            if (gram.norm(i) > 0) used.push_back(i);
        }
        Combination u(gram);
        if (n == 1) u.c[0] = 1;
        if (n == 1 || used.empty()) return numbers::write_combination(tile, u.c);
        const double alpha = 1 / static_cast<double>(used.size());
        for (const size_t i : used) u.c[i] = alpha / gram.norm(i);
        if (u.norm() < tolerance_) return write_mean(tile, std::vector<double>(n, 1 / static_cast<double>(n)));
        u.scale(1 / u.norm());
        for (int step = 0; step < most_steps_; ++step) {
            // T = Σ α θ_i / sin θ_i · (x_i/‖x_i‖ − cos θ_i u)
            Combination tangent(gram);
            double along_u = 0;
            for (const size_t i : used) {
                const double cosine = std::clamp(u.dot(i) / gram.norm(i), -1.0, 1.0), angle = std::acos(cosine);
                const double sine = std::sin(angle);
                if (angle < tolerance_ || sine < 1e-6) continue;  // there already, or opposite: no direction to it
                tangent.c[i] += alpha * angle / sine / gram.norm(i);
                along_u += alpha * angle / sine * cosine;
            }
            for (size_t i = 0; i < n; ++i) tangent.c[i] -= along_u * u.c[i];
            const double size = tangent.norm();
            if (size < tolerance_) break;
            for (size_t i = 0; i < n; ++i) u.c[i] = std::cos(size) * u.c[i] + std::sin(size) * tangent.c[i] / size;
            u.scale(1 / u.norm());
        }
        u.scale(length);
        numbers::write_combination(tile, u.c);
    }

private:
    int most_steps_;
    double tolerance_;
};

/// The direction of the weighted mean of the experts' directions, as long as they are in the weighted mean.
class MultiSlerp : public sdk::Merger {
public:
    explicit MultiSlerp(const sdk::Params& params) : weights_(numbers::per_expert(params, "weights")) {
        double sum = 0;
        for (const double weight : weights_) sum += weight;
        if (!weights_.empty() && sum <= 0)
            throw sdk::Error("expected weights that aren't all 0", BPH_INVALID_ARGUMENT, "weights");
        for (double& weight : weights_) weight /= sum;
    }

    void element(const sdk::Tile& tile) const override {
        numbers::check_per_expert(weights_, tile.experts(), "weights");
        const Gram gram(tile);
        const size_t n = gram.size();
        const std::vector<double> weights =
            weights_.empty() ? std::vector<double>(n, 1 / static_cast<double>(n)) : weights_;
        if (n == 1) return numbers::write_combination(tile, weights);
        Combination mean(gram);
        double length = 0;
        for (size_t i = 0; i < n; ++i) {
            if (gram.norm(i) > 0) mean.c[i] = weights[i] / gram.norm(i);
            length += weights[i] * gram.norm(i);
        }
        const double size = mean.norm();
        if (size < 1e-8) return write_mean(tile, weights);
        mean.scale(length / size);
        numbers::write_combination(tile, mean.c);
    }

private:
    std::vector<double> weights_;
};

/// t/N Σ δ_i, t = N c / (1 + (N − 1) c): the point next to the centre of the experts, as far as their angle shows it
class ModelStock : public sdk::Merger {
public:
    explicit ModelStock(const sdk::Params& params) : angles_(params.at("mean_of") == "angles") {}

    void element(const sdk::Tile& tile) const override {
        const Gram gram(tile);
        const size_t n = gram.size();
        bool moved = false;
        for (size_t i = 0; i < n; ++i) moved |= gram.norm(i) > 0;
        if (!moved) {  // where no expert has been there is no angle to speak of
            std::ranges::fill(tile.out(), 0.0F);
            return;
        }
        double mean = 0;
        for (size_t i = 0; i < n; ++i)
            for (size_t j = i + 1; j < n; ++j) mean += angles_ ? std::acos(gram.cosine(i, j)) : gram.cosine(i, j);
        mean /= static_cast<double>(std::max<size_t>(n * (n - 1) / 2, 1));
        const double c = n == 1 ? 1 : std::clamp(angles_ ? std::cos(mean) : mean, 0.0, 1.0);
        const auto experts = static_cast<double>(n);
        const double t = experts * c / (1 + (experts - 1) * c);
        tile.call().log(
            "tensor '" + std::string(tile.tensor()) + "': cosine " + std::to_string(c) + ", t " + std::to_string(t),
            BPH_LOG_DEBUG);
        if (t < 0.1)
            tile.call().log(
                "t is below 0.1 in at least one tensor: the experts are nearly orthogonal there, and the merge is "
                "nearly "
                "the base",
                BPH_LOG_WARNING);
        numbers::write_combination(tile, std::vector<double>(n, t / experts));
    }

private:
    bool angles_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<Slerp>("slerp"), sdk::merger<NuSlerp>("nuslerp"), sdk::merger<NuSlerp>("nuslerp.delta"),
                sdk::merger<Karcher>("karcher"), sdk::merger<MultiSlerp>("multislerp"),
                sdk::merger<MultiSlerp>("multislerp.delta"), sdk::merger<ModelStock>("model-stock"))
