// Times one way of using a full-size encoder, for tests/bench/encoder.py. Prints one JSON object.
//
//   bench_encoder LIBRARIES CONFIG MODE BATCH SECONDS PRECISION REPEATS THREADS [CHECKPOINT]
//
// MODE: forward (evaluation, no gradient), train (forward, backward, AdamW step, dropout as configured; as
// "train-checkpointed" with activations computed again), products and train-products (nothing but the matrix products
// of a forward pass or a training step, each on operands that lie ready), save (writes CHECKPOINT with random weights,
// and features of noise and what the encoder makes of them into CHECKPOINT.features and CHECKPOINT.frames). Input is
// the front end's features of noise, made before the clock starts.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "base/schema.hpp"
#include "learn/autocast.hpp"
#include "learn/encoder.hpp"
#include "learn/optimiser.hpp"
#include "tasks/torch_runtime.hpp"

extern "C" const biophony::TorchRuntime* biophony_torch_runtime();

using namespace biophony;

namespace {

struct StopWatch {
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }
};

/// Waves (B, N) in [-0.5, 0.5].
at::Tensor noise(int64_t batch, int64_t samples) {
    at::Tensor out = at::empty({batch, samples}, at::kFloat);
    uint32_t state = 1;
    float* to = out.mutable_data_ptr<float>();
    for (int64_t i = 0; i < out.numel(); ++i) {
        state = state * 1664525U + 1013904223U;
        to[i] = static_cast<float>(state >> 8) / 16777216.0F - 0.5F;
    }
    return out;
}

void write(const at::Tensor& values, const std::string& file) {
    std::ofstream(file, std::ios::binary)
        .write(static_cast<const char*>(values.const_data_ptr()), static_cast<std::streamsize>(values.nbytes()));
}

/// The matrix products of the blocks, as plain products of two matrices; on the way back each has two of its size.
struct Products {
    struct Size {
        int64_t rows, inner, columns, times;
    };
    std::vector<std::pair<at::Tensor, at::Tensor>> operands;
    std::vector<int64_t> times;
    double flops = 0;

    Products(const Json& config, int64_t batch, int64_t tokens, bool train, at::ScalarType type) {
        const int64_t width = config.at("encoder_embed_dim"), inner = config.at("encoder_ffn_embed_dim"),
                      heads = config.at("encoder_attention_heads"), layers = config.at("encoder_layers"),
                      rows = batch * tokens;
        auto add = [&](int64_t count, int64_t m, int64_t k, int64_t n, int64_t stack) {
            auto matrices = [&](int64_t r, int64_t c) {
                return (stack > 1 ? at::randn({stack, r, c}) : at::randn({r, c})).to(type);
            };
            operands.emplace_back(matrices(m, k), matrices(k, n));
            times.push_back(count * layers);
            flops += 2.0 * static_cast<double>(m * k * n * stack * count * layers);
        };
        auto linear = [&](int64_t count, int64_t in, int64_t out) {
            add(count, rows, in, out, 1);
            if (!train) return;
            add(count, rows, out, in, 1);
            add(count, out, rows, in, 1);
        };
        linear(4, width, width);
        linear(1, width, inner);
        linear(1, inner, width);
        // Attention: q kᵀ and p v, and on the way back two of each.
        add(train ? 3 : 1, tokens, width / heads, tokens, batch * heads);
        add(train ? 3 : 1, tokens, tokens, width / heads, batch * heads);
    }
    void run() const {
        for (size_t i = 0; i < operands.size(); ++i)
            for (int64_t t = 0; t < times[i]; ++t) at::matmul(operands[i].first, operands[i].second);
    }
};

int run(int argc, char** argv) {
    if (argc < 9) throw Error(Code::kInvalid, "too few arguments");
    const std::string mode = argv[3];
    const int64_t batch = std::stoll(argv[4]);
    const double seconds = std::stod(argv[5]);
    const bool bf16 = std::string(argv[6]) == "bf16";
    const int repeats = std::stoi(argv[7]);
    at::set_num_threads(std::stoi(argv[8]));

    set_torch_hooks({.open_torch = [] {}, .abi_mismatch = biophony_torch_runtime()->abi_mismatch});
    const Registry registry({argv[1]}, false);
    const ItemInfo& item = registry.require("encoder:beats");
    Json params = Json::parse(argv[2]);
    std::vector<Diagnostic> problems;
    apply_schema(item.parameters, params, "", problems);
    if (!problems.empty()) throw Error(Code::kInvalid, problems[0].message);
    LoadedEncoder loaded = make_encoder(item, params, 1);
    Encoder& encoder = *loaded.module;
    const at::Tensor features =
        encoder.features(noise(batch, static_cast<int64_t>(seconds * encoder.info().sample_rate)));
    if (mode == "save") {
        save_encoder(loaded, argv[9]);
        encoder.eval();
        const at::NoGradGuard no_grad;
        write(encoder.frames(features, std::nullopt).contiguous(), std::string(argv[9]) + ".frames");
        write(features, std::string(argv[9]) + ".features");
        return 0;
    }
    std::vector<double> times;
    double flops = 0;
    if (mode == "products" || mode == "train-products") {
        const at::NoGradGuard no_grad;
        const EncoderInfo info = encoder.info();
        const int64_t tokens = features.size(1) / 16 * info.bands;
        const Products products(loaded.card.config, batch, tokens, mode == "train-products",
                                bf16 ? at::kBFloat16 : at::kFloat);
        flops = products.flops;
        for (int i = 0; i <= repeats; ++i) {
            const StopWatch watch;
            products.run();
            if (i > 0) times.push_back(watch.seconds());
        }
    } else if (mode == "forward") {
        encoder.eval();
        const at::NoGradGuard no_grad;
        const Autocast autocast(bf16);
        for (int i = 0; i <= repeats; ++i) {
            const StopWatch watch;
            encoder.frames(features, std::nullopt);
            if (i > 0) times.push_back(watch.seconds());
        }
    } else {
        if (mode == "train-checkpointed" && !encoder.checkpoint_activations(true))
            throw Error(Code::kInvalid, "the encoder can't compute activations again");
        encoder.train();
        const DecayGroups parameters(encoder);
        Optimiser optimiser({{parameters.decayed, 1e-5, 0.01}, {parameters.plain, 1e-5, 0}});
        for (int i = 0; i <= repeats; ++i) {
            const StopWatch watch;
            at::Tensor frames;
            {
                const Autocast autocast(bf16);
                frames = encoder.frames(features, std::nullopt);
            }
            optimiser.step(frames.to(at::kFloat).mean(1).square().mean(), 1, 1);
            if (i > 0) times.push_back(watch.seconds());
        }
    }
    std::sort(times.begin(), times.end());
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const double median = times[times.size() / 2];
    fmt::print(
        "{{\"best\": {:.6f}, \"median\": {:.6f}, \"clips_per_second\": {:.4f}, \"peak_mib\": {}, \"gflops\": "
        "{:.1f}}}\n",
        times.front(), median, static_cast<double>(batch) / median, usage.ru_maxrss / 1024, flops / median / 1e9);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const int status = run(argc, argv);
        std::fflush(stdout);
        std::_Exit(status);
    } catch (const std::exception& error) {
        fmt::print(stderr, "bench_encoder: {}\n", error.what());
        std::_Exit(1);
    }
}
