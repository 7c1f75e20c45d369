#include "ambience.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace scenes {

namespace {

/// A level that wanders between 0 and 1, about `hz` times a second: cosines between random points.
std::vector<float> wander(size_t frames, double hz, Random& random) {
    const double step = kRate / hz;
    std::vector<float> out(frames);
    double from = random.uniform(), to = random.uniform(), at = random.uniform() * step;
    for (float& v : out) {
        if (at >= step) {
            at -= step;
            from = to;
            to = random.uniform();
        }
        v = static_cast<float>(from + (to - from) * (0.5 - 0.5 * std::cos(kPi * at / step)));
        at += 1;
    }
    return out;
}

std::vector<float> white(size_t frames, Random& random) {
    std::vector<float> out(frames);
    for (float& v : out) v = random.noise();
    return out;
}

/// Adds `part` at a root mean square of `level`.
void add(std::vector<float>& out, const std::vector<float>& part, double level) {
    double power = 0;
    for (const float v : part) power += static_cast<double>(v) * v;
    if (power <= 0) return;
    const auto gain = static_cast<float>(level / std::sqrt(power / static_cast<double>(part.size())));
    for (size_t i = 0; i < out.size(); ++i) out[i] += gain * part[i];
}

/// Calls event(first frame) at random times, `rate` a second on average (a Poisson process).
template <class Event>
void scatter(size_t frames, double rate, Random& random, Event&& event) {
    for (double at = 0;;) {
        at += -std::log(1 - random.uniform()) * kRate / rate;
        if (at >= static_cast<double>(frames)) return;
        event(static_cast<size_t>(at));
    }
}

/// Adds a tone that dies away: `octaves` is how far it rises within `seconds`, when it is at a thousandth.
void ping(std::vector<float>& out, size_t first, double hz, double octaves, double seconds, double level) {
    const auto length = static_cast<size_t>(seconds * kRate);
    double phase = 0;
    for (size_t i = 0; i < length && first + i < out.size(); ++i) {
        const double share = static_cast<double>(i) / static_cast<double>(length);
        phase += 2 * kPi * hz * std::exp2(octaves * share) / kRate;
        out[first + i] += static_cast<float>(level * std::exp(-6.9 * share) * std::sin(phase));
    }
}

std::vector<float> bed(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out(frames);
    const auto slope = static_cast<float>(place.slope);
    const auto pole_1 = static_cast<float>(std::exp(-2 * kPi * 40 / kRate));
    const auto pole_2 = static_cast<float>(std::exp(-2 * kPi * 600 / kRate));
    const float gain_1 = std::sqrt(1 - pole_1 * pole_1) * slope * slope,
                gain_2 = std::sqrt(1 - pole_2 * pole_2) * slope;
    float low_1 = 0, low_2 = 0;
    for (float& v : out) {
        const float x = random.noise();
        low_1 = pole_1 * low_1 + x;
        low_2 = pole_2 * low_2 + x;
        v = (1.02F - slope) * x + gain_1 * low_1 + gain_2 * low_2;
    }
    for (const Biquad& filter : place.colour) filter.run(out);
    return out;
}

std::vector<float> rain(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out = white(frames, random);  // the many far drops
    high_pass(place.rain_low, 0.6).run(out);
    for (float& v : out) v *= 0.15F;
    scatter(frames, place.rain_rate, random, [&](size_t at) {
        ping(out, at, random.scale(place.rain_low, place.rain_high), 0, random.scale(0.002, 0.015),
             random.scale(0.2, 6));
    });
    return out;
}

std::vector<float> wind(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out = white(frames, random);
    low_pass(place.wind_cutoff, 0.6).run(out);
    low_pass(place.wind_cutoff, 0.6).run(out);
    std::vector<float> whistling = white(frames, random);
    high_pass(4 * place.wind_cutoff, 6).run(whistling);
    low_pass(4 * place.wind_cutoff, 6).run(whistling);
    const std::vector<float> gust = wander(frames, place.wind_hz, random);
    const auto whistle = static_cast<float>(0.03 * place.whistle);
    for (size_t i = 0; i < frames; ++i) out[i] = gust[i] * gust[i] * (out[i] + whistle * gust[i] * whistling[i]);
    return out;
}

std::vector<float> leaves(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out = white(frames, random);
    high_pass(0.5 * place.leaves_hz, 0.7).run(out);
    low_pass(2 * place.leaves_hz, 0.7).run(out);
    std::vector<float> envelope(frames, 0.05F);
    scatter(frames, place.leaves_rate, random, [&](size_t at) {
        const auto length = static_cast<size_t>(random.scale(0.02, 0.4) * kRate);
        const double level = random.scale(0.2, 2);
        for (size_t i = 0; i < length && at + i < frames; ++i) {
            const double arch = std::sin(kPi * static_cast<double>(i) / static_cast<double>(length));
            envelope[at + i] += static_cast<float>(level * arch * arch);
        }
    });
    for (size_t i = 0; i < frames; ++i) out[i] *= envelope[i];
    return out;
}

std::vector<float> water(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out = white(frames, random);
    low_pass(2 * place.water_hz, 0.6).run(out);
    for (float& v : out) v *= 0.05F;
    scatter(frames, place.water_rate, random, [&](size_t at) {
        ping(out, at, place.water_hz * std::exp2(random.normal() * 0.6), random.uniform(0, 0.6),
             random.scale(0.01, 0.08), random.scale(0.05, 1));
    });
    return out;
}

std::vector<float> machine(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out(frames);
    const std::vector<float> load = wander(frames, 0.4, random);
    for (const Ambience::Tone& tone : place.partials) {
        double phase = tone.phase + random.uniform(0, 2 * kPi);
        for (size_t i = 0; i < frames; ++i) {
            phase += 2 * kPi * tone.hz * (1 + 0.004 * (load[i] - 0.5F)) / kRate;
            out[i] += static_cast<float>(tone.level * std::sin(phase));
        }
    }
    const double phase = random.uniform(0, 2 * kPi);
    for (size_t i = 0; i < frames; ++i)
        out[i] *= static_cast<float>(
            1 + place.machine_am * std::sin(2 * kPi * place.machine_am_hz * static_cast<double>(i) / kRate + phase));
    return out;
}

std::vector<float> traffic(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out = white(frames, random);
    low_pass(place.traffic_cutoff, 0.8).run(out);
    high_pass(30, 0.7).run(out);
    const std::vector<float> near = wander(frames, place.traffic_rate, random);
    for (size_t i = 0; i < frames; ++i) out[i] *= 0.2F + near[i];
    return out;
}

std::vector<float> crackle(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out(frames);
    scatter(frames, place.crackle_rate, random, [&](size_t at) {
        // A few loud ones among many faint ones.
        const double level = std::min(20.0, 0.3 / std::sqrt(1 - random.uniform()));
        ping(out, at, place.crackle_hz * std::exp2(random.uniform(-1.5, 1)), -1, random.scale(0.001, 0.006), level);
    });
    return out;
}

std::vector<float> whine(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out(frames);
    const std::vector<float> drift = wander(frames, 0.7, random);
    double phase = random.uniform(0, 2 * kPi);
    const double beat = random.uniform(0, 2 * kPi);
    for (size_t i = 0; i < frames; ++i) {
        phase += 2 * kPi * place.whine_hz * (1 + place.whine_drift * (drift[i] - 0.5F)) / kRate;
        out[i] = static_cast<float>(
            (1 + 0.5 * std::sin(2 * kPi * place.whine_am_hz * static_cast<double>(i) / kRate + beat)) *
            std::sin(phase));
    }
    return out;
}

std::vector<float> knocks(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out(frames);
    scatter(frames, place.knocks_rate, random, [&](size_t at) {
        const double level = random.scale(0.3, 3), hz = place.knocks_hz * random.scale(0.7, 1.4);
        ping(out, at, hz, -0.5, random.scale(0.03, 0.2), level);
        ping(out, at, 4.3 * hz, 0, random.scale(0.005, 0.03), 0.5 * level);
    });
    return out;
}

}  // namespace

Ambience draw_ambience(double varied, Random& random) {
    Ambience it;
    it.slope = random.uniform();
    const int bumps = 1 + random.below(4);
    for (int i = 0; i < bumps; ++i)
        it.colour.push_back(peak(random.scale(100, 7000), random.scale(0.3, 3), random.normal() * 7));
    it.level = std::pow(10.0, random.uniform(-46 - 12 * varied, -32 + 10 * varied) / 20);

    // Parameters are drawn whether a source is there or not, so that one of them is drawn like any other.
    it.rain_rate = random.scale(30, 1500);
    it.rain_low = random.scale(300, 1500);
    it.rain_high = random.scale(3000, 7500);
    it.wind_hz = random.scale(0.3, 3);
    it.wind_cutoff = random.scale(80, 700);
    it.whistle = random.chance(0.3) ? random.uniform(0.3, 1) : 0;
    it.leaves_rate = random.scale(1, 25);
    it.leaves_hz = random.scale(1200, 5000);
    it.water_rate = random.scale(40, 600);
    it.water_hz = random.scale(300, 2200);
    const double mains = random.chance(0.5) ? (random.chance(0.5) ? 50 : 60) : random.scale(35, 400);
    const int partials = 1 + random.below(14);
    const double fall = random.uniform(0.2, 1.5);
    for (int k = 1; k <= partials && k * mains < 7800; ++k)
        it.partials.push_back({k * mains, std::pow(k, -fall) * random.scale(0.2, 1), random.uniform(0, 2 * kPi)});
    it.machine_am = random.chance(0.5) ? random.uniform(0.1, 0.9) : 0;
    it.machine_am_hz = random.scale(0.5, 25);
    it.traffic_cutoff = random.scale(150, 1200);
    it.traffic_rate = random.scale(0.15, 1);
    it.crackle_rate = random.scale(2, 150);
    it.crackle_hz = random.scale(900, 5000);
    it.whine_hz = random.scale(700, 7600);
    it.whine_am_hz = random.scale(0.5, 100);
    it.whine_drift = random.chance(0.5) ? random.scale(0.001, 0.05) : 0;
    it.knocks_rate = random.scale(0.4, 3);
    it.knocks_hz = random.scale(60, 400);

    std::array<double*, 9> sources = {&it.rain,    &it.wind,    &it.leaves, &it.water, &it.machine,
                                      &it.traffic, &it.crackle, &it.whine,  &it.knocks};
    const int count = 1 + random.below(3);
    for (int i = 0; i < count; ++i) {
        const auto left = static_cast<int>(sources.size()) - i;
        std::swap(sources[static_cast<size_t>(i)], sources[static_cast<size_t>(i + random.below(left))]);
        // The one in front over the bed, the others about as loud as it.
        *sources[static_cast<size_t>(i)] =
            std::pow(10.0, (i == 0 ? random.uniform(0, 14) : random.uniform(-10, 6)) / 20);
    }
    return it;
}

std::vector<float> ambience(size_t frames, const Ambience& place, Random& random) {
    std::vector<float> out(frames);
    add(out, bed(frames, place, random), 1);
    const auto source = [&](double level, auto make) {
        if (level > 0) add(out, make(frames, place, random), level);
    };
    source(place.rain, rain);
    source(place.wind, wind);
    source(place.leaves, leaves);
    source(place.water, water);
    source(place.machine, machine);
    source(place.traffic, traffic);
    source(place.crackle, crackle);
    source(place.whine, whine);
    source(place.knocks, knocks);
    return out;
}

}  // namespace scenes
