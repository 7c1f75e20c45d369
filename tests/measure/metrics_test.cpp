// Accuracy, F1 and their kin against numbers that scikit-learn 1.9.1 gave (zero_division=0).
#include "measure/metrics.hpp"

#include <catch2/catch.hpp>
#include <cmath>

#include "base/error.hpp"

using namespace biophony;

namespace {

struct Case {
    const char* name;
    std::vector<int> truth, predicted;
    double accuracy, macro_f1, balanced;
    std::vector<int> labels;
    std::vector<double> precision, recall, f1;
    std::vector<uint64_t> support, confusion;
};

const Case kCases[] = {
    {"five classes",
     {3, 4, 0, 4, 2, 2, 3, 1, 4, 0, 1, 1, 2, 2, 0, 0, 0, 0, 0, 4, 0, 3, 3, 1, 1, 2, 1, 4, 0, 4,
      3, 4, 0, 1, 3, 2, 3, 3, 3, 0, 4, 2, 4, 1, 1, 4, 0, 0, 1, 3, 0, 4, 1, 1, 2, 4, 4, 4, 1, 0},
     {1, 4, 0, 4, 2, 2, 2, 1, 4, 4, 1, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 4, 3, 4, 1, 0, 1, 4, 4, 1,
      2, 4, 0, 2, 3, 0, 4, 3, 3, 0, 4, 2, 4, 0, 3, 0, 3, 0, 3, 3, 1, 4, 1, 1, 2, 2, 4, 4, 1, 0},
     0.65,
     0.6416146093619857,
     0.6472161172161173,
     {0, 1, 2, 3, 4},
     {0.6470588235294118, 0.7, 0.6, 0.625, 0.6666666666666666},
     {0.7333333333333333, 0.5384615384615384, 0.75, 0.5, 0.7142857142857143},
     {0.6875, 0.6086956521739131, 0.6666666666666666, 0.5555555555555556, 0.6896551724137931},
     {15, 13, 8, 10, 14},
     {11, 1, 0, 1, 2, 2, 7, 1, 2, 1, 2, 0, 6, 0, 0, 0, 1, 2, 5, 2, 2, 1, 1, 0, 10}},
    {"a class that is never predicted",
     {0, 0, 1, 1, 2, 2, 2, 0},
     {0, 1, 1, 1, 0, 1, 0, 0},
     0.5,
     0.41269841269841273,
     0.5555555555555555,
     {0, 1, 2},
     {0.5, 0.5, 0.0},
     {0.6666666666666666, 1.0, 0.0},
     {0.5714285714285714, 0.6666666666666666, 0.0},
     {3, 2, 3},
     {2, 1, 0, 0, 2, 0, 2, 1, 0}},
    {"a class that is only predicted",
     {0, 0, 1, 1, 0},
     {0, 7, 1, 0, 7},
     0.4,
     0.35555555555555557,
     0.41666666666666663,
     {0, 1, 7},
     {0.5, 1.0, 0.0},
     {0.3333333333333333, 0.5, 0.0},
     {0.4, 0.6666666666666666, 0.0},
     {3, 2, 0},
     {1, 0, 2, 1, 1, 0, 0, 0, 0}},
    {"one class, all right", {3, 3, 3}, {3, 3, 3}, 1.0, 1.0, 1.0, {3}, {1.0}, {1.0}, {1.0}, {3}, {3}},
    {"one class, all wrong",
     {3, 3, 3},
     {4, 4, 4},
     0.0,
     0.0,
     0.0,
     {3, 4},
     {0.0, 0.0},
     {0.0, 0.0},
     {0.0, 0.0},
     {3, 0},
     {0, 3, 0, 0}},
    {"one entry", {0}, {0}, 1.0, 1.0, 1.0, {0}, {1.0}, {1.0}, {1.0}, {1}, {1}},
    {"negative code for no prediction",
     {0, 1, 2, 2, 1},
     {0, -1, 2, -1, 1},
     0.6,
     0.5833333333333333,
     0.6666666666666666,
     {-1, 0, 1, 2},
     {0.0, 1.0, 1.0, 1.0},
     {0.0, 1.0, 0.5, 0.5},
     {0.0, 1.0, 0.6666666666666666, 0.6666666666666666},
     {0, 1, 2, 2},
     {0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1}},
    {"ties: two classes swap evenly",
     {0, 0, 1, 1},
     {0, 1, 0, 1},
     0.5,
     0.5,
     0.5,
     {0, 1},
     {0.5, 0.5},
     {0.5, 0.5},
     {0.5, 0.5},
     {2, 2},
     {1, 1, 1, 1}},
    {"rare class",
     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
     0.9523809523809523,
     0.4878048780487805,
     0.5,
     {0, 1},
     {0.9523809523809523, 0.0},
     {1.0, 0.0},
     {0.975609756097561, 0.0},
     {20, 1},
     {20, 0, 1, 0}},
};

}  // namespace

TEST_CASE("metrics equal scikit-learn's") {
    for (const Case& c : kCases) {
        INFO(c.name);
        CHECK(accuracy(c.truth, c.predicted) == Approx(c.accuracy).margin(1e-12));
        CHECK(macro_f1(c.truth, c.predicted) == Approx(c.macro_f1).margin(1e-12));
        CHECK(balanced_accuracy(c.truth, c.predicted) == Approx(c.balanced).margin(1e-12));
        const std::vector<ClassScores> classes = class_scores(c.truth, c.predicted);
        REQUIRE(classes.size() == c.labels.size());
        for (size_t i = 0; i < classes.size(); ++i) {
            CHECK(classes[i].label == c.labels[i]);
            CHECK(classes[i].precision == Approx(c.precision[i]).margin(1e-12));
            CHECK(classes[i].recall == Approx(c.recall[i]).margin(1e-12));
            CHECK(classes[i].f1 == Approx(c.f1[i]).margin(1e-12));
            CHECK(classes[i].support == c.support[i]);
        }
        const Confusion table = confusion(c.truth, c.predicted);
        CHECK(table.labels == c.labels);
        CHECK(table.counts == c.confusion);
    }
}

TEST_CASE("metrics of nothing are NaN, of unequal sizes an error") {
    CHECK(std::isnan(accuracy({}, {})));
    CHECK(std::isnan(macro_f1({}, {})));
    CHECK(std::isnan(balanced_accuracy({}, {})));
    CHECK(std::isnan(top_k_accuracy({}, 1)));
    CHECK(class_scores({}, {}).empty());
    CHECK(confusion({}, {}).labels.empty());
    const std::vector<int> two = {0, 1}, one = {0};
    CHECK_THROWS_AS(accuracy(two, one), Error);
    CHECK_THROWS_AS(macro_f1(two, one), Error);
    CHECK_THROWS_AS(balanced_accuracy(two, one), Error);
    CHECK_THROWS_AS(confusion(two, one), Error);
}

namespace {

/// top_k_accuracy for k = 1 to the number of classes, over rows of scores.
std::vector<double> top_of(const std::vector<int>& truth, const std::vector<double>& scores) {
    const size_t classes = scores.size() / truth.size();
    std::vector<int> ranks;
    for (size_t i = 0; i < truth.size(); ++i)
        ranks.push_back(truth_rank(std::span(scores).subspan(i * classes, classes), truth[i]));
    std::vector<double> out;
    for (size_t k = 1; k <= classes; ++k) out.push_back(top_k_accuracy(ranks, static_cast<int>(k)));
    return out;
}

}  // namespace

// The expected values are those of scikit-learn 1.9.1's top_k_accuracy_score with labels given.
TEST_CASE("top-k accuracy equals scikit-learn's, ties included") {
    // 24 clips, 7 classes, scores of four levels.
    const std::vector<int> truth = {5, 0, 1, 1, 1, 5, 6, 4, 0, 0, 2, 3, 4, 3, 1, 1, 4, 5, 0, 0, 3, 2, 6, 3};
    const std::vector<double> scores = {
        0.5, 0.5, 1,   1,   0,   1,   1.5, 1.5, 1.5, 0.5, 0.5, 1,   1,   1,   1.5, 0.5, 1.5, 0,   0,   1.5, 1.5,
        0.5, 0,   0.5, 0,   1.5, 1,   1,   0,   0.5, 0,   1.5, 0.5, 0,   0.5, 1,   1,   0.5, 0.5, 0,   1,   1,
        1,   1.5, 1.5, 0,   1,   1,   0,   0.5, 0.5, 1,   0.5, 1,   1,   0,   0.5, 1.5, 1.5, 1,   0,   1,   0,
        1.5, 1.5, 0.5, 1.5, 1.5, 0.5, 1.5, 0.5, 0,   1,   1.5, 1,   0.5, 1.5, 0.5, 0.5, 0,   0,   1,   1.5, 0.5,
        1,   1.5, 0,   0.5, 1,   1,   0.5, 0.5, 0,   1,   1.5, 0,   1.5, 0,   0,   1,   0,   1.5, 0.5, 1,   1.5,
        1.5, 0.5, 0,   0.5, 1.5, 1,   0,   1.5, 1.5, 1.5, 1,   1.5, 1,   1,   1.5, 1,   1.5, 0.5, 1.5, 1.5, 0,
        1,   0.5, 0,   0,   0.5, 0,   1,   0,   1,   1.5, 0.5, 0,   0,   0.5, 0.5, 0.5, 0.5, 1.5, 1,   1.5, 1.5,
        1,   0,   0,   1,   1,   1.5, 1,   1.5, 0,   0.5, 1,   1,   0.5, 0,   1,   0,   1,   1.5, 1,   0,   1};
    const std::vector<double> expected = {
        0.125, 0.375, 0.4583333333333333, 0.5833333333333334, 0.75, 0.9166666666666666, 1.0};
    const std::vector<double> found = top_of(truth, scores);
    REQUIRE(found.size() == expected.size());
    for (size_t k = 0; k < found.size(); ++k) CHECK(found[k] == Approx(expected[k]).margin(1e-12));

    CHECK(top_of({0, 1, 2, 3}, std::vector<double>(16, 1.0)) == std::vector{0.25, 0.5, 0.75, 1.0});
    // Class 2 is nobody's truth; the first clip's truth shares the best score with it.
    CHECK(top_of({0, 1, 3, 3}, {.5, .2, .5, .1, .1, .1, .7, .1, .2, .2, .2, .4, .9, .3, .3, .3}) ==
          std::vector{0.25, 0.75, 1.0, 1.0});
    CHECK(top_of({1}, {.3, .1, .9}) == std::vector{0.0, 0.0, 1.0});  // one clip
    CHECK(top_of({0, 0}, {.3, -1}) == std::vector{1.0});             // one class
}

TEST_CASE("ranks among some of the classes") {
    const std::vector<double> scores = {0.1, 0.9, 0.4, 0.4};
    const std::vector<int> some = {0, 2, 3}, others = {0, 1};
    CHECK(truth_rank(scores, 2) == 3);
    CHECK(truth_rank(scores, 3) == 2);
    CHECK(truth_rank(scores, 2, some) == 2);
    CHECK(truth_rank(scores, 0, some) == 3);
    CHECK_THROWS_AS(truth_rank(scores, 2, others), Error);
    CHECK(std::isnan(top_k_accuracy(std::vector{1, 0}, 5)));  // 0: not known
}
