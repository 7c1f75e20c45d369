#include "learn/masked.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.hpp"
#include "learn/autocast.hpp"

namespace biophony {

namespace {

constexpr int64_t kHeads = 4;

at::Tensor normal(at::IntArrayRef shape, double deviation, at::Generator& generator) {
    return at::zeros(shape).normal_(0, deviation, generator);
}

/// Of a matrix (out, in).
double xavier(int64_t out, int64_t in) {
    return std::sqrt(2.0 / static_cast<double>(out + in));
}

at::Tensor normed(const at::Tensor& x) {
    return at::layer_norm(x, {x.size(-1)});
}

}  // namespace

RandomTokenizer::RandomTokenizer(int64_t values, int64_t codes, uint64_t seed) {
    constexpr int64_t kHidden = 512, kSpace = 256;
    at::Generator generator = at::detail::createCPUGenerator(seed);
    first_ = normal({kHidden, values}, xavier(kHidden, values), generator);
    second_ = normal({kSpace, kHidden}, xavier(kSpace, kHidden), generator);
    codes_ = normal({codes, kSpace}, 1, generator);
    half_squares_ = codes_.square().sum(1) / 2;
}

at::Tensor RandomTokenizer::operator()(const at::Tensor& tiles) const {
    const at::NoGradGuard no_grad;
    const at::Tensor z = normed(at::linear(normed(at::linear(tiles, first_)), second_));
    // The nearest: |z − e|² is |e|² − 2 z·e and a part that is the same for all e.
    return at::linear(z, codes_, -half_squares_).argmax(-1);
}

Masks draw_masks(int64_t windows, int64_t tokens, double share, uint64_t seed) {
    const int64_t count = std::clamp<int64_t>(std::llround((1 - share) * static_cast<double>(tokens)), 1, tokens - 1);
    Masks out{at::empty({windows, count}, at::kLong), at::empty({windows, tokens - count}, at::kLong)};
    Random random(seed);
    std::vector<int64_t> order(static_cast<size_t>(tokens));
    std::iota(order.begin(), order.end(), int64_t{0});
    for (int64_t w = 0; w < windows; ++w) {
        for (size_t i = 0; i < static_cast<size_t>(count); ++i)
            std::swap(order[i], order[i + random.below(order.size() - i)]);
        const auto middle = order.begin() + count;
        std::sort(order.begin(), middle);
        std::sort(middle, order.end());
        std::copy(order.begin(), middle, out.kept.data_ptr<int64_t>() + w * count);
        std::copy(middle, order.end(), out.masked.data_ptr<int64_t>() + w * (tokens - count));
    }
    return out;
}

/// A pre-norm Transformer block.
struct MaskedPrediction::Layer {
    at::Tensor norm1_weight, norm1_bias, qkv_weight, qkv_bias, out_weight, out_bias;
    at::Tensor norm2_weight, norm2_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias;

    at::Tensor operator()(const at::Tensor& x) const {
        const int64_t batch = x.size(0), tokens = x.size(1), width = x.size(2), depth = width / kHeads;
        const at::Tensor qkv = at::linear(at::layer_norm(x, {width}, norm1_weight, norm1_bias), qkv_weight, qkv_bias)
                                   .view({batch, tokens, 3, kHeads, depth})
                                   .permute({2, 0, 3, 1, 4});
        const at::Tensor scores = at::matmul(qkv[0] / std::sqrt(static_cast<double>(depth)), qkv[1].transpose(2, 3));
        const at::Tensor heard =
            at::matmul(at::softmax(scores, -1), qkv[2]).transpose(1, 2).reshape({batch, tokens, width});
        const at::Tensor y = x + at::linear(heard, out_weight, out_bias);
        const at::Tensor inner =
            at::gelu(at::linear(at::layer_norm(y, {width}, norm2_weight, norm2_bias), fc1_weight, fc1_bias));
        return y + at::linear(inner, fc2_weight, fc2_bias);
    }
};

MaskedPrediction::MaskedPrediction(const EncoderInfo& info, const MaskedSettings& settings, uint64_t seed)
    : info_(info), settings_(settings), seed_(seed) {
    at::Generator generator = at::detail::createCPUGenerator(mix(seed, 1));
    auto own = [&](const at::Tensor& tensor) {
        tensor.requires_grad_(true);
        parameters_.push_back(tensor);
        return tensor;
    };
    auto matrix = [&](int64_t out, int64_t in) { return own(normal({out, in}, xavier(out, in), generator)); };
    auto zero = [&](int64_t size) { return own(at::zeros({size})); };
    auto one = [&](int64_t size) { return own(at::ones({size})); };
    const int64_t w = settings.width;
    in_weight_ = matrix(w, info.width);
    in_bias_ = zero(w);
    mask_token_ = own(normal({w}, 0.02, generator));
    band_ = own(normal({info.bands, w}, 0.02, generator));
    for (int64_t l = 0; l < settings.layers; ++l)
        layers_.push_back({one(w), zero(w), matrix(3 * w, w), zero(3 * w), matrix(w, w), zero(w), one(w), zero(w),
                           matrix(4 * w, w), zero(4 * w), matrix(w, 4 * w), zero(w)});
    norm_weight_ = one(w);
    norm_bias_ = zero(w);
    out_weight_ = matrix(settings.codes, w);
    out_bias_ = zero(settings.codes);
}

MaskedPrediction::~MaskedPrediction() = default;

/// seen (B, K, D) → scores of all codes for the masked tokens (B, T − K, codes).
at::Tensor MaskedPrediction::predicted(const at::Tensor& seen, const Masks& masks, int64_t tokens) const {
    const int64_t batch = seen.size(0), width = settings_.width, instants = tokens / info_.bands;
    const at::Tensor known = at::linear(seen, in_weight_, in_bias_);
    auto rows = [&](const at::Tensor& which) { return which.unsqueeze(2).expand({-1, -1, width}); };
    at::Tensor x = mask_token_.to(known.scalar_type())
                       .expand({batch, tokens, width})
                       .scatter(1, rows(masks.kept), known)
                       .to(at::kFloat);
    // Where a token is: a learned vector of its band, and sines of its instant (Vaswani et al. 2017, section 3.5).
    const at::Tensor angles =
        at::arange(instants, at::kFloat).unsqueeze(1) *
        at::exp(at::arange(0, width, 2, at::kFloat) * (-std::log(10000.0) / static_cast<double>(width)));
    const at::Tensor instant = at::cat({at::sin(angles), at::cos(angles)}, 1);
    x = x + (instant.unsqueeze(1) + band_).reshape({tokens, width});
    for (const Layer& layer : layers_) x = layer(x);
    x = x.gather(1, rows(masks.masked));
    return at::linear(at::layer_norm(x, {width}, norm_weight_, norm_bias_), out_weight_, out_bias_);
}

MaskedPrediction::Result MaskedPrediction::operator()(Encoder& encoder, const at::Tensor& features, bool bfloat16,
                                                      uint64_t seed) {
    at::Tensor tiles, scores;
    Masks masks;
    try {
        tiles = encoder.tiles(features);
        if (tiles.size(1) < 2)
            throw Error(Code::kInvalid, "a window of this encoder is one frame, so none can be masked",
                        {.parameter = "masked"});
        masks = draw_masks(tiles.size(0), tiles.size(1), settings_.share, seed);
        const Autocast autocast(bfloat16);
        scores = predicted(encoder.frames_of(features, masks.kept), masks, tiles.size(1)).to(at::kFloat);
    } catch (const sdk::Error& error) {
        if (error.status() != BPH_UNSUPPORTED) throw;
        throw Error(Code::kInvalid, std::string(error.what()) + ", so masked prediction can't train it",
                    {.parameter = "masked"});
    }
    if (!tokenizer_) tokenizer_ = std::make_unique<RandomTokenizer>(tiles.size(2), settings_.codes, mix(seed_, 2));
    // Levels differ by far more between windows than within one, and would take most codes for themselves.
    const at::Tensor centred = tiles - tiles.mean({1, 2}, true);
    Result out;
    out.codes = (*tokenizer_)(centred / (centred.square().mean({1, 2}, true) + 1e-6).sqrt());
    const at::Tensor target = out.codes.gather(1, masks.masked).flatten();
    scores = scores.flatten(0, 1);
    out.loss = at::cross_entropy_loss(scores, target, {}, at::Reduction::Mean, -100, kLabelSmoothing);
    out.accuracy = scores.detach().argmax(1).eq(target).to(at::kFloat).mean();
    return out;
}

}  // namespace biophony
