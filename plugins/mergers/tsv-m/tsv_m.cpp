// TSV-M, merging of task singular vectors: Gargiulo et al. 2024, "Task singular vectors", arXiv 2412.00081, section 4.
#include "../spectral.hpp"

namespace sdk = biophony::sdk;
namespace spectral = biophony::spectral;

namespace {

/// The orthogonal matrix nearest to a = P D Qᵀ, P Qᵀ (Procrustes), within what a spans.
sdk::Matrix polar_factor(const sdk::Matrix& a, const sdk::Linalg& linalg) {
    const auto [p, d, qt] = linalg.svd(a);
    const size_t rank = spectral::rank_of(d, a.rows, a.columns);
    return linalg.multiply(spectral::first_columns(p, rank), spectral::first_rows(qt, rank));
}

class TsvM : public sdk::Merger {
public:
    explicit TsvM(const sdk::Params& params) : alpha_(params.at("alpha")) {}

    /// α · Û diag(S) V̂ᵀ: the leading triplets of all experts side by side, U and V replaced by their polar factors.
    void matrix(const sdk::Tile& tile) const override {
        const size_t experts = tile.experts();
        const size_t m = static_cast<size_t>(tile.shape()[0]), n = static_cast<size_t>(tile.shape()[1]);
        const size_t share = std::max<size_t>(std::min(m, n) / experts, 1);
        if (experts > std::min(m, n))
            tile.call().log("tensor '" + std::string(tile.tensor()) + "' has rank " + std::to_string(std::min(m, n)) +
                                " at most for " + std::to_string(experts) +
                                " experts: each keeps one direction, and they overlap",
                            BPH_LOG_WARNING);
        sdk::Matrix ut(share * experts, m), vt(share * experts, n);  // a row a triplet
        std::vector<double> s;
        for (size_t i = 0; i < experts; ++i) {
            const auto of_expert = tile.linalg().svd(tile.matrix(i));
            const size_t rank = spectral::rank_of(of_expert.s, m, n);
            spectral::log_rank(tile, "expert " + std::to_string(i), of_expert.s, rank);
            for (size_t j = 0; j < std::min(share, rank); ++j) {
                for (size_t r = 0; r < m; ++r) ut.at(s.size(), r) = of_expert.u.at(r, j);
                for (size_t c = 0; c < n; ++c) vt.at(s.size(), c) = of_expert.vt.at(j, c);
                s.push_back(of_expert.s[j]);
            }
        }
        if (s.empty()) return spectral::write(tile, sdk::Matrix(m, n), 0);
        sdk::Matrix u_polar = polar_factor(spectral::first_rows(ut, s.size()), tile.linalg());
        const sdk::Matrix v_polar = polar_factor(spectral::first_rows(vt, s.size()), tile.linalg());
        for (size_t j = 0; j < s.size(); ++j)
            for (size_t r = 0; r < m; ++r) u_polar.at(j, r) *= s[j];
        spectral::write(tile, tile.linalg().multiply(u_polar, v_polar, true), alpha_);
    }

    void element(const sdk::Tile& tile) const override { spectral::scaled_mean(tile, alpha_); }

private:
    double alpha_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<TsvM>("tsv-m"))
