// Seeded random numbers: SplitMix64 and Lemire's bounded draw, integer arithmetic that is equal on every machine
// (normal() goes through the C library's log and cos). Not for cryptography.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace biophony {

/// Steele, Lea and Flood 2014. One 64-bit state; any seed is good.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    /// Uniform in [0, 1), 53 bits.
    double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
    double uniform(double low, double high) { return low + (high - low) * uniform(); }
    /// Uniform in 0 … n − 1; n > 0.
    uint64_t below(uint64_t n) {
        const uint64_t threshold = (0 - n) % n;
        for (;;) {
            const auto product = static_cast<unsigned __int128>(next()) * n;
            if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
        }
    }
    /// Standard normal (Box and Muller, one of the pair).
    double normal() {
        const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
        return radius * std::cos(2.0 * std::numbers::pi * uniform());
    }

private:
    uint64_t state_;
};

/// A seed for a part of something seeded: `mix(seed, i)` for the i-th.
inline uint64_t mix(uint64_t seed, uint64_t part) {
    Random random(seed ^ (part * 0xd1342543de82ef95ULL + 0x2545f4914f6cdd1dULL));
    random.next();
    return random.next();
}

}  // namespace biophony
