// Random numbers that are a function of a key and an index: Philox4x32-10 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). The number at an index is the same whatever was drawn before, on whichever thread.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace biophony::sdk {

namespace detail {

/// Four random words for each of `blocks` counters from `first` on, of stream 0.
inline void philox_any(uint64_t first, uint64_t key, uint32_t* out, size_t blocks) {
    for (size_t i = 0; i < blocks; ++i) {
        uint64_t x0 = static_cast<uint32_t>(first + i), x1 = (first + i) >> 32, x2 = 0, x3 = 0;
        auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
        for (int round = 0; round < 10; ++round) {
            const uint64_t a = uint64_t{0xD2511F53} * x0, b = uint64_t{0xCD9E8D57} * x2;
            x0 = (b >> 32) ^ x1 ^ k0;
            x1 = static_cast<uint32_t>(b);
            x2 = (a >> 32) ^ x3 ^ k1;
            x3 = static_cast<uint32_t>(a);
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        out[4 * i] = static_cast<uint32_t>(x0);
        out[4 * i + 1] = static_cast<uint32_t>(x1);
        out[4 * i + 2] = static_cast<uint32_t>(x2);
        out[4 * i + 3] = static_cast<uint32_t>(x3);
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
/// Four counters a register and two registers at a time: the lower half of each 64-bit lane is the number, as the
/// product of lower halves wants it; what is in the upper half doesn't count.
[[gnu::target("avx2")]] inline void philox_wide(uint64_t first, uint64_t key, uint32_t* out, size_t blocks) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    size_t done = 0;
    for (; done + 8 <= blocks; done += 8) {
        __m256i x0[2], x1[2], x2[2], x3[2];
        for (size_t g = 0; g < 2; ++g) {
            const uint64_t c = first + done + 4 * g;
            x0[g] = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(c)), _mm256_setr_epi64x(0, 1, 2, 3));
            x1[g] = _mm256_srli_epi64(x0[g], 32);
            x2[g] = x3[g] = _mm256_setzero_si256();
        }
        __m256i k0 = _mm256_set1_epi64x(static_cast<uint32_t>(key)), k1 = _mm256_set1_epi64x(key >> 32);
        for (int round = 0; round < 10; ++round) {
            for (size_t g = 0; g < 2; ++g) {
                const __m256i a = _mm256_mul_epu32(m0, x0[g]), b = _mm256_mul_epu32(m1, x2[g]);
                x0[g] = _mm256_xor_si256(_mm256_srli_epi64(b, 32), _mm256_xor_si256(x1[g], k0));
                x1[g] = b;
                x2[g] = _mm256_xor_si256(_mm256_srli_epi64(a, 32), _mm256_xor_si256(x3[g], k1));
                x3[g] = a;
            }
            k0 = _mm256_add_epi32(k0, _mm256_set1_epi64x(0x9E3779B9));
            k1 = _mm256_add_epi32(k1, _mm256_set1_epi64x(0xBB67AE85));
        }
        for (size_t g = 0; g < 2; ++g) {
            const __m256i a = _mm256_blend_epi32(x0[g], _mm256_slli_epi64(x1[g], 32), 0xAA);
            const __m256i b = _mm256_blend_epi32(x2[g], _mm256_slli_epi64(x3[g], 32), 0xAA);
            const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);
            auto* to = reinterpret_cast<__m256i*>(out + 4 * (done + 4 * g));
            _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
            _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
        }
    }
    philox_any(first + done, key, out + 4 * done, blocks - done);
}
inline void philox_blocks(uint64_t first, uint64_t key, uint32_t* out, size_t blocks) {
    static const bool wide = __builtin_cpu_supports("avx2") != 0;
    (wide ? philox_wide : philox_any)(first, key, out, blocks);
}
#else
inline void philox_blocks(uint64_t first, uint64_t key, uint32_t* out, size_t blocks) {
    philox_any(first, key, out, blocks);
}
#endif

}  // namespace detail

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

    /// The 32 bits behind uniform(first), uniform(first + 1), …: `uniform(index) < p` is `bits < p · 2³²`. Many at a
    /// time, which takes a fraction of asking one by one.
    void bits(uint64_t first, std::span<uint32_t> out) const {
        size_t k = 0;
        for (; k < out.size() && (first + k) % 4 != 0; ++k) out[k] = words((first + k) / 4)[(first + k) % 4];
        const size_t blocks = (out.size() - k) / 4;
        detail::philox_blocks((first + k) / 4, key_, out.data() + k, blocks);
        for (k += 4 * blocks; k < out.size(); ++k) out[k] = words((first + k) / 4)[(first + k) % 4];
    }

    /// Standard normal (Box and Muller 1958), index by index.
    double normal(uint64_t index) const {
        const auto w = words(index / 2, 1);
        const size_t at = 2 * (index % 2);
        const double radius = std::sqrt(-2.0 * std::log((w[at] + 1.0) * 0x1p-32));
        return radius * std::cos(2.0 * std::numbers::pi * w[at + 1] * 0x1p-32);
    }

private:
    uint64_t key_;
};

}  // namespace biophony::sdk
