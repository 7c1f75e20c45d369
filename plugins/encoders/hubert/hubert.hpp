// HuBERT (Hsu et al. 2021, arXiv 2106.07447) as a torch module, as torchaudio builds it and AVES and BirdAVES (Hagiwara
// 2023, arXiv 2210.14493) use it: convolutions on the waveform, a convolution that tells positions, Transformer blocks.
// Written from a description of torchaudio's models/wav2vec2 (BSD-2), whose checkpoints it reads; parameters carry the
// names of those files.
//
// Letters in shapes: B clips, N samples, T frames, C channels of the last convolution, D width.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "../transformer.hpp"
#include "biophony/torch/encoder.hpp"
#include "config.hpp"

namespace biophony::hubert {

/// One convolution over time with what follows it. x (B, channels, time) → the same with other sizes.
struct ConvBlock : torch::nn::Module {
    ConvBlock(int64_t channels, const ConvLayer& layer, const Config& config, bool first);
    at::Tensor forward(const at::Tensor& x) const;
    std::shared_ptr<encoders::Affine> conv, layer_norm;  ///< without a norm: empty
    int64_t stride;
    bool over_time;  ///< the norm: of each channel over time, else of each instant over the channels
};

/// Plain self-attention. x (B, T, D) → (B, T, D).
struct Attention : torch::nn::Module {
    explicit Attention(const Config& config);
    at::Tensor forward(const at::Tensor& x) const;
    std::shared_ptr<encoders::Affine> k_proj, v_proj, q_proj, out_proj;
    int64_t heads;
    double dropout;
};

/// One Transformer block, x (B, T, D) → (B, T, D).
struct Block : torch::nn::Module {
    explicit Block(const Config& config);
    at::Tensor forward(const at::Tensor& x) const;
    std::shared_ptr<Attention> attention;
    std::shared_ptr<encoders::Affine> layer_norm, intermediate_dense, output_dense, final_layer_norm;
    bool norm_first;
    double dropout, inner_dropout;
};

class Hubert : public torch_tier::Encoder {
public:
    /// All parameters are zero until they are loaded or initialise() fills them. Throws sdk::Error.
    explicit Hubert(const Config& config);

    torch_tier::EncoderInfo info() const override;
    /// (B, N): the waves themselves, as they are. What comes before the first learned weight is nothing.
    at::Tensor features(const at::Tensor& waves) const override;
    /// (B, T, D). With encoder_layer_norm_first the last norm is applied, unlike in layers(). Throws where `padding`
    /// pads anything.
    at::Tensor frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) override;
    std::vector<at::Tensor> layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) override;
    /// A frame is padded where it hears a padded sample; torchaudio counts a clip's frames so.
    at::Tensor frame_padding(const at::Tensor& features, const at::Tensor& padding) const override;
    /// The convolutions on the waveform count as one block.
    bool checkpoint_activations(bool on) override;
    void initialise(uint64_t seed) override;
    torch_tier::ParameterRole role(std::string_view parameter) const override;
    std::string translate(std::string_view checkpoint_name) const override;

    // The steps of frames(), apart, for tests.
    at::Tensor extracted(const at::Tensor& waves) const;      ///< (B, N) → (B, T, C)
    at::Tensor projected(const at::Tensor& extracted) const;  ///< (B, T, C) → (B, T, D)

private:
    /// (B, N) → (B, T, D), before the last norm
    at::Tensor run(const at::Tensor& waves, const std::optional<at::Tensor>& padding, std::vector<at::Tensor>* hidden);

    Config config_;
    std::shared_ptr<torch::nn::Module> extractor_;
    std::vector<std::shared_ptr<ConvBlock>> convs_;
    std::shared_ptr<encoders::Affine> projection_norm_, projection_, layer_norm_;
    std::shared_ptr<encoders::PositionalConvolution> positions_;
    std::vector<std::shared_ptr<Block>> blocks_;
    std::unordered_set<std::string> names_;
    bool checkpointed_ = false;
};

struct HubertFactory : torch_tier::EncoderFactory {
    std::shared_ptr<torch_tier::Encoder> create(const std::string& params_json) const override;
    std::string from_checkpoint_config(const std::string& config_json, const std::string& params_json) const override;
};

}  // namespace biophony::hubert
