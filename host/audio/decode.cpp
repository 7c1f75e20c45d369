#include "audio/decode.hpp"

#include <fmt/format.h>
#include <sndfile.h>
#include <soxr.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>

#include "audio/stretch.hpp"

namespace biophony {

namespace {

namespace fs = std::filesystem;

constexpr sf_count_t kBlock = 16384;  // frames per read
constexpr int64_t kMp3FromStartSeconds = 20;

[[noreturn]] void fail(const fs::path& path, const std::string& message) {
    throw Error(Code::kRunFailed, message, {.file = path.string()});
}

struct Closer {
    void operator()(SNDFILE* file) const { sf_close(file); }
};
struct OpenFile {
    std::unique_ptr<SNDFILE, Closer> handle;
    SF_INFO info{};
    int container() const { return info.format & SF_FORMAT_TYPEMASK; }
    bool is_mp3() const { return container() == SF_FORMAT_MPEG; }
    /// libsndfile's mark for "the header doesn't say": streamed FLAC, Ogg without its last page.
    bool length_unknown() const { return info.frames == SF_COUNT_MAX; }
};

std::string first_bytes(const fs::path& path, size_t count) {
    std::ifstream in(path, std::ios::binary);
    if (!in) fail(path, fmt::format("can't be read: {}", std::strerror(errno)));
    std::string bytes(count, '\0');
    in.read(bytes.data(), static_cast<std::streamsize>(count));
    bytes.resize(static_cast<size_t>(in.gcount()));
    return bytes;
}

/// Why libsndfile couldn't open it, in words that tell what to do.
std::string reason_for(const std::string& head, const std::string& from_library) {
    if (head.empty()) return "is empty (0 bytes)";
    if (head.size() >= 8 && head.compare(4, 4, "ftyp") == 0)
        return "is an MP4 or M4A file, which libsndfile doesn't decode; convert it to FLAC or WAV";
    const bool text = std::none_of(head.begin(), head.end(), [](unsigned char c) {
        return (c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f;
    });
    if (text) {
        std::string line = head.substr(0, std::min<size_t>(head.find_first_of("\r\n"), 40));
        while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0x80) != 0) line.pop_back();
        return fmt::format("is a text file, not audio: it begins with \"{}\"", line);
    }
    return "libsndfile can't open it: " + from_library;
}

OpenFile open_file(const fs::path& path) {
    std::error_code ignored;
    const fs::file_status status = fs::status(path, ignored);
    if (!fs::exists(status)) fail(path, "is missing");
    if (fs::is_directory(status)) fail(path, "is a folder, expected a sound file");
    if (!fs::is_regular_file(status)) fail(path, "is no regular file");
    const std::string head = first_bytes(path, 512);
    OpenFile file;
    file.handle.reset(sf_open(path.c_str(), SFM_READ, &file.info));
    if (!file.handle) fail(path, reason_for(head, sf_strerror(nullptr)));
    if (file.info.channels <= 0 || file.info.samplerate <= 0)
        fail(path, fmt::format("found {} channels at {} Hz in the header, expected at least one of each",
                               file.info.channels, file.info.samplerate));
    return file;
}

std::string format_name(int format) {
    const auto name = [](int part) {
        SF_FORMAT_INFO info{};
        info.format = part;
        return sf_command(nullptr, SFC_GET_FORMAT_INFO, &info, sizeof(info)) == 0 && info.name != nullptr
                   ? std::string(info.name)
                   : std::string("unknown");
    };
    return name(format & SF_FORMAT_TYPEMASK) + ", " + name(format & SF_FORMAT_SUBMASK);
}

/// Calls `take(interleaved, frames)` for up to `count` frames from the current place on; returns how many there were.
template <class Take>
int64_t read_blocks(OpenFile& file, int64_t count, Take&& take) {
    std::vector<float> block(static_cast<size_t>(kBlock * file.info.channels));
    int64_t done = 0;
    while (done < count) {
        const sf_count_t got =
            sf_readf_float(file.handle.get(), block.data(), std::min<sf_count_t>(kBlock, count - done));
        if (got <= 0) break;
        take(block.data(), got);
        done += got;
    }
    return done;
}

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

/// Goes to frame `first`; false where the file ends before. Exact for every format: MP3 frames lean on earlier ones, so
/// decoding begins ahead, or, early in the file, at its start (libmpg123 complains on stderr about frames whose
/// predecessors it hasn't seen); libsndfile 1.2's search in Ogg streams lands on the wrong sample now and then, so
/// these are decoded from the start.
bool go_to(OpenFile& file, const fs::path& path, int64_t first) {
    int64_t from = first;
    if (file.is_mp3()) {
        const int64_t rate = file.info.samplerate;
        from = first < kMp3FromStartSeconds * rate ? 0 : first - rate / 2;
    }
    if (file.container() == SF_FORMAT_OGG || file.info.seekable == 0) from = 0;
    if (from > 0 && sf_seek(file.handle.get(), from, SEEK_SET) != from)
        fail(path, fmt::format("truncated or damaged: can't go to sample {} of {}: {}", from, file.info.frames,
                               sf_strerror(file.handle.get())));
    return read_blocks(file, first - from, [](const float*, sf_count_t) {}) == first - from;
}

uint32_t little(std::string_view bytes) {
    return static_cast<uint32_t>(static_cast<unsigned char>(bytes[0])) |
           static_cast<uint32_t>(static_cast<unsigned char>(bytes[1])) << 8 |
           static_cast<uint32_t>(static_cast<unsigned char>(bytes[2])) << 16 |
           static_cast<uint32_t>(static_cast<unsigned char>(bytes[3])) << 24;
}
uint32_t big(std::string_view bytes) {
    return __builtin_bswap32(little(bytes));
}

/// What the header of a WAV or AIFF file claims: libsndfile silently lowers it to what the file holds. None for other
/// formats, and where a recorder that couldn't seek back left a placeholder.
std::optional<int64_t> claimed_frames(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::string head(12, '\0');
    if (!in.read(head.data(), 12)) return {};
    const bool wav = head.starts_with("RIFF") && head.compare(8, 4, "WAVE") == 0;
    const bool aiff = head.starts_with("FORM") && (head.compare(8, 4, "AIFF") == 0 || head.compare(8, 4, "AIFC") == 0);
    if (!wav && !aiff) return {};
    uint32_t bytes_per_frame = 0;
    std::string chunk(8, '\0');
    while (in.read(chunk.data(), 8)) {
        const uint32_t size = wav ? little(chunk.substr(4)) : big(chunk.substr(4));
        if (wav && chunk.starts_with("data")) {
            if (bytes_per_frame == 0 || size >= 0x7fff0000U) return {};
            return size / bytes_per_frame;
        }
        const auto next = in.tellg() + static_cast<std::streamoff>(size + (size & 1U));
        std::string body(std::min<uint32_t>(size, 16), '\0');
        if (!in.read(body.data(), static_cast<std::streamsize>(body.size()))) return {};
        if (wav && chunk.starts_with("fmt ") && body.size() >= 16) {
            const uint32_t tag = little(body) & 0xffffU;
            if (tag != 1 && tag != 3 && tag != 0xfffe) return {};  // compressed: bytes don't tell samples
            bytes_per_frame = little(body.substr(12)) & 0xffffU;
        }
        if (aiff && chunk.starts_with("COMM") && body.size() >= 6) return big(body.substr(2));
        in.seekg(next);
    }
    return {};
}

struct Mp3Facts {
    bool says_length = false;  ///< has a Xing, Info or VBRI header
    int64_t samples = 0;       ///< by walking over every frame
};

/// ISO/IEC 11172-3, 2.4.1.3 and 13818-3: frame headers of layer III. Anything between frames is skipped.
Mp3Facts walk_mp3(const fs::path& path) {
    constexpr int kRates1[] = {0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320};  // kbit/s
    constexpr int kRates2[] = {0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160};
    constexpr int kSampleRates[] = {44100, 48000, 32000};
    std::ifstream in(path, std::ios::binary);
    std::string data((std::istreambuf_iterator<char>(in)), {});
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(data[i]); };
    size_t at = 0;
    if (data.size() > 10 && data.starts_with("ID3"))
        at = 10 + (static_cast<size_t>(byte(6)) << 21 | static_cast<size_t>(byte(7)) << 14 |
                   static_cast<size_t>(byte(8)) << 7 | byte(9));
    Mp3Facts facts;
    bool first = true;
    while (at + 4 <= data.size()) {
        const int version = byte(at + 1) >> 3 & 3;  // 3 = MPEG 1, 2 = MPEG 2, 0 = MPEG 2.5
        const int rate_index = byte(at + 2) >> 4, sample_index = byte(at + 2) >> 2 & 3;
        if (byte(at) != 0xff || byte(at + 1) >> 5 != 7 || version == 1 || (byte(at + 1) >> 1 & 3) != 1 ||
            rate_index == 0 || rate_index == 15 || sample_index == 3) {
            ++at;
            continue;
        }
        const int kbits = version == 3 ? kRates1[rate_index] : kRates2[rate_index];
        const int rate = kSampleRates[sample_index] / (version == 3 ? 1 : version == 2 ? 2 : 4);
        const int samples = version == 3 ? 1152 : 576;
        const size_t bytes = static_cast<size_t>(samples / 8 * kbits * 1000 / rate + (byte(at + 2) >> 1 & 1));
        if (first) {
            const std::string_view frame = std::string_view(data).substr(at, bytes);
            for (const char* mark : {"Xing", "Info", "VBRI"}) facts.says_length |= frame.find(mark) < 64;
        }
        first = false;
        facts.samples += samples;
        at += bytes;
    }
    return facts;
}

/// Why a file can't be used of which so many samples could be decoded until its end; empty where it can.
std::string shortage(const OpenFile& file, const fs::path& path, int64_t decoded) {
    int64_t claimed = file.length_unknown() ? decoded : file.info.frames;
    if (file.is_mp3()) {
        const Mp3Facts facts = walk_mp3(path);
        if (static_cast<double>(decoded) < 0.9 * static_cast<double>(facts.samples))
            return fmt::format(
                "only {} of its {} samples can be read: an MP3 file of variable bit rate without a length header; "
                "convert it to FLAC or WAV",
                decoded, facts.samples);
        // An estimate says nothing, and encoders round up: only a clear shortage is one.
        const bool short_enough = static_cast<double>(decoded) < 0.95 * static_cast<double>(claimed);
        if (!facts.says_length || !short_enough) claimed = decoded;
    } else {
        claimed = std::max(claimed, claimed_frames(path).value_or(0));
    }
    if (decoded == 0 && claimed == 0) return "has no samples";
    if (decoded < claimed)
        return fmt::format("truncated: the header says {} samples, {} could be decoded", claimed, decoded);
    if (file.container() == SF_FORMAT_OGG && file.length_unknown())
        return fmt::format("truncated: the last page of the Ogg stream is missing, {} samples could be decoded",
                           decoded);
    return {};
}

/// Appends the channel, or the mean of all; `first` is the place in the file, for messages.
void append_mono(const fs::path& path, const float* block, int64_t frames, int channels, int channel, int64_t first,
                 std::vector<float>& mono) {
    for (int64_t i = 0; i < frames; ++i) {
        const float* frame = block + i * channels;
        double value = 0;
        if (channel >= 0) {
            value = frame[channel];
        } else {
            for (int c = 0; c < channels; ++c) value += frame[c];
            value /= channels;
        }
        if (!std::isfinite(value)) fail(path, fmt::format("sample {} is not a finite number", first + i));
        mono.push_back(static_cast<float>(value));
    }
}

void require_channel(const fs::path& path, int channel, int channels) {
    if (channel < -1 || channel >= channels)
        fail(path, fmt::format("found channel {}, expected 0 to {}, or -1 for the mean of all", channel, channels - 1));
}

}  // namespace

AudioInfo read_audio_info(const fs::path& path) {
    OpenFile file = open_file(path);
    AudioInfo info{.sample_rate = static_cast<double>(file.info.samplerate),
                   .channels = file.info.channels,
                   .frames = file.info.frames,
                   .format = format_name(file.info.format)};
    if (file.length_unknown()) info.frames = read_blocks(file, kAll, [](const float*, sf_count_t) {});
    return info;
}

AudioCheck check_audio(const fs::path& path) {
    AudioCheck check;
    try {
        OpenFile file = open_file(path);
        int64_t at = 0, not_finite = -1;
        const int channels = file.info.channels;
        const int64_t decoded = read_blocks(file, kAll, [&](const float* block, sf_count_t frames) {
            for (sf_count_t i = 0; not_finite < 0 && i < frames * channels; ++i)
                if (!std::isfinite(block[i])) not_finite = at + i / channels;
            at += frames;
        });
        check.info = {.sample_rate = static_cast<double>(file.info.samplerate),
                      .channels = channels,
                      .frames = decoded,
                      .format = format_name(file.info.format)};
        check.problem = shortage(file, path, decoded);
        if (check.problem.empty() && not_finite >= 0)
            check.problem = fmt::format("sample {} is not a finite number", not_finite);
    } catch (const Error& error) {
        check.problem = error.message().text;
    } catch (const std::exception& error) {
        check.problem = error.what();
    }
    return check;
}

std::vector<float> decode_audio(const fs::path& path, double start_s, double end_s, int channel, double rate) {
    OpenFile file = open_file(path);
    const int channels = file.info.channels;
    require_channel(path, channel, channels);
    SampleSource source;
    source.rate = file.info.samplerate;
    source.frames = file.length_unknown() ? -1 : file.info.frames;
    source.read = [&](int64_t first, int64_t count) {
        std::vector<float> mono;
        mono.reserve(static_cast<size_t>(std::min<int64_t>(count, 1 << 24)));  // a header may claim anything
        if (go_to(file, path, first))
            read_blocks(file, count, [&](const float* block, sf_count_t frames) {
                append_mono(path, block, frames, channels, channel, first + static_cast<int64_t>(mono.size()), mono);
            });
        if (static_cast<int64_t>(mono.size()) < count && source.frames >= 0 && !file.is_mp3())
            fail(path, fmt::format("truncated or damaged: the header says {} samples, decoding ended at {}",
                                   source.frames, first + static_cast<int64_t>(mono.size())));
        return mono;
    };
    try {
        return read_stretch(source, start_s, end_s, rate);
    } catch (const Error& error) {
        throw error.within({.file = path.string()});
    }
}

struct AudioStream::State {
    fs::path path;
    OpenFile file;
    AudioInfo info;
    int channel = -1;
    double rate = 0;
    std::unique_ptr<soxr, void (*)(soxr_t)> resampler{nullptr, soxr_delete};  ///< none where the rate is the file's
    std::vector<float> block, mono;
    size_t used = 0;      ///< of mono
    int64_t decoded = 0;  ///< samples of the file
    int64_t given = 0;    ///< samples to the caller
    int64_t length = -1;  ///< of all that is given; known at the end of the file

    /// The next samples at the file's rate; after its end silence, which drives the last ones out of the resampler.
    void refill() {
        mono.clear();
        used = 0;
        if (length < 0) {
            const sf_count_t got = sf_readf_float(file.handle.get(), block.data(), kBlock);
            if (got > 0) {
                append_mono(path, block.data(), got, info.channels, channel, decoded, mono);
                decoded += got;
                return;
            }
            if (const std::string problem = shortage(file, path, decoded); !problem.empty()) fail(path, problem);
            length = resampled_length(static_cast<double>(decoded), info.sample_rate, rate);
        }
        if (resampler) mono.assign(kBlock, 0.0F);
    }
};

AudioStream::AudioStream(const fs::path& path, int channel, double rate) : state_(std::make_unique<State>()) {
    State& s = *state_;
    if (!std::isfinite(rate) || rate <= 0)
        fail(path, fmt::format("found the sample rate {} Hz, expected one above 0", rate));
    s.path = path;
    s.file = open_file(path);
    s.info = {.sample_rate = static_cast<double>(s.file.info.samplerate),
              .channels = s.file.info.channels,
              .frames = s.file.length_unknown() ? -1 : s.file.info.frames,
              .format = format_name(s.file.info.format)};
    require_channel(path, channel, s.info.channels);
    s.channel = channel;
    s.rate = rate;
    s.block.resize(static_cast<size_t>(kBlock * s.info.channels));
    if (s.info.sample_rate == rate) return;
    const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    const soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
    soxr_error_t error = nullptr;
    s.resampler.reset(soxr_create(s.info.sample_rate, rate, 1, &error, &io, &quality, &runtime));
    if (error != nullptr)
        fail(path, fmt::format("resampling from {} Hz to {} Hz: {}", s.info.sample_rate, rate, error));
    const Margin margin = leading_margin(s.info.sample_rate, rate);
    s.mono.assign(static_cast<size_t>(margin.in), 0.0F);
    s.given = -margin.out;
    std::vector<float> silence(static_cast<size_t>(margin.out));
    read(silence);
}

AudioStream::~AudioStream() = default;

const AudioInfo& AudioStream::info() const {
    return state_->info;
}

size_t AudioStream::read(std::span<float> out) {
    State& s = *state_;
    size_t done = 0;
    while (done < out.size()) {
        if (s.used == s.mono.size()) s.refill();
        const size_t room =
            s.length < 0 ? out.size() - done : std::min(out.size() - done, static_cast<size_t>(s.length - s.given));
        if (room == 0 || s.mono.empty()) break;
        size_t taken = 0, put = 0;
        if (s.resampler) {
            const soxr_error_t error = soxr_process(s.resampler.get(), s.mono.data() + s.used, s.mono.size() - s.used,
                                                    &taken, out.data() + done, room, &put);
            if (error != nullptr) fail(s.path, fmt::format("resampling to {} Hz: {}", s.rate, error));
        } else {
            taken = put = std::min(room, s.mono.size() - s.used);
            std::copy_n(s.mono.begin() + static_cast<std::ptrdiff_t>(s.used), put,
                        out.begin() + static_cast<std::ptrdiff_t>(done));
        }
        s.used += taken;
        s.given += static_cast<int64_t>(put);
        done += put;
    }
    return done;
}

}  // namespace biophony
