// A stretch of a long mono signal at another rate, whoever delivers the samples. Used by decode_audio(), DatasetSource
// and ClipReader.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace biophony {

/// A mono signal that can be read from any sample on.
struct SampleSource {
    double rate = 0;      ///< Hz
    int64_t frames = -1;  ///< -1 = unknown: reading on shows the end
    /// `count` samples from `first` on; fewer only at the end of the signal.
    std::function<std::vector<float>(int64_t first, int64_t count)> read;
};

/// What decode_audio() promises. Throws Error(kRunFailed) for times that no sample has; names no file.
std::vector<float> read_stretch(const SampleSource& source, double start_s, double end_s, double rate);

/// How many samples `samples` of them at one rate are at another, rounded.
int64_t resampled_length(double samples, double from, double to);

/// Silence that goes through the resampler ahead of a signal, in samples at both rates, whole numbers where the rates
/// are: it rings in that, and a signal's first samples are as good as the rest. Nothing where the rates are equal.
struct Margin {
    int64_t in = 0, out = 0;
};
Margin leading_margin(double own, double rate);

}  // namespace biophony
