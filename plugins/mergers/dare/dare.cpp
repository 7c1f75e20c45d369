// DARE: drop and rescale. Yu et al. 2023, "Language models are Super Mario", arXiv 2311.03099, section 3.
#include <biophony/merger.hpp>

namespace sdk = biophony::sdk;

namespace {

/// δ ⊙ Bernoulli(1 − p) / (1 − p)
class RandomDrop : public sdk::Merger {
public:
    explicit RandomDrop(const sdk::Params& params) : p_(params.at("p")) {}

    void element(const sdk::Tile& tile) const override {
        const auto delta = tile.expert(0);
        const auto out = tile.out();
        const sdk::Philox random = tile.random();
        const auto rescale = static_cast<float>(1 / (1 - p_));
        for (size_t k = 0; k < out.size(); ++k)
            out[k] = random.uniform(tile.offset() + k) >= p_ ? delta[k] * rescale : 0.0F;
    }

private:
    double p_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<RandomDrop>("random-drop"))
