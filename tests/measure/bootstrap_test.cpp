#include <catch2/catch.hpp>
#include <cmath>

#include "base/error.hpp"
#include "base/random.hpp"
#include "measure/metrics.hpp"

using namespace biophony;

namespace {

struct Clips {
    std::vector<double> values;
    std::vector<int> recording, group;
    void add(double value, int r, int g) {
        values.push_back(value);
        recording.push_back(r);
        group.push_back(g);
    }
    Interval interval(int resamples = 500, uint64_t seed = 1, double level = 0.95) const {
        return bootstrap_mean(values, recording, group, level, resamples, seed);
    }
};

double width(const Interval& interval) {
    return interval.high - interval.low;
}

/// `recordings` of `clips_each` equal clips with a value from N(0, 1) each.
Clips normal_recordings(int recordings, int clips_each, uint64_t seed) {
    Random random(seed);
    Clips out;
    for (int r = 0; r < recordings; ++r) {
        const double value = random.normal();
        for (int c = 0; c < clips_each; ++c) out.add(value, r, 0);
    }
    return out;
}

}  // namespace

TEST_CASE("bootstrap is a function of its seed") {
    const Clips clips = normal_recordings(20, 3, 4);
    const Interval a = clips.interval(), b = clips.interval(), c = clips.interval(500, 2);
    CHECK(a.low == b.low);
    CHECK(a.high == b.high);
    CHECK((a.low != c.low || a.high != c.high));
    CHECK(a.low < a.high);
    const Interval narrow = clips.interval(500, 1, 0.5);
    CHECK(a.low < narrow.low);
    CHECK(narrow.high < a.high);
}

TEST_CASE("bootstrap of equal values is that value") {
    Clips clips;
    for (int i = 0; i < 30; ++i) clips.add(0.1, i / (1 + i % 4), i % 3);
    const Interval interval = clips.interval();
    CHECK(interval.low == 0.1);
    CHECK(interval.high == 0.1);
}

TEST_CASE("bootstrap intervals cover the true mean about as often as they say") {
    int covered = 0;
    const int trials = 400;
    for (int t = 0; t < trials; ++t) {
        const Interval interval = normal_recordings(40, 2, 100 + t).interval(300, t);
        covered += interval.low <= 0 && 0 <= interval.high ? 1 : 0;
    }
    const double share = static_cast<double>(covered) / trials;
    CHECK(share > 0.90);
    CHECK(share < 0.985);
}

TEST_CASE("bootstrap draws recordings, not clips") {
    // 25 recordings of 16 equal clips: the interval is that of 25 values, four times as wide as that of 400.
    const Clips grouped = normal_recordings(25, 16, 9);
    Clips alone = grouped;
    for (size_t i = 0; i < alone.recording.size(); ++i) alone.recording[i] = static_cast<int>(i);
    CHECK(width(grouped.interval(2000)) == Approx(4 * width(alone.interval(2000))).epsilon(0.15));
}

TEST_CASE("bootstrap keeps the groups' shares") {
    // Each group is constant, the groups differ: only drawing across groups could move the mean.
    Clips clips;
    for (int r = 0; r < 10; ++r) clips.add(0.0, r, 0);
    for (int r = 0; r < 30; ++r) clips.add(1.0, r, 1);  // the same codes, other recordings
    const Interval interval = clips.interval();
    CHECK(interval.low == 0.75);
    CHECK(interval.high == 0.75);
}

TEST_CASE("bootstrap of paired differences sees what the pairs have in common") {
    // Two models on the same clips: their scores vary a lot between recordings, their difference hardly.
    Random random(3);
    Clips a, b, difference;
    for (int r = 0; r < 30; ++r) {
        const double hard = random.normal(), noise = 0.01 * random.normal();
        a.add(hard, r, 0);
        b.add(hard + 0.1 + noise, r, 0);
        difference.add(0.1 + noise, r, 0);
    }
    const Interval interval = difference.interval();
    CHECK(interval.low > 0.08);
    CHECK(interval.high < 0.12);
    CHECK(width(interval) < 0.1 * width(a.interval()));
    CHECK(width(interval) < 0.1 * width(b.interval()));
}

TEST_CASE("bootstrap of a binary share agrees with the binomial") {
    Clips clips;
    for (int r = 0; r < 200; ++r) clips.add(r < 140 ? 1.0 : 0.0, r, 0);
    const Interval interval = clips.interval(4000);
    const double half = 1.96 * std::sqrt(0.7 * 0.3 / 200);
    CHECK(interval.low == Approx(0.7 - half).margin(0.01));
    CHECK(interval.high == Approx(0.7 + half).margin(0.01));
}

TEST_CASE("bootstrap of what can't be") {
    CHECK(std::isnan(bootstrap_mean({}, {}, {}, 0.95, 10, 1).low));
    Clips clips;
    clips.add(1, 0, 0);
    clips.add(NAN, 1, 0);
    CHECK(std::isnan(clips.interval().low));
    CHECK(std::isnan(clips.interval().high));
    clips.values[1] = 2;
    CHECK_THROWS_AS(clips.interval(0), Error);
    CHECK_THROWS_AS(clips.interval(10, 1, 1.0), Error);
    CHECK_THROWS_AS(clips.interval(10, 1, 0.0), Error);
    clips.group.pop_back();
    CHECK_THROWS_AS(clips.interval(), Error);
}
