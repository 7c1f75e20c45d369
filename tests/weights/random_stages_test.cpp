// The stages that draw, and what they draw from.
#include <catch2/catch.hpp>
#include <set>

#include "biophony/philox.hpp"
#include "stage_host.hpp"

using namespace biophony;
using namespace biophony::test;
using sdk::Philox;

namespace {

const StagePlugins& plugins() {
    return StagePlugins::get();
}

double norm(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return std::sqrt(sum);
}

}  // namespace

TEST_CASE("Philox4x32-10 gives the published numbers") {
    // Random123, kat_vectors: counter 0, key 0.
    CHECK(Philox(0).words(0) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    // By index, whatever was asked before, and other for another key or counter.
    const Philox random(42);
    const double fifth = random.uniform(5);
    random.uniform(0);
    CHECK(random.uniform(5) == fifth);
    CHECK(random.uniform(5) == random.words(1)[1] * 0x1p-32);
    std::set<std::array<uint32_t, 4>> seen;
    for (const uint64_t key : {0ULL, 1ULL, 1ULL << 32, ~0ULL})
        for (const uint64_t counter : {0ULL, 1ULL, 1ULL << 32, ~0ULL}) seen.insert(Philox(key).words(counter));
    CHECK(seen.size() == 16);
    // Many at once are the same, wherever they begin and end.
    for (const uint64_t first : {0ULL, 3ULL, 6ULL, (1ULL << 34) - 16, (1ULL << 40) + 1})
        for (const size_t count : {0UL, 1UL, 2UL, 4UL, 11UL, 75UL}) {
            std::vector<double> many(count);
            random.uniform(first, many);
            for (size_t k = 0; k < count; ++k) CHECK(many[k] == random.uniform(first + k));
        }
    // normal() has words of its own, those of the counter (index / 2, 0, 1, 0).
    const auto own = random.words(0, 1);
    CHECK(own != random.words(0));
    for (const uint64_t index : {0ULL, 1ULL}) {
        const double u = (own[2 * index] + 1.0) * 0x1p-32, angle = 2 * std::numbers::pi * own[2 * index + 1] * 0x1p-32;
        CHECK(random.normal(index) == Approx(std::sqrt(-2 * std::log(u)) * std::cos(angle)));
    }
}

TEST_CASE("Philox: moments of the uniform and of the normal distribution") {
    const Philox random(7);
    double mean = 0, square = 0, normal_mean = 0, normal_square = 0, neighbours = 0, both = 0, both_at_half = 0;
    constexpr int kDraws = 200000;
    for (int k = 0; k < kDraws; ++k) {
        const double u = random.uniform(k), z = random.normal(k);
        REQUIRE((u >= 0 && u < 1));
        REQUIRE(std::isfinite(z));
        mean += u / kDraws, square += u * u / kDraws;
        normal_mean += z / kDraws, normal_square += z * z / kDraws;
        neighbours += z * random.normal(k + 1) / kDraws;
        // The radius of a normal number would be a function of the uniform one, were their words the same.
        both += (u - 0.5) * z * z / kDraws, both_at_half += (random.uniform(2 * k) - 0.5) * z * z / kDraws;
    }
    CHECK(mean == Approx(0.5).margin(0.004));  // six standard errors
    CHECK(square == Approx(1.0 / 3).margin(0.004));
    CHECK(normal_mean == Approx(0).margin(0.014));
    CHECK(normal_square == Approx(1).margin(0.02));
    CHECK(neighbours == Approx(0).margin(0.014));
    CHECK(both == Approx(0).margin(0.007));
    CHECK(both_at_half == Approx(0).margin(0.007));
}

TEST_CASE("DARE drops a fraction p and scales the rest") {
    std::vector<float> values(20000);
    for (size_t k = 0; k < values.size(); ++k) values[k] = 0.001F * (k % 2 == 0 ? 1.0F : -3.0F);
    const auto tensors = one_tensor({values, values});
    const auto out = plugins().run("random-drop", tensors, {{"p", 0.75}});
    size_t kept = 0, same = 0;
    for (size_t k = 0; k < values.size(); ++k) {
        const float a = out[0].experts[0][k], b = out[0].experts[1][k];
        CHECK((a == 0 || a == 4 * values[k]));
        kept += a != 0 ? 1 : 0;
        same += (a != 0) == (b != 0) ? 1 : 0;
    }
    CHECK(kept == Approx(5000).margin(370));   // six standard deviations
    CHECK(same == Approx(12500).margin(420));  // experts are dropped independently: p² + (1 − p)²
    // The kept ones are those whose number, a function of key and index alone, is at least p.
    const Philox random(mix(mix(1, 0), 0));
    for (size_t k = 0; k < 100; ++k) CHECK((out[0].experts[0][k] != 0) == (random.uniform(k) >= 0.75));

    CHECK(same_bits(plugins().run("random-drop", tensors, {{"p", 0}}), tensors));
    CHECK_FALSE(same_bits(plugins().run("random-drop", tensors, {{"p", 0.75}}, {.seed = 2}), out));
    REQUIRE(plugins().problems("random-drop", {{"p", 1}}).size() == 1);
    REQUIRE(plugins().problems("dare", {{"p", 1}}).size() == 1);
}

TEST_CASE("DARE doesn't depend on tiles, and its mean over many keys is the average") {
    const auto tensors = odd_tensors(3);
    CHECK(same_bits(plugins().run("dare", tensors, Json::object(), {{1, 3, 2}, 1, 5}),
                    plugins().run("dare", tensors, Json::object(), {.seed = 5})));
    const auto average = plugins().run("average", tensors);
    std::vector<std::vector<double>> mean;
    for (const StageTensor& tensor : tensors) mean.emplace_back(tensor.size());
    constexpr int kKeys = 4000;
    for (int seed = 0; seed < kKeys; ++seed) {
        const auto out = plugins().run("dare", tensors, {{"p", 0.5}}, {.seed = static_cast<uint64_t>(seed)});
        for (size_t t = 0; t < out.size(); ++t)
            for (size_t k = 0; k < out[t].size(); ++k) mean[t][k] += out[t].experts[0][k] / static_cast<double>(kKeys);
    }
    for (size_t t = 0; t < tensors.size(); ++t)
        for (size_t k = 0; k < tensors[t].size(); ++k) {
            // Variance of a value δ is δ² p/(1 − p); here p/(1 − p) = 1.
            double variance = 0;
            for (const auto& expert : tensors[t].experts) variance += expert[k] * expert[k] / 9.0;
            CHECK(mean[t][k] == Approx(average[t].experts[0][k]).margin(6 * std::sqrt(variance / kKeys)));
        }
    CHECK(same_bits(plugins().run("dare", tensors, {{"p", 0}}), average));
}

TEST_CASE("a random step is as long as the merged one, tensor by tensor, and points anywhere") {
    const auto tensors = odd_tensors(1);
    const auto out = plugins().run("random-step", tensors);
    for (size_t t = 0; t < tensors.size(); ++t) {
        INFO(tensors[t].name);
        CHECK(norm(out[t].experts[0]) == Approx(norm(tensors[t].experts[0])).epsilon(1e-6));
    }
    CHECK_FALSE(same_bits(plugins().run("random-step", tensors, Json::object(), {.seed = 2}), out));
    CHECK(same_bits(plugins().run("random-step", tensors), out));
    const auto none = plugins().run("random-step", scaled(tensors, 0));
    for (const StageTensor& tensor : none) CHECK(norm(tensor.experts[0]) == 0);
    // In high dimension it has next to nothing of the direction it replaces.
    std::vector<float> values(10000);
    for (size_t k = 0; k < values.size(); ++k) values[k] = static_cast<float>(std::sin(k));
    const auto step = plugins().run("random-step", one_tensor({values}))[0].experts[0];
    const double dot = std::inner_product(values.begin(), values.end(), step.begin(), 0.0);
    CHECK(dot / norm(values) / norm(step) == Approx(0).margin(0.06));
}

TEST_CASE("DARE and DELLA with TIES of Nihal et al. 2026 are their parts, with what they are given") {
    const auto tensors = odd_tensors(3, 11);
    const Json rest = {{"trim", 0.35}, {"lambda", 2}};
    for (const auto& [preset, first] :
         {std::pair{"dare.nihal2026", "random-drop"}, std::pair{"della.nihal2026", "magprune.magnitude"}}) {
        INFO(preset);
        Json all = rest;
        all["p"] = 0.6;
        const auto dropped = plugins().run(first, tensors, {{"p", 0.6}}, {.seed = 5});
        const auto expected = plugins().run("ties.nihal2026", dropped, rest);
        CHECK(same_bits(plugins().run(preset, tensors, all, {.seed = 5}), expected));
        CHECK_FALSE(same_bits(plugins().run(preset, tensors, Json::object(), {.seed = 5}), expected));
    }
}
