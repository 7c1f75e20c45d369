#include "learn/trainer.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>

#include "learn/optimiser.hpp"
#include "toy.hpp"

#include <catch2/catch.hpp>

using namespace biophony;
using namespace biophony::test;

namespace {

/// Three classes of short noise that differ in their mean.
struct Task {
    Sounds sounds;
    std::vector<int64_t> labels, valid_labels;
    std::vector<std::string> recordings;  ///< two clips each

    explicit Task(int per_class = 8, bool with_valid = true) {
        at::set_num_threads(1);
        Random random(99);
        for (const Split split : {Split::kTrain, Split::kValid})
            for (int i = 0; i < (split == Split::kTrain ? 3 * per_class : with_valid ? 9 : 0); ++i) {
                const int label = i % 3;
                std::vector<int16_t> samples(static_cast<size_t>(60 + 13 * (i % 5)));
                for (int16_t& sample : samples)
                    sample = static_cast<int16_t>(10000 * (label - 1) + random.normal() * 3000);
                sounds.add(samples, std::string(1, static_cast<char>('a' + label)), split);
                (split == Split::kTrain ? labels : valid_labels).push_back(label);
                if (split == Split::kTrain) recordings.push_back(std::to_string(i / 6) + "/" + std::to_string(label));
            }
    }

    TrainedHead train(Toy& toy, const Recipe& recipe, uint64_t seed = 5) {
        WindowFeatures windows =
            sounds.windows(toy, Split::kTrain, uint64_t{1} << 30,
                           recipe.changes_waves() ? WindowFeatures::Keep::kSound : WindowFeatures::Keep::kFeatures);
        WindowFeatures valid = sounds.windows(toy, Split::kValid);
        return biophony::train(toy, windows, labels, recordings, valid, valid_labels, 3, recipe, seed, sounds.progress,
                               sounds.cancel, [](std::string_view) {});
    }

    /// The recipe's loss of a model on the held-out windows.
    double valid_loss(Toy& toy, const LinearHead& head, const Recipe& recipe) {
        const at::NoGradGuard no_grad;
        WindowFeatures valid = sounds.windows(toy, Split::kValid);
        const at::Tensor logits =
            at::linear(embed(toy, valid, 4, sounds.progress, sounds.cancel, recipe.pooling), head.weight, head.bias);
        return at::cross_entropy_loss(logits, at::tensor(valid_labels), {}, at::Reduction::Mean, -100,
                                      recipe.label_smoothing)
            .item<double>();
    }
};

Recipe quick(const std::string& name, int epochs) {
    Recipe recipe = recipe_from({{"recipe", name}, {"epochs", epochs}, {"batch", 8}});
    recipe.learning_rate = recipe.head_learning_rate = 0.05;
    return recipe;
}

std::vector<at::Tensor> weights_of(const Toy& toy) {
    std::vector<at::Tensor> out;
    for (const at::Tensor& parameter : toy.parameters()) out.push_back(parameter.detach().clone());
    return out;
}

bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    for (size_t i = 0; i < a.size(); ++i)
        if (!at::equal(a[i], b[i])) return false;
    return a.size() == b.size();
}

}  // namespace

TEST_CASE("training with a preset lowers the loss, and two runs give the same bytes") {
    at::globalContext().setDeterministicAlgorithms(true, true);
    for (const Recipe& preset : recipes()) {
        INFO(preset.name);
        Task task;
        Recipe recipe = quick(preset.name, 5);
        recipe.keep_best = false;  // what is compared has been trained
        recipe.patience = 0;
        Toy first, second, third;
        const TrainedHead one = task.train(first, recipe), other = task.train(second, recipe);
        CHECK(same(weights_of(first), weights_of(second)));
        CHECK(at::equal(one.head.weight, other.head.weight));
        CHECK(at::equal(one.head.bias, other.head.bias));
        CHECK(one.history == other.history);
        CHECK(one.history.size() == 6);
        CHECK(one.history[0]["epoch"] == 0);
        CHECK_FALSE(one.history[0].contains("train_loss"));
        CHECK(one.history[0].contains("valid_accuracy"));
        CHECK(one.head.weight.size(1) == (recipe.pooling == Pooling::kBands ? 8 : 4));
        CHECK_FALSE(one.head.weight.requires_grad());
        CHECK_FALSE(first.is_training());
        task.train(third, recipe, 6);
        CHECK_FALSE(same(weights_of(first), weights_of(third)));
        CHECK(task.valid_loss(first, one.head, recipe) < std::log(3.0));
    }
}

TEST_CASE("what is kept is the epoch with the least validation loss") {
    Task task;
    // Held-out labels that disagree with the train labels: learning makes them worse.
    for (int64_t& label : task.valid_labels) label = (label + 1) % 3;
    Recipe recipe = quick("small", 6);
    recipe.head_start = Recipe::HeadStart::kXavier;
    Toy toy;
    const TrainedHead trained = task.train(toy, recipe);
    REQUIRE(trained.history.size() == 7);
    int least = 1;
    for (int e = 2; e < 7; ++e)
        if (trained.history[static_cast<size_t>(e)]["valid_loss"] <
            trained.history[static_cast<size_t>(least)]["valid_loss"])
            least = e;
    REQUIRE(least < 6);
    CHECK(trained.kept_epoch == least);
    CHECK(task.valid_loss(toy, trained.head, recipe) ==
          Approx(trained.history[static_cast<size_t>(least)]["valid_loss"].get<double>()).epsilon(1e-5));

    recipe.keep_best = false;
    Toy last;
    const TrainedHead all = task.train(last, recipe);
    CHECK(all.kept_epoch == 6);
    CHECK(task.valid_loss(last, all.head, recipe) == Approx(all.history[6]["valid_loss"].get<double>()).epsilon(1e-5));

    recipe.keep_best = true;
    recipe.patience = 2;
    Toy impatient;
    const TrainedHead ended = task.train(impatient, recipe);
    CHECK(ended.history.size() == static_cast<size_t>(ended.kept_epoch + 3));
    CHECK(ended.history.size() < 7);
}

TEST_CASE("where every epoch is worse than the start, the best epoch is kept, and the history tells") {
    Task task;
    Recipe recipe = quick("small", 3);
    recipe.learning_rate = recipe.head_learning_rate = 5;  // tears at what the probe knew
    Toy toy;
    const std::vector<at::Tensor> before = weights_of(toy);
    const TrainedHead trained = task.train(toy, recipe);
    REQUIRE(trained.history.size() == 4);
    for (size_t e = 1; e < 4; ++e) CHECK(trained.history[e]["valid_loss"] > trained.history[0]["valid_loss"]);
    CHECK(trained.kept_epoch > 0);
    CHECK_FALSE(same(weights_of(toy), before));
    CHECK(task.valid_loss(toy, trained.head, recipe) ==
          Approx(trained.history[static_cast<size_t>(trained.kept_epoch)]["valid_loss"].get<double>()).epsilon(1e-4));
}

TEST_CASE("without held-out clips the last epoch is kept, and no patience ends it") {
    Task task(4, false);
    Recipe recipe = quick("nihal2026", 8);
    Toy toy;
    const TrainedHead trained = task.train(toy, recipe);
    CHECK(trained.kept_epoch == 8);
    CHECK(trained.history.size() == 8);
    CHECK_FALSE(trained.history[0].contains("valid_loss"));
}

TEST_CASE("a frozen encoder doesn't change, its head does; afterwards both do") {
    Task task;
    Recipe recipe = quick("nihal2026", 2);
    REQUIRE(recipe.freeze_epochs == 2);
    recipe.keep_best = false;
    Toy toy;
    const std::vector<at::Tensor> before = weights_of(toy);
    const TrainedHead head_only = task.train(toy, recipe);
    CHECK(same(weights_of(toy), before));
    CHECK(head_only.head.bias.abs().max().item<double>() > 0);
    recipe.epochs = 3;
    task.train(toy, recipe);
    CHECK_FALSE(same(weights_of(toy), before));
}

TEST_CASE("a head that starts from a probe is better than chance before any step") {
    Task task;
    for (const char* pooling : {"mean", "bands"}) {
        Recipe recipe = recipe_from({{"recipe", "small"}, {"epochs", 0}, {"batch", 8}, {"pooling", pooling}});
        Toy toy;
        const std::vector<at::Tensor> before = weights_of(toy);
        const TrainedHead started = task.train(toy, recipe);
        CHECK(same(weights_of(toy), before));
        CHECK(started.kept_epoch == 0);
        CHECK(started.history.size() == 1);
        INFO(pooling);
        CHECK(task.valid_loss(toy, started.head, recipe) < 0.9 * std::log(3.0));
    }
}

TEST_CASE("the start of the head knows nothing of the held-out clips, and its factor is for recordings not heard") {
    Recipe recipe = recipe_from({{"recipe", "small"}, {"epochs", 0}, {"batch", 8}});
    Task task, other(8, false);
    for (int64_t& label : task.valid_labels) label = (label + 1) % 3;
    Toy a, b;
    const TrainedHead started = task.train(a, recipe);
    CHECK(at::equal(started.head.weight, other.train(b, recipe).head.weight));
    // Two clips a recording with the same sound: a probe that has heard one of them knows the other, so that being told
    // which are of one recording makes the head less sure. So it does where a recording has clips of several labels, in
    // which case only the recording says that the probe has heard its place.
    auto sureness = [&](bool several_labels, bool told) {
        Task twice(0, false);
        Random random(3);
        for (int r = 0; r < 18; ++r) {
            std::vector<int16_t> place(80);
            for (int16_t& sample : place) sample = static_cast<int16_t>(random.normal() * 8000);
            for (int clip = 0; clip < 2; ++clip) {
                const int label = several_labels && clip == 1 ? (r + 1) % 3 : r % 3;
                twice.sounds.add(place, std::string(1, static_cast<char>('a' + label)), Split::kTrain);
                twice.labels.push_back(label);
                twice.recordings.push_back(std::to_string(told ? r : 2 * r + clip));
            }
        }
        Toy toy;
        return twice.train(toy, recipe).head.weight.norm().item<double>();
    };
    CHECK(sureness(false, true) < 0.9 * sureness(false, false));
    CHECK(sureness(true, true) != sureness(true, false));
}

TEST_CASE("a loss that is no number ends the training with an error") {
    Task task(8, false), held_out;
    Recipe recipe = quick("small", 3);
    recipe.head_start = Recipe::HeadStart::kXavier;
    Toy toy;
    const at::NoGradGuard no_grad;
    toy.parameters()[0].fill_(std::numeric_limits<float>::quiet_NaN());
    const at::AutoGradMode grad(true);
    CHECK_THROWS_WITH(task.train(toy, recipe), Catch::Contains("no longer finite in epoch 1 (step 1)"));
    CHECK_THROWS_WITH(held_out.train(toy, recipe), Catch::Contains("the validation loss after epoch 0 is not finite"));
}

TEST_CASE("a gradient that is no number ends the training before it reaches a weight") {
    at::Tensor weight = at::zeros({2}).requires_grad_(true);
    Optimiser optimiser({{{weight}, 0.1, 0}});
    // The loss is 0, its gradient infinite.
    CHECK_THROWS_WITH(optimiser.step(weight.sqrt().sum(), 1, 1),
                      Catch::Contains("the gradient is no longer finite") && Catch::Contains("lower learning rate"));
    CHECK(at::equal(weight.detach(), at::zeros({2})));
    optimiser.step(weight.sum(), 1, 1);
    CHECK(weight[0].item<double>() == Approx(-0.1));
}
