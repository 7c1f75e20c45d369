// A random step as long as the merged one, tensor by tensor: the control for "any step of this size would do".
#include <biophony/merger.hpp>
#include <cmath>

namespace sdk = biophony::sdk;

namespace {

double norm(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return std::sqrt(sum);
}

/// g ‖δ‖ / ‖g‖ with g ~ N(0, 1), a direction of even distribution
class RandomStep : public sdk::Merger {
public:
    explicit RandomStep(const sdk::Params&) {}

    void element(const sdk::Tile& tile) const override {
        const auto out = tile.out();
        const sdk::Philox random = tile.random();
        for (size_t k = 0; k < out.size(); ++k) out[k] = static_cast<float>(random.normal(k));
        const double wanted = norm(tile.expert(0)), drawn = norm(out);
        const double scale = drawn > 0 ? wanted / drawn : 0;
        for (float& value : out) value = static_cast<float>(value * scale);
    }
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<RandomStep>("random-step"))
