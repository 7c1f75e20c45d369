// What encoders with Transformer blocks share: layers with their parameters, the convolution that tells positions,
// layer drop, initial values, names.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <torch/nn/module.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "long_convolution.hpp"

namespace biophony::encoders {

/// A weight and perhaps a bias: linear layers, norms, convolutions. Zero until filled.
struct Affine : torch::nn::Module {
    Affine(at::IntArrayRef weight_shape, bool with_bias) {
        weight = register_parameter("weight", at::zeros(weight_shape));
        if (with_bias) bias = register_parameter("bias", at::zeros(weight_shape[0]));
    }
    at::Tensor weight, bias;  ///< bias is undefined where there is none
};

inline std::shared_ptr<Affine> linear_layer(int64_t out, int64_t in) {
    return std::make_shared<Affine>(std::array{out, in}, true);
}
inline std::shared_ptr<Affine> norm_layer(int64_t width) {
    return std::make_shared<Affine>(std::array{width}, true);
}

constexpr double kNormEpsilon = 1e-5;  ///< torch's default, that of all norms here

inline at::Tensor linear(const Affine& layer, const at::Tensor& x) {
    return at::linear(x, layer.weight, layer.bias);
}
/// Over the last axis.
inline at::Tensor norm(const Affine& layer, const at::Tensor& x) {
    return at::layer_norm(x, layer.weight.sizes(), layer.weight, layer.bias, kNormEpsilon);
}

/// The convolution over frames that tells positions (wav2vec 2.0, arXiv 2006.11477), weight-normed over each kernel
/// tap. x (B, T, D) → (B, T, D).
struct PositionalConvolution : torch::nn::Module {
    PositionalConvolution(int64_t width, int64_t taps, int64_t group_count) : kernel(taps), groups(group_count) {
        bias = register_parameter("bias", at::zeros(width));
        weight_g = register_parameter("weight_g", at::zeros({1, 1, kernel}));
        weight_v = register_parameter("weight_v", at::zeros({width, width / groups, kernel}));
    }

    at::Tensor forward(const at::Tensor& x) const {
        const at::Tensor y = long_convolution(x.transpose(1, 2), spectrum(), groups, kernel);  // (B, D, T)
        return at::gelu((y + bias.unsqueeze(1)).to(x.scalar_type())).transpose(1, 2);
    }

    at::Tensor bias, weight_g, weight_v;
    int64_t kernel, groups;

private:
    at::Tensor spectrum() const {
        auto made = [&] {
            return kernel_spectrum(weight_v * (weight_g / weight_v.square().sum({0, 1}, true).sqrt()), groups);
        };
        if (at::GradMode::is_enabled() || weight_v.is_inference() || weight_g.is_inference()) {
            spectrum_.reset();  // weights are about to change
            return made();
        }
        if (const int64_t version = weight_v._version() + weight_g._version();
            !spectrum_.defined() || version_ != version || spectrum_.device() != weight_v.device()) {
            const c10::InferenceMode ordinary(false);
            const at::NoGradGuard no_grad;
            spectrum_ = made();
            version_ = version;
        }
        return spectrum_;
    }

    mutable at::Tensor spectrum_;  ///< of the weights as they were at version_, without gradient
    mutable int64_t version_ = 0;
};

/// Whether training leaves a block out this time: as often as `share` says. Draws from LibTorch's generator.
inline bool left_out(double share, bool training) {
    return training && share > 0 && at::rand({1}).item<double>() <= share;
}

/// Fills parameters with values drawn from a seed, in the order of the calls. Needs at::NoGradGuard.
class Filler {
public:
    explicit Filler(uint64_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}

    void normal(const at::Tensor& to, double deviation) {
        to.copy_(at::zeros(to.sizes()).normal_(0, deviation, generator_));
    }
    void uniform(const at::Tensor& to, double limit) {
        to.copy_(at::zeros(to.sizes()).uniform_(-limit, limit, generator_));
    }
    /// torch's default for linear layers and convolutions.
    void standard(const Affine& layer) {
        const double limit = 1 / std::sqrt(static_cast<double>(layer.weight[0].numel()));
        uniform(layer.weight, limit);
        if (layer.bias.defined()) uniform(layer.bias, limit);
    }
    /// A linear layer of BERT and its followers.
    void bert(const Affine& layer) {
        normal(layer.weight, 0.02);
        layer.bias.zero_();
    }
    /// Glorot's, normally distributed.
    void xavier(const Affine& layer, double gain) {
        const double fans = static_cast<double>(layer.weight.size(0) + layer.weight.size(1));
        normal(layer.weight, gain * std::sqrt(2 / fans));
        layer.bias.zero_();
    }
    /// A norm that changes nothing.
    static void one(const Affine& layer) {
        layer.weight.fill_(1);
        layer.bias.zero_();
    }
    /// As fairseq's wav2vec2.py; the weight is its direction at first.
    void positions(const PositionalConvolution& layer) {
        normal(layer.weight_v, std::sqrt(4.0 / static_cast<double>(layer.kernel * layer.weight_v.size(0))));
        layer.weight_g.copy_(layer.weight_v.square().sum({0, 1}, true).sqrt());
        layer.bias.zero_();
    }

private:
    at::Generator generator_;
};

/// `name` without any of these at its start, however many there are.
inline std::string_view without_prefixes(std::string_view name, std::initializer_list<std::string_view> prefixes) {
    for (bool found = true; found;) {
        found = false;
        for (const std::string_view prefix : prefixes)
            if (name.starts_with(prefix)) {
                name.remove_prefix(prefix.size());
                found = true;
            }
    }
    return name;
}

/// The number that follows `stack` in a parameter's name ("encoder.layers."), or -1.
inline int block_of(std::string_view name, std::string_view stack) {
    return name.starts_with(stack) ? std::atoi(std::string(name.substr(stack.size())).c_str()) : -1;
}

/// "(2, 70, 128)"
inline std::string shape_text(const at::Tensor& tensor) {
    std::string out;
    for (const int64_t size : tensor.sizes()) out += (out.empty() ? "" : ", ") + std::to_string(size);
    return "(" + out + ")";
}

}  // namespace biophony::encoders
