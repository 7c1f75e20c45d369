#include "fbank.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numbers>
#include <string_view>

namespace biophony::beats {

namespace {

constexpr int kPoints = 512;        // of the real transform
constexpr int kHalf = 256;          // of the complex one that computes it
constexpr int kGrid = 80;           // samples: frames begin at every second multiple, and are five long
constexpr float kFloor = 0x1p-23F;  // float32 epsilon
constexpr float kPreemphasis = 0.97F;

static_assert(FilterBank::kLength == 5 * kGrid && FilterBank::kHop == 2 * kGrid);

// All of the work is one function, compiled for four lanes, which every processor has, and for the eight of AVX2
// (below): what it calls is always inlined into it. The one for AVX2 has no fused multiply-add, so that both give the
// same bits.
#define BPH_INLINE [[gnu::always_inline]] inline

/// One value of each of the frames that go through together.
template <int kLanes>
struct Vectors;
template <>
struct Vectors<4> {
    using Lane = float __attribute__((vector_size(16)));
    using Whole = int32_t __attribute__((vector_size(16)));
};
template <>
struct Vectors<8> {
    using Lane = float __attribute__((vector_size(32)));
    using Whole = int32_t __attribute__((vector_size(32)));
};
template <int kLanes>
using LaneOf = typename Vectors<kLanes>::Lane;

/// (256) complex values of all lanes, real and imaginary part apart.
template <class Lane>
struct alignas(64) Spectrum {
    Lane re[kHalf], im[kHalf];
};

/// One pass of a forward complex FFT of 256 points, Stockham's autosort form with radix 4, from `x` to `y`. `cos`,
/// `sin`: e^(-2 pi i k / 512).
template <int length, int stride, class Lane>
BPH_INLINE void pass(const Spectrum<Lane>& x, Spectrum<Lane>& y, const float* cos, const float* sin) {
    constexpr int quarter = length / 4, step = stride * quarter;
    for (int p = 0; p < quarter; ++p) {
        const int turn = p * (kPoints / length), in = stride * p, out = stride * 4 * p;
        const float c1 = cos[turn], s1 = sin[turn];
        const float c2 = cos[2 * turn], s2 = sin[2 * turn];
        const float c3 = cos[3 * turn], s3 = sin[3 * turn];
        for (int q = 0; q < stride; ++q) {
            const Lane *ar = &x.re[in + q], *ai = &x.im[in + q];
            Lane *yr = &y.re[out + q], *yi = &y.im[out + q];
            const Lane sum_ac_r = ar[0] + ar[2 * step], sum_ac_i = ai[0] + ai[2 * step];
            const Lane dif_ac_r = ar[0] - ar[2 * step], dif_ac_i = ai[0] - ai[2 * step];
            const Lane sum_bd_r = ar[step] + ar[3 * step], sum_bd_i = ai[step] + ai[3 * step];
            const Lane dif_bd_r = ar[step] - ar[3 * step], dif_bd_i = ai[step] - ai[3 * step];
            const Lane r1 = dif_ac_r + dif_bd_i, i1 = dif_ac_i - dif_bd_r;
            const Lane r2 = sum_ac_r - sum_bd_r, i2 = sum_ac_i - sum_bd_i;
            const Lane r3 = dif_ac_r - dif_bd_i, i3 = dif_ac_i + dif_bd_r;
            yr[0] = sum_ac_r + sum_bd_r;
            yi[0] = sum_ac_i + sum_bd_i;
            if constexpr (quarter == 1) {  // nothing to turn
                yr[stride] = r1, yi[stride] = i1;
                yr[2 * stride] = r2, yi[2 * stride] = i2;
                yr[3 * stride] = r3, yi[3 * stride] = i3;
            } else {
                yr[stride] = r1 * c1 - i1 * s1;
                yi[stride] = r1 * s1 + i1 * c1;
                yr[2 * stride] = r2 * c2 - i2 * s2;
                yi[2 * stride] = r2 * s2 + i2 * c2;
                yr[3 * stride] = r3 * c3 - i3 * s3;
                yi[3 * stride] = r3 * s3 + i3 * c3;
            }
        }
    }
}

/// |X[k]|^2 for k = 0..255 of the real transform, from the complex one of even samples + i odd samples.
template <class Lane>
BPH_INLINE void power_spectrum(const Spectrum<Lane>& z, const float* cos, const float* sin, Lane* power) {
    const Lane sum = z.re[0] + z.im[0];
    power[0] = sum * sum;
    for (int k = 1; k <= kHalf / 2; ++k) {
        const Lane &ar = z.re[k], &ai = z.im[k], &br = z.re[kHalf - k], &bi = z.im[kHalf - k];
        const Lane even_r = 0.5F * (ar + br), even_i = 0.5F * (ai - bi);
        const Lane odd_r = 0.5F * (ai + bi), odd_i = 0.5F * (br - ar);
        const Lane turned_r = odd_r * cos[k] - odd_i * sin[k], turned_i = odd_r * sin[k] + odd_i * cos[k];
        const Lane low_r = even_r + turned_r, low_i = even_i + turned_i;
        const Lane high_r = even_r - turned_r, high_i = even_i - turned_i;
        power[k] = low_r * low_r + low_i * low_i;
        power[kHalf - k] = high_r * high_r + high_i * high_i;
    }
}

/// Rows and columns of as many vectors as each has values change places.
BPH_INLINE void transpose(LaneOf<4>* v) {
    LaneOf<4> a[4];
    for (int i = 0; i < 2; ++i) {
        a[i] = __builtin_shufflevector(v[i], v[i + 2], 0, 4, 1, 5);
        a[i + 2] = __builtin_shufflevector(v[i], v[i + 2], 2, 6, 3, 7);
    }
    for (int i = 0; i < 4; i += 2) {
        v[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 4, 1, 5);
        v[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 6, 3, 7);
    }
}
BPH_INLINE void transpose(LaneOf<8>* v) {
    using Lane = LaneOf<8>;
    Lane a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = i; j < i + 2; ++j) {
            b[j] = __builtin_shufflevector(a[j], a[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            b[j + 2] = __builtin_shufflevector(a[j], a[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int j = 0; j < 4; ++j) {
        v[j] = __builtin_shufflevector(b[j], b[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        v[j + 4] = __builtin_shufflevector(b[j], b[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/// `x` becomes its natural logarithm, of values from kFloor on, to about one unit in the last place: with x = m 2^e and
/// m around 1, e ln 2 + log(1 + f), the latter by the polynomial of Moshier's Cephes (logf). What is infinite or no
/// number stays so.
template <int kLanes>
BPH_INLINE void take_logarithm(LaneOf<kLanes>& x) {
    using Lane = LaneOf<kLanes>;
    using Whole = typename Vectors<kLanes>::Whole;
    Whole bits;
    std::memcpy(&bits, &x, sizeof bits);
    const Whole shifted = bits - 0x3F3504F3;  // sqrt(1/2): m is in [sqrt(1/2), sqrt(2))
    const Whole exponent = shifted >> 23;
    const Whole mantissa = (shifted & 0x007FFFFF) + 0x3F3504F3;
    Lane f;
    std::memcpy(&f, &mantissa, sizeof f);
    f = f - 1.0F;
    const Lane e = __builtin_convertvector(exponent, Lane);
    const Lane f2 = f * f;
    Lane p = 7.0376836292e-2F * f - 1.1514610310e-1F;
    p = p * f + 1.1676998740e-1F;
    p = p * f - 1.2420140846e-1F;
    p = p * f + 1.4249322787e-1F;
    p = p * f - 1.6668057665e-1F;
    p = p * f + 2.0000714765e-1F;
    p = p * f - 2.4999993993e-1F;
    p = p * f + 3.3333331174e-1F;
    const Lane small = p * f * f2 + e * -2.12194440e-4F - 0.5F * f2;
    const Lane log = f + small + e * 0.693359375F;
    x = x <= 0x1.fffffep127F ? log : x;
}

}  // namespace

FilterBank::FilterBank() : window_(kLength), cos_(kPoints), sin_(kPoints), filters_(kMels) {
    using std::numbers::pi;
    for (int n = 0; n < kLength; ++n)
        window_[n] = static_cast<float>(std::pow(0.5 - 0.5 * std::cos(2 * pi * n / (kLength - 1)), 0.85));
    for (int k = 0; k < kPoints; ++k) {
        cos_[k] = static_cast<float>(std::cos(2 * pi * k / kPoints));
        sin_[k] = static_cast<float>(-std::sin(2 * pi * k / kPoints));
    }
    // Float where the original is float, so that the feet of the triangles agree.
    const double low = 1127.0 * std::log(1.0 + 20.0 / 700.0), high = 1127.0 * std::log(1.0 + 8000.0 / 700.0);
    const double delta = (high - low) / (kMels + 1);
    for (int b = 0; b < kMels; ++b) {
        const auto left = static_cast<float>(low + b * delta);
        const auto centre = static_cast<float>(low + (b + 1) * delta);
        const auto right = static_cast<float>(low + (b + 2) * delta);
        Filter& filter = filters_[b];
        for (int k = 0; k < kHalf; ++k) {
            const float mel = 1127.0F * std::log(1.0F + 31.25F * static_cast<float>(k) / 700.0F);
            const float weight = std::min((mel - left) / (centre - left), (right - mel) / (right - centre));
            if (weight <= 0) continue;
            if (filter.weights.empty()) filter.first = k;
            filter.weights.push_back(weight);
        }
    }
}

struct FilterBank::Work {
    const FilterBank& bank;
    const float* wave;
    int64_t first, last;
    float mean, divisor;
    float* out;

    template <int kLanes>
    BPH_INLINE void run() const {
        using Lane = LaneOf<kLanes>;
        const float *cos = bank.cos_.data(), *sin = bank.sin_.data(), *window = bank.window_.data();
        Spectrum<Lane> a, b;
        Lane power[kHalf];
        alignas(64) float frames[kLanes][kLength];
        for (int64_t block = first; block < last; block += kLanes) {
            const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - block));
            // Sums over the grid, which the frames share.
            double sums[2 * kLanes + 3] = {};
            for (int g = 0; g < 2 * lanes + 3; ++g) {
                const float* samples = wave + block * kHop + int64_t{g} * kGrid;
                double parts[4] = {};  // apart, so that they go on side by side
                for (int n = 0; n < kGrid; n += 4)
                    for (int i = 0; i < 4; ++i) parts[i] += samples[n + i];
                sums[g] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
            }
            for (int l = 0; l < kLanes; ++l) {
                // Lanes beyond the end repeat the last frame; nobody reads them.
                const int at = std::min(l, lanes - 1);
                const float* samples = wave + (block + at) * kHop;
                const double* sum = sums + int64_t{2} * at;
                const auto offset =
                    static_cast<float>((((sum[0] + sum[1]) + (sum[2] + sum[3])) + sum[4]) * 32768.0 / kLength);
                const float start = samples[0] * 32768.0F - offset;
                frames[l][0] = (start - kPreemphasis * start) * window[0];
                for (int n = 1; n < kLength; ++n)
                    frames[l][n] =
                        ((samples[n] * 32768.0F - offset) - kPreemphasis * (samples[n - 1] * 32768.0F - offset)) *
                        window[n];
            }
            for (int n = 0; n < kLength; n += kLanes) {
                Lane columns[kLanes];
                for (int l = 0; l < kLanes; ++l) std::memcpy(&columns[l], &frames[l][n], sizeof(Lane));
                transpose(columns);
                for (int i = 0; i < kLanes / 2; ++i) {
                    a.re[n / 2 + i] = columns[2 * i];
                    a.im[n / 2 + i] = columns[2 * i + 1];
                }
            }
            for (int n = kLength / 2; n < kHalf; ++n) a.re[n] = a.im[n] = Lane{};
            pass<256, 1>(a, b, cos, sin);
            pass<64, 4>(b, a, cos, sin);
            pass<16, 16>(a, b, cos, sin);
            pass<4, 64>(b, a, cos, sin);
            power_spectrum(a, cos, sin, power);
            float* rows = out + (block - first) * kMels;
            for (int m = 0; m < kMels; m += kLanes) {
                Lane values[kLanes];
                for (int i = 0; i < kLanes; ++i) {
                    const Filter& filter = bank.filters_[m + i];
                    const Lane* bin = power + filter.first;
                    Lane energy{};
                    for (const float weight : filter.weights) energy = energy + weight * *bin++;
                    // Written so that a NaN stays one.
                    values[i] = energy < kFloor ? Lane{} + kFloor : energy;
                    take_logarithm<kLanes>(values[i]);
                    values[i] = (values[i] - mean) / divisor;
                }
                transpose(values);
                for (int l = 0; l < lanes; ++l) std::memcpy(rows + int64_t{l} * kMels + m, &values[l], sizeof(Lane));
            }
        }
    }

    void plain() const { run<4>(); }
#ifdef __x86_64__
    [[gnu::target("avx2")]] void avx2() const {
        run<8>();
    }
#endif
};

void FilterBank::compute(const float* wave, int64_t first, int64_t last, float mean, float divisor, float* out) const {
    const Work work{*this, wave, first, last, mean, divisor, out};
#ifdef __x86_64__
    static const bool kAvx2 = [] {
        const char* wanted = std::getenv("BIOPHONY_VECTORS");  // "plain" for tests, as in ../kernels.hpp
        return __builtin_cpu_supports("avx2") != 0 && (wanted == nullptr || std::string_view(wanted) != "plain");
    }();
    if (kAvx2) return work.avx2();
#endif
    work.plain();
}

}  // namespace biophony::beats
