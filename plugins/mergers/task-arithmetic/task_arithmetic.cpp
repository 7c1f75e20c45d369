// Task arithmetic: θ_base + λ_sum Σ δ_i, Ilharco et al. 2022, arXiv 2212.04089. Papers differ in what λ multiplies: the
// sum there, the mean in Nihal et al. 2026 (arXiv 2605.03914). λ_sum = λ_mean / N. With coefficients: Σ c_i δ_i. A
// tensor may have a factor for its role and for its block besides.
#include <biophony/merger.hpp>
#include <cmath>
#include <map>
#include <optional>

namespace sdk = biophony::sdk;

namespace {

BIOPHONY_WIDE void scale(float factor, const float* delta, float* out, size_t size) {
    for (size_t k = 0; k < size; ++k) out[k] = factor * delta[k];
}
BIOPHONY_WIDE void add_scaled(float factor, const float* delta, float* out, size_t size) {
    for (size_t k = 0; k < size; ++k) out[k] += factor * delta[k];
}

}  // namespace

class TaskArithmetic : public sdk::Merger {
public:
    explicit TaskArithmetic(const sdk::Params& params)
        : lambda_mean_(number(params, "lambda_mean")), lambda_sum_(number(params, "lambda_sum")) {
        if (lambda_mean_ && lambda_sum_)
            throw sdk::Error("both lambda_mean and lambda_sum are given, expected one; lambda_sum = lambda_mean / N",
                             BPH_INVALID_ARGUMENT, "lambda_sum");
        if (!lambda_sum_ && !lambda_mean_) lambda_mean_ = 1.0;
        if (params.contains("coefficients"))
            for (const auto& value : params.at("coefficients")) coefficients_.push_back(finite(value, "coefficients"));
        if (params.contains("blocks"))
            for (const auto& value : params.at("blocks")) blocks_.push_back(finite(value, "blocks"));
        if (params.contains("roles"))
            for (const auto& [role, value] : params.at("roles").items()) roles_[role] = finite(value, "roles");
    }

    void element(const sdk::Tile& tile) const override {
        if (!coefficients_.empty() && coefficients_.size() != tile.experts())
            throw sdk::Error("found " + std::to_string(coefficients_.size()) +
                                 " coefficients, expected one for each of " + std::to_string(tile.experts()) +
                                 " experts",
                             BPH_INVALID_ARGUMENT, "coefficients");
        const auto out = tile.out();
        for (size_t i = 0; i < tile.experts(); ++i) {
            const float c = coefficients_.empty() ? 1.0F : static_cast<float>(coefficients_[i]);
            (i == 0 ? scale : add_scaled)(c, tile.expert(i).data(), out.data(), out.size());
        }
        const auto factor =
            static_cast<float>((lambda_sum_ ? *lambda_sum_ : *lambda_mean_ / static_cast<double>(tile.experts())) *
                               of_block(tile) * of_role(tile));
        scale(factor, out.data(), out.data(), out.size());
    }

private:
    static std::optional<double> number(const sdk::Params& params, const char* name) {
        if (!params.contains(name)) return {};
        return finite(params.at(name), name);
    }
    static double finite(double value, const char* name) {
        if (!std::isfinite(static_cast<float>(value)))
            throw sdk::Error("expected a number that fits float32", BPH_INVALID_ARGUMENT, name);
        return value;
    }

    double of_block(const sdk::Tile& tile) const {
        if (blocks_.empty()) return 1;
        if (blocks_.size() != tile.blocks())
            throw sdk::Error("found factors for " + std::to_string(blocks_.size()) + " blocks, but the encoder has " +
                                 std::to_string(tile.blocks()),
                             BPH_INVALID_ARGUMENT, "blocks");
        return tile.block() < 0 ? 1 : blocks_[static_cast<size_t>(tile.block())];
    }
    double of_role(const sdk::Tile& tile) const {
        const auto found = roles_.find(tile.role());
        return found == roles_.end() ? 1 : found->second;
    }

    std::optional<double> lambda_mean_, lambda_sum_;
    std::vector<double> coefficients_, blocks_;
    std::map<std::string, double, std::less<>> roles_;
};

BIOPHONY_PLUGIN(sdk::merger<TaskArithmetic>("task-arithmetic"))
