// Sums in float64 and order statistics of magnitudes, for stages that see whole tensors or all of them. Results depend
// on the values and their order alone.
#pragma once

#include <algorithm>
#include <array>
#include <biophony/merger.hpp>
#include <bit>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

namespace biophony::numbers {

/// A running sum over terms that come in pieces of any size: eight lanes that the terms go to in turn, so that the
/// compiler may do them at once, and cuts leave no trace.
class Sum {
public:
    /// Adds term(0) … term(count - 1).
    template <class Term>
    void add(size_t count, Term&& term) {
        size_t k = 0;
        for (; k < count && next_ != 0; ++k) one(term(k));
        auto lanes = lanes_;  // in registers
        for (; k + kLanes <= count; k += kLanes)
            for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(k + lane);
        lanes_ = lanes;
        for (; k < count; ++k) one(term(k));
    }
    void add(const Sum& other) {
        for (size_t lane = 0; lane < kLanes; ++lane) lanes_[lane] += other.lanes_[lane];
    }
    double value() const {
        return ((lanes_[0] + lanes_[1]) + (lanes_[2] + lanes_[3])) +
               ((lanes_[4] + lanes_[5]) + (lanes_[6] + lanes_[7]));
    }

private:
    static constexpr size_t kLanes = 8;
    void one(double term) {
        lanes_[next_] += term;
        next_ = (next_ + 1) % kLanes;
    }
    std::array<double, kLanes> lanes_{};
    size_t next_ = 0;
};

/// Σ a[k] b[k]
inline double dot(std::span<const float> a, std::span<const float> b) {
    Sum sum;
    sum.add(a.size(), [&](size_t k) { return static_cast<double>(a[k]) * b[k]; });
    return sum.value();
}

inline double norm(std::span<const float> values) {
    return std::sqrt(dot(values, values));
}

/// Σ |values[k]|
inline double absolute_sum(std::span<const float> values) {
    Sum sum;
    sum.add(values.size(), [&](size_t k) { return std::fabs(static_cast<double>(values[k])); });
    return sum.value();
}

/// Σ_i x_i[k] of the experts, in float64, where the order of experts hardly matters: for `count` places from `from`.
inline void add_experts(const sdk::Tile& tile, size_t from, size_t count, double* sums) {
    std::fill_n(sums, count, 0.0);
    for (size_t i = 0; i < tile.experts(); ++i) {
        const float* const x = tile.expert(i).data() + from;
        for (size_t k = 0; k < count; ++k) sums[k] += x[k];
    }
}

/// Bits that have the order of magnitudes.
inline uint32_t magnitude_bits(float value) {
    return std::bit_cast<uint32_t>(value) & 0x7FFFFFFF;
}

/// The value, or 0; without a branch, which where it goes by chance would cost more than all else.
inline float masked(float value, bool keep) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & (keep ? ~0U : 0U));
}

/// Calls `body` with the bits of each magnitude whose upper half is this. Few have it: whole runs without one are
/// passed over.
template <class Body>
void for_upper(std::span<const float> values, uint32_t upper, Body&& body) {
    constexpr size_t kRun = 32;
    for (size_t begin = 0; begin < values.size(); begin += kRun) {
        const float* run = values.data() + begin;
        const size_t size = std::min(kRun, values.size() - begin);
        uint32_t found = 0;
        for (size_t k = 0; k < size; ++k) found |= magnitude_bits(run[k]) >> 16 == upper ? ~0U : 0U;
        if (found == 0) continue;
        for (size_t k = 0; k < size; ++k)
            if (const uint32_t bits = magnitude_bits(run[k]); bits >> 16 == upper) body(bits);
    }
}

/// Counts by a 16-bit part of numbers' bits. Narrow counters, so that those in use stay in the nearest cache;
/// they are emptied into wide ones long before they are full.
class Bins {
public:
    void resize(size_t size) { narrow_.resize(size); }
    bool empty() const { return narrow_.empty(); }
    /// Room for this many more, in any bin.
    uint32_t* room(uint64_t more) {
        if (pending_ + more > UINT32_MAX) spill();
        pending_ += more;
        return narrow_.data();
    }
    uint64_t operator[](size_t bin) const { return narrow_[bin] + (wide_.empty() ? 0 : wide_[bin]); }
    void add(const Bins& other) {
        if (wide_.empty() && other.wide_.empty() && pending_ + other.pending_ <= UINT32_MAX) {
            for (size_t bin = 0; bin < narrow_.size(); ++bin) narrow_[bin] += other.narrow_[bin];
            pending_ += other.pending_;
            return;
        }
        spill();
        for (size_t bin = 0; bin < wide_.size(); ++bin) wide_[bin] += other[bin];
    }

private:
    void spill() {
        wide_.resize(narrow_.size());
        for (size_t bin = 0; bin < wide_.size(); ++bin) wide_[bin] += std::exchange(narrow_[bin], 0);
        pending_ = 0;
    }
    std::vector<uint32_t> narrow_;
    std::vector<uint64_t> wide_;
    uint64_t pending_ = 0;
};

/// The magnitudes of a tensor by rank, from the smallest on: a count by the upper halves of their bits finds the few
/// among which the one is.
class Magnitudes {
public:
    explicit Magnitudes(std::span<const float> values) : values_(values), bins_(1 << 15) {
        for (const float value : values) ++bins_[magnitude_bits(value) >> 16];
    }
    /// The one of this rank, and the next one (the same where there is none).
    std::pair<float, float> of_rank(size_t rank) const {
        uint32_t bin = 0;
        while (bins_[bin] <= rank) rank -= bins_[bin++];
        std::vector<uint32_t> in_bin = of_bin(bin);
        const auto found = in_bin.begin() + static_cast<std::ptrdiff_t>(rank);
        std::nth_element(in_bin.begin(), found, in_bin.end());
        uint32_t next = *found;
        if (found + 1 != in_bin.end()) {
            next = *std::min_element(found + 1, in_bin.end());
        } else {
            for (++bin; bin < bins_.size() && bins_[bin] == 0;) ++bin;
            if (bin < bins_.size()) next = std::ranges::min(of_bin(bin));
        }
        return {std::bit_cast<float>(*found), std::bit_cast<float>(next)};
    }

private:
    std::vector<uint32_t> of_bin(uint32_t bin) const {
        std::vector<uint32_t> out;
        out.reserve(bins_[bin]);
        for_upper(values_, bin, [&](uint32_t bits) { out.push_back(bits); });
        return out;
    }
    std::span<const float> values_;
    std::vector<uint64_t> bins_;
};

/// The magnitude that `rank` others are not above: 0 gives the smallest, size - 1 the largest. Exact.
inline float magnitude_of_rank(std::span<const float> values, size_t rank) {
    if (values.size() >= 1 << 14) return Magnitudes(values).of_rank(rank).first;
    std::vector<uint32_t> bits(values.size());
    for (size_t k = 0; k < values.size(); ++k) bits[k] = magnitude_bits(values[k]);
    const auto at = bits.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(bits.begin(), at, bits.end());
    return std::bit_cast<float>(*at);
}

/// An array of one number per expert, as the parameter `name` gives it; empty where it isn't given.
inline std::vector<double> per_expert(const sdk::Params& params, const char* name) {
    std::vector<double> out;
    if (!params.contains(name)) return out;
    for (const double value : params.at(name)) {
        if (!std::isfinite(static_cast<float>(value)))
            throw sdk::Error("expected numbers that fit float32", BPH_INVALID_ARGUMENT, name);
        out.push_back(value);
    }
    return out;
}

/// Throws unless there is one for each of the experts, or none.
inline void check_per_expert(const std::vector<double>& values, size_t experts, const char* name) {
    if (!values.empty() && values.size() != experts)
        throw sdk::Error("found " + std::to_string(values.size()) + " " + name + ", expected one for each of " +
                             std::to_string(experts) + " experts",
                         BPH_INVALID_ARGUMENT, name);
}

/// Writes Σ c_i x_i, summed in float64 in the order of the experts.
inline void write_combination(const sdk::Tile& tile, std::span<const double> coefficients) {
    constexpr size_t kBlock = 512;
    std::array<double, kBlock> sums;
    for (size_t from = 0; from < tile.size(); from += kBlock) {
        const size_t count = std::min(kBlock, tile.size() - from);
        for (size_t i = 0; i < tile.experts(); ++i) {
            const float* const x = tile.expert(i).data() + from;
            const double c = coefficients[i];
            if (i == 0)
                for (size_t k = 0; k < count; ++k) sums[k] = c * x[k];
            else
                for (size_t k = 0; k < count; ++k) sums[k] += c * x[k];
        }
        float* const out = tile.out().data() + from;
        for (size_t k = 0; k < count; ++k) out[k] = static_cast<float>(sums[k]);
    }
}

/// Calls use(k, u) for the `count` uniform numbers from `first` on.
template <class Use>
void for_uniform(const sdk::Philox& random, uint64_t first, size_t count, Use&& use) {
    std::array<double, 512> block;
    for (size_t from = 0; from < count; from += block.size()) {
        const auto part = std::span(block).first(std::min(block.size(), count - from));
        random.uniform(first + from, part);
        for (size_t k = 0; k < part.size(); ++k) use(from + k, part[k]);
    }
}

}  // namespace biophony::numbers
