// Uniform average of experts: θ_base + (1/N) Σ δ_i, which is (1/N) Σ θ_i. Wortsman et al. 2022, arXiv 2203.05482;
// "simple average" in arXiv 2605.03914.
#include <biophony/merger.hpp>

namespace sdk = biophony::sdk;

namespace {

BIOPHONY_WIDE void add(const float* delta, float* out, size_t size) {
    for (size_t k = 0; k < size; ++k) out[k] += delta[k];
}

}  // namespace

class Average : public sdk::Merger {
public:
    explicit Average(const sdk::Params&) {}

    // The arithmetic of task-arithmetic at lambda_mean = 1, step for step, so that both give the same bits: sum in the
    // order of the experts, then one product.
    void element(const sdk::Tile& tile) const override {
        const size_t size = tile.size();
        float* out = tile.out().data();
        const float* first = tile.expert(0).data();
        for (size_t k = 0; k < size; ++k) out[k] = first[k];
        for (size_t i = 1; i < tile.experts(); ++i) add(tile.expert(i).data(), out, size);
        const auto factor = static_cast<float>(1.0 / static_cast<double>(tile.experts()));
        for (size_t k = 0; k < size; ++k) out[k] *= factor;
    }
};

BIOPHONY_PLUGIN(sdk::merger<Average>("average"))
