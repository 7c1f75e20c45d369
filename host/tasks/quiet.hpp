// The quietest stretches of a recording: what is to be heard there when no animal calls close by.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <utility>
#include <vector>

namespace biophony {

struct QuietStretch {
    double start_s = 0, end_s = 0;
    double rms = 0;  ///< after taking the mean away; 1 = full scale
};

struct QuietSearch {
    double seconds = 0.5;  ///< length of a stretch
    size_t most = 2;       ///< stretches wanted
};

struct QuietFound {
    std::vector<QuietStretch> stretches;  ///< in the order of time, none overlaps another
    bool silence = false;                 ///< some of the recording was digital silence, and was passed over
};

/// Stretches begin at multiples of 10 ms. Those that touch none of `busy` (pairs of start and end, seconds) go first;
/// among equals the quieter, then the earlier one. A stretch with 10 ms of equal samples in it was made by a machine
/// (padding, a muted microphone, a filled gap), and is none. `read(first, count)` gives the samples from `first` on,
/// fewer only at the end of the recording, and is called in order; `rate` is in Hz. A recording shorter than a stretch
/// has none.
QuietFound quietest(const std::function<std::vector<float>(size_t first, size_t count)>& read, double rate,
                    std::span<const std::pair<double, double>> busy, const QuietSearch& search);

}  // namespace biophony
