#include "golden.hpp"

#include <ATen/autocast_mode.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

using namespace biophony;
using golden::difference;
using nlohmann::json;

namespace {

json small() {
    return {{"encoder_layers", 3},   {"encoder_embed_dim", 48}, {"encoder_ffn_embed_dim", 96},
            {"embed_dim", 32},       {"conv_pos", 16},          {"conv_pos_groups", 4},
            {"num_buckets", 32},     {"max_distance", 80},      {"encoder_attention_heads", 4},
            {"dropout", 0},          {"attention_dropout", 0},  {"dropout_input", 0},
            {"encoder_layerdrop", 0}};
}

std::shared_ptr<beats::Beats> make(const json& changes, uint64_t seed = 7) {
    json params = small();
    params.update(changes);
    auto encoder = std::make_shared<beats::Beats>(beats::Config::parse(params.dump()));
    encoder->initialise(seed);
    encoder->eval();
    return encoder;
}

/// Moves every parameter off its initial value, so that no term is zero or one.
void disturb(beats::Beats& encoder) {
    const at::NoGradGuard no_grad;
    at::manual_seed(11);
    for (at::Tensor& parameter : encoder.parameters()) parameter.add_(at::randn_like(parameter), 0.1);
}

at::Tensor some_features(int64_t clips = 2, int64_t frames = 70) {
    at::manual_seed(3);
    return at::randn({clips, frames, 128}) * 0.5;
}

double deviation(const beats::Beats& encoder, const std::string& name) {
    const auto parameters = encoder.named_parameters();
    const at::Tensor* found = parameters.find(name);
    REQUIRE(found != nullptr);
    return found->std(false).item<double>();
}

}  // namespace

TEST_CASE("attention with and without gradients is the same", "[encoder]") {
    const json changes = GENERATE(json{{"relative_position_embedding", true}}, json{{"gru_rel_pos", false}},
                                  json{{"gru_rel_pos", false}, {"relative_position_embedding", false}});
    const auto encoder = make(changes);
    disturb(*encoder);
    at::Tensor padding = at::zeros({2, 11600}, at::kBool);
    padding[1].narrow(0, 6000, 5600).fill_(true);
    for (const auto& mask : {std::optional<at::Tensor>(), std::optional<at::Tensor>(padding)}) {
        const at::Tensor slow = encoder->frames(some_features(), mask);
        REQUIRE(slow.requires_grad());
        const at::NoGradGuard no_grad;
        CHECK(difference(encoder->frames(some_features(), mask), slow) < 1e-5);
    }
    // The cached buckets follow the length.
    const at::NoGradGuard no_grad;
    const at::Tensor whole = encoder->frames(some_features(1, 160), std::nullopt);
    encoder->frames(some_features(1, 32), std::nullopt);
    CHECK(encoder->frames(some_features(1, 160), std::nullopt).equal(whole));
}

TEST_CASE("reduced precision by autocast stays near float32", "[encoder]") {
    const auto [type, tolerance] = GENERATE(std::pair{at::kBFloat16, 0.06}, std::pair{at::kHalf, 0.01});
    INFO(type);
    const auto encoder = make(json::object());
    disturb(*encoder);
    at::Tensor padding = at::zeros({2, 11600}, at::kBool);
    padding[1].narrow(0, 6000, 5600).fill_(true);
    const at::Tensor expected = encoder->frames(some_features(), padding);
    at::autocast::set_autocast_dtype(at::kCPU, type);
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const at::Tensor slow = encoder->frames(some_features(), padding);
    at::Tensor fast;
    {
        const at::NoGradGuard no_grad;
        at::autocast::clear_cache();
        fast = encoder->frames(some_features(), padding);
    }
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    CHECK(difference(slow, expected) < tolerance);
    CHECK(difference(fast, expected) < tolerance);
    slow.to(at::kFloat).square().sum().backward();
    for (const auto& item : encoder->named_parameters()) {
        INFO(item.key());
        CHECK(item.value().grad().isfinite().all().item<bool>());
    }
}

TEST_CASE("gradients reach every parameter", "[encoder]") {
    const json changes =
        GENERATE(json::object(), json{{"layer_norm_first", true}, {"deep_norm", false}},
                 json{{"activation_fn", "glu"}, {"deep_norm", false}, {"conv_bias", true}}, json{{"embed_dim", 48}});
    const auto encoder = make(changes);
    disturb(*encoder);
    encoder->train();
    const at::Tensor frames = encoder->frames(some_features(), std::nullopt);
    at::manual_seed(5);
    (frames * at::randn_like(frames)).sum().backward();
    for (const auto& item : encoder->named_parameters()) {
        INFO(item.key());
        REQUIRE(item.value().grad().defined());
        const double size = item.value().grad().abs().max().item<double>();
        CHECK(std::isfinite(size));
        // What the keys' biases add is the same for all keys of a query; the softmax doesn't see it.
        if (!item.key().ends_with("k_proj.bias")) CHECK(size > 1e-6);
    }
}

TEST_CASE("a block is what the paper says", "[encoder]") {
    // Attention silenced, so that a block is its feed-forward part, written here in elementary functions.
    const std::string activation = GENERATE("relu", "gelu", "gelu_accurate", "gelu_fast", "tanh", "linear", "glu");
    const bool pre_norm = GENERATE(false, true);
    INFO(activation << ", pre-norm: " << pre_norm);
    const bool deep = !pre_norm && activation != "glu";
    const auto encoder = make(
        {{"activation_fn", activation}, {"layer_norm_first", pre_norm}, {"deep_norm", deep}, {"encoder_layers", 1}});
    disturb(*encoder);
    const at::NoGradGuard no_grad;
    const auto p = encoder->named_parameters();
    const std::string block = "encoder.layers.0.";
    for (const char* name : {"self_attn.out_proj.weight", "self_attn.out_proj.bias"})
        at::Tensor(p[block + name]).zero_();
    auto norm = [&](const at::Tensor& x, const std::string& name) {
        const at::Tensor centred = x - x.mean(-1, true);
        return centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * p[name + ".weight"] + p[name + ".bias"];
    };
    const std::string first = activation == "glu" ? "fc1.linear" : "fc1";
    auto feed_forward = [&](const at::Tensor& x) {
        at::Tensor y = at::matmul(x, p[block + first + ".weight"].t()) + p[block + first + ".bias"];
        if (activation == "relu") y = y.clamp_min(0);
        if (activation == "gelu") y = y * 0.5 * (1 + at::erf(y / std::sqrt(2.0)));
        if (activation.starts_with("gelu_"))
            y = 0.5 * y * (1 + at::tanh(std::sqrt(2 / M_PI) * (y + 0.044715 * y * y * y)));
        if (activation == "tanh") y = at::tanh(y);
        if (activation == "glu") {
            const at::Tensor gate = y.narrow(2, 96, 96);
            y = y.narrow(2, 0, 96) * gate / (1 + at::exp(-gate));
        }
        return at::matmul(y, p[block + "fc2.weight"].t()) + p[block + "fc2.bias"];
    };
    const auto layers = encoder->layers(some_features(), std::nullopt);
    const at::Tensor& x = layers[0];
    const at::Tensor frames = encoder->frames(some_features(), std::nullopt);
    if (pre_norm) {
        const at::Tensor expected = x + feed_forward(norm(x, block + "final_layer_norm"));
        CHECK(difference(layers[1], expected) < 1e-5);
        CHECK(difference(frames, norm(expected, "encoder.layer_norm")) < 1e-5);
    } else {
        const double alpha = deep ? std::pow(2.0, 0.25) : 1;
        const at::Tensor y = norm(alpha * x, block + "self_attn_layer_norm");
        CHECK(difference(layers[1], norm(alpha * y + feed_forward(y), block + "final_layer_norm")) < 1e-5);
        CHECK(frames.equal(layers[1]));
    }
}

TEST_CASE("what happens only in training", "[encoder]") {
    const at::Tensor features = some_features();
    SECTION("gradients decay from block to block, values don't change") {
        auto gradients = [&](double ratio) {
            const auto encoder = make({{"layer_wise_gradient_decay_ratio", ratio}});
            const at::Tensor frames = encoder->frames(features, std::nullopt);
            at::manual_seed(5);
            (frames * at::randn_like(frames)).sum().backward();
            std::vector<at::Tensor> out = {frames.detach()};
            for (const char* name : {"encoder.layers.2.fc1.weight", "encoder.layers.1.fc1.weight",
                                     "encoder.layers.0.fc1.weight", "post_extract_proj.weight"})
                out.push_back(encoder->named_parameters()[name].grad());
            return out;
        };
        const auto plain = gradients(1), decayed = gradients(0.5);
        CHECK(decayed[0].equal(plain[0]));
        for (int i = 0; i < 4; ++i) CHECK(difference(decayed[i + 1], plain[i + 1] * std::pow(0.5, i)) < 1e-7);
        CHECK(plain[4].abs().max().item<double>() > 1e-4);
    }
    SECTION("dropout follows torch's generator and leaves evaluation alone") {
        const auto encoder =
            make({{GENERATE("dropout", "attention_dropout", "activation_dropout", "dropout_input"), 0.3}});
        const at::NoGradGuard no_grad;
        const at::Tensor still = encoder->frames(features, std::nullopt);
        CHECK(encoder->frames(features, std::nullopt).equal(still));
        encoder->train();
        at::manual_seed(1);
        const at::Tensor first = encoder->frames(features, std::nullopt);
        CHECK(difference(first, still) > 1e-4);
        CHECK_FALSE(encoder->frames(features, std::nullopt).equal(first));
        at::manual_seed(1);
        CHECK(encoder->frames(features, std::nullopt).equal(first));
    }
    SECTION("blocks are left out as often as asked") {
        const auto encoder = make({{"encoder_layerdrop", 0.5}, {"encoder_layers", 20}});
        encoder->train();
        at::manual_seed(1);
        const at::NoGradGuard no_grad;
        int dropped = 0;
        for (int i = 0; i < 10; ++i) {
            const auto layers = encoder->layers(some_features(1, 16), std::nullopt);
            for (int l = 0; l < 20; ++l) dropped += layers[l].is_same(layers[l + 1]) || layers[l].equal(layers[l + 1]);
        }
        CHECK(dropped > 70);
        CHECK(dropped < 130);
        encoder->eval();
        const auto layers = encoder->layers(some_features(1, 16), std::nullopt);
        for (int l = 0; l < 20; ++l) CHECK_FALSE(layers[l].equal(layers[l + 1]));
    }
}

TEST_CASE("initial values come from the seed alone", "[encoder]") {
    const at::Tensor before = at::rand({3});
    at::manual_seed(99);
    const at::Tensor expected = at::rand({3});
    at::manual_seed(99);
    const auto a = make(json::object(), 1), b = make(json::object(), 1), c = make(json::object(), 2);
    CHECK(at::rand({3}).equal(expected));  // the global generator wasn't touched
    const auto pa = a->named_parameters(), pb = b->named_parameters(), pc = c->named_parameters();
    for (const auto& item : pa) {
        INFO(item.key());
        CHECK(item.value().equal(pb[item.key()]));
        const bool drawn = item.value().std(false).item<double>() > 0 || item.key() == "encoder.pos_conv.0.weight_g";
        CHECK(item.value().equal(pc[item.key()]) == !drawn);
    }
    // Filling again gives the same, whatever was there.
    disturb(*a);
    a->initialise(1);
    for (const auto& item : pa) CHECK(item.value().equal(pb[item.key()]));
}

TEST_CASE("initial values are spread as published", "[encoder]") {
    SECTION("with deep norm, by the depth of the stack") {
        beats::Beats encoder(beats::Config::parse(R"({"encoder_ffn_embed_dim": 1536, "encoder_layers": 12,
            "encoder_embed_dim": 384, "encoder_attention_heads": 6})"));
        encoder.initialise(3);
        const double beta = 0.3194715521;  // 96^-0.25
        for (const std::string block : {"encoder.layers.0.", "encoder.layers.11."}) {
            const double square = std::sqrt(2.0 / 768), wide = std::sqrt(2.0 / (384 + 1536));
            CHECK(deviation(encoder, block + "self_attn.q_proj.weight") == Approx(square).epsilon(0.01));
            CHECK(deviation(encoder, block + "self_attn.k_proj.weight") == Approx(square).epsilon(0.01));
            CHECK(deviation(encoder, block + "self_attn.v_proj.weight") == Approx(beta * square).epsilon(0.01));
            CHECK(deviation(encoder, block + "self_attn.out_proj.weight") == Approx(beta * square).epsilon(0.01));
            CHECK(deviation(encoder, block + "fc1.weight") == Approx(beta * wide).epsilon(0.01));
            CHECK(deviation(encoder, block + "fc2.weight") == Approx(beta * wide).epsilon(0.01));
            CHECK(deviation(encoder, block + "self_attn.grep_linear.weight") == Approx(0.02).epsilon(0.2));
        }
        CHECK(deviation(encoder, "encoder.layers.0.self_attn.relative_attention_bias.weight") ==
              Approx(0.02).epsilon(0.1));
        CHECK(deviation(encoder, "encoder.pos_conv.0.weight_v") == Approx(std::sqrt(4.0 / (128 * 384))).epsilon(0.01));
        // Uniform within 1/sqrt(inputs).
        CHECK(deviation(encoder, "patch_embedding.weight") == Approx(1 / 16.0 / std::sqrt(3.0)).epsilon(0.01));
        CHECK(deviation(encoder, "post_extract_proj.weight") ==
              Approx(1 / std::sqrt(512.0) / std::sqrt(3.0)).epsilon(0.01));
        const auto p = encoder.named_parameters();
        for (const auto& item : p) {
            INFO(item.key());
            const bool block_bias = item.key().starts_with("encoder.") && item.key().ends_with("bias");
            if (block_bias) CHECK(item.value().abs().max().item<double>() == 0);
            if (item.key().ends_with("norm.weight") || item.key().ends_with("grep_a"))
                CHECK(item.value().eq(1).all().item<bool>());
        }
        // The convolution's weight is its direction at first.
        CHECK(difference(p["encoder.pos_conv.0.weight_g"], p["encoder.pos_conv.0.weight_v"].norm(2, {0, 1}, true)) <
              1e-5);
    }
    SECTION("without it, like BERT") {
        const auto encoder = make({{"deep_norm", false}});
        for (const char* name : {"self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"})
            CHECK(deviation(*encoder, std::string("encoder.layers.1.") + name + ".weight") ==
                  Approx(0.02).epsilon(0.1));
    }
    SECTION("the published size") {
        const double beta = std::pow(96, -0.25);
        CHECK(std::sqrt(2.0 / 1536) == Approx(0.036084).epsilon(1e-4));
        CHECK(beta * std::sqrt(2.0 / 1536) == Approx(0.011528).epsilon(1e-4));
        CHECK(beta * std::sqrt(2.0 / 3840) == Approx(0.0072909).epsilon(1e-4));
    }
}

TEST_CASE("activations that are computed again change no value and no gradient", "[encoder]") {
    const json changes = {{"dropout", 0.2}, {"attention_dropout", 0.2}, {"encoder_layerdrop", 0.3}};
    const bool reduced = GENERATE(false, true);
    std::vector<std::vector<at::Tensor>> results;
    for (const bool again : {false, true}) {
        const auto encoder = make(changes);
        disturb(*encoder);
        encoder->train();
        CHECK(encoder->checkpoint_activations(again));
        at::manual_seed(4);
        at::autocast::set_autocast_enabled(at::kCPU, reduced);
        const at::Tensor frames = encoder->frames(some_features(), std::nullopt);
        at::autocast::clear_cache();
        at::autocast::set_autocast_enabled(at::kCPU, false);
        frames.to(at::kFloat).square().sum().backward();
        std::vector<at::Tensor> all = {frames.detach()};
        for (const auto& item : encoder->named_parameters())
            all.push_back(item.value().grad().defined() ? item.value().grad() : at::zeros({1}));
        results.push_back(all);
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
        INFO("tensor " << i);
        CHECK(at::equal(results[0][i], results[1][i]));
    }
}

TEST_CASE("aligned padding leaves out the tokens without a sample of the clip", "[encoder]") {
    const auto encoder = make({{"padding_mask", "aligned"}}), reference = make(json::object());
    // 1 s has 98 frames, 6 instants of 8 tokens; instant t hears the samples 2560 t … 2560 t + 2799.
    const at::Tensor features = at::zeros({3, 98, 128});
    at::Tensor padding = at::zeros({3, 16000}, at::kBool);
    padding[0].narrow(0, 5120, 10880).fill_(true);  // instant 2 begins there: the first that hears nothing
    padding[1].narrow(0, 5121, 10879).fill_(true);  // one sample of it is left
    const at::Tensor found = encoder->frame_padding(features, padding);
    REQUIRE(found.sizes() == at::IntArrayRef({3, 48}));
    CHECK(found.sum(1).equal(at::tensor({4 * 8, 3 * 8, 0}, at::kLong)));
    CHECK(found[0].narrow(0, 16, 32).all().item<bool>());
    CHECK(found[1].narrow(0, 24, 24).all().item<bool>());
    // The reference's equal shares are not where the patches are.
    CHECK_FALSE(reference->frame_padding(features, padding).equal(found));
    CHECK_THROWS_WITH(encoder->frame_padding(features, at::zeros({3, 20000}, at::kBool)),
                      Catch::Contains("20000 samples, which give 123 frames; the features have 98"));
}

TEST_CASE("a classifier is there only where it is asked for", "[encoder]") {
    const json tuned = {{"finetuned_model", true}, {"predictor_class", 5}, {"predictor_dropout", 0}};
    json kept = tuned;
    kept["predictor"] = true;
    const auto without = make(tuned), with = make(kept);
    CHECK(without->info().classes == 0);
    CHECK(without->translate("predictor.weight").empty());
    const at::NoGradGuard no_grad;
    CHECK_THROWS_WITH(without->predictions(at::zeros({1, 8, 16}), std::nullopt), Catch::Contains("no classifier"));
    CHECK(with->info().classes == 5);
    CHECK(with->translate("module.predictor.weight") == "predictor.weight");
    CHECK(with->translate("predictor.weight") == "predictor.weight");
    CHECK(with->role("predictor.weight").kind == "excluded");
    CHECK(with->role("predictor.bias").kind == "excluded");
    CHECK_THROWS_WITH(make({{"predictor", true}}), Catch::Contains("finetuned_model"));
}

TEST_CASE("names of other checkpoints", "[encoder]") {
    const auto encoder = make(json::object());
    const std::string table = "self_attn.relative_attention_bias.weight";
    const std::map<std::string, std::string> expected = {
        {"layer_norm.weight", "layer_norm.weight"},
        {"backbone.layer_norm.weight", "layer_norm.weight"},
        {"model.encoder.layers.2.fc1.bias", "encoder.layers.2.fc1.bias"},
        {"module.backbone.patch_embedding.weight", "patch_embedding.weight"},
        {"encoder.pos_conv.0.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"},
        {"backbone.encoder.pos_conv.0.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"},
        {"encoder.layers.0." + table, "encoder.layers.0." + table},
        {"encoder.layers.1." + table, "encoder.layers.0." + table},
        {"backbone.encoder.layers.11." + table, "encoder.layers.0." + table},
        {"predictor.weight", ""},
        {"predictor.bias", ""},
        {"classifier.weight", ""},
        {"backbone.fbank.window", ""},
        {"fbank.mel_fb", ""},
        {"patch_embedding_pad.weight", ""},
        {"raw2fbank_pad.weight", ""},
        // Unknown: as they are.
        {"quantize.embedding.weight", "quantize.embedding.weight"},
        {"backbone.something", "backbone.something"},
        {"encoder.layers.3.fc1.bias", "encoder.layers.3.fc1.bias"},
    };
    for (const auto& [name, here] : expected) {
        INFO(name);
        CHECK(encoder->translate(name) == here);
    }
}

TEST_CASE("roles and facts of an encoder", "[encoder]") {
    const auto encoder = make(json::object());
    struct Expected {
        const char* name;
        const char* kind;
        int block;
    };
    for (const Expected& e : std::initializer_list<Expected>{
             {"patch_embedding.weight", "convolution", -1},
             {"layer_norm.weight", "norm", -1},
             {"layer_norm.bias", "bias", -1},
             {"post_extract_proj.weight", "matrix", -1},
             {"encoder.pos_conv.0.weight_g", "gain", -1},
             {"encoder.pos_conv.0.weight_v", "convolution", -1},
             {"encoder.pos_conv.0.bias", "bias", -1},
             {"encoder.layer_norm.weight", "norm", -1},
             {"encoder.layers.0.self_attn.relative_attention_bias.weight", "embedding", 0},
             {"encoder.layers.2.self_attn.grep_a", "gain", 2},
             {"encoder.layers.2.self_attn.grep_linear.weight", "matrix", 2},
             {"encoder.layers.1.self_attn.q_proj.weight", "matrix", 1},
             {"encoder.layers.1.self_attn_layer_norm.weight", "norm", 1},
             {"encoder.layers.1.fc2.bias", "bias", 1},
         }) {
        INFO(e.name);
        CHECK(encoder->role(e.name).kind == e.kind);
        CHECK(encoder->role(e.name).block == e.block);
    }
    CHECK_THROWS_AS(encoder->role("encoder.layers.9.fc1.weight"), sdk::Error);

    const torch_tier::EncoderInfo info = encoder->info();
    CHECK(info.sample_rate == 16000);
    CHECK(info.width == 48);
    CHECK(info.depth == 3);
    CHECK(info.frames_per_second == 50);
    CHECK(info.window_seconds == 5);
    CHECK(info.min_samples == 2800);
    const at::NoGradGuard no_grad;
    CHECK(encoder->frames(encoder->features(at::zeros({1, 2800})), std::nullopt).size(1) == 8);
    for (const auto& [seconds, tokens] : {std::pair{0.625, 24}, {1.0, 48}, {3.0, 144}, {5.0, 248}})
        CHECK(encoder->frames(encoder->features(at::zeros({1, int64_t(seconds * 16000)})), std::nullopt).size(1) ==
              tokens);
}

TEST_CASE("input that doesn't fit is refused", "[encoder]") {
    const auto encoder = make(json::object());
    CHECK_THROWS_WITH(encoder->features(at::zeros({1, 2799})), Catch::Contains("2799") && Catch::Contains("2800"));
    CHECK_THROWS_WITH(encoder->features(at::zeros({16000})), Catch::Contains("(clips, samples)"));
    CHECK_THROWS_WITH(encoder->frames(at::zeros({1, 15, 128}), std::nullopt), Catch::Contains("(1, 15, 128)"));
    CHECK_THROWS_WITH(encoder->frames(at::zeros({1, 98, 64}), std::nullopt), Catch::Contains("(1, 98, 64)"));
    CHECK_THROWS_WITH(encoder->frames(some_features(2), at::zeros({1, 16000}, at::kBool)),
                      Catch::Contains("padding mask"));
    CHECK_THROWS_WITH(encoder->frames(some_features(1), at::ones({1, 11600}, at::kBool)),
                      Catch::Contains("padding from end to end"));
}

TEST_CASE("configurations that don't fit are refused by name", "[encoder]") {
    const std::vector<std::pair<json, std::string>> bad = {
        {{{"encoder_attention_heads", 7}}, "encoder_embed_dim"},
        {{{"conv_pos_groups", 5}}, "encoder_embed_dim"},
        {{{"encoder_layers", 0}}, "encoder_layers"},
        {{{"encoder_layers", 2.5}}, "encoder_layers"},
        {{{"deep_norm", 1}}, "deep_norm"},
        {{{"layer_norm_first", true}}, "deep_norm"},
        {{{"activation_fn", "glu"}}, "deep_norm"},
        {{{"activation_fn", "swish"}}, "activation_fn"},
        {{{"activation_fn", 3}}, "activation_fn"},
        {{{"dropout", 1}}, "dropout"},
        {{{"encoder_layerdrop", -0.1}}, "encoder_layerdrop"},
        {{{"input_patch_size", -1}}, "input_patch_size"},
        {{{"input_patch_size", 8}}, "input_patch_size"},
        {{{"num_buckets", 33}}, "num_buckets"},
        {{{"max_distance", 8}}, "max_distance"},
        {{{"relative_position_embedding", false}}, "gru_rel_pos"},
        {{{"layer_wise_gradient_decay_ratio", 0}}, "layer_wise_gradient_decay_ratio"},
        {{{"fbank_std", 0}}, "fbank_std"},
        {{{"fbank_mean", "loud"}}, "fbank_mean"},
        {{{"window_seconds", 0.1}}, "window_seconds"},
    };
    const beats::BeatsFactory factory;
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
}

TEST_CASE("a checkpoint's configuration wins, and keys that nobody knows are dropped", "[encoder]") {
    const beats::BeatsFactory factory;
    const json merged = json::parse(factory.from_checkpoint_config(
        R"({"encoder_layers": 3, "deep_norm": false, "mask_prob": 0.8, "conv_bias": null, "predictor_class": 7})",
        R"({"encoder_layers": 12, "deep_norm": true, "window_seconds": 3, "conv_bias": false})"));
    const json expected = {{"encoder_layers", 3},
                           {"deep_norm", false},
                           {"window_seconds", 3},
                           {"conv_bias", false},
                           {"predictor_class", 7}};
    CHECK(merged == expected);
}

TEST_CASE("the manifest's defaults are the encoder's", "[encoder]") {
    std::ifstream in(std::string(BPH_SOURCE_DIR) + "/plugins/encoders/beats/plugin.json");
    const json manifest = json::parse(in);
    json defaults = json::object();
    for (const auto& [name, schema] : manifest["items"][0]["parameters"]["properties"].items())
        defaults[name] = schema.at("default");
    CHECK(beats::Config::parse(defaults.dump()) == beats::Config());
    // All names are known, and none is missing.
    CHECK(json::parse(beats::overlay(defaults.dump(), "{}")) == defaults);
    CHECK(defaults.size() == 30);
}
