// Masked prediction as BEATs (Chen et al. 2022, arXiv 2212.09058, section 3.1) is pretrained in its first round: most
// tokens are hidden from the encoder, and a small Transformer predicts which code a frozen random projection gives
// them.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "learn/encoder.hpp"

namespace biophony {

/// Tokens by a frozen random projection (after Chiu et al. 2022, arXiv 2202.01855): two linear layers with a norm
/// behind each, then the nearest of `codes` random vectors.
class RandomTokenizer {
public:
    RandomTokenizer(int64_t values, int64_t codes, uint64_t seed);
    /// tiles (…, P) → codes (…) int64.
    at::Tensor operator()(const at::Tensor& tiles) const;

private:
    at::Tensor first_, second_, codes_, half_squares_;
};

/// Which tokens of B windows with T tokens each are seen; every row is drawn by itself.
struct Masks {
    at::Tensor kept;    ///< (B, K) int64, ascending
    at::Tensor masked;  ///< (B, T − K) int64, ascending
};
/// `share` of the tokens is masked, rounded, but at least one is kept and one masked. T > 1.
Masks draw_masks(int64_t windows, int64_t tokens, double share, uint64_t seed);

struct MaskedSettings {
    double weight = 0, share = 0;
    int64_t codes = 0, layers = 0, width = 0;  ///< of the tokenizer, of the predictor
};

constexpr double kLabelSmoothing = 0.1;  ///< of all cross-entropies of pretraining

/// The objective: encoder and predictor against the tokenizer.
class MaskedPrediction {
public:
    MaskedPrediction(const EncoderInfo& info, const MaskedSettings& settings, uint64_t seed);
    ~MaskedPrediction();
    struct Result {
        at::Tensor loss, accuracy;  ///< over masked tokens; cross-entropy with smoothed labels
        at::Tensor codes;           ///< (B, T) int64: what was to be predicted, and the rest
    };
    /// `features` of a batch, masked from `seed`. Throws Error(kInvalid) for an encoder that lacks the SDK's functions
    /// for it.
    Result operator()(Encoder& encoder, const at::Tensor& features, bool bfloat16, uint64_t seed);
    const std::vector<at::Tensor>& parameters() const { return parameters_; }

private:
    struct Layer;
    at::Tensor predicted(const at::Tensor& seen, const Masks& masks, int64_t tokens) const;

    EncoderInfo info_;
    MaskedSettings settings_;
    uint64_t seed_;
    std::unique_ptr<RandomTokenizer> tokenizer_;  ///< from the first batch on, which says how many values a tile has
    std::vector<Layer> layers_;
    at::Tensor in_weight_, in_bias_, mask_token_, band_, norm_weight_, norm_bias_, out_weight_, out_bias_;
    std::vector<at::Tensor> parameters_;
};

}  // namespace biophony
