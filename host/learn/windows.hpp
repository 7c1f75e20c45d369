// Clips → windows → front-end features, kept in memory as long as they fit.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "base/random.hpp"
#include "learn/encoder.hpp"
#include "learn/pooling.hpp"
#include "tasks/clips.hpp"

namespace biophony {

/// One window of a clip. A clip of s seconds has max(1, round(s / window)) windows, end to end from its start; the last
/// one, or the only one, is filled by repeating the clip.
struct Window {
    size_t set = 0;     ///< index of the clip set
    size_t clip = 0;    ///< index in the set's clips
    size_t offset = 0;  ///< samples from the clip's start
};

/// The front end's features of whole data sets, for all encoders of this process that hear with the same front end. The
/// least recently used go first. Torch nodes run one at a time, and so does this.
class FrontEndCache {
public:
    /// Bytes that are kept at most; what is larger by itself isn't. 0 empties it and turns it off.
    static void set_limit(uint64_t bytes);
    /// Undefined where it isn't there.
    static at::Tensor find(const std::string& key);
    static void keep(const std::string& key, const at::Tensor& features);
};

/// What decides the front end's features: the encoder's code, configuration and buffers, and the set's clips in their
/// order, whatever split they are in. Empty (no caching) where the encoder's plugin isn't known.
std::string front_end_key(const LoadedEncoder& encoder, const Registry& registry, const ClipSet& set);

/// The windows of one split of several clip sets, in order, and their features. One thread.
class WindowFeatures {
public:
    enum class Keep {
        kFeatures,  ///< for windows that are always the same
        kSound      ///< the clips' samples: for windows that are changed before the encoder hears them
    };
    /// `sets` and `encoder` must outlive this. Without a split, the clips of all. Reads all sound once; what fits into
    /// `memory_limit` bytes is kept. Where features don't fit, all of them lie in a nameless file in `scratch`, if that
    /// is given and has the room; else the rest is read or made again when a batch asks for it. Neither changes a
    /// value. With a `cache_key` (of keep == kFeatures), all features are taken from this process' cache where they
    /// are, and left there where they are all kept.
    WindowFeatures(const std::vector<ClipSet>& sets, std::optional<Split> split, const Registry& registry,
                   Encoder& encoder, Progress& progress, const Cancel& cancel,
                   uint64_t memory_limit = uint64_t{4} << 30, Keep keep = Keep::kFeatures,
                   const std::string& cache_key = {}, const std::filesystem::path& scratch = {});

    const std::vector<Window>& windows() const { return windows_; }
    const Clip& clip(size_t window) const { return sets_[windows_[window].set].clips[windows_[window].clip]; }
    /// Features (B, …) float32 of the windows with these indices.
    at::Tensor batch(std::span<const size_t> indices);
    /// The windows themselves, (B, N) float32. With `start`, each begins anywhere in its clip: a clip that is longer
    /// than a window is heard from a random place, so that the window still lies in it; a shorter one is repeated from
    /// one.
    at::Tensor waves(std::span<const size_t> indices, Random* start = nullptr);

private:
    const std::vector<float>& sound(const Window& window);
    void keep_features(uint64_t memory_limit, Progress& progress, const Cancel& cancel, const std::string& cache_key,
                       const std::filesystem::path& scratch);
    void keep_sound(uint64_t memory_limit, Progress& progress, const Cancel& cancel);

    const std::vector<ClipSet>& sets_;
    Encoder& encoder_;
    size_t length_;  ///< samples of a window
    std::vector<std::unique_ptr<ClipReader>> readers_;
    std::vector<Window> windows_;
    size_t last_set_ = SIZE_MAX, last_clip_ = SIZE_MAX;
    std::vector<float> last_;  ///< samples of the clip that was read last: a long clip has many windows
    at::Tensor kept_;          ///< (K, …): the first K windows' features
    std::vector<std::vector<std::vector<float>>> sounds_;  ///< per set and clip; empty where not kept
};

/// Pooled features (W, D) float32 of all windows, without gradient, the encoder in evaluation mode.
at::Tensor embed(Encoder& encoder, WindowFeatures& windows, size_t batch, Progress& progress, const Cancel& cancel,
                 Pooling pooling = Pooling::kMean);

}  // namespace biophony
