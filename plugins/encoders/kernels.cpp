#include "kernels.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

namespace biophony::encoders {

namespace {

// Loops over this many elements at once become vector code: two vectors of 8 or one of 16.
constexpr int kLanes = 16;

#define BPH_INLINE inline __attribute__((always_inline))

using BFloat16 = uint16_t;

BPH_INLINE float load(float x) {
    return x;
}
BPH_INLINE float load(BFloat16 x) {
    return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
}
BPH_INLINE void store(float x, float& to) {
    to = x;
}
/// Rounded to the nearest, ties to even; a NaN stays one.
BPH_INLINE void store(float x, BFloat16& to) {
    const auto bits = std::bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    to = static_cast<BFloat16>(x == x ? rounded : 0x7fc0U);
}

/// e^x for x ≤ 0, relative error below 2e-7; 0 below -87. Cody and Waite's reduction, a polynomial of degree 6.
BPH_INLINE float exponential(float x) {
    const float clamped = x < -87.0F ? -87.0F : x;
    constexpr float kShift = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
    const float shifted = clamped * 1.44269504088896341F + kShift;
    const float n = shifted - kShift;
    float r = clamped - n * 0.693359375F;
    r = r - n * -2.12194440e-4F;
    float p = 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1.0F;
    const uint32_t power = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kShift)) << 23;
    const float y = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + power);
    return x < -87.0F ? 0.0F : x == x ? y : x;  // a NaN stays one
}

/// 32 well-mixed bits of an index: Wellons' "lowbias32".
BPH_INLINE uint32_t mixed(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352dU;
    x ^= x >> 15;
    x *= 0x846ca68bU;
    x ^= x >> 16;
    return x;
}

/// The draws of one row (or block) of at most 2^32 elements.
struct Draws {
    uint32_t start, step, threshold;
    float factor;
};

uint64_t splitmix(uint64_t x) {
    x += 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

Draws draws_of(uint64_t key, uint64_t row, double share) {
    const uint64_t bits = splitmix(splitmix(key) + row);
    return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32) | 1U,
            static_cast<uint32_t>(std::min(share * 4294967296.0, 4294967295.0)), static_cast<float>(1 / (1 - share))};
}

/// The factor of element i: 0, or 1 / (1 − share).
BPH_INLINE float kept(const Draws draws, uint32_t i) {
    return mixed(draws.start + i * draws.step) < draws.threshold ? 0.0F : draws.factor;
}

/// What one row needs beside its values; rows of scratch have room for whole vectors.
struct Scratch {
    explicit Scratch(int64_t tokens) : width((tokens + kLanes - 1) / kLanes * kLanes), a(width), b(width), c(width) {}
    int64_t width;
    std::vector<float> a, b, c;
};

/// Sums of kLanes parts, put together in a fixed order.
BPH_INLINE float total(const float* parts) {
    float sums[kLanes];
    for (int l = 0; l < kLanes; ++l) sums[l] = parts[l];
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
    return sums[0];
}

template <class T>
BPH_INLINE void forward_row(int64_t tokens, T* scores, T* dropped, const float* bias, float gate, const uint8_t* padded,
                            const Draws* draws, float* x, int64_t width) {
    constexpr float kLowest = -std::numeric_limits<float>::max();
    for (int64_t j = 0; j < tokens; ++j) x[j] = load(scores[j]);
    if (bias != nullptr)
        for (int64_t j = 0; j < tokens; ++j) x[j] += gate * bias[j];
    if (padded != nullptr)
        for (int64_t j = 0; j < tokens; ++j) x[j] = padded[j] ? kLowest : x[j];
    for (int64_t j = tokens; j < width; ++j) x[j] = kLowest;
    float parts[kLanes];
    for (int l = 0; l < kLanes; ++l) parts[l] = kLowest;
    for (int64_t j = 0; j < width; j += kLanes)
        for (int l = 0; l < kLanes; ++l) parts[l] = parts[l] > x[j + l] ? parts[l] : x[j + l];
    float most = parts[0];
    for (int l = 1; l < kLanes; ++l) most = std::max(most, parts[l]);
    for (int l = 0; l < kLanes; ++l) parts[l] = 0;
    for (int64_t j = 0; j < width; j += kLanes)
        for (int l = 0; l < kLanes; ++l) {
            x[j + l] = exponential(x[j + l] - most);
            parts[l] += x[j + l];
        }
    // A NaN or an infinite score makes the sum a NaN, and with it the row.
    const float scale = 1.0F / total(parts);
    for (int64_t j = 0; j < tokens; ++j) store(x[j] * scale, scores[j]);
    if (draws == nullptr) return;
    const Draws local = *draws;  // nothing that is stored can change it
    for (uint32_t j = 0; j < static_cast<uint32_t>(tokens); ++j) x[j] = kept(local, j);
    for (int64_t j = 0; j < tokens; ++j) store(load(scores[j]) * x[j], dropped[j]);
}

template <class T>
BPH_INLINE void backward_row(int64_t tokens, const T* probabilities, T* gradient, T* dropped, const float* bias,
                             float gate, float* bias_gradient, bool first, float* gate_gradient, const Draws* draws,
                             float* p, float* g, float* f, int64_t width) {
    for (int64_t j = 0; j < tokens; ++j) p[j] = load(probabilities[j]);
    for (int64_t j = 0; j < tokens; ++j) g[j] = load(gradient[j]);
    if (draws != nullptr) {
        const Draws local = *draws;  // nothing that is stored can change it
        for (uint32_t j = 0; j < static_cast<uint32_t>(tokens); ++j) f[j] = kept(local, j);
        for (int64_t j = 0; j < tokens; ++j) g[j] *= f[j];
        for (int64_t j = 0; j < tokens; ++j) store(p[j] * f[j], dropped[j]);
    }
    for (int64_t j = tokens; j < width; ++j) p[j] = g[j] = 0;
    float parts[kLanes] = {};
    for (int64_t j = 0; j < width; j += kLanes)
        for (int l = 0; l < kLanes; ++l) parts[l] += p[j + l] * g[j + l];
    const float dot = total(parts);
    for (int64_t j = 0; j < width; ++j) g[j] = p[j] * (g[j] - dot);
    for (int64_t j = 0; j < tokens; ++j) store(g[j], gradient[j]);
    if (bias_gradient != nullptr) {
        if (first)
            for (int64_t j = 0; j < tokens; ++j) bias_gradient[j] = gate * g[j];
        else
            for (int64_t j = 0; j < tokens; ++j) bias_gradient[j] += gate * g[j];
    }
    if (gate_gradient != nullptr) {
        for (int l = 0; l < kLanes; ++l) parts[l] = 0;
        const int64_t whole = tokens / kLanes * kLanes;
        for (int64_t j = 0; j < whole; j += kLanes)
            for (int l = 0; l < kLanes; ++l) parts[l] += g[j + l] * bias[j + l];
        for (int64_t j = whole; j < tokens; ++j) parts[j - whole] += g[j] * bias[j];
        *gate_gradient = total(parts);
    }
}

/// Rows first … last - 1 of the queries of all heads, (h, query); each for all clips, so that a row of the bias'
/// gradient is added up by one thread in one order.
template <class T>
BPH_INLINE void forward_rows(const SoftmaxRows& r, T* scores, T* dropped, int64_t first, int64_t last, Scratch& s) {
    for (int64_t at = first; at < last; ++at) {
        const int64_t head = at / r.tokens, query = at % r.tokens;
        for (int64_t b = 0; b < r.clips; ++b) {
            const int64_t row = (b * r.heads + head) * r.tokens + query;
            const Draws draws = draws_of(r.key, static_cast<uint64_t>(row), r.dropout);
            forward_row(r.tokens, scores + row * r.tokens, dropped + row * r.tokens,
                        r.bias ? r.bias + at * r.tokens : nullptr, r.gate ? r.gate[row] : 1.0F,
                        r.padded ? r.padded + b * r.tokens : nullptr, r.dropout > 0 ? &draws : nullptr, s.a.data(),
                        s.width);
        }
    }
}

template <class T>
BPH_INLINE void backward_rows(const SoftmaxRows& r, const T* probabilities, T* gradient, T* dropped,
                              float* bias_gradient, float* gate_gradient, int64_t first, int64_t last, Scratch& s) {
    for (int64_t at = first; at < last; ++at) {
        const int64_t head = at / r.tokens, query = at % r.tokens;
        for (int64_t b = 0; b < r.clips; ++b) {
            const int64_t row = (b * r.heads + head) * r.tokens + query;
            const Draws draws = draws_of(r.key, static_cast<uint64_t>(row), r.dropout);
            backward_row(r.tokens, probabilities + row * r.tokens, gradient + row * r.tokens, dropped + row * r.tokens,
                         r.bias ? r.bias + at * r.tokens : nullptr, r.gate ? r.gate[row] : 1.0F,
                         bias_gradient ? bias_gradient + at * r.tokens : nullptr, b == 0,
                         gate_gradient ? gate_gradient + row : nullptr, r.dropout > 0 ? &draws : nullptr, s.a.data(),
                         s.b.data(), s.c.data(), s.width);
        }
    }
}

/// Elements of one key's block of draws.
constexpr int64_t kBlock = 1 << 14;

template <class T>
BPH_INLINE void drop_block(const T* from, T* to, int64_t count, const Draws& draws) {
    constexpr int64_t kPart = 512;
    const Draws local = draws;  // nothing that is stored can change it
    float factors[kPart];
    for (int64_t begin = 0; begin < count; begin += kPart) {
        const auto size = static_cast<uint32_t>(std::min(kPart, count - begin));
        for (uint32_t i = 0; i < size; ++i) factors[i] = kept(local, static_cast<uint32_t>(begin) + i);
        for (uint32_t i = 0; i < size; ++i) store(load(from[begin + i]) * factors[i], to[begin + i]);
    }
}

// The same loops for each class of processors. GCC's target attribute needs functions of their own.
#if defined(__x86_64__)
#define BPH_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"), flatten))
#define BPH_AVX2 __attribute__((target("avx2,fma"), flatten))
#endif
#define BPH_FOR_ALL_CLASSES(attribute, suffix)                                                                     \
    template <class T>                                                                                             \
    attribute void forward_rows_##suffix(const SoftmaxRows& r, T* scores, T* dropped, int64_t first, int64_t last, \
                                         Scratch& s) {                                                             \
        forward_rows(r, scores, dropped, first, last, s);                                                          \
    }                                                                                                              \
    template <class T>                                                                                             \
    attribute void backward_rows_##suffix(const SoftmaxRows& r, const T* p, T* g, T* d, float* bias, float* gate,  \
                                          int64_t first, int64_t last, Scratch& s) {                               \
        backward_rows(r, p, g, d, bias, gate, first, last, s);                                                     \
    }                                                                                                              \
    template <class T>                                                                                             \
    attribute void drop_block_##suffix(const T* from, T* to, int64_t count, const Draws& draws) {                  \
        drop_block(from, to, count, draws);                                                                        \
    }

BPH_FOR_ALL_CLASSES(, plain)
#if defined(__x86_64__)
BPH_FOR_ALL_CLASSES(BPH_AVX2, avx2)
BPH_FOR_ALL_CLASSES(BPH_AVX512, avx512)
#endif

enum class Class { kPlain, kAvx2, kAvx512 };

Class processor() {
#if defined(__x86_64__)
    static const Class found = [] {
        // For tests: the loops of lesser processors.
        const char* wanted = std::getenv("BIOPHONY_VECTORS");
        if (wanted != nullptr && std::string_view(wanted) == "plain") return Class::kPlain;
        const bool below_512 = wanted != nullptr && std::string_view(wanted) == "avx2";
        if (!below_512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            return Class::kAvx512;
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Class::kAvx2 : Class::kPlain;
    }();
    return found;
#else
    return Class::kPlain;
#endif
}

/// Calls `work(first, last)` for parts of [0, count), on `threads` threads where each has `least` or more.
template <class Work>
void in_parts(int64_t count, int64_t least, int threads, const Work& work) {
    const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(least, 1), 1, std::max(threads, 1));
    std::vector<std::jthread> others;
    for (int64_t t = 1; t < parts; ++t) others.emplace_back(work, count * t / parts, count * (t + 1) / parts);
    work(0, count / parts);
}

/// Calls `body` with a null pointer of the type that the element is in memory.
template <class Body>
void typed(Element element, const Body& body) {
    if (element == Element::kFloat32)
        body(static_cast<float*>(nullptr));
    else
        body(static_cast<BFloat16*>(nullptr));
}

/// Rows that are worth a thread: about a quarter of a millisecond.
int64_t least_rows(const SoftmaxRows& rows) {
    return 200000 / std::max<int64_t>(rows.tokens * rows.clips, 1) + 1;
}

}  // namespace

void softmax_forward(const SoftmaxRows& rows, void* scores, void* dropped, int threads) {
    typed(rows.element, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        auto* to = static_cast<T*>(scores);
        auto* also = static_cast<T*>(dropped);
        in_parts(rows.heads * rows.tokens, least_rows(rows), threads, [&](int64_t first, int64_t last) {
            Scratch s(rows.tokens);
#if defined(__x86_64__)
            if (processor() == Class::kAvx512) return forward_rows_avx512(rows, to, also, first, last, s);
            if (processor() == Class::kAvx2) return forward_rows_avx2(rows, to, also, first, last, s);
#endif
            forward_rows_plain(rows, to, also, first, last, s);
        });
    });
}

void softmax_backward(const SoftmaxRows& rows, const void* probabilities, void* gradient, void* dropped,
                      float* bias_gradient, float* gate_gradient, int threads) {
    typed(rows.element, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto* p = static_cast<const T*>(probabilities);
        auto* g = static_cast<T*>(gradient);
        auto* d = static_cast<T*>(dropped);
        in_parts(rows.heads * rows.tokens, least_rows(rows), threads, [&](int64_t first, int64_t last) {
            Scratch s(rows.tokens);
#if defined(__x86_64__)
            if (processor() == Class::kAvx512)
                return backward_rows_avx512(rows, p, g, d, bias_gradient, gate_gradient, first, last, s);
            if (processor() == Class::kAvx2)
                return backward_rows_avx2(rows, p, g, d, bias_gradient, gate_gradient, first, last, s);
#endif
            backward_rows_plain(rows, p, g, d, bias_gradient, gate_gradient, first, last, s);
        });
    });
}

void drop(Element element, const void* from, void* to, int64_t count, double share, uint64_t key, int threads) {
    typed(element, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const auto* x = static_cast<const T*>(from);
        auto* y = static_cast<T*>(to);
        in_parts((count + kBlock - 1) / kBlock, 32, threads, [&](int64_t first, int64_t last) {
            for (int64_t block = first; block < last; ++block) {
                const int64_t begin = block * kBlock, size = std::min(kBlock, count - begin);
                const Draws draws = draws_of(key, static_cast<uint64_t>(block), share);
#if defined(__x86_64__)
                if (processor() == Class::kAvx512) {
                    drop_block_avx512(x + begin, y + begin, size, draws);
                    continue;
                }
                if (processor() == Class::kAvx2) {
                    drop_block_avx2(x + begin, y + begin, size, draws);
                    continue;
                }
#endif
                drop_block_plain(x + begin, y + begin, size, draws);
            }
        });
    });
}

}  // namespace biophony::encoders
