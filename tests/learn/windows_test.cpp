#include "toy.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <set>

#include <catch2/catch.hpp>

using namespace biophony;
using namespace biophony::test;

namespace {

/// The sample at this place of a window, as the file has it.
int sample(const at::Tensor& waves, int64_t window, int64_t at) {
    return static_cast<int>(std::lround(waves[window][at].item<double>() * 32768));
}

const size_t kAll[] = {0, 1, 2, 3, 4};

}  // namespace

TEST_CASE("short clips are repeated, long ones have several windows") {
    Sounds sounds;
    sounds.add(Sounds::ramp(1000, 30), "short");
    sounds.add(Sounds::ramp(2000, 200), "long");  // 2.5 windows: 3, the last one filled from the start
    sounds.add(Sounds::ramp(3000, 110), "one");   // 1.4 windows: 1
    sounds.add(Sounds::ramp(4000, 80), "other split", Split::kTest);
    Toy toy;
    WindowFeatures windows = sounds.windows(toy);
    REQUIRE(windows.windows().size() == 5);
    CHECK(windows.clip(0).label == "short");
    CHECK(windows.clip(3).label == "long");
    CHECK(windows.clip(4).label == "one");
    const at::Tensor waves = windows.waves(kAll);
    REQUIRE(waves.sizes() == at::IntArrayRef({5, 80}));
    CHECK(sample(waves, 0, 29) == 1029);
    CHECK(sample(waves, 0, 30) == 1000);
    CHECK(sample(waves, 1, 0) == 2000);
    CHECK(sample(waves, 2, 0) == 2080);
    CHECK(sample(waves, 3, 0) == 2160);
    CHECK(sample(waves, 3, 39) == 2199);
    CHECK(sample(waves, 3, 40) == 2000);
    CHECK(sample(waves, 4, 79) == 3079);
    CHECK(sounds.windows(toy, Split::kTest).windows().size() == 1);
    CHECK(sounds.windows(toy, Split::kValid).windows().empty());
}

TEST_CASE("the memory limit changes no value, whatever is kept") {
    Sounds sounds;
    sounds.add(Sounds::ramp(-500, 30), "a");
    sounds.add(Sounds::ramp(2000, 200), "b");
    sounds.add(Sounds::ramp(9000, 110), "a");
    Toy toy;
    WindowFeatures kept = sounds.windows(toy);
    const int after = toy.heard;
    const at::Tensor expected = kept.batch(kAll);
    CHECK(toy.heard == after);  // nothing is made again
    constexpr uint64_t kWindow = 80 * sizeof(float);
    for (const auto keep : {WindowFeatures::Keep::kFeatures, WindowFeatures::Keep::kSound})
        for (const uint64_t limit : {uint64_t{0}, kWindow, 3 * kWindow, uint64_t{1} << 30}) {
            INFO("limit " << limit << ", sound " << (keep == WindowFeatures::Keep::kSound));
            WindowFeatures windows = sounds.windows(toy, Split::kTrain, limit, keep);
            CHECK(at::equal(windows.batch(kAll), expected));
            const size_t some[] = {4, 0, 2, 2};
            CHECK(at::equal(windows.batch(some), expected.index_select(0, at::tensor({4, 0, 2, 2}))));
            CHECK(at::equal(windows.waves(kAll).flatten(), expected.flatten()));
            Random one(5), other(5);
            CHECK(at::equal(windows.waves(kAll, &one), kept.waves(kAll, &other)));
        }
    // What doesn't fit goes to a file, and is not made again.
    WindowFeatures windows = sounds.windows(toy, Split::kTrain, kWindow, WindowFeatures::Keep::kFeatures,
                                            std::filesystem::temp_directory_path());
    const int made = toy.heard;
    CHECK(at::equal(windows.batch(kAll), expected));
    CHECK(toy.heard == made);
}

TEST_CASE("windows that begin anywhere stay in their clip") {
    Sounds sounds;
    sounds.add(Sounds::ramp(1000, 30), "short");
    sounds.add(Sounds::ramp(2000, 200), "long");
    Toy toy;
    WindowFeatures windows = sounds.windows(toy, Split::kTrain, uint64_t{1} << 30, WindowFeatures::Keep::kSound);
    Random random(3);
    std::set<int> short_starts, long_starts;
    const size_t both[] = {0, 2};
    for (int i = 0; i < 600; ++i) {
        const at::Tensor waves = windows.waves(both, &random);
        const int first = sample(waves, 0, 0), far = sample(waves, 1, 0);
        short_starts.insert(first);
        long_starts.insert(far);
        REQUIRE(sample(waves, 0, 30) == first);  // goes round
        REQUIRE(sample(waves, 0, 1) == (first == 1029 ? 1000 : first + 1));
        REQUIRE(sample(waves, 1, 79) == far + 79);  // goes straight on
    }
    CHECK(short_starts.size() == 30);
    CHECK(*long_starts.begin() >= 2000);
    CHECK(*long_starts.begin() <= 2003);
    CHECK(*long_starts.rbegin() <= 2120);
    CHECK(*long_starts.rbegin() >= 2117);
}
