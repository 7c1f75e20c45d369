#include "learn/optimiser.hpp"

#include <ATen/ATen.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <unistd.h>

#undef CHECK
#include <catch2/catch.hpp>

#include "base/error.hpp"
#include "learn/scratch.hpp"
#include "plugins.hpp"

using namespace biophony;

TEST_CASE("a step is that of LibTorch's AdamW, group by group") {
    at::manual_seed(1);
    const at::Tensor start_a = at::randn({5, 7}), start_b = at::randn({9}), data = at::randn({7, 9});
    auto loss_of = [&](const at::Tensor& a, const at::Tensor& b, int step) {
        return (at::matmul(a, data).sin() * (b + step)).square().mean();
    };
    at::Tensor a = start_a.clone().set_requires_grad(true), b = start_b.clone().set_requires_grad(true);
    at::Tensor c = start_a.clone().set_requires_grad(true), d = start_b.clone().set_requires_grad(true);
    Optimiser ours({{{a}, 1e-2, 0.1}, {{}, 1, 1}, {{b}, 3e-3, 0}});
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector{c}, std::make_unique<torch::optim::AdamWOptions>(
                                            torch::optim::AdamWOptions(1e-2).weight_decay(0.1)));
    groups.emplace_back(std::vector{d},
                        std::make_unique<torch::optim::AdamWOptions>(torch::optim::AdamWOptions(3e-3).weight_decay(0)));
    torch::optim::AdamW reference(groups);
    for (int step = 0; step < 20; ++step) {
        const double factor = 1.0 / (1 + step), beta1 = 0.85 + 0.005 * step;
        ours.step(loss_of(a, b, step), factor, 0.5, beta1);
        for (size_t g = 0; g < 2; ++g) {
            auto& options = static_cast<torch::optim::AdamWOptions&>(reference.param_groups()[g].options());
            options.lr((g == 0 ? 1e-2 : 3e-3) * factor);
            options.betas({beta1, 0.999});
        }
        reference.zero_grad();
        loss_of(c, d, step).backward();
        torch::nn::utils::clip_grad_norm_({c, d}, 0.5);
        reference.step();
    }
    CHECK((a - c).abs().max().item<double>() < 2e-6);
    CHECK((b - d).abs().max().item<double>() < 2e-6);
    CHECK((a - start_a).abs().max().item<double>() > 1e-3);
}

TEST_CASE("what has no gradient in a step stays as it is") {
    at::Tensor a = at::ones({3}).set_requires_grad(true), b = at::ones({3}).set_requires_grad(true);
    Optimiser optimiser({{{a, b}, 0.1, 0.5}});
    optimiser.step(a.square().sum(), 1, 10);
    CHECK(b.equal(at::ones({3})));
    CHECK_FALSE(a.equal(at::ones({3})));
    // Its first step is a first step: of the rate's size whatever the gradient.
    optimiser.step(b.sum() * 1e-3, 1, 10);
    CHECK(b.sub(1 - 0.1 * 0.5 - 0.1).abs().max().item<double>() < 1e-4);
}

TEST_CASE("an encoder that was heard before a step is heard anew after it") {
    const Registry& plugins = test::torch_plugins();
    const Json params = {{"encoder_layers", 2},          {"encoder_embed_dim", 32}, {"encoder_ffn_embed_dim", 64},
                         {"encoder_attention_heads", 2}, {"embed_dim", 16},         {"conv_pos", 16},
                         {"conv_pos_groups", 2},         {"window_seconds", 1}};
    LoadedEncoder encoder = make_encoder(plugins.require("encoder:beats"), params, 1);
    Encoder& module = *encoder.module;
    const at::Tensor features = module.features(at::randn({2, 16000}));
    auto heard = [&](Encoder& which) {
        const at::NoGradGuard no_grad;
        which.eval();
        return which.frames(features, std::nullopt);
    };
    const at::Tensor before = heard(module);
    const DecayGroups parameters(module);
    Optimiser optimiser({{parameters.decayed, 0.05, 0}, {parameters.plain, 0.05, 0}});
    at::Tensor loss =
        module.frames(features, std::nullopt).square().mean() * module.frames(features, std::nullopt).mean();
    heard(module);  // between the forward pass and the step, as late as can be
    optimiser.step(loss, 1, 1);
    const at::Tensor after = heard(module);
    LoadedEncoder fresh = make_encoder(plugins.require("encoder:beats"), params, 2);
    {
        const at::NoGradGuard no_grad;
        const auto to = fresh.module->named_parameters();
        for (const auto& item : module.named_parameters()) {
            at::Tensor target = to[item.key()];
            target.copy_(item.value());
        }
    }
    CHECK(at::equal(heard(*fresh.module), after));
    CHECK_FALSE(at::equal(after, before));
}

TEST_CASE("scratch memory holds what is written, and no file is left") {
    const std::filesystem::path folder =
        std::filesystem::temp_directory_path() / ("scratch-test-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder);
    {
        at::Tensor memory = scratch_tensor({300, 1000}, folder);
        REQUIRE(memory.defined());
        CHECK(memory.sizes() == at::IntArrayRef({300, 1000}));
        memory.copy_(at::arange(300000, at::kFloat).reshape({300, 1000}));
        CHECK(memory[299][999].item<float>() == 299999);
        CHECK(std::filesystem::is_empty(folder));
    }
    CHECK_FALSE(scratch_tensor({4}, folder / "not there").defined());
    CHECK_FALSE(scratch_tensor({int64_t{1} << 50}, folder).defined());
    std::filesystem::remove_all(folder);
}
