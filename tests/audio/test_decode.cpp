#include "audio/decode.hpp"

#include "audio/window.hpp"
#include "sounds.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

constexpr double kEnd = std::numeric_limits<double>::quiet_NaN();
constexpr int kWav16 = SF_FORMAT_WAV | SF_FORMAT_PCM_16;
constexpr int kWavFloat = SF_FORMAT_WAV | SF_FORMAT_FLOAT;
constexpr int kFlac = SF_FORMAT_FLAC | SF_FORMAT_PCM_16;
constexpr int kVorbis = SF_FORMAT_OGG | SF_FORMAT_VORBIS;
constexpr int kMp3 = SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III;

std::vector<float> part(const std::vector<float>& all, size_t first, size_t count) {
    REQUIRE(first + count <= all.size());
    return {all.begin() + static_cast<std::ptrdiff_t>(first), all.begin() + static_cast<std::ptrdiff_t>(first + count)};
}

}  // namespace

TEST_CASE("every exact format gives the samples back, any stretch of them") {
    const TempFolder folder;
    struct Format {
        const char* name;
        int format;
        double tolerance;
    };
    for (const auto& [name, format, tolerance] : {Format{"a.wav", kWav16, 1.0 / 32768},
                                                  {"b.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_24, 2e-7},
                                                  {"c.WAV", kWavFloat, 1e-7},
                                                  {"d.flac", kFlac, 1.0 / 32768},
                                                  {"e.aiff", SF_FORMAT_AIFF | SF_FORMAT_PCM_16, 1.0 / 32768},
                                                  {"f.rf64", SF_FORMAT_RF64 | SF_FORMAT_PCM_16, 1.0 / 32768},
                                                  {"g.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_U8, 1.0 / 128}}) {
        INFO(name);
        const auto file = write_sound(folder / name, format, 16000, 1, 40000, [](int64_t n, int) { return noise(n); });
        CHECK(check_audio(file).problem.empty());
        const AudioInfo info = read_audio_info(file);
        CHECK(info.sample_rate == 16000);
        CHECK(info.channels == 1);
        CHECK(info.frames == 40000);
        for (const auto& [start, end] : {std::pair{0.0, kEnd}, {0.0, 1.0}, {0.7, 1.9}, {2.25, 99.0}, {1.00001, 1.5}}) {
            const std::vector<float> got = decode_audio(file, start, end, -1, 16000);
            const double until = std::isnan(end) || end > 2.5 ? 2.5 : end;
            REQUIRE(got.size() == static_cast<size_t>(std::llround((until - start) * 16000)));
            const auto first = std::llround(start * 16000);
            double most = 0;
            for (size_t i = 0; i < got.size(); ++i)
                most = std::max(most, std::abs(got[i] - noise(first + static_cast<int64_t>(i))));
            CHECK(most <= tolerance);
        }
    }
}

TEST_CASE("a stretch of an MP3 or OGG file is what decoding from the start gives") {
    const TempFolder folder;
    struct Format {
        const char* name;
        int format, rate, seconds, places;
    };
    for (const auto& [name, format, rate, seconds, places] :
         {Format{"a.mp3", kMp3, 44100, 30, 20},
          {"a.ogg", kVorbis, 16000, 10, 150},
          {"b.ogg", kVorbis, 44100, 10, 40},
          {"opus.ogg", SF_FORMAT_OGG | SF_FORMAT_OPUS, 48000, 5, 10}}) {
        INFO(name);
        const auto bursts = [rate](int64_t n, int) { return noise(n) * (n * 10 / rate % 7 == 0 ? 1.0 : 0.001); };
        const auto file =
            write_sound(folder / name, format, rate, 1, static_cast<int64_t>(seconds) * rate, bursts, true);
        CHECK(check_audio(file).problem.empty());
        const std::vector<float> all = decode_audio(file, 0, kEnd, -1, rate);
        CHECK(std::abs(static_cast<int64_t>(all.size()) - seconds * rate) < 3000);
        double most = 0;
        for (int i = 0; i < places; ++i) {
            const double start = std::floor((i + 0.37) / places * (seconds - 0.2) * rate) / rate;
            const std::vector<float> got = decode_audio(file, start, start + 0.1, -1, rate);
            most =
                std::max(most, difference(got, part(all, static_cast<size_t>(std::llround(start * rate)), got.size())));
        }
        CHECK(most < 1e-6);
        CHECK(decode_audio(file, seconds - 2, seconds - 1, -1, 22050) ==
              decode_audio(file, seconds - 2, seconds - 1, -1, 22050));
    }
}

TEST_CASE("a stretch at another rate is that part of the whole at that rate") {
    const TempFolder folder;
    for (const int rate : {8000, 22050, 44100, 48000, 96000, 166600, 11025, 44101}) {
        INFO(rate);
        const auto file =
            write_sound(folder / "a.wav", kWavFloat, rate, 1, 5 * rate, [](int64_t n, int) { return noise(n); });
        const std::vector<float> all = decode_audio(file, 0, kEnd, -1, 16000);
        REQUIRE(all.size() == 80000);
        for (const double start : {0.0, 0.01, 1.0, 2.52, 4.0}) {
            if (rate == 44101 && start != std::floor(start)) continue;  // only whole seconds lie on both grids
            if (std::abs(start * rate - std::round(start * rate)) > 1e-6) continue;
            const std::vector<float> got = decode_audio(file, start, start + 1, -1, 16000);
            CHECK(difference(got, part(all, static_cast<size_t>(std::llround(start * 16000)), 16000)) < 2e-5);
        }
    }
}

TEST_CASE("the number of samples is exact") {
    const TempFolder folder;
    for (const int rate : {8000, 11025, 16000, 44100, 48000, 250000}) {
        const auto file =
            write_sound(folder / "a.wav", kWav16, rate, 1, rate * 2 + 17, [](int64_t n, int) { return noise(n); });
        const double total = 2 + 17.0 / rate;
        for (const double to : {16000.0, 32000.0, 22050.0})
            for (const auto& [start, end] :
                 {std::pair{0.0, 1.0}, {0.333, 1.777}, {0.1, 0.10137}, {1.5, 9.0}, {0.0, kEnd}, {1.9999, 2.0}}) {
                const double until = std::isnan(end) ? total : std::min(end, total);
                CHECK(static_cast<double>(decode_audio(file, start, end, -1, to).size()) ==
                      std::round((until - start) * to));
            }
    }
    for (const size_t n : {0, 1, 2, 100, 44100, 12345})
        for (const double to : {16000.0, 48000.0, 44100.0})
            CHECK(static_cast<double>(resample(std::vector<float>(n, 0.1F), 44100, to).size()) ==
                  std::round(static_cast<double>(n) * to / 44100));
}

TEST_CASE("resampling keeps a sweep and takes out what the new rate can't hold") {
    // 100 Hz to 7 kHz in two seconds, as a function of time.
    const auto sweep = [](double t) { return 0.5 * std::sin(2 * std::numbers::pi * (100 * t + 0.5 * 3450 * t * t)); };
    for (const double from : {44100.0, 48000.0, 22050.0, 16000.0, 96000.0}) {
        INFO(from);
        std::vector<float> in;
        for (int n = 0; n < 2 * from; ++n) in.push_back(static_cast<float>(sweep(n / from)));
        const std::vector<float> out = resample(in, from, 16000);
        REQUIRE(out.size() == 32000);
        double most = 0;
        for (size_t i = 800; i + 800 < out.size(); ++i)
            most = std::max(most, std::abs(out[i] - sweep(static_cast<double>(i) / 16000)));
        CHECK(most < 5.8e-4);  // 0.01 dB, soxr's stated pass-band ripple
    }
    std::vector<float> high;
    for (int n = 0; n < 44100; ++n) high.push_back(static_cast<float>(sine(9000, 44100, n)));
    const std::vector<float> out = resample(high, 44100, 16000);
    double most = 0;
    for (size_t i = 800; i + 800 < out.size(); ++i) most = std::max<double>(most, std::abs(out[i]));
    CHECK(most < 1e-5);
}

TEST_CASE("a stream gives what decoding at once does, in pieces of any size") {
    const TempFolder folder;
    struct Format {
        const char* name;
        int format, rate, channels;
    };
    for (const auto& [name, format, rate, channels] : {Format{"a.wav", kWav16, 16000, 1},
                                                       {"b.wav", kWavFloat, 44100, 2},
                                                       {"c.flac", kFlac, 48000, 1},
                                                       {"d.ogg", kVorbis, 22050, 1},
                                                       {"e.mp3", kMp3, 44100, 1},
                                                       {"f.wav", kWav16, 8000, 1}}) {
        INFO(name);
        const auto file = write_sound(folder / name, format, rate, channels, 3 * rate + 17,
                                      [](int64_t n, int c) { return noise(n + 7 * c); });
        const std::vector<float> expected = decode_audio(file, 0, kEnd, -1, 16000);
        for (const size_t piece : {size_t{100}, size_t{16001}, size_t{1} << 20}) {
            AudioStream stream(file, -1, 16000);
            CHECK(stream.info().sample_rate == rate);
            std::vector<float> got, block(piece);
            for (size_t n = piece; n == piece;) {
                n = stream.read(block);
                got.insert(got.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(n));
            }
            CHECK(stream.read(block) == 0);
            CHECK(difference(got, expected) < 1e-6);
        }
    }
    // Lengths that come out in the middle between two: rounded up, the half sample too.
    for (const auto& [rate, samples, length] : {std::tuple{32000, 3003, 1502U},
                                                {32000, 5005, 2503U},
                                                {96000, 3003, 501U},
                                                {96000, 9009, 1502U},
                                                {32000, 3001, 1501U}}) {
        INFO(rate << " Hz, " << samples);
        const auto file =
            write_sound(folder / "odd.wav", kWav16, rate, 1, samples, [](int64_t n, int) { return noise(n); });
        AudioStream stream(file, -1, 16000);
        std::vector<float> block(4000);
        CHECK(stream.read(block) == length);
        CHECK(decode_audio(file, 0, kEnd, -1, 16000).size() == length);
    }
}

TEST_CASE("a stream of a damaged file gives what is there, then the reason") {
    const TempFolder folder;
    const auto hum = [](int64_t n, int) { return sine(440, 16000, static_cast<double>(n)) + 0.1 * noise(n); };
    for (const auto& [name, format] : {std::pair{"a.wav", kWav16}, {"b.flac", kFlac}, {"c.ogg", kVorbis}}) {
        const auto file = write_sound(folder / name, format, 16000, 1, 80000, hum);
        cut_file(file, 0.6);
        AudioStream stream(file, -1, 22050);
        std::vector<float> block(1000);
        size_t got = 0;
        const std::string problem = error_of([&] {
            while (const size_t n = stream.read(block)) got += n;
        });
        CHECK(problem == file.string() + ": " + check_audio(file).problem);
        CHECK(got > 22050);
    }
    CHECK_THAT(error_of([&] { AudioStream(folder / "none.wav", -1, 16000); }), Contains("is missing"));
    const auto good = write_sound(folder / "good.wav", kWav16, 16000, 1, 100, hum);
    CHECK_THAT(error_of([&] { AudioStream(good, 1, 16000); }), Contains("found channel 1"));
    CHECK_THAT(error_of([&] { AudioStream(good, 0, -1); }), Contains("found the sample rate -1 Hz"));
}

TEST_CASE("mono is the mean of all channels, or the one asked for") {
    const TempFolder folder;
    const auto file = write_sound(folder / "three.wav", kWavFloat, 16000, 3, 1000, [](int64_t, int c) {
        return c == 0 ? 0.3 : c == 1 ? -0.6 : 0.9;
    });
    CHECK(decode_audio(file, 0, kEnd, -1, 16000)[500] == Approx(0.2));
    CHECK(decode_audio(file, 0, kEnd, 1, 16000)[500] == Approx(-0.6));
    CHECK_THAT(error_of([&] { decode_audio(file, 0, 1, 3, 16000); }),
               Contains("three.wav: found channel 3, expected 0 to 2, or -1"));
    CHECK_THAT(error_of([&] { decode_audio(file, 0, 1, -2, 16000); }), Contains("found channel -2"));
}

TEST_CASE("floats beyond 1 are kept, those that are no numbers are a problem") {
    const TempFolder folder;
    const auto loud = write_sound(folder / "loud.wav", kWavFloat, 16000, 1, 100, [](int64_t, int) { return 2.5; });
    CHECK(check_audio(loud).problem.empty());
    CHECK(decode_audio(loud, 0, kEnd, -1, 16000)[7] == 2.5F);
    for (const double value : {std::nan(""), static_cast<double>(INFINITY)}) {
        const auto bad = write_sound(folder / "bad.wav", kWavFloat, 16000, 2, 30000,
                                     [&](int64_t n, int c) { return n == 20000 && c == 1 ? value : 0.0; });
        CHECK(check_audio(bad).problem == "sample 20000 is not a finite number");
        CHECK_THAT(error_of([&] { decode_audio(bad, 1, 1.5, -1, 16000); }),
                   Contains("sample 20000 is not a finite number"));
        CHECK(decode_audio(bad, 0, 1, -1, 16000).size() == 16000);
    }
}

TEST_CASE("times that no sample has are refused") {
    const TempFolder folder;
    const auto file = write_sound(folder / "a.wav", kWav16, 16000, 1, 16000, [](int64_t n, int) { return noise(n); });
    CHECK_THAT(error_of([&] { decode_audio(file, 1, 2, -1, 16000); }),
               Contains("begins at 1 s, but there are only 1 s"));
    CHECK_THAT(error_of([&] { decode_audio(file, 1e300, kEnd, -1, 16000); }), Contains("no recording has"));
    CHECK_THAT(error_of([&] { decode_audio(file, -0.5, 1, -1, 16000); }), Contains("found the start -0.5 s"));
    CHECK_THAT(error_of([&] { decode_audio(file, kEnd, 1, -1, 16000); }), Contains("found the start nan"));
    CHECK_THAT(error_of([&] { decode_audio(file, 0.5, 0.5, -1, 16000); }), Contains("expected one after the start"));
    CHECK_THAT(error_of([&] { decode_audio(file, 0, 1, -1, 0); }), Contains("found the sample rate 0 Hz"));
}

TEST_CASE("each bad file has one clear reason") {
    const TempFolder folder;
    const auto hum = [](int64_t n, int) { return sine(440, 16000, static_cast<double>(n)) + 0.1 * noise(n); };
    const auto problem = [](const fs::path& file) {
        const AudioCheck check = check_audio(file);
        // Where not even a header is there, the other two say the same.
        if (check.info.channels == 0) {
            CHECK(error_of([&] { read_audio_info(file); }) == file.string() + ": " + check.problem);
            CHECK(error_of([&] { decode_audio(file, 0, 1, -1, 16000); }) == file.string() + ": " + check.problem);
        }
        return check.problem;
    };
    CHECK(problem(folder / "missing.wav") == "is missing");
    CHECK(problem(folder.string()) == "is a folder, expected a sound file");
    CHECK(problem(write_text(folder / "empty.wav", "")) == "is empty (0 bytes)");
    CHECK(problem(write_text(folder / "text.wav", "this is\nno sound")) ==
          "is a text file, not audio: it begins with \"this is\"");
    CHECK_THAT(problem(write_text(folder / "lfs.flac", "version https://git-lfs.github.com/spec/v1\noid sha256:00")),
               Contains("is a text file, not audio: it begins with \"version https://git-lfs"));
    CHECK_THAT(problem(write_text(folder / "a.wav", std::string("\0\0\0\x20"
                                                                "ftypM4A \0\0\0\0",
                                                                16))),
               Contains("M4A"));
    CHECK_THAT(problem(write_text(folder / "zeros.wav", std::string(5000, '\0'))),
               Contains("libsndfile can't open it"));
    CHECK(problem(write_sound(folder / "none.wav", kWav16, 16000, 1, 0, hum)) == "has no samples");

    auto file = write_sound(folder / "cut.wav", kWav16, 16000, 1, 48000, hum);
    cut_file(file, 0.5);
    CHECK_THAT(problem(file), Contains("truncated: the header says 48000 samples, 239"));
    file = write_sound(folder / "cut.aiff", SF_FORMAT_AIFF | SF_FORMAT_PCM_16, 16000, 1, 48000, hum);
    cut_file(file, 0.5);
    CHECK_THAT(problem(file), Contains("truncated: the header says 48000 samples"));
    file = write_sound(folder / "cut.flac", kFlac, 16000, 1, 480000, hum);
    cut_file(file, 0.6);
    CHECK_THAT(problem(file), Contains("truncated: the header says 480000 samples"));
    CHECK(decode_audio(file, 1, 2, -1, 16000).size() == 16000);
    CHECK_THAT(error_of([&] { decode_audio(file, 25, 26, -1, 16000); }),
               Contains("cut.flac: truncated or damaged: can't go to sample 400000 of 480000"));
    file = write_sound(folder / "cut.ogg", kVorbis, 16000, 1, 480000, hum);
    cut_file(file, 0.6);
    CHECK_THAT(problem(file), Contains("truncated: the last page of the Ogg stream is missing"));
    file = write_sound(folder / "cut.mp3", kMp3, 44100, 1, 480000, hum, true);
    cut_file(file, 0.6);
    CHECK_THAT(problem(file), Contains("truncated: the header says 480000 samples"));
    file = write_sound(folder / "hole.flac", kFlac, 16000, 1, 480000, hum);
    {
        std::fstream hole(file, std::ios::in | std::ios::out | std::ios::binary);
        hole.seekp(static_cast<std::streamoff>(fs::file_size(file) / 2));
        hole << std::string(20000, '\x55');
    }
    CHECK_FALSE(problem(file).empty());
}

TEST_CASE("a WAV header that a recorder never finished is no truncation") {
    const TempFolder folder;
    const auto file =
        write_sound(folder / "stream.wav", kWav16, 16000, 1, 16000, [](int64_t n, int) { return noise(n); });
    std::string bytes = read_file(file);
    const size_t data = bytes.find("data");
    REQUIRE(data != std::string::npos);
    bytes.replace(4, 4, "\xff\xff\xff\xff").replace(data + 4, 4, "\xff\xff\xff\xff");
    write_text(file, bytes);
    const AudioCheck check = check_audio(file);
    CHECK(check.problem.empty());
    CHECK(check.info.frames == 16000);
}

TEST_CASE("an MP3 of variable bit rate without a length header is found out") {
    const TempFolder folder;
    // Loud first, then silence: the length guessed from the first frame is far too short, and libsndfile stops there.
    const auto file = write_sound(
        folder / "vbr.mp3", kMp3, 44100, 1, 441000, [](int64_t n, int) { return n < 100000 ? noise(n) : 0.0; }, true);
    CHECK(check_audio(file).problem.empty());
    std::string bytes = read_file(file);
    const size_t first = bytes.find("\xff\xfb");
    REQUIRE(first != std::string::npos);
    REQUIRE(bytes.find("Xing") < 200);
    const size_t second = bytes.find("\xff\xfb", first + 4);
    REQUIRE(second != std::string::npos);
    write_text(file, bytes.substr(second));
    CHECK_THAT(check_audio(file).problem, Contains("variable bit rate without a length header"));
}

TEST_CASE("a FLAC whose header has no length is counted") {
    const TempFolder folder;
    const auto file = write_sound(folder / "a.flac", kFlac, 16000, 1, 40000, [](int64_t n, int) { return noise(n); });
    std::string bytes = read_file(file);
    bytes[21] = static_cast<char>(bytes[21] & 0xf0);  // STREAMINFO: 36 bits of samples, then the MD5
    bytes.replace(22, 4, std::string(4, '\0'));
    write_text(file, bytes);
    CHECK(read_audio_info(file).frames == 40000);
    CHECK(check_audio(file).problem.empty());
    CHECK(decode_audio(file, 1, kEnd, -1, 16000).size() == 24000);
    CHECK(decode_audio(file, 1, 9, -1, 32000).size() == 48000);
}

TEST_CASE("a window repeats a shorter clip") {
    CHECK(window_repeated({1, 2, 3}, 0, 7) == std::vector<float>{1, 2, 3, 1, 2, 3, 1});
    CHECK(window_repeated({1, 2, 3, 4, 5}, 1, 3) == std::vector<float>{2, 3, 4});
    CHECK(window_repeated({1, 2, 3}, 2, 4) == std::vector<float>{3, 1, 2, 3});
    CHECK(window_repeated({}, 5, 3) == std::vector<float>{0, 0, 0});
    CHECK(window_repeated({1, 2}, 0, 0).empty());
}
