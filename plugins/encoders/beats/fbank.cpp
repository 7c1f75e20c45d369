#include "fbank.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>

namespace biophony::beats {

namespace {

constexpr int kPoints = 512;        // of the real transform
constexpr int kHalf = 256;          // of the complex one that computes it
constexpr int kLanes = 8;           // frames that go through together, one per vector lane
constexpr float kFloor = 0x1p-23F;  // float32 epsilon
constexpr float kPreemphasis = 0.97F;

/// One value of each of the frames that are in work.
struct Lane {
    float at[kLanes];
};

/// (256) complex values of all lanes, real and imaginary part apart.
struct alignas(64) Spectrum {
    Lane re[kHalf], im[kHalf];
};

/// Forward complex FFT of 256 points, Stockham's autosort form with radix 4; `x` is overwritten, the result is in the
/// buffer that is returned. `cos`, `sin`: e^(-2 pi i k / 512).
const Spectrum* transform(Spectrum* x, Spectrum* y, const float* cos, const float* sin) {
    for (int length = kHalf, stride = 1; length > 1; length /= 4, stride *= 4) {
        const int quarter = length / 4;
        for (int p = 0; p < quarter; ++p) {
            const int turn = p * (kPoints / length);
            const float c1 = cos[turn], s1 = sin[turn];
            const float c2 = cos[2 * turn], s2 = sin[2 * turn];
            const float c3 = cos[3 * turn], s3 = sin[3 * turn];
            const int in = stride * p, step = stride * quarter, out = stride * 4 * p;
            for (int q = 0; q < stride; ++q) {
                const Lane *ar = &x->re[in + q], *ai = &x->im[in + q];
                const Lane *br = ar + step, *bi = ai + step;
                const Lane *cr = br + step, *ci = bi + step;
                const Lane *dr = cr + step, *di = ci + step;
                Lane *yr = &y->re[out + q], *yi = &y->im[out + q];
                for (int l = 0; l < kLanes; ++l) {
                    const float sum_ac_r = ar->at[l] + cr->at[l], sum_ac_i = ai->at[l] + ci->at[l];
                    const float dif_ac_r = ar->at[l] - cr->at[l], dif_ac_i = ai->at[l] - ci->at[l];
                    const float sum_bd_r = br->at[l] + dr->at[l], sum_bd_i = bi->at[l] + di->at[l];
                    const float dif_bd_r = br->at[l] - dr->at[l], dif_bd_i = bi->at[l] - di->at[l];
                    const float r1 = dif_ac_r + dif_bd_i, i1 = dif_ac_i - dif_bd_r;
                    const float r2 = sum_ac_r - sum_bd_r, i2 = sum_ac_i - sum_bd_i;
                    const float r3 = dif_ac_r - dif_bd_i, i3 = dif_ac_i + dif_bd_r;
                    yr[0].at[l] = sum_ac_r + sum_bd_r;
                    yi[0].at[l] = sum_ac_i + sum_bd_i;
                    yr[stride].at[l] = r1 * c1 - i1 * s1;
                    yi[stride].at[l] = r1 * s1 + i1 * c1;
                    yr[2 * stride].at[l] = r2 * c2 - i2 * s2;
                    yi[2 * stride].at[l] = r2 * s2 + i2 * c2;
                    yr[3 * stride].at[l] = r3 * c3 - i3 * s3;
                    yi[3 * stride].at[l] = r3 * s3 + i3 * c3;
                }
            }
        }
        std::swap(x, y);
    }
    return x;
}

/// |X[k]|^2 for k = 0..255 of the real transform, from the complex one of even samples + i odd samples.
void power_spectrum(const Spectrum& z, const float* cos, const float* sin, Lane* power) {
    for (int l = 0; l < kLanes; ++l) {
        const float sum = z.re[0].at[l] + z.im[0].at[l];
        power[0].at[l] = sum * sum;
    }
    for (int k = 1; k <= kHalf / 2; ++k) {
        const Lane &ar = z.re[k], &ai = z.im[k], &br = z.re[kHalf - k], &bi = z.im[kHalf - k];
        for (int l = 0; l < kLanes; ++l) {
            const float even_r = 0.5F * (ar.at[l] + br.at[l]), even_i = 0.5F * (ai.at[l] - bi.at[l]);
            const float odd_r = 0.5F * (ai.at[l] + bi.at[l]), odd_i = 0.5F * (br.at[l] - ar.at[l]);
            const float turned_r = odd_r * cos[k] - odd_i * sin[k], turned_i = odd_r * sin[k] + odd_i * cos[k];
            const float low_r = even_r + turned_r, low_i = even_i + turned_i;
            const float high_r = even_r - turned_r, high_i = even_i - turned_i;
            power[k].at[l] = low_r * low_r + low_i * low_i;
            power[kHalf - k].at[l] = high_r * high_r + high_i * high_i;
        }
    }
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

void FilterBank::compute(const float* wave, int64_t first, int64_t last, float mean, float divisor, float* out) const {
    Spectrum a, b;
    Lane power[kHalf];
    float centred[kLength], frame[kPoints] = {};  // the frame stays zero from 400 on
    for (int64_t block = first; block < last; block += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - block));
        for (int l = 0; l < kLanes; ++l) {
            // Lanes beyond the end repeat the last frame; nobody reads them.
            const float* samples = wave + (block + std::min(l, lanes - 1)) * kHop;
            double sums[4] = {};  // apart, so that they go on side by side
            for (int n = 0; n < kLength; n += 4)
                for (int i = 0; i < 4; ++i) sums[i] += samples[n + i];
            const auto offset = static_cast<float>((sums[0] + sums[1] + sums[2] + sums[3]) * 32768.0 / kLength);
            for (int n = 0; n < kLength; ++n) centred[n] = samples[n] * 32768.0F - offset;
            frame[0] = (centred[0] - kPreemphasis * centred[0]) * window_[0];
            for (int n = 1; n < kLength; ++n) frame[n] = (centred[n] - kPreemphasis * centred[n - 1]) * window_[n];
            for (int n = 0; n < kHalf; ++n) {
                a.re[n].at[l] = frame[2 * n];
                a.im[n].at[l] = frame[2 * n + 1];
            }
        }
        power_spectrum(*transform(&a, &b, cos_.data(), sin_.data()), cos_.data(), sin_.data(), power);
        float* rows = out + (block - first) * kMels;
        for (int m = 0; m < kMels; ++m) {
            Lane energy{};
            const Lane* bin = power + filters_[m].first;
            for (const float weight : filters_[m].weights) {
                for (int l = 0; l < kLanes; ++l) energy.at[l] += weight * bin->at[l];
                ++bin;
            }
            for (int l = 0; l < lanes; ++l) {
                // Written so that a NaN stays one.
                const float floored = energy.at[l] < kFloor ? kFloor : energy.at[l];
                rows[l * kMels + m] = (std::log(floored) - mean) / divisor;
            }
        }
    }
}

}  // namespace biophony::beats
