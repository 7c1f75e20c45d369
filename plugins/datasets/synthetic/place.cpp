#include "place.hpp"

#include <algorithm>
#include <cmath>

namespace scenes {

void Biquad::run(std::vector<float>& x) const {
    float s1 = 0, s2 = 0;  // transposed direct form II
    for (float& v : x) {
        const float y = b0 * v + s1;
        s1 = b1 * v - a1 * y + s2 + 1e-20F;  // kept from subnormal numbers, which are slow
        s2 = b2 * v - a2 * y;
        v = y;
    }
}

namespace {

Biquad normalised(double b0, double b1, double b2, double a0, double a1, double a2) {
    return {static_cast<float>(b0 / a0), static_cast<float>(b1 / a0), static_cast<float>(b2 / a0),
            static_cast<float>(a1 / a0), static_cast<float>(a2 / a0)};
}

}  // namespace

Biquad low_pass(double hz, double q) {
    const double w = 2 * kPi * std::min(hz, 0.49 * kRate) / kRate, c = std::cos(w), alpha = std::sin(w) / (2 * q);
    return normalised((1 - c) / 2, 1 - c, (1 - c) / 2, 1 + alpha, -2 * c, 1 - alpha);
}

Biquad high_pass(double hz, double q) {
    const double w = 2 * kPi * hz / kRate, c = std::cos(w), alpha = std::sin(w) / (2 * q);
    return normalised((1 + c) / 2, -(1 + c), (1 + c) / 2, 1 + alpha, -2 * c, 1 - alpha);
}

Biquad peak(double hz, double q, double db) {
    const double w = 2 * kPi * std::min(hz, 0.45 * kRate) / kRate, c = std::cos(w), alpha = std::sin(w) / (2 * q);
    const double a = std::pow(10, db / 40);
    return normalised(1 + alpha * a, -2 * c, 1 - alpha * a, 1 + alpha / a, -2 * c, 1 - alpha / a);
}

Place draw_place(double low_db, double high_db, double varied, Random& random) {
    Place it;
    // The nearer, the louder over the background, the brighter, and the less of it is echo.
    const double near = random.uniform();
    it.snr_db = low_db + near * (high_db - low_db);
    const double cutoff = 2500 * std::exp2(1.7 * std::clamp(near + random.uniform(-0.3, 0.3), 0.0, 1.0));
    it.distance = {low_pass(cutoff, 0.6)};
    it.wet = (1 - near) * random.uniform(0.05, 0.35) * (0.5 + varied);
    const double reverberation = random.scale(0.1, 0.4 + 1.1 * varied);  // seconds to -60 dB
    for (size_t i = 0; i < it.delays.size(); ++i) {
        it.delays[i] = 230 + 170 * static_cast<int>(i) + random.below(160);
        it.feedback[i] = static_cast<float>(std::pow(10.0, -3 * it.delays[i] / kRate / reverberation));
    }
    it.noise_level = std::pow(10.0, random.uniform(-44 - 10 * varied, -34 + 8 * varied) / 20);

    it.recorder.push_back(high_pass(random.scale(20, 60 + 300 * varied), 0.7));
    const int bumps = 1 + random.below(3);
    for (int i = 0; i < bumps; ++i)
        it.recorder.push_back(
            peak(random.scale(150, 7000), random.scale(0.4, 2.5), random.normal() * (1.5 + 4.5 * varied)));
    // A file that was made at a lower rate, or coded: a steep edge (Butterworth, sixth order).
    if (random.chance(0.4 * varied)) {
        const double edge = random.scale(3000, 7500);
        for (const double q : {0.518, 0.707, 1.932}) it.recorder.push_back(low_pass(edge, q));
    }

    it.slope = random.uniform();
    it.hum_hz = random.scale(50, 500);
    it.hum = random.chance(0.3) ? random.uniform(0.05, 0.4) : 0;
    it.wind = random.chance(0.3) ? random.uniform(0.2, 1.5) : 0;
    it.wind_hz = random.uniform(0.2, 1.5);
    it.rain = random.chance(0.2) ? random.uniform(0.2, 1) : 0;
    it.rain_rate = random.scale(20, 400);
    it.chorus = random.chance(0.35) ? random.uniform(0.1, 0.9) : 0;
    it.chorus_hz = random.scale(2000, 7000);
    it.chorus_rate = random.scale(3, 60);
    it.neighbour_db = random.uniform(-18, -4);
    return it;
}

void travel(std::vector<float>& calls, const Place& place) {
    for (const Biquad& filter : place.distance) filter.run(calls);
    if (place.wet <= 0) return;
    // Parallel loops with unlike delays (Schroeder 1962).
    std::array<std::vector<float>, 4> lines;
    std::array<size_t, 4> at{};
    for (size_t i = 0; i < lines.size(); ++i) lines[i].assign(static_cast<size_t>(place.delays[i]), 0.0F);
    const auto wet = static_cast<float>(place.wet);
    for (float& x : calls) {
        float echo = 0;
        for (size_t i = 0; i < lines.size(); ++i) {
            float& slot = lines[i][at[i]];
            echo += i % 2 == 0 ? slot : -slot;
            slot = x + place.feedback[i] * slot + 1e-20F;
            if (++at[i] == lines[i].size()) at[i] = 0;
        }
        x += wet * echo;
    }
}

std::vector<float> background(size_t frames, const Place& place, Random& random) {
    std::vector<float> out(frames);
    // Between white and brown: a sum of white noise and of noise through two slow poles.
    const auto slope = static_cast<float>(place.slope);
    const double pole_1 = std::exp(-2 * kPi * 40 / kRate), pole_2 = std::exp(-2 * kPi * 600 / kRate);
    const auto gain_1 = static_cast<float>(std::sqrt(1 - pole_1 * pole_1)) * slope * slope;
    const auto gain_2 = static_cast<float>(std::sqrt(1 - pole_2 * pole_2)) * slope;
    const float white_gain = 1.02F - slope;
    const auto wind = static_cast<float>(place.wind), chorus = static_cast<float>(place.chorus);
    float low_1 = 0, low_2 = 0, band_low = 0, band = 0, gust = 0, pulse = 0;
    const auto band_f = static_cast<float>(2 * std::sin(kPi * place.chorus_hz / (3 * kRate)));
    const double gust_phase = random.uniform(0, 2 * kPi), pulse_phase = random.uniform(0, 2 * kPi);
    const double hum_phase = random.uniform(0, 2 * kPi);
    for (size_t i = 0; i < frames; ++i) {
        const double t = static_cast<double>(i) / kRate;
        if ((i & 15) == 0) {  // these change slowly
            gust = static_cast<float>(std::pow(0.5 + 0.5 * std::sin(2 * kPi * place.wind_hz * t + gust_phase), 2.0));
            pulse = static_cast<float>(0.55 + 0.45 * std::sin(2 * kPi * place.chorus_rate * t + pulse_phase));
        }
        const float white = random.noise();
        low_1 = static_cast<float>(pole_1) * low_1 + white;
        low_2 = static_cast<float>(pole_2) * low_2 + white;
        float value =
            white_gain * white + (gain_1 * (1 + 3 * wind * gust) + wind * gust * 0.05F) * low_1 + gain_2 * low_2;
        if (chorus > 0) {
            for (int pass = 0; pass < 3; ++pass) {
                band_low += band_f * band;
                band += band_f * (white - band_low - 0.15F * band);
            }
            value += chorus * pulse * 0.6F * band;
        }
        if (place.hum > 0) value += static_cast<float>(place.hum * std::sin(2 * kPi * place.hum_hz * t + hum_phase));
        out[i] = value;
    }
    if (place.rain > 0) {
        const double drops = place.rain_rate * static_cast<double>(frames) / kRate;
        for (int d = 0; d < static_cast<int>(drops); ++d) {
            const auto begin = static_cast<size_t>(random.uniform() * static_cast<double>(frames));
            const double hz = random.scale(500, 6500), level = place.rain * random.scale(0.3, 4);
            const size_t length = 24 + static_cast<size_t>(random.below(100));
            for (size_t i = 0; i < length && begin + i < frames; ++i)
                out[begin + i] +=
                    static_cast<float>(level * std::exp(-6.0 * static_cast<double>(i) / static_cast<double>(length)) *
                                       std::sin(2 * kPi * hz * static_cast<double>(i) / kRate));
        }
    }
    return out;
}

double sounding_level(const std::vector<float>& x) {
    float peak = 0;
    for (const float v : x) peak = std::max(peak, std::abs(v));
    double power = 0;
    size_t count = 0;
    for (const float v : x)
        if (std::abs(v) > 0.05F * peak) power += static_cast<double>(v) * v, ++count;
    return count == 0 ? 0 : std::sqrt(power / static_cast<double>(count));
}

}  // namespace scenes
