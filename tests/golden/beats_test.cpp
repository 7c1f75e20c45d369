#include <ATen/autocast_mode.h>

#include <functional>

#include "golden.hpp"

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

using namespace biophony;
using golden::difference;

namespace {

std::string text(const std::string& path) {
    std::ifstream in(std::string(BPH_SOURCE_DIR) + "/" + path);
    REQUIRE(in.good());
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
}

uint32_t crc32(const std::string& bytes) {
    uint32_t crc = ~0U;
    for (const unsigned char byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320U : 0U);
    }
    return ~crc;
}

/// The weights of beats_full_formula, see README.md.
void fill_by_formula(at::Tensor tensor, const std::string& name) {
    const uint32_t seed = crc32(name);
    auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
    double scale = 0.15, offset = 0;
    if (name.ends_with("weight_g")) {
        scale = 0.2, offset = 0.5;
    } else if (has("layer_norm") && name.ends_with("weight")) {
        scale = 0.2, offset = 1;
    } else if (name.ends_with("grep_a")) {
        scale = 0.5, offset = 1;
    } else if (name.ends_with("bias")) {
        scale = 0.1;
    } else if (has("relative_attention_bias")) {
        scale = 2;
    }
    float* out = tensor.mutable_data_ptr<float>();
    for (uint32_t i = 0, n = static_cast<uint32_t>(tensor.numel()); i < n; ++i) {
        uint32_t v = i * 2654435761U + seed;
        v ^= v >> 15;
        v *= 2246822519U;
        v ^= v >> 13;
        out[i] = static_cast<float>(offset + scale * (v / 4294967296.0 - 0.5));
    }
}

/// The full-size encoder with the formula's weights.
std::shared_ptr<beats::Beats> full_encoder() {
    const auto json = nlohmann::json::parse(text("tests/golden/beats/beats_full_formula.json"));
    const beats::BeatsFactory factory;
    const auto encoder = std::dynamic_pointer_cast<beats::Beats>(
        factory.create(factory.from_checkpoint_config(json["cfg"].dump(), "{}")));
    const at::NoGradGuard no_grad;
    constexpr const char* kTable = "encoder.layers.0.self_attn.relative_attention_bias.weight";
    for (const auto& item : encoder->named_parameters())
        fill_by_formula(item.value(), item.key() == kTable
                                          ? "encoder.layers.11.self_attn.relative_attention_bias.weight"
                                          : item.key());
    encoder->eval();
    return encoder;
}

}  // namespace

TEST_CASE("every step of the tiny encoder agrees with the reference", "[beats]") {
    const golden::File weights = golden::read("beats_tiny_weights.safetensors");
    const auto encoder = golden::encoder(weights, R"({"predictor": true})");
    const auto io = golden::read("beats_tiny_golden.safetensors").tensors;
    const at::Tensor features = io.at("fbank_norm");
    const at::Tensor samples = io.at("wav_padding_mask").to(at::kBool);

    const bool with_gradients = GENERATE(false, true);
    const at::AutoGradMode mode(with_gradients);
    INFO("gradients: " << with_gradients);

    const at::Tensor patches = encoder->patches(features);
    const at::Tensor normalised = encoder->normalised(patches);
    const at::Tensor projected = encoder->projected(normalised);
    CHECK(difference(encoder->position_bias(56).unsqueeze(0).expand({2, 4, 56, 56}), io.at("nomask.pos_bias")) == 0);

    for (const std::string prefix : {"nomask.", "mask."}) {
        INFO(prefix);
        auto expected = [&](const char* name) { return io.at(prefix + name); };
        CHECK(difference(patches, expected("patch_conv").flatten(2).transpose(1, 2)) < 2e-6);
        CHECK(difference(normalised, expected("after_layer_norm")) < 2e-6);
        CHECK(difference(projected, expected("post_extract_proj")) < 2e-6);

        std::optional<at::Tensor> padding;
        at::Tensor padded = at::zeros({2, 56}, at::kBool);
        if (prefix == "mask.") {
            padding = samples;
            padded = encoder->frame_padding(features, samples);
            CHECK(padded.equal(expected("mask_patches").to(at::kBool)));
            CHECK(padded.any().item<bool>());
        }
        const at::Tensor input = projected.masked_fill(padded.unsqueeze(2), 0);
        CHECK(difference(encoder->positions().forward(input), expected("pos_conv")) < 2e-6);

        const std::vector<at::Tensor> layers = encoder->layers(features, padding);
        REQUIRE(layers.size() == 4);
        CHECK(difference(layers[0], expected("encoder_in")) < 5e-6);
        for (int i = 0; i < 3; ++i)
            CHECK(difference(layers[i + 1], expected(("layer" + std::to_string(i)).c_str())) < 5e-6);
        const at::Tensor frames = encoder->frames(features, padding);
        CHECK(difference(frames, expected("representation")) < 5e-6);
        CHECK(frames.requires_grad() == with_gradients);

        const at::Tensor probabilities =
            at::sigmoid(encoder->predictions(frames, padding ? std::optional<at::Tensor>(padded) : std::nullopt));
        CHECK(difference(probabilities, expected("probs")) < 1e-6);
        if (!padding)
            CHECK(difference(probabilities[0], at::tensor({0.4708F, 0.6271F, 0.5024F, 0.5541F, 0.4833F})) < 6e-5);
    }
}

TEST_CASE("the small encoders agree with the reference", "[beats]") {
    const at::NoGradGuard no_grad;
    SECTION("plain") {
        const auto encoder = golden::encoder(golden::read("beats_small.weights.safetensors"));
        const auto io = golden::read("beats_small.io.safetensors").tensors;
        CHECK(difference(encoder->normalised(encoder->patches(io.at("fbank"))), io.at("patch_tokens")) < 2e-5);
        const auto layers = encoder->layers(io.at("fbank"), std::nullopt);
        REQUIRE(layers.size() == 4);
        for (int i = 0; i < 4; ++i) CHECK(difference(layers[i], io.at("layer_" + std::to_string(i))) < 2e-5);
        CHECK(difference(encoder->frames(io.at("fbank"), std::nullopt), io.at("features")) < 2e-5);
        // A mask without padding changes nothing.
        CHECK(difference(encoder->frames(io.at("fbank"), at::zeros({2, 80000}, at::kBool)), io.at("features")) < 2e-5);
    }
    SECTION("padded") {
        const auto encoder = golden::encoder(golden::read("beats_small_padded.weights.safetensors"));
        const auto io = golden::read("beats_small_padded.io.safetensors").tensors;
        const at::Tensor padding = io.at("padding_mask_in").to(at::kBool);
        CHECK(encoder->frame_padding(io.at("fbank"), padding).equal(io.at("padding_mask_out").to(at::kBool)));
        CHECK(difference(encoder->frames(io.at("fbank"), padding), io.at("features")) < 2e-5);
        CHECK(difference(encoder->frames(io.at("fbank"), std::nullopt), io.at("features")) > 1e-3);
    }
    SECTION("fine-tuned") {
        const golden::File weights = golden::read("beats_small_finetuned.weights.safetensors");
        const auto encoder = golden::encoder(weights, R"({"predictor": true})");
        const auto io = golden::read("beats_small_finetuned.io.safetensors").tensors;
        const at::Tensor padding = io.at("padding_mask_in").to(at::kBool);
        const at::Tensor frames = encoder->frames(io.at("fbank"), padding);
        CHECK(difference(at::sigmoid(encoder->predictions(frames, encoder->frame_padding(io.at("fbank"), padding))),
                         io.at("probs")) < 2e-5);
    }
}

TEST_CASE("the full encoder has the published names and agrees with the reference", "[beats]") {
    const auto json = nlohmann::json::parse(text("tests/golden/beats/beats_full_formula.json"));
    const auto encoder = full_encoder();
    const auto parameters = encoder->named_parameters();

    std::map<std::string, std::vector<int64_t>> expected, found;
    for (const auto& [name, shape] : json["tensors"].items())
        if (const std::string here = encoder->translate(name); !here.empty())
            expected[here] = shape.get<std::vector<int64_t>>();
    int64_t values = 0;
    for (const auto& item : parameters) {
        found[item.key()] = item.value().sizes().vec();
        values += item.value().numel();
    }
    CHECK(json["tensors"].size() == 250);
    CHECK(found == expected);
    CHECK(found.size() == 239);  // the table of relative positions counts once
    CHECK(values == 90311792);

    const at::NoGradGuard no_grad;
    const auto io = golden::read("beats_full_formula.io.safetensors").tensors;
    const auto layers = encoder->layers(io.at("fbank"), std::nullopt);
    REQUIRE(layers.size() == 13);
    for (int i = 0; i < 13; ++i)
        CHECK(difference(layers[i].narrow(1, 0, 4), io.at("layer_" + std::to_string(i) + "_first4")) < 2e-4);
    const at::Tensor& frames = layers.back();
    CHECK(difference(frames.narrow(1, 0, 8), io.at("features_first8")) < 2e-4);
    CHECK(difference(frames.narrow(1, 240, 8), io.at("features_last8")) < 2e-4);
    CHECK(difference(frames.mean(1), io.at("features_mean")) < 2e-4);
    CHECK(difference(frames.norm(2, {2}) / io.at("features_norm"), at::ones({1, 248})) < 2e-4);
}

TEST_CASE("features in bfloat16 point where those of float32 do", "[beats]") {
    auto cosine = [](const std::function<at::Tensor()>& frames) {
        const at::Tensor expected = frames().to(at::kDouble).mean(1);
        at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
        at::autocast::set_autocast_enabled(at::kCPU, true);
        const at::Tensor found = frames();
        at::autocast::clear_cache();
        at::autocast::set_autocast_enabled(at::kCPU, false);
        return at::cosine_similarity(found.to(at::kDouble).mean(1), expected, 1).min().item<double>();
    };
    const bool with_gradients = GENERATE(false, true);
    const at::AutoGradMode mode(with_gradients);
    for (const std::string name : {"beats_small", "beats_small_finetuned"}) {
        INFO(name << ", gradients " << with_gradients);
        const auto encoder = golden::encoder(golden::read(name + ".weights.safetensors"));
        const at::Tensor features = golden::read(name + ".io.safetensors").tensors.at("fbank");
        CHECK(cosine([&] { return encoder->frames(features, std::nullopt); }) > 0.999);
    }
    if (with_gradients) return;
    const auto encoder = full_encoder();
    const at::Tensor features = golden::read("beats_full_formula.io.safetensors").tensors.at("fbank");
    CHECK(cosine([&] { return encoder->frames(features, std::nullopt); }) > 0.999);
}

TEST_CASE("relative positions fall into the reference's buckets", "[beats]") {
    const std::map<int64_t, int64_t> expected = {
        {-900, 159}, {-800, 159}, {-799, 159}, {-500, 143}, {-160, 104}, {-159, 103}, {-100, 87}, {-80, 80},
        {-79, 79},   {-1, 1},     {0, 0},      {1, 161},    {79, 239},   {80, 240},   {82, 240},  {83, 241},
        {100, 247},  {160, 264},  {500, 303},  {799, 319},  {800, 319},  {1500, 319}};
    for (const auto& [relative, bucket] : expected) {
        INFO(relative);
        CHECK(beats::relative_bucket(relative, 320, 800) == bucket);
    }
}
