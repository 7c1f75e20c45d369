// A window as the mean and the standard deviation over time of its log mel bands: no network, nothing to learn. The
// filter bank is BEATs' (plugins/encoders/beats), so that the two hear the same.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../beats/fbank.hpp"
#include "biophony/torch/encoder.hpp"

namespace biophony::mel_statistics {

class MelStatistics : public torch_tier::Encoder {
public:
    explicit MelStatistics(double window_seconds) : window_seconds_(window_seconds) {}

    torch_tier::EncoderInfo info() const override;
    /// (B, M, 128), normalised as BEATs' defaults do.
    at::Tensor features(const at::Tensor& waves) const override;
    /// (B, 1, 256): 128 means, then 128 standard deviations (divided by the number of frames), low bands first.
    at::Tensor frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) override;
    /// The frames alone: there are no blocks.
    std::vector<at::Tensor> layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) override;
    /// (B, 1): the one frame is padding where everything is.
    at::Tensor frame_padding(const at::Tensor& features, const at::Tensor& padding) const override;
    void initialise(uint64_t) override {}
    torch_tier::ParameterRole role(std::string_view parameter) const override;
    std::string translate(std::string_view checkpoint_name) const override { return std::string(checkpoint_name); }

private:
    double window_seconds_;
    beats::FilterBank filter_bank_;
};

struct Factory : torch_tier::EncoderFactory {
    std::shared_ptr<torch_tier::Encoder> create(const std::string& params_json) const override;
    /// There are no checkpoints of this encoder but the host's own.
    std::string from_checkpoint_config(const std::string& config_json, const std::string& params_json) const override;
};

}  // namespace biophony::mel_statistics
