#include "beats.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <thread>

#include "../attention.hpp"
#include "../checkpointed.hpp"

namespace biophony::beats {

using encoders::linear;
using encoders::linear_layer;
using encoders::norm;
using encoders::norm_layer;

namespace {

constexpr double kSampleRate = 16000;
constexpr std::string_view kStack = "encoder.layers.";

/// x itself, whose gradient is multiplied by `ratio`.
at::Tensor scale_gradient(const at::Tensor& x, double ratio) {
    if (ratio == 1 || !x.requires_grad()) return x;
    at::Tensor y = x.view_as(x);
    y.register_hook([ratio](const at::Tensor& gradient) { return gradient * ratio; });
    return y;
}

/// Whether everything is true in each of `targets` equal shares of the last axis; what is left over at its end doesn't
/// count. (B, L) → (B, targets).
at::Tensor all_of_shares(const at::Tensor& mask, int64_t targets) {
    const int64_t share = mask.size(1) / targets;
    return mask.narrow(1, 0, share * targets).reshape({mask.size(0), targets, share}).all(2);
}

}  // namespace

int64_t relative_bucket(int64_t relative, int64_t num_buckets, int64_t max_distance) {
    const int64_t half = num_buckets / 2, exact = half / 2;
    const int64_t sign = relative > 0 ? half : 0, distance = std::abs(relative);
    if (distance < exact) return sign + distance;
    // In float32, as the tables were trained.
    const float position = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                           static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
    return sign + std::min(half - 1, exact + static_cast<int64_t>(position * static_cast<float>(half - exact)));
}

Attention::Attention(const Config& config, bool owns_table)
    : heads(config.encoder_attention_heads), dropout(config.attention_dropout) {
    const int64_t width = config.encoder_embed_dim;
    q_proj = register_module("q_proj", linear_layer(width, width));
    k_proj = register_module("k_proj", linear_layer(width, width));
    v_proj = register_module("v_proj", linear_layer(width, width));
    out_proj = register_module("out_proj", linear_layer(width, width));
    if (owns_table)
        relative_attention_bias = register_module(
            "relative_attention_bias", std::make_shared<Affine>(std::array{config.num_buckets, heads}, false));
    if (config.gru_rel_pos) {
        grep_linear = register_module("grep_linear", linear_layer(8, width / heads));
        grep_a = register_parameter("grep_a", at::zeros({1, heads, 1, 1}));
    }
}

at::Tensor Attention::forward(const at::Tensor& x, const at::Tensor& position_bias, const at::Tensor& padding) const {
    const int64_t batch = x.size(0), tokens = x.size(1), depth = x.size(2) / heads;
    auto per_head = [&](const at::Tensor& t) { return t.view({batch, tokens, heads, depth}).transpose(1, 2); };
    const at::Tensor q = per_head(linear(*q_proj, x));
    const at::Tensor k = per_head(linear(*k_proj, x));
    const at::Tensor v = per_head(linear(*v_proj, x));

    at::Tensor gate;  // (B, H, P, 1)
    if (position_bias.defined() && grep_linear) {
        // Eight outputs, summed in two groups of four: the sum is a linear layer itself.
        const at::Tensor weight = grep_linear->weight.view({2, 4, depth}).sum(1);
        const at::Tensor ab = at::sigmoid(at::linear(q, weight, grep_linear->bias.view({2, 4}).sum(1)));
        gate = ab.narrow(3, 0, 1) * (ab.narrow(3, 1, 1) * grep_a - 1) + 2;
    }
    const encoders::Attend attend{position_bias, gate, padding, is_training() ? dropout : 0};
    const at::Tensor out = attend(q, k, v);
    return linear(*out_proj, out.transpose(1, 2).reshape({batch, tokens, heads * depth}));
}

Block::Block(const Config& config, bool owns_table)
    : activation(config.activation_fn),
      norm_first(config.layer_norm_first),
      alpha(config.deep_norm ? std::pow(2.0 * static_cast<double>(config.encoder_layers), 0.25) : 1),
      dropout(config.dropout),
      activation_dropout(config.activation_dropout) {
    const int64_t width = config.encoder_embed_dim, inner = config.encoder_ffn_embed_dim;
    self_attn = register_module("self_attn", std::make_shared<Attention>(config, owns_table));
    self_attn_layer_norm = register_module("self_attn_layer_norm", norm_layer(width));
    if (activation == "glu") {
        auto gated = register_module("fc1", std::make_shared<torch::nn::Module>());
        fc1 = gated->register_module("linear", linear_layer(2 * inner, width));
    } else {
        fc1 = register_module("fc1", linear_layer(inner, width));
    }
    fc2 = register_module("fc2", linear_layer(width, inner));
    final_layer_norm = register_module("final_layer_norm", norm_layer(width));
}

at::Tensor Block::feed_forward(const at::Tensor& x) const {
    at::Tensor y = linear(*fc1, x);
    if (activation == "gelu") {
        y = at::gelu(y);
    } else if (activation == "gelu_accurate" || activation == "gelu_fast") {
        y = at::gelu(y, "tanh");
    } else if (activation == "relu") {
        y = at::relu(y);
    } else if (activation == "tanh") {
        y = at::tanh(y);
    } else if (activation == "glu") {
        const std::vector<at::Tensor> halves = y.chunk(2, -1);
        y = halves[0] * at::silu(halves[1]);
    }
    return linear(*fc2, encoders::dropout(y, activation_dropout, is_training()));
}

at::Tensor Block::forward(const at::Tensor& x, const at::Tensor& position_bias, const at::Tensor& padding) const {
    auto drop = [this](const at::Tensor& t) { return encoders::dropout(t, dropout, is_training()); };
    if (norm_first) {
        const at::Tensor y = x + drop(self_attn->forward(norm(*self_attn_layer_norm, x), position_bias, padding));
        return y + drop(feed_forward(norm(*final_layer_norm, y)));
    }
    const at::Tensor y =
        norm(*self_attn_layer_norm, at::add(drop(self_attn->forward(x, position_bias, padding)), x, alpha));
    return norm(*final_layer_norm, at::add(drop(feed_forward(y)), y, alpha));
}

Beats::Beats(const Config& config) : config_(config) {
    const int64_t patch = config.input_patch_size, width = config.encoder_embed_dim;
    if (config.embed_dim != width)
        post_extract_proj_ = register_module("post_extract_proj", linear_layer(width, config.embed_dim));
    patch_embedding_ = register_module(
        "patch_embedding",
        std::make_shared<Affine>(std::array{config.embed_dim, int64_t{1}, patch, patch}, config.conv_bias));
    auto encoder = register_module("encoder", std::make_shared<torch::nn::Module>());
    auto sequence = encoder->register_module("pos_conv", std::make_shared<torch::nn::Module>());
    pos_conv_ = sequence->register_module(
        "0", std::make_shared<encoders::PositionalConvolution>(width, config.conv_pos, config.conv_pos_groups));
    auto stack = encoder->register_module("layers", std::make_shared<torch::nn::Module>());
    for (int64_t i = 0; i < config.encoder_layers; ++i)
        blocks_.push_back(stack->register_module(
            std::to_string(i), std::make_shared<Block>(config, config.relative_position_embedding && i == 0)));
    encoder_layer_norm_ = encoder->register_module("layer_norm", norm_layer(width));
    layer_norm_ = register_module("layer_norm", norm_layer(config.embed_dim));
    if (config.predictor) predictor_ = register_module("predictor", linear_layer(config.predictor_class, width));
    for (const auto& parameter : named_parameters()) names_.insert(parameter.key());
}

torch_tier::EncoderInfo Beats::info() const {
    const int64_t bands = FilterBank::kMels / config_.input_patch_size;
    return {.sample_rate = kSampleRate,
            .window_seconds = config_.window_seconds,
            .min_samples = config_.min_samples(),
            .width = config_.encoder_embed_dim,
            .depth = config_.encoder_layers,
            .frames_per_second = kSampleRate / FilterBank::kHop / static_cast<double>(config_.input_patch_size) *
                                 static_cast<double>(bands),
            .bands = bands,
            .classes = predictor_ ? config_.predictor_class : 0};
}

at::Tensor Beats::features(const at::Tensor& waves) const {
    if (waves.dim() != 2)
        throw sdk::Error("waves have " + std::to_string(waves.dim()) + " axes, expected 2: (clips, samples)");
    if (waves.size(1) < config_.min_samples())
        throw sdk::Error("waves have " + std::to_string(waves.size(1)) + " samples, expected at least " +
                         std::to_string(config_.min_samples()) + ", which give one token");
    const at::NoGradGuard no_grad;
    const at::Tensor input = waves.to(at::kCPU, at::kFloat).contiguous();
    const int64_t clips = input.size(0), samples = input.size(1), frames = FilterBank::frame_count(samples);
    at::Tensor out = at::empty({clips, frames, FilterBank::kMels}, at::kFloat);
    const float* from = input.const_data_ptr<float>();
    float* to = out.mutable_data_ptr<float>();
    const auto mean = static_cast<float>(config_.fbank_mean), divisor = static_cast<float>(2 * config_.fbank_std);

    // Own threads, as at::parallel_for would bind the plugin to LibTorch's OpenMP library. A block of 128 frames is
    // about a third of a millisecond of work.
    constexpr int64_t kBlock = 128;
    const int64_t blocks_per_clip = (frames + kBlock - 1) / kBlock, blocks = clips * blocks_per_clip;
    auto work = [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t clip = i / blocks_per_clip, first = i % blocks_per_clip * kBlock;
            const int64_t last = std::min(first + kBlock, frames);
            filter_bank_.compute(from + clip * samples, first, last, mean, divisor,
                                 to + (clip * frames + first) * FilterBank::kMels);
        }
    };
    const int64_t threads = std::clamp<int64_t>(blocks / 8, 1, at::get_num_threads());
    std::vector<std::jthread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(work, blocks * t / threads, blocks * (t + 1) / threads);
    work(0, blocks / threads);
    others.clear();
    return out.to(waves.device());
}

at::Tensor Beats::tiles(const at::Tensor& features) const {
    const int64_t patch = config_.input_patch_size;
    if (features.dim() != 3 || features.size(2) != FilterBank::kMels || features.size(1) < patch) {
        throw sdk::Error("features have the shape " + encoders::shape_text(features) + ", expected (clips, " +
                         std::to_string(patch) + " or more frames, 128)");
    }
    const int64_t times = features.size(1) / patch, bands = FilterBank::kMels / patch;
    return features.narrow(1, 0, times * patch)
        .narrow(2, 0, bands * patch)
        .reshape({features.size(0), times, patch, bands, patch})
        .transpose(2, 3)
        .reshape({features.size(0), times * bands, patch * patch});
}

at::Tensor Beats::embedded(const at::Tensor& tiles) const {
    // A convolution whose stride is its kernel is a linear layer over patches.
    return at::linear(tiles.to(patch_embedding_->weight.scalar_type()), patch_embedding_->weight.flatten(1),
                      patch_embedding_->bias);
}

at::Tensor Beats::patches(const at::Tensor& features) const {
    return embedded(tiles(features));
}

at::Tensor Beats::normalised(const at::Tensor& patches) const {
    return norm(*layer_norm_, patches);
}

at::Tensor Beats::projected(const at::Tensor& normalised) const {
    return post_extract_proj_ ? linear(*post_extract_proj_, normalised) : normalised;
}

at::Tensor Beats::position_bias(int64_t tokens) {
    if (!config_.relative_position_embedding) return {};
    const at::Tensor& table = blocks_.front()->self_attn->relative_attention_bias->weight;
    if (!buckets_.defined() || buckets_.size(0) != tokens || buckets_.device() != table.device()) {
        const c10::InferenceMode ordinary(false);  // kept for training, too
        at::Tensor buckets = at::empty({tokens, tokens}, at::kLong);
        int64_t* row = buckets.mutable_data_ptr<int64_t>();
        std::vector<int64_t> line;  // of key - query = 1 - tokens … tokens - 1
        for (int64_t r = 1 - tokens; r < tokens; ++r)
            line.push_back(relative_bucket(r, config_.num_buckets, config_.max_distance));
        for (int64_t query = 0; query < tokens; ++query, row += tokens)
            std::copy_n(line.begin() + (tokens - 1 - query), tokens, row);
        buckets_ = buckets.to(table.device());
        bias_.reset();
    }
    auto bias = [&] { return at::embedding(table, buckets_).permute({2, 0, 1}).contiguous(); };
    if (at::GradMode::is_enabled() || table.is_inference()) {
        bias_.reset();  // the table is about to change
        return bias();
    }
    if (!bias_.defined() || bias_version_ != table._version()) {
        const c10::InferenceMode ordinary(false);
        const at::NoGradGuard no_grad;
        bias_ = bias();
        bias_version_ = table._version();
    }
    return bias_;
}

at::Tensor Beats::frame_padding(const at::Tensor& features, const at::Tensor& padding) const {
    const int64_t frames = features.size(1), patch = config_.input_patch_size;
    const int64_t tokens = frames / patch * (FilterBank::kMels / patch);
    if (padding.dim() != 2 || padding.size(0) != features.size(0) || padding.size(1) < frames)
        throw sdk::Error("the padding mask doesn't fit the features: expected (clips, samples), true = padded");
    const at::Tensor mask = padding.to(at::kBool);
    if (config_.padding_mask == "reference") return all_of_shares(all_of_shares(mask, frames), tokens);
    // A patch covers `patch` windows of 400 samples, 160 apart; all bands of an instant have the same samples.
    const int64_t samples = FilterBank::kLength + (patch - 1) * FilterBank::kHop, bands = FilterBank::kMels / patch;
    if (FilterBank::frame_count(mask.size(1)) != frames)
        throw sdk::Error("the padding mask has " + std::to_string(mask.size(1)) + " samples, which give " +
                         std::to_string(FilterBank::frame_count(mask.size(1))) + " frames; the features have " +
                         std::to_string(frames));
    return mask.unfold(1, samples, patch * FilterBank::kHop).all(2).repeat_interleave(bands, 1);
}

at::Tensor Beats::padded_tokens(const at::Tensor& features, const std::optional<at::Tensor>& padding) const {
    if (!padding) return {};
    // Decided where the mask lies: one on the host makes nobody wait for a device.
    const at::Tensor padded = frame_padding(features, *padding);
    if (padded.all(1).any().item<bool>()) throw sdk::Error("a clip of the batch is padding from end to end");
    return padded.any().item<bool>() ? padded.to(features.device()) : at::Tensor();
}

at::Tensor Beats::run(const at::Tensor& embedded, const at::Tensor& padded, std::vector<at::Tensor>* hidden) {
    at::Tensor x = projected(normalised(embedded));
    x = encoders::dropout(x, config_.dropout_input, is_training());
    if (padded.defined()) x = x.masked_fill(padded.unsqueeze(2), 0);
    x = x + pos_conv_->forward(x);
    if (!config_.layer_norm_first) x = norm(*encoder_layer_norm_, x);
    x = encoders::dropout(x, config_.dropout, is_training());
    const at::Tensor bias = position_bias(x.size(1));
    if (hidden != nullptr) hidden->push_back(x);
    for (const std::shared_ptr<Block>& block : blocks_) {
        x = scale_gradient(x, config_.layer_wise_gradient_decay_ratio);
        if (encoders::left_out(config_.encoder_layerdrop, is_training())) {
            // x goes on as it is
        } else if (checkpointed_ && is_training()) {
            x = encoders::checkpointed(
                [block](const std::vector<at::Tensor>& in) { return block->forward(in[0], in[1], in[2]); },
                {x, bias, padded}, block->parameters());
        } else {
            x = block->forward(x, bias, padded);
        }
        if (hidden != nullptr) hidden->push_back(x);
    }
    return x;
}

at::Tensor Beats::frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) {
    return finished(run(patches(features), padded_tokens(features, padding), nullptr));
}

at::Tensor Beats::frames_of(const at::Tensor& features, const at::Tensor& kept) {
    const at::Tensor all = tiles(features);
    if (kept.dim() != 2 || kept.size(0) != all.size(0) || kept.size(1) < 1 || kept.size(1) > all.size(1))
        throw sdk::Error("the kept tokens don't fit the features: expected (clips, 1 to " +
                         std::to_string(all.size(1)) + " tokens)");
    const at::Tensor seen = all.gather(1, kept.unsqueeze(2).expand({-1, -1, all.size(2)}));
    return finished(run(embedded(seen), {}, nullptr));
}

at::Tensor Beats::finished(const at::Tensor& x) const {
    return config_.layer_norm_first ? norm(*encoder_layer_norm_, x) : x;
}

at::Tensor Beats::predictions(const at::Tensor& frames, const std::optional<at::Tensor>& padding) {
    if (!predictor_) return Encoder::predictions(frames, padding);
    const at::Tensor logits =
        linear(*predictor_, encoders::dropout(frames, config_.predictor_dropout, is_training())).to(at::kFloat);
    if (!padding) return logits.mean(1);
    const at::Tensor kept = padding->logical_not().to(at::kFloat).unsqueeze(2);
    return (logits * kept).sum(1) / kept.sum(1);
}

std::vector<at::Tensor> Beats::layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) {
    std::vector<at::Tensor> hidden;
    run(patches(features), padded_tokens(features, padding), &hidden);
    return hidden;
}

void Beats::initialise(uint64_t seed) {
    const at::NoGradGuard no_grad;
    encoders::Filler fill(seed);
    fill.standard(*patch_embedding_);
    if (post_extract_proj_) fill.standard(*post_extract_proj_);
    if (predictor_) fill.standard(*predictor_);
    fill.one(*layer_norm_);
    fill.positions(*pos_conv_);
    fill.one(*encoder_layer_norm_);
    const double beta = std::pow(8.0 * static_cast<double>(config_.encoder_layers), -0.25);
    for (const std::shared_ptr<Block>& block : blocks_) {
        const Attention& attention = *block->self_attn;
        if (config_.deep_norm) {
            fill.xavier(*attention.q_proj, 1);
            fill.xavier(*attention.k_proj, 1);
            for (const auto& layer : {attention.v_proj, attention.out_proj, block->fc1, block->fc2})
                fill.xavier(*layer, beta);
        } else {
            for (const auto& layer :
                 {attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, block->fc1, block->fc2})
                fill.bert(*layer);
        }
        if (attention.relative_attention_bias) fill.normal(attention.relative_attention_bias->weight, 0.02);
        if (attention.grep_linear) {
            fill.bert(*attention.grep_linear);
            attention.grep_a.fill_(1);
        }
        fill.one(*block->self_attn_layer_norm);
        fill.one(*block->final_layer_norm);
    }
}

torch_tier::ParameterRole Beats::role(std::string_view parameter) const {
    if (!names_.contains(std::string(parameter)))
        throw sdk::Error("the encoder has no parameter '" + std::string(parameter) + "'");
    torch_tier::ParameterRole role{.kind = "matrix", .block = encoders::block_of(parameter, kStack), .tied_to = {}};
    if (parameter.starts_with("predictor.")) {
        role.kind = "excluded";
    } else if (parameter.ends_with("bias")) {
        role.kind = "bias";
    } else if (parameter.find("layer_norm") != std::string_view::npos) {
        role.kind = "norm";
    } else if (parameter.ends_with("weight_g") || parameter.ends_with("grep_a")) {
        role.kind = "gain";
    } else if (parameter.ends_with("weight_v") || parameter == "patch_embedding.weight") {
        role.kind = "convolution";
    } else if (parameter.ends_with("relative_attention_bias.weight")) {
        role.kind = "embedding";
    }
    return role;
}

std::string Beats::translate(std::string_view checkpoint_name) const {
    const std::string_view name = encoders::without_prefixes(checkpoint_name, {"backbone.", "model.", "module."});
    constexpr std::string_view kTable = ".self_attn.relative_attention_bias.weight";
    if ((name.starts_with("predictor.") && !predictor_) || name.starts_with("classifier.") || name == "fbank.window" ||
        name == "fbank.mel_fb" || name == "patch_embedding_pad.weight" || name == "raw2fbank_pad.weight")
        return {};
    if (name.ends_with(kTable) && encoders::block_of(name, kStack) > 0) return "encoder.layers.0" + std::string(kTable);
    if (name == "encoder.pos_conv.0.parametrizations.weight.original0") return "encoder.pos_conv.0.weight_g";
    if (name == "encoder.pos_conv.0.parametrizations.weight.original1") return "encoder.pos_conv.0.weight_v";
    return std::string(names_.contains(std::string(name)) ? name : checkpoint_name);
}

std::shared_ptr<torch_tier::Encoder> BeatsFactory::create(const std::string& params_json) const {
    return std::make_shared<Beats>(Config::parse(params_json));
}

std::string BeatsFactory::from_checkpoint_config(const std::string& config_json, const std::string& params_json) const {
    return overlay(config_json, params_json);
}

}  // namespace biophony::beats
