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
    double accuracy, macro_f1;
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
     {0, 1, 7},
     {0.5, 1.0, 0.0},
     {0.3333333333333333, 0.5, 0.0},
     {0.4, 0.6666666666666666, 0.0},
     {3, 2, 0},
     {1, 0, 2, 1, 1, 0, 0, 0, 0}},
    {"one class, all right", {3, 3, 3}, {3, 3, 3}, 1.0, 1.0, {3}, {1.0}, {1.0}, {1.0}, {3}, {3}},
    {"one class, all wrong",
     {3, 3, 3},
     {4, 4, 4},
     0.0,
     0.0,
     {3, 4},
     {0.0, 0.0},
     {0.0, 0.0},
     {0.0, 0.0},
     {3, 0},
     {0, 3, 0, 0}},
    {"one entry", {0}, {0}, 1.0, 1.0, {0}, {1.0}, {1.0}, {1.0}, {1}, {1}},
    {"negative code for no prediction",
     {0, 1, 2, 2, 1},
     {0, -1, 2, -1, 1},
     0.6,
     0.5833333333333333,
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
    CHECK(class_scores({}, {}).empty());
    CHECK(confusion({}, {}).labels.empty());
    const std::vector<int> two = {0, 1}, one = {0};
    CHECK_THROWS_AS(accuracy(two, one), Error);
    CHECK_THROWS_AS(macro_f1(two, one), Error);
    CHECK_THROWS_AS(confusion(two, one), Error);
}
