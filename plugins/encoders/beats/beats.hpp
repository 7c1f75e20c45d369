// BEATs (Chen et al. 2022, arXiv 2212.09058) as a torch module: patches of a log mel filter bank, a convolution that
// tells positions, Transformer blocks with a gated relative position bias. Written from a description of
// microsoft/unilm beats/ (MIT), whose checkpoints it reads; parameters carry the names of those files.
//
// Letters in shapes: B clips, N samples, M filter-bank frames, P = 8T tokens for patches of 16 (token = t*8 + frequency
// block, low first), E patch width, D width, H heads.
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
#include "fbank.hpp"

namespace biophony::beats {

/// The bucket of the relative position key - query (T5's scheme: exact near zero, then logarithmic).
int64_t relative_bucket(int64_t relative, int64_t num_buckets, int64_t max_distance);

using encoders::Affine;

/// Self-attention whose position bias is scaled per query by a gate that the query computes.
struct Attention : torch::nn::Module {
    Attention(const Config& config, bool owns_table);
    /// `position_bias` (H, P, P) or undefined; `padding` (B, P) bool, true = padded, or undefined.
    at::Tensor forward(const at::Tensor& x, const at::Tensor& position_bias, const at::Tensor& padding) const;
    std::shared_ptr<Affine> q_proj, k_proj, v_proj, out_proj, grep_linear, relative_attention_bias;
    at::Tensor grep_a;
    int64_t heads;
    double dropout;
};

/// One Transformer block; see Attention for its arguments.
struct Block : torch::nn::Module {
    Block(const Config& config, bool owns_table);
    at::Tensor forward(const at::Tensor& x, const at::Tensor& position_bias, const at::Tensor& padding) const;
    std::shared_ptr<Attention> self_attn;
    std::shared_ptr<Affine> self_attn_layer_norm, fc1, fc2, final_layer_norm;
    std::string activation;
    bool norm_first;
    double alpha, dropout, activation_dropout;

private:
    at::Tensor feed_forward(const at::Tensor& x) const;
};

class Beats : public torch_tier::Encoder {
public:
    /// All parameters are zero until they are loaded or initialise() fills them. Throws sdk::Error.
    explicit Beats(const Config& config);

    torch_tier::EncoderInfo info() const override;
    /// (B, M, 128), normalised to about zero mean and a standard deviation of a half. Uses as many threads as LibTorch.
    at::Tensor features(const at::Tensor& waves) const override;
    /// (B, P, D). With layer_norm_first the last norm is applied, unlike in layers().
    at::Tensor frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) override;
    std::vector<at::Tensor> layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) override;
    /// With padding_mask "reference" as the published code does: a filter-bank frame, then a token, is padded where
    /// everything in its share of the mask is, shares being equal parts of all samples (or frames) in order. With
    /// "aligned" a token is padded where every sample under its patch is.
    at::Tensor frame_padding(const at::Tensor& features, const at::Tensor& padding) const override;
    /// The published classifier: the mean of the unpadded frames' logits (B, C), before the sigmoid.
    at::Tensor predictions(const at::Tensor& frames, const std::optional<at::Tensor>& padding) override;
    bool checkpoint_activations(bool on) override {
        checkpointed_ = on;
        return true;
    }
    void initialise(uint64_t seed) override;
    torch_tier::ParameterRole role(std::string_view parameter) const override;
    std::string translate(std::string_view checkpoint_name) const override;
    /// (B, P, 256) for patches of 16: the patches' values, an instant's in a row.
    at::Tensor tiles(const at::Tensor& features) const override;
    /// The kept tokens are a shorter sequence: positions are ranks among them, as in the paper's pretraining.
    at::Tensor frames_of(const at::Tensor& features, const at::Tensor& kept) override;

    // The steps of frames(), apart, for tests.
    at::Tensor patches(const at::Tensor& features) const;      ///< (B, M, 128) → (B, P, E)
    at::Tensor normalised(const at::Tensor& patches) const;    ///< (B, P, E) → (B, P, E)
    at::Tensor projected(const at::Tensor& normalised) const;  ///< (B, P, E) → (B, P, D)
    at::Tensor position_bias(int64_t tokens);                  ///< (H, P, P), undefined without one
    const encoders::PositionalConvolution& positions() const { return *pos_conv_; }

private:
    at::Tensor embedded(const at::Tensor& tiles) const;  ///< (B, P, 256) → (B, P, E)
    /// embedded (B, P, E), padded (B, P) bool or undefined → (B, P, D), before the last norm
    at::Tensor run(const at::Tensor& embedded, const at::Tensor& padded, std::vector<at::Tensor>* hidden);
    at::Tensor padded_tokens(const at::Tensor& features, const std::optional<at::Tensor>& padding) const;
    at::Tensor finished(const at::Tensor& x) const;  ///< with layer_norm_first through the last norm

    Config config_;
    FilterBank filter_bank_;
    std::shared_ptr<Affine> patch_embedding_, layer_norm_, post_extract_proj_, encoder_layer_norm_;
    std::shared_ptr<encoders::PositionalConvolution> pos_conv_;
    std::vector<std::shared_ptr<Block>> blocks_;
    std::shared_ptr<Affine> predictor_;  // null without one
    at::Tensor buckets_;                 // (P, P) of the last length, see position_bias()
    at::Tensor bias_;                    // (H, P, P) of that length, as the table was at bias_version_
    int64_t bias_version_ = 0;
    bool checkpointed_ = false;
    std::unordered_set<std::string> names_;
};

struct BeatsFactory : torch_tier::EncoderFactory {
    std::shared_ptr<torch_tier::Encoder> create(const std::string& params_json) const override;
    std::string from_checkpoint_config(const std::string& config_json, const std::string& params_json) const override;
};

}  // namespace biophony::beats
