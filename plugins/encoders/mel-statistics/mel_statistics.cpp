#include "mel_statistics.hpp"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

namespace biophony::mel_statistics {

namespace {

using beats::FilterBank;

constexpr float kMean = 15.41663F, kDivisor = 13.11164F;  // encoder:beats' defaults: fbank_mean and twice fbank_std

/// (B, N) over samples → (B, M) over filter-bank frames: padded where a frame's whole share of the mask is.
at::Tensor padded_frames(const at::Tensor& features, const at::Tensor& padding) {
    const int64_t frames = features.size(1);
    if (padding.dim() != 2 || padding.size(0) != features.size(0) || padding.size(1) < frames)
        throw sdk::Error("the padding mask doesn't fit the features: expected (clips, samples), true = padded");
    const int64_t share = padding.size(1) / frames;
    return padding.to(features.device(), at::kBool)
        .narrow(1, 0, share * frames)
        .reshape({padding.size(0), frames, share})
        .all(2);
}

}  // namespace

torch_tier::EncoderInfo MelStatistics::info() const {
    return {.sample_rate = 16000,
            .window_seconds = window_seconds_,
            .min_samples = FilterBank::kLength,
            .width = int64_t{2} * FilterBank::kMels,
            .depth = 0,
            .frames_per_second = 1 / window_seconds_,
            .bands = 1};
}

at::Tensor MelStatistics::features(const at::Tensor& waves) const {
    if (waves.dim() != 2)
        throw sdk::Error("waves have " + std::to_string(waves.dim()) + " axes, expected 2: (clips, samples)");
    const int64_t clips = waves.size(0), samples = waves.size(1), frames = FilterBank::frame_count(samples);
    if (frames == 0)
        throw sdk::Error("waves have " + std::to_string(samples) + " samples, expected at least " +
                         std::to_string(FilterBank::kLength));
    const at::Tensor input = waves.detach().to(at::kCPU, at::kFloat).contiguous();
    at::Tensor out = at::empty({clips, frames, FilterBank::kMels}, at::kFloat);
    for (int64_t clip = 0; clip < clips; ++clip)
        filter_bank_.compute(input.const_data_ptr<float>() + clip * samples, 0, frames, kMean, kDivisor,
                             out.mutable_data_ptr<float>() + clip * frames * FilterBank::kMels);
    return out.to(waves.device());
}

at::Tensor MelStatistics::frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) {
    if (features.dim() != 3 || features.size(1) < 1 || features.size(2) != FilterBank::kMels)
        throw sdk::Error("features have another shape than (clips, frames, 128)");
    at::Tensor weight = at::ones({features.size(0), features.size(1), 1}, features.options());
    if (padding) {
        const at::Tensor padded = padded_frames(features, *padding);
        if (padded.all(1).any().item<bool>()) throw sdk::Error("a clip of the batch is padding from end to end");
        weight = weight.masked_fill(padded.unsqueeze(2), 0);
    }
    weight = weight / weight.sum(1, true);
    const at::Tensor mean = (features * weight).sum(1, true);
    const at::Tensor deviation = ((features - mean).square() * weight).sum(1, true).sqrt();
    return at::cat({mean, deviation}, 2);
}

std::vector<at::Tensor> MelStatistics::layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) {
    return {frames(features, padding)};
}

at::Tensor MelStatistics::frame_padding(const at::Tensor& features, const at::Tensor& padding) const {
    return padded_frames(features, padding).all(1, true);
}

torch_tier::ParameterRole MelStatistics::role(std::string_view parameter) const {
    throw sdk::Error("the encoder has no parameter '" + std::string(parameter) + "'");
}

std::shared_ptr<torch_tier::Encoder> Factory::create(const std::string& params_json) const {
    const nlohmann::json params = nlohmann::json::parse(params_json, nullptr, false);
    const double seconds = params.is_object() ? params.value("window_seconds", 5.0) : 0;
    if (!(seconds >= 0.2))
        throw sdk::Error("'window_seconds': expected a number from 0.2", BPH_INVALID_ARGUMENT, "window_seconds");
    return std::make_shared<MelStatistics>(seconds);
}

std::string Factory::from_checkpoint_config(const std::string&, const std::string&) const {
    throw sdk::Error("mel statistics have no weights, so there is no checkpoint to read");
}

}  // namespace biophony::mel_statistics
