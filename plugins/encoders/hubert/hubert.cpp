#include "hubert.hpp"

#include <cmath>

#include "../attention.hpp"
#include "../checkpointed.hpp"
#include "../fields.hpp"

namespace biophony::hubert {

using encoders::Affine;
using encoders::checkpointed;
using encoders::linear;
using encoders::linear_layer;
using encoders::norm;
using encoders::norm_layer;

namespace {

constexpr double kSampleRate = 16000;
constexpr std::string_view kStack = "encoder.transformer.layers.";

}  // namespace

ConvBlock::ConvBlock(int64_t channels, const ConvLayer& layer, const Config& config, bool first)
    : stride(layer.stride), over_time(config.extractor_mode == "group_norm") {
    if (first || !over_time) layer_norm = register_module("layer_norm", norm_layer(layer.channels));
    conv = register_module("conv", std::make_shared<Affine>(std::array{layer.channels, channels, layer.kernel},
                                                            config.extractor_conv_bias));
}

at::Tensor ConvBlock::forward(const at::Tensor& x) const {
    at::Tensor y = at::conv1d(x, conv->weight, conv->bias, stride);
    if (layer_norm)
        y = over_time ? at::group_norm(y, y.size(1), layer_norm->weight, layer_norm->bias, encoders::kNormEpsilon)
                      : norm(*layer_norm, y.transpose(1, 2)).transpose(1, 2);
    return at::gelu(y);
}

Attention::Attention(const Config& config)
    : heads(config.encoder_num_heads), dropout(config.encoder_attention_dropout) {
    const int64_t width = config.encoder_embed_dim;
    k_proj = register_module("k_proj", linear_layer(width, width));
    v_proj = register_module("v_proj", linear_layer(width, width));
    q_proj = register_module("q_proj", linear_layer(width, width));
    out_proj = register_module("out_proj", linear_layer(width, width));
}

at::Tensor Attention::forward(const at::Tensor& x) const {
    const int64_t batch = x.size(0), frames = x.size(1), depth = x.size(2) / heads;
    auto per_head = [&](const at::Tensor& t) { return t.view({batch, frames, heads, depth}).transpose(1, 2); };
    const at::Tensor q = per_head(linear(*q_proj, x));
    const at::Tensor k = per_head(linear(*k_proj, x));
    const at::Tensor v = per_head(linear(*v_proj, x));
    const at::Tensor out = encoders::Attend{{}, {}, {}, is_training() ? dropout : 0}(q, k, v);
    return linear(*out_proj, out.transpose(1, 2).reshape({batch, frames, heads * depth}));
}

Block::Block(const Config& config)
    : norm_first(config.encoder_layer_norm_first),
      dropout(config.encoder_dropout),
      inner_dropout(config.encoder_ff_interm_dropout) {
    const int64_t width = config.encoder_embed_dim, inner = config.encoder_ff_interm_features;
    attention = register_module("attention", std::make_shared<Attention>(config));
    layer_norm = register_module("layer_norm", norm_layer(width));
    auto feed_forward = register_module("feed_forward", std::make_shared<torch::nn::Module>());
    intermediate_dense = feed_forward->register_module("intermediate_dense", linear_layer(inner, width));
    output_dense = feed_forward->register_module("output_dense", linear_layer(width, inner));
    final_layer_norm = register_module("final_layer_norm", norm_layer(width));
}

at::Tensor Block::forward(const at::Tensor& x) const {
    auto drop = [this](const at::Tensor& t) { return encoders::dropout(t, dropout, is_training()); };
    auto feed_forward = [&](const at::Tensor& t) {
        const at::Tensor inner =
            encoders::dropout(at::gelu(linear(*intermediate_dense, t)), inner_dropout, is_training());
        return drop(linear(*output_dense, inner));
    };
    if (norm_first) {
        const at::Tensor y = x + drop(attention->forward(norm(*layer_norm, x)));
        return y + feed_forward(norm(*final_layer_norm, y));
    }
    const at::Tensor y = norm(*layer_norm, x + drop(attention->forward(x)));
    return norm(*final_layer_norm, y + feed_forward(y));
}

Hubert::Hubert(const Config& config) : config_(config) {
    const int64_t width = config.encoder_embed_dim;
    extractor_ = register_module("feature_extractor", std::make_shared<torch::nn::Module>());
    auto layers = extractor_->register_module("conv_layers", std::make_shared<torch::nn::Module>());
    int64_t channels = 1;
    for (const ConvLayer& layer : config.extractor_conv_layer_config) {
        convs_.push_back(layers->register_module(std::to_string(convs_.size()),
                                                 std::make_shared<ConvBlock>(channels, layer, config, convs_.empty())));
        channels = layer.channels;
    }
    auto encoder = register_module("encoder", std::make_shared<torch::nn::Module>());
    auto projection = encoder->register_module("feature_projection", std::make_shared<torch::nn::Module>());
    projection_norm_ = projection->register_module("layer_norm", norm_layer(channels));
    projection_ = projection->register_module("projection", linear_layer(width, channels));
    auto transformer = encoder->register_module("transformer", std::make_shared<torch::nn::Module>());
    auto embedding = transformer->register_module("pos_conv_embed", std::make_shared<torch::nn::Module>());
    positions_ =
        embedding->register_module("conv", std::make_shared<encoders::PositionalConvolution>(
                                               width, config.encoder_pos_conv_kernel, config.encoder_pos_conv_groups));
    layer_norm_ = transformer->register_module("layer_norm", norm_layer(width));
    auto stack = transformer->register_module("layers", std::make_shared<torch::nn::Module>());
    for (int64_t i = 0; i < config.encoder_num_layers; ++i)
        blocks_.push_back(stack->register_module(std::to_string(i), std::make_shared<Block>(config)));
    for (const auto& parameter : named_parameters()) names_.insert(parameter.key());
}

torch_tier::EncoderInfo Hubert::info() const {
    return {.sample_rate = kSampleRate,
            .window_seconds = config_.window_seconds,
            .min_samples = config_.reach(),
            .width = config_.encoder_embed_dim,
            .depth = config_.encoder_num_layers,
            .frames_per_second = kSampleRate / static_cast<double>(config_.hop()),
            .bands = 1,
            .masks_padding = false};
}

at::Tensor Hubert::features(const at::Tensor& waves) const {
    if (waves.dim() != 2)
        throw sdk::Error("waves have " + std::to_string(waves.dim()) + " axes, expected 2: (clips, samples)");
    if (waves.size(1) < config_.reach())
        throw sdk::Error("waves have " + std::to_string(waves.size(1)) + " samples, expected at least " +
                         std::to_string(config_.reach()) + ", which give one frame");
    return waves.detach().to(at::kFloat).contiguous();
}

at::Tensor Hubert::extracted(const at::Tensor& waves) const {
    if (waves.dim() != 2 || waves.size(1) < config_.reach())
        throw sdk::Error("features have the shape " + encoders::shape_text(waves) + ", expected (clips, " +
                         std::to_string(config_.reach()) + " or more samples)");
    auto convolve = [this](const std::vector<at::Tensor>& inputs) {
        at::Tensor x = inputs[0];
        for (const std::shared_ptr<ConvBlock>& conv : convs_) x = conv->forward(x);
        return x;
    };
    const at::Tensor x = waves.to(convs_.front()->conv->weight.scalar_type()).unsqueeze(1);
    return (checkpointed_ ? checkpointed(convolve, {x}, extractor_->parameters()) : convolve({x})).transpose(1, 2);
}

at::Tensor Hubert::projected(const at::Tensor& extracted) const {
    return linear(*projection_, norm(*projection_norm_, extracted));
}

at::Tensor Hubert::run(const at::Tensor& waves, const std::optional<at::Tensor>& padding,
                       std::vector<at::Tensor>* hidden) {
    if (padding && padding->any().item<bool>())
        throw sdk::Error("this encoder has no padding masks, and the mask pads samples; give it clips of one length",
                         BPH_UNSUPPORTED);
    at::Tensor x = encoders::dropout(projected(extracted(waves)), config_.encoder_projection_dropout, is_training());
    x = x + positions_->forward(x);
    if (!config_.encoder_layer_norm_first) x = norm(*layer_norm_, x);
    x = encoders::dropout(x, config_.encoder_dropout, is_training());
    if (hidden != nullptr) hidden->push_back(x);
    for (const std::shared_ptr<Block>& block : blocks_) {
        auto forward = [block](const std::vector<at::Tensor>& inputs) { return block->forward(inputs[0]); };
        if (!encoders::left_out(config_.encoder_layer_drop, is_training()))
            x = checkpointed_ ? checkpointed(forward, {x}, block->parameters()) : block->forward(x);
        if (hidden != nullptr) hidden->push_back(x);
    }
    return x;
}

at::Tensor Hubert::frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) {
    const at::Tensor x = run(features, padding, nullptr);
    return config_.encoder_layer_norm_first ? norm(*layer_norm_, x) : x;
}

std::vector<at::Tensor> Hubert::layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) {
    std::vector<at::Tensor> hidden;
    run(features, padding, &hidden);
    return hidden;
}

at::Tensor Hubert::frame_padding(const at::Tensor& features, const at::Tensor& padding) const {
    if (padding.dim() != 2 || padding.sizes() != features.sizes() || padding.size(1) < config_.reach())
        throw sdk::Error("the padding mask doesn't fit the features: expected (clips, samples), true = padded");
    // Counted: how many padded samples lie before the end of what a frame hears, and before its start.
    const at::Tensor before = at::constant_pad_nd(padding.to(at::kLong).cumsum(1), {1, 0});  // (B, N + 1)
    const int64_t frames = (padding.size(1) - config_.reach()) / config_.hop() + 1;
    const at::Tensor starts = at::arange(frames, before.options()) * config_.hop();
    return before.index_select(1, starts + config_.reach()) > before.index_select(1, starts);
}

bool Hubert::checkpoint_activations(bool on) {
    checkpointed_ = on;
    return true;
}

void Hubert::initialise(uint64_t seed) {
    const at::NoGradGuard no_grad;
    encoders::Filler fill(seed);
    // As fairseq's and torchaudio's HuBERT before pretraining.
    for (const std::shared_ptr<ConvBlock>& conv : convs_) {
        fill.standard(*conv->conv);  // of which the bias, if any, stays
        const auto inputs = static_cast<double>(conv->conv->weight[0].numel());
        fill.normal(conv->conv->weight, std::sqrt(2 / inputs));  // He et al. 2015
        if (conv->layer_norm) encoders::Filler::one(*conv->layer_norm);
    }
    encoders::Filler::one(*projection_norm_);
    fill.standard(*projection_);
    fill.positions(*positions_);
    encoders::Filler::one(*layer_norm_);
    for (const std::shared_ptr<Block>& block : blocks_) {
        const Attention& attention = *block->attention;
        for (const auto& layer : {attention.k_proj, attention.v_proj, attention.q_proj, attention.out_proj,
                                  block->intermediate_dense, block->output_dense})
            fill.bert(*layer);
        encoders::Filler::one(*block->layer_norm);
        encoders::Filler::one(*block->final_layer_norm);
    }
}

torch_tier::ParameterRole Hubert::role(std::string_view parameter) const {
    if (!names_.contains(std::string(parameter)))
        throw sdk::Error("the encoder has no parameter '" + std::string(parameter) + "'");
    torch_tier::ParameterRole role{.kind = "matrix", .block = encoders::block_of(parameter, kStack), .tied_to = {}};
    if (parameter.ends_with("bias")) {
        role.kind = "bias";
    } else if (parameter.find("layer_norm") != std::string_view::npos) {
        role.kind = "norm";
    } else if (parameter.ends_with("weight_g")) {
        role.kind = "gain";
    } else if (parameter.ends_with("weight_v") || parameter.ends_with(".conv.weight")) {
        role.kind = "convolution";
    }
    return role;
}

std::string Hubert::translate(std::string_view checkpoint_name) const {
    const std::string_view name =
        encoders::without_prefixes(checkpoint_name, {"module.", "model.", "wav2vec2.", "backbone."});
    // A head that was trained with it, and what HuBERT's pretraining adds.
    for (const std::string_view other : {"aux.", "mask_generator.", "logit_generator."})
        if (name.starts_with(other)) return {};
    constexpr std::string_view kPositions = "encoder.transformer.pos_conv_embed.conv.";
    if (name.starts_with(kPositions)) {
        const std::string_view last = name.substr(kPositions.size());
        if (last == "parametrizations.weight.original0") return std::string(kPositions) + "weight_g";
        if (last == "parametrizations.weight.original1") return std::string(kPositions) + "weight_v";
    }
    return std::string(names_.contains(std::string(name)) ? name : checkpoint_name);
}

std::shared_ptr<torch_tier::Encoder> HubertFactory::create(const std::string& params_json) const {
    return std::make_shared<Hubert>(Config::parse(params_json));
}

std::string HubertFactory::from_checkpoint_config(const std::string& config_json,
                                                  const std::string& params_json) const {
    return encoders::overlay_fields<Config>(config_json, params_json);
}

}  // namespace biophony::hubert
