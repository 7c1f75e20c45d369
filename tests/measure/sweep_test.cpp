// What a sweep chooses, and why not the others.
#include "measure/sweep.hpp"

#include <catch2/catch.hpp>

#include "base/error.hpp"

using namespace biophony;

namespace {

SweepPoint point(double scale, double target, double control) {
    return {.coefficients = {{"scale", scale}}, .targets = {{"bird", target}}, .controls = {{"frog", control}}};
}

Sweep forgetting() {
    return {.expression = "-scale*bird",
            .goal = "forget",
            .judge = "fixed",
            .figure = "union",
            .floor = 0.9,
            .points = {point(0, 0.8, 0.5), point(0.2, 0.6, 0.5), point(0.4, 0.3, 0.45), point(0.6, 0.1, 0.44)}};
}

}  // namespace

TEST_CASE("forgetting takes the largest drop whose controls keep the floor") {
    Sweep sweep = forgetting();
    judge_sweep(sweep);
    // 0.45 is 0.9 · 0.5 exactly, which rounding must not cost.
    CHECK(sweep.chosen().coefficients.at("scale") == 0.4);
    CHECK(sweep.points[3].rejected == "frog 0.440 < 0.9 × 0.500");
    CHECK(sweep.points[1].rejected.empty());
    CHECK(sweep.points[2].front);
    CHECK(!sweep.points[1].front);
    CHECK(sweep.at_edge().empty());
    const Json json = sweep.to_json();
    CHECK(json["chosen"] == Json{{"scale", 0.4}});
    CHECK(json["points"].size() == 4);
    CHECK(json["points"][3]["why"] == "frog 0.440 < 0.9 × 0.500");
    CHECK(sweep.to_csv() ==
          "scale,target bird,control frog,target_mean,control_mean,allowed,front,chosen,why\n"
          "0,0.8,0.5,0.8,0.5,1,0,0,\n"
          "0.2,0.6,0.5,0.6,0.5,1,0,0,\n"
          "0.4,0.3,0.45,0.3,0.45,1,1,1,\n"
          "0.6,0.1,0.44,0.1,0.44,0,0,0,frog 0.440 < 0.9 × 0.500\n");
    CHECK_THAT(sweep.to_text(), Catch::Contains("0.300") && Catch::Contains("chosen"));

    sweep = forgetting();
    sweep.floor = 0.5;
    judge_sweep(sweep);
    CHECK(sweep.chosen().coefficients.at("scale") == 0.6);
    CHECK(sweep.at_edge() == std::vector<std::string>{"scale"});

    sweep = forgetting();
    sweep.floor = 1;
    sweep.points[1].targets["bird"] = 0.9;
    judge_sweep(sweep);
    CHECK(&sweep.chosen() == &sweep.points[0]);
    CHECK(sweep.at_edge().empty());
    CHECK_THAT(sweep.to_text(), Catch::Contains("the result is the base"));
}

TEST_CASE("learning takes the best mean; of equal ones the smaller step") {
    Sweep sweep{
        .expression = "x*a + y*b", .goal = "learn", .judge = "ridge", .figure = "union", .floor = 0.95, .points = {}};
    for (const auto& [x, y, a, b] :
         {std::tuple(0.0, 0.0, 0.3, 0.3), std::tuple(0.5, 1.0, 0.9, 0.5), std::tuple(1.0, 0.5, 0.75, 0.75),
          std::tuple(0.5, 0.5, 0.75, 0.75), std::tuple(1.0, 1.0, 0.5, 0.9)})
        sweep.points.push_back({.coefficients = {{"x", x}, {"y", y}}, .targets = {{"a", a}, {"b", b}}});
    sweep.points.push_back({.coefficients = {{"x", 2}, {"y", 2}}, .problem = "the encoder gives no finite features"});
    judge_sweep(sweep);
    CHECK(sweep.chosen().coefficients == std::map<std::string, double>{{"x", 0.5}, {"y", 0.5}});
    CHECK(sweep.chosen().target == Approx(0.75));
    // (0.9, 0.5), (0.75, 0.75) twice and (0.5, 0.9) are not beaten in both; the base is.
    for (size_t p = 1; p < 5; ++p) CHECK(sweep.points[p].front);
    CHECK(!sweep.points[0].front);
    CHECK(sweep.points[5].rejected == "the encoder gives no finite features");
    CHECK(sweep.to_json()["floor"].is_null());
    CHECK_THAT(sweep.to_text(),
               Catch::Contains("x down, y across") && Catch::Contains("0.750*") && Catch::Contains("(–)"));

    sweep.points = {sweep.points[5]};
    CHECK_THROWS_WITH(judge_sweep(sweep), Catch::Contains("the base could not be scored"));

    // Nothing can be compared with it then, whatever else was scored.
    sweep = forgetting();
    sweep.points[0] = {.coefficients = {{"scale", 0}}, .problem = "the encoder gives no finite features"};
    CHECK_THROWS_WITH(judge_sweep(sweep),
                      Catch::Contains("the base could not be scored: the encoder gives no finite features"));
}

TEST_CASE("a grid is all combinations") {
    const auto points = grid_points({{"a", {1, 2}}, {"b", {3, 4, 5}}});
    REQUIRE(points.size() == 6);
    CHECK(points[1] == std::map<std::string, double>{{"a", 1}, {"b", 4}});
    CHECK(points[5] == std::map<std::string, double>{{"a", 2}, {"b", 5}});
}
