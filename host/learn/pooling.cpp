#include "learn/pooling.hpp"

#include <string>

namespace biophony {

std::string_view to_string(Pooling pooling) {
    return pooling == Pooling::kMean ? "mean" : "bands";
}

Pooling pooling_from(std::string_view text) {
    for (const Pooling pooling : {Pooling::kMean, Pooling::kBands})
        if (to_string(pooling) == text) return pooling;
    throw Error(Code::kInvalid, "found the pooling '" + std::string(text) + "', expected mean or bands");
}

int64_t pooled_width(const EncoderInfo& info, Pooling pooling) {
    return pooling == Pooling::kMean ? info.width : info.width * info.bands;
}

at::Tensor pool(const at::Tensor& frames, const EncoderInfo& info, Pooling pooling) {
    if (pooling == Pooling::kMean) return frames.mean(1);
    return frames.reshape({frames.size(0), frames.size(1) / info.bands, info.bands, frames.size(2)}).mean(1).flatten(1);
}

at::Tensor pooled(Encoder& encoder, const at::Tensor& features, Pooling pooling) {
    return pool(encoder.frames(features, std::nullopt), encoder.info(), pooling);
}

}  // namespace biophony
