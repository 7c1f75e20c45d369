// The command's work against the same steps one by one.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include "toy.hpp"

#undef CHECK
#include <catch2/catch.hpp>

#include "audio/decode.hpp"
#include "audio/window.hpp"
#include "base/schema.hpp"
#include "plugins.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

LoadedEncoder tiny_encoder() {
    const ItemInfo& item = test::torch_plugins().require("encoder:beats");
    Json params = {{"encoder_layers", 2},          {"encoder_embed_dim", 32}, {"encoder_ffn_embed_dim", 64},
                   {"encoder_attention_heads", 2}, {"embed_dim", 32},         {"conv_pos", 16},
                   {"conv_pos_groups", 4},         {"num_buckets", 32},       {"max_distance", 80}};
    std::vector<Diagnostic> problems;
    apply_schema(item.parameters, params, "", problems);
    REQUIRE(problems.empty());
    return make_encoder(item, params, 5);
}

/// Three recordings at 8 kHz, 1.3, 0.6 and 1.3 s long.
struct Recordings : Sounds {
    Recordings() {
        for (const int64_t samples : {10400, 4800, 10400}) {
            std::vector<int16_t> sound;
            Random random(static_cast<uint64_t>(inputs.size()));
            for (int64_t i = 0; i < samples; ++i) sound.push_back(static_cast<int16_t>(random.below(20000)));
            add(sound, "x");
            inputs.push_back({.path = sets[0].recordings.back().source.uri});
        }
    }
    std::vector<EmbedInput> inputs;
};

at::Tensor read(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo& tensor = file.require(name);
    at::Tensor out = at::empty(tensor.shape, at::kFloat);
    file.read_floats(tensor, 0, {out.data_ptr<float>(), static_cast<size_t>(out.numel())});
    return out;
}

double difference(const at::Tensor& a, const at::Tensor& b) {
    REQUIRE(a.sizes() == b.sizes());
    return (a - b).abs().max().item<double>();
}

}  // namespace

TEST_CASE("embeddings are the encoder's frames and their mean, for windows and whole files") {
    Recordings sounds;
    LoadedEncoder encoder = tiny_encoder();
    encoder.module->eval();
    const auto folder = std::filesystem::path(sounds.inputs[0].path).parent_path();
    save_encoder(encoder, folder / "encoder.safetensors");
    Quiet progress;
    const Cancel cancel;
    for (const double window : {0.0, 0.5}) {
        EmbedOptions options;
        options.checkpoint = folder / "encoder.safetensors";
        options.inputs = sounds.inputs;
        options.window_seconds = window;
        options.hop_seconds = 0.3;
        options.frames = options.layers = true;
        options.batch = 3;
        options.out = folder / "out.safetensors";
        const EmbedResult result = biophony_torch_runtime()->embed(options, test::torch_plugins(), progress, cancel);
        CHECK(result.rows == (window > 0 ? 4 + 2 + 4 : 3));
        CHECK(result.sound_seconds == Approx(3.2));
        const SafetensorsFile out = SafetensorsFile::open(options.out);
        const Json inputs = Json::parse(out.metadata("biophony.inputs"));
        const at::NoGradGuard no_grad;
        for (size_t i = 0; i < 3; ++i) {
            INFO("window " << window << ", file " << i);
            std::vector<float> clip = decode_audio(sounds.inputs[i].path, 0, std::nan(""), -1, 16000);
            std::vector<at::Tensor> clips, frames, layers;
            const Json rows = inputs.at(i).at("rows");
            for (size_t r = 0; r < rows.size(); ++r) {
                CHECK(rows[r][0].get<double>() == Approx(0.3 * static_cast<double>(r)));
                CHECK(rows[r][1].get<double>() ==
                      Approx(window > 0 ? std::min(0.3 * static_cast<double>(r) + 0.5, clip.size() / 16000.0)
                                        : clip.size() / 16000.0));
                std::vector<float> piece = window > 0 ? window_repeated(clip, r * 4800, 8000) : clip;
                const at::Tensor wave =
                    at::from_blob(piece.data(), {1, static_cast<int64_t>(piece.size())}, at::kFloat);
                const at::Tensor features = encoder.module->features(wave);
                frames.push_back(encoder.module->frames(features, std::nullopt)[0]);
                clips.push_back(frames.back().mean(0));
                layers.push_back(at::stack(encoder.module->layers(features, std::nullopt)).squeeze(1));
            }
            const std::string name = std::to_string(i) + ".";
            auto expected = [&](const std::vector<at::Tensor>& values) {
                return window > 0 ? at::stack(values) : values.at(0);
            };
            CHECK(difference(read(out, name + "clip"), expected(clips)) < 1e-5);
            CHECK(difference(read(out, name + "frames"), expected(frames)) < 1e-5);
            CHECK(difference(read(out, name + "layers"), expected(layers)) < 1e-5);
        }
    }
}

TEST_CASE("what the encoder can't do is refused before any work") {
    Recordings sounds;
    const auto folder = std::filesystem::path(sounds.inputs[0].path).parent_path();
    save_encoder(tiny_encoder(), folder / "encoder.safetensors");
    Quiet progress;
    const Cancel cancel;
    auto refused = [&](const std::function<void(EmbedOptions&)>& change) -> std::string {
        EmbedOptions options;
        options.checkpoint = folder / "encoder.safetensors";
        options.inputs = sounds.inputs;
        options.out = folder / "out.safetensors";
        change(options);
        try {
            biophony_torch_runtime()->embed(options, test::torch_plugins(), progress, cancel);
        } catch (const Error& error) {
            CHECK_FALSE(std::filesystem::exists(options.out));
            return error.what();
        }
        return "no error";
    };
    using Catch::Matchers::Contains;
    CHECK_THAT(refused([](EmbedOptions& o) { o.window_seconds = o.hop_seconds = 0.01; }),
               Contains("needs at least 0.1"));
    CHECK_THAT(refused([](EmbedOptions& o) { o.predictions = true; }), Contains("no classifier of its own"));
    CHECK_THAT(refused([](EmbedOptions& o) {
                   o.window_seconds = 5;
                   o.hop_seconds = 1e-9;
               }),
               Contains("--hop"));
    CHECK_THAT(refused([](EmbedOptions& o) { o.window_seconds = o.hop_seconds = 1e6; }), Contains("of memory"));
    CHECK_THAT(refused([](EmbedOptions& o) { o.encoder = "encoder:beast"; }), Contains("did you mean 'beats'"));
    CHECK_THAT(refused([](EmbedOptions& o) {
                   o.encoder = "encoder:beats";
                   o.checkpoint.clear();
               }),
               Contains("--checkpoint"));
    CHECK_THAT(refused([](EmbedOptions& o) { o.inputs.assign(250000, {.path = "none.wav"}); }),
               Contains("the format allows 100"));
}
