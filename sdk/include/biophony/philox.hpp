// Random numbers that are a function of a key and an index: Philox4x32-10 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). The number at an index is the same whatever was drawn before, on whichever thread.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>

namespace biophony::sdk {

class Philox {
public:
    explicit Philox(uint64_t key) : key_(key) {}

    /// Four random words for a counter. Each stream has numbers of its own: uniform() takes stream 0, normal() 1, so
    /// that a stage may ask for both at one index.
    std::array<uint32_t, 4> words(uint64_t counter, uint32_t stream = 0) const {
        std::array<uint32_t, 4> x = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 0};
        auto k0 = static_cast<uint32_t>(key_), k1 = static_cast<uint32_t>(key_ >> 32);
        for (int round = 0; round < 10; ++round) {
            const uint64_t a = uint64_t{0xD2511F53} * x[0], b = uint64_t{0xCD9E8D57} * x[2];
            x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(b),
                 static_cast<uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(a)};
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return x;
    }

    /// Uniform in [0, 1), 32 bits; index by index.
    double uniform(uint64_t index) const { return words(index / 4)[index % 4] * 0x1p-32; }

    /// uniform(first), uniform(first + 1), …: many numbers in a fraction of the time.
    void uniform(uint64_t first, std::span<double> out) const {
        size_t k = 0;
        if (first % 4 == 0)
            for (; k + 4 * kLanes <= out.size(); k += 4 * kLanes) uniform_lanes((first + k) / 4, &out[k]);
        while (k < out.size()) {
            const std::array<uint32_t, 4> four = words((first + k) / 4);
            for (size_t at = (first + k) % 4; at < 4 && k < out.size(); ++at, ++k) out[k] = four[at] * 0x1p-32;
        }
    }

    /// Standard normal (Box and Muller 1958), index by index.
    double normal(uint64_t index) const {
        const auto w = words(index / 2, 1);
        const size_t at = 2 * (index % 2);
        const double radius = std::sqrt(-2.0 * std::log((w[at] + 1.0) * 0x1p-32));
        return radius * std::cos(2.0 * std::numbers::pi * w[at + 1] * 0x1p-32);
    }

private:
    static constexpr size_t kLanes = 8;
    /// words() of kLanes counters in lanes, which the compiler does at once.
    void uniform_lanes(uint64_t counter, double* out) const {
        std::array<std::array<uint32_t, kLanes>, 4> x{};
        for (size_t l = 0; l < kLanes; ++l) {
            x[0][l] = static_cast<uint32_t>(counter + l);
            x[1][l] = static_cast<uint32_t>((counter + l) >> 32);
        }
        auto k0 = static_cast<uint32_t>(key_), k1 = static_cast<uint32_t>(key_ >> 32);
        for (int round = 0; round < 10; ++round) {
            for (size_t l = 0; l < kLanes; ++l) {
                const uint64_t a = uint64_t{0xD2511F53} * x[0][l], b = uint64_t{0xCD9E8D57} * x[2][l];
                x[0][l] = static_cast<uint32_t>(b >> 32) ^ x[1][l] ^ k0;
                x[2][l] = static_cast<uint32_t>(a >> 32) ^ x[3][l] ^ k1;
                x[1][l] = static_cast<uint32_t>(b);
                x[3][l] = static_cast<uint32_t>(a);
            }
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        for (size_t l = 0; l < kLanes; ++l)
            for (size_t at = 0; at < 4; ++at) out[4 * l + at] = x[at][l] * 0x1p-32;
    }

    uint64_t key_;
};

}  // namespace biophony::sdk
