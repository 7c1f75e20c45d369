// Sound files → mono float samples at the rate that is asked for. libsndfile decodes WAV, FLAC, OGG, MP3 and its other
// formats; soxr (high quality) resamples.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"

namespace biophony {

/// What a file's header says.
struct AudioInfo {
    double sample_rate = 0;  ///< Hz
    int channels = 0;
    int64_t frames = 0;  ///< samples per channel; an estimate for some MP3 files
    std::string format;  ///< "FLAC 16 bit", as libsndfile names it
    double seconds() const { return sample_rate > 0 ? static_cast<double>(frames) / sample_rate : 0; }
};

/// Reads the header. Throws Error(kRunFailed) with the file and the reason: "is missing", "is a text file, not audio",
/// libsndfile's own words.
AudioInfo read_audio_info(const std::filesystem::path& path);

/// What decoding the whole file showed.
struct AudioCheck {
    AudioInfo info;       ///< frames = those that could be decoded
    std::string problem;  ///< empty, or why the file can't be used: "truncated: the header says 480000 samples,
                          ///< 231424 could be decoded"
};
/// Decodes everything once. Never throws for a bad file; a missing one is a problem, too.
AudioCheck check_audio(const std::filesystem::path& path);

/// Mono samples in [-1, 1] of [start_s, end_s) at `rate` Hz. `channel` is 0-based, or -1 for the mean of all channels.
/// end_s beyond the file is cut; NaN = to the end. The result has round(seconds · rate) samples; resampling sees
/// 50 ms of the file on either side of the stretch, so that cuts don't ring. Throws Error(kRunFailed).
std::vector<float> decode_audio(const std::filesystem::path& path, double start_s, double end_s, int channel,
                                double rate);

/// A file's sound from its start to its end, a piece at a time: the samples that decode_audio() gives, in constant
/// memory however long the file is. One thread.
class AudioStream {
public:
    /// `channel` and `rate` as for decode_audio(). Throws Error(kRunFailed) as read_audio_info() does.
    AudioStream(const std::filesystem::path& path, int channel, double rate);
    ~AudioStream();
    AudioStream(const AudioStream&) = delete;
    AudioStream& operator=(const AudioStream&) = delete;

    const AudioInfo& info() const;  ///< as the header says; frames is -1 where it doesn't
    /// Fills `out` with the next samples and returns how many: fewer only at the end. Throws Error(kRunFailed) where
    /// check_audio() would name a problem, as soon as it shows.
    size_t read(std::span<float> out);

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Changes the rate of a whole signal (soxr, HQ). The result has round(n · to / from) samples.
std::vector<float> resample(const std::vector<float>& samples, double from, double to);

}  // namespace biophony
