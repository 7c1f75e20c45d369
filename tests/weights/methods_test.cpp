// The merge methods against formulas of their papers, computed here once more in float64, by sorting and plain loops,
// and against cases that can be done by hand.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <set>

#include "biophony/philox.hpp"
#include "stage_host.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

using Vector = std::vector<double>;
using Floats = std::vector<float>;

const StagePlugins& plugins() {
    return StagePlugins::get();
}
Floats merged(const std::string& id, std::vector<Floats> experts, const Json& with = Json::object(),
              std::vector<uint64_t> shape = {}) {
    return plugins().run(id, one_tensor(std::move(experts), std::move(shape)), with)[0].experts[0];
}
void check_near(const Floats& found, const Vector& expected, double margin = 1e-6) {
    REQUIRE(found.size() == expected.size());
    for (size_t k = 0; k < found.size(); ++k) {
        INFO(k);
        CHECK(found[k] == Approx(expected[k]).epsilon(1e-6).margin(margin));
    }
}

double dot(const Vector& a, const Vector& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}
double norm(const Vector& a) {
    return std::sqrt(dot(a, a));
}
Vector wide(const Floats& values) {
    return {values.begin(), values.end()};
}
double agrees(const std::vector<StageTensor>& out, const std::vector<StageTensor>& in,
              const std::function<Vector(const std::vector<Vector>&)>& method) {
    double worst = 0;
    for (size_t t = 0; t < in.size(); ++t) {
        std::vector<Vector> experts;
        for (const Floats& expert : in[t].experts) experts.push_back(wide(expert));
        const Vector expected = method(experts);
        for (size_t k = 0; k < expected.size(); ++k)
            worst = std::max(worst, std::fabs(out[t].experts[0][k] - expected[k]));
    }
    return worst;
}
/// The method's value at each element, by the experts' values there.
double agrees_by_element(const std::string& id, const Json& with, size_t experts,
                         const std::function<double(Vector)>& method) {
    const auto in = odd_tensors(experts);
    return agrees(plugins().run(id, in, with, {{5, 64}, 2}), in, [&](const std::vector<Vector>& values) {
        Vector out;
        for (size_t k = 0; k < values[0].size(); ++k) {
            Vector here;
            for (const Vector& expert : values) here.push_back(expert[k]);
            out.push_back(method(here));
        }
        return out;
    });
}
int sign(double value) {
    return value > 0 ? 1 : value < 0 ? -1 : 0;
}
double total(const Vector& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

TEST_CASE("task arithmetic: factors by block and by role") {
    std::vector<StageTensor> tensors = {{"a", "matrix", {2}, {{1, 2}, {3, 4}}, 0},
                                        {"b", "bias", {1}, {{1}, {1}}, 1},
                                        {"c", "norm", {1}, {{1}, {1}}, -1}};
    const Json with = {{"lambda_sum", 0.5}, {"blocks", {2, 10}}, {"roles", {{"bias", 3}, {"norm", -1}}}};
    const auto out = plugins().run("task-arithmetic", tensors, with);
    CHECK(out[0].experts[0] == Floats{4, 6});  // 0.5 · 2 · (1 + 3, 2 + 4)
    CHECK(out[1].experts[0] == Floats{30});    // 0.5 · 10 · 3 · (1 + 1)
    CHECK(out[2].experts[0] == Floats{-1});    // 0.5 · −1 · (1 + 1); in no block
    try {
        plugins().run("task-arithmetic", tensors, {{"blocks", {1, 2, 3}}});
        FAIL("three factors for two blocks were taken");
    } catch (const Error& error) {
        CHECK_THAT(error.what(), Catch::Contains("factors for 3 blocks, but the encoder has 2"));
    }
    CHECK(plugins().problems("task-arithmetic", {{"roles", {{"bias", "2"}}}}).size() == 1);
}

TEST_CASE("slerp: the arc between two experts") {
    const float half = std::sqrt(0.5F);
    check_near(merged("slerp", {{1, 0}, {0, 1}}), {half, half});
    // A third of a right angle is 30°; lengths go along.
    check_near(merged("slerp", {{2, 0}, {0, 2}}, {{"t", 1.0 / 3}}), {2 * std::cos(M_PI / 6), 2 * std::sin(M_PI / 6)});
    check_near(merged("slerp", {{1, 0}, {0, 1}}, {{"t", 0}}), {1, 0});
    check_near(merged("slerp", {{1, 0}, {0, 1}}, {{"t", 1}}), {0, 1});
    // A straight line where they are parallel or opposite.
    check_near(merged("slerp", {{1, 1}, {3, 3}}, {{"t", 0.25}}), {1.5, 1.5});
    check_near(merged("slerp", {{1, 1}, {-3, -3}}, {{"t", 0.25}}), {0, 0});
    // Just within the threshold, at |cos| = 0.9994, it still bends: by hand.
    const double angle = std::acos(0.9994), t = 0.3;
    check_near(merged("slerp", {{1, 0}, {0.9994F, static_cast<float>(std::sin(angle))}}, {{"t", t}}),
               {std::cos(t * angle), std::sin(t * angle)});
    for (const char* id : {"slerp", "nuslerp", "nuslerp.delta"})
        CHECK_THROWS_AS(merged(id, {{1, 0}, {0, 1}, {1, 1}}), Error);
    CHECK(plugins().problems("slerp", {{"t", 1.5}}).size() == 1);
}

TEST_CASE("nuslerp: by weights, of tensors, rows and columns") {
    const double s = std::sin(M_PI / 6), c = std::cos(M_PI / 6);
    check_near(merged("nuslerp", {{1, 0}, {0, 1}}, {{"weights", {2, 1}}}), {c, s});
    // Rows: (1, 0) to (0, 1), and (0, 2) to (0, 4) in a straight line. Columns: the same, transposed.
    const Json rows = {{"weights", {2, 1}}, {"along", "rows"}}, columns = {{"weights", {2, 1}}, {"along", "columns"}};
    check_near(merged("nuslerp", {{1, 0, 0, 2}, {0, 1, 0, 4}}, rows, {2, 2}), {c, s, 0, 2 + 2 / 3.0});
    check_near(merged("nuslerp", {{1, 0, 0, 2}, {0, 0, 1, 4}}, columns, {2, 2}), {c, 0, s, 2 + 2 / 3.0});
    check_near(merged("nuslerp", {{1, 0}, {0, 1}}, rows, {2}), {c, s});
    CHECK_THROWS_AS(merged("nuslerp", {{1, 0}, {0, 1}}, {{"weights", {0, 0}}}), Error);
    CHECK(plugins().problems("nuslerp", {{"along", "row"}}).size() == 1);
}

TEST_CASE("the Karcher mean: the tangents to the experts cancel out there, and the length is the mean") {
    const double third = 1 / std::sqrt(3.0);
    check_near(merged("karcher", {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}), {third, third, third});
    check_near(merged("karcher", {{2, 0}, {0, 4}}), {3 * std::sqrt(0.5), 3 * std::sqrt(0.5)});
    check_near(merged("karcher", {{1, 0}, {0, 0}}), {0.5, 0});  // a vector of zeros has no direction
    check_near(merged("karcher", {{1, 2}, {-1, -2}}), {0, 0});  // opposite: the plain mean
    const auto in = odd_tensors(4, 9);
    const auto out = plugins().run("karcher", in, {{"max_iter", 200}, {"tolerance", 1e-9}});
    for (size_t t = 0; t < in.size(); ++t) {
        if (in[t].size() < 6) continue;
        INFO(in[t].name);
        const Vector mean = wide(out[t].experts[0]);
        double length = 0;
        Vector tangent(mean.size());
        for (const Floats& expert : in[t].experts) {
            const Vector x = wide(expert);
            length += norm(x) / 4;
            const double cosine = dot(x, mean) / norm(x) / norm(mean), angle = std::acos(cosine);
            for (size_t k = 0; k < x.size(); ++k)
                tangent[k] += angle / std::sin(angle) * (x[k] / norm(x) - cosine * mean[k] / norm(mean));
        }
        CHECK(norm(mean) == Approx(length).epsilon(1e-6));
        CHECK(norm(tangent) < 1e-5);
    }
}

TEST_CASE("multislerp: the direction of the mean of directions") {
    const double s = std::sqrt(0.5);
    check_near(merged("multislerp", {{2, 0}, {0, 4}}), {3 * s, 3 * s});
    const double a = 0.75, b = 0.25, size = std::hypot(a, b);
    check_near(merged("multislerp.delta", {{2, 0}, {0, 4}}, {{"weights", {3, 1}}}), {2.5 * a / size, 2.5 * b / size});
    check_near(merged("multislerp", {{1, 2}, {-1, -2}}), {0, 0});
    CHECK_THROWS_AS(merged("multislerp", {{1, 2}, {1, 3}}, {{"weights", {0, 0}}}), Error);
    CHECK_THROWS_AS(merged("multislerp", {{1, 2}, {1, 3}}, {{"weights", {1, 1, 1}}}), Error);
}

TEST_CASE("Model Stock: the ratio by the angle") {
    // At 60°, cos = 1/2: t = 2 · 1/2 / (1 + 1/2) = 2/3, of the mean (3/4, √3/4).
    const float h = std::sqrt(3.0F) / 2;
    check_near(merged("model-stock", {{1, 0}, {0.5F, h}}), {0.5, std::sqrt(3.0) / 6});
    CHECK(merged("model-stock", {{1, 0}, {0, 1}}) == Floats{0, 0});
    CHECK(merged("model-stock", {{1, 0}, {-1, 0.1F}}) == Floats{0, 0});  // a negative cosine counts as 0
    const auto stage = plugins().stage("model-stock");
    stage->run(one_tensor({{1, 0}, {0, 1}}));
    const auto log = stage->log();
    CHECK(std::any_of(log.begin(), log.end(), [](const std::string& line) {
        return line.starts_with("2 ") && line.find("nearly the base") != std::string::npos;
    }));
    const auto still = plugins().stage("model-stock");
    CHECK(still->run(one_tensor({{0, 0}, {0, 0}}))[0].experts[0] == Floats{0, 0});
    CHECK(still->log().empty());  // no expert has moved: that says nothing of angles
    // Three at 90°, 60° and 30°: the mean of the cosines is not the cosine of the mean angle, 60°.
    const std::vector<Floats> three = {{1, 0, 0}, {0, 1, 0}, {0.5F, h, 0}};
    const double c = (0 + 0.5 + std::sqrt(0.75)) / 3, t = 3 * c / (1 + 2 * c), at_60 = 3 * 0.5 / 2;
    check_near(merged("model-stock", three), {t * 0.5, t * (1 + std::sqrt(0.75)) / 3, 0});
    check_near(merged("model-stock", three, {{"mean_of", "angles"}}),
               {at_60 * 0.5, at_60 * (1 + std::sqrt(0.75)) / 3, 0});
}

TEST_CASE("TIES' parts: trim by rank, elect by the sum, sums, weighted means and EMR's maximum") {
    CHECK(merged("trim.rank", {{1, -4, 3, 2, 0}}, {{"density", 0.4}}) == Floats{0, -4, 3, 0, 0});
    CHECK(merged("trim.rank", {{1, -2, 2}}, {{"density", 0.4}}) == Floats{0, -2, 2});  // ties stay
    CHECK(merged("trim.rank", {{0.5F}}, {{"density", 0.01}}) == Floats{0.5F});         // one value at least
    const auto in = one_tensor({{3, -1, 1, 0}, {-1, -2, -1, 0}});
    const auto plus = plugins().run("elect.sum", in), minus = plugins().run("elect.sum", in, {{"zero", "minus"}});
    CHECK(plus[0].experts == std::vector<Floats>{{3, -1, 1, 0}, {0, -2, 0, 0}});
    CHECK(minus[0].experts == std::vector<Floats>{{3, -1, 0, 0}, {0, -2, -1, 0}});
    // Sums: at full density 3, -3, and 1 alone.
    CHECK(merged("ties.global-sum", {{3, -1, 1}, {-1, -2, -0.5F}}, {{"density", 1}, {"lambda", 2}}) ==
          Floats{6, -6, 2});
    // Weighted before: 2 · 3 and 1 · 1 are 7, of the weights 3; one of them alone is divided by its own.
    const Json weights = {{"weights", {2, 1}}};
    const auto weighed = plugins().run("weigh", one_tensor({{3, 1, 0}, {1, 0, 0}}), weights);
    CHECK(weighed[0].experts == std::vector<Floats>{{6, 2, 0}, {1, 0, 0}});
    check_near(merged("disjoint-weighted", weighed[0].experts, weights), {7.0 / 3, 1, 0});
    CHECK(agrees_by_element("emr.unified", Json::object(), 5, [](const Vector& x) {
              const int elected = total(x) > 0 ? 1 : -1;
              double largest = 0;
              for (const double value : x)
                  if (sign(value) == elected) largest = std::max(largest, std::fabs(value));
              return elected * largest;
          }) < 1e-9);
}

TEST_CASE("DARE with L1 rescaling: the mask of the same numbers, the former sum of magnitudes") {
    const auto in = odd_tensors(2);
    const auto out = plugins().run("random-drop.l1", in, {{"p", 0.6}});
    for (size_t t = 0; t < in.size(); ++t)
        for (size_t i = 0; i < 2; ++i) {
            INFO(in[t].name);
            const sdk::Philox numbers(mix(mix(1, t), i));
            double before = 0, after = 0, kept = 0;
            for (size_t k = 0; k < in[t].size(); ++k) {
                before += std::fabs(in[t].experts[i][k]);
                after += std::fabs(out[t].experts[i][k]);
                kept += numbers.uniform(k) >= 0.6 ? 1 : 0;
                CHECK((out[t].experts[i][k] != 0) == (numbers.uniform(k) >= 0.6));
            }
            if (kept > 0) CHECK(after == Approx(before).epsilon(1e-6));
        }
}

TEST_CASE("MagPrune: the larger the magnitude in its row, the likelier it stays") {
    std::vector<StageTensor> in = odd_tensors(1, 5);
    in.push_back({"ties", "matrix", {2, 3}, {{1, 1, 1, 0, 0, 0}}});
    const Json with = {{"density", 0.6}, {"epsilon", 0.2}};
    const auto out = plugins().run("magprune", in, with);
    for (size_t t = 0; t < in.size(); ++t) {
        INFO(in[t].name);
        const Floats& delta = in[t].experts[0];
        const size_t row = in[t].shape.size() < 2 ? delta.size() : delta.size() / in[t].shape[0];
        const sdk::Philox numbers(mix(mix(1, t), 0));
        for (size_t k = 0; k < delta.size(); ++k) {
            const size_t from = k / row * row;
            size_t rank = 0;  // how many of the row are smaller, or equal and before
            for (size_t j = from; j < from + row; ++j)
                rank +=
                    std::fabs(delta[j]) < std::fabs(delta[k]) || (std::fabs(delta[j]) == std::fabs(delta[k]) && j < k);
            const double keep = row == 1 ? 0.6 : 0.4 + 0.4 * static_cast<double>(rank) / static_cast<double>(row - 1);
            const double expected = numbers.uniform(k) < keep ? delta[k] / keep : 0;
            REQUIRE(out[t].experts[0][k] == Approx(expected).epsilon(1e-6));
        }
    }
    // The expected value is the value itself.
    const Floats values = {1, -2, 3, -4};
    Vector mean(4);
    constexpr int kSeeds = 20000;
    for (int seed = 0; seed < kSeeds; ++seed) {
        const auto draw = plugins().run("magprune", one_tensor({values}), with, {.seed = static_cast<uint64_t>(seed)});
        for (size_t k = 0; k < 4; ++k) mean[k] += draw[0].experts[0][k] / static_cast<double>(kSeeds);
    }
    for (size_t k = 0; k < 4; ++k) CHECK(mean[k] == Approx(values[k]).epsilon(0.05));
    for (const Json& bad : {Json{{"density", 0.1}, {"epsilon", 0.15}}, Json{{"density", 0.9}, {"epsilon", 0.15}}})
        CHECK_THROWS_WITH(plugins().stage("magprune", bad), Catch::Contains("density + epsilon"));
}

TEST_CASE("MagPrune by magnitude: the nearer to the tensor's largest, the likelier it stays") {
    std::vector<StageTensor> in = odd_tensors(1, 5);
    in.push_back({"equal", "matrix", {2, 3}, {{1, -1, 1, 1, -1, 1}}});
    in.push_back({"zeros", "matrix", {700}, {Floats(700, 0)}});
    in.push_back({"more than a block", "matrix", {1300}, {Floats(1300, 0.25F)}});
    in.back().experts[0][1299] = 1;
    const auto out = plugins().run("magprune.magnitude", in, {{"p", 0.8}});
    for (size_t t = 0; t < in.size(); ++t) {
        INFO(in[t].name);
        const Floats& delta = in[t].experts[0];
        double largest = 0;
        for (const float value : delta) largest = std::max(largest, std::fabs(double{value}));
        const sdk::Philox numbers(mix(mix(1, t), 0));
        for (size_t k = 0; k < delta.size(); ++k) {
            const double drop = largest > 0 ? 0.8 * (1 - std::fabs(double{delta[k]}) / largest) : 0;
            const double expected = numbers.uniform(k) < drop ? 0 : delta[k] / (1 - drop);
            REQUIRE(out[t].experts[0][k] == Approx(expected).epsilon(1e-6));
        }
    }
    // What isn't finite is there still, for the host to find.
    const auto broken = plugins().run(
        "magprune.magnitude",
        one_tensor({{1, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}}),
        {{"p", 0.8}});
    CHECK(!std::isfinite(broken[0].experts[0][1]));
    CHECK(std::isnan(broken[0].experts[0][2]));
    // The expected value is the value itself; the largest always stays.
    const Floats values = {1, -2, 3, -4};
    Vector mean(4);
    constexpr int kSeeds = 20000;
    for (int seed = 0; seed < kSeeds; ++seed) {
        const auto draw = plugins().run("magprune.magnitude", one_tensor({values}), {{"p", 0.8}},
                                        {.seed = static_cast<uint64_t>(seed)});
        REQUIRE(draw[0].experts[0][3] == -4);
        for (size_t k = 0; k < 4; ++k) mean[k] += draw[0].experts[0][k] / static_cast<double>(kSeeds);
    }
    for (size_t k = 0; k < 4; ++k) CHECK(mean[k] == Approx(values[k]).epsilon(0.05));
}

TEST_CASE("Breadcrumbs: the middle of the magnitudes, and tiny tensors stay") {
    const Floats ten = {5, -1, 10, 2, -9, 3, 8, -4, 7, 6};
    const Json with = {{"density", 0.4}, {"gamma", 0.2}};
    CHECK(merged("breadcrumbs.mask", {ten}, with) == Floats{5, 0, 0, 0, 0, 0, 8, 0, 7, 6});
    CHECK(merged("breadcrumbs.mask", {{0.5F, -0.25F}}, {{"density", 0.1}, {"gamma", 0.01}}) == Floats{0.5F, 0});
    CHECK(merged("breadcrumbs.mask", {{0.5F}}, {{"density", 0.1}, {"gamma", 0.99}}) == Floats{0.5F});
    // Where gamma leaves less than density asks for, the density counts.
    CHECK(merged("breadcrumbs.mask", {ten}, {{"density", 0.9}, {"gamma", 0.5}}) ==
          Floats{5, -1, 0, 2, -9, 3, 8, -4, 7, 6});
    // A tensor that is counted rather than sorted: 300 000 magnitudes, all different.
    Floats many(300000);
    for (size_t k = 0; k < many.size(); ++k)
        many[k] = static_cast<float>((k * 7919) % many.size() + 1) * (k % 2 == 0 ? 1.0F : -1.0F);
    const Floats kept = merged("breadcrumbs.mask", {many}, {{"density", 0.5}, {"gamma", 0.01}});
    for (size_t k = 0; k < many.size(); ++k) {
        const float magnitude = std::fabs(many[k]);
        if ((kept[k] != 0) != (magnitude > 147000 && magnitude <= 297000)) FAIL(k << ": " << many[k]);
    }
}

TEST_CASE("MagMax: the largest magnitude") {
    CHECK(merged("magmax", {{1, -4, 2, -3}, {-2, 3, -2, 3}}, {{"lambda", 1}}) == Floats{-2, -4, 2, 3});
    CHECK(merged("magmax", {{1, -4}, {-2, 3}}) == Floats{-1, -2});
}

TEST_CASE("consensus: places that enough experts need") {
    // Σ = (1.5, 3, 0). |δ| against 0.4 |Σ − δ|: 2 > 0.2, 0.5 < 0.8; 1 > 0.8 and 2 > 0.4; 1 > 0.4 twice.
    const std::vector<Floats> two = {{2, 1, 1}, {-0.5F, 2, -1}};
    CHECK(merged("consensus-ta", two) == Floats{0, 1.5F, 0});
    CHECK(merged("consensus-ta", two, {{"agree", 1}}) == Floats{0.75F, 1.5F, 0});
    CHECK(merged("consensus-ta", two, {{"mask_lambdas", {0.4, 0.2}}}) == Floats{0.75F, 1.5F, 0});
    for (const int agree : {1, 2, 3})
        CHECK(agrees_by_element("consensus-ta", {{"agree", agree}, {"lambda_mean", 2}}, 4, [&](const Vector& x) {
                  int votes = 0;
                  for (const double value : x) votes += std::fabs(value) > 0.4 * std::fabs(total(x) - value) ? 1 : 0;
                  return votes >= agree ? 2 * total(x) / 4 : 0.0;
              }) < 1e-8);
    CHECK_THROWS_WITH(merged("consensus-ta", {{1}}), Catch::Contains("expects 2 experts to agree, found 1"));
}

TEST_CASE("SCE: select, calculate, erase") {
    // Both elements: squares 9 + 1 and 1 + 4, so 2/3 and 1/3. First: both positive. Second: the sum is negative.
    check_near(merged("sce", {{3, 1}, {1, -2}}), {(2 * 3 + 1) / 3.0, -2});
    // Half of them: the second varies most, 1 to −2.
    check_near(merged("sce", {{3, 1}, {1, -2}}, {{"density", 0.5}}), {0, -2});
    CHECK(merged("sce", {{3, 1}, {3, 1}}, {{"density", 0.5}}) == Floats{0, 0});  // nothing varies
}

TEST_CASE("PCB: scores by magnitude and agreement over the whole vector, the best of them weigh") {
    for (const size_t n : {1UL, 3UL, 5UL})
        for (const double ratio : {0.05, 0.3}) {
            INFO(n << " experts, ratio " << ratio);
            auto in = odd_tensors(n, 21);
            for (StageTensor& tensor : in)
                for (Floats& expert : tensor.experts)
                    for (float& value : expert) value *= 50;  // so that tanh bends
            const auto out = plugins().run("pcb", in, {{"ratio", ratio}, {"lambda", 1.2}}, {{7, 64, 1}, 3});
            std::vector<Vector> flat(n);
            Vector found;
            for (size_t t = 0; t < in.size(); ++t) {
                for (size_t i = 0; i < n; ++i)
                    flat[i].insert(flat[i].end(), in[t].experts[i].begin(), in[t].experts[i].end());
                found.insert(found.end(), out[t].experts[0].begin(), out[t].experts[0].end());
            }
            const size_t d = flat[0].size();
            const auto at = [&](double place) { return static_cast<size_t>(place); };
            const auto count = static_cast<double>(d);
            std::vector<Vector> clamped(n, Vector(d)), scores(n, Vector(d));
            for (size_t i = 0; i < n; ++i) {
                Vector magnitudes(d);
                for (size_t k = 0; k < d; ++k) magnitudes[k] = std::fabs(flat[i][k]);
                Vector sorted = magnitudes;
                std::sort(sorted.begin(), sorted.end());
                const double low = sorted[at(count * 0.0001)], high = sorted[at(count * (1 - 0.0001) - 1)];
                for (size_t k = 0; k < d; ++k) {
                    const double magnitude = std::clamp(magnitudes[k], low, high);
                    double sum = 0;
                    for (const Vector& other : flat) sum += other[k];
                    const double nrm = (magnitude - low) / (high - low);
                    clamped[i][k] = sign(flat[i][k]) * magnitude;
                    scores[i][k] = std::exp(static_cast<double>(n) * nrm * nrm) * std::tanh(flat[i][k] * sum);
                }
                sorted = scores[i];
                std::sort(sorted.begin(), sorted.end());
                const double floor = sorted[at(count * (1 - ratio))], top = sorted[d - 1];
                for (double& score : scores[i]) score = (std::max(score, floor) - floor) / (top - floor);
            }
            size_t with_a_say = 0;
            for (size_t k = 0; k < d; ++k) {
                double sum = 0, weight = 0;
                for (size_t i = 0; i < n; ++i) sum += scores[i][k] * clamped[i][k], weight += scores[i][k];
                with_a_say += weight > 1e-6 ? 1 : 0;
                INFO(k);
                // A share of nearly 0, the score that is the floor, is rounding in one of the two.
                if (weight == 0 || weight > 1e-5)
                    CHECK(found[k] == Approx(1.2 * sum / std::max(weight, 1e-12)).epsilon(1e-4).margin(1e-7));
            }
            CHECK(with_a_say > ratio * count / 2);
            CHECK(with_a_say < static_cast<double>(n) * ratio * count + 1);
        }
}

TEST_CASE("coordinate-wise median and trimmed mean") {
    for (const size_t n : {1UL, 2UL, 3UL, 4UL, 5UL, 8UL}) {
        INFO(n);
        CHECK(agrees_by_element("coordinate-median", Json::object(), n, [](Vector x) {
                  std::sort(x.begin(), x.end());
                  return (x[(x.size() - 1) / 2] + x[x.size() / 2]) / 2;
              }) < 1e-8);
        for (const double trim : {0.0, 0.2, 0.34})
            CHECK(agrees_by_element("trimmed-mean", {{"trim", trim}}, n, [&](Vector x) {
                      std::sort(x.begin(), x.end());
                      const auto off = static_cast<std::ptrdiff_t>(trim * static_cast<double>(x.size()) + 1e-9);
                      const Vector middle(x.begin() + off, x.end() - off);
                      return total(middle) / static_cast<double>(middle.size());
                  }) < 1e-8);
    }
    const auto stage = plugins().stage("trimmed-mean");
    stage->run(one_tensor({{1}, {2}}));
    CHECK(stage->log() == std::vector<std::string>{"2 trims none of 2 experts, so it is the average"});
    CHECK(plugins().problems("trimmed-mean", {{"trim", 0.5}}).size() == 1);
}

TEST_CASE("norm-adjusted weights: the inverse of the lengths over all tensors") {
    // Lengths 5 and 10: weights 2/3 and 1/3.
    const std::vector<StageTensor> in = {{"a", "", {1}, {{3}, {6}}}, {"b", "", {2}, {{4, 0}, {0, 8}}}};
    const auto out = plugins().run("norm-adjusted", in, {{"lambda_mean", 0.5}});
    check_near(out[0].experts[0], {2});
    check_near(out[1].experts[0], {4.0 / 3, 4.0 / 3});
    // One of zeros has no direction and no weight.
    check_near(merged("norm-adjusted", {{3, 4}, {0, 0}}), {3, 4});
}

TEST_CASE("norm matching: as long as the experts are on average") {
    std::vector<StageTensor> in = {{"a", "", {2}, {{3, 4}}, -1, {{0, 1}, {3, 0}, {2, 0}}},
                                   {"b", "", {1}, {{12}}, -1, {{2}, {4}, {0}}},
                                   {"c", "", {1}, {{0}}, -1, {{2}, {1}, {0}}}};
    const auto each = plugins().run("norm-match", in);
    check_near(each[0].experts[0], {1.2, 1.6});  // (1 + 3 + 2)/3 = 2, of 5
    check_near(each[1].experts[0], {2});
    CHECK(each[2].experts[0] == Floats{0});
    const auto all = plugins().run("norm-match.global", in, Json::object(), {{1}, 2});
    const double scale = (3 + std::sqrt(26.0) + 2) / 3 / 13;  // lengths 3, √(9 + 16 + 1), 2; of 13
    check_near(all[0].experts[0], {3 * scale, 4 * scale});
    check_near(all[1].experts[0], {12 * scale});
}

TEST_CASE("LiNeS: scales grow with depth, and start where the sums of magnitudes say") {
    std::vector<StageTensor> in = {{"first", "", {2}, {{1, -1}}, 0, {{2, -1}, {1, -2}}},
                                   {"second", "", {1}, {{2}}, 1, {{3}, {-1}}},
                                   {"third", "", {1}, {{1}}, 2, {{1}, {1}}},
                                   {"none", "", {1}, {{1}}, -1, {{1}, {-1}}}};
    const auto given = plugins().run("lines", in, {{"alpha", 0.25}, {"beta", 1}});
    CHECK(given[0].experts[0] == Floats{0.25F, -0.25F});
    CHECK(given[1].experts[0] == Floats{1.5F});
    CHECK(given[2].experts[0] == Floats{1.25F});
    CHECK(given[3].experts[0] == Floats{0.25F});
    // ‖Σ δ‖₁ = 3 + 3 + 2 + 2 + 0 = 10, ‖x‖₁ = 6, N = 2: α = 5/6.
    const auto own = plugins().run("lines", in, {{"beta", 0.5}}, {{1, 3}, 2});
    check_near(own[0].experts[0], {5.0 / 6, -5.0 / 6});
    check_near(own[1].experts[0], {2 * (5.0 / 6 + 0.25)});
    check_near(own[2].experts[0], {5.0 / 6 + 0.5});
    CHECK_THROWS_WITH(plugins().run("lines", one_tensor({{1}})), Catch::Contains("name no block"));
}
