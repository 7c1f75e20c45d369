#include "config.hpp"

#include "biophony/plugin.hpp"
#include "fbank.hpp"

namespace biophony::beats {

namespace {

using nlohmann::json;

[[noreturn]] void refuse(const std::string& parameter, const std::string& message) {
    throw sdk::Error("'" + parameter + "': " + message, BPH_INVALID_ARGUMENT, parameter);
}

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
}

void assign(const std::string& name, const json& value, bool& to) {
    if (!value.is_boolean()) refuse(name, "found " + value.dump() + ", expected true or false");
    to = value.get<bool>();
}
void assign(const std::string& name, const json& value, int64_t& to) {
    if (!value.is_number_integer()) refuse(name, "found " + value.dump() + ", expected an integer");
    to = value.get<int64_t>();
}
void assign(const std::string& name, const json& value, double& to) {
    if (!value.is_number()) refuse(name, "found " + value.dump() + ", expected a number");
    to = value.get<double>();
}
void assign(const std::string& name, const json& value, std::string& to) {
    if (!value.is_string()) refuse(name, "found " + value.dump() + ", expected a string");
    to = value.get<std::string>();
}

json parse_object(const std::string& text, const char* what) {
    json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!value.is_object()) throw sdk::Error(std::string(what) + ": expected a JSON object");
    return value;
}

void at_least(const char* name, int64_t value, int64_t least) {
    if (value < least)
        refuse(name, "found " + std::to_string(value) + ", expected an integer from " + std::to_string(least));
}
void probability(const char* name, double value) {
    if (!(value >= 0 && value < 1))
        refuse(name, "found " + json(value).dump() + ", expected a number from 0 to below 1");
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
    if (!(c.fbank_std > 0)) refuse("fbank_std", "found " + json(c.fbank_std).dump() + ", expected a number above 0");
    const double shortest = std::max(0.2, static_cast<double>(c.min_samples()) / 16000);
    if (!(c.window_seconds >= shortest))
        refuse("window_seconds",
               "found " + json(c.window_seconds).dump() + ", expected a number from " + json(shortest).dump());
}

}  // namespace

Config Config::parse(const std::string& params_json) {
    const json params = parse_object(params_json, "the parameters of the encoder");
    Config config;
    for_each_field(config, [&](const char* name, auto& member) {
        if (params.contains(name)) assign(name, params.at(name), member);
    });
    check(config);
    return config;
}

int64_t Config::min_samples() const {
    return FilterBank::kLength + (input_patch_size - 1) * FilterBank::kHop;
}

std::string overlay(const std::string& config_json, const std::string& params_json) {
    const json config = parse_object(config_json, "the checkpoint's configuration");
    json params = parse_object(params_json, "the parameters of the encoder");
    Config known;
    bool any = config.empty();
    for_each_field(known, [&](const char* name, auto&) {
        if (!config.contains(name) || config.at(name).is_null()) return;
        params[name] = config.at(name);
        any = true;
    });
    // Settings of a training, say. Weights fit with a wrong deep_norm, too, and then give noise.
    if (!any) throw sdk::Error("the checkpoint's configuration has no field of a BEATs");
    return params.dump();
}

}  // namespace biophony::beats
