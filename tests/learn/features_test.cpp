#include "learn/features.hpp"

#include <unistd.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include "learn/features.hpp"
#include "learn/windows.hpp"
#include "toy.hpp"

#undef CHECK
#include <catch2/catch.hpp>

using namespace biophony;
using namespace biophony::test;

namespace {

/// Five clips of one to three windows in all splits.
void fill(Sounds& sounds) {
    sounds.add(Sounds::ramp(0, 80), "a");
    sounds.add(Sounds::ramp(300, 240), "b", Split::kTest);
    sounds.add(Sounds::ramp(-700, 160), "a", Split::kValid);
    sounds.add(Sounds::ramp(90, 100), "b");
    sounds.add(Sounds::ramp(5000, 80), "a", Split::kTest);
}

WindowFeatures all_windows(Sounds& sounds, const Registry& registry, Encoder& encoder, const std::string& key = {}) {
    return {sounds.sets,
            std::nullopt,
            registry,
            encoder,
            sounds.progress,
            sounds.cancel,
            uint64_t{1} << 30,
            WindowFeatures::Keep::kFeatures,
            key};
}

}  // namespace

TEST_CASE("features are the encoder's pooled frames of all splits, and give both poolings") {
    Sounds sounds;
    fill(sounds);
    Toy encoder;
    const Registry registry = Registry::of({});
    WindowFeatures windows = all_windows(sounds, registry, encoder);
    REQUIRE(windows.windows().size() == 8);
    FeatureSet features{.encoder = "e", .data = "d", .bands = 2, .width = 4};
    features.values = embed(encoder, windows, 3, sounds.progress, sounds.cancel, Pooling::kBands);
    for (const Window& window : windows.windows()) features.clips.push_back(static_cast<int64_t>(window.clip));
    const auto folder = std::filesystem::temp_directory_path() / ("biophony-features-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    features.save(folder);
    const FeatureSet read = FeatureSet::load(folder);
    CHECK(at::equal(read.values, features.values));
    CHECK(read.clips == std::vector<int64_t>{0, 1, 1, 1, 2, 2, 3, 4});

    const ClipSet& set = sounds.sets[0];
    for (const Split split : {Split::kTrain, Split::kValid, Split::kTest}) {
        WindowFeatures own = sounds.windows(encoder, split);
        std::vector<size_t> order(own.windows().size());
        for (size_t i = 0; i < order.size(); ++i) order[i] = i;
        const at::Tensor frames = encoder.frames(own.batch(order), std::nullopt).detach();
        const std::vector<int64_t> rows = read.windows_of(set, split);
        REQUIRE(rows.size() == order.size());
        for (const Pooling pooling : {Pooling::kMean, Pooling::kBands})
            for (size_t i = 0; i < rows.size(); ++i) {
                const at::Tensor direct = pool(frames, encoder.info(), pooling)[static_cast<int64_t>(i)];
                CHECK((read.pooled(pooling)[rows[i]] - direct).abs().max().item<double>() < 1e-6);
            }
    }

    CHECK(find_features({{"other", "features", folder, ""}}, "e", "d", set).clips.size() == 8);
    CHECK_THROWS_WITH(find_features({{"other", "features", folder, ""}}, "e", "x", set),
                      Catch::Contains("are not connected"));
    write_json(folder / "features.json", {{"encoder", "e"}, {"data", "d"}, {"bands", 3}, {"width", 4}});
    CHECK_THROWS_WITH(FeatureSet::load(folder), Catch::Contains("don't fit each other and features.json"));
    std::filesystem::remove_all(folder);
}

TEST_CASE("features that are no numbers are told apart, with their clip") {
    Sounds sounds;
    fill(sounds);
    FeatureSet features{.clips = {0, 1, 1, 1, 2, 2, 3, 4}, .encoder = "e", .data = "d", .bands = 1, .width = 3};
    const auto folder = std::filesystem::temp_directory_path() / ("biophony-finite-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    const std::vector<InputArtefact> port = {{.node = "features:merged:clips", .type = "features", .folder = folder}};
    auto read = [&](float value) {
        features.values = at::zeros({8, 3});
        features.values[5][2] = value;
        features.save(folder);
        return find_features(port, "e", "d", sounds.sets[0]);
    };
    CHECK(read(3).values[5][2].item<float>() == 3);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
        CHECK_THROWS_WITH(read(bad), Catch::Contains("'features:merged:clips' has features") &&
                                         Catch::Contains("of 1 of 8 windows, the first in the clip 0.000–") &&
                                         Catch::Contains("'" + sounds.sets[0].recordings[2].id + "'"));
    std::filesystem::remove_all(folder);
}

TEST_CASE("the front end hears a data set once for all encoders alike, and the values are the same") {
    Sounds sounds;
    fill(sounds);
    const Registry registry = Registry::of({});
    Toy first(1), second(2);
    const at::Tensor plain = [&] {
        WindowFeatures windows = all_windows(sounds, registry, second);
        return embed(second, windows, 3, sounds.progress, sounds.cancel, Pooling::kBands);
    }();
    const int once = second.heard;
    REQUIRE(once > 0);
    WindowFeatures cold = all_windows(sounds, registry, first, "toy");
    CHECK(first.heard == once);
    WindowFeatures warm = all_windows(sounds, registry, second, "toy");
    CHECK(at::equal(embed(second, warm, 3, sounds.progress, sounds.cancel, Pooling::kBands), plain));
    CHECK(second.heard == once);
    FrontEndCache::set_limit(0);
    WindowFeatures emptied = all_windows(sounds, registry, second, "toy");
    CHECK(second.heard == 2 * once);
    FrontEndCache::set_limit(uint64_t{2} << 30);
}

TEST_CASE("the cache keeps what was used last, within its limit") {
    FrontEndCache::set_limit(0);
    FrontEndCache::set_limit(1000);
    FrontEndCache::keep("a", at::zeros({100}));
    FrontEndCache::keep("b", at::zeros({100}));
    CHECK(FrontEndCache::find("a").defined());
    FrontEndCache::keep("c", at::zeros({100}));
    CHECK(FrontEndCache::find("a").defined());
    CHECK_FALSE(FrontEndCache::find("b").defined());
    FrontEndCache::keep("d", at::zeros({300}));
    CHECK_FALSE(FrontEndCache::find("d").defined());
    CHECK(FrontEndCache::find("c").defined());
    FrontEndCache::set_limit(0);
    FrontEndCache::set_limit(uint64_t{2} << 30);
}

TEST_CASE("front ends are told apart by plugin, configuration and sound, not by splits or weights") {
    Sounds sounds;
    fill(sounds);
    PluginFile file{.path = "/nowhere/toy.so", .version = "1"};
    ItemInfo toy{.kind = "encoder", .id = "toy", .version = "1", .library = "/nowhere/toy.so"};
    toy.build = "one";
    file.items = {toy};
    const Registry registry = Registry::of({file});
    file.items[0].build = "two";
    const Registry rebuilt = Registry::of({file});
    const LoadedEncoder encoder{std::make_shared<Toy>(1), {.encoder = "encoder:toy", .config = {{"window", 1}}}},
        tuned{std::make_shared<Toy>(2), {.encoder = "encoder:toy", .config = {{"window", 1}}}},
        other{std::make_shared<Toy>(1), {.encoder = "encoder:toy", .config = {{"window", 2}}}};
    const std::string key = front_end_key(encoder, registry, sounds.sets[0]);
    ClipSet set = sounds.sets[0];
    set.clips[1].split = Split::kTrain;
    set.clips[0].label = "z";
    CHECK(front_end_key(encoder, registry, set) == key);
    CHECK(front_end_key(tuned, registry, set) == key);
    CHECK(front_end_key(other, registry, set) != key);
    CHECK(front_end_key(encoder, rebuilt, set) != key);
    CHECK(front_end_key(encoder, Registry::of({}), set).empty());
    set.recordings[2].content = "another";
    CHECK(front_end_key(encoder, registry, set) != key);
    set = sounds.sets[0];
    set.band_limit_hz = 1000;
    CHECK(front_end_key(encoder, registry, set) != key);
    set = sounds.sets[0];
    set.clips[3].end_s += 0.001;
    CHECK(front_end_key(encoder, registry, set) != key);
}
