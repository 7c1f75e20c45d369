// The configuration of a HuBERT encoder: the fields of a published checkpoint's `model_config.json`, and one of ours.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace biophony::hubert {

/// One convolution of the extractor.
struct ConvLayer {
    int64_t channels, kernel, stride;
    bool operator==(const ConvLayer&) const = default;
};

/// Names and meanings are those of torchaudio's wav2vec2_model() (BSD-2); the defaults are AVES' (base). What
/// encoder_layer_norm_first means for the blocks is told there; torchaudio passes its opposite to what is around them:
/// false puts encoder.transformer.layer_norm before the first block, true after the last.
struct Config {
    std::string extractor_mode = "group_norm";
    std::vector<ConvLayer> extractor_conv_layer_config = {{512, 10, 5}, {512, 3, 2}, {512, 3, 2}, {512, 3, 2},
                                                          {512, 3, 2},  {512, 2, 2}, {512, 2, 2}};
    bool extractor_conv_bias = false;
    int64_t encoder_embed_dim = 768;
    double encoder_projection_dropout = 0.1;
    int64_t encoder_pos_conv_kernel = 128;
    int64_t encoder_pos_conv_groups = 16;
    int64_t encoder_num_layers = 12;
    int64_t encoder_num_heads = 12;
    double encoder_attention_dropout = 0.1;
    int64_t encoder_ff_interm_features = 3072;
    double encoder_ff_interm_dropout = 0.0;
    double encoder_dropout = 0.1;
    bool encoder_layer_norm_first = false;
    double encoder_layer_drop = 0.05;
    // Ours.
    double window_seconds = 5;

    /// Reads JSON and checks that the values fit together. Throws sdk::Error that names the parameter.
    static Config parse(const std::string& params_json);

    bool operator==(const Config&) const = default;

    /// Samples from the start of one frame to the next, and samples that one frame hears.
    int64_t hop() const;
    int64_t reach() const;
};

/// Calls visit(name, member) for every field.
template <class C, class Visit>
void for_each_field(C& c, Visit&& visit) {
    visit("extractor_mode", c.extractor_mode);
    visit("extractor_conv_layer_config", c.extractor_conv_layer_config);
    visit("extractor_conv_bias", c.extractor_conv_bias);
    visit("encoder_embed_dim", c.encoder_embed_dim);
    visit("encoder_projection_dropout", c.encoder_projection_dropout);
    visit("encoder_pos_conv_kernel", c.encoder_pos_conv_kernel);
    visit("encoder_pos_conv_groups", c.encoder_pos_conv_groups);
    visit("encoder_num_layers", c.encoder_num_layers);
    visit("encoder_num_heads", c.encoder_num_heads);
    visit("encoder_attention_dropout", c.encoder_attention_dropout);
    visit("encoder_ff_interm_features", c.encoder_ff_interm_features);
    visit("encoder_ff_interm_dropout", c.encoder_ff_interm_dropout);
    visit("encoder_dropout", c.encoder_dropout);
    visit("encoder_layer_norm_first", c.encoder_layer_norm_first);
    visit("encoder_layer_drop", c.encoder_layer_drop);
    visit("window_seconds", c.window_seconds);
}

}  // namespace biophony::hubert
