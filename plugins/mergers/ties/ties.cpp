// TIES-Merging, stage by stage: trim, elect sign, disjoint merge. Yadav et al. 2023, arXiv 2306.01708, section 3; and
// the variants of Nihal et al. 2026 (arXiv 2605.03914), whose code trims per tensor and counts signs.
#include <algorithm>
#include <array>
#include <biophony/merger.hpp>
#include <bit>
#include <cmath>
#include <utility>

namespace sdk = biophony::sdk;

namespace {

uint32_t magnitude_bits(float value) {
    return std::bit_cast<uint32_t>(std::fabs(value));
}

/// Counts by a 16-bit part of the magnitudes' bits. Narrow counters, so that those in use stay in the nearest cache;
/// they are emptied into wide ones long before they are full.
class Bins {
public:
    void resize(size_t size) { narrow_.resize(size); }
    bool empty() const { return narrow_.empty(); }
    /// Room for this many more, in any bin.
    uint32_t* room(uint64_t more) {
        if (pending_ + more > UINT32_MAX) spill();
        pending_ += more;
        return narrow_.data();
    }
    uint64_t operator[](size_t bin) const { return narrow_[bin] + (wide_.empty() ? 0 : wide_[bin]); }
    void add(const Bins& other) {
        spill();
        for (size_t bin = 0; bin < wide_.size(); ++bin) wide_[bin] += other[bin];
    }

private:
    void spill() {
        wide_.resize(narrow_.size());
        for (size_t bin = 0; bin < wide_.size(); ++bin) wide_[bin] += std::exchange(narrow_[bin], 0);
        pending_ = 0;
    }
    std::vector<uint32_t> narrow_;
    std::vector<uint64_t> wide_;
    uint64_t pending_ = 0;
};

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
                count_lower(tile.expert(i), upper_->experts_[expert].bin, bins);
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
            if (count.bins.empty()) continue;
            // The slack takes up the rounding of the product: 0.28 of 100 are 28.
            count.rank =
                upper_ != nullptr
                    ? upper_->experts_[i].rank
                    : static_cast<uint64_t>(std::ceil(density_ * static_cast<double>(count.elements) * (1 - 1e-12)));
            count.bin = bins() - 1;
            while (count.bins[count.bin] < count.rank) count.rank -= count.bins[count.bin--];
        }
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
    /// Few values have the upper half that is looked for: whole runs without one are passed over.
    static void count_lower(std::span<const float> values, uint32_t upper, uint32_t* bins) {
        constexpr size_t kRun = 32;
        for (size_t begin = 0; begin < values.size(); begin += kRun) {
            const float* run = values.data() + begin;
            const size_t size = std::min(kRun, values.size() - begin);
            uint32_t found = 0;
            for (size_t k = 0; k < size; ++k) found |= magnitude_bits(run[k]) >> 16 == upper ? ~0U : 0U;
            if (found == 0) continue;
            for (size_t k = 0; k < size; ++k)
                if (const uint32_t bits = magnitude_bits(run[k]); bits >> 16 == upper) ++bins[bits & 0xFFFF];
        }
    }

    double density_;
    const MagnitudeRank* upper_;
    std::vector<Count> experts_;
};

/// Keeps the largest magnitudes of the whole vector.
class Trim : public sdk::Merger {
public:
    explicit Trim(const sdk::Params& params) : density_(params.at("density")) {}

    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation* earlier) const override {
        return std::make_unique<MagnitudeRank>(density_, static_cast<const MagnitudeRank*>(earlier));
    }
    void element(const sdk::Tile& tile) const override {
        // As numbers, magnitudes have the order of their bits; a comparison of numbers leaves no branch.
        const auto threshold = std::bit_cast<float>(tile.observed<MagnitudeRank>().threshold(tile.expert_index()));
        const float* delta = tile.expert(0).data();
        float* out = tile.out().data();
        for (size_t k = 0, size = tile.size(); k < size; ++k)
            out[k] = std::fabs(delta[k]) >= threshold ? delta[k] : 0.0F;
    }

private:
    double density_;
};

/// The magnitudes of a tensor by rank, from the smallest on: a count by the upper halves of their bits finds the few
/// among which the one is.
class Magnitudes {
public:
    explicit Magnitudes(std::span<const float> values) : values_(values), bins_(1 << 15) {
        for (const float value : values) ++bins_[magnitude_bits(value) >> 16];
    }
    float of_rank(size_t rank) const {
        uint32_t bin = 0;
        while (bins_[bin] <= rank) rank -= bins_[bin++];
        std::vector<uint32_t> in_bin;
        in_bin.reserve(bins_[bin]);
        for (const float value : values_)
            if (const uint32_t bits = magnitude_bits(value); bits >> 16 == bin) in_bin.push_back(bits);
        const auto found = in_bin.begin() + static_cast<std::ptrdiff_t>(rank);
        std::nth_element(in_bin.begin(), found, in_bin.end());
        return std::bit_cast<float>(*found);
    }

private:
    std::span<const float> values_;
    std::vector<uint64_t> bins_;
};

/// Drops the smallest magnitudes of a tensor, those below the quantile.
class TrimTensor : public sdk::Merger {
public:
    explicit TrimTensor(const sdk::Params& params) : trim_(params.at("trim")) {}

    void element(const sdk::Tile& tile) const override {
        const float* delta = tile.expert(0).data();
        float* out = tile.out().data();
        const float threshold = quantile(tile.expert(0));
        for (size_t k = 0, size = tile.size(); k < size; ++k)
            out[k] = std::fabs(delta[k]) >= threshold ? delta[k] : 0.0F;
    }

private:
    /// Of the magnitudes, interpolated between the two neighbours and rounded to float32.
    float quantile(std::span<const float> delta) const {
        const double place = trim_ * static_cast<double>(delta.size() - 1);
        const auto below = static_cast<size_t>(place);
        const double weight = place - std::floor(place);
        const Magnitudes magnitudes(delta);
        const double low = magnitudes.of_rank(below);
        const double high = weight > 0 ? magnitudes.of_rank(below + 1) : low;
        return static_cast<float>(low + weight * (high - low));
    }

    double trim_;
};

/// Elements that are worked on at a time, so that what they need stays in the nearest cache.
constexpr size_t kRun = 256;

/// Keeps the values of element `begin + k` with the sign of elected[k], which is 1, -1 or 0.
void keep_signs(const sdk::Tile& tile, size_t begin, size_t count, const float* elected) {
    for (size_t i = 0; i < tile.experts(); ++i) {
        const float* values = tile.expert(i).data() + begin;
        float* out = tile.out(i).data() + begin;
        for (size_t k = 0; k < count; ++k) out[k] = values[k] * elected[k] > 0 ? values[k] : 0.0F;
    }
}

/// The signs with the larger total magnitude: those of the sums. In float64, where the order of experts hardly matters.
void signs_of_sums(const sdk::Tile& tile, size_t begin, size_t count, float* signs) {
    std::array<double, kRun> sums{};
    for (size_t i = 0; i < tile.experts(); ++i) {
        const float* values = tile.expert(i).data() + begin;
        for (size_t k = 0; k < count; ++k) sums[k] += values[k];
    }
    for (size_t k = 0; k < count; ++k) signs[k] = static_cast<float>((sums[k] > 0) - (sums[k] < 0));
}

/// Calls `body` with runs of the tile.
template <class Body>
void for_runs(const sdk::Tile& tile, Body&& body) {
    for (size_t begin = 0; begin < tile.size(); begin += kRun) body(begin, std::min(kRun, tile.size() - begin));
}

class ElectedSigns : public sdk::Observation {
public:
    void see(const sdk::Tile& tile) override {
        for_runs(tile, [&](size_t begin, size_t count) {
            std::array<float, kRun> signs;
            signs_of_sums(tile, begin, count, signs.data());
            int32_t sum = 0;
            for (size_t k = 0; k < count; ++k) sum += static_cast<int32_t>(signs[k]);
            sum_ += sum;
        });
    }
    void join(const sdk::Observation& later) override { sum_ += static_cast<const ElectedSigns&>(later).sum_; }
    int majority() const { return sum_ < 0 ? -1 : 1; }

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
        const auto majority = static_cast<float>(tile.observed<ElectedSigns>().majority());
        for_runs(tile, [&](size_t begin, size_t count) {
            std::array<float, kRun> signs;
            signs_of_sums(tile, begin, count, signs.data());
            for (size_t k = 0; k < count; ++k) signs[k] = signs[k] != 0 ? signs[k] : majority;
            keep_signs(tile, begin, count, signs.data());
        });
    }
};

/// Elects each element's sign by heads; a tie takes the first expert's.
class ElectCount : public sdk::Merger {
public:
    explicit ElectCount(const sdk::Params&) {}

    void element(const sdk::Tile& tile) const override {
        for_runs(tile, [&](size_t begin, size_t count) {
            std::array<float, kRun> signs{};
            for (size_t i = 0; i < tile.experts(); ++i) {
                const float* values = tile.expert(i).data() + begin;
                for (size_t k = 0; k < count; ++k) signs[k] += static_cast<float>((values[k] > 0) - (values[k] < 0));
            }
            const float* first = tile.expert(0).data() + begin;
            for (size_t k = 0; k < count; ++k) {
                const float votes = signs[k] != 0 ? signs[k] : first[k];
                signs[k] = static_cast<float>((votes > 0) - (votes < 0));
            }
            keep_signs(tile, begin, count, signs.data());
        });
    }
};

/// The mean of the experts that have a say at an element.
class DisjointMean : public sdk::Merger {
public:
    explicit DisjointMean(const sdk::Params& params) : lambda_(params.at("lambda")), shrink_(params.at("shrink")) {}

    void element(const sdk::Tile& tile) const override {
        const auto scale = static_cast<float>(shrink_ ? lambda_ / static_cast<double>(tile.experts()) : lambda_);
        float* out = tile.out().data();
        for_runs(tile, [&](size_t begin, size_t count) {
            std::array<float, kRun> sums{}, counts{};
            for (size_t i = 0; i < tile.experts(); ++i) {
                const float* values = tile.expert(i).data() + begin;
                for (size_t k = 0; k < count; ++k) {
                    sums[k] += values[k];
                    counts[k] += values[k] != 0 ? 1.0F : 0.0F;
                }
            }
            for (size_t k = 0; k < count; ++k) out[begin + k] = scale * (sums[k] / std::max(counts[k], 1.0F));
        });
    }

private:
    double lambda_;
    bool shrink_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<Trim>("trim"), sdk::merger<TrimTensor>("trim.tensor"), sdk::merger<Elect>("elect"),
                sdk::merger<ElectCount>("elect.count"), sdk::merger<DisjointMean>("disjoint-mean"))
