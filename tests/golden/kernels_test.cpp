// The encoders' own loops against the same in LibTorch's words, in float64.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <vector>

#include "attention.hpp"
#include "golden.hpp"
#include "kernels.hpp"
#include "long_convolution.hpp"

using namespace biophony;
using golden::difference;

namespace {

struct Case {
    at::Tensor q, k, v, bias, gate, padding;
};

Case make(int64_t clips, int64_t heads, int64_t tokens, int64_t depth, bool gated, bool padded) {
    at::manual_seed(3);
    Case out{at::randn({clips, heads, tokens, depth}),
             at::randn({clips, heads, tokens, depth}),
             at::randn({clips, heads, tokens, depth}),
             at::Tensor(),
             at::Tensor(),
             at::Tensor()};
    if (gated) {
        out.bias = at::randn({heads, tokens, tokens});
        out.gate = at::rand({clips, heads, tokens, 1}) * 3;
    }
    if (padded) {
        out.padding = at::zeros({clips, tokens}, at::kBool);
        out.padding[0].narrow(0, tokens - 2, 2).fill_(true);
    }
    return out;
}

at::Tensor scores_of(const Case& c) {
    at::Tensor scores = at::matmul(c.q, c.k.transpose(2, 3)) / std::sqrt(static_cast<double>(c.q.size(3)));
    if (c.bias.defined()) scores = scores + c.gate * c.bias;
    if (c.padding.defined())
        scores = scores.masked_fill(c.padding.unsqueeze(1).unsqueeze(2), -std::numeric_limits<double>::infinity());
    return scores;
}

Case as(const Case& c, at::ScalarType type, bool learns) {
    auto of = [&](const at::Tensor& t) {
        return t.defined() ? t.detach().to(type).clone().set_requires_grad(learns) : at::Tensor();
    };
    return {of(c.q), of(c.k), of(c.v), of(c.bias), of(c.gate), c.padding};
}

std::vector<at::Tensor> leaves(const Case& c) {
    std::vector<at::Tensor> out = {c.q, c.k, c.v};
    if (c.bias.defined()) {
        out.push_back(c.bias);
        out.push_back(c.gate);
    }
    return out;
}

}  // namespace

TEST_CASE("attention and its gradients are those of the plain formula", "[kernels]") {
    const bool gated = GENERATE(false, true), padded = GENERATE(false, true);
    const int64_t tokens = GENERATE(1, 3, 16, 37);
    if (padded && tokens < 3) return;
    INFO("gated " << gated << ", padded " << padded << ", tokens " << tokens);
    const Case made = make(2, 3, tokens, 8, gated, padded);
    const Case ours = as(made, at::kFloat, true), plain = as(made, at::kDouble, true);
    const at::Tensor weight = at::randn({2, 3, tokens, 8});
    const at::Tensor out = encoders::Attend{ours.bias, ours.gate, ours.padding, 0}(ours.q, ours.k, ours.v);
    const at::Tensor expected = at::matmul(at::softmax(scores_of(plain), -1), plain.v);
    CHECK(difference(out, expected) < 2e-6);
    const auto found = torch::autograd::grad({(out * weight).sum()}, leaves(ours));
    const auto wanted = torch::autograd::grad({(expected * weight.to(at::kDouble)).sum()}, leaves(plain));
    for (size_t i = 0; i < found.size(); ++i) {
        INFO("input " << i);
        CHECK(difference(found[i], wanted[i]) < 1e-5 * std::max(1.0, wanted[i].abs().max().item<double>()));
    }
}

TEST_CASE("attention in bfloat16 is that of float32 within its rounding", "[kernels]") {
    const Case made = make(2, 3, 40, 8, true, true);
    Case half = as(made, at::kBFloat16, true);
    half.bias = made.bias.clone().set_requires_grad(true);
    half.gate = made.gate.clone().set_requires_grad(true);
    const Case plain = as(made, at::kDouble, true);
    const at::Tensor out = encoders::Attend{half.bias, half.gate, half.padding, 0}(half.q, half.k, half.v);
    CHECK(out.scalar_type() == at::kBFloat16);
    const at::Tensor expected = at::matmul(at::softmax(scores_of(plain), -1), plain.v);
    CHECK(difference(out, expected) < 0.03);
    const auto found = torch::autograd::grad({out.to(at::kFloat).sum()}, leaves(half));
    const auto wanted = torch::autograd::grad({expected.sum()}, leaves(plain));
    for (size_t i = 0; i < found.size(); ++i)
        CHECK(difference(found[i], wanted[i]) < 0.05 * std::max(1.0, wanted[i].abs().max().item<double>()));
}

TEST_CASE("attention's dropout drops the same on the way back, and as often as it should", "[kernels]") {
    const int64_t tokens = 130;
    const Case made = make(2, 4, tokens, 1, true, false);
    Case c = as(made, at::kFloat, true);
    // With v = the identity's columns one by one, the result is the dropped probabilities themselves.
    const at::Tensor identity = at::eye(tokens).reshape({1, 1, tokens, tokens}).expand({2, 4, tokens, tokens});
    const at::Tensor q = c.q.expand({2, 4, tokens, tokens}) / tokens, k = c.k.expand({2, 4, tokens, tokens});
    at::manual_seed(5);
    const at::Tensor v = identity.clone().set_requires_grad(true);
    const at::Tensor out = encoders::Attend{c.bias, c.gate, {}, 0.25}(q, k, v);
    const at::Tensor whole = encoders::Attend{c.bias, c.gate, {}, 0}(q, k, v.detach());
    const at::Tensor factors = (out / whole).detach();
    const at::Tensor dropped = factors == 0;
    CHECK(dropped.to(at::kDouble).mean().item<double>() == Approx(0.25).margin(0.005));
    CHECK(difference(factors.masked_select(dropped.logical_not()),
                     at::full({dropped.logical_not().sum().item<int64_t>()}, 4.0 / 3)) < 1e-5);
    // The gradient of v is the dropped probabilities', transposed.
    const auto of_v = torch::autograd::grad({out.sum()}, {v}, {}, true)[0];
    CHECK(difference(of_v, out.detach().sum(2).unsqueeze(3).expand_as(of_v)) < 1e-4);
    // The bias' gradient: against the same mask in plain words.
    const auto of_bias = torch::autograd::grad({(out * whole.detach()).sum()}, {c.bias})[0];
    const at::Tensor bias = made.bias.to(at::kDouble).set_requires_grad(true);
    const at::Tensor scores = at::matmul(q.detach().to(at::kDouble), k.detach().to(at::kDouble).transpose(2, 3)) /
                                  std::sqrt(static_cast<double>(tokens)) +
                              made.gate.to(at::kDouble) * bias;
    const at::Tensor plain = at::softmax(scores, -1) * factors.to(at::kDouble);
    const auto expected = torch::autograd::grad({(plain * whole.detach().to(at::kDouble)).sum()}, {bias})[0];
    CHECK(difference(of_bias, expected) < 1e-5);
    // Another call draws another mask; the same seed the same.
    const at::Tensor other = encoders::Attend{c.bias, c.gate, {}, 0.25}(q, k, v);
    CHECK(difference(other, out) > 0);
    at::manual_seed(5);
    CHECK(difference(encoders::Attend{c.bias, c.gate, {}, 0.25}(q, k, v), out) == 0);
}

TEST_CASE("the loops' results don't depend on threads", "[kernels]") {
    const Case made = make(3, 4, 150, 8, true, true);
    std::vector<std::vector<at::Tensor>> results;
    for (const int threads : {1, 4}) {
        at::set_num_threads(threads);
        const Case c = as(made, at::kFloat, true);
        at::manual_seed(9);
        const at::Tensor out = encoders::Attend{c.bias, c.gate, c.padding, 0.1}(c.q, c.k, c.v);
        const at::Tensor dropped = encoders::dropout(out.detach().repeat({40, 1, 1, 1}), 0.3, true);
        std::vector<at::Tensor> all = torch::autograd::grad({out.square().sum()}, {c.bias, c.gate});
        all.push_back(out.detach());
        all.push_back(dropped);
        results.push_back(all);
    }
    at::set_num_threads(1);
    for (size_t i = 0; i < results[0].size(); ++i) CHECK(at::equal(results[0][i], results[1][i]));
}

TEST_CASE("a score that is no number doesn't hide", "[kernels]") {
    Case c = make(1, 1, 20, 4, false, false);
    c.q[0][0][3][0] = std::numeric_limits<float>::quiet_NaN();
    const at::Tensor out = encoders::Attend{}(c.q, c.k, c.v);
    CHECK(out[0][0][3].isnan().all().item<bool>());
    CHECK_FALSE(out[0][0][4].isnan().any().item<bool>());
}

TEST_CASE("dropout drops its share, and the gradient of the same elements", "[kernels]") {
    const auto type = GENERATE(at::kFloat, at::kBFloat16);
    at::manual_seed(1);
    const at::Tensor x = at::ones({40, 1000}, at::TensorOptions(type)).set_requires_grad(true);
    const at::Tensor y = encoders::dropout(x, 0.2, true);
    CHECK((y == 0).to(at::kDouble).mean().item<double>() == Approx(0.2).margin(0.008));
    CHECK(y.max().item<double>() == Approx(1.25));
    const auto gradient = torch::autograd::grad({y.sum()}, {x})[0];
    CHECK(at::equal(gradient, y.detach()));
    CHECK(encoders::dropout(x, 0.2, false).is_same(x));
    // Neighbours are drawn apart: of pairs, a quarter of a fifth's share.
    const at::Tensor both = (y.narrow(1, 0, 999) == 0).logical_and(y.narrow(1, 1, 999) == 0);
    CHECK(both.to(at::kDouble).mean().item<double>() == Approx(0.04).margin(0.005));
}

TEST_CASE("the long convolution and its gradients are those of the direct sum", "[kernels]") {
    const int64_t taps = GENERATE(1, 2, 5, 16, 128), steps = GENERATE(1, 7, 130, 300), groups = GENERATE(1, 4);
    INFO("taps " << taps << ", steps " << steps << ", groups " << groups);
    at::manual_seed(2);
    const at::Tensor made = at::randn({2, 8, steps}), kernel = at::randn({8, 8 / groups, taps}) / std::sqrt(8.0 * taps);
    const at::Tensor x = made.clone().set_requires_grad(true), w = kernel.clone().set_requires_grad(true);
    const at::Tensor y = encoders::long_convolution(x, encoders::kernel_spectrum(w, groups), groups, taps);
    const at::Tensor xd = made.to(at::kDouble).set_requires_grad(true),
                     wd = kernel.to(at::kDouble).set_requires_grad(true);
    const at::Tensor expected = at::conv1d(xd, wd, {}, 1, taps / 2, 1, groups).narrow(2, 0, steps);
    CHECK(difference(y, expected) < 3e-6);
    const at::Tensor weight = at::randn(y.sizes());
    const auto found = torch::autograd::grad({(y * weight).sum()}, {x, w});
    const auto wanted = torch::autograd::grad({(expected * weight.to(at::kDouble)).sum()}, {xd, wd});
    CHECK(difference(found[0], wanted[0]) < 1e-5);
    CHECK(difference(found[1], wanted[1]) < 3e-5 * std::max(1.0, wanted[1].abs().max().item<double>()));
}
