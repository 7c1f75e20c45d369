// The host's part of a data-set node: folds, labels with too few recordings, the band limit. On tables of made-up
// files.
#include <fmt/format.h>

#include <map>
#include <set>

#include "audio/decode.hpp"
#include "made.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

/// A dataset:table node on `folder`/clips.csv.
Made make_set(const TempFolder& folder, Json params) {
    params["file"] = (folder / "clips.csv").string();
    return make_node(dataset_type(), &plugins().require("dataset:table"), "clips[bird,0]", params, {}, folder);
}

double rms(const std::vector<float>& x, size_t from, size_t to) {
    double sum = 0;
    for (size_t i = from; i < to; ++i) sum += static_cast<double>(x[i]) * x[i];
    return std::sqrt(sum / static_cast<double>(to - from));
}

}  // namespace

TEST_CASE("folds of a table, with rare labels left out") {
    const TempFolder folder;
    std::string csv = "path,label,start_s,end_s,recording_id\n";
    for (int i = 0; i < 11; ++i) {
        write_sound(folder / fmt::format("s{}.wav", i), SF_FORMAT_WAV | SF_FORMAT_PCM_16, 8000, 1, 8000,
                    [&](int64_t n, int) { return noise(n + 8000 * i); });
        csv += fmt::format("s{0}.wav,{1},0,0.5,r{0}\ns{0}.wav,{1},0.5,1,r{0}\n", i,
                           i < 5    ? "a"
                           : i < 10 ? "b"
                                    : "rare");
    }
    write_text(folder / "clips.csv", csv);
    std::map<std::pair<std::string, double>, int> tests;
    for (int fold = 0; fold < 5; ++fold) {
        const Made made = make_set(folder, {{"split", {{"by", "folds"}, {"folds", 5}, {"fold", fold}, {"seed", 2}}},
                                            {"minimum_recordings", 2},
                                            {"group_name", "bird"}});
        CHECK_THAT(made.notes, Contains("1 labels with fewer than 2 recordings were left out, with their 2 clips"));
        CHECK(made.set.group == "bird");
        CHECK(made.set.clips.size() == 20);
        std::map<std::string, int> of_label;
        for (const Clip& clip : made.set.clips)
            if (clip.split == Split::kTest) {
                ++tests[{made.set.recordings[clip.recording].id, clip.start_s}];
                ++of_label[clip.label];
            }
        CHECK(of_label == std::map<std::string, int>{{"a", 2}, {"b", 2}});
    }
    CHECK(tests.size() == 20);
    for (const auto& [clip, count] : tests) CHECK(count == 1);
    CHECK_THAT(error_of([&] { make_set(folder, {{"minimum_recordings", 6}}); }), Contains("no label has 6 recordings"));
}

TEST_CASE("a band limit takes what lies above it from recordings of any rate") {
    const TempFolder folder;
    std::string csv = "path,label,start_s,end_s,recording_id\n";
    const std::vector<int> rates = {16000, 22050, 44100, 48000};
    for (const int rate : rates)
        for (const double hz : {1000.0, 4040.0, 5000.0}) {
            const std::string name = fmt::format("{}-{}.wav", rate, hz);
            write_sound(folder / name, SF_FORMAT_WAV | SF_FORMAT_FLOAT, rate, 1, 3 * rate,
                        [&](int64_t n, int) { return sine(hz, rate, static_cast<double>(n)); });
            csv += fmt::format("{0},{1},0.5,2.5,{0}\n", name, hz < 4000 ? "low" : "high");
        }
    write_text(folder / "clips.csv", csv);
    const Made open = make_set(folder, Json::object()), limited = make_set(folder, {{"band_limit_hz", 4000}});
    CHECK(limited.json.at("band_limit_hz") == 4000);
    CHECK(limited.json != open.json);
    CHECK(limited.notes.find("band limit") == std::string::npos);
    for (const double rate : {8000.0, 16000.0, 32000.0}) {
        ClipReader reader(limited.set, plugins()), whole(open.set, plugins());
        for (const Clip& clip : limited.set.clips) {
            const std::vector<float> sound = reader.read(clip, rate);
            REQUIRE(sound.size() == static_cast<size_t>(2 * rate));
            if (clip.label == "low") {
                // As if there were no limit, at the ends, too; but for half a sample of the file's own rate where the
                // stretch that the filter needs begins between two samples: 2π · 1000 Hz / (2 · 22050 Hz) · 0.5.
                const bool between = limited.set.recordings[clip.recording].source.sample_rate == 22050;
                CHECK(difference(sound, whole.read(clip, rate)) < (between ? 0.0715 : 1e-3));
            } else {
                CHECK(rms(sound, 0, sound.size()) < 0.35 * 1e-4);  // 80 dB below the tone's own level
                if (rate > 10000) CHECK(rms(whole.read(clip, rate), 0, sound.size()) == Approx(0.3536).epsilon(0.01));
            }
        }
    }
    CHECK_THAT(make_set(folder, {{"band_limit_hz", 8000}}).notes,
               Contains("3 recordings have no sound up to 8000 Hz or end there"));
}

TEST_CASE("noise of several rates has one spectrum below a band limit") {
    // The same 48 kHz noise, stored at 48 and (through the resampler) at 32 kHz: with the limit both give one sound.
    const TempFolder folder;
    std::vector<float> samples(96000);
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<float>(noise(static_cast<int64_t>(i)));
    const std::vector<float> lower = resample(samples, 48000, 32000);
    const int format = SF_FORMAT_WAV | SF_FORMAT_FLOAT;
    write_sound(folder / "a.wav", format, 48000, 1, 96000,
                [&](int64_t n, int) { return samples[static_cast<size_t>(n)]; });
    write_sound(folder / "b.wav", format, 32000, 1, 64000,
                [&](int64_t n, int) { return lower[static_cast<size_t>(n)]; });
    write_text(folder / "clips.csv", "path,label,start_s,end_s\na.wav,a,0.5,1.5\nb.wav,b,0.5,1.5\n");
    const Made open = make_set(folder, Json::object()), limited = make_set(folder, {{"band_limit_hz", 10000}});
    auto apart = [](const Made& made) {
        ClipReader reader(made.set, plugins());
        return difference(reader.read(made.set.clips.at(0), 48000), reader.read(made.set.clips.at(1), 48000));
    };
    CHECK(apart(open) > 0.1);
    CHECK(apart(limited) < 2e-3);
}
