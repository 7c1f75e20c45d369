#include "../../plugins/encoders/hubert/hubert.hpp"

#include <ATen/autocast_mode.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "golden.hpp"

using namespace biophony;
using golden::difference;
using hubert::Hubert;
using nlohmann::json;

namespace {

json small() {
    return {{"extractor_conv_layer_config", {{12, 10, 5}, {16, 3, 2}, {10, 2, 2}}},
            {"encoder_embed_dim", 24},
            {"encoder_pos_conv_kernel", 16},
            {"encoder_pos_conv_groups", 4},
            {"encoder_num_layers", 3},
            {"encoder_num_heads", 4},
            {"encoder_ff_interm_features", 48},
            {"encoder_projection_dropout", 0},
            {"encoder_attention_dropout", 0},
            {"encoder_dropout", 0},
            {"encoder_layer_drop", 0}};
}

/// With every parameter off its initial value, so that no term is zero or one.
std::shared_ptr<Hubert> make(const json& changes, bool disturbed = true) {
    json params = small();
    params.update(changes);
    auto encoder = std::make_shared<Hubert>(hubert::Config::parse(params.dump()));
    encoder->initialise(7);
    encoder->eval();
    const at::NoGradGuard no_grad;
    at::manual_seed(11);
    if (disturbed)
        for (at::Tensor& parameter : encoder->parameters()) parameter.add_(at::randn_like(parameter), 0.1);
    return encoder;
}

/// The encoder of a golden file; every tensor must be known or dropped by name, and every parameter filled.
std::shared_ptr<Hubert> filled(const golden::File& weights) {
    const hubert::HubertFactory factory;
    auto encoder = std::dynamic_pointer_cast<Hubert>(factory.create(factory.from_checkpoint_config(weights.cfg, "{}")));
    const at::NoGradGuard no_grad;
    const auto parameters = encoder->named_parameters();
    std::set<std::string> done;
    for (const auto& [name, tensor] : weights.tensors) {
        const std::string translated = encoder->translate(name);
        if (translated.empty()) continue;
        INFO(name);
        const at::Tensor* parameter = parameters.find(translated);
        REQUIRE(parameter != nullptr);
        REQUIRE(parameter->sizes() == tensor.sizes());
        at::Tensor(*parameter).copy_(tensor);
        done.insert(translated);
    }
    REQUIRE(done.size() == parameters.size());
    encoder->eval();
    return encoder;
}

at::Tensor some_waves(int64_t clips = 2, int64_t samples = 1000) {
    at::manual_seed(3);
    return at::randn({clips, samples}) * 0.3;
}

double deviation(const Hubert& encoder, const std::string& name) {
    const auto parameters = encoder.named_parameters();
    const at::Tensor* found = parameters.find(name);
    REQUIRE(found != nullptr);
    return found->std(false).item<double>();
}

}  // namespace

TEST_CASE("every step of HuBERT agrees with torchaudio", "[hubert]") {
    // Post-norm with one norm over time; pre-norm with a norm after each convolution, biases and an odd kernel.
    const std::string name = GENERATE("hubert_tiny", "hubert_prenorm");
    const bool with_gradients = GENERATE(false, true);
    INFO(name << ", gradients: " << with_gradients);
    const at::AutoGradMode mode(with_gradients);
    const auto encoder = filled(golden::read(name + "_weights.safetensors", "hubert"));
    const auto io = golden::read(name + "_golden.safetensors", "hubert").tensors;

    const at::Tensor features = encoder->features(io.at("wav"));
    CHECK(features.equal(io.at("wav")));
    CHECK(difference(encoder->extracted(features), io.at("conv_features")) < 5e-6);
    CHECK(difference(encoder->projected(io.at("conv_features")), io.at("feature_projection")) < 5e-6);
    const std::vector<at::Tensor> layers = encoder->layers(features, std::nullopt);
    REQUIRE(layers.size() == 3);
    CHECK(difference(layers[0], io.at("transformer_in")) < 2e-5);
    CHECK(difference(layers[1], io.at("layer0")) < 2e-5);
    CHECK(difference(layers[2], io.at("layer1")) < 2e-5);
    const at::Tensor frames = encoder->frames(features, std::nullopt);
    CHECK(difference(frames, io.at("forward")) < 2e-5);
    CHECK(frames.requires_grad() == with_gradients);
    // After the last block there is a norm only with pre-norm.
    CHECK((difference(layers[2], frames) > 0.1) == (name == "hubert_prenorm"));
    // A mask that pads nothing changes nothing.
    CHECK(encoder->frames(features, at::zeros(features.sizes(), at::kBool)).equal(frames));
}

TEST_CASE("HuBERT stays what it is in bfloat16", "[hubert]") {
    const std::string name = GENERATE("hubert_tiny", "hubert_prenorm");
    const auto encoder = filled(golden::read(name + "_weights.safetensors", "hubert"));
    const auto io = golden::read(name + "_golden.safetensors", "hubert").tensors;
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const at::Tensor slow = encoder->frames(io.at("wav"), std::nullopt).to(at::kFloat);
    at::Tensor fast;
    {
        const at::NoGradGuard no_grad;
        at::autocast::clear_cache();
        fast = encoder->frames(io.at("wav"), std::nullopt).to(at::kFloat);
    }
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    for (const at::Tensor& found : {slow.detach(), fast}) {
        const at::Tensor cosine = at::cosine_similarity(found.flatten(), io.at("forward").flatten(), 0);
        INFO(cosine.item<double>());
        CHECK(cosine.item<double>() > 0.999);
    }
    slow.square().sum().backward();
    for (const auto& item : encoder->named_parameters()) {
        INFO(item.key());
        CHECK(item.value().grad().isfinite().all().item<bool>());
    }
}

TEST_CASE("gradients reach every parameter of HuBERT", "[hubert]") {
    const json changes = GENERATE(json::object(), json{{"encoder_layer_norm_first", true}},
                                  json{{"extractor_mode", "layer_norm"}, {"extractor_conv_bias", true}},
                                  json{{"extractor_conv_bias", true}});
    const auto encoder = make(changes);
    encoder->train();
    const at::Tensor frames = encoder->frames(some_waves(), std::nullopt);
    at::manual_seed(5);
    (frames * at::randn_like(frames)).sum().backward();
    for (const auto& item : encoder->named_parameters()) {
        INFO(item.key());
        REQUIRE(item.value().grad().defined());
        const double size = item.value().grad().abs().max().item<double>();
        CHECK(std::isfinite(size));
        // What the keys' biases add is the same for all keys of a query; the norm over time takes the first
        // convolution's bias away again.
        const bool unseen =
            item.key().ends_with("k_proj.bias") ||
            (item.key() == "feature_extractor.conv_layers.0.conv.bias" && !changes.contains("extractor_mode"));
        if (!unseen) CHECK(size > 1e-6);
    }
}

TEST_CASE("activations that are computed again change nothing", "[hubert]") {
    const bool bfloat16 = GENERATE(false, true);
    auto gradients = [&](bool checkpoint) {
        const auto encoder = make({{"encoder_dropout", 0.2},
                                   {"encoder_attention_dropout", 0.1},
                                   {"encoder_ff_interm_dropout", 0.1},
                                   {"encoder_projection_dropout", 0.1},
                                   {"encoder_layer_drop", 0.3}});
        CHECK(encoder->checkpoint_activations(checkpoint));
        encoder->train();
        at::manual_seed(21);
        at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
        at::autocast::set_autocast_enabled(at::kCPU, bfloat16);
        const at::Tensor frames = encoder->frames(some_waves(), std::nullopt);
        at::autocast::clear_cache();
        at::autocast::set_autocast_enabled(at::kCPU, false);
        frames.to(at::kFloat).square().sum().backward();
        std::vector<at::Tensor> out = {frames.detach()};
        for (const at::Tensor& parameter : encoder->parameters())
            out.push_back(parameter.grad().defined() ? parameter.grad() : at::zeros({1}));
        return out;
    };
    const auto plain = gradients(false), again = gradients(true);
    REQUIRE(plain.size() == again.size());
    for (size_t i = 0; i < plain.size(); ++i) CHECK(again[i].equal(plain[i]));
}

TEST_CASE("what happens only in HuBERT's training", "[hubert]") {
    SECTION("dropout follows torch's generator and leaves evaluation alone") {
        const auto encoder = make({{GENERATE("encoder_dropout", "encoder_attention_dropout",
                                             "encoder_ff_interm_dropout", "encoder_projection_dropout"),
                                    0.3}});
        const at::NoGradGuard no_grad;
        const at::Tensor still = encoder->frames(some_waves(), std::nullopt);
        CHECK(encoder->frames(some_waves(), std::nullopt).equal(still));
        encoder->train();
        at::manual_seed(1);
        const at::Tensor first = encoder->frames(some_waves(), std::nullopt);  // draws waves from another seed
        CHECK(difference(first, still) > 1e-4);
    }
    SECTION("blocks are left out as often as asked") {
        const auto encoder = make({{"encoder_layer_drop", 0.5}, {"encoder_num_layers", 20}});
        encoder->train();
        const at::NoGradGuard no_grad;
        const at::Tensor waves = some_waves(1, 200);
        int dropped = 0;
        for (int i = 0; i < 10; ++i) {
            const auto layers = encoder->layers(waves, std::nullopt);
            for (int l = 0; l < 20; ++l) dropped += layers[l].equal(layers[l + 1]) ? 1 : 0;
        }
        CHECK(dropped > 70);
        CHECK(dropped < 130);
        encoder->eval();
        const auto layers = encoder->layers(waves, std::nullopt);
        for (int l = 0; l < 20; ++l) CHECK_FALSE(layers[l].equal(layers[l + 1]));
    }
}

TEST_CASE("HuBERT's initial values come from the seed, spread as published", "[hubert]") {
    at::manual_seed(99);
    const at::Tensor expected = at::rand({3});
    at::manual_seed(99);
    const json wide = {{"extractor_conv_layer_config", {{256, 10, 5}, {384, 3, 2}}},
                       {"extractor_conv_bias", true},
                       {"encoder_embed_dim", 192},
                       {"encoder_pos_conv_kernel", 32}};
    json params = small();
    params.update(wide);
    const hubert::Config config = hubert::Config::parse(params.dump());
    Hubert a(config), b(config), c(config);
    a.initialise(1), b.initialise(1), c.initialise(2);
    CHECK(at::rand({3}).equal(expected));  // the global generator wasn't touched
    const auto pa = a.named_parameters(), pb = b.named_parameters(), pc = c.named_parameters();
    for (const auto& item : pa) {
        INFO(item.key());
        CHECK(item.value().equal(pb[item.key()]));
        const bool drawn = item.value().std(false).item<double>() > 0 || item.key().ends_with("weight_g");
        CHECK(item.value().equal(pc[item.key()]) == !drawn);
        if (item.key().find("layer_norm") != std::string::npos)
            CHECK(item.value().eq(item.key().ends_with("weight") ? 1 : 0).all().item<bool>());
        if (item.key().starts_with("encoder.transformer.") && item.key().ends_with("bias"))
            CHECK(item.value().eq(0).all().item<bool>());
    }
    CHECK(deviation(a, "feature_extractor.conv_layers.0.conv.weight") == Approx(std::sqrt(2 / 10.0)).epsilon(0.04));
    CHECK(deviation(a, "feature_extractor.conv_layers.1.conv.weight") == Approx(std::sqrt(2 / 768.0)).epsilon(0.02));
    CHECK(deviation(a, "feature_extractor.conv_layers.1.conv.bias") == Approx(1 / std::sqrt(768.0 * 3)).epsilon(0.15));
    CHECK(deviation(a, "encoder.feature_projection.projection.weight") ==
          Approx(1 / std::sqrt(384.0 * 3)).epsilon(0.02));
    CHECK(deviation(a, "encoder.transformer.pos_conv_embed.conv.weight_v") ==
          Approx(std::sqrt(4.0 / (32 * 192))).epsilon(0.02));
    CHECK(difference(pa["encoder.transformer.pos_conv_embed.conv.weight_g"],
                     pa["encoder.transformer.pos_conv_embed.conv.weight_v"].norm(2, {0, 1}, true)) < 1e-5);
    for (const char* layer : {"attention.q_proj", "attention.out_proj", "feed_forward.output_dense"})
        CHECK(deviation(a, std::string("encoder.transformer.layers.2.") + layer + ".weight") ==
              Approx(0.02).epsilon(0.03));
}

TEST_CASE("the published size of HuBERT, its names and their roles", "[hubert]") {
    const auto encoder = std::make_shared<Hubert>(hubert::Config());
    const auto parameters = encoder->named_parameters();
    CHECK(parameters.size() == 210);
    std::map<std::string, int> kinds;
    int64_t values = 0;
    for (const auto& item : parameters) {
        const auto role = encoder->role(item.key());
        ++kinds[role.kind];
        values += item.value().numel();
        CHECK(encoder->translate(item.key()) == item.key());
        CHECK((role.block >= 0) == item.key().starts_with("encoder.transformer.layers."));
    }
    CHECK(values == 94370944);
    const std::map<std::string, int> expected = {
        {"matrix", 12 * 6 + 1}, {"norm", 12 * 2 + 3}, {"bias", 12 * 8 + 5}, {"convolution", 8}, {"gain", 1}};
    CHECK(kinds == expected);
    CHECK(encoder->role("encoder.transformer.layers.11.feed_forward.output_dense.weight").block == 11);
    CHECK(encoder->role("feature_extractor.conv_layers.6.conv.weight").kind == "convolution");
    CHECK_THROWS_AS(encoder->role("encoder.transformer.layers.12.layer_norm.weight"), sdk::Error);

    const std::string positions = "encoder.transformer.pos_conv_embed.conv.";
    for (const auto& [name, here] : std::map<std::string, std::string>{
             {positions + "parametrizations.weight.original0", positions + "weight_g"},
             {"module." + positions + "parametrizations.weight.original1", positions + "weight_v"},
             {positions + "weight_v", positions + "weight_v"},
             {"model.wav2vec2.encoder.transformer.layer_norm.bias", "encoder.transformer.layer_norm.bias"},
             {"backbone.feature_extractor.conv_layers.0.conv.weight", "feature_extractor.conv_layers.0.conv.weight"},
             {"aux.weight", ""},
             {"model.aux.bias", ""},
             {"mask_generator.mask_embedding", ""},
             {"logit_generator.label_embeddings", ""},
             // Unknown: as they are.
             {"feature_extractor.conv_layers.1.layer_norm.weight", "feature_extractor.conv_layers.1.layer_norm.weight"},
             {"backbone.something", "backbone.something"}}) {
        INFO(name);
        CHECK(encoder->translate(name) == here);
    }

    const torch_tier::EncoderInfo info = encoder->info();
    CHECK(info.sample_rate == 16000);
    CHECK(info.width == 768);
    CHECK(info.depth == 12);
    CHECK(info.frames_per_second == 50);
    CHECK(info.min_samples == 400);
    CHECK(info.bands == 1);
    CHECK_FALSE(info.masks_padding);
    CHECK(hubert::Config().hop() == 320);
}

TEST_CASE("HuBERT's frames and their padding", "[hubert]") {
    json narrow = small();
    narrow["extractor_conv_layer_config"] = {{8, 10, 5}, {8, 3, 2}, {8, 3, 2}, {8, 3, 2},
                                             {8, 3, 2},  {8, 2, 2}, {8, 2, 2}};
    const auto encoder = make(narrow);
    const at::NoGradGuard no_grad;
    for (const auto& [samples, frames] :
         {std::pair{400, 1}, {719, 1}, {720, 2}, {16000, 49}, {80000, 249}, {160000, 499}})
        CHECK(encoder->frames(at::zeros({1, samples}), std::nullopt).size(1) == frames);
    CHECK_THROWS_WITH(encoder->features(at::zeros({1, 399})), Catch::Contains("399") && Catch::Contains("400"));
    CHECK_THROWS_WITH(encoder->features(at::zeros({16000})), Catch::Contains("(clips, samples)"));
    CHECK_THROWS_WITH(encoder->frames(at::zeros({1, 98, 128}), std::nullopt), Catch::Contains("(1, 98, 128)"));

    // Clips of 16000, 10000 and 300 samples: as many frames as such clips have by themselves are no padding.
    at::Tensor padding = at::zeros({3, 16000}, at::kBool);
    padding[1].narrow(0, 10000, 6000).fill_(true);
    padding[2].narrow(0, 300, 15700).fill_(true);
    const at::Tensor padded = encoder->frame_padding(at::zeros({3, 16000}), padding);
    REQUIRE(padded.sizes() == at::IntArrayRef({3, 49}));
    CHECK(padded.logical_not().sum(1).equal(
        at::tensor({int64_t{49}, int64_t{31}, int64_t{0}})));  // (10000 - 400) / 320 + 1
    CHECK_FALSE(padded[1][30].item<bool>());
    CHECK_THROWS_WITH(encoder->frame_padding(at::zeros({3, 16000}), at::zeros({3, 100}, at::kBool)),
                      Catch::Contains("padding mask"));
    CHECK_THROWS_WITH(encoder->frames(at::zeros({3, 16000}), padding), Catch::Contains("clips of one length"));
    CHECK_THROWS_WITH(encoder->layers(at::zeros({3, 16000}), padding), Catch::Contains("clips of one length"));
}

TEST_CASE("configurations of HuBERT that don't fit are refused by name", "[hubert]") {
    const std::vector<std::pair<json, std::string>> bad = {
        {{{"encoder_num_heads", 5}}, "encoder_embed_dim"},
        {{{"encoder_pos_conv_groups", 5}}, "encoder_embed_dim"},
        {{{"encoder_num_layers", 0}}, "encoder_num_layers"},
        {{{"encoder_num_layers", 2.5}}, "encoder_num_layers"},
        {{{"encoder_pos_conv_kernel", 0}}, "encoder_pos_conv_kernel"},
        {{{"encoder_ff_interm_features", -1}}, "encoder_ff_interm_features"},
        {{{"extractor_mode", "batch_norm"}}, "extractor_mode"},
        {{{"extractor_mode", 1}}, "extractor_mode"},
        {{{"extractor_conv_bias", "no"}}, "extractor_conv_bias"},
        {{{"extractor_conv_layer_config", json::array()}}, "extractor_conv_layer_config"},
        {{{"extractor_conv_layer_config", "default"}}, "extractor_conv_layer_config"},
        {{{"extractor_conv_layer_config", {{8, 10}}}}, "extractor_conv_layer_config"},
        {{{"extractor_conv_layer_config", {{8, 10, 5}, {8, 3, 0}}}}, "extractor_conv_layer_config"},
        {{{"extractor_conv_layer_config", {{8, 10, 1.5}}}}, "extractor_conv_layer_config"},
        {{{"extractor_conv_layer_config", {{8, 9000, 9000}, {8, 9000, 9000}, {8, 9000, 9000}, {8, 9000, 9000}}}},
         "extractor_conv_layer_config"},
        {{{"encoder_dropout", 1}}, "encoder_dropout"},
        {{{"encoder_layer_drop", -0.1}}, "encoder_layer_drop"},
        {{{"encoder_layer_norm_first", 0}}, "encoder_layer_norm_first"},
        {{{"window_seconds", 0.1}}, "window_seconds"},
    };
    const hubert::HubertFactory factory;
    for (const auto& [changes, parameter] : bad) {
        json params = small();
        params.update(changes);
        INFO(changes.dump());
        try {
            factory.create(params.dump());
            FAIL("was accepted");
        } catch (const sdk::Error& error) {
            CHECK(error.parameter() == parameter);
            CHECK(error.status() == BPH_INVALID_ARGUMENT);
            CHECK_THAT(error.what(), Catch::Contains("found") && Catch::Contains("expected"));
        }
    }
    CHECK_THROWS_AS(factory.create("[]"), sdk::Error);
    CHECK_THROWS_AS(factory.from_checkpoint_config("{", "{}"), sdk::Error);
    // A checkpoint's configuration wins; what nobody knows, and null, are dropped.
    const json merged = json::parse(factory.from_checkpoint_config(
        R"({"encoder_num_layers": 24, "aux_num_out": 5, "extractor_conv_layer_config": null})",
        R"({"encoder_num_layers": 12, "window_seconds": 3})"));
    CHECK(merged == json{{"encoder_num_layers", 24}, {"window_seconds", 3}});
}

TEST_CASE("the manifest's defaults are HuBERT's", "[hubert]") {
    std::ifstream in(std::string(BPH_SOURCE_DIR) + "/plugins/encoders/hubert/plugin.json");
    const json manifest = json::parse(in);
    json defaults = json::object();
    for (const auto& [name, schema] : manifest["items"][0]["parameters"]["properties"].items())
        defaults[name] = schema.at("default");
    CHECK(hubert::Config::parse(defaults.dump()) == hubert::Config());
    // All names are known, and none is missing.
    CHECK(json::parse(hubert::HubertFactory().from_checkpoint_config(defaults.dump(), "{}")) == defaults);
    CHECK(defaults.size() == 16);
}
