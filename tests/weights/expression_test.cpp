// Expressions of task vectors: what they come to, and what is said of bad ones.
#include "weights/expression.hpp"

#include "files.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

using Names = std::vector<std::string>;
const Names kVectors = {"bird", "frog", "insect"};

std::string told(const std::string& text, const Names& coefficients = {}) {
    return error_of([&] { parse_expression(text, kVectors, coefficients); });
}

}  // namespace

TEST_CASE("expressions come to one factor a vector") {
    auto factors = [](const std::string& text) { return factors_of(text, kVectors); };
    using Factors = std::vector<double>;
    CHECK(factors("bird + frog + insect") == Factors{1, 1, 1});
    CHECK(factors("bird+frog-insect") == Factors{1, 1, -1});
    CHECK(factors("frog + insect - 0.5*bird") == Factors{-0.5, 1, 1});
    CHECK(factors("-bird - 2 * frog + insect * -3") == Factors{-1, -2, -3});
    CHECK(factors("(bird + frog) / 4 - (insect - 2*(bird - frog))") == Factors{2.25, -1.75, -1});
    CHECK(factors("bird + bird + frog + 1e-3*insect") == Factors{2, 1, 1e-3});
    CHECK(factors("--bird + .5*frog + 2*3*insect") == Factors{1, 0.5, 6});
    CHECK(factors_of("-τ", Names{"τ"}) == Factors{-1});
}

TEST_CASE("coefficients stay as products of names") {
    const LinearForm form =
        parse_expression("s*(a*bird + frog - 2*insect) - a*frog + b*s*s*frog", kVectors, Names{"a", "b", "s"});
    const LinearForm expected = {{{"a", "s"}, {{"bird", 1}}},
                                 {{"s"}, {{"frog", 1}, {"insect", -2}}},
                                 {{"a"}, {{"frog", -1}}},
                                 {{"b", "s", "s"}, {{"frog", 1}}}};
    CHECK(form == expected);
    CHECK(product_of({"b", "s", "s"}, {{"a", 7}, {"b", 3}, {"s", 0.5}}) == 0.75);
    CHECK(product_of({}, {{"a", 7}}) == 1);
    // One direction for one scale: what a sweep adds up once.
    CHECK(parse_expression("s*(bird + frog - insect)", kVectors, Names{"s"}) ==
          LinearForm{{{"s"}, {{"bird", 1}, {"frog", 1}, {"insect", -1}}}});
}

TEST_CASE("bad expressions are told with their place") {
    CHECK_THAT(told("bird + frgo + insect"),
               Catch::Contains("at 8 of \"bird + frgo + insect\": there is no vector 'frgo'; did you mean 'frog'?"));
    CHECK_THAT(
        told("bird + frog + scal*insect", {"scale"}),
        Catch::Contains("at 15") && Catch::Contains("there is no vector or coefficient 'scal'; did you mean 'scale'?"));
    CHECK_THAT(told("bird * frog + insect"),
               Catch::Contains("at 8") && Catch::Contains("two vectors can't be multiplied"));
    CHECK_THAT(told("bird + 1 + frog + insect"),
               Catch::Contains("at 8") && Catch::Contains("a number and a vector can't be added"));
    CHECK_THAT(told("bird + frog"), Catch::Contains("leaves out the vector 'insect'"));
    CHECK_THAT(told("bird + frog + insect - insect"), Catch::Contains("leaves out the vector 'insect'"));
    CHECK_THAT(told("bird + frog + insect", {"scale"}), Catch::Contains("doesn't use 'scale'"));
    CHECK_THAT(told("(bird + frog + insect"),
               Catch::Contains("at 22") && Catch::Contains("found the end, expected the ')' for the '(' at 1"));
    CHECK_THAT(told("bird + frog + insect)"), Catch::Contains("at 21") && Catch::Contains("found ')'"));
    CHECK_THAT(told("2bird + frog"), Catch::Contains("at 2") && Catch::Contains("right behind a number"));
    CHECK_THAT(told("bird frog insect"),
               Catch::Contains("at 6") && Catch::Contains("found 'f', expected '+', '-' or the end"));
    CHECK_THAT(told("bird / frog + insect"), Catch::Contains("divided by must be a number"));
    CHECK_THAT(told("bird / (1 - 1) + frog"), Catch::Contains("a division by 0"));
    CHECK_THAT(told("bird +"), Catch::Contains("at 7") && Catch::Contains("found the end"));
    CHECK_THAT(told(""), Catch::Contains("found the end"));
    CHECK_THAT(told("3"), Catch::Contains("is a number"));
    CHECK_THAT(told("bird % frog"), Catch::Contains("at 6"));
    CHECK_THAT(told("1e999*bird"), Catch::Contains("that is no number"));
    // No text takes the stack or the memory down.
    CHECK_THAT(told(std::string(5000, '(')), Catch::Contains("brackets are more than 100 deep"));
    CHECK_THAT(told(std::string(5000, '-') + "bird"), Catch::Contains("signs are more than 100 deep"));
    std::string power = "bird + frog + insect";
    for (int i = 0; i < 60; ++i) power = "(a+b+c+d)*(" + power + ")";
    CHECK_THAT(told(power, {"a", "b", "c", "d"}), Catch::Contains("more than 1000 terms"));
}
