#include "tasks/embed.hpp"

#include "audio/decode.hpp"
#include "audio/window.hpp"
#include "sounds.hpp"
#include "tasks/sound_reader.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

constexpr int kWav = SF_FORMAT_WAV | SF_FORMAT_FLOAT;

fs::path ramp(const fs::path& path, int64_t from, int64_t samples, int rate = 8000) {
    return write_sound(path, kWav, rate, 1, samples, [&](int64_t n, int) { return static_cast<double>(from + n); });
}

/// Everything that a reader says, as text: "input.row first..last" and "input: length problem".
std::vector<std::string> all(SoundReader& reader, std::vector<std::vector<float>>* samples = nullptr) {
    std::vector<std::string> out;
    const Cancel cancel;
    while (const auto piece = reader.next(cancel)) {
        if (piece->row < 0) {
            out.push_back(std::to_string(piece->input) + ": " + std::to_string(piece->length) + " " + piece->problem);
            continue;
        }
        out.push_back(std::to_string(piece->input) + "." + std::to_string(piece->row));
        if (samples != nullptr) samples->push_back(piece->samples);
    }
    return out;
}

}  // namespace

TEST_CASE("windows go on until one reaches the end of the file") {
    CHECK(window_count(100, 100, 100) == 1);
    CHECK(window_count(101, 100, 100) == 2);
    CHECK(window_count(300, 100, 100) == 3);
    CHECK(window_count(30, 100, 10) == 1);   // shorter than a window
    CHECK(window_count(130, 100, 10) == 4);  // 0, 10, 20, 30: the last ends with the file
    CHECK(window_count(131, 100, 10) == 5);
    CHECK(window_count(250, 100, 200) == 2);  // gaps: 0 and 200
    CHECK(window_count(200, 100, 200) == 1);  // 200 begins behind the end
    CHECK(window_count(0, 100, 100) == 0);
}

TEST_CASE("folders give their sound files sorted, others are taken as they are named") {
    const TempFolder folder;
    for (const char* name : {"b/Z.WAV", "b/a.flac", "b/deep/er/x.Mp3", "b/.hidden.wav", "b/.git/y.wav", "b/notes.txt",
                             "b/a.wav:Zone.Identifier", "odd.name", "c/readme.md"})
        write_text(folder / name, "x");
    fs::create_directory_symlink(folder / "b", folder / "b/deep/loop");
    std::vector<std::string> found;
    for (const EmbedInput& input : find_sounds({(folder / "odd.name").string(), (folder / "b").string()}))
        found.push_back(fs::relative(input.path, folder.string()).string());
    CHECK(found == std::vector<std::string>{"odd.name", "b/Z.WAV", "b/a.flac", "b/deep/er/x.Mp3"});
    CHECK_THAT(error_of([&] { find_sounds({(folder / "c").string()}); }), Contains("holds no sound files"));
    CHECK_THAT(error_of([&] { find_sounds({(folder / "none.wav").string()}); }),
               Contains("none.wav: there is no such file or folder"));
}

TEST_CASE("windows are the file's samples, the last one goes on from its start") {
    const TempFolder folder;
    constexpr int64_t kLong = 200000;  // several blocks
    const std::vector<std::string> files = {ramp(folder / "long.wav", 0, kLong),
                                            ramp(folder / "short.wav", 1000000, 30),
                                            ramp(folder / "one.wav", 2000000, 4000)};
    for (const auto& [window, hop] :
         {std::pair<int64_t, int64_t>{4000, 4000}, {4000, 1500}, {4000, 70001}, {90000, 90000}}) {
        INFO("window " << window << ", hop " << hop);
        SoundReader reader(files, {.rate = 8000, .window = window, .hop = hop}, 10000);
        std::vector<std::vector<float>> samples;
        const std::vector<std::string> said = all(reader, &samples);
        std::vector<std::string> expected;
        std::vector<std::vector<float>> windows;
        for (size_t f = 0; f < files.size(); ++f) {
            const std::vector<float> clip = decode_audio(files[f], 0, std::nan(""), -1, 8000);
            const auto length = static_cast<int64_t>(clip.size());
            for (int64_t w = 0; w < window_count(length, window, hop); ++w) {
                expected.push_back(std::to_string(f) + "." + std::to_string(w));
                windows.push_back(window_repeated(clip, static_cast<size_t>(w * hop), static_cast<size_t>(window)));
            }
            expected.push_back(std::to_string(f) + ": " + std::to_string(length) + " ");
        }
        CHECK(said == expected);
        CHECK((samples == windows));
    }
}

TEST_CASE("a file that can't be used is told at its end, and the next is read") {
    const TempFolder folder;
    const fs::path cut = ramp(folder / "cut.wav", 0, 400000);
    fs::resize_file(cut, fs::file_size(cut) / 2);
    const std::vector<std::string> files = {write_text(folder / "text.wav", "not sound").string(), cut.string(),
                                            (folder / "gone.wav").string(), ramp(folder / "tiny.wav", 0, 99).string(),
                                            ramp(folder / "good.wav", 7, 100).string()};
    for (const int64_t window : {int64_t{0}, int64_t{40000}}) {
        SoundReader reader(files, {.rate = 8000, .window = window, .hop = window, .least = 100}, 100000);
        const std::vector<std::string> said = all(reader);
        std::string text;
        for (const std::string& line : said) text += line + "\n";
        CHECK_THAT(text, Contains("0: 0 is a text file, not audio"));
        CHECK_THAT(text, Contains("1: 0 truncated: the header says 400000 samples"));
        CHECK_THAT(text, Contains("2: 0 is missing"));
        CHECK_THAT(text, Contains("3: 99 lasts 0.012 s, the encoder needs 0.013 s"));
        CHECK(text.ends_with("4.0\n4: 100 \n"));
        CHECK_THAT(text, !Contains("3.0"));
        CHECK((text.find("1.0\n") != std::string::npos) == (window > 0));  // it was good so far
    }
}

TEST_CASE("whole files are refused by length before they are in memory") {
    const TempFolder folder;
    const std::vector<std::string> files = {ramp(folder / "long.wav", 0, 500000), ramp(folder / "short.wav", 3, 1000)};
    SoundReader reader(files,
                       {.rate = 8000, .too_long = [](int64_t n) { return n > 1000 ? "too long" : std::string(); }}, 10);
    std::vector<std::vector<float>> samples;
    CHECK(all(reader, &samples) == std::vector<std::string>{"0: 0 too long", "1.0", "1: 1000 "});
    CHECK(samples.at(0).at(5) == 8);
}

TEST_CASE("a reader that nobody waits for ends, and waiting ends when cancelled") {
    const TempFolder folder;
    const std::vector<std::string> files(50, ramp(folder / "a.wav", 0, 200000).string());
    Cancel cancel;
    {
        SoundReader reader(files, {.rate = 8000, .window = 1000, .hop = 10}, 2000);
        CHECK(reader.next(cancel)->samples.size() == 1000);
    }
    SoundReader reader(files, {.rate = 44100, .window = 1000, .hop = 10}, 2000);
    cancel.request();
    CHECK_THROWS_AS(reader.next(cancel), Error);
}
