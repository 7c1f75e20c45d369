// Heads against independent computations: plain formulas on pooled clips, scikit-learn 1.9's numbers, hand
// calculations.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/adam.h>
#include <unistd.h>

#include "learn/discriminant.hpp"
#include "learn/head_model.hpp"
#include "learn/logistic.hpp"
#include "learn/model_files.hpp"
#include "learn/tensors.hpp"
#include "toy.hpp"

#undef CHECK
#include <catch2/catch.hpp>
#include <cmath>

using namespace biophony;
using namespace biophony::test;

namespace {

/// The clips that the numbers of scikit-learn below are of: x_ij = 5 + (j + 1) sin(1.3 i + 2.1 j + 0.7 i j), and 1 more
/// where j = i mod 3, the class.
Examples waves(int64_t first, int64_t count, bool classes_from_0 = false) {
    Examples out{at::zeros({count, 4}), {}};
    auto cells = out.features.accessor<float, 2>();
    for (int64_t n = 0; n < count; ++n) {
        const auto i = static_cast<double>(first + n);
        out.labels.push_back((classes_from_0 ? n : first + n) % 3);
        for (int64_t j = 0; j < 4; ++j) {
            const auto d = static_cast<double>(j);
            cells[n][j] = static_cast<float>(5 + (d + 1) * std::sin(1.3 * i + 2.1 * d + 0.7 * i * d) +
                                             (j == out.labels.back() ? 1 : 0));
        }
    }
    return out;
}

Examples some(const Examples& all, int64_t from, int64_t count) {
    return {all.features.narrow(0, from, count), {all.labels.begin() + from, all.labels.begin() + from + count}};
}

template <class Sums>
Sums of_three_contributors(const Examples& all, int64_t classes) {
    Sums total(all.features.size(1), classes);
    for (const auto& [from, count] : {std::pair{0, 25}, std::pair{25, 1}, std::pair{26, 34}}) {
        const Examples own = some(all, from, count);
        Sums sums(all.features.size(1), classes);
        sums.add(own.features, own.labels);
        total += sums;
    }
    return total;
}

at::Tensor rows_of(const Examples& all, int64_t label) {
    std::vector<at::Tensor> rows;
    for (size_t i = 0; i < all.labels.size(); ++i)
        if (all.labels[i] == label) rows.push_back(all.features[static_cast<int64_t>(i)].to(at::kDouble));
    return at::stack(rows);
}

double distance(const at::Tensor& a, const at::Tensor& b) {
    return (a - b).abs().max().item<double>();
}

at::Tensor without_mean(const at::Tensor& scores) {
    return scores - scores.mean(1, true);
}

at::Tensor table(std::vector<double> values, int64_t columns) {
    return at::tensor(values, at::kDouble).view({-1, columns});
}

LinearPart part(std::vector<double> weight, std::vector<double> bias, std::vector<int64_t> classes,
                size_t encoder = 0) {
    const auto rows = static_cast<int64_t>(bias.size());
    return {.weight = at::tensor(weight, at::kDouble).view({rows, -1}),
            .bias = at::tensor(bias, at::kDouble),
            .encoder = encoder,
            .classes = std::move(classes)};
}

HeadModel::Read reading(const at::Tensor& features) {
    return [features](size_t, Pooling) { return features; };
}

struct TemporaryFile {
    std::filesystem::path path;
    TemporaryFile() {
        std::string name = (std::filesystem::temp_directory_path() / "biophony-head-XXXXXX").string();
        ::close(::mkstemp(name.data()));
        path = name;
    }
    ~TemporaryFile() { std::filesystem::remove(path); }
};

HeadModel reloaded(const HeadModel& model) {
    const TemporaryFile file;
    model.save(file.path);
    return HeadModel::load(file.path);
}

}  // namespace

TEST_CASE("a discriminant from three contributors' sums is the plain formula on the pooled clips") {
    const Examples all = waves(0, 60), test = waves(100, 9);
    for (const double rho : {0.05, 0.6}) {
        std::vector<at::Tensor> means, deviations;
        for (int64_t c = 0; c < 3; ++c) {
            means.push_back(rows_of(all, c).mean(0));
            deviations.push_back(rows_of(all, c) - means.back());
        }
        const at::Tensor within = at::cat(deviations);
        const at::Tensor s = at::matmul(within.t(), within) / (60 - 3);
        // Drawn towards its diagonal, without standardising first.
        const at::Tensor inverse = at::linalg_inv((1 - rho) * s + rho * s.diagonal().diag());
        std::vector<at::Tensor> columns;
        for (int64_t c = 0; c < 3; ++c) {
            const at::Tensor d = test.features.to(at::kDouble) - means[static_cast<size_t>(c)];
            columns.push_back(-(at::matmul(d, inverse) * d).sum(1) / 2);
        }
        const DiscriminantModel model = solve_discriminant(of_three_contributors<RidgeSums>(all, 3), rho, false);
        const at::Tensor ours = at::matmul(test.features.to(at::kDouble), model.weight.t()) + model.bias;
        CHECK(distance(at::log_softmax(ours, 1), at::log_softmax(at::stack(columns, 1), 1)) < 1e-9);
        CHECK(model.shrinkage == rho);
    }
}

TEST_CASE("priors of a discriminant: all alike, or as in the clips") {
    Examples all = waves(0, 60);
    for (size_t i = 0; i < 30; ++i) all.labels[i] = 0;
    const RidgeSums sums = of_three_contributors<RidgeSums>(all, 3);
    const DiscriminantModel alike = solve_discriminant(sums, 0.1, false), train = solve_discriminant(sums, 0.1, true);
    for (int64_t c = 0; c < 3; ++c)
        CHECK((train.bias - alike.bias)[c].item<double>() == Approx(std::log(sums.y[c].item<double>() / 60)));
}

TEST_CASE("the shrinkage is that of Chen et al., and a feature that never varies has no weight") {
    Examples all = waves(0, 60);
    for (int64_t j = 1; j < 4; ++j) all.features.select(1, j) += 3 * all.features.select(1, 0);  // correlated
    all.features = at::cat({all.features, at::full({60, 1}, -15.94F)}, 1);
    const DiscriminantModel model = solve_discriminant(of_three_contributors<RidgeSums>(all, 3), std::nullopt, false);
    CHECK(model.weight.select(1, 4).abs().max().item<double>() == 0);
    // Correlations within classes, and eq. 23 with p = 4 and n = 57.
    std::vector<at::Tensor> deviations;
    for (int64_t c = 0; c < 3; ++c) deviations.push_back(rows_of(all, c) - rows_of(all, c).mean(0));
    at::Tensor z = at::cat(deviations).narrow(1, 0, 4);
    z = z / (z.square().sum(0) / 57).sqrt();
    const at::Tensor s = at::matmul(z.t(), z) / 57;
    CHECK(model.shrinkage < 0.5);
    const double square = at::matmul(s, s).trace().item<double>(), trace = 4;
    CHECK(model.shrinkage ==
          Approx(((1 - 0.5) * square + trace * trace) / ((57 + 1 - 0.5) * (square - trace * trace / 4))));
    RidgeSums single(4, 2);
    single.add(all.features.narrow(0, 0, 2).narrow(1, 0, 4), std::vector<int64_t>{0, 1});
    CHECK_THROWS_WITH(solve_discriminant(single, std::nullopt, false), Catch::Contains("found 2 clips of 2 classes"));
}

TEST_CASE("prototypes from sums are class means of standardised features, scored by cosine") {
    const Examples all = waves(0, 60), test = waves(100, 5);
    const Prototypes prototypes = solve_prototypes(of_three_contributors<ClassSums>(all, 3));
    HeadModel head{.labels = {"a", "b", "c"},
                   .form = CosineModel{prototypes.means, prototypes.mean, prototypes.inverse}};
    const at::Tensor x = all.features.to(at::kDouble), deviation = (x - x.mean(0)).square().mean(0).sqrt();
    const at::Tensor scores = reloaded(head).scores(reading(test.features));
    for (int64_t i = 0; i < 5; ++i)
        for (int64_t c = 0; c < 3; ++c) {
            const at::Tensor a = (test.features[i].to(at::kDouble) - x.mean(0)) / deviation,
                             b = ((rows_of(all, c) - x.mean(0)) / deviation).mean(0);
            const double cosine = (a * b).sum().item<double>() / (a.norm() * b.norm()).item<double>();
            CHECK(scores[i][c].item<double>() == Approx(cosine));
        }
}

TEST_CASE("neighbours agree with scikit-learn's") {
    const Examples all = waves(0, 60), test = waves(100, 6, true);
    NeighboursModel model{all.features / all.features.norm(2, 1, true), all.labels, 5};
    const HeadModel head{.labels = {"a", "b", "c"}, .form = model};
    const at::Tensor expected =
        table({0, 2.98502749, 1.99183989, 1.991328, 1.99472785, 0.99946588, 1.99127036, 0, 2.98693907, 0, 2.98695701,
               1.98975521, 0.99643052, 2.99281573, 0.99713576, 1.98882788, 0.98806238, 1.98882926},
              3);
    CHECK(distance(reloaded(head).scores(reading(test.features)), expected) < 1e-5);
    // More neighbours than there are clips: all of them.
    model.k = 1000;
    const at::Tensor all_of_them = HeadModel{.labels = {"a", "b", "c"}, .form = model}.scores(reading(test.features));
    CHECK(all_of_them.sum(1).min().item<double>() > 50);
}

TEST_CASE("logistic regression agrees with scikit-learn's, and its derivatives are zero") {
    Quiet progress;
    const Cancel cancel;
    const Examples all = waves(0, 60), test = waves(100, 3, true), none{at::zeros({0, 4}), {}};
    const struct {
        double strength, loss;
        std::vector<double> scores;
    } known[] = {{0.01,
                  0.8556009223138127,
                  {-0.7921773955, 0.9674909234, -0.1753135279, -1.3822688672, 0.7968964313, 0.585372436, 0.2993125536,
                   -0.885208866, 0.5858963124}},
                 {1.0,
                  1.0404768464821703,
                  {-0.0889155566, 0.1878895156, -0.098973959, -0.2663021883, 0.1646259964, 0.1016761919, 0.1285456794,
                   -0.2286395657, 0.1000938863}}};
    for (const auto& [strength, loss, scores] : known) {
        const LogisticModel model = fit_logistic(all, none, 3, strength, progress, cancel);
        CHECK(model.loss == Approx(loss).epsilon(1e-8));
        CHECK(model.gradient <= 1e-6);
        const at::Tensor ours = at::matmul(test.features.to(at::kDouble), model.weight.t()) + model.bias;
        CHECK(distance(without_mean(ours), table(scores, 3)) < 1e-4);
    }
    CHECK_THROWS_WITH(fit_logistic(none, none, 3, 0.1, progress, cancel), Catch::Contains("found no clips"));
}

TEST_CASE("logistic regression on fewer examples than features is at its optimum, too") {
    Quiet progress;
    const Cancel cancel;
    Examples all{at::zeros({20, 50}), {}};
    Random random(3);
    auto cells = all.features.accessor<float, 2>();
    for (int64_t i = 0; i < 20; ++i) {
        all.labels.push_back(i % 4);
        for (int64_t j = 0; j < 50; ++j) cells[i][j] = static_cast<float>(random.normal() * static_cast<double>(j + 1));
    }
    const LogisticModel model = fit_logistic(all, {at::zeros({0, 50}), {}}, 4, 0.03, progress, cancel);
    const at::Tensor x = all.features.to(at::kDouble), deviation = (x - x.mean(0)).square().mean(0).sqrt();
    at::Tensor error = (at::matmul(x, model.weight.t()) + model.bias).softmax(1);
    for (int64_t i = 0; i < 20; ++i) error[i][i % 4] -= 1;
    const at::Tensor slopes = at::matmul(error.t(), (x - x.mean(0)) / deviation) / 20 + 0.03 * model.weight * deviation;
    CHECK(slopes.abs().max().item<double>() < 1e-5);
    CHECK(error.mean(0).abs().max().item<double>() < 1e-5);
}

TEST_CASE("the strength of a logistic regression is the best of its grid on the held-out clips") {
    Quiet progress;
    const Cancel cancel;
    const Examples train = waves(0, 30), valid = waves(30, 30);
    const LogisticModel chosen = fit_logistic(train, valid, 3, std::nullopt, progress, cancel);
    auto held_out = [&](double strength) {
        const LogisticModel model = fit_logistic(train, valid, 3, strength, progress, cancel);
        const at::Tensor log_p =
            at::log_softmax(at::matmul(valid.features.to(at::kDouble), model.weight.t()) + model.bias, 1);
        double sum = 0;
        for (size_t i = 0; i < valid.labels.size(); ++i)
            sum -= log_p[static_cast<int64_t>(i)][valid.labels[i]].item<double>();
        return sum / 30;
    };
    CHECK(held_out(chosen.strength) == Approx(*chosen.valid_loss).epsilon(1e-3));
    for (double strength = 10; strength > 5e-6; strength /= std::sqrt(10))
        CHECK(held_out(strength) >= *chosen.valid_loss * (1 - 1e-3));
    CHECK(fit_logistic(train, {at::zeros({0, 4}), {}}, 3, std::nullopt, progress, cancel).strength == 0.01);
}

TEST_CASE("the paper's probe is Adam as LibTorch has it") {
    const Examples all = waves(0, 60);  // one batch, so that its order doesn't matter
    const Cancel cancel;
    const LogisticModel ours = fit_probe_nihal2026(all, 3, 17, cancel);
    Random random(17);
    at::Tensor weight = xavier_uniform(3, 4, random).requires_grad_(true), bias = at::zeros({3}).requires_grad_(true);
    torch::optim::Adam adam({weight, bias}, torch::optim::AdamOptions(1e-3));
    for (int epoch = 0; epoch < 10; ++epoch) {
        adam.zero_grad();
        const at::Tensor log_p = at::log_softmax(at::linear(all.features, weight, bias), 1);
        (-log_p.gather(1, tensor_of(all.labels).unsqueeze(1)).mean()).backward();
        adam.step();
    }
    CHECK(distance(ours.weight, weight.detach()) < 1e-5);
    CHECK(distance(ours.bias, bias.detach()) < 1e-5);
    CHECK(distance(fit_probe_nihal2026(all, 3, 18, cancel).weight, ours.weight) > 1e-3);
}

TEST_CASE("heads side by side: each in its place, a shared class by the largest or the mean") {
    SideBySideModel model{{part({1, 0, 0, 1}, {0, 0.5}, {0, 2}), part({2, 2, -1, 0}, {1, 0}, {2, 1})}, false};
    HeadModel head{.labels = {"a", "b", "shared"}, .form = model};
    const at::Tensor x = table({1, 2, -3, 0.25}, 2);
    // First part: (1, 2.5), (−3, 0.75); second: (7, −1), (−4.5, 3).
    CHECK(distance(reloaded(head).scores(reading(x)), table({1, -1, 7, -3, 3, 0.75}, 3)) < 1e-12);
    model.mean = true;
    head.form = model;
    CHECK(distance(reloaded(head).scores(reading(x)), table({1, -1, 4.75, -3, 3, -1.875}, 3)) < 1e-12);
}

TEST_CASE("a part reads its own expert's encoder") {
    const HeadModel head{.labels = {"a", "b"},
                         .form = SideBySideModel{{part({1}, {0}, {0}, 1), part({1}, {0}, {1}, 2)}, false}};
    const at::Tensor scores =
        reloaded(head).scores([](size_t encoder, Pooling) { return table({10.0 * static_cast<double>(encoder)}, 1); });
    CHECK(distance(scores, table({10, 20}, 2)) == 0);
}

TEST_CASE("a gated head is the sum over groups of the group's posterior times its own head's") {
    const HeadModel head{
        .labels = {"a", "b", "shared"},
        .form = GatedModel{part({std::log(3.0), 0}, {0, 0}, {0, 1}),
                           {part({0, std::log(4.0)}, {0, 0}, {0, 2}), part({std::log(2.0), 0}, {0, 0}, {1, 2})}}};
    // Group posterior (3/4, 1/4); own heads (1/5, 4/5) and (2/3, 1/3).
    const at::Tensor scores = reloaded(head).scores(reading(table({1}, 1)));
    CHECK(distance(scores.exp(), table({3.0 / 20, 2.0 / 12, 3.0 / 5 + 1.0 / 12}, 3)) < 1e-12);
    CHECK(scores.exp().sum().item<double>() == Approx(1));
}

TEST_CASE("a head that was trained with its encoder is read as a linear one") {
    const TemporaryFile file;
    HeadFile{at::tensor({1.F, 2.F, 3.F, 4.F}).view({2, 2}),
             at::tensor({0.5F, 0.F}),
             "own",
             {"a", "b"},
             {"frog", "bird"},
             Pooling::kBands}
        .save(file.path);
    const HeadModel head = HeadModel::load(file.path);
    CHECK(head.name == "own");
    CHECK(head.pools_clips);
    CHECK(std::get<LinearModel>(head.form).part.pooling == Pooling::kBands);
    CHECK(distance(head.scores(reading(table({1, 1}, 2))), table({3.5, 7}, 2)) == 0);
    CHECK_THROWS_WITH(head.scores(reading(table({1, 1, 1}, 3))),
                      Catch::Contains("found features of width 3, expected 2"));
}

TEST_CASE("head files that don't fit themselves are refused") {
    const TemporaryFile file;
    auto told = [&](const HeadModel& model) {
        model.save(file.path);
        try {
            HeadModel::load(file.path);
        } catch (const Error& error) {
            return error.message().text;
        }
        return std::string("nothing");
    };
    CHECK_THAT(told({.labels = {"a"}, .form = SideBySideModel{{part({1, 1}, {0, 0}, {0, 1})}, false}}),
               Catch::Contains("found the class 1, expected 0 to 0"));
    CHECK_THAT(told({.labels = {"a", "b"}, .form = LinearModel{part({1}, {0}, {0})}}),
               Catch::Contains("'weight' and 'bias' have 1 and 1 rows, expected 2"));
    CHECK_THAT(told({.labels = {"a", "b"}, .form = SideBySideModel{}}), Catch::Contains("has no parts"));
    CHECK_THAT(told({.labels = {"a"}, .form = NeighboursModel{at::zeros({2, 2}), {0}, 5}}),
               Catch::Contains("don't fit each other"));
    CHECK_THAT(told({.labels = {"a"}, .form = CosineModel{at::zeros({1, 2}), at::zeros({3}), at::zeros({2})}}),
               Catch::Contains("don't fit each other"));
}
