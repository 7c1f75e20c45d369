#include "learn/recipe.hpp"

#include <cmath>
#include <map>
#include <set>

#include "tasks/node_types.hpp"

#include <catch2/catch.hpp>

using namespace biophony;

TEST_CASE("the cosine schedule rises linearly and falls to nothing") {
    const Recipe recipe;
    CHECK(pace(recipe, 0, 100).rate == Approx(0.1));
    CHECK(pace(recipe, 9, 100).rate == Approx(1.0));
    CHECK(pace(recipe, 10, 100).rate == Approx(1.0));
    CHECK(pace(recipe, 55, 100).rate == Approx(0.5));
    CHECK(pace(recipe, 99, 100).rate < 0.001);
    CHECK(pace(recipe, 0, 1).rate == Approx(1.0));
    CHECK(pace(recipe, 55, 100).beta1 == 0.9);
}

TEST_CASE("one cycle is PyTorch's OneCycleLR") {
    Recipe recipe = recipe_from({{"recipe", "nihal2026"}});
    // By hand from its definition, 10 steps and pct_start 0.3: up to step 2, down to step 9.
    const double rates[] = {0.04,         0.52,         1,   0.9504846320, 0.8117456539, 0.6112620219, 0.3887419781,
                            0.1882583461, 0.0495193680, 4e-6};
    const double betas[] = {0.95,         0.90,         0.85,         0.8549515566, 0.8688255099,
                            0.8888739533, 0.9111260467, 0.9311744901, 0.9450484434, 0.95};
    for (int64_t step = 0; step < 10; ++step) {
        INFO("step " << step);
        CHECK(pace(recipe, step, 10).rate == Approx(rates[step]).epsilon(1e-8));
        CHECK(pace(recipe, step, 10).beta1 == Approx(betas[step]).epsilon(1e-8));
    }
    // 10 000 steps: 500 of warm-up are less than 30 %; after thawing 100.
    CHECK(pace(recipe, 499, 10000).rate == Approx(1));
    CHECK(pace(recipe, 498, 10000).rate < 1);
    CHECK(pace(recipe, 500, 10000).rate < 1);
    CHECK(pace(recipe, 99, 10000, true).rate == Approx(1));
    CHECK(pace(recipe, 99, 1000, true).rate == Approx(1));  // min(0.1, 100/1000): the same
    CHECK(pace(recipe, 49, 500, true).rate == Approx(1));   // 10 %
    for (const int64_t steps : {1, 2, 3, 4, 5, 11})
        for (const bool thawed : {false, true})
            for (int64_t step = 0; step < steps; ++step) {
                const Pace found = pace(recipe, step, steps, thawed);
                INFO(step << " of " << steps);
                CHECK((found.rate >= 4e-6 * 0.999 && found.rate <= 1));
                CHECK((found.beta1 >= 0.85 - 1e-12 && found.beta1 <= 0.95 + 1e-12));
            }
}

TEST_CASE("a recipe's hash covers every setting") {
    std::set<std::string> hashes;
    for (const Recipe& recipe : recipes()) {
        const Json plain = recipe_from({{"recipe", recipe.name}}).card();
        CHECK(plain.at("hash").get<std::string>().size() == 64);
        CHECK(plain == recipe_from({{"recipe", recipe.name}}).card());
        CHECK(hashes.insert(plain["hash"]).second);
        const Json changes = {{"epochs", 3},
                              {"batch", 7},
                              {"learning_rate", 1e-3},
                              {"head_learning_rate", 1e-4},
                              {"pooling", recipe.pooling == Pooling::kMean ? "bands" : "mean"}};
        for (const auto& [name, value] : changes.items()) {
            const Json other = recipe_from({{"recipe", recipe.name}, {name, value}}).card();
            INFO(name);
            CHECK(other.at("hash") != plain.at("hash"));
            CHECK(other.at("values").at(name) == value);
        }
    }
}

TEST_CASE("a recipe's hash covers every field") {
    using Change = void (*)(Recipe&);
    const std::vector<Change> changes = {
        [](Recipe& r) { r.name += "x"; },
        [](Recipe& r) { ++r.version; },
        [](Recipe& r) { ++r.epochs; },
        [](Recipe& r) { ++r.batch; },
        [](Recipe& r) { r.learning_rate *= 2; },
        [](Recipe& r) { r.head_learning_rate *= 2; },
        [](Recipe& r) { r.weight_decay += 1; },
        [](Recipe& r) {
            const bool cosine = r.schedule == Recipe::Schedule::kCosine;
            r.schedule = cosine ? Recipe::Schedule::kOneCycle : Recipe::Schedule::kCosine;
        },
        [](Recipe& r) { r.warm_up += 0.1; },
        [](Recipe& r) { ++r.warm_up_steps; },
        [](Recipe& r) { r.clip_norm += 1; },
        [](Recipe& r) { r.label_smoothing += 0.1; },
        [](Recipe& r) { r.bfloat16 = !r.bfloat16; },
        [](Recipe& r) {
            const bool probe = r.head_start == Recipe::HeadStart::kProbe;
            r.head_start = probe ? Recipe::HeadStart::kXavier : Recipe::HeadStart::kProbe;
        },
        [](Recipe& r) { ++r.freeze_epochs; },
        [](Recipe& r) { r.thaw_warm_up += 0.1; },
        [](Recipe& r) { ++r.thaw_warm_up_steps; },
        [](Recipe& r) { r.keep_best = !r.keep_best; },
        [](Recipe& r) { ++r.patience; },
        [](Recipe& r) { r.random_start = !r.random_start; },
        [](Recipe& r) { r.level_jitter_db += 1; },
        [](Recipe& r) { ++r.wave_masks; },
        [](Recipe& r) { r.wave_mask_ms += 1; },
        [](Recipe& r) { r.mixup_alpha += 0.1; },
        [](Recipe& r) { r.mixup_share += 0.1; },
        [](Recipe& r) { ++r.band_masks; },
        [](Recipe& r) { ++r.band_mask_width; },
        [](Recipe& r) { ++r.time_masks; },
        [](Recipe& r) { ++r.time_mask_width; },
        [](Recipe& r) { r.pooling = r.pooling == Pooling::kMean ? Pooling::kBands : Pooling::kMean; },
    };
    for (const Recipe& recipe : recipes()) {
        std::set<std::string> hashes = {recipe.card()["hash"]};
        for (const Change change : changes) {
            Recipe other = recipe;
            change(other);
            hashes.insert(other.card()["hash"]);
        }
        CHECK(hashes.size() == changes.size() + 1);
    }
}

TEST_CASE("the presets are those that were released under their versions") {
    const std::map<std::string, std::string> released = {
        {"small 4", "dfeed5e9ccbb172b52e97084bc1fcdcb1f167435fdfdff7f420ee1b4865cfb02"},
        {"nihal2026 1", "b8e2fb52d290266ea3a108133945ab1672c796ac641867a6674e5827eba41c39"},
    };
    REQUIRE(recipes().size() == released.size());
    for (const Recipe& recipe : recipes()) {
        const std::string name = recipe.name + " " + std::to_string(recipe.version);
        INFO(name << ": a value has changed, or the version; raise the version when a value changes, then put the new "
                     "hash here");
        REQUIRE(released.contains(name));
        CHECK(recipe.card()["hash"] == released.at(name));
    }
}

TEST_CASE("fine-tune offers the presets by name") {
    std::set<std::string> names;
    for (const Recipe& recipe : recipes()) names.insert(recipe.name);
    const Json& recipe = node_types().find("fine-tune")->parameters["properties"]["recipe"];
    CHECK(recipe["enum"].get<std::set<std::string>>() == names);
    CHECK(names.contains(recipe["default"].get<std::string>()));
}

TEST_CASE("nihal2026 has the paper's constants") {
    const Json values = recipe_from({{"recipe", "nihal2026"}}).values();
    const Json expected = {{"learning_rate", 1e-5},  {"weight_decay", 0.01}, {"epochs", 20},
                           {"patience", 5},          {"freeze_epochs", 2},   {"batch", 32},
                           {"label_smoothing", 0.1}, {"clip_norm", 1.0},     {"wave_masks", 2},
                           {"wave_mask_ms", 50.0},   {"mixup_alpha", 0.3},   {"mixup_share", 0.5},
                           {"warm_up", 0.3},         {"warm_up_steps", 500}, {"pooling", "mean"},
                           {"head_start", "xavier"}, {"thaw_warm_up", 0.1},  {"thaw_warm_up_steps", 100}};
    for (const auto& [name, value] : expected.items()) {
        INFO(name);
        CHECK(values.at(name) == value);
    }
}

TEST_CASE("an unknown recipe is an error that names the nearest") {
    CHECK_THROWS_WITH(recipe_from({{"recipe", "smal"}}), Catch::Contains("did you mean 'small'?"));
    CHECK_THROWS_WITH(recipe_from({{"recipe", "nihal2025"}}), Catch::Contains("did you mean 'nihal2026'?"));
    CHECK_THROWS_WITH(recipe_from({{"recipe", "small"}, {"pooling", "max"}}),
                      Catch::Contains("expected mean or bands"));
}
