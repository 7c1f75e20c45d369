// A tiny encoder and recordings on disk, for what needs windows and training.
#pragma once

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "base/random.hpp"
#include "base/sha256.hpp"
#include "learn/windows.hpp"

namespace biophony::test {

/// Windows of 80 samples at 8 kHz → features (B, 5, 16), the samples themselves → 10 frames of 4 numbers in 2 bands.
class Toy : public Encoder {
public:
    explicit Toy(uint64_t seed = 1) {
        weight_ = register_parameter("weight", at::zeros({4, 8}));
        bias_ = register_parameter("bias", at::zeros({4}));
        Toy::initialise(seed);
    }
    EncoderInfo info() const override {
        return {.sample_rate = 8000,
                .window_seconds = 0.01,
                .min_samples = 80,
                .width = 4,
                .depth = 1,
                .frames_per_second = 1000,
                .bands = 2};
    }
    at::Tensor features(const at::Tensor& waves) const override {
        ++heard;
        return waves.reshape({waves.size(0), 5, 16}).clone();
    }
    at::Tensor frames(const at::Tensor& features, const std::optional<at::Tensor>&) override {
        return at::tanh(at::linear(features.reshape({features.size(0), 10, 8}), weight_, bias_));
    }
    std::vector<at::Tensor> layers(const at::Tensor&, const std::optional<at::Tensor>&) override { return {}; }
    at::Tensor frame_padding(const at::Tensor&, const at::Tensor&) const override { return {}; }
    void initialise(uint64_t seed) override {
        const at::NoGradGuard no_grad;
        Random random(seed);
        float* values = weight_.data_ptr<float>();
        for (int64_t i = 0; i < weight_.numel(); ++i) values[i] = static_cast<float>(random.normal());
    }
    torch_tier::ParameterRole role(std::string_view name) const override {
        return {.kind = name == "bias" ? "bias" : "matrix", .block = -1, .tied_to = {}};
    }
    std::string translate(std::string_view name) const override { return std::string(name); }

    mutable int heard = 0;  ///< calls of features()

private:
    at::Tensor weight_, bias_;
};

struct Quiet : Progress {
    void update(double, double, std::string_view) override {}
};

/// One clip set of WAV files (8 kHz, 16 bits) in a folder that goes away.
class Sounds {
public:
    Sounds() {
        std::string name = (std::filesystem::temp_directory_path() / "biophony-test-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        folder_ = name;
        sets.resize(1);
        sets[0].group = "toys";
    }
    ~Sounds() { std::filesystem::remove_all(folder_); }
    Sounds(const Sounds&) = delete;
    Sounds& operator=(const Sounds&) = delete;

    void add(const std::vector<int16_t>& samples, const std::string& label, Split split = Split::kTrain) {
        const auto path = folder_ / (std::to_string(sets[0].clips.size()) + ".wav");
        const auto bytes = static_cast<uint32_t>(samples.size() * 2);
        std::string header(44, '\0');
        auto put = [&](size_t at, uint32_t value, size_t size) { std::memcpy(header.data() + at, &value, size); };
        header.replace(0, 4, "RIFF");
        put(4, 36 + bytes, 4);
        header.replace(8, 8, "WAVEfmt ");
        put(16, 16, 4);
        put(20, 1, 2);
        put(22, 1, 2);
        put(24, 8000, 4);
        put(28, 16000, 4);
        put(32, 2, 2);
        put(34, 16, 2);
        header.replace(36, 4, "data");
        put(40, bytes, 4);
        std::ofstream out(path, std::ios::binary);
        out << header;
        out.write(reinterpret_cast<const char*>(samples.data()), bytes);
        out.close();
        ClipRecording recording{.id = path.filename().string(),
                                .unit = path.filename().string(),
                                .content = sha256_file(path),
                                .index = sets[0].recordings.size(),
                                .source = {}};
        recording.source.uri = path.string();
        sets[0].recordings.push_back(recording);
        sets[0].clips.push_back({.recording = sets[0].recordings.size() - 1,
                                 .start_s = 0,
                                 .end_s = static_cast<double>(samples.size()) / 8000,
                                 .label = label,
                                 .split = split});
    }

    /// Samples first, first + 1, …
    static std::vector<int16_t> ramp(int first, size_t count) {
        std::vector<int16_t> out(count);
        for (size_t i = 0; i < count; ++i) out[i] = static_cast<int16_t>(first + static_cast<int>(i));
        return out;
    }

    WindowFeatures windows(Encoder& encoder, Split split = Split::kTrain, uint64_t memory = uint64_t{1} << 30,
                           WindowFeatures::Keep keep = WindowFeatures::Keep::kFeatures,
                           const std::filesystem::path& scratch = {}) {
        return {sets, split, registry_, encoder, progress, cancel, memory, keep, {}, scratch};
    }

    std::vector<ClipSet> sets;
    Quiet progress;
    Cancel cancel;

private:
    std::filesystem::path folder_;
    Registry registry_ = Registry::of({});
};

}  // namespace biophony::test
