#include "attention.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <optional>

#include "kernels.hpp"

namespace biophony::encoders {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using WithoutAutocast = c10::impl::ExcludeDispatchKeyGuard;

/// A key for dropout, from the generator that at::dropout would draw from.
int64_t draw_key() {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    const std::lock_guard lock(generator.mutex());
    return static_cast<int64_t>(at::check_generator<at::CPUGeneratorImpl>(generator)->random64());
}

std::optional<Element> element_of(const at::Tensor& x) {
    if (!x.is_cpu()) return std::nullopt;
    if (x.scalar_type() == at::kFloat) return Element::kFloat32;
    if (x.scalar_type() == at::kBFloat16) return Element::kBFloat16;
    return std::nullopt;
}

const float* floats(const at::Tensor& x) {
    return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

/// The tensors must outlive what is returned.
SoftmaxRows rows_of(const at::Tensor& scores, const at::Tensor& bias, const at::Tensor& gate, const at::Tensor& padding,
                    double share, int64_t key) {
    return {.element = *element_of(scores),
            .clips = scores.size(0),
            .heads = scores.size(1),
            .tokens = scores.size(2),
            .bias = floats(bias),
            .gate = floats(gate),
            .padded = padding.defined() ? reinterpret_cast<const uint8_t*>(padding.const_data_ptr<bool>()) : nullptr,
            .dropout = share,
            .key = static_cast<uint64_t>(key)};
}

/// Saves q, k, v and the probabilities, not the scores nor any mask; what dropout left is made again on the way back.
struct FusedAttention : torch::autograd::Function<FusedAttention> {
    using Maybe = std::optional<at::Tensor>;  // autograd takes defined tensors only

    static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const Maybe& the_bias, const Maybe& the_gate, const Maybe& the_padding, double share) {
        const WithoutAutocast as_given(c10::autocast_dispatch_keyset);
        const at::Tensor bias = the_bias.value_or(at::Tensor()), gate = the_gate.value_or(at::Tensor()),
                         padding = the_padding.value_or(at::Tensor());
        const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
        const int64_t key = share > 0 ? draw_key() : 0;
        at::Tensor probabilities = at::matmul(q * scale, k.transpose(2, 3)).contiguous();
        const at::Tensor dropped = share > 0 ? at::empty_like(probabilities) : probabilities;
        softmax_forward(rows_of(probabilities, bias, gate, padding, share, key), probabilities.mutable_data_ptr(),
                        dropped.mutable_data_ptr(), at::get_num_threads());
        context->save_for_backward({q, k, v, bias, gate, padding, probabilities});
        context->saved_data["share"] = share;
        context->saved_data["key"] = key;
        return at::matmul(dropped, v);
    }

    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
        TORCH_CHECK(!at::GradMode::is_enabled(), "attention has no second derivative here");
        const WithoutAutocast as_given(c10::autocast_dispatch_keyset);
        const variable_list saved = context->get_saved_variables();
        const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &bias = saved[3], &gate = saved[4],
                         &padding = saved[5], &probabilities = saved[6];
        const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
        const double share = context->saved_data["share"].toDouble();
        const at::Tensor out = gradients[0].to(v.scalar_type());
        const at::Tensor scores = at::matmul(out, v.transpose(2, 3)).contiguous();
        const at::Tensor dropped = share > 0 ? at::empty_like(probabilities) : probabilities;
        at::Tensor of_bias, of_gate;
        if (bias.defined() && bias.requires_grad()) of_bias = at::empty_like(bias);
        if (gate.defined() && gate.requires_grad()) of_gate = at::empty_like(gate);
        softmax_backward(rows_of(scores, bias, gate, padding, share, context->saved_data["key"].toInt()),
                         probabilities.const_data_ptr(), scores.mutable_data_ptr(), dropped.mutable_data_ptr(),
                         of_bias.defined() ? of_bias.mutable_data_ptr<float>() : nullptr,
                         of_gate.defined() ? of_gate.mutable_data_ptr<float>() : nullptr, at::get_num_threads());
        return {at::matmul(scores, k) * scale,
                at::matmul(scores.transpose(2, 3), q * scale),
                at::matmul(dropped.transpose(2, 3), out),
                of_bias,
                of_gate,
                {},
                {}};
    }
};

struct FusedDropout : torch::autograd::Function<FusedDropout> {
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double share) {
        const int64_t key = draw_key();
        context->saved_data["share"] = share;
        context->saved_data["key"] = key;
        return dropped(x, share, key);
    }
    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
        TORCH_CHECK(!at::GradMode::is_enabled(), "dropout has no second derivative here");
        return {dropped(gradients[0], context->saved_data["share"].toDouble(), context->saved_data["key"].toInt()), {}};
    }
    static at::Tensor dropped(const at::Tensor& x, double share, int64_t key) {
        const at::Tensor from = x.contiguous(), to = at::empty_like(from);
        drop(*element_of(from), from.const_data_ptr(), to.mutable_data_ptr(), from.numel(), share,
             static_cast<uint64_t>(key), at::get_num_threads());
        return to;
    }
};

}  // namespace

at::Tensor Attend::operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
    if (element_of(q) && q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type()) {
        auto dense = [](const at::Tensor& t, at::ScalarType type) {
            return t.defined() ? FusedAttention::Maybe(t.to(type).contiguous()) : std::nullopt;
        };
        return FusedAttention::apply(q, k, v, dense(bias, at::kFloat), dense(gate, at::kFloat),
                                     dense(padding, at::kBool), dropout);
    }
    // Other devices and types: LibTorch's own, fused where it can be.
    const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
    const double lowest = -std::numeric_limits<double>::infinity();
    if (q.scalar_type() != at::kHalf) {
        std::optional<at::Tensor> mask;
        if (bias.defined()) mask = (gate.defined() ? gate * bias : bias.unsqueeze(0)).to(q.scalar_type());
        if (padding.defined()) {
            if (!mask) mask = at::zeros({1, 1, 1, k.size(2)}, q.options());
            mask = mask->masked_fill(padding.unsqueeze(1).unsqueeze(2), lowest);
        }
        return at::scaled_dot_product_attention(q, k, v, mask, dropout, false, scale);
    }
    // Half precision: the factor 32 keeps the products within its range (BEATs, backbone.py).
    at::Tensor scores = at::matmul(q * (scale / 32), k.transpose(2, 3));
    scores = (scores - scores.amax(-1, true)) * 32;
    if (bias.defined()) {
        const at::Tensor offset = bias.to(scores.scalar_type());
        scores = gate.defined() ? at::addcmul(scores, gate.to(scores.scalar_type()), offset) : scores + offset;
    }
    if (padding.defined()) scores = scores.masked_fill(padding.unsqueeze(1).unsqueeze(2), lowest);
    return at::matmul(at::dropout(at::softmax(scores, -1), dropout, dropout > 0), v);
}

at::Tensor dropout(const at::Tensor& x, double share, bool training) {
    if (!training || share <= 0) return x;
    return element_of(x) ? FusedDropout::apply(x, share) : at::dropout(x, share, true);
}

}  // namespace biophony::encoders
