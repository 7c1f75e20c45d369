// The configuration of a BEATs encoder: the fields of a published checkpoint's `cfg`, and a few of our own.
#pragma once

#include <cstdint>
#include <string>

namespace biophony::beats {

/// Names and meanings follow microsoft/unilm beats/BEATs.py (MIT), BEATsConfig. The defaults are the values stored in
/// the published "iter3+ AS2M" checkpoints, which differ from that class's own: those have no deep norm and no
/// relative positions.
struct Config {
    int64_t input_patch_size = 16;
    int64_t embed_dim = 512;
    bool conv_bias = false;
    int64_t encoder_layers = 12;
    int64_t encoder_embed_dim = 768;
    int64_t encoder_ffn_embed_dim = 3072;
    int64_t encoder_attention_heads = 12;
    std::string activation_fn = "gelu";
    double layer_wise_gradient_decay_ratio = 1.0;
    bool layer_norm_first = false;
    bool deep_norm = true;
    double dropout = 0.1;
    double attention_dropout = 0.1;
    double activation_dropout = 0.0;
    double encoder_layerdrop = 0.05;
    double dropout_input = 0.1;
    int64_t conv_pos = 128;
    int64_t conv_pos_groups = 16;
    bool relative_position_embedding = true;
    int64_t num_buckets = 320;
    int64_t max_distance = 800;
    bool gru_rel_pos = true;
    // Of the published classifier, of which `predictor` says whether it is kept.
    bool finetuned_model = false;
    double predictor_dropout = 0.1;
    int64_t predictor_class = 527;
    // Ours.
    double window_seconds = 5;
    double fbank_mean = 15.41663;
    double fbank_std = 6.55582;
    bool predictor = false;
    std::string padding_mask = "reference";

    /// Reads JSON and checks that the values fit together. Throws sdk::Error that names the parameter.
    static Config parse(const std::string& params_json);

    bool operator==(const Config&) const = default;

    /// Samples of the shortest wave that gives a token.
    int64_t min_samples() const;
};

/// Calls visit(name, member) for every field.
template <class C, class Visit>
void for_each_field(C& c, Visit&& visit) {
    visit("input_patch_size", c.input_patch_size);
    visit("embed_dim", c.embed_dim);
    visit("conv_bias", c.conv_bias);
    visit("encoder_layers", c.encoder_layers);
    visit("encoder_embed_dim", c.encoder_embed_dim);
    visit("encoder_ffn_embed_dim", c.encoder_ffn_embed_dim);
    visit("encoder_attention_heads", c.encoder_attention_heads);
    visit("activation_fn", c.activation_fn);
    visit("layer_wise_gradient_decay_ratio", c.layer_wise_gradient_decay_ratio);
    visit("layer_norm_first", c.layer_norm_first);
    visit("deep_norm", c.deep_norm);
    visit("dropout", c.dropout);
    visit("attention_dropout", c.attention_dropout);
    visit("activation_dropout", c.activation_dropout);
    visit("encoder_layerdrop", c.encoder_layerdrop);
    visit("dropout_input", c.dropout_input);
    visit("conv_pos", c.conv_pos);
    visit("conv_pos_groups", c.conv_pos_groups);
    visit("relative_position_embedding", c.relative_position_embedding);
    visit("num_buckets", c.num_buckets);
    visit("max_distance", c.max_distance);
    visit("gru_rel_pos", c.gru_rel_pos);
    visit("finetuned_model", c.finetuned_model);
    visit("predictor_dropout", c.predictor_dropout);
    visit("predictor_class", c.predictor_class);
    visit("window_seconds", c.window_seconds);
    visit("fbank_mean", c.fbank_mean);
    visit("fbank_std", c.fbank_std);
    visit("predictor", c.predictor);
    visit("padding_mask", c.padding_mask);
}

/// `params_json` with the values of a checkpoint's own `cfg` laid over it. Keys that this encoder doesn't have are
/// dropped. Throws sdk::Error where either text is no JSON object.
std::string overlay(const std::string& config_json, const std::string& params_json);

}  // namespace biophony::beats
