// PCB-Merging, parameter competition balancing: Du et al. 2024, arXiv 2410.02396, section 3; in the variant of the
// script in the authors' README (pcb-merging.py).
#include <limits>

#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;

namespace {

/// Bits that have the order of the numbers.
uint32_t ordered_bits(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return (bits & 0x80000000) != 0 ? ~bits : bits | 0x80000000;
}
float from_ordered(uint32_t bits) {
    return std::bit_cast<float>((bits & 0x80000000) != 0 ? bits & 0x7FFFFFFF : ~bits);
}

/// Finds values by their ranks in two passes over them: the upper halves of their bits are counted, then the lower
/// halves of those whose upper half is that of a value looked for.
template <size_t Ranks>
struct Selection {
    std::array<numbers::Bins, Ranks> bins;
    std::array<uint32_t*, Ranks> counters{};
    std::array<uint64_t, Ranks> rank{};  ///< from below, within the bin
    std::array<uint32_t, Ranks> bin{};
    uint64_t count = 0;

    static constexpr uint32_t kBins = 1 << 16;
    /// The upper halves are counted once, for all ranks.
    static uint64_t bytes(bool upper) { return sizeof(Selection) + (upper ? 1 : Ranks) * kBins * sizeof(uint32_t); }

    /// So many are going to be seen.
    void expect(uint64_t more, const Selection* upper) {
        for (size_t r = 0; r < (upper == nullptr ? 1 : Ranks); ++r) {
            if (bins[r].empty()) bins[r].resize(kBins);
            counters[r] = bins[r].room(more);
        }
        count += more;
    }
    void see(uint32_t bits, const Selection* upper) {
        if (upper == nullptr) {
            ++counters[0][bits >> 16];
            return;
        }
        for (size_t r = 0; r < Ranks; ++r)
            if (bits >> 16 == upper->bin[r]) ++counters[r][bits & 0xFFFF];
    }
    void join(const Selection& other) {
        for (size_t r = 0; r < Ranks; ++r) {
            if (other.bins[r].empty()) continue;
            if (bins[r].empty()) bins[r].resize(kBins);
            bins[r].add(other.bins[r]);
        }
        count += other.count;
    }
    /// `rank` are those looked for.
    void end(const Selection* upper) {
        for (size_t r = 0; r < Ranks; ++r) {
            const numbers::Bins& counts = bins[upper == nullptr ? 0 : r];
            if (upper != nullptr) rank[r] = upper->rank[r];
            if (counts.empty()) continue;
            while (bin[r] + 1 < kBins && counts[bin[r]] <= rank[r]) rank[r] -= counts[bin[r]++];
        }
        bins = {};
    }
    uint32_t found(size_t r, const Selection& upper) const { return upper.bin[r] << 16 | bin[r]; }
};

class Pcb : public sdk::Merger {
public:
    explicit Pcb(const sdk::Params& params) : lambda_(params.at("lambda")), ratio_(params.at("ratio")) {}

    std::unique_ptr<sdk::Observation> begin(uint32_t pass, size_t experts,
                                            const sdk::Observation* earlier) const override {
        return std::make_unique<Seen>(*this, pass, experts, static_cast<const Seen*>(earlier));
    }
    uint64_t observed_bytes(uint32_t pass, size_t experts) const override {
        return experts * (Selection<2>::bytes(pass % 2 == 0) + sizeof(Selection<2>) + sizeof(Limits));
    }
    void element(const sdk::Tile& tile) const override {
        const auto& seen = tile.observed<Seen>();
        for (size_t k = 0; k < tile.size(); ++k) {
            const double sum = sum_of(tile, k);
            double merged = 0, total = 0;
            for (size_t i = 0; i < tile.experts(); ++i) {
                const Limits& limits = seen.limits[i];
                const double score = limits.share(score_of(tile.expert(i)[k], sum, limits, tile.experts()));
                merged += score * limits.clamped(tile.expert(i)[k]);
                total += score;
            }
            tile.out()[k] = static_cast<float>(lambda_ * merged / std::max(total, 1e-12));
        }
    }

private:
    /// What is known of one expert's whole vector.
    struct Limits {
        float low = 0, high = 0;   ///< its magnitudes are clamped to these
        float floor = 0, top = 0;  ///< the score at the (1 − ratio) quantile, and the largest
        double clamped(float value) const {
            return value == 0 ? 0 : std::copysign(std::clamp(std::fabs(value), low, high), value);
        }
        /// The score between the floor and the top, from 0 to 1.
        double share(float score) const {
            if (top <= floor) return score >= floor ? 1 : 0;
            return (std::max(score, floor) - static_cast<double>(floor)) / (static_cast<double>(top) - floor);
        }
    };

    static double sum_of(const sdk::Tile& tile, size_t k) {
        double sum = 0;
        for (size_t i = 0; i < tile.experts(); ++i) sum += tile.expert(i)[k];
        return sum;
    }
    /// exp(N · nrm(|δ|)²) · tanh(δ · Σ δ)
    static float score_of(float delta, double sum, const Limits& limits, size_t experts) {
        const double width = static_cast<double>(limits.high) - limits.low;
        const double nrm = width > 0 ? (std::fabs(limits.clamped(delta)) - limits.low) / width : 0;
        const double at_zero = delta == 0 ? 0 : nrm;
        return static_cast<float>(std::exp(static_cast<double>(experts) * at_zero * at_zero) * std::tanh(delta * sum));
    }

    /// Passes 0 and 1 find where magnitudes are clamped, 2 and 3 where scores are.
    struct Seen : sdk::Observation {
        Seen(const Pcb& stage, uint32_t of, size_t experts, const Seen* before)
            : pass(of), ratio(stage.ratio_), earlier(before), magnitudes(experts), scores(experts), limits(experts) {
            if (experts > kMostExperts)
                throw sdk::Error("takes up to " + std::to_string(kMostExperts) +
                                     " experts, whose scores fit float32, found " + std::to_string(experts),
                                 BPH_INVALID_ARGUMENT);
            if (before != nullptr) limits = before->limits;
        }
        void see(const sdk::Tile& tile) override {
            const size_t n = tile.experts();
            if (pass < 2) {
                for (size_t i = 0; i < n; ++i) {
                    const auto* upper = pass == 1 ? &earlier->magnitudes[i] : nullptr;
                    magnitudes[i].expect(tile.size(), upper);
                    for (const float value : tile.expert(i)) magnitudes[i].see(numbers::magnitude_bits(value), upper);
                }
                return;
            }
            for (size_t i = 0; i < n; ++i) scores[i].expect(tile.size(), pass == 3 ? &earlier->scores[i] : nullptr);
            for (size_t k = 0; k < tile.size(); ++k) {
                const double sum = sum_of(tile, k);
                for (size_t i = 0; i < n; ++i)
                    scores[i].see(ordered_bits(score_of(tile.expert(i)[k], sum, limits[i], n)),
                                  pass == 3 ? &earlier->scores[i] : nullptr);
            }
        }
        void join(const sdk::Observation& later) override {
            const auto& other = static_cast<const Seen&>(later);
            for (size_t i = 0; i < limits.size(); ++i) {
                magnitudes[i].join(other.magnitudes[i]);
                scores[i].join(other.scores[i]);
            }
        }
        void end() override {
            for (size_t i = 0; i < limits.size(); ++i) {
                if (pass < 2) {
                    auto& found = magnitudes[i];
                    const auto n = static_cast<double>(found.count);
                    if (pass == 0)
                        found.rank = {static_cast<uint64_t>(n * kClamp),
                                      static_cast<uint64_t>(std::max(n * (1 - kClamp) - 1, 0.0))};
                    found.end(pass == 0 ? nullptr : &earlier->magnitudes[i]);
                    if (pass == 0 || found.count == 0) continue;
                    limits[i].low = std::bit_cast<float>(found.found(0, earlier->magnitudes[i]));
                    limits[i].high =
                        std::max(limits[i].low, std::bit_cast<float>(found.found(1, earlier->magnitudes[i])));
                } else {
                    auto& found = scores[i];
                    const auto n = static_cast<double>(found.count);
                    if (pass == 2)
                        found.rank = {static_cast<uint64_t>(n * (1 - ratio)), found.count == 0 ? 0 : found.count - 1};
                    found.end(pass == 2 ? nullptr : &earlier->scores[i]);
                    if (pass == 2 || found.count == 0) continue;
                    limits[i].floor = from_ordered(found.found(0, earlier->scores[i]));
                    limits[i].top = from_ordered(found.found(1, earlier->scores[i]));
                }
            }
        }
        static constexpr double kClamp = 0.0001;
        static constexpr size_t kMostExperts = 80;
        uint32_t pass;
        double ratio;
        const Seen* earlier;
        std::vector<Selection<2>> magnitudes, scores;
        std::vector<Limits> limits;
    };

    double lambda_, ratio_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<Pcb>("pcb"))
