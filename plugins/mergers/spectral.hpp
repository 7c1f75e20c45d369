// What the spectral merge methods share: which singular values are more than rounding, and the rule for tensors that
// are not matrices.
#pragma once

#include <algorithm>
#include <biophony/merger.hpp>
#include <cmath>
#include <limits>
#include <string>

namespace biophony::spectral {

/// How many singular values (descending, of an m × n matrix) are more than the rounding of float32 weights:
/// s > max(m, n) · ε · s₁. The others' directions are noise, which a flat spectrum or a polar factor would raise to
/// full strength.
inline size_t rank_of(const std::vector<double>& s, size_t m, size_t n) {
    if (s.empty()) return 0;
    const double least = static_cast<double>(std::max(m, n)) * std::numeric_limits<float>::epsilon() * s.front();
    return static_cast<size_t>(std::count_if(s.begin(), s.end(), [&](double value) { return value > least; }));
}

/// exp of the entropy of the spectrum, Roy and Vetterli 2007; 0 for a matrix of zeros.
inline double effective_rank(const std::vector<double>& s) {
    double sum = 0, entropy = 0;
    for (const double value : s) sum += value;
    for (const double value : s)
        if (value > 0) entropy -= value / sum * std::log(value / sum);
    return sum > 0 ? std::exp(entropy) : 0;
}

inline void log_rank(const sdk::Tile& tile, const std::string& of, const std::vector<double>& s, size_t rank) {
    tile.call().log("tensor '" + std::string(tile.tensor()) + "', " + of + ": rank " + std::to_string(rank) + " of " +
                        std::to_string(s.size()) + ", effective rank " + std::to_string(effective_rank(s)),
                    BPH_LOG_DEBUG);
}

inline sdk::Matrix first_columns(const sdk::Matrix& a, size_t count) {
    sdk::Matrix out(a.rows, count);
    for (size_t r = 0; r < a.rows; ++r)
        for (size_t c = 0; c < count; ++c) out.at(r, c) = a.at(r, c);
    return out;
}
inline sdk::Matrix first_rows(const sdk::Matrix& a, size_t count) {
    sdk::Matrix out(count, a.columns);
    std::copy_n(a.values.begin(), out.values.size(), out.values.begin());
    return out;
}

inline void write(const sdk::Tile& tile, const sdk::Matrix& merged, double scale) {
    for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = static_cast<float>(scale * merged.values[k]);
}

/// scale · (1/N) Σ δ_i
inline void scaled_mean(const sdk::Tile& tile, double scale) {
    const auto factor = static_cast<float>(scale / static_cast<double>(tile.experts()));
    for (size_t k = 0; k < tile.size(); ++k) {
        float sum = 0;
        for (size_t i = 0; i < tile.experts(); ++i) sum += tile.expert(i)[k];
        tile.out()[k] = factor * sum;
    }
}

}  // namespace biophony::spectral
