// Iso-C, isotropic merging in the common subspace: Marczak et al. 2025, "No task left behind", arXiv 2502.04959,
// section 4.
#include "../spectral.hpp"

namespace sdk = biophony::sdk;
namespace spectral = biophony::spectral;

namespace {

class IsoC : public sdk::Merger {
public:
    explicit IsoC(const sdk::Params& params) : lambda_(params.at("lambda")) {}

    /// λ · mean(s) · U Vᵀ, with Σ δ_i = U diag(s) Vᵀ
    void matrix(const sdk::Tile& tile) const override {
        sdk::Matrix sum = tile.matrix(0);
        for (size_t i = 1; i < tile.experts(); ++i)
            for (size_t k = 0; k < tile.size(); ++k) sum.values[k] += tile.expert(i)[k];
        const auto [u, s, vt] = tile.linalg().svd(sum);
        const size_t rank = spectral::rank_of(s, sum.rows, sum.columns);
        spectral::log_rank(tile, "sum of all experts", s, rank);
        if (rank == 0) return spectral::write(tile, sdk::Matrix(sum.rows, sum.columns), 0);
        double mean = 0;
        for (size_t j = 0; j < rank; ++j) mean += s[j] / static_cast<double>(rank);
        spectral::write(tile, tile.linalg().multiply(spectral::first_columns(u, rank), spectral::first_rows(vt, rank)),
                        lambda_ * mean);
    }

    void element(const sdk::Tile& tile) const override { spectral::scaled_mean(tile, lambda_); }

private:
    double lambda_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<IsoC>("iso-c"))
