#include "weights/kernels.hpp"

#include <bit>
#include <cmath>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define BPH_WIDE 1
#endif

namespace biophony::kernels {

namespace {

constexpr uint32_t kExponent = 0x7f800000U;

template <class T>
T load(const std::byte* raw, size_t i) {
    T value;
    std::memcpy(&value, raw + i * sizeof(T), sizeof(T));
    return value;
}

float from_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fU, mantissa = half & 0x3ffU;
    if (exponent == 0) {  // zero and subnormal numbers: mantissa × 2⁻²⁴
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    const uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
    return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

uint16_t to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), sign = (bits >> 16) & 0x8000U, magnitude = bits & 0x7fffffffU;
    if (magnitude > kExponent) return static_cast<uint16_t>(sign | 0x7e00U);
    if (magnitude >= 0x47800000U) return static_cast<uint16_t>(sign | 0x7c00U);  // 65536 and more
    if (magnitude < 0x38800000U) {                                       // below 2⁻¹⁴: multiples of 2⁻²⁴
        const float scaled = std::bit_cast<float>(magnitude) * 0x1p24F;  // exact
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(scaled)));
    }
    const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U) - 0x38000000U;  // may carry into infinity
    return static_cast<uint16_t>(sign | rounded >> 13);
}

uint16_t to_bfloat(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffU) > kExponent) return static_cast<uint16_t>((bits >> 16) | 0x40U);
    return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// Bodies that are compiled for each set of instructions.

[[gnu::always_inline]] inline bool finite_body(const float* values, size_t count) {
    uint32_t found = 0;  // no early exit in these loops, so that they run on whole registers
    for (size_t k = 0; k < count; ++k)
        found |= (std::bit_cast<uint32_t>(values[k]) & kExponent) == kExponent ? ~0U : 0U;
    return found == 0;
}

[[gnu::always_inline]] inline bool sum_body(const float* __restrict__ a, const float* __restrict__ b,
                                            float* __restrict__ out, size_t count) {
    uint32_t found = 0;
    for (size_t k = 0; k < count; ++k) {
        const float value = a[k] + b[k];
        out[k] = value;
        found |= (std::bit_cast<uint32_t>(value) & kExponent) == kExponent ? ~0U : 0U;
    }
    return found == 0;
}

/// values += sign * base; the product by 1 or -1 is exact.
[[gnu::always_inline]] inline bool shift_body(float* __restrict__ values, const float* __restrict__ base, float sign,
                                              size_t count) {
    uint32_t found = 0;
    for (size_t k = 0; k < count; ++k) {
        values[k] += sign * base[k];
        found |= (std::bit_cast<uint32_t>(values[k]) & kExponent) == kExponent ? ~0U : 0U;
    }
    return found == 0;
}

[[gnu::always_inline]] inline void widen_codes_body(const std::byte* raw, float minimum, float step, float* out,
                                                    size_t count) {
    for (size_t k = 0; k < count; ++k) out[k] = minimum + step * static_cast<float>(std::to_integer<uint8_t>(raw[k]));
}
[[gnu::always_inline]] inline void widen_bfloat_body(const std::byte* raw, float* out, size_t count) {
    for (size_t k = 0; k < count; ++k)
        out[k] = std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(raw, k)) << 16);
}

/// Four float64, which the compiler keeps in as many registers as it takes.
typedef double Four [[gnu::vector_size(32)]];
typedef uint64_t FourBits [[gnu::vector_size(32)]];
constexpr size_t kFours = kLanes / 4;

[[gnu::always_inline]] inline void products_body(const double* a, const double* b, size_t count, double* sums,
                                                 double* absolutes) {
    Four sum[kFours], absolute[kFours];
    for (size_t f = 0; f < kFours; ++f) sum[f] = absolute[f] = Four{};
    for (size_t k = 0; k < count; k += kLanes)
        for (size_t f = 0; f < kFours; ++f) {
            Four x, y;
            std::memcpy(&x, a + k + 4 * f, sizeof(x));
            std::memcpy(&y, b + k + 4 * f, sizeof(y));
            x *= y;
            sum[f] += x;
            FourBits bits;
            std::memcpy(&bits, &x, sizeof(x));
            bits &= ~(uint64_t{1} << 63);
            std::memcpy(&x, &bits, sizeof(x));
            absolute[f] += x;
        }
    std::memcpy(sums, sum, sizeof(sum));
    std::memcpy(absolutes, absolute, sizeof(absolute));
}

[[gnu::always_inline]] inline Agreement agreement_body(const uint64_t* negative_a, const uint64_t* set_a,
                                                       const uint64_t* negative_b, const uint64_t* set_b,
                                                       size_t words) {
    Agreement out{};
    for (size_t w = 0; w < words; ++w) {
        const uint64_t both = set_a[w] & set_b[w];
        out.both += static_cast<uint64_t>(__builtin_popcountll(both));
        out.agree += static_cast<uint64_t>(__builtin_popcountll(both & ~(negative_a[w] ^ negative_b[w])));
    }
    return out;
}

/// `count` is a multiple of kLanes.
[[gnu::always_inline]] inline void add_squares_body(const float* values, size_t count, double* lanes) {
    double sums[kLanes];
    std::memcpy(sums, lanes, sizeof(sums));
    for (size_t k = 0; k < count; k += kLanes)
        for (size_t c = 0; c < kLanes; ++c) {
            const double value = values[k + c];
            sums[c] += value * value;
        }
    std::memcpy(lanes, sums, sizeof(sums));
}

void products_any(const double* a, const double* b, size_t count, double* sums, double* absolutes) {
    products_body(a, b, count, sums, absolutes);
}
Agreement agreement_any(const uint64_t* negative_a, const uint64_t* set_a, const uint64_t* negative_b,
                        const uint64_t* set_b, size_t words) {
    return agreement_body(negative_a, set_a, negative_b, set_b, words);
}
void add_squares_any(const float* values, size_t count, double* lanes) {
    add_squares_body(values, count, lanes);
}
void signs_any(const float* values, size_t count, uint64_t* negative, uint64_t* set) {
    for (size_t from = 0; from < count; from += 64) {
        uint64_t signs = 0, others = 0;
        for (size_t k = from; k < count && k < from + 64; ++k) {
            const uint64_t bits = std::bit_cast<uint32_t>(values[k]);
            signs |= (bits >> 31) << (k - from);
            others |= uint64_t{(bits & 0x7fffffffU) != 0} << (k - from);
        }
        negative[from / 64] = signs;
        set[from / 64] = others;
    }
}

bool finite_any(const float* values, size_t count) {
    return finite_body(values, count);
}
bool sum_any(const float* a, const float* b, float* out, size_t count) {
    return sum_body(a, b, out, count);
}
bool shift_any(float* values, const float* base, float sign, size_t count) {
    return shift_body(values, base, sign, count);
}
void widen_codes_any(const std::byte* raw, float minimum, float step, float* out, size_t count) {
    widen_codes_body(raw, minimum, step, out, count);
}
void widen_bfloat_any(const std::byte* raw, float* out, size_t count) {
    widen_bfloat_body(raw, out, count);
}
void widen_half_any(const std::byte* raw, float* out, size_t count) {
    for (size_t k = 0; k < count; ++k) out[k] = from_half(load<uint16_t>(raw, k));
}

#ifdef BPH_WIDE
// No FMA: a fused product and sum would give other bits.
[[gnu::target("avx2")]] bool finite_wide(const float* values, size_t count) {
    return finite_body(values, count);
}
[[gnu::target("avx2")]] bool sum_wide(const float* a, const float* b, float* out, size_t count) {
    return sum_body(a, b, out, count);
}
[[gnu::target("avx2")]] bool shift_wide(float* values, const float* base, float sign, size_t count) {
    return shift_body(values, base, sign, count);
}
[[gnu::target("avx2")]] void widen_bfloat_wide(const std::byte* raw, float* out, size_t count) {
    widen_bfloat_body(raw, out, count);
}
[[gnu::target("avx2,f16c")]] void widen_half_wide(const std::byte* raw, float* out, size_t count) {
    size_t k = 0;
    for (; k + 8 <= count; k += 8)
        _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(raw + 2 * k))));
    widen_half_any(raw + 2 * k, out + k, count - k);
}
[[gnu::target("avx2")]] void widen_codes_wide(const std::byte* raw, float minimum, float step, float* out,
                                              size_t count) {
    widen_codes_body(raw, minimum, step, out, count);
}
[[gnu::target("avx2")]] void products_wide(const double* a, const double* b, size_t count, double* sums,
                                           double* absolutes) {
    products_body(a, b, count, sums, absolutes);
}
[[gnu::target("avx2,popcnt")]] Agreement agreement_wide(const uint64_t* negative_a, const uint64_t* set_a,
                                                        const uint64_t* negative_b, const uint64_t* set_b,
                                                        size_t words) {
    return agreement_body(negative_a, set_a, negative_b, set_b, words);
}
[[gnu::target("avx2")]] void add_squares_wide(const float* values, size_t count, double* lanes) {
    add_squares_body(values, count, lanes);
}
[[gnu::target("avx2")]] void signs_wide(const float* values, size_t count, uint64_t* negative, uint64_t* set) {
    const size_t whole = count / 64 * 64;
    for (size_t from = 0; from < whole; from += 64) {
        uint64_t signs = 0, others = 0;
        for (size_t k = 0; k < 64; k += 8) {
            const __m256 value = _mm256_loadu_ps(values + from + k);
            const __m256 other = _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_NEQ_UQ);
            signs |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(value))) << k;
            others |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(other))) << k;
        }
        negative[from / 64] = signs;
        set[from / 64] = others;
    }
    signs_any(values + whole, count - whole, negative + whole / 64, set + whole / 64);
}
const bool wide = __builtin_cpu_supports("avx2") != 0;
const bool wide_half = wide && [] {
    unsigned a = 0, b = 0, c = 0, d = 0;  // clang's __builtin_cpu_supports doesn't know "f16c"
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}();
#define BPH_DISPATCH(name, ...) (wide ? name##_wide(__VA_ARGS__) : name##_any(__VA_ARGS__))
#else
constexpr bool wide_half = false;
void widen_half_wide(const std::byte*, float*, size_t) {}
#define BPH_DISPATCH(name, ...) name##_any(__VA_ARGS__)
#endif

}  // namespace

void widen(DType dtype, const std::byte* raw, float* out, size_t count) {
    switch (dtype) {
        case DType::kF16:
            if (wide_half)
                widen_half_wide(raw, out, count);
            else
                widen_half_any(raw, out, count);
            return;
        case DType::kBF16: BPH_DISPATCH(widen_bfloat, raw, out, count); return;
        case DType::kF64:
            for (size_t k = 0; k < count; ++k) out[k] = static_cast<float>(load<double>(raw, k));
            return;
        default:
            if (count > 0) std::memcpy(out, raw, count * sizeof(float));  // of nothing there may be no place
            return;
    }
}

void widen_codes(const std::byte* raw, float minimum, float step, float* out, size_t count) {
    BPH_DISPATCH(widen_codes, raw, minimum, step, out, count);
}

void narrow(DType dtype, const float* values, std::byte* raw, size_t count) {
    auto store = [&](auto convert) {
        for (size_t k = 0; k < count; ++k) {
            const auto value = convert(values[k]);
            std::memcpy(raw + k * sizeof(value), &value, sizeof(value));
        }
    };
    switch (dtype) {
        case DType::kF16: store(to_half); return;
        case DType::kBF16: store(to_bfloat); return;
        case DType::kF64: store([](float value) { return static_cast<double>(value); }); return;
        default:
            if (count > 0) std::memcpy(raw, values, count * sizeof(float));
            return;
    }
}

bool narrow_is_finite(DType dtype, const std::byte* raw, size_t count) {
    const uint16_t exponent = dtype == DType::kF16 ? 0x7c00 : dtype == DType::kBF16 ? 0x7f80 : 0;
    if (exponent == 0) return true;  // as wide as float32
    uint32_t found = 0;
    for (size_t k = 0; k < count; ++k) found |= (load<uint16_t>(raw, k) & exponent) == exponent ? 1U : 0U;
    return found == 0;
}

bool finite(const float* values, size_t count) {
    return BPH_DISPATCH(finite, values, count);
}
bool subtract(float* values, const float* base, size_t count) {
    return BPH_DISPATCH(shift, values, base, -1.0F, count);
}
bool add(float* values, const float* base, size_t count) {
    return BPH_DISPATCH(shift, values, base, 1.0F, count);
}
bool sum(const float* a, const float* b, float* out, size_t count) {
    return BPH_DISPATCH(sum, a, b, out, count);
}

Products products(const double* a, const double* b, size_t count) {
    double sums[kLanes], absolutes[kLanes];
    BPH_DISPATCH(products, a, b, count, sums, absolutes);
    return {sum_of_lanes(sums), sum_of_lanes(absolutes)};
}
void signs(const float* values, size_t count, uint64_t* negative, uint64_t* set) {
    BPH_DISPATCH(signs, values, count, negative, set);
}
Agreement agreement(const uint64_t* negative_a, const uint64_t* set_a, const uint64_t* negative_b,
                    const uint64_t* set_b, size_t words) {
    return BPH_DISPATCH(agreement, negative_a, set_a, negative_b, set_b, words);
}
void add_squares(const float* values, size_t count, uint64_t first, double* lanes) {
    auto one = [&] {
        lanes[first++ % kLanes] += static_cast<double>(*values) * *values;
        ++values, --count;
    };
    while (count > 0 && first % kLanes != 0) one();
    const size_t whole = count / kLanes * kLanes;
    BPH_DISPATCH(add_squares, values, whole, lanes);
    values += whole, first += whole, count -= whole;
    while (count > 0) one();
}
double sum_of_lanes(const double* s) {
    return (((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))) +
           (((s[8] + s[9]) + (s[10] + s[11])) + ((s[12] + s[13]) + (s[14] + s[15])));
}

}  // namespace biophony::kernels
