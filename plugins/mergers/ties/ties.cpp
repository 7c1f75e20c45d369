// TIES-Merging, stage by stage: trim, elect sign, disjoint merge. Yadav et al. 2023, arXiv 2306.01708, section 3; and
// the variants of Nihal et al. 2026 (arXiv 2605.03914), whose code trims per tensor and counts signs, of mergekit,
// which trims per tensor and weighs, and the unified vector of EMR-Merging (Huang et al. 2024, arXiv 2405.17461,
// section 3.2).
#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;
using numbers::Bins;
using numbers::for_upper;
using numbers::magnitude_bits;
using numbers::masked;

namespace {

/// Selects, for each expert, the magnitude of rank ceil(density · P) from above, P being all its elements. The bits of
/// magnitudes have the order of magnitudes, so two counts are exact: pass 0 counts the upper halves, pass 1 the lower
/// halves of those whose upper half pass 0 has found.
class MagnitudeRank : public sdk::Observation {
public:
    MagnitudeRank(double density, const MagnitudeRank* upper) : density_(density), upper_(upper) {}

    void see(const sdk::Tile& tile) override {
        for (size_t i = 0; i < tile.experts(); ++i) {
            const size_t expert = tile.expert_index() + i;
            Count& count = count_of(expert);
            count.elements += tile.size();
            uint32_t* bins = count.bins.room(tile.size());
            if (upper_ == nullptr)
                for (const float value : tile.expert(i)) ++bins[magnitude_bits(value) >> 16];
            else
                for_upper(tile.expert(i), upper_->experts_[expert].bin, [&](uint32_t bits) { ++bins[bits & 0xFFFF]; });
        }
    }
    void join(const sdk::Observation& later) override {
        const auto& others = static_cast<const MagnitudeRank&>(later).experts_;
        for (size_t i = 0; i < others.size(); ++i) {
            if (others[i].bins.empty()) continue;
            Count& count = count_of(i);
            count.elements += others[i].elements;
            count.bins.add(others[i].bins);
        }
    }
    void end() override {
        for (size_t i = 0; i < experts_.size(); ++i) {
            Count& count = experts_[i];
            if (count.elements == 0) continue;
            // The slack takes up the rounding of the product: 0.28 of 100 are 28.
            count.rank =
                upper_ != nullptr
                    ? upper_->experts_[i].rank
                    : static_cast<uint64_t>(std::ceil(density_ * static_cast<double>(count.elements) * (1 - 1e-12)));
            count.bin = bins() - 1;
            while (count.bins[count.bin] < count.rank) count.rank -= count.bins[count.bin--];
            count.bins = {};
        }
    }
    static uint64_t bytes(uint32_t pass, size_t experts) {
        return experts * (sizeof(Count) + sizeof(uint32_t) * (uint64_t{1} << (pass == 0 ? 15 : 16)));
    }
    /// Of pass 1.
    uint32_t threshold(size_t expert) const { return upper_->experts_[expert].bin << 16 | experts_[expert].bin; }

private:
    struct Count {
        Bins bins;
        uint64_t elements = 0;
        uint32_t bin = 0;   ///< the one with the magnitude that is looked for,
        uint64_t rank = 0;  ///< which is the rank-th from above in it
    };
    /// A magnitude has 31 bits.
    uint32_t bins() const { return upper_ == nullptr ? 1 << 15 : 1 << 16; }
    Count& count_of(size_t expert) {
        if (experts_.size() <= expert) experts_.resize(expert + 1);
        if (experts_[expert].bins.empty()) experts_[expert].bins.resize(bins());
        return experts_[expert];
    }
    double density_;
    const MagnitudeRank* upper_;
    std::vector<Count> experts_;
};

/// As numbers, magnitudes have the order of their bits; a comparison of numbers leaves no branch.
BIOPHONY_WIDE void keep_from(float threshold, const float* delta, float* out, size_t size) {
    for (size_t k = 0; k < size; ++k) out[k] = masked(delta[k], std::fabs(delta[k]) >= threshold);
}

/// Keeps the largest magnitudes of the whole vector.
class Trim : public sdk::Merger {
public:
    explicit Trim(const sdk::Params& params) : density_(params.at("density")) {}

    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation* earlier) const override {
        return std::make_unique<MagnitudeRank>(density_, static_cast<const MagnitudeRank*>(earlier));
    }
    uint64_t observed_bytes(uint32_t pass, size_t experts) const override {
        return MagnitudeRank::bytes(pass, experts);
    }
    void element(const sdk::Tile& tile) const override {
        const auto threshold = std::bit_cast<float>(tile.observed<MagnitudeRank>().threshold(tile.expert_index()));
        keep_from(threshold, tile.expert(0).data(), tile.out().data(), tile.size());
    }

private:
    double density_;
};

/// Drops the smallest magnitudes of a tensor, those below the quantile.
class TrimTensor : public sdk::Merger {
public:
    explicit TrimTensor(const sdk::Params& params) : trim_(params.at("trim")) {}

    void element(const sdk::Tile& tile) const override {
        keep_from(quantile(tile.expert(0)), tile.expert(0).data(), tile.out().data(), tile.size());
    }

private:
    /// Of the magnitudes, interpolated between the two neighbours and rounded to float32.
    float quantile(std::span<const float> delta) const {
        const double place = trim_ * static_cast<double>(delta.size() - 1);
        const auto below = static_cast<size_t>(place);
        const double weight = place - std::floor(place);
        const auto [low, high] = numbers::Magnitudes(delta).of_rank(below);
        return static_cast<float>(low + weight * (double{high} - low));
    }

    double trim_;
};

/// Keeps the largest magnitudes of a tensor, one at least.
class TrimRank : public sdk::Merger {
public:
    explicit TrimRank(const sdk::Params& params) : density_(params.at("density")) {}

    void element(const sdk::Tile& tile) const override {
        const auto delta = tile.expert(0);
        // The slack takes up the rounding of the product: 0.07 of 100 are 7.
        const auto kept = static_cast<size_t>(density_ * static_cast<double>(delta.size()) * (1 + 1e-12));
        const float threshold = numbers::magnitude_of_rank(delta, delta.size() - std::max<size_t>(kept, 1));
        keep_from(threshold, delta.data(), tile.out().data(), tile.size());
    }

private:
    double density_;
};

/// Each expert times its weight.
class Weigh : public sdk::Merger {
public:
    explicit Weigh(const sdk::Params& params) : weights_(numbers::per_expert(params, "weights")) {}

    void element(const sdk::Tile& tile) const override {
        const size_t expert = tile.expert_index();
        if (!weights_.empty() && expert >= weights_.size())
            throw sdk::Error("found " + std::to_string(weights_.size()) + " weights, but there are more experts",
                             BPH_INVALID_ARGUMENT, "weights");
        const auto weight = weights_.empty() ? 1.0F : static_cast<float>(weights_[expert]);
        const auto delta = tile.expert(0);
        const auto out = tile.out();
        for (size_t k = 0; k < out.size(); ++k) out[k] = weight * delta[k];
    }

private:
    std::vector<double> weights_;
};

/// Places go in blocks, all experts' at a time.
constexpr size_t kBlock = 512;
using Signs = std::array<float, kBlock>;

BIOPHONY_WIDE void keep_signs(const float* signs, const float* delta, float* out, size_t count) {
    for (size_t k = 0; k < count; ++k) out[k] = masked(delta[k], delta[k] * signs[k] > 0);
}

/// Calls elect(from, count, signs) for each block, and keeps the values of that sign.
template <class Elect>
void keep_elected(const sdk::Tile& tile, Elect&& elect) {
    Signs signs;
    for (size_t from = 0; from < tile.size(); from += kBlock) {
        const size_t count = std::min(kBlock, tile.size() - from);
        elect(from, count, signs);
        for (size_t i = 0; i < tile.experts(); ++i)
            keep_signs(signs.data(), tile.expert(i).data() + from, tile.out(i).data() + from, count);
    }
}

/// The signs with the larger total magnitude, those of the sums; where a sum is 0, the one given.
BIOPHONY_WIDE void signs_of_sums(const sdk::Tile& tile, size_t from, size_t count, float zero, Signs& signs) {
    std::array<double, kBlock> sums;
    numbers::add_experts(tile, from, count, sums.data());
    for (size_t k = 0; k < count; ++k) signs[k] = sums[k] < 0 ? -1.0F : zero;
    for (size_t k = 0; k < count; ++k) signs[k] = sums[k] > 0 ? 1.0F : signs[k];
}

/// Elects each element's sign by total magnitude; where the experts cancel out, one and the same sign for all.
class ElectSum : public sdk::Merger {
public:
    explicit ElectSum(const sdk::Params& params) : zero_(params.at("zero") == "plus" ? 1.0F : -1.0F) {}

    void element(const sdk::Tile& tile) const override {
        keep_elected(tile,
                     [&](size_t from, size_t count, Signs& signs) { signs_of_sums(tile, from, count, zero_, signs); });
    }

private:
    float zero_;
};

class ElectedSigns : public sdk::Observation {
public:
    void see(const sdk::Tile& tile) override {
        Signs signs;
        for (size_t from = 0; from < tile.size(); from += kBlock) {
            const size_t count = std::min(kBlock, tile.size() - from);
            signs_of_sums(tile, from, count, 0, signs);
            for (size_t k = 0; k < count; ++k) sum_ += static_cast<int32_t>(signs[k]);
        }
    }
    void join(const sdk::Observation& later) override { sum_ += static_cast<const ElectedSigns&>(later).sum_; }
    float majority() const { return sum_ < 0 ? -1.0F : 1.0F; }

private:
    int64_t sum_ = 0;
};

/// Elects each element's sign by total magnitude; where the experts cancel out, the majority of all elected signs.
class Elect : public sdk::Merger {
public:
    explicit Elect(const sdk::Params&) {}

    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
        return std::make_unique<ElectedSigns>();
    }
    void element(const sdk::Tile& tile) const override {
        const float majority = tile.observed<ElectedSigns>().majority();
        keep_elected(
            tile, [&](size_t from, size_t count, Signs& signs) { signs_of_sums(tile, from, count, majority, signs); });
    }
};

/// Elects each element's sign by heads; a tie takes the first expert's.
class ElectCount : public sdk::Merger {
public:
    explicit ElectCount(const sdk::Params&) {}

    void element(const sdk::Tile& tile) const override {
        keep_elected(tile, [&](size_t from, size_t count, Signs& signs) {
            Signs votes{};
            for (size_t i = 0; i < tile.experts(); ++i) {
                const float* const delta = tile.expert(i).data() + from;
                for (size_t k = 0; k < count; ++k) votes[k] += delta[k] > 0 ? 1.0F : 0.0F;
                for (size_t k = 0; k < count; ++k) votes[k] += delta[k] < 0 ? -1.0F : 0.0F;
            }
            const float* const first = tile.expert(0).data() + from;
            for (size_t k = 0; k < count; ++k) signs[k] = first[k] > 0 ? 1.0F : 0.0F;
            for (size_t k = 0; k < count; ++k) signs[k] += first[k] < 0 ? -1.0F : 0.0F;
            for (size_t k = 0; k < count; ++k) signs[k] = votes[k] == 0 ? signs[k] : votes[k];
        });
    }
};

/// Σ_i x_i[k] and how many x_i[k] aren't 0, for the next `count` places of one expert.
BIOPHONY_WIDE void add_having_say(const float* values, size_t count, float* sums, int32_t* counts) {
    for (size_t k = 0; k < count; ++k) {
        sums[k] += values[k];
        counts[k] += static_cast<int32_t>(values[k] != 0);
    }
}
BIOPHONY_WIDE void scaled_means(float scale, const float* sums, const int32_t* counts, float* out, size_t count) {
    for (size_t k = 0; k < count; ++k) out[k] = scale * (sums[k] / static_cast<float>(std::max(counts[k], 1)));
}

/// The mean of the experts that have a say at an element.
class DisjointMean : public sdk::Merger {
public:
    explicit DisjointMean(const sdk::Params& params) : lambda_(params.at("lambda")), shrink_(params.at("shrink")) {}

    void element(const sdk::Tile& tile) const override {
        const auto scale = static_cast<float>(shrink_ ? lambda_ / static_cast<double>(tile.experts()) : lambda_);
        float* out = tile.out().data();
        for (size_t begin = 0; begin < tile.size(); begin += kBlock) {
            const size_t count = std::min(kBlock, tile.size() - begin);
            std::array<float, kBlock> sums{};
            std::array<int32_t, kBlock> counts{};
            for (size_t i = 0; i < tile.experts(); ++i)
                add_having_say(tile.expert(i).data() + begin, count, sums.data(), counts.data());
            scaled_means(scale, sums.data(), counts.data(), out + begin, count);
        }
    }

private:
    double lambda_;
    bool shrink_;
};

/// The sum of the experts that have a say at an element, divided by the sum of their weights.
class DisjointWeighted : public sdk::Merger {
public:
    explicit DisjointWeighted(const sdk::Params& params)
        : lambda_(params.at("lambda")), weights_(numbers::per_expert(params, "weights")) {}

    void element(const sdk::Tile& tile) const override {
        numbers::check_per_expert(weights_, tile.experts(), "weights");
        std::array<double, kBlock> sum, weight;
        for (size_t from = 0; from < tile.size(); from += kBlock) {
            const size_t count = std::min(kBlock, tile.size() - from);
            sum.fill(0), weight.fill(0);
            for (size_t i = 0; i < tile.experts(); ++i) {
                const float* const x = tile.expert(i).data() + from;
                const double w = weights_.empty() ? 1 : weights_[i];
                for (size_t k = 0; k < count; ++k) {
                    sum[k] += x[k];
                    weight[k] += x[k] != 0 ? w : 0;
                }
            }
            float* const out = tile.out().data() + from;
            for (size_t k = 0; k < count; ++k)
                out[k] = static_cast<float>(lambda_ * sum[k] / (weight[k] != 0 ? weight[k] : 1));
        }
    }

private:
    double lambda_;
    std::vector<double> weights_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<Trim>("trim"), sdk::merger<TrimTensor>("trim.tensor"), sdk::merger<TrimRank>("trim.rank"),
                sdk::merger<Weigh>("weigh"), sdk::merger<Elect>("elect"), sdk::merger<ElectSum>("elect.sum"),
                sdk::merger<ElectCount>("elect.count"), sdk::merger<DisjointMean>("disjoint-mean"),
                sdk::merger<DisjointWeighted>("disjoint-weighted"))
