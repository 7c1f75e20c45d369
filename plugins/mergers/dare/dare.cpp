// DARE: drop and rescale. Yu et al. 2023, "Language models are Super Mario", arXiv 2311.03099, section 3.
#include "../numbers.hpp"

namespace sdk = biophony::sdk;
namespace numbers = biophony::numbers;

namespace {

/// δ · scale where the random bits are `least` or more. Masks, as a branch that is taken by chance would cost more than
/// the random numbers.
BIOPHONY_WIDE void keep_by_bits(const uint32_t* bits, uint32_t least, float scale, const float* delta, float* out,
                                size_t count) {
    for (size_t k = 0; k < count; ++k) {
        const uint32_t keep = bits[k] >= least ? ~0U : 0U;
        out[k] = std::bit_cast<float>(std::bit_cast<uint32_t>(delta[k] * scale) & keep);
    }
}

/// δ ⊙ Bernoulli(1 − p) / (1 − p)
class RandomDrop : public sdk::Merger {
public:
    explicit RandomDrop(const sdk::Params& params)
        : least_(least(params.at("p"))), rescale_(static_cast<float>(1 / (1 - params.at("p").get<double>()))) {}

    /// Keeps where a uniform number is p or more: where its bits are ceil(p · 2³²) or more.
    void element(const sdk::Tile& tile) const override {
        const float* delta = tile.expert(0).data();
        float* out = tile.out().data();
        const sdk::Philox random = tile.random();
        std::array<uint32_t, 1024> bits;
        for (size_t done = 0; done < tile.size(); done += bits.size()) {
            const size_t count = std::min(bits.size(), tile.size() - done);
            random.bits(tile.offset() + done, std::span(bits).first(count));
            keep_by_bits(bits.data(), least_, rescale_, delta + done, out + done, count);
        }
    }

private:
    static uint32_t least(double p) { return static_cast<uint32_t>(std::min(std::ceil(p * 0x1p32), 0x1p32 - 1)); }

    uint32_t least_;
    float rescale_;
};

/// δ ⊙ Bernoulli(1 − p), then scaled to the tensor's former ‖δ‖₁
class RandomDropL1 : public sdk::Merger {
public:
    explicit RandomDropL1(const sdk::Params& params) : p_(params.at("p")) {}

    void element(const sdk::Tile& tile) const override {
        const auto delta = tile.expert(0);
        const auto out = tile.out();
        const sdk::Philox random = tile.random();
        numbers::for_uniform(random, 0, out.size(), [&](size_t k, double u) { out[k] = u >= p_ ? delta[k] : 0.0F; });
        const double kept = numbers::absolute_sum(out);
        if (kept == 0) return;
        const auto rescale = static_cast<float>(numbers::absolute_sum(delta) / kept);
        for (float& value : out) value *= rescale;
    }

private:
    double p_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<RandomDrop>("random-drop"), sdk::merger<RandomDropL1>("random-drop.l1"))
