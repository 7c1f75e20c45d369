// From an encoder's frames to one vector per window.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "learn/encoder.hpp"

namespace biophony {

enum class Pooling {
    kMean,   ///< mean over all frames: D numbers
    kBands,  ///< mean over time for each frequency band, low first: bands · D numbers
};
std::string_view to_string(Pooling pooling);
/// "mean" or "bands"; throws Error(kInvalid) for another word.
Pooling pooling_from(std::string_view text);

/// Numbers that pooling gives per window.
int64_t pooled_width(const EncoderInfo& info, Pooling pooling);
/// frames (B, T, D) → (B, pooled_width). T is a multiple of info.bands.
at::Tensor pool(const at::Tensor& frames, const EncoderInfo& info, Pooling pooling);
/// features (B, …) → (B, pooled_width): the encoder's frames, pooled.
at::Tensor pooled(Encoder& encoder, const at::Tensor& features, Pooling pooling = Pooling::kMean);

}  // namespace biophony
