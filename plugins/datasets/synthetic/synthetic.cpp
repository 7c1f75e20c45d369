// Seeded scenes of invented species. Everything is a function of the parameters and of where one reads: the same
// samples come whatever was read before.
//
// A species is a point in its guild's niche: a carrier frequency and a rate, both dealt out on a grid so that species
// differ in one or the other, and a manner of calling around them. A recording is one individual (pitch and rate a
// little off the species'), at one distance (level, low-pass, reverberation), before one background. A clip is other
// calls at other times.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "biophony/dataset.hpp"

namespace {

using namespace biophony::sdk;

constexpr double kRate = 16000;
constexpr double kPi = std::numbers::pi;

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
    double normal() { return std::sqrt(-2.0 * std::log(1.0 - uniform())) * std::cos(2.0 * kPi * uniform()); }
    int below(int n) { return static_cast<int>(uniform() * n); }
    bool chance(double p) { return uniform() < p; }

private:
    uint64_t state_;
};

uint64_t mix(uint64_t seed, uint64_t part) {
    return Random::scramble(Random::scramble(seed + 0x9e3779b97f4a7c15ULL) ^ (part * 0xd1342543de82ef95ULL + 1));
}

struct Guild {
    const char* name;
    double low_hz, high_hz;      // carriers, drawn on a logarithmic scale
    double low_rate, high_rate;  // pulses, syllables or clicks per second
    std::array<const char*, 8> genera;
};

constexpr std::array<Guild, 4> kGuilds = {{
    {"frog",
     550,
     2700,
     7,
     55,
     {"Ranella", "Hylora", "Bufolina", "Croaxia", "Batrarion", "Pelodara", "Limnobates", "Crepitana"}},
    {"cricket",
     3200,
     7000,
     14,
     75,
     {"Grylline", "Oecanthara", "Tettigara", "Stridulina", "Nemobara", "Phalangora", "Acrilla", "Chirpodes"}},
    {"bird",
     1800,
     5800,
     2.5,
     11,
     {"Sylvara", "Turdella", "Emberilla", "Parulina", "Fringara", "Motacina", "Acrocela", "Troglara"}},
    {"whale",
     110,
     1100,
     3,
     25,
     {"Balaenara", "Megaptina", "Delphora", "Orcella", "Cetina", "Pelagia", "Phocalia", "Thalassara"}},
}};

constexpr std::array<const char*, 16> kEpithets = {"sonora",   "vocata",   "nocturna", "tacita",  "aquosa",  "montana",
                                                   "trillata", "obscura",  "serena",   "riparia", "clamosa", "palustra",
                                                   "errata",   "fabulosa", "vespera",  "somnia"};

/// One kind of syllable.
struct Syllable {
    double octaves = 0;     // how far the carrier lies from the species'
    double sweep = 0;       // octaves from beginning to end
    double bend = 0;        // octaves of arch in the middle
    double seconds = 0;     // length
    double attack = 0.2;    // share of the length
    double vibrato_hz = 0;  // rate
    double vibrato = 0;     // depth in octaves
};

struct Species {
    std::string name;
    double carrier = 0, rate = 0;
    double duty = 0.5;  // share of the period in which a pulse sounds
    std::array<double, 3> harmonics = {1, 0, 0};
    std::vector<Syllable> syllables;
    double call_seconds = 0.5, gap_seconds = 0.6;
    bool rattles = false;  // whales: clicks beside the tone
};

struct Individual {
    double pitch = 1, rate = 1;  // factors
    double talk = 1, rest = 1;   // of the calls' and the gaps' lengths
    double timbre = 1;           // of the harmonics
    double snr_db = 0;
    double low_pass = 1;  // coefficient of two poles
    double wet = 0;       // level of the reverberation
    std::array<int, 3> delays{};
    std::array<double, 3> feedback{};
    double noise_level = 0, pole = 0, white = 0, gust_hz = 0, gust = 0, gust_phase = 0, hum_hz = 0, hum = 0;
};

class Synthetic : public Dataset {
public:
    static constexpr bool kServesSamples = true;

    explicit Synthetic(const Params& params)
        : recordings_(params.at("recordings")),
          clips_(params.at("clips")),
          frames_(static_cast<uint64_t>(std::llround(params.at("clip_seconds").get<double>() * kRate))),
          low_snr_(params.at("snr_db").at(0)),
          high_snr_(params.at("snr_db").at(1)),
          noise_(params.at("noise")) {
        if (low_snr_ > high_snr_)
            throw Error("found " + params.at("snr_db").dump() + ", expected the lower value first",
                        BPH_INVALID_ARGUMENT, "snr_db");
        const std::string group = params.at("group");
        size_t guild = 0;
        while (guild < kGuilds.size() && group != kGuilds[guild].name) ++guild;
        if (guild == kGuilds.size()) throw Error("found '" + group + "'", BPH_INVALID_ARGUMENT, "group");
        guild_ = &kGuilds[guild];
        seed_ = mix(params.at("seed").get<uint64_t>(), guild);
        invent_species(params.at("species").get<int>());
    }

    void describe(const Call& call, DatasetSink& sink) override {
        const double clip_seconds = static_cast<double>(frames_) / kRate;
        for (size_t s = 0; s < species_.size(); ++s) {
            call.check_cancelled();
            for (uint64_t r = 0; r < recordings_; ++r) {
                Recording recording;
                recording.id = species_[s].name + "/" + std::to_string(r + 1);
                recording.seconds = clip_seconds * static_cast<double>(clips_);
                recording.sample_rate = kRate;
                recording.licence = "CC0-1.0 (synthetic)";
                recording.groups = {{"recording", recording.id}, {"individual", recording.id}};
                recording.reviewed = BPH_REVIEWED_WHOLE;
                const uint64_t index = sink.add(recording);
                for (uint64_t c = 0; c < clips_; ++c) {
                    Region region;
                    region.recording = index;
                    region.start_s = static_cast<double>(c * frames_) / kRate;
                    region.end_s = static_cast<double>((c + 1) * frames_) / kRate;
                    region.labels = {{species_[s].name}};
                    sink.add(region);
                }
            }
        }
    }

    uint64_t read_samples(const Call& call, uint64_t recording, uint64_t first, std::span<float> out) override {
        if (recording >= species_.size() * recordings_)
            throw Error("found recording " + std::to_string(recording) + ", expected one below " +
                        std::to_string(species_.size() * recordings_));
        const uint64_t total = clips_ * frames_;
        if (first >= total) return 0;
        const uint64_t count = std::min<uint64_t>(out.size(), total - first);
        for (uint64_t done = 0; done < count;) {
            call.check_cancelled();
            const uint64_t clip = (first + done) / frames_, offset = (first + done) % frames_;
            const std::vector<float>& sound = rendered(recording, clip);
            const uint64_t part = std::min(frames_ - offset, count - done);
            std::copy_n(sound.begin() + static_cast<std::ptrdiff_t>(offset), part,
                        out.begin() + static_cast<std::ptrdiff_t>(done));
            done += part;
        }
        return count;
    }

private:
    void invent_species(int count) {
        Random random(mix(seed_, 1));
        const auto shuffled = [&random](int n) {
            std::vector<int> order(static_cast<size_t>(n));
            std::iota(order.begin(), order.end(), 0);
            for (int i = n - 1; i > 0; --i)
                std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.below(i + 1))]);
            return order;
        };
        const std::vector<int> names = shuffled(128);
        const int carriers = static_cast<int>(std::ceil(std::sqrt(count)));
        const int rates = (count + carriers - 1) / carriers;
        const std::vector<int> cells = shuffled(carriers * rates);
        for (int s = 0; s < count; ++s) {
            const int cell = cells[static_cast<size_t>(s)], name = names[static_cast<size_t>(s)];
            // The middle six tenths of a cell, so that neighbours keep apart.
            const auto place = [&random](double low, double high, int at, int of) {
                return low * std::pow(high / low, (at + random.uniform(0.2, 0.8)) / of);
            };
            Species species;
            species.name = std::string(guild_->genera[static_cast<size_t>(name % 8)]) + " " +
                           kEpithets[static_cast<size_t>(name / 8)];
            species.carrier = place(guild_->low_hz, guild_->high_hz, cell % carriers, carriers);
            species.rate = place(guild_->low_rate, guild_->high_rate, cell / carriers, rates);
            invent_manner(species, random);
            species_.push_back(std::move(species));
        }
    }

    void invent_manner(Species& species, Random& random) const {
        const double period = 1 / species.rate;
        Syllable pulse;
        switch (guild_->name[0]) {
            case 'f':  // a train of decaying pulses
                species.duty = random.uniform(0.45, 0.8);
                species.harmonics = {1, random.uniform(0.1, 0.5), random.uniform(0.02, 0.2)};
                pulse = {.sweep = random.uniform(-0.1, 0.15),
                         .seconds = period * species.duty,
                         .attack = random.uniform(0.05, 0.3)};
                species.syllables = {pulse};
                species.call_seconds = random.uniform(0.3, 1.0);
                species.gap_seconds = random.uniform(0.25, 0.7);
                break;
            case 'c':  // a chirp of a few syllables of an almost pure tone
                species.duty = random.uniform(0.5, 0.75);
                species.harmonics = {1, 0.02, 0};
                pulse = {.sweep = random.uniform(-0.04, 0.01),
                         .seconds = period * species.duty,
                         .attack = random.uniform(0.2, 0.5)};
                species.syllables = {pulse};
                species.call_seconds = std::max(2.2 * period, random.uniform(0.08, 0.5));
                species.gap_seconds = random.uniform(0.1, 0.45);
                break;
            case 'b': {  // a phrase of one to three kinds of sweeping syllables
                species.harmonics = {1, random.uniform(0, 0.15), 0};
                const int kinds = 1 + random.below(3);
                for (int k = 0; k < kinds; ++k)
                    species.syllables.push_back({.octaves = random.uniform(-0.3, 0.3),
                                                 .sweep = random.uniform(-0.8, 0.8),
                                                 .bend = random.uniform(-0.4, 0.4),
                                                 .seconds = period * random.uniform(0.4, 0.85),
                                                 .attack = random.uniform(0.1, 0.4),
                                                 .vibrato_hz = random.uniform(15, 45),
                                                 .vibrato = random.chance(0.4) ? random.uniform(0.05, 0.2) : 0});
                species.call_seconds = random.uniform(0.7, 1.5);
                species.gap_seconds = random.uniform(0.3, 0.8);
                break;
            }
            default:  // a long tone that bends, and clicks at a rate
                species.harmonics = {1, random.uniform(0.1, 0.6), random.uniform(0, 0.3)};
                species.syllables = {{.sweep = random.uniform(-0.6, 0.6),
                                      .bend = random.uniform(-0.4, 0.4),
                                      .seconds = random.uniform(0.5, 1.1),
                                      .attack = random.uniform(0.2, 0.4),
                                      .vibrato_hz = random.uniform(2, 7),
                                      .vibrato = random.uniform(0, 0.06)}};
                species.rattles = true;
                species.call_seconds = species.syllables[0].seconds;
                species.gap_seconds = random.uniform(0.3, 0.8);
        }
    }

    /// What a recording's random numbers come from: other counts of species or recordings leave it as it is.
    uint64_t key_of(uint64_t recording) const {
        return mix(mix(seed_, 2 + recording / recordings_), recording % recordings_);
    }

    Individual individual(uint64_t key) const {
        Random random(mix(key, 0));
        Individual it;
        it.pitch = std::exp2(std::clamp(0.1 * random.normal(), -0.25, 0.25));
        it.rate = std::exp2(std::clamp(0.12 * random.normal(), -0.3, 0.3));
        it.talk = random.uniform(0.7, 1.4);
        it.rest = random.uniform(0.6, 1.6);
        it.timbre = random.uniform(0.4, 1.8);
        // The nearer, the louder over the background, the brighter, and the less of it is echo.
        const double near = random.uniform();
        it.snr_db = low_snr_ + near * (high_snr_ - low_snr_);
        const double cutoff = 2500 * std::exp2(1.5 * std::clamp(near + random.uniform(-0.2, 0.2), 0.0, 1.0));
        it.low_pass = 1 - std::exp(-2 * kPi * cutoff / kRate);
        it.wet = (1 - near) * random.uniform(0.1, 0.35);
        const double reverberation = random.uniform(0.1, 0.5);  // seconds to -60 dB
        for (size_t i = 0; i < it.delays.size(); ++i) {
            it.delays[i] = 240 + 170 * static_cast<int>(i) + random.below(160);
            it.feedback[i] = std::pow(10.0, -3 * it.delays[i] / kRate / reverberation);
        }
        it.noise_level = std::pow(10.0, random.uniform(-44, -34) / 20);
        it.pole = std::exp(-2 * kPi * random.uniform(80, 900) / kRate);
        it.white = random.uniform(0.1, 0.6);
        it.gust_hz = random.uniform(0.05, 0.4);
        it.gust = random.uniform(0, 0.4);
        it.gust_phase = random.uniform(0, 2 * kPi);
        it.hum_hz = random.uniform(90, 500);
        it.hum = random.chance(0.3) ? random.uniform(0.1, 0.4) : 0;
        return it;
    }

    /// Adds one syllable at `at` (samples); what would sound after the end of `out` is cut.
    static void sing(std::vector<double>& out, double at, const Syllable& syllable, double carrier,
                     const std::array<double, 3>& harmonics, double level) {
        const double length = syllable.seconds * kRate;
        const auto begin = static_cast<int64_t>(std::ceil(at));
        const auto end = std::min<int64_t>(static_cast<int64_t>(out.size()), static_cast<int64_t>(at + length));
        double phase = 0;
        for (int64_t i = std::max<int64_t>(0, begin); i < end; ++i) {
            const double x = (static_cast<double>(i) - at) / length;
            double octaves = syllable.octaves + syllable.sweep * (x - 0.5) + syllable.bend * (4 * x * (1 - x) - 0.5);
            if (syllable.vibrato > 0)
                octaves += syllable.vibrato * std::sin(2 * kPi * syllable.vibrato_hz * x * syllable.seconds);
            const double hz = carrier * std::exp2(octaves);
            phase += 2 * kPi * hz / kRate;
            const double rise = x < syllable.attack ? x / syllable.attack : (1 - x) / (1 - syllable.attack);
            const double envelope = rise * rise * (3 - 2 * rise);
            double value = 0;
            for (size_t h = 0; h < harmonics.size(); ++h)
                if (harmonics[h] > 0 && hz * static_cast<double>(h + 1) < 0.48 * kRate)
                    value += harmonics[h] * std::sin(phase * static_cast<double>(h + 1));
            out[static_cast<size_t>(i)] += level * envelope * value;
        }
    }

    /// One clip's calls, dry.
    std::vector<double> calls(const Species& species, const Individual& individual, uint64_t key, uint64_t clip) const {
        Random random(mix(key, 2 + clip));
        std::vector<double> out(frames_, 0.0);
        const double clip_seconds = static_cast<double>(frames_) / kRate;
        const double rate = species.rate * individual.rate;
        const double longest = clip_seconds * 0.7;
        std::array<double, 3> harmonics = species.harmonics;
        for (size_t h = 1; h < harmonics.size(); ++h) harmonics[h] *= individual.timbre;
        double at = random.uniform(0.05, 0.2) * std::min(1.0, clip_seconds / 3);
        at += random.uniform(0, std::min(species.gap_seconds, 0.3 * clip_seconds));
        for (bool first = true; first || at + 0.5 * species.call_seconds < clip_seconds; first = false) {
            const double call_seconds =
                std::min(longest, species.call_seconds * individual.talk * random.uniform(0.8, 1.25));
            const double level = std::exp2(random.uniform(-0.5, 0.5));
            const double carrier = species.carrier * individual.pitch * std::exp2(0.01 * random.normal());
            if (species.rattles) {
                Syllable tone = species.syllables[0];
                tone.seconds = call_seconds;
                sing(out, at * kRate, tone, carrier, harmonics, level);
                const Syllable click{.seconds = 0.008, .attack = 0.1};
                for (double t = at; t < at + 0.7 * call_seconds; t += 1 / rate)
                    sing(out, t * kRate, click, 1400 * individual.pitch, {1, 0.6, 0.3}, 1.5 * level);
            } else {
                const size_t kinds = species.syllables.size();
                size_t n = 0;
                for (double t = at; t < at + call_seconds; t += 1 / rate, ++n) {
                    Syllable syllable = species.syllables[n % kinds];
                    syllable.seconds /= individual.rate;
                    const double swell = 0.6 + 0.4 * std::sin(kPi * std::min(1.0, (t - at) / call_seconds));
                    sing(out, t * kRate, syllable, carrier, harmonics, level * swell);
                }
            }
            at += call_seconds + species.gap_seconds * individual.rest * random.uniform(0.7, 1.4);
        }
        return out;
    }

    /// Where the calls sound, their root mean square becomes `level`; distance and echo come before.
    static void place(std::vector<double>& sound, const Individual& individual, double level) {
        double a = 0, b = 0;
        for (double& x : sound) {
            a += individual.low_pass * (x - a);
            b += individual.low_pass * (a - b);
            x = b;
        }
        std::array<std::vector<double>, 3> lines;
        std::array<size_t, 3> at{};
        for (size_t i = 0; i < lines.size(); ++i) lines[i].assign(static_cast<size_t>(individual.delays[i]), 0.0);
        double peak = 0;
        for (double& x : sound) {
            double echo = 0;
            for (size_t i = 0; i < lines.size(); ++i) {
                double& slot = lines[i][at[i]];
                echo += slot;
                slot = x + individual.feedback[i] * slot;
                if (++at[i] == lines[i].size()) at[i] = 0;
            }
            x += individual.wet * echo;
            peak = std::max(peak, std::abs(x));
        }
        double power = 0;
        size_t count = 0;
        for (const double x : sound)
            if (std::abs(x) > 0.05 * peak) power += x * x, ++count;
        const double gain = count == 0 ? 0 : level / std::sqrt(power / static_cast<double>(count));
        // Very loud calls are lowered rather than clipped.
        const double allowed = peak > 0 ? std::min(gain, 0.9 / peak) : 0;
        for (double& x : sound) x *= allowed;
        // A call that the clip's end cuts fades within 5 ms, so that the cut is no click of its own.
        const size_t fade = std::min<size_t>(80, sound.size());
        for (size_t i = 0; i < fade; ++i)
            sound[sound.size() - 1 - i] *= static_cast<double>(i) / static_cast<double>(fade);
    }

    /// The background of samples [first, first + out.size()): white noise numbered by its place in the recording,
    /// through a filter that has settled before the first sample.
    void add_background(std::vector<double>& out, const Individual& it, uint64_t key, uint64_t first) const {
        key = mix(key, 1);
        constexpr int64_t kSettle = 1024;  // the slowest pole is down to e^-32 by then
        // So that the two parts and the hum together have the level asked for.
        const double coloured = (1 - it.white) * std::sqrt(1 - it.pole * it.pole);
        const double scale = it.noise_level / std::sqrt((1 - it.white) * (1 - it.white) + it.white * it.white +
                                                        2 * coloured * it.white + it.hum * it.hum / 2);
        double low = 0, gust = 1;
        for (int64_t i = -kSettle; i < static_cast<int64_t>(out.size()); ++i) {
            const uint64_t n = first + static_cast<uint64_t>(i + kSettle);
            // Four 16-bit parts of one number, summed: near enough to normal, variance 1.
            const uint64_t bits = Random::scramble(key + n * 0x9e3779b97f4a7c15ULL);
            const auto sum =
                static_cast<double>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
            const double white = (sum - 131070.0) * (std::numbers::sqrt3 / 65536.0);
            low = it.pole * low + white;
            if (i < 0) continue;
            const double t = static_cast<double>(n) / kRate;
            double value = coloured * low + it.white * white;
            if (it.hum > 0) value += it.hum * std::sin(2 * kPi * it.hum_hz * t);
            // Gusts change the level slowly: once in 16 samples is smooth enough to step.
            if ((i & 15) == 0) gust = 1 + it.gust * std::sin(2 * kPi * it.gust_hz * t + it.gust_phase);
            out[static_cast<size_t>(i)] += scale * gust * value;
        }
    }

    const std::vector<float>& rendered(uint64_t recording, uint64_t clip) {
        for (const Rendered& known : cache_)
            if (known.recording == recording && known.clip == clip && !known.sound.empty()) return known.sound;
        const Species& species = species_[recording / recordings_];
        const uint64_t key = key_of(recording);
        const Individual it = individual(key);
        std::vector<double> sound = calls(species, it, key, clip);
        place(sound, it, it.noise_level * std::pow(10.0, it.snr_db / 20));
        if (noise_) add_background(sound, it, key, clip * frames_);
        Rendered& slot = cache_[oldest_];
        oldest_ = (oldest_ + 1) % cache_.size();
        slot = {recording, clip, std::vector<float>(sound.size())};
        std::transform(sound.begin(), sound.end(), slot.sound.begin(),
                       [](double x) { return static_cast<float>(std::clamp(x, -1.0, 1.0)); });
        return slot.sound;
    }

    struct Rendered {
        uint64_t recording = 0, clip = 0;
        std::vector<float> sound;
    };

    uint64_t recordings_, clips_, frames_;
    double low_snr_, high_snr_;
    bool noise_;
    const Guild* guild_ = nullptr;
    uint64_t seed_ = 0;
    std::vector<Species> species_;
    std::array<Rendered, 4> cache_;  // neighbours are asked for when margins are; holds no state that changes a sample
    size_t oldest_ = 0;
};

}  // namespace

BIOPHONY_PLUGIN(dataset<Synthetic>("synthetic"))
