// Seeded scenes of invented species. Everything is a function of the parameters and of where one reads: the same
// samples come whatever was read before.
//
// A species is a manner of calling (voice.hpp). A recording is one individual, at one distance, before one background,
// by one recorder (place.hpp). A clip is other calls at other times. The group "background" has places without animals
// instead (ambience.hpp).
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "ambience.hpp"
#include "biophony/dataset.hpp"
#include "place.hpp"
#include "voice.hpp"

namespace {

using namespace biophony::sdk;
using namespace scenes;

struct GuildName {
    const char* name;
    Guild guild;
    std::array<const char*, 8> genera;
};

constexpr std::array<GuildName, 5> kGuilds = {{
    {"frog",
     Guild::kFrog,
     {"Ranella", "Hylora", "Bufolina", "Croaxia", "Batrarion", "Pelodara", "Limnobates", "Crepitana"}},
    {"cricket",
     Guild::kCricket,
     {"Grylline", "Oecanthara", "Tettigara", "Stridulina", "Nemobara", "Phalangora", "Acrilla", "Chirpodes"}},
    {"bird",
     Guild::kBird,
     {"Sylvara", "Turdella", "Emberilla", "Parulina", "Fringara", "Motacina", "Acrocela", "Troglara"}},
    {"whale",
     Guild::kWhale,
     {"Balaenara", "Megaptina", "Delphora", "Orcella", "Cetina", "Pelagia", "Phocalia", "Thalassara"}},
    {"any",
     Guild::kAny,
     {"Sonoria", "Vocaria", "Clamoria", "Murmuria", "Strepitia", "Resonia", "Tinnitia", "Susurria"}},
}};

constexpr std::array<const char*, 16> kEpithets = {"sonora",   "vocata",   "nocturna", "tacita",  "aquosa",  "montana",
                                                   "trillata", "obscura",  "serena",   "riparia", "clamosa", "palustra",
                                                   "errata",   "fabulosa", "vespera",  "somnia"};

class Synthetic : public Dataset {
public:
    static constexpr bool kServesSamples = true;

    explicit Synthetic(const Params& params)
        : species_count_(params.at("species")),
          recordings_(params.at("recordings")),
          clips_(params.at("clips")),
          frames_(static_cast<uint64_t>(std::llround(params.at("clip_seconds").get<double>() * kRate))),
          low_snr_(params.at("snr_db").at(0)),
          high_snr_(params.at("snr_db").at(1)),
          varied_(params.at("varied")),
          overlap_(params.at("overlap")),
          noise_(params.at("noise")) {
        if (low_snr_ > high_snr_)
            throw Error("found " + params.at("snr_db").dump() + ", expected the lower value first",
                        BPH_INVALID_ARGUMENT, "snr_db");
        const std::string group = params.at("group");
        if (group == kBackground) {
            if (!noise_)
                throw Error("found false, expected true: the group \"background\" is nothing else",
                            BPH_INVALID_ARGUMENT, "noise");
            species_count_ = 1;
            seed_ = mix(params.at("seed").get<uint64_t>(), kGuilds.size());
            return;
        }
        size_t guild = 0;
        while (guild < kGuilds.size() && group != kGuilds[guild].name) ++guild;
        if (guild == kGuilds.size()) throw Error("found '" + group + "'", BPH_INVALID_ARGUMENT, "group");
        guild_ = &kGuilds[guild];
        seed_ = mix(params.at("seed").get<uint64_t>(), guild);
        // Grid cells and names in an order of the seed's.
        Random random(mix(seed_, 1));
        const auto shuffled = [&random](uint64_t n) {
            std::vector<uint64_t> order(n);
            std::iota(order.begin(), order.end(), uint64_t{0});
            for (uint64_t i = n - 1; i > 0; --i)
                std::swap(order[i], order[static_cast<uint64_t>(random.below(static_cast<int>(i) + 1))]);
            return order;
        };
        names_ = shuffled(kGenera * kEpithets.size());
        columns_ = static_cast<uint64_t>(std::ceil(std::sqrt(static_cast<double>(species_count_))));
        rows_ = (species_count_ + columns_ - 1) / columns_;
        cells_ = shuffled(columns_ * rows_);
    }

    void describe(const Call& call, DatasetSink& sink) override {
        const double clip_seconds = static_cast<double>(frames_) / kRate;
        for (uint64_t s = 0; s < species_count_; ++s) {
            call.check_cancelled();
            const std::string name = name_of(s);
            for (uint64_t r = 0; r < recordings_; ++r) {
                Recording recording;
                recording.id = name + "/" + std::to_string(r + 1);
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
                    region.labels = {{name}};
                    sink.add(region);
                }
            }
        }
    }

    uint64_t read_samples(const Call& call, uint64_t recording, uint64_t first, std::span<float> out) override {
        if (recording >= species_count_ * recordings_)
            throw Error("found recording " + std::to_string(recording) + ", expected one below " +
                        std::to_string(species_count_ * recordings_));
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
    static constexpr uint64_t kGenera = 8;
    static constexpr const char* kBackground = "background";

    /// Two words; from 128 species on the second has a number behind it.
    std::string name_of(uint64_t species) const {
        if (guild_ == nullptr) return kBackground;
        const uint64_t name = names_[species % names_.size()], round = species / names_.size();
        std::string out = std::string(guild_->genera[name % kGenera]) + " " + kEpithets[name / kGenera];
        if (round > 0) out += "-" + std::to_string(round + 1);
        return out;
    }

    Species species(uint64_t s) const {
        Random random(mix(mix(seed_, 3), s));
        const uint64_t cell = cells_[s];
        return invent(guild_->guild, static_cast<int>(cell % columns_), static_cast<int>(columns_),
                      static_cast<int>(cell / columns_), static_cast<int>(rows_), random);
    }

    /// What a recording's random numbers come from: more recordings or clips leave it as it is.
    uint64_t key_of(uint64_t recording) const {
        return mix(mix(seed_, 4 + recording / recordings_), recording % recordings_);
    }

    /// A clip of a place without animals.
    std::vector<float> render_background(uint64_t recording, uint64_t clip) const {
        const uint64_t key = key_of(recording);
        Random of_recording(mix(key, 0)), of_clip(mix(mix(key, 1), clip));
        const Ambience around = draw_ambience(varied_, of_recording);
        const Place place = draw_place(low_snr_, high_snr_, varied_, of_recording);
        std::vector<float> sound = ambience(frames_, around, of_clip);
        for (const Biquad& filter : place.recorder) filter.run(sound);
        double power = 0;
        float top = 0;
        for (const float x : sound) {
            power += static_cast<double>(x) * x;
            top = std::max(top, std::abs(x));
        }
        // A loud knock lowers the clip rather than being clipped.
        const double gain = std::min(around.level / std::sqrt(power / static_cast<double>(frames_)), 0.9 / top);
        for (float& x : sound) x *= static_cast<float>(gain);
        return sound;
    }

    std::vector<float> render(uint64_t recording, uint64_t clip) const {
        if (guild_ == nullptr) return render_background(recording, clip);
        const uint64_t key = key_of(recording);
        Random of_recording(mix(key, 0)), of_clip(mix(mix(key, 1), clip));
        const Individual individual = draw_individual(of_recording);
        const Place place = draw_place(low_snr_, high_snr_, varied_, of_recording);
        const uint64_t own = recording / recordings_;

        std::vector<float> calls(frames_, 0.0F);
        sing(calls, species(own), individual, of_clip);
        travel(calls, place);
        for (const Biquad& filter : place.recorder) filter.run(calls);
        const double level = sounding_level(calls);
        float top = 0;
        for (const float x : calls) top = std::max(top, std::abs(x));
        double gain = level > 0 ? place.noise_level * std::pow(10.0, place.snr_db / 20) / level : 0;
        gain = top > 0 ? std::min(gain, 0.9 / top) : 0;  // very loud calls are lowered rather than clipped
        // A call that the clip's end cuts fades within 5 ms, so that the cut is no click of its own.
        const size_t fade = std::min<size_t>(80, calls.size());
        for (size_t i = 0; i < fade; ++i)
            calls[calls.size() - 1 - i] *= static_cast<float>(i) / static_cast<float>(fade);
        for (float& x : calls) x *= static_cast<float>(gain);

        if (noise_) {
            Random of_background(mix(mix(key, 2), clip));
            std::vector<float> behind = background(frames_, place, of_background);
            for (const Biquad& filter : place.recorder) filter.run(behind);
            double power = 0;
            for (const float x : behind) power += static_cast<double>(x) * x;
            const auto scale =
                static_cast<float>(power > 0 ? place.noise_level / std::sqrt(power / static_cast<double>(frames_)) : 0);
            for (size_t i = 0; i < frames_; ++i) calls[i] += scale * behind[i];
            if (species_count_ > 1 && of_background.chance(overlap_))
                add_neighbour(calls, place, own, gain * level, of_background);
        }
        for (float& x : calls) x = std::clamp(x, -1.0F, 1.0F);
        return calls;
    }

    /// Somebody else calls, too, further away.
    void add_neighbour(std::vector<float>& out, const Place& place, uint64_t own, double level, Random& random) const {
        const auto other =
            (own + 1 + static_cast<uint64_t>(random.below(static_cast<int>(species_count_ - 1)))) % species_count_;
        std::vector<float> calls(frames_, 0.0F);
        sing(calls, species(other), draw_individual(random), random);
        Place further = place;
        further.distance.push_back(low_pass(3500, 0.6));
        further.wet += 0.1;
        travel(calls, further);
        for (const Biquad& filter : place.recorder) filter.run(calls);
        const double own_level = sounding_level(calls);
        if (own_level <= 0) return;
        const auto gain = static_cast<float>(level * std::pow(10.0, place.neighbour_db / 20) / own_level);
        for (size_t i = 0; i < frames_; ++i) out[i] += gain * calls[i];
    }

    const std::vector<float>& rendered(uint64_t recording, uint64_t clip) {
        for (const Rendered& known : cache_)
            if (known.recording == recording && known.clip == clip && !known.sound.empty()) return known.sound;
        Rendered& slot = cache_[oldest_];
        oldest_ = (oldest_ + 1) % cache_.size();
        slot = {recording, clip, render(recording, clip)};
        return slot.sound;
    }

    struct Rendered {
        uint64_t recording = 0, clip = 0;
        std::vector<float> sound;
    };

    uint64_t species_count_, recordings_, clips_, frames_;
    double low_snr_, high_snr_, varied_, overlap_;
    bool noise_;
    const GuildName* guild_ = nullptr;  // none: places without animals
    uint64_t seed_ = 0, columns_ = 1, rows_ = 1;
    std::vector<uint64_t> names_, cells_;
    std::array<Rendered, 4> cache_;  // neighbours are asked for when margins are; holds no state that changes a sample
    size_t oldest_ = 0;
};

}  // namespace

BIOPHONY_PLUGIN(dataset<Synthetic>("synthetic"))
