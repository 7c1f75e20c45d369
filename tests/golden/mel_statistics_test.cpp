#include "mel-statistics/mel_statistics.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "golden.hpp"

using biophony::beats::FilterBank;
using biophony::mel_statistics::Factory;
using biophony::mel_statistics::MelStatistics;

TEST_CASE("mel statistics are the mean and the deviation of every band", "[mel]") {
    MelStatistics encoder(1.0);
    at::manual_seed(5);
    const at::Tensor waves = at::randn({2, 16000}) * 0.1;
    const at::Tensor features = encoder.features(waves), frames = encoder.frames(features, std::nullopt);
    REQUIRE(features.sizes() == at::IntArrayRef({2, 98, 128}));
    REQUIRE(frames.sizes() == at::IntArrayRef({2, 1, 256}));
    CHECK(encoder.info().width * encoder.info().bands == 256);
    // The filter bank itself is tested against the reference; here it is taken plain.
    std::vector<float> raw(size_t{98} * 128);
    FilterBank().compute(waves[1].contiguous().const_data_ptr<float>(), 0, 98, 0, 1, raw.data());
    for (const int64_t band : {0, 3, 64, 127}) {
        double sum = 0, squares = 0;
        for (size_t t = 0; t < 98; ++t) {
            const double value = (raw[t * 128 + static_cast<size_t>(band)] - 15.41663) / (2 * 6.55582);
            sum += value;
            squares += value * value;
        }
        const double mean = sum / 98;
        INFO("band " << band);
        CHECK(frames[1][0][band].item<double>() == Approx(mean).epsilon(1e-4));
        CHECK(frames[1][0][128 + band].item<double>() ==
              Approx(std::sqrt(std::max(0.0, squares / 98 - mean * mean))).epsilon(1e-3).margin(1e-6));
    }
}

TEST_CASE("mel statistics leave padding out", "[mel]") {
    MelStatistics encoder(1.0);
    at::manual_seed(6);
    const at::Tensor features = encoder.features(at::randn({1, 16000}) * 0.1);
    at::Tensor padding = at::zeros({1, 16000}, at::kBool);
    padding.narrow(1, 50 * 163, 16000 - 50 * 163).fill_(true);  // a frame's share is 16000 / 98 = 163 samples
    const at::Tensor with = encoder.frames(features, padding);
    const at::Tensor without = encoder.frames(features.narrow(1, 0, 50), std::nullopt);
    CHECK(at::allclose(with, without, 1e-4, 1e-5));
    CHECK_FALSE(encoder.frame_padding(features, padding).item<bool>());
    padding.fill_(true);
    CHECK(encoder.frame_padding(features, padding).item<bool>());
    CHECK_THROWS_WITH(encoder.frames(features, padding), Catch::Contains("padding from end to end"));
}

TEST_CASE("mel statistics have no weights, and refuse what they can't use", "[mel]") {
    const auto encoder = Factory().create(R"({"window_seconds": 2})");
    CHECK(encoder->parameters().empty());
    CHECK(encoder->info().window_seconds == 2);
    CHECK(encoder->layers(encoder->features(at::zeros({1, 400})), std::nullopt).size() ==
          static_cast<size_t>(encoder->info().depth) + 1);
    CHECK_THROWS_WITH(encoder->features(at::zeros({1, 399})), Catch::Contains("expected at least 400"));
    CHECK_THROWS_WITH(Factory().create(R"({"window_seconds": 0})"), Catch::Contains("window_seconds"));
}
