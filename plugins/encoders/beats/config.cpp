#include "config.hpp"

#include "../fields.hpp"
#include "fbank.hpp"

namespace biophony::beats {

namespace {

using encoders::json;
using encoders::probability;
using encoders::refuse;

void at_least(const char* name, int64_t value, int64_t least) {
    if (value < least)
        refuse(name, "found " + std::to_string(value) + ", expected an integer from " + std::to_string(least));
}
void multiple(const char* name, int64_t value, const char* of_name, int64_t of) {
    if (value % of != 0)
        refuse(name, "found " + std::to_string(value) + ", expected a multiple of " + of_name + ", which is " +
                         std::to_string(of));
}

void check(const Config& c) {
    // Below 12 there are more tokens than filter-bank frames, for which the reference's padding masks aren't defined.
    if (c.input_patch_size < 12 || c.input_patch_size > FilterBank::kMels)
        refuse("input_patch_size", "found " + std::to_string(c.input_patch_size) +
                                       ", expected an integer from 12 to 128; published encoders have 16");
    at_least("embed_dim", c.embed_dim, 1);
    at_least("encoder_layers", c.encoder_layers, 1);
    at_least("encoder_embed_dim", c.encoder_embed_dim, 1);
    at_least("encoder_ffn_embed_dim", c.encoder_ffn_embed_dim, 1);
    at_least("encoder_attention_heads", c.encoder_attention_heads, 1);
    at_least("conv_pos", c.conv_pos, 1);
    at_least("conv_pos_groups", c.conv_pos_groups, 1);
    multiple("encoder_embed_dim", c.encoder_embed_dim, "encoder_attention_heads", c.encoder_attention_heads);
    multiple("encoder_embed_dim", c.encoder_embed_dim, "conv_pos_groups", c.conv_pos_groups);
    bool known = false;
    for (const char* name : {"gelu", "relu", "gelu_accurate", "gelu_fast", "tanh", "linear", "glu"})
        known = known || c.activation_fn == name;
    if (!known)
        refuse("activation_fn",
               "found \"" + c.activation_fn + "\", expected gelu, relu, gelu_accurate, gelu_fast, tanh, linear or glu");
    if (c.deep_norm && c.layer_norm_first)
        refuse("deep_norm",
               "found true with layer_norm_first, expected false: deep norm scales the residuals of "
               "post-norm blocks");
    if (c.deep_norm && c.activation_fn == "glu")
        refuse("deep_norm",
               "found true with activation_fn \"glu\", expected false: its initialisation isn't defined "
               "for gated layers");
    if (!(c.layer_wise_gradient_decay_ratio > 0 && c.layer_wise_gradient_decay_ratio <= 1))
        refuse("layer_wise_gradient_decay_ratio",
               "found " + json(c.layer_wise_gradient_decay_ratio).dump() + ", expected a number above 0 and up to 1");
    probability("dropout", c.dropout);
    probability("attention_dropout", c.attention_dropout);
    probability("activation_dropout", c.activation_dropout);
    probability("encoder_layerdrop", c.encoder_layerdrop);
    probability("dropout_input", c.dropout_input);
    if (c.relative_position_embedding) {
        if (c.num_buckets < 4 || c.num_buckets % 2 != 0)
            refuse("num_buckets", "found " + std::to_string(c.num_buckets) + ", expected an even integer from 4");
        if (c.max_distance <= c.num_buckets / 4)
            refuse("max_distance", "found " + std::to_string(c.max_distance) + ", expected more than num_buckets/4, " +
                                       std::to_string(c.num_buckets / 4));
    } else if (c.gru_rel_pos) {
        refuse("gru_rel_pos", "found true without relative_position_embedding, expected false: it gates that bias");
    }
    if (c.predictor && !c.finetuned_model)
        refuse("predictor",
               "found true without finetuned_model, expected false: only fine-tuned checkpoints have a classifier");
    at_least("predictor_class", c.predictor_class, 1);
    probability("predictor_dropout", c.predictor_dropout);
    if (c.padding_mask != "reference" && c.padding_mask != "aligned")
        refuse("padding_mask", "found \"" + c.padding_mask + "\", expected reference or aligned");
    if (!(c.fbank_std > 0)) refuse("fbank_std", "found " + json(c.fbank_std).dump() + ", expected a number above 0");
    encoders::check_window(c.window_seconds, c.min_samples());
}

}  // namespace

Config Config::parse(const std::string& params_json) {
    const json params = encoders::parse_object(params_json, "the parameters of the encoder");
    Config config;
    for_each_field(config, [&](const char* name, auto& member) {
        if (params.contains(name)) encoders::assign(name, params.at(name), member);
    });
    check(config);
    return config;
}

int64_t Config::min_samples() const {
    return FilterBank::kLength + (input_patch_size - 1) * FilterBank::kHop;
}

std::string overlay(const std::string& config_json, const std::string& params_json) {
    return encoders::overlay_fields<Config>(config_json, params_json);
}

}  // namespace biophony::beats
