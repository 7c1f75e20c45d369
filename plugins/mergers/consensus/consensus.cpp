// Merges that look, element by element, for what experts have in common.
//   magmax        Marczak et al. 2024, "MagMax", arXiv 2407.06322
//   consensus-ta  Wang et al. 2024, "Localizing task information for improved model merging", arXiv 2405.07813
//   sce           Wan et al. 2024, "FuseChat", arXiv 2408.07990, section 3.3
#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;

namespace {

/// λ times the value with the largest magnitude; of two that are opposite, the positive one.
class MagMax : public sdk::Merger {
public:
    explicit MagMax(const sdk::Params& params) : lambda_(params.at("lambda")) {}

    void element(const sdk::Tile& tile) const override {
        float* const out = tile.out().data();
        const size_t n = tile.size();
        std::ranges::copy(tile.expert(0), out);
        for (size_t i = 1; i < tile.experts(); ++i) {
            const float* const delta = tile.expert(i).data();
            for (size_t k = 0; k < n; ++k) {
                const float a = std::fabs(out[k]), b = std::fabs(delta[k]);
                const float larger = b > a ? delta[k] : out[k];
                out[k] = a == b ? std::max(out[k], delta[k]) : larger;
            }
        }
        const auto factor = static_cast<float>(lambda_);
        for (size_t k = 0; k < n; ++k) out[k] *= factor;
    }

private:
    double lambda_;
};

/// Keeps the places where at least `agree` experts have |δ_i| > λ_i |Σ δ − δ_i|, their TALL mask.
class ConsensusMask : public sdk::Merger {
public:
    explicit ConsensusMask(const sdk::Params& params)
        : lambda_(params.at("mask_lambda")),
          lambdas_(numbers::per_expert(params, "mask_lambdas")),
          agree_(params.at("agree")) {}

    void element(const sdk::Tile& tile) const override {
        numbers::check_per_expert(lambdas_, tile.experts(), "mask_lambdas");
        if (agree_ > tile.experts())
            throw sdk::Error("expects " + std::to_string(agree_) + " experts to agree, found " +
                                 std::to_string(tile.experts()) + ": nothing would be left",
                             BPH_INVALID_ARGUMENT, "agree");
        constexpr size_t kBlock = 512;
        std::array<double, kBlock> sum;
        std::array<float, kBlock> votes;
        for (size_t from = 0; from < tile.size(); from += kBlock) {
            const size_t count = std::min(kBlock, tile.size() - from);
            numbers::add_experts(tile, from, count, sum.data());
            votes.fill(0);
            for (size_t i = 0; i < tile.experts(); ++i) {
                const float* const delta = tile.expert(i).data() + from;
                const double lambda = lambdas_.empty() ? lambda_ : lambdas_[i];
                for (size_t k = 0; k < count; ++k)
                    votes[k] += std::fabs(delta[k]) > lambda * std::fabs(sum[k] - delta[k]) ? 1.0F : 0.0F;
            }
            const auto enough = static_cast<float>(agree_);
            for (size_t k = 0; k < count; ++k) votes[k] = votes[k] >= enough ? 1.0F : 0.0F;
            for (size_t i = 0; i < tile.experts(); ++i) {
                const float* const delta = tile.expert(i).data() + from;
                float* const out = tile.out(i).data() + from;
                for (size_t k = 0; k < count; ++k) out[k] = votes[k] * delta[k];
            }
        }
    }

private:
    double lambda_;
    std::vector<double> lambdas_;
    size_t agree_;
};

/// Select the elements that vary most between experts, calculate each expert's weight from its squares, erase what is
/// against the elected sign.
class Sce : public sdk::Merger {
public:
    explicit Sce(const sdk::Params& params) : density_(params.at("density")) {}

    void element(const sdk::Tile& tile) const override {
        const size_t n = tile.size(), experts = tile.experts();
        const std::vector<float> selected = density_ < 1 ? select(tile) : std::vector<float>(n, 1.0F);
        std::vector<double> weights(experts);
        double total = 0;
        for (size_t i = 0; i < experts; ++i) {
            const float* const delta = tile.expert(i).data();
            numbers::Sum squares;
            squares.add(n, [&](size_t k) { return static_cast<double>(delta[k]) * delta[k] * selected[k]; });
            total += weights[i] = squares.value();
        }
        if (total == 0) {
            std::ranges::fill(tile.out(), 0.0F);
            return;
        }
        constexpr size_t kBlock = 512;
        std::array<double, kBlock> elected, sum, weight;
        for (size_t from = 0; from < n; from += kBlock) {
            const size_t count = std::min(kBlock, n - from);
            numbers::add_experts(tile, from, count, elected.data());
            for (size_t k = 0; k < count; ++k) elected[k] = elected[k] >= 0 ? 1.0 : -1.0;
            sum.fill(0), weight.fill(0);
            for (size_t i = 0; i < experts; ++i) {
                const float* const delta = tile.expert(i).data() + from;
                const double w = weights[i] / total;
                for (size_t k = 0; k < count; ++k) {
                    const double value = delta[k], has_say = value * elected[k] > 0 ? w : 0.0;
                    sum[k] += has_say * value;
                    weight[k] += has_say;
                }
            }
            float* const out = tile.out().data() + from;
            for (size_t k = 0; k < count; ++k) {
                const double by = weight[k] > 0 ? weight[k] : 1.0;
                out[k] = static_cast<float>(sum[k] / by) * selected[from + k];
            }
        }
    }

private:
    /// 1 for the fraction `density` of those that vary at all, the largest variances first; else 0.
    std::vector<float> select(const sdk::Tile& tile) const {
        const size_t n = tile.size();
        const auto experts = static_cast<double>(tile.experts());
        std::vector<double> mean(n), square(n);
        for (size_t i = 0; i < tile.experts(); ++i) {
            const float* const delta = tile.expert(i).data();
            for (size_t k = 0; k < n; ++k) mean[k] += delta[k] / experts;
        }
        for (size_t i = 0; i < tile.experts(); ++i) {
            const float* const delta = tile.expert(i).data();
            for (size_t k = 0; k < n; ++k) square[k] += (delta[k] - mean[k]) * (delta[k] - mean[k]);
        }
        std::vector<float> out(n);
        size_t varying = 0;
        for (size_t k = 0; k < n; ++k) out[k] = static_cast<float>(square[k]);
        for (size_t k = 0; k < n; ++k) varying += out[k] > 0 ? 1 : 0;
        const auto kept = static_cast<size_t>(density_ * static_cast<double>(varying) * (1 + 1e-12));
        const float least = varying == 0 ? 1.0F : numbers::magnitude_of_rank(out, n - std::max<size_t>(kept, 1));
        for (float& value : out) value = value >= least && value > 0 ? 1.0F : 0.0F;
        return out;
    }

    double density_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<MagMax>("magmax"), sdk::merger<ConsensusMask>("consensus-mask"), sdk::merger<Sce>("sce"))
