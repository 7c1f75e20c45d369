// Invented species: the same samples however one reads, and sound that is where the guild's niche is.
#include <chrono>
#include <map>
#include <set>

#include "sounds.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

struct Open {
    explicit Open(const Json& params, CallOptions options = {})
        : item(plugins().require("dataset:synthetic")),
          source(item, filled(item, params), std::move(options)),
          description(source.describe()) {}
    std::vector<float> read(size_t recording, double start, double end, double rate = 16000) {
        return source.read(description.recordings.at(recording), recording, start, end, rate);
    }
    const ItemInfo& item;
    DatasetSource source;
    DatasetSource::Description description;
};

/// Power of a signal at `hz`, by Goertzel's recurrence over blocks of 1024.
double power_at(const std::vector<float>& x, double hz) {
    const double c = 2 * std::cos(2 * std::numbers::pi * hz / 16000);
    double total = 0;
    for (size_t b = 0; b + 1024 <= x.size(); b += 1024) {
        double s1 = 0, s2 = 0;
        for (size_t i = b; i < b + 1024; ++i) {
            const double s = x[i] + c * s1 - s2;
            s2 = s1;
            s1 = s;
        }
        total += s1 * s1 + s2 * s2 - c * s1 * s2;
    }
    return total;
}

double mean_power(const std::vector<float>& x) {
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v) * v;
    return sum / static_cast<double>(x.size());
}

}  // namespace

TEST_CASE("what synthetic scenes describe") {
    Open set({{"group", "frog"}, {"species", 5}, {"recordings", 4}, {"clips", 2}, {"clip_seconds", 1.5}});
    CHECK(set.description.recordings.size() == 20);
    CHECK(set.description.regions.size() == 40);
    std::set<std::string> names;
    for (const auto& region : set.description.regions) names.insert(region.labels.at(0).name);
    CHECK(names.size() == 5);
    for (const auto& name : names) CHECK(std::count(name.begin(), name.end(), ' ') == 1);
    const Recording& r = set.description.recordings[7];
    CHECK(r.uri.empty());
    CHECK(r.seconds == 3);
    CHECK(r.sample_rate == 16000);
    CHECK(r.reviewed == BPH_REVIEWED_WHOLE);
    CHECK(r.split.empty());
    CHECK(r.licence == "CC0-1.0 (synthetic)");
    CHECK(r.groups.at(0) == std::pair<std::string, std::string>("recording", r.id));
    CHECK(set.description.regions[1].start_s == 1.5);
    CHECK(set.description.regions[1].end_s == 3);

    // Guilds share no name, and another seed invents others.
    Open whales({{"group", "whale"}, {"species", 64}, {"recordings", 1}, {"clips", 1}});
    std::set<std::string> whale_names;
    for (const auto& region : whales.description.regions) whale_names.insert(region.labels.at(0).name);
    CHECK(whale_names.size() == 64);
    for (const auto& name : names) CHECK_FALSE(whale_names.contains(name));
}

TEST_CASE("any stretch is the same samples, whatever was read before") {
    for (const char* guild : {"frog", "cricket", "bird", "whale", "any"}) {
        INFO(guild);
        const Json params = {{"group", guild}, {"species", 2}, {"recordings", 2}, {"clips", 3}, {"clip_seconds", 1.1}};
        Open a(params), b(params);
        const auto whole = a.read(3, 0, std::nan(""));
        REQUIRE(whole.size() == 3 * 17600);
        b.read(0, 0.5, 3);
        const auto late = b.read(3, 2.0, 3.3);
        CHECK(std::equal(late.begin(), late.end(), whole.begin() + 32000));
        const auto middle = b.read(3, 0.9, 1.3);
        CHECK(std::equal(middle.begin(), middle.end(), whole.begin() + 14400));
        CHECK(b.read(3, 1.0, 2.0, 8000).size() == 8000);
        CHECK(b.read(2, 0, 1) != a.read(3, 0, 1));
        CHECK(b.read(3, 0, 1.1) != a.read(3, 1.1, 2.2));
        for (const float v : whole) REQUIRE(std::abs(v) <= 1);
        // More recordings and more clips leave those that were there alone; another seed doesn't.
        Json more = params;
        more["recordings"] = 5;
        more["clips"] = 7;
        CHECK(Open(more).read(5, 0, 1) == a.read(2, 0, 1));
        more["seed"] = 2;
        CHECK(Open(more).read(0, 0, 1) != a.read(0, 0, 1));
    }
}

TEST_CASE("a guild sounds in its niche, and its species apart") {
    struct Niche {
        const char* guild;
        double low, high;
    };
    for (const auto& [guild, low, high] :
         {Niche{"frog", 350, 4000}, {"cricket", 2800, 7900}, {"bird", 900, 7900}, {"whale", 50, 3200}}) {
        INFO(guild);
        Open set({{"group", guild}, {"species", 4}, {"recordings", 3}, {"clips", 2}, {"noise", false}});
        std::set<int> loudest;
        for (size_t r = 0; r < 12; r += 3) {
            const auto sound = set.read(r, 0, std::nan(""));
            double inside = 0, outside = 0, best = 0;
            int at = 0;
            for (int hz = 40; hz < 8000; hz += 20) {
                const double power = power_at(sound, hz);
                (hz >= low && hz <= high ? inside : outside) += power;
                if (power > best) best = power, at = hz;
            }
            CHECK(inside > 20 * outside);
            loudest.insert(at / 100);
        }
        CHECK(loudest.size() >= 2);
        // Every clip has a call.
        for (size_t r = 0; r < 12; ++r)
            for (const double start : {0.0, 3.0}) CHECK(mean_power(set.read(r, start, start + 3)) > 1e-7);
    }
}

TEST_CASE("the signal-to-noise ratio is the one asked for") {
    for (const double snr : {0.0, 10.0, 20.0}) {
        const Json params = {
            {"group", "cricket"}, {"species", 2}, {"recordings", 6}, {"snr_db", {snr, snr}}, {"overlap", 0}};
        Json clean = params;
        clean["noise"] = false;
        Open noisy(params), silent(clean);
        for (size_t r = 0; r < 12; ++r) {
            const auto mixed = noisy.read(r, 0, 3), calls = silent.read(r, 0, 3);
            std::vector<float> background(mixed.size()), sounding;
            float peak = 0;
            for (size_t i = 0; i < mixed.size(); ++i) {
                background[i] = mixed[i] - calls[i];
                peak = std::max(peak, std::abs(calls[i]));
            }
            for (const float v : calls)
                if (std::abs(v) > 0.05F * peak) sounding.push_back(v);
            CHECK(10 * std::log10(mean_power(sounding) / mean_power(background)) == Approx(snr).margin(2.5));
        }
    }
}

TEST_CASE("synthetic sound is made many times faster than it lasts") {
    Open set({{"group", "bird"}, {"species", 4}, {"recordings", 2}, {"clips", 4}});
    const auto begin = std::chrono::steady_clock::now();
    double seconds = 0;
    for (size_t r = 0; r < 8; ++r) seconds += static_cast<double>(set.read(r, 0, std::nan("")).size()) / 16000;
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    WARN("synthetic birds: " << static_cast<int>(seconds / took) << " x real time");
    CHECK(seconds / took > 30);  // far below what an idle machine shows; a sanitized build is slower by ten
}

TEST_CASE("synthetic parameters that can't be") {
    CHECK_THAT(error_of([] {
                   describe("dataset:synthetic", {{"group", "bird"}, {"snr_db", {10, 3}}});
               }),
               Contains("'snr_db'") && Contains("expected the lower value first"));
    Open set({{"group", "bird"}, {"recordings", 1}});
    CHECK_THAT(error_of([&] { set.read(0, 9, 10); }),
               Contains("dataset:synthetic") && Contains("begins at 9 s, but there are only 9 s"));
    CHECK_THAT(error_of([&] { set.source.read(set.description.recordings[0], 99, 0, 1, 16000); }),
               Contains("found recording 99"));
}
