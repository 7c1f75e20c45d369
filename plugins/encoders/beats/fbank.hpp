// Log mel filter bank as Kaldi computes it, with the settings that BEATs and its relatives were trained on. Plain
// float32, no LibTorch.
#pragma once

#include <cstdint>
#include <vector>

namespace biophony::beats {

/// 128 log mel energies of frames of 25 ms every 10 ms at 16 kHz: frame mean removed, pre-emphasis 0.97, Povey window,
/// power spectrum of 512 points, triangles on the mel scale from 20 to 8000 Hz, natural logarithm floored at 2^-23.
/// No dither; only whole frames. Agrees with torchaudio.compliance.kaldi.fbank (BSD-2) up to rounding.
/// Immutable after construction: any thread may call it.
class FilterBank {
public:
    static constexpr int64_t kLength = 400, kHop = 160;  ///< samples
    static constexpr int kMels = 128;

    FilterBank();

    /// How many whole frames a wave of so many samples has.
    static constexpr int64_t frame_count(int64_t samples) {
        return samples < kLength ? 0 : 1 + (samples - kLength) / kHop;
    }

    /// Frames [first, last) of `wave`, which is in [-1, 1] and reaches to the end of the last frame. Writes row-major
    /// (last - first, 128): (log energy - mean) / divisor. A frame's result depends on its own samples alone; a sample
    /// that is no number makes the frame NaN.
    void compute(const float* wave, int64_t first, int64_t last, float mean, float divisor, float* out) const;

private:
    struct Work;
    struct Filter {
        int first = 0;  ///< FFT bin of the first weight
        std::vector<float> weights;
    };
    std::vector<float> window_;     // (400)
    std::vector<float> cos_, sin_;  // e^(-2 pi i k / 512), k = 0..511
    std::vector<Filter> filters_;   // (128)
};

}  // namespace biophony::beats
