#include "checkpointed.hpp"

#include <ATen/ATen.h>

#include "golden.hpp"

using biophony::encoders::checkpointed;
using golden::difference;

namespace {

/// A block with dropout whose last input may be missing.
struct Toy {
    at::Tensor weight, bias;
    at::Tensor operator()(const std::vector<at::Tensor>& in) const {
        at::Tensor y = at::dropout(at::gelu(at::linear(in[0], weight, bias)), 0.3, true);
        if (in.size() > 1 && in[1].defined()) y = y + in[1];
        return at::dropout(y, 0.2, true) + in[0];
    }
};

struct Run {
    at::Tensor value;
    std::vector<at::Tensor> gradients;
    at::Tensor drawn;  ///< what the generator gives afterwards
};

enum class Backward { kAfterAutocast, kWithinAutocast };

/// Three blocks, the last of which is the first again, an offset that all share, and one block without it.
Run run(bool checkpoint, bool bfloat16, Backward when = Backward::kAfterAutocast) {
    at::manual_seed(3);
    std::vector<Toy> blocks;
    std::vector<at::Tensor> leaves;
    for (int i = 0; i < 3; ++i) {
        blocks.push_back({(at::randn({8, 8}) * 0.4).requires_grad_(), at::randn({8}).requires_grad_()});
        leaves.push_back(blocks.back().weight);
        leaves.push_back(blocks.back().bias);
    }
    at::Tensor x = at::randn({4, 5, 8}).requires_grad_(), offset = at::randn({5, 8}).requires_grad_();
    leaves.push_back(x);
    leaves.push_back(offset);
    if (bfloat16) {
        at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
        at::autocast::set_autocast_enabled(at::kCPU, true);
    }
    auto leave = [&] {
        at::autocast::clear_cache();
        at::autocast::set_autocast_enabled(at::kCPU, false);
    };
    at::Tensor y = x;
    for (int i = 0; i < 3; ++i) {
        std::vector<at::Tensor> inputs = {y, i == 1 ? at::Tensor() : offset * 2};
        y = checkpoint ? checkpointed(blocks[i], inputs, {blocks[i].weight, blocks[i].bias}) : blocks[i](inputs);
    }
    if (bfloat16 && when == Backward::kAfterAutocast) leave();
    y.to(at::kFloat).square().sum().backward();
    if (bfloat16 && when == Backward::kWithinAutocast) leave();
    Run out{y.detach(), {}, at::rand({4})};
    for (const at::Tensor& leaf : leaves) out.gradients.push_back(leaf.grad());
    return out;
}

}  // namespace

TEST_CASE("checkpointed blocks have the same values and gradients, bit by bit", "[checkpointed]") {
    const bool bfloat16 = GENERATE(false, true);
    const Backward when = GENERATE(Backward::kAfterAutocast, Backward::kWithinAutocast);
    INFO("bfloat16: " << bfloat16);
    const Run plain = run(false, bfloat16, when), found = run(true, bfloat16, when);
    CHECK(found.value.scalar_type() == plain.value.scalar_type());
    CHECK(found.value.equal(plain.value));
    REQUIRE(found.gradients.size() == 8);
    for (size_t i = 0; i < 8; ++i) {
        INFO(i);
        REQUIRE(found.gradients[i].defined());
        CHECK(found.gradients[i].abs().max().item<double>() > 0);
        CHECK(found.gradients[i].equal(plain.gradients[i]));
    }
    CHECK(found.drawn.equal(plain.drawn));  // the generator goes on as if nothing had been computed again
    CHECK(at::autocast::is_autocast_cache_enabled());
}

TEST_CASE("checkpointed blocks are computed again only where gradients are needed", "[checkpointed]") {
    int calls = 0;
    const at::Tensor weight = at::randn({3, 3}).requires_grad_();
    auto block = [&](const std::vector<at::Tensor>& in) {
        ++calls;
        return at::linear(in[0], weight).tanh();
    };
    const at::Tensor x = at::randn({2, 3});
    {
        const at::NoGradGuard no_grad;
        CHECK_FALSE(checkpointed(block, {x}, {weight}).requires_grad());
        CHECK(calls == 1);
    }
    CHECK_FALSE(checkpointed([&](const std::vector<at::Tensor>& in) { return in[0] * 2; }, {x}, {}).requires_grad());
    calls = 0;
    // No gradient of x is asked for, the weight's is there.
    const at::Tensor y = checkpointed(block, {x}, {weight});
    CHECK(calls == 1);
    y.sum().backward();
    CHECK(calls == 2);
    CHECK(weight.grad().defined());
    CHECK_FALSE(x.grad().defined());
}

TEST_CASE("what a checkpointed block can't do is refused", "[checkpointed]") {
    at::Tensor weight = at::randn({3, 3}).requires_grad_();
    auto block = [&](const std::vector<at::Tensor>& in) { return at::linear(in[0], weight).tanh(); };
    const at::Tensor x = at::randn({2, 3}).requires_grad_();
    SECTION("a second derivative") {
        const at::Tensor y = checkpointed(block, {x}, {weight}).sum();
        CHECK_THROWS_WITH(torch::autograd::grad({y}, {x}, {}, true, true), Catch::Contains("second derivative"));
    }
    SECTION("a parameter that was changed in between") {
        const at::Tensor y = checkpointed(block, {x}, {weight}).sum();
        {
            const at::NoGradGuard no_grad;
            weight.add_(1);
        }
        CHECK_THROWS_WITH(y.backward(), Catch::Contains("modified by an inplace operation"));
    }
}
