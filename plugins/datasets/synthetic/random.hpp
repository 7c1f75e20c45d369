// Random numbers of the scenes: every draw is a function of a seed and of what it is for.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace scenes {

inline constexpr double kRate = 16000;  ///< Hz, of all sound here
inline constexpr double kPi = std::numbers::pi;

/// SplitMix64 (Steele, Lea and Flood 2014).
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    static uint64_t scramble(uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    uint64_t next() { return scramble(state_ += 0x9e3779b97f4a7c15ULL); }
    double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
    double uniform(double low, double high) { return low + (high - low) * uniform(); }
    /// Uniform on a logarithmic scale.
    double scale(double low, double high) { return low * std::pow(high / low, uniform()); }
    double normal() { return std::sqrt(-2.0 * std::log(1.0 - uniform())) * std::cos(2.0 * kPi * uniform()); }
    int below(int n) { return static_cast<int>(uniform() * n); }
    bool chance(double p) { return uniform() < p; }
    /// Noise of variance 1 that is near enough to normal: four 16-bit parts of one number, summed.
    float noise() {
        const uint64_t bits = next();
        const auto sum =
            static_cast<double>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
        return static_cast<float>((sum - 131070.0) * (std::numbers::sqrt3 / 65536.0));
    }

private:
    uint64_t state_;
};

inline uint64_t mix(uint64_t seed, uint64_t part) {
    return Random::scramble(Random::scramble(seed + 0x9e3779b97f4a7c15ULL) ^ (part * 0xd1342543de82ef95ULL + 1));
}

}  // namespace scenes
