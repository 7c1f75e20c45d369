#include "config.hpp"

#include <algorithm>

#include "../fields.hpp"

namespace biophony::hubert {

namespace {

using encoders::assign;
using encoders::json;
using encoders::positive;
using encoders::probability;
using encoders::refuse;

void assign(const std::string& name, const json& value, std::vector<ConvLayer>& to) {
    to.clear();
    bool good = value.is_array();
    for (const json& layer : good ? value : json::array()) {
        good = good && layer.is_array() && layer.size() == 3;
        for (const json& number : good ? layer : json::array())
            good = good && number.is_number_integer() && number >= 1 && number <= 1'000'000;
        if (good) to.push_back({layer[0], layer[1], layer[2]});
    }
    if (!good || to.empty() || to.size() > 32)
        refuse(name, "found " + value.dump() +
                         ", expected 1 to 32 layers, each [channels, kernel, stride] with integers from 1");
}

void check(const Config& c) {
    if (c.extractor_mode != "group_norm" && c.extractor_mode != "layer_norm")
        refuse("extractor_mode", "found \"" + c.extractor_mode + "\", expected group_norm or layer_norm");
    positive("encoder_embed_dim", c.encoder_embed_dim);
    positive("encoder_pos_conv_kernel", c.encoder_pos_conv_kernel);
    positive("encoder_pos_conv_groups", c.encoder_pos_conv_groups);
    positive("encoder_num_layers", c.encoder_num_layers);
    positive("encoder_num_heads", c.encoder_num_heads);
    positive("encoder_ff_interm_features", c.encoder_ff_interm_features);
    for (const auto& [name, parts] : {std::pair("encoder_num_heads", c.encoder_num_heads),
                                      std::pair("encoder_pos_conv_groups", c.encoder_pos_conv_groups)})
        if (c.encoder_embed_dim % parts != 0)
            refuse("encoder_embed_dim", "found " + std::to_string(c.encoder_embed_dim) + ", expected a multiple of " +
                                            name + ", " + std::to_string(parts));
    probability("encoder_projection_dropout", c.encoder_projection_dropout);
    probability("encoder_attention_dropout", c.encoder_attention_dropout);
    probability("encoder_ff_interm_dropout", c.encoder_ff_interm_dropout);
    probability("encoder_dropout", c.encoder_dropout);
    probability("encoder_layer_drop", c.encoder_layer_drop);
    if (c.reach() > 1'000'000)
        refuse("extractor_conv_layer_config",
               "found layers by which a frame hears more than a million samples, expected "
               "smaller kernels and strides");
    encoders::check_window(c.window_seconds, c.reach());
}

}  // namespace

Config Config::parse(const std::string& params_json) {
    const json params = encoders::parse_object(params_json, "the parameters of the encoder");
    Config config;
    for_each_field(config, [&](const char* name, auto& member) {
        if (params.contains(name)) assign(name, params.at(name), member);
    });
    check(config);
    return config;
}

int64_t Config::hop() const {
    int64_t out = 1;
    for (const ConvLayer& layer : extractor_conv_layer_config) out *= layer.stride;
    return out;
}

int64_t Config::reach() const {
    int64_t out = 1;
    for (size_t i = extractor_conv_layer_config.size(); i-- > 0;) {
        const ConvLayer& layer = extractor_conv_layer_config[i];
        out = std::min<int64_t>((out - 1) * layer.stride + layer.kernel, 1'000'000'000);  // no overflow
    }
    return out;
}

}  // namespace biophony::hubert
