// Transforms that thin a task vector out by magnitude: MagPrune, of DELLA (Deep et al. 2024, arXiv 2406.11617, section
// 3.1) and as Nihal et al. 2026 have it (arXiv 2605.03914), and Model Breadcrumbs (Davari and Belilovsky 2023, arXiv
// 2312.06795).
#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;

namespace {

/// Ranks by magnitude, 0 the smallest; equal ones in the order of their places. A radix sort, byte by byte.
class Ranks {
public:
    std::span<const uint32_t> of(std::span<const float> values) {
        const size_t n = values.size();
        order_.resize(n), next_.resize(n), ranks_.resize(n);
        for (size_t k = 0; k < n; ++k) order_[k] = static_cast<uint32_t>(k);
        for (uint32_t shift = 0; shift < 32; shift += 8) {
            const auto byte = [&](uint32_t k) { return (numbers::magnitude_bits(values[k]) >> shift) & 0xFF; };
            std::array<size_t, 257> starts{};
            for (size_t k = 0; k < n; ++k) ++starts[byte(static_cast<uint32_t>(k)) + 1];
            for (size_t b = 1; b < starts.size(); ++b) starts[b] += starts[b - 1];
            for (const uint32_t k : order_) next_[starts[byte(k)]++] = k;
            std::swap(order_, next_);
        }
        for (size_t rank = 0; rank < n; ++rank) ranks_[order_[rank]] = static_cast<uint32_t>(rank);
        return ranks_;
    }

private:
    std::vector<uint32_t> order_, next_, ranks_;
};

/// Keeps a value with a probability that rises with its rank within its row, from density − ε to density + ε.
class MagPrune : public sdk::Merger {
public:
    explicit MagPrune(const sdk::Params& params)
        : density_(params.at("density")), epsilon_(params.at("epsilon")), l1_(params.at("rescale") == "l1") {
        if (density_ - epsilon_ <= 0 || density_ + epsilon_ > 1)
            throw sdk::Error("density - epsilon is " + std::to_string(density_ - epsilon_) +
                                 " and density + epsilon is " + std::to_string(density_ + epsilon_) +
                                 ", expected probabilities above 0 and up to 1",
                             BPH_INVALID_ARGUMENT, "epsilon");
    }

    void element(const sdk::Tile& tile) const override {
        const auto delta = tile.expert(0);
        const auto out = tile.out();
        const sdk::Philox random = tile.random();
        const auto shape = tile.shape();
        const size_t row = shape.size() < 2 ? tile.size() : tile.size() / shape.front();
        if (row > UINT32_MAX)
            throw sdk::Error("a row has " + std::to_string(row) + " values, expected less than 2^32",
                             BPH_INVALID_ARGUMENT);
        Ranks ranks;
        std::vector<double> drawn(row);
        for (size_t from = 0; from < tile.size(); from += row) {
            const auto rank = ranks.of(delta.subspan(from, row));
            random.uniform(from, drawn);
            for (size_t k = from; k < from + row; ++k) {
                const double keep = row == 1 ? density_ : probability(rank[k - from], row);
                const float rescale = l1_ ? 1.0F : static_cast<float>(1 / keep);
                out[k] = drawn[k - from] < keep ? delta[k] * rescale : 0.0F;
            }
        }
        const double kept = l1_ ? numbers::absolute_sum(out) : 0;
        if (kept == 0) return;
        const auto rescale = static_cast<float>(numbers::absolute_sum(delta) / kept);
        for (float& value : out) value *= rescale;
    }

private:
    double probability(uint32_t rank, size_t row) const {
        return density_ - epsilon_ + 2 * epsilon_ * static_cast<double>(rank) / static_cast<double>(row - 1);
    }

    double density_, epsilon_;
    bool l1_;
};

/// Drops a value with the probability p (1 − |δ| / max |δ|), the maximum being its tensor's, and divides the others by
/// what remains to 1: as Nihal et al. 2026 (arXiv 2605.03914) have it in their code.
class MagPruneByMagnitude : public sdk::Merger {
public:
    explicit MagPruneByMagnitude(const sdk::Params& params) : p_(params.at("p")) {}

    void element(const sdk::Tile& tile) const override {
        const auto delta = tile.expert(0);
        const auto out = tile.out();
        double largest = 0;
        for (const float value : delta) largest = std::max<double>(largest, std::fabs(value));
        numbers::for_uniform(tile.random(), 0, out.size(), [&](size_t k, double u) {
            const double drop = largest == 0 ? 0 : p_ * (1 - std::fabs(delta[k]) / largest);
            out[k] = u < drop ? 0.0F : static_cast<float>(delta[k] / (1 - drop));
        });
    }

private:
    double p_;
};

/// Drops the largest magnitudes of a tensor and the smallest, and keeps a fraction in between.
class Breadcrumbs : public sdk::Merger {
public:
    explicit Breadcrumbs(const sdk::Params& params) : density_(params.at("density")), gamma_(params.at("gamma")) {}

    void element(const sdk::Tile& tile) const override {
        const auto delta = tile.expert(0);
        const size_t n = delta.size();
        // Of the ranks 0 … n − 1 those from `bottom` to below n − top. One value stays at least.
        const size_t kept = std::max<size_t>(part(density_, n), 1), top = std::min(part(gamma_, n), n - kept);
        const float smallest = numbers::magnitude_of_rank(delta, n - top - kept),
                    largest = numbers::magnitude_of_rank(delta, n - top - 1);
        for (size_t k = 0; k < n; ++k) {
            const float magnitude = std::fabs(delta[k]);
            tile.out()[k] = magnitude >= smallest && magnitude <= largest ? delta[k] : 0.0F;
        }
    }

private:
    /// The slack takes up the rounding of the product: 0.07 of 100 are 7.
    static size_t part(double fraction, size_t of) {
        return static_cast<size_t>(fraction * static_cast<double>(of) * (1 + 1e-12));
    }

    double density_, gamma_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<MagPrune>("magprune"), sdk::merger<MagPruneByMagnitude>("magprune.magnitude"),
                sdk::merger<Breadcrumbs>("breadcrumbs.mask"))
