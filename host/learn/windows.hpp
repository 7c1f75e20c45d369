// Clips → windows → front-end features, kept in memory as long as they fit.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "learn/encoder.hpp"
#include "tasks/clips.hpp"

namespace biophony {

/// One window of a clip. A clip of s seconds has max(1, round(s / window)) windows, end to end from its start; the last
/// one, or the only one, is filled by repeating the clip.
struct Window {
    size_t set = 0;     ///< index of the clip set
    size_t clip = 0;    ///< index in the set's clips
    size_t offset = 0;  ///< samples from the clip's start
};

/// The windows of one split of several clip sets, in order, and their features. One thread.
class WindowFeatures {
public:
    /// `sets` and `encoder` must outlive this. Reads all sound once; features that fit into `memory_limit` bytes are
    /// kept, others are made again when a batch asks for them.
    WindowFeatures(const std::vector<ClipSet>& sets, Split split, const Registry& registry, Encoder& encoder,
                   Progress& progress, const Cancel& cancel, uint64_t memory_limit = uint64_t{4} << 30);

    const std::vector<Window>& windows() const { return windows_; }
    const Clip& clip(size_t window) const { return sets_[windows_[window].set].clips[windows_[window].clip]; }
    /// Features (B, …) float32 of the windows with these indices.
    at::Tensor batch(std::span<const size_t> indices);

private:
    at::Tensor wave(size_t window);
    const std::vector<ClipSet>& sets_;
    Encoder& encoder_;
    std::vector<std::unique_ptr<ClipReader>> readers_;
    std::vector<Window> windows_;
    size_t last_set_ = SIZE_MAX, last_clip_ = SIZE_MAX;
    std::vector<float> last_;  ///< samples of the clip that was read last: a long clip has many windows
    at::Tensor kept_;          ///< (K, …): the first K windows' features
};

}  // namespace biophony
