// DARE: drop and rescale. Yu et al. 2023, "Language models are Super Mario", arXiv 2311.03099, section 3.
#include <algorithm>
#include <array>
#include <biophony/merger.hpp>
#include <cmath>

namespace sdk = biophony::sdk;

namespace {

/// δ ⊙ Bernoulli(1 − p) / (1 − p)
class RandomDrop : public sdk::Merger {
public:
    explicit RandomDrop(const sdk::Params& params)
        : least_(least(params.at("p"))),
          rescale_(static_cast<float>(1 / (1 - params.at("p").get<double>()))) {}

    /// Keeps where a uniform number is p or more: where its bits are ceil(p · 2³²) or more.
    void element(const sdk::Tile& tile) const override {
        const float* delta = tile.expert(0).data();
        float* out = tile.out().data();
        const sdk::Philox random = tile.random();
        std::array<uint32_t, 1024> bits;
        for (size_t done = 0; done < tile.size(); done += bits.size()) {
            const size_t count = std::min(bits.size(), tile.size() - done);
            random.bits(tile.offset() + done, std::span(bits).first(count));
            for (size_t k = 0; k < count; ++k) {
                const float scaled = delta[done + k] * rescale_;
                out[done + k] = bits[k] >= least_ ? scaled : 0.0F;
            }
        }
    }

private:
    static uint32_t least(double p) { return static_cast<uint32_t>(std::min(std::ceil(p * 0x1p32), 0x1p32 - 1)); }

    uint32_t least_;
    float rescale_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<RandomDrop>("random-drop"))
