#include "voice.hpp"

#include <algorithm>
#include <cmath>

namespace scenes {

namespace {

/// A period of a sum of partials, so that a syllable costs one look-up per sample however many partials it has.
class Wave {
public:
    static constexpr int kSize = 1024;
    Wave(const std::vector<double>& partials, size_t count, double timbre) {
        for (int i = 0; i <= kSize; ++i) {
            double value = 0;
            for (size_t h = 0; h < std::max<size_t>(1, std::min(count, partials.size())); ++h)
                value += partials[h] * (h == 0 ? 1 : timbre) *
                         sine()[static_cast<size_t>((static_cast<int>(h + 1) * i) % kSize)];
            table_[static_cast<size_t>(i)] = static_cast<float>(value);
        }
    }
    /// `phase` in periods, 0 … 1.
    float at(double phase) const {
        const double x = phase * kSize;
        const auto i = static_cast<size_t>(x);
        const auto f = static_cast<float>(x - static_cast<double>(i));
        return table_[i] + f * (table_[i + 1] - table_[i]);
    }

private:
    static const std::array<double, kSize>& sine() {
        static const std::array<double, kSize> table = [] {
            std::array<double, kSize> t{};
            for (int i = 0; i < kSize; ++i) t[static_cast<size_t>(i)] = std::sin(2 * kPi * i / kSize);
            return t;
        }();
        return table;
    }
    std::array<float, kSize + 1> table_{};
};

/// The waves of one voice by how many partials fit below the Nyquist frequency.
class Waves {
public:
    Waves(const std::vector<double>& partials, double timbre) : partials_(partials), timbre_(timbre) {}
    const Wave& below(double highest_hz) {
        const auto fits = static_cast<size_t>(std::max(1.0, 0.47 * kRate / highest_hz));
        const size_t count = std::min(fits, partials_.size());
        for (const auto& [n, wave] : known_)
            if (n == count) return wave;
        known_.emplace_back(count, Wave(partials_, count, timbre_));
        return known_.back().second;
    }

private:
    const std::vector<double>& partials_;
    double timbre_;
    std::vector<std::pair<size_t, Wave>> known_;
};

/// Adds one syllable that begins at sample `at`; what would sound after the end of `out` is cut. Pitch and band are
/// set anew every kStep samples.
void sing_syllable(std::vector<float>& out, double at, const Syllable& s, double carrier, Waves& waves, double level,
                   Random& random) {
    constexpr int64_t kStep = 16;
    const double length = s.seconds * kRate;
    const auto begin = static_cast<int64_t>(std::ceil(at));
    const auto end = std::min<int64_t>(static_cast<int64_t>(out.size()), static_cast<int64_t>(at + length));
    if (begin < 0 || begin >= end) return;
    const double highest = carrier * std::exp2(s.octaves + std::abs(s.sweep) / 2 + std::abs(s.bend) / 2 + s.vibrato);
    const Wave& wave = waves.below(highest);
    double phase = 0;
    float low = 0, band = 0, low_2 = 0, band_2 = 0;  // of the noise's two state-variable filters (Chamberlin 1980)
    for (int64_t first = begin; first < end; first += kStep) {
        const double x0 = (static_cast<double>(first) - at) / length;
        double octaves = s.octaves + s.sweep * (x0 - 0.5) + s.bend * (4 * x0 * (1 - x0) - 0.5);
        if (s.vibrato > 0) octaves += s.vibrato * std::sin(2 * kPi * s.vibrato_hz * x0 * s.seconds);
        const double hz = std::min(carrier * std::exp2(octaves), 0.47 * kRate);
        const double advance = hz / kRate;
        const auto f = static_cast<float>(2 * std::sin(kPi * hz / (3 * kRate)));
        const auto q = static_cast<float>(std::clamp(s.bandwidth, 0.05, 1.8));
        const float tone = static_cast<float>(1 - s.noise), hiss = static_cast<float>(s.noise) * std::sqrt(q) * 2.2F;
        for (int64_t i = first; i < std::min(end, first + kStep); ++i) {
            const double x = (static_cast<double>(i) - at) / length;
            double envelope = x < s.attack ? x / s.attack : (1 - x) / (1 - s.attack);
            if (s.decay > 0 && x >= s.attack)
                envelope = std::exp(-s.decay * (x - s.attack) / (1 - s.attack)) * std::min(1.0, 20 * (1 - x));
            else
                envelope = envelope * envelope * (3 - 2 * envelope);
            if (s.tremolo > 0)
                envelope *= 1 - s.tremolo * (0.5 + 0.5 * std::cos(2 * kPi * s.tremolo_hz * x * s.seconds));
            phase += advance;
            phase -= std::floor(phase);
            float value = tone * wave.at(phase);
            if (hiss > 0) {
                // Three passes a sample: the filter is stable and in tune up to a sixth of its rate.
                const float white = random.noise();
                for (int pass = 0; pass < 3; ++pass) {
                    low += f * band;
                    band += f * (white - low - q * band);
                    low_2 += f * band_2;
                    band_2 += f * (q * band - low_2 - q * band_2);
                }
                value += hiss * band_2;
            }
            out[static_cast<size_t>(i)] += static_cast<float>(level * s.level * envelope) * value;
        }
    }
}

void sing_voice(std::vector<float>& out, const Voice& voice, const Individual& individual, double at, double seconds,
                double level, Random& random) {
    Waves waves(voice.partials, individual.timbre);
    const double carrier = voice.carrier * individual.pitch * std::exp2(0.01 * random.normal());
    const double rate = voice.rate * individual.rate;
    size_t n = 0;
    for (double t = at; t < at + seconds && t * kRate < static_cast<double>(out.size()); ++n) {
        const double x = std::min(1.0, (t - at) / seconds);
        Syllable syllable = voice.syllables[n % voice.syllables.size()];
        syllable.seconds /= individual.rate;
        const double arch = voice.swell > 0   ? 0.35 + 0.65 * x * voice.swell
                            : voice.swell < 0 ? 1 + 0.65 * voice.swell * x
                                              : 0.6 + 0.4 * std::sin(kPi * x);
        sing_syllable(out, t * kRate, syllable, carrier, waves, level * arch * std::exp2(0.1 * random.normal()),
                      random);
        t += 1 / (rate * std::exp2(voice.hurry * (x - 0.5))) * std::exp2(0.02 * random.normal());
    }
}

// ---- what there is to sing ------------------------------------------------------------------------------------------

/// Partials that fall by `slope` dB per octave, with up to two resonances (Hz) in between.
std::vector<double> stack(double f0, int count, double slope, Random& random) {
    std::vector<double> out;
    const double first = random.scale(300, 3000), second = random.scale(1000, 6000), sharp = random.uniform(1, 5);
    const double strength = random.uniform(0, 12);
    const bool odd = random.chance(0.15);
    for (int h = 1; h <= count; ++h) {
        const double hz = f0 * h;
        const auto bump = [&](double centre) { return std::exp(-std::pow(sharp * std::log2(hz / centre), 2)); };
        const double db = -slope * std::log2(h) + strength * (bump(first) + 0.7 * bump(second));
        out.push_back(odd && h % 2 == 0 ? 0 : std::pow(10, db / 20));
    }
    const double top = *std::max_element(out.begin(), out.end());
    for (double& level : out) level /= top;
    return out;
}

/// A train of decaying pulses: most frogs, many crickets.
Voice pulses(double carrier, double rate, Random& random) {
    Voice v{.carrier = carrier, .rate = rate};
    v.partials = {1, random.uniform(0.02, 0.5), random.uniform(0, 0.2)};
    const double period = 1 / rate;
    v.syllables = {{.sweep = random.uniform(-0.15, 0.2),
                    .seconds = period * random.uniform(0.45, 0.9),
                    .attack = random.uniform(0.04, 0.3),
                    .decay = random.uniform(1.5, 5)}};
    if (random.chance(0.2)) {  // every second pulse another note
        v.syllables.push_back(v.syllables[0]);
        v.syllables[1].octaves = random.uniform(-0.5, 0.5);
        v.syllables[1].level = random.uniform(0.4, 1);
    }
    v.hurry = random.chance(0.3) ? random.uniform(-0.7, 0.7) : 0;
    v.call_seconds = random.scale(0.12, 1.6);
    v.gap_seconds = random.scale(0.15, 1.2);
    return v;
}

/// Chirps or a trill of an almost pure tone.
Voice trill(double carrier, double rate, Random& random) {
    Voice v{.carrier = carrier, .rate = rate};
    v.partials = {1, 0.02};
    v.syllables = {{.sweep = random.uniform(-0.06, 0.02),
                    .seconds = random.uniform(0.5, 0.8) / rate,
                    .attack = random.uniform(0.2, 0.5)}};
    v.call_seconds = random.chance(0.3) ? 20 : std::max(2.2 / rate, random.scale(0.08, 0.8));
    v.gap_seconds = random.scale(0.1, 0.7);
    return v;
}

/// Stridulation: band noise in pulses, in groups or without end.
Voice buzz(double carrier, double rate, Random& random) {
    Voice v{.carrier = carrier, .rate = rate};
    v.syllables = {{.seconds = random.uniform(0.4, 0.95) / rate,
                    .attack = random.uniform(0.05, 0.6),
                    .decay = random.chance(0.5) ? random.uniform(1, 4) : 0,
                    .noise = random.uniform(0.6, 1),
                    .bandwidth = random.scale(0.08, 1.2)}};
    v.swell = random.chance(0.4) ? random.uniform(-1, 1) : 0;
    v.call_seconds = random.chance(0.35) ? 20 : random.scale(0.1, 1.8);
    v.gap_seconds = random.scale(0.1, 0.9);
    return v;
}

/// A phrase of one to four kinds of sweeping syllables.
Voice phrase(double carrier, double rate, Random& random) {
    Voice v{.carrier = carrier, .rate = rate};
    v.partials = {1, random.uniform(0, 0.2), random.uniform(0, 0.06)};
    const int kinds = 1 + random.below(4);
    for (int k = 0; k < kinds; ++k)
        v.syllables.push_back({.octaves = random.uniform(-0.35, 0.35),
                               .sweep = random.uniform(-0.8, 0.8),
                               .bend = random.uniform(-0.5, 0.5),
                               .seconds = random.uniform(0.35, 0.9) / rate,
                               .attack = random.uniform(0.1, 0.5),
                               .vibrato_hz = random.scale(12, 60),
                               .vibrato = random.chance(0.35) ? random.uniform(0.04, 0.25) : 0,
                               .tremolo_hz = random.scale(20, 120),
                               .tremolo = random.chance(0.25) ? random.uniform(0.3, 1) : 0,
                               .noise = random.chance(0.2) ? random.uniform(0.1, 0.6) : 0,
                               .level = random.uniform(0.5, 1)});
    v.hurry = random.chance(0.3) ? random.uniform(-1, 1) : 0;
    v.swell = random.chance(0.5) ? random.uniform(-1, 1) : 0;
    v.call_seconds = std::max(0.9 / rate, random.scale(0.3, 1.6));
    v.gap_seconds = random.scale(0.25, 1);
    return v;
}

/// Single notes with many partials: barks, grunts, chatter.
Voice voiced(double carrier, Random& random) {
    Voice v{.carrier = carrier};
    v.partials = stack(carrier, 4 + random.below(28), random.uniform(3, 15), random);
    const double seconds = random.scale(0.05, 0.9);
    const int kinds = 1 + random.below(2);
    for (int k = 0; k < kinds; ++k)
        v.syllables.push_back({.octaves = k == 0 ? 0 : random.uniform(-0.5, 0.5),
                               .sweep = random.uniform(-0.5, 0.4),
                               .bend = random.uniform(-0.4, 0.5),
                               .seconds = seconds * random.uniform(0.7, 1.3),
                               .attack = random.uniform(0.05, 0.4),
                               .decay = random.chance(0.3) ? random.uniform(1, 3) : 0,
                               .vibrato_hz = random.scale(3, 12),
                               .vibrato = random.chance(0.3) ? random.uniform(0.01, 0.08) : 0,
                               .tremolo_hz = random.scale(15, 90),
                               .tremolo = random.chance(0.3) ? random.uniform(0.3, 1) : 0,
                               .noise = random.chance(0.4) ? random.uniform(0.05, 0.5) : 0,
                               .bandwidth = random.uniform(0.5, 1.5)});
    v.rate = random.uniform(0.6, 0.95) / seconds;
    v.call_seconds = std::max(1.05 / v.rate * 0.9, random.scale(0.2, 1.2));
    v.gap_seconds = random.scale(0.2, 1.2);
    return v;
}

/// A long tone that bends.
Voice moan(double carrier, Random& random) {
    Voice v{.carrier = carrier};
    v.partials = {1, random.uniform(0.1, 0.6), random.uniform(0, 0.3)};
    v.syllables = {{.sweep = random.uniform(-0.6, 0.6),
                    .bend = random.uniform(-0.4, 0.4),
                    .seconds = random.uniform(0.5, 1.4),
                    .attack = random.uniform(0.2, 0.5),
                    .vibrato_hz = random.uniform(2, 7),
                    .vibrato = random.uniform(0, 0.06)}};
    v.rate = 0.9 / v.syllables[0].seconds;
    v.call_seconds = v.syllables[0].seconds;
    v.gap_seconds = random.uniform(0.3, 0.8);
    return v;
}

/// Clicks at a rate that may rise to a buzz.
Voice clicks(double carrier, double rate, Random& random) {
    Voice v{.carrier = carrier, .rate = rate};
    v.partials = {1, 0.6, 0.3};
    v.syllables = {{.seconds = random.scale(0.002, 0.01),
                    .attack = 0.1,
                    .decay = random.uniform(2, 6),
                    .noise = random.chance(0.5) ? random.uniform(0.2, 1) : 0,
                    .bandwidth = random.uniform(0.5, 1.5)}};
    v.hurry = random.chance(0.5) ? random.uniform(-2, 2) : 0;
    v.call_seconds = random.scale(0.3, 2.5);
    v.gap_seconds = random.scale(0.2, 1);
    return v;
}

/// Hisses, snorts, rasps.
Voice rasp(double carrier, Random& random) {
    Voice v{.carrier = carrier};
    v.syllables = {{.sweep = random.uniform(-0.6, 0.6),
                    .seconds = random.scale(0.04, 0.7),
                    .attack = random.uniform(0.05, 0.6),
                    .decay = random.chance(0.5) ? random.uniform(1, 4) : 0,
                    .tremolo_hz = random.scale(15, 150),
                    .tremolo = random.chance(0.5) ? random.uniform(0.3, 1) : 0,
                    .noise = random.uniform(0.7, 1),
                    .bandwidth = random.scale(0.15, 1.6)}};
    v.rate = random.uniform(0.5, 0.95) / v.syllables[0].seconds;
    v.call_seconds = random.scale(0.1, 1.2);
    v.gap_seconds = random.scale(0.2, 1.2);
    return v;
}

struct Niche {
    double low_hz, high_hz, low_rate, high_rate;
};

Species anything(Random& random) {
    Species out;
    const double carrier = random.scale(350, 7200), rate = random.scale(2.5, 110);
    switch (random.below(9)) {
        case 0:
        case 1: out.voice = pulses(carrier, rate, random); break;
        case 2: out.voice = trill(carrier, random.scale(5, 110), random); break;
        case 3: out.voice = buzz(random.scale(900, 7500), random.scale(4, 160), random); break;
        case 4:
        case 5: out.voice = phrase(random.scale(500, 6500), random.scale(1.5, 25), random); break;
        case 6: out.voice = voiced(random.scale(80, 1600), random); break;
        case 7:
            out.voice = random.chance(0.5) ? moan(random.scale(90, 2500), random)
                                           : clicks(random.scale(500, 6500), random.scale(2, 120), random);
            break;
        default: out.voice = rasp(random.scale(300, 6500), random);
    }
    if (random.chance(0.15)) {
        Voice second = random.chance(0.5) ? pulses(random.scale(350, 7200), random.scale(4, 90), random)
                                          : clicks(random.scale(500, 6500), random.scale(3, 60), random);
        for (Syllable& syllable : second.syllables) syllable.level *= random.uniform(0.3, 1);
        out.second = {second};
    }
    return out;
}

}  // namespace

Individual draw_individual(Random& random) {
    Individual it;
    it.pitch = std::exp2(std::clamp(0.08 * random.normal(), -0.2, 0.2));
    it.rate = std::exp2(std::clamp(0.1 * random.normal(), -0.25, 0.25));
    it.talk = random.uniform(0.7, 1.4);
    it.rest = random.uniform(0.6, 1.6);
    it.timbre = random.uniform(0.4, 1.8);
    return it;
}

Species invent(Guild guild, int column, int columns, int row, int rows, Random& random) {
    // The middle six tenths of a cell, so that neighbours keep apart.
    const auto place = [&random](double low, double high, int at, int of) {
        return low * std::pow(high / low, (at + random.uniform(0.2, 0.8)) / of);
    };
    const auto in = [&](const Niche& n) {
        return std::pair(place(n.low_hz, n.high_hz, column, columns), place(n.low_rate, n.high_rate, row, rows));
    };
    Species out;
    switch (guild) {
        case Guild::kFrog: {
            const auto [carrier, rate] = in({550, 2700, 7, 55});
            out.voice = pulses(carrier, rate, random);
            break;
        }
        case Guild::kCricket: {
            const auto [carrier, rate] = in({3200, 6600, 14, 75});
            out.voice = random.chance(0.7) ? trill(carrier, rate, random) : buzz(carrier, rate, random);
            out.voice.syllables[0].bandwidth = std::min(out.voice.syllables[0].bandwidth, 0.25);
            break;
        }
        case Guild::kBird: {
            const auto [carrier, rate] = in({1800, 5000, 2.5, 11});
            out.voice = phrase(carrier, rate, random);
            break;
        }
        case Guild::kWhale: {
            const auto [carrier, rate] = in({110, 1100, 3, 25});
            out.voice = moan(carrier, random);
            Voice second = clicks(1400, rate, random);
            second.call_seconds = 0.7 * out.voice.call_seconds;
            second.syllables[0].level = 1.5;
            out.second = {second};
            break;
        }
        case Guild::kAny: out = anything(random); break;
    }
    return out;
}

void sing(std::vector<float>& out, const Species& species, const Individual& individual, Random& random) {
    const double clip_seconds = static_cast<double>(out.size()) / kRate;
    const Voice& voice = species.voice;
    const bool endless = voice.call_seconds > 10;
    double at = endless ? 0 : random.uniform(0.05, 0.2) * std::min(1.0, clip_seconds / 3);
    if (!endless) at += random.uniform(0, std::min(voice.gap_seconds, 0.3 * clip_seconds));
    for (bool first = true; first || at + 0.5 * voice.call_seconds < clip_seconds; first = false) {
        double seconds = voice.call_seconds * individual.talk * random.uniform(0.8, 1.25);
        if (!endless) seconds = std::min(0.7 * clip_seconds, seconds);
        const double level = std::exp2(random.uniform(-0.5, 0.5));
        sing_voice(out, voice, individual, at, seconds, level, random);
        for (const Voice& second : species.second)
            sing_voice(out, second, individual, at, std::min(seconds, second.call_seconds), level, random);
        at += seconds + voice.gap_seconds * individual.rest * random.uniform(0.7, 1.4);
    }
}

}  // namespace scenes
