#include "golden.hpp"

#include <ATen/Parallel.h>

#include <cmath>
#include <limits>

using biophony::beats::FilterBank;

namespace {

at::Tensor filter_bank(const at::Tensor& waves) {
    const FilterBank bank;
    const int64_t frames = FilterBank::frame_count(waves.size(1));
    at::Tensor out = at::empty({waves.size(0), frames, 128});
    for (int64_t i = 0; i < waves.size(0); ++i)
        bank.compute(waves[i].contiguous().const_data_ptr<float>(), 0, frames, 0, 1, out[i].mutable_data_ptr<float>());
    return out;
}

}  // namespace

TEST_CASE("the filter bank agrees with the reference", "[fbank]") {
    const auto tiny = golden::read("beats_tiny_golden.safetensors").tensors;
    CHECK(golden::same_filter_bank(filter_bank(tiny.at("wav")), tiny.at("fbank_raw")));

    for (const char* name : {"beats_small", "beats_small_padded", "beats_small_finetuned", "beats_full_formula"}) {
        INFO(name);
        const auto io = golden::read(std::string(name) + ".io.safetensors").tensors;
        const at::Tensor raw = io.at("fbank") * 13.11164 + 15.41663;
        CHECK(golden::same_filter_bank(filter_bank(io.at("wave")), raw));
    }
}

TEST_CASE("features are the normalised filter bank, whatever the number of threads", "[fbank]") {
    const auto weights = golden::read("beats_tiny_weights.safetensors");
    const auto encoder = golden::encoder(weights);
    const auto tiny = golden::read("beats_tiny_golden.safetensors").tensors;
    const at::Tensor found = encoder->features(tiny.at("wav"));
    CHECK_FALSE(found.requires_grad());
    CHECK(golden::same_filter_bank(found * 13.11164 + 15.41663, tiny.at("fbank_norm") * 13.11164 + 15.41663));

    at::manual_seed(1);
    const at::Tensor waves = at::rand({5, 16000 * 12}) - 0.5;
    const int before = at::get_num_threads();
    at::set_num_threads(1);
    const at::Tensor alone = encoder->features(waves);
    at::set_num_threads(3);
    const at::Tensor together = encoder->features(waves);
    at::set_num_threads(before);
    CHECK(alone.equal(together));
    CHECK(alone.equal(encoder->features(at::cat({waves, waves}, 1).narrow(1, 0, waves.size(1)))));
    // A frame doesn't know its place in the batch.
    CHECK(encoder->features(waves.narrow(0, 3, 1).narrow(1, 160 * 7, 16000))[0].equal(alone[3].narrow(0, 7, 98)));
}

TEST_CASE("edges of the filter bank", "[fbank]") {
    CHECK(FilterBank::frame_count(0) == 0);
    CHECK(FilterBank::frame_count(399) == 0);
    CHECK(FilterBank::frame_count(400) == 1);
    CHECK(FilterBank::frame_count(559) == 1);
    CHECK(FilterBank::frame_count(560) == 2);
    CHECK(FilterBank::frame_count(80000) == 498);

    SECTION("silence, also with an offset, is the floor") {
        const at::Tensor silence = filter_bank(at::zeros({1, 400}));
        CHECK(golden::difference(silence, at::full({1, 1, 128}, -15.942385)) < 2e-6);
    }
    SECTION("the fourth filter has no bin of the transform and stays at the floor") {
        at::manual_seed(2);
        const at::Tensor noise = filter_bank(at::rand({1, 16000}) - 0.5);
        CHECK(noise.select(2, 3).eq(noise.min()).all().item<bool>());
        CHECK((noise.select(2, 2) > 0).all().item<bool>());
        CHECK((noise.select(2, 4) > 0).all().item<bool>());
    }
    SECTION("a sample that is no number is not taken for silence, and stays in its frame") {
        at::Tensor wave = at::rand({1, 16000});
        wave[0][8000] = std::numeric_limits<float>::quiet_NaN();
        const at::Tensor found = filter_bank(wave)[0];
        const at::Tensor bad = found.isnan().any(1);
        CHECK(bad.sum().item<int64_t>() == 3);  // frames 48, 49, 50 hold sample 8000
        CHECK(bad.narrow(0, 48, 3).all().item<bool>());
        CHECK(found[48].isnan().sum().item<int64_t>() >= 127);
    }
    SECTION("a tone is loudest in the filter around it") {
        const at::Tensor tone = at::sin(at::arange(16000, at::kFloat) * (2 * M_PI * 3000 / 16000)).unsqueeze(0) * 0.5;
        const double mel = 1127 * std::log(1 + 3000.0 / 700), low = 1127 * std::log(1 + 20.0 / 700);
        const double delta = (1127 * std::log(1 + 8000.0 / 700) - low) / 129;
        const auto expected = std::lround((mel - low) / delta) - 1;
        CHECK((filter_bank(tone)[0].argmax(1) - expected).abs().max().item<int64_t>() <= 1);
    }
}
