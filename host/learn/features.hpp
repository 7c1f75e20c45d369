// Pooled features of all windows of a data set, on disk: what heads are fitted on and evaluations score.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

#include "learn/pooling.hpp"
#include "pipeline/node_type.hpp"
#include "tasks/clips.hpp"

namespace biophony {

class WindowFeatures;

/// The result of a features node. features.safetensors: "features" (W, bands · width) float32, each window's frames
/// averaged over time for each frequency band, low first; "clip" (W) int64, the place of the window's clip in the
/// data set, the windows of one clip side by side. features.json: whose they are, by the digests of the two results.
struct FeatureSet {
    at::Tensor values;           ///< (W, bands · width) float32
    std::vector<int64_t> clips;  ///< per window
    std::string encoder, data;   ///< digests
    int64_t bands = 1, width = 0;
    std::string node;  ///< whose result find_features() took: "features:merged:clips[bird]"; not saved

    void save(const std::filesystem::path& folder) const;
    static FeatureSet load(const std::filesystem::path& folder);

    /// (W, pooled_width) float32. Every band has as many frames, so the mean of the bands is the mean of all frames.
    at::Tensor pooled(Pooling pooling) const;
    /// The windows of the clips of one split, ascending.
    std::vector<int64_t> windows_of(const ClipSet& set, Split split) const;
};

/// Among a port's results, the features of this encoder on this data, by digest; `clips` is the data. Throws
/// Error(kInternal) where they are not there, and Error(kRunFailed), with the node and the first such clip, where a
/// value is infinite or not a number.
FeatureSet find_features(const std::vector<InputArtefact>& features, const std::string& encoder,
                         const std::string& data, const ClipSet& clips);

}  // namespace biophony
