#include "audio/collector.hpp"

#include "sounds.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

/// What the host says to a plugin that pushes what `push` does.
template <class Push>
std::string verdict(Push&& push, bool serves_samples = false) {
    DescriptionCollector collector(serves_samples);
    sdk::DatasetSink sink(collector.sink());
    try {
        push(sink);
    } catch (const sdk::Error&) {
        // as the thunk does
    }
    return error_of([&] { collector.take(); });
}

const Recording kGood{.id = "r", .uri = "/sounds/r.wav"};

std::string recording_verdict(const Recording& recording, bool serves_samples = false) {
    return verdict([&](auto& sink) { sink.add(recording); }, serves_samples);
}
std::string region_verdict(Region region, double seconds = 0) {
    return verdict([&](auto& sink) {
        Recording recording = kGood;
        recording.seconds = seconds;
        sink.add(recording);
        sink.add(region);
    });
}
Recording with(const std::function<void(Recording&)>& change) {
    Recording recording = kGood;
    change(recording);
    return recording;
}

}  // namespace

TEST_CASE("a good description comes through whole") {
    DescriptionCollector collector(false);
    sdk::DatasetSink sink(collector.sink());
    Recording recording{.id = "Ä 1",
                        .uri = "/x/ä.wav",
                        .channel = 1,
                        .seconds = 10,
                        .sample_rate = 44100,
                        .start_time = "2024-05-01T04:30:00Z",
                        .latitude = -10.5,
                        .longitude = 170,
                        .licence = "CC0",
                        .groups = {{"recording", "r1"}, {"site", "s"}},
                        .reviewed = BPH_REVIEWED_CLASSES,
                        .reviewed_classes = {"a", "b"},
                        .split = "valid"};
    CHECK(sink.add(recording) == 0);
    sink.add(Region{.recording = 0,
                    .start_s = 1,
                    .end_s = 10.04,
                    .low_hz = 100,
                    .high_hz = 200,
                    .labels = {{"Hyla", "scientific", BPH_ABSENT, BPH_SECONDARY}},
                    .annotator = "me",
                    .split = "test"});
    sink.add(Region{});
    const auto got = collector.take();
    REQUIRE(got.recordings.size() == 1);
    REQUIRE(got.regions.size() == 2);
    const Recording& r = got.recordings[0];
    CHECK(r.id == "Ä 1");
    CHECK(r.uri == "/x/ä.wav");
    CHECK(r.channel == 1);
    CHECK(r.start_time == "2024-05-01T04:30:00Z");
    CHECK(r.latitude == -10.5);
    CHECK(r.groups == recording.groups);
    CHECK(r.reviewed_classes == recording.reviewed_classes);
    CHECK(r.split == "valid");
    CHECK(got.regions[0].labels[0].label_namespace == "scientific");
    CHECK(got.regions[0].labels[0].state == BPH_ABSENT);
    CHECK(got.regions[0].labels[0].rank == BPH_SECONDARY);
    CHECK(got.regions[0].high_hz == 200);
    CHECK(got.regions[0].split == "test");
    CHECK(std::isnan(got.regions[1].end_s));
}

TEST_CASE("what a plugin may not say about a recording") {
    CHECK_THAT(verdict([](auto&) {}), Contains("describes no recordings"));
    CHECK_THAT(recording_verdict({.uri = "/a"}), Contains("recording 0: it has no id"));
    CHECK_THAT(verdict([](auto& sink) { sink.add(kGood), sink.add(kGood); }),
               Contains("recording 1 ('r'): the id stands for an earlier"));
    CHECK_THAT(recording_verdict({.id = "r"}), Contains("recording 0 ('r'): it has no file"));
    CHECK_THAT(recording_verdict({.id = "r", .uri = "a.wav"}),
               Contains("found uri = 'a.wav', expected an absolute path"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.id = "\xff"; })), Contains("id is not UTF-8: '\\xff'"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.uri = "/\xc3"; })), Contains("uri is not UTF-8"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.licence = "\xed\xa0\x80"; })), Contains("licence is not UTF-8"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.licence = "\xc0\x80"; })), Contains("licence is not UTF-8"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.licence = std::string("a\0b", 3); })),
               Contains("licence has a NUL"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.channel = -2; })),
               Contains("found channel = -2, expected 0 or more"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.seconds = -1; })), Contains("found seconds = -1"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.seconds = std::nan(""); })), Contains("found seconds = nan"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.latitude = 91; })), Contains("found latitude = 91"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.longitude = -181; })), Contains("found longitude = -181"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.split = "tset"; })),
               Contains("found split = 'tset'") && Contains("did you mean 'test'"));
    CHECK_THAT(recording_verdict(with([](auto& r) { r.reviewed = 7; })), Contains("found reviewed = 7"));
    CHECK_THAT(recording_verdict(with([](auto& r) {
                   r.groups = {{"site", "a"}, {"site", "b"}};
               })),
               Contains("'site' is given twice"));
    CHECK_THAT(recording_verdict({.id = "r", .seconds = 3}, true), Contains("found sample_rate = 0"));
    CHECK_THAT(recording_verdict({.id = "r", .sample_rate = 16000}, true), Contains("found seconds = 0"));
    CHECK(recording_verdict({.id = "r", .seconds = 3, .sample_rate = 16000}, true) == "no error");
    CHECK(recording_verdict(kGood) == "no error");
}

TEST_CASE("what a plugin may not say about a region") {
    CHECK_THAT(region_verdict({.recording = 1}),
               Contains("region 0: found the recording's index 1, expected one below 1"));
    CHECK_THAT(region_verdict({.start_s = -0.1}), Contains("region 0 of recording 'r': found start_s = -0.1"));
    CHECK_THAT(region_verdict({.start_s = 2, .end_s = 2}),
               Contains("found end_s = 2, expected a time after the start"));
    CHECK_THAT(region_verdict({.end_s = INFINITY}), Contains("found end_s = inf"));
    CHECK_THAT(region_verdict({.start_s = 11}, 10),
               Contains("found start_s = 11, expected a time within the recording's 10 s"));
    CHECK_THAT(region_verdict({.end_s = 10.2}, 10), Contains("found end_s = 10.2"));
    CHECK_THAT(region_verdict({.low_hz = 500, .high_hz = 400}), Contains("found high_hz = 400"));
    CHECK_THAT(region_verdict({.low_hz = -1}), Contains("found low_hz = -1"));
    CHECK_THAT(region_verdict({.labels = {{""}}}), Contains("a label has no name"));
    CHECK_THAT(region_verdict({.labels = {{"a", "", 3}}}), Contains("a label's state = 3"));
    CHECK_THAT(region_verdict({.labels = {{"a\xfe"}}}), Contains("a label is not UTF-8: 'a\\xfe'"));
    CHECK_THAT(region_verdict({.split = "dev"}), Contains("found split = 'dev'"));
    CHECK(region_verdict({.end_s = 10.04}, 10) == "no error");
}

TEST_CASE("after the first problem the sink takes nothing more, and the first problem is told") {
    DescriptionCollector collector(false);
    sdk::DatasetSink sink(collector.sink());
    CHECK_THROWS_AS(sink.add(Recording{.id = "x"}), sdk::Error);
    CHECK_THROWS_AS(sink.add(kGood), sdk::Error);
    bph_recording old{};
    old.struct_size = 8;
    CHECK(collector.sink()->recording(collector.sink(), &old) != BPH_OK);
    CHECK_THAT(error_of([&] { collector.rethrow(); }), Contains("recording 0 ('x'): it has no file"));
}
