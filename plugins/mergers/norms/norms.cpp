// Stages that weigh by the lengths of task vectors.
//   norm-adjusted           Nihal et al. 2026, arXiv 2605.03914: experts weighted by 1/‖δ_i‖
//   norm-match(.global)     the merged vector as long as the experts are on average: Tang et al. 2025, "Merging models
//   on
//                           the fly without retraining" (OPCM), arXiv 2501.09522, section 4.2
//   lines                   Wang et al. 2024, "LiNeS: post-training layer scaling", arXiv 2410.17146, equations 3 and 5
#include <optional>

#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;

namespace {

/// Lengths of vectors over all tensors: running sums, each over one vector's values.
class Lengths : public sdk::Observation {
public:
    explicit Lengths(size_t vectors) : sums_(vectors) {}
    void join(const sdk::Observation& later) override {
        const auto& others = static_cast<const Lengths&>(later).sums_;
        for (size_t i = 0; i < others.size(); ++i) sum(i).add(others[i]);
    }

protected:
    numbers::Sum& sum(size_t vector) {
        if (sums_.size() <= vector) sums_.resize(vector + 1);
        return sums_[vector];
    }
    void add_squares(size_t vector, std::span<const float> values) {
        sum(vector).add(values.size(), [&](size_t k) { return static_cast<double>(values[k]) * values[k]; });
    }
    std::vector<numbers::Sum> sums_;
};

/// λ Σ w_i δ_i with w_i = 1/‖δ_i‖ / Σ_j 1/‖δ_j‖
class NormAdjusted : public sdk::Merger {
public:
    explicit NormAdjusted(const sdk::Params& params) : lambda_(params.at("lambda_mean")) {}

    void element(const sdk::Tile& tile) const override {
        const size_t experts = tile.experts();
        double total = 0;
        for (size_t i = 0; i < experts; ++i) total += inverse(tile.norm(i));
        float* const out = tile.out().data();
        for (size_t i = 0; i < experts; ++i) {
            const float* const delta = tile.expert(i).data();
            const auto c = static_cast<float>(lambda_ * (inverse(tile.norm(i)) / (total > 0 ? total : 1)));
            if (i == 0)
                for (size_t k = 0; k < tile.size(); ++k) out[k] = c * delta[k];
            else
                for (size_t k = 0; k < tile.size(); ++k) out[k] += c * delta[k];
        }
    }

private:
    static double inverse(double length) { return length > 0 ? 1 / length : 0; }
    double lambda_;
};

/// x · mean ‖δ_i‖ / ‖x‖ in each tensor
class NormMatch : public sdk::Merger {
public:
    explicit NormMatch(const sdk::Params&) {}

    void element(const sdk::Tile& tile) const override {
        double wanted = 0;
        for (size_t i = 0; i < tile.sources(); ++i)
            wanted += numbers::norm(tile.source(i)) / static_cast<double>(tile.sources());
        const double found = numbers::norm(tile.expert(0));
        numbers::write_combination(tile, std::array{found > 0 ? wanted / found : 0});
    }
};

/// x · mean ‖δ_i‖ / ‖x‖ of the whole vector
class NormMatchGlobal : public sdk::Merger {
public:
    explicit NormMatchGlobal(const sdk::Params&) {}

    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
        return std::make_unique<Seen>(1);
    }
    void element(const sdk::Tile& tile) const override {
        const auto scale = static_cast<float>(tile.observed<Seen>().scale);
        const float* const merged = tile.expert(0).data();
        float* const out = tile.out().data();
        for (size_t k = 0; k < tile.size(); ++k) out[k] = scale * merged[k];
    }

private:
    /// The merged vector, then the experts.
    struct Seen : Lengths {
        using Lengths::Lengths;
        void see(const sdk::Tile& tile) override {
            add_squares(0, tile.expert(0));
            for (size_t i = 0; i < tile.sources(); ++i) add_squares(i + 1, tile.source(i));
        }
        void end() override {
            double wanted = 0;
            for (size_t i = 1; i < sums_.size(); ++i)
                wanted += std::sqrt(sums_[i].value()) / static_cast<double>(sums_.size() - 1);
            const double found = std::sqrt(sums_[0].value());
            scale = found > 0 ? wanted / found : 0;
        }
        double scale = 0;
    };
};

/// Block l of L times α + β l/(L − 1), what is in no block times α
class Lines : public sdk::Merger {
public:
    explicit Lines(const sdk::Params& params) : beta_(params.at("beta")) {
        if (params.contains("alpha")) alpha_ = params.at("alpha").get<double>();
    }

    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
        return std::make_unique<Seen>(2);
    }
    void element(const sdk::Tile& tile) const override {
        if (tile.blocks() == 0)
            throw sdk::Error("the encoder's roles name no block, so there is nothing to scale by depth",
                             BPH_INVALID_ARGUMENT);
        const double depth = tile.block() < 0 || tile.blocks() == 1
                                 ? 0
                                 : static_cast<double>(tile.block()) / static_cast<double>(tile.blocks() - 1);
        const auto scale = static_cast<float>((alpha_ ? *alpha_ : tile.observed<Seen>().alpha) + beta_ * depth);
        const float* const merged = tile.expert(0).data();
        float* const out = tile.out().data();
        for (size_t k = 0; k < tile.size(); ++k) out[k] = scale * merged[k];
    }

private:
    /// α = ‖Σ δ_i‖₁ / ‖x‖₁ / N
    struct Seen : Lengths {
        using Lengths::Lengths;
        void see(const sdk::Tile& tile) override {
            const float* const merged = tile.expert(0).data();
            sums_[0].add(tile.size(), [&](size_t k) { return std::fabs(static_cast<double>(merged[k])); });
            experts = tile.sources();
            constexpr size_t kBlock = 512;
            std::array<double, kBlock> total;
            for (size_t from = 0; from < tile.size(); from += kBlock) {
                const size_t count = std::min(kBlock, tile.size() - from);
                total.fill(0);
                for (size_t i = 0; i < experts; ++i) {
                    const float* const delta = tile.source(i).data() + from;
                    for (size_t k = 0; k < count; ++k) total[k] += delta[k];
                }
                sums_[1].add(count, [&](size_t k) { return std::fabs(total[k]); });
            }
        }
        void join(const sdk::Observation& later) override {
            Lengths::join(later);
            experts = std::max(experts, static_cast<const Seen&>(later).experts);
        }
        void end() override {
            const double merged = sums_[0].value();
            alpha = merged > 0 ? sums_[1].value() / merged / static_cast<double>(experts) : 0;
        }
        size_t experts = 0;
        double alpha = 0;
    };
    std::optional<double> alpha_;
    double beta_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<NormAdjusted>("norm-adjusted"), sdk::merger<NormMatch>("norm-match"),
                sdk::merger<NormMatchGlobal>("norm-match.global"), sdk::merger<Lines>("lines"))
