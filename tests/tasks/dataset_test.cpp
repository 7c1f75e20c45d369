// The host's part of a data-set node: folds, labels with too few recordings, the band limit. On tables of made-up
// files.
#include <fmt/format.h>

#include <map>
#include <set>

#include "audio/decode.hpp"
#include "base/sha256.hpp"
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

/// Recordings r0.wav, r1.wav, … of one second each.
void write_sounds(const TempFolder& folder, int count) {
    for (int i = 0; i < count; ++i)
        write_sound(folder / fmt::format("r{}.wav", i), SF_FORMAT_WAV | SF_FORMAT_PCM_16, 8000, 1, 8000,
                    [&](int64_t n, int) { return noise(n + 8000 * i); });
}

/// "class: clips" of each class.
std::map<std::string, int> classes_of(const ClipSet& set) {
    std::map<std::string, int> out;
    for (const Clip& clip : set.clips) ++out[clip.label];
    return out;
}
using Counts = std::map<std::string, int>;
using Names = std::map<std::string, std::vector<std::string>>;

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

TEST_CASE("labels with one taxon id are one class") {
    const TempFolder folder;
    write_sounds(folder, 9);
    const std::string rows =
        "r0.wav,Barn Swallow,Hirundo rustica ,9515886,barswa\n"
        "r1.wav,Rauchschwalbe,Hirundo rustica,9515886,\n"
        "r2.wav,Rauchschwalbe,Hirundo rustica,9515886,\n"
        "r3.wav,Laubfrosch,Hyla arborea,,\n"
        "r4.wav,Hyla arborea,,,\n"
        "r5.wav,rain, ,,\n"
        "r6.wav,Dohle,,,eurjac\n"
        "r7.wav,Hyla,Hyla arborea,,\n"
        "r8.wav,Hyla,Hyla savignyi,,\n";
    write_text(folder / "clips.csv", "path,label,latin,key,code\n" + rows);
    const Json all = {{"scientific", "latin"}, {"gbif", "key"}, {"ebird", "code"}};

    const Made latin = make_set(folder, {{"columns", {{"scientific", "latin"}}}});
    CHECK(classes_of(latin.set) ==
          Counts{{"Hirundo rustica", 3}, {"Hyla arborea", 3}, {"Hyla savignyi", 1}, {"rain", 1}, {"Dohle", 1}});
    const Names names = {{"Hirundo rustica", {"Barn Swallow", "Rauchschwalbe"}},
                         {"Hyla arborea", {"Hyla", "Hyla arborea", "Laubfrosch"}},
                         {"Hyla savignyi", {"Hyla"}}};
    CHECK(latin.set.names == names);
    CHECK(latin.json.at("names") == Json(names));
    CHECK_THAT(latin.notes, Contains("2 classes have several labels in the source; clips of each: 'Hirundo rustica' "
                                     "('Barn Swallow' 1, 'Rauchschwalbe' 2); 'Hyla arborea' ('Hyla' 1, "
                                     "'Hyla arborea' 1, 'Laubfrosch' 1)\n"));
    CHECK_THAT(latin.notes, Contains("1 labels of the source stand for several classes; clips of each: 'Hyla' "
                                     "('Hyla arborea' 1, 'Hyla savignyi' 1)\n"));

    // GBIF before eBird before a name; minimum_recordings counts classes.
    CHECK(classes_of(make_set(folder, {{"columns", all}}).set) ==
          Counts{{"gbif:9515886", 3}, {"Hyla arborea", 3}, {"Hyla savignyi", 1}, {"rain", 1}, {"ebird:eurjac", 1}});
    const Made common = make_set(folder, {{"columns", all}, {"minimum_recordings", 3}});
    CHECK(classes_of(common.set) == Counts{{"gbif:9515886", 3}, {"Hyla arborea", 3}});
    CHECK(common.set.names.size() == 2);
    std::set<Split> splits;
    for (const Clip& clip : common.set.clips)
        if (clip.label == "gbif:9515886") splits.insert(clip.split);
    CHECK(splits.size() == 3);

    const Made labels = make_set(folder, {{"columns", all}, {"classes", "label"}});
    CHECK(classes_of(labels.set) == Counts{{"Barn Swallow", 1},
                                           {"Rauchschwalbe", 2},
                                           {"Laubfrosch", 1},
                                           {"Hyla arborea", 1},
                                           {"Hyla", 2},
                                           {"rain", 1},
                                           {"Dohle", 1}});
    CHECK(labels.notes.find("class") == std::string::npos);
    // What no class needs isn't said, so that the same clips are the same bytes.
    CHECK(labels.json == make_set(folder, Json::object()).json);
    CHECK_FALSE(labels.json.contains("names"));
}

TEST_CASE("a set without taxon ids and renames is written as ever") {
    const TempFolder folder;
    write_sounds(folder, 1);
    write_text(folder / "clips.csv", "path,label,end_s\nr0.wav,a,0.5\n");
    const Made made = make_set(folder, Json::object());
    CHECK(read_file(made.folder / "dataset.json") == fmt::format(R"({{
  "band_limit_hz": 0.0,
  "clips": [
    {{
      "end_s": 0.5,
      "label": "a",
      "recording": 0,
      "split": "train",
      "start_s": 0.0
    }}
  ],
  "format": "biophony-dataset/0",
  "group": "bird,0",
  "labels": [
    "a"
  ],
  "recordings": [
    {{
      "channel": -1,
      "content": "{}",
      "id": "r0.wav",
      "licence": "",
      "unit": "r0.wav"
    }}
  ]
}}
)",
                                                                 sha256_file(folder / "r0.wav")));
    // Nor does a plugin see what is the host's.
    const Json params = read_json(made.folder / "locations.local.json").at("params");
    for (const char* ours : {"classes", "rename_labels", "minimum_recordings"}) CHECK_FALSE(params.contains(ours));
}

TEST_CASE("labels are renamed at once, before classes are told") {
    const TempFolder folder;
    write_sounds(folder, 4);
    write_text(folder / "clips.csv",
               "path,label,latin\nr0.wav,a,\nr1.wav,b,\nr2.wav,frog 3,\nr3.wav,Laubfrosch,Hyla arborea\n");
    const Json columns = {{"scientific", "latin"}};
    const Made swapped = make_set(
        folder, {{"columns", columns}, {"rename_labels", {{"a", "b"}, {"b", "a"}, {"frog 3", "Hyla arborea"}}}});
    std::map<std::string, std::string> label_of;
    for (const Clip& clip : swapped.set.clips) label_of[swapped.set.recordings[clip.recording].id] = clip.label;
    CHECK(label_of == std::map<std::string, std::string>{
                          {"r0.wav", "b"}, {"r1.wav", "a"}, {"r2.wav", "Hyla arborea"}, {"r3.wav", "Hyla arborea"}});
    CHECK(swapped.set.names == Names{{"a", {"b"}}, {"b", {"a"}}, {"Hyla arborea", {"Laubfrosch", "frog 3"}}});

    CHECK_THAT(error_of([&] {
                   make_set(folder, {{"rename_labels", {{"frog3", "x"}}}});
               }),
               Contains("\"rename_labels\": no clip has the label 'frog3'; did you mean 'frog 3'?"));
    // A taxon id says more than a label.
    const Json rename = {{"Laubfrosch", "x"}};
    const Made vain = make_set(folder, {{"columns", columns}, {"rename_labels", rename}});
    CHECK(classes_of(vain.set).contains("Hyla arborea"));
    CHECK_THAT(vain.notes, Contains("1 clips have a taxon id, which stays their class"));
    CHECK(classes_of(make_set(folder, {{"columns", columns}, {"rename_labels", rename}, {"classes", "label"}}).set)
              .contains("x"));
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

TEST_CASE("a recording that changed since it was looked at is not read") {
    const TempFolder folder;
    auto sound = [&](double hz) {
        write_sound(folder / "a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 8000, 1, 8000,
                    [&](int64_t n, int) { return static_cast<float>(std::sin(hz * static_cast<double>(n))); });
    };
    sound(0.1);
    write_text(folder / "clips.csv", "path,label,start_s,end_s\na.wav,a,0,0.5\na.wav,b,0.5,1\n");
    const Made made = make_set(folder, Json::object());
    const auto time = fs::last_write_time(folder / "a.wav");
    ClipReader before(made.set, plugins());
    CHECK(before.read(made.set.clips.at(0), 8000).size() == 4000);
    sound(0.2);
    fs::last_write_time(folder / "a.wav", time);  // size and time are as they were
    ClipReader after(made.set, plugins());
    for (ClipReader* reader : {&before, &after})
        CHECK_THROWS_WITH(reader->read(made.set.clips.at(1), 8000),
                          Contains("a.wav") && Contains("changed since the data set 'bird,0' was looked at"));
    const Made again = make_set(folder, Json::object());
    CHECK(again.set.recordings.at(0).content != made.set.recordings.at(0).content);
    sound(0.1);
    CHECK(after.read(made.set.clips.at(1), 8000).size() == 4000);  // another file, of the same bytes
}
