// Quiet stretches of made-up signals, and the node that makes a data set of them.
#include <fmt/format.h>

#include "base/sha256.hpp"
#include "made.hpp"
#include "tasks/quiet.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

constexpr double kRate = 22050;  // 10 ms are no whole number of samples

/// `level(second)` times noise, with an offset.
QuietFound search(double seconds, const std::function<double(double)>& level, double offset,
                  std::vector<std::pair<double, double>> busy = {}, QuietSearch wanted = {}) {
    const auto length = static_cast<size_t>(seconds * kRate);
    size_t reads = 0;
    auto read = [&](size_t first, size_t count) {
        CHECK(++reads < 5);
        std::vector<float> out;
        for (size_t i = first; i < std::min(length, first + count); ++i)
            out.push_back(
                static_cast<float>(offset + level(static_cast<double>(i) / kRate) * noise(static_cast<int64_t>(i))));
        return out;
    };
    return quietest(read, kRate, busy, wanted);
}

std::vector<double> starts(const QuietFound& found) {
    std::vector<double> out;
    for (const QuietStretch& stretch : found.stretches) out.push_back(stretch.start_s);
    return out;
}

}  // namespace

TEST_CASE("the quietest stretches are found, whatever the offset") {
    // Quiet from 2 to 2.5 s and, less so, from 4 to 4.5 s.
    auto level = [](double t) { return t >= 2 && t < 2.5 ? 0.01 : t >= 4 && t < 4.5 ? 0.02 : 1.0; };
    for (const double offset : {0.0, 0.4}) {
        const QuietFound found = search(6, level, offset);
        REQUIRE(starts(found) == std::vector<double>{2, 4});
        CHECK(found.stretches[0].end_s == 2.5);
        // Even noise of width 1 has the standard deviation 1 / √12.
        CHECK(found.stretches[0].rms == Approx(0.01 / std::sqrt(12.0)).epsilon(0.02));
        CHECK(found.stretches[1].rms == Approx(0.02 / std::sqrt(12.0)).epsilon(0.02));
        CHECK(!found.silence);
    }
}

TEST_CASE("stretches outside of the clips go first, and none overlaps another") {
    auto level = [](double t) { return t >= 2 && t < 2.5 ? 0.01 : t >= 2.5 && t < 3 ? 0.02 : 1.0; };
    // One place is left outside of the clips, louder than what is inside of them.
    const QuietFound found = search(6, level, 0, {{0, 5.25}, {5.8, 6}}, {.seconds = 0.5, .most = 3});
    CHECK(starts(found) == std::vector<double>{2, 2.5, found.stretches.at(2).start_s});
    CHECK(found.stretches[2].start_s >= 5.25);
    CHECK(found.stretches[2].end_s <= 5.8);
}

TEST_CASE("digital silence is no background, and neither is what has some in it") {
    auto level = [](double t) { return t < 2 ? 0.0 : t < 3 ? 1.0 : t < 3.5 ? 0.1 : 0.2; };
    for (const double offset : {0.0, 0.25}) {
        const QuietFound found = search(4, level, offset);
        CHECK(found.silence);
        REQUIRE(found.stretches.size() == 2);
        for (const QuietStretch& stretch : found.stretches) CHECK(stretch.start_s >= 3);
        CHECK(search(2, level, offset).stretches.empty());
    }
    CHECK(search(
              0.4, [](double) { return 1.0; }, 0)
              .stretches.empty());
    CHECK(search(
              0.5, [](double) { return 1.0; }, 0)
              .stretches.size() == 1);
}

TEST_CASE("long recordings are read in parts, with the same result") {
    const auto found =
        search(700, [](double t) { return t >= 299.8 && t < 300.4 ? 0.01 : 1.0; }, 0, {}, {.seconds = 0.6, .most = 1});
    CHECK(starts(found) == std::vector<double>{299.8});
}

TEST_CASE("the node keeps splits, group and band limit") {
    const TempFolder folder;
    std::string csv = "path,label,start_s,end_s,recording_id,split\n";
    for (int i = 0; i < 4; ++i) {
        write_sound(folder / fmt::format("s{}.wav", i), SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 48000,
                    [&](int64_t n, int) { return i == 3 ? 0 : (n >= 16000 && n < 24000 ? 0.01 : 0.9) * noise(n + i); });
        csv += fmt::format("s{0}.wav,{1},0,0.5,r{0},{2}\n", i, i % 2 == 0 ? "a" : "b", i % 2 == 0 ? "train" : "test");
    }
    write_text(folder / "clips.csv", csv);
    const Made data =
        make_node(dataset_type(), &plugins().require("dataset:table"), "clips[bird]",
                  {{"file", (folder / "clips.csv").string()}, {"band_limit_hz", 4000}, {"rename_labels", {{"a", "c"}}}},
                  {}, folder);
    CHECK(data.set.names.size() == 1);
    auto background = [&](Json params) {
        return make_node(background_type(), nullptr, "background[bird]", std::move(params),
                         {{"data", {{"clips[bird]", "dataset", data.folder, sha256_hex(data.json.dump())}}}}, folder);
    };
    const Made made = background({{"per_recording", 1}});
    CHECK(made.set.group == "bird");
    CHECK(made.set.band_limit_hz == 4000);
    CHECK(made.set.labels() == std::vector<std::string>{"bird"});
    CHECK(made.set.names.empty());  // they were the clips'
    REQUIRE(made.set.clips.size() == 3);
    for (const Clip& clip : made.set.clips) {
        CHECK(clip.start_s == 1);
        CHECK(clip.end_s == 1.5);
        CHECK(clip.split == (clip.recording % 2 == 0 ? Split::kTrain : Split::kTest));
    }
    CHECK_THAT(made.notes, Contains("1 recordings have digital silence"));
    CHECK_THAT(made.notes, Contains("1 recordings have no stretch of 0.5 s"));
    // From the cache, though the sound is gone; with other parameters it must be read.
    for (int i = 0; i < 4; ++i) fs::remove(folder / fmt::format("s{}.wav", i));
    const Made again = background({{"per_recording", 1}});
    CHECK(again.json == made.json);
    CHECK(again.notes == made.notes);
    CHECK_THAT(error_of([&] { background({{"seconds", 1}}); }), Contains("s0.wav"));
}
