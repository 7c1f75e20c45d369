// What the tests of this folder share: files made with libsndfile, temporary folders, the built data-set plugins.
#pragma once

#include <sndfile.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include "audio/dataset.hpp"
#include "base/files.hpp"
#include "base/schema.hpp"
#include "plugins/registry.hpp"

namespace biophony::test {

/// A folder of its own, gone at the end.
class TempFolder {
public:
    TempFolder() : path_(fs::temp_directory_path() / ("biophony-audio-" + unique_name())) {
        fs::create_directories(path_);
    }
    ~TempFolder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    fs::path operator/(const std::string& name) const {
        fs::create_directories((path_ / name).parent_path());
        return path_ / name;
    }
    std::string string() const { return path_.string(); }

private:
    fs::path path_;
};

inline fs::path write_text(const fs::path& path, std::string_view text) {
    std::ofstream(path, std::ios::binary) << text;
    return path;
}

/// Writes `frames` frames of `at(frame, channel)`. `vbr` for MP3.
inline fs::path write_sound(const fs::path& path, int format, int rate, int channels, int64_t frames,
                            const std::function<double(int64_t, int)>& at, bool vbr = false) {
    SF_INFO info{};
    info.format = format;
    info.samplerate = rate;
    info.channels = channels;
    SNDFILE* file = sf_open(path.c_str(), SFM_WRITE, &info);
    REQUIRE(file != nullptr);
    if (vbr) {
        int mode = SF_BITRATE_MODE_VARIABLE;
        sf_command(file, SFC_SET_BITRATE_MODE, &mode, sizeof(mode));
    }
    constexpr int64_t kBlock = 4096;  // libsndfile's Vorbis encoder keeps a whole write on its stack
    std::vector<float> block;
    for (int64_t first = 0; first < frames; first += kBlock) {
        block.clear();
        for (int64_t i = first; i < std::min(frames, first + kBlock); ++i)
            for (int c = 0; c < channels; ++c) block.push_back(static_cast<float>(at(i, c)));
        sf_writef_float(file, block.data(), static_cast<sf_count_t>(block.size()) / channels);
    }
    sf_close(file);
    return path;
}

inline double sine(double hz, double rate, double n) {
    return 0.5 * std::sin(2 * std::numbers::pi * hz * n / rate);
}

/// Deterministic noise in [-0.5, 0.5].
inline double noise(int64_t n) {
    auto z = static_cast<uint64_t>(n) * 0x9e3779b97f4a7c15ULL + 0x1234567;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53 - 0.5;
}

/// The largest difference of two signals of one length.
inline double difference(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
    return most;
}

inline void cut_file(const fs::path& path, double share) {
    fs::resize_file(path, static_cast<uintmax_t>(static_cast<double>(fs::file_size(path)) * share));
}

template <class Body>
std::string error_of(Body&& body) {
    try {
        body();
    } catch (const Error& error) {
        return error.what();
    }
    return "no error";
}

inline const Registry& plugins() {
    static const Registry registry({fs::path(BPH_BUILD_DIR) / "plugins"}, false);
    return registry;
}

/// Parameters as the host hands them on: checked, defaults filled in.
inline Json filled(const ItemInfo& item, Json params) {
    std::vector<Diagnostic> problems;
    apply_schema(item.parameters, params, "", problems);
    for (const auto& problem : problems) FAIL(problem.text());
    return params;
}

inline DatasetSource::Description describe(const std::string& name, const Json& params, CallOptions options = {}) {
    const ItemInfo& item = plugins().require(name);
    DatasetSource source(item, filled(item, params), std::move(options));
    return source.describe();
}

/// The folder of real recordings, or empty with a printed reason.
inline fs::path real_data() {
    const char* folder = std::getenv("BIOPHONY_DATA");
    if (folder == nullptr || !fs::exists(fs::path(folder) / "clips.csv")) {
        WARN("skipped: BIOPHONY_DATA names no folder with clips.csv");
        return {};
    }
    return folder;
}

}  // namespace biophony::test
