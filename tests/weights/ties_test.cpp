// TIES against a computation of its own: sorting, loops and float64, over the whole vector laid end to end.
#include <catch2/catch.hpp>

#include "stage_host.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

const StagePlugins& plugins() {
    return StagePlugins::get();
}
int sign(double value) {
    return value > 0 ? 1 : value < 0 ? -1 : 0;
}

using Vector = std::vector<double>;

Vector flat(const std::vector<StageTensor>& tensors, size_t expert) {
    Vector out;
    for (const StageTensor& tensor : tensors)
        out.insert(out.end(), tensor.experts[expert].begin(), tensor.experts[expert].end());
    return out;
}
std::vector<Vector> all_flat(const std::vector<StageTensor>& tensors) {
    std::vector<Vector> out;
    for (size_t i = 0; i < tensors[0].experts.size(); ++i) out.push_back(flat(tensors, i));
    return out;
}

Vector sorted_magnitudes(const Vector& values) {
    Vector out;
    for (const double value : values) out.push_back(std::fabs(value));
    std::sort(out.begin(), out.end());
    return out;
}

Vector trimmed(Vector values, size_t kept) {
    const Vector magnitudes = sorted_magnitudes(values);
    for (double& value : values)
        if (std::fabs(value) < magnitudes[magnitudes.size() - kept]) value = 0;
    return values;
}

/// Trims to `kept` values and merges, Yadav et al. 2023, algorithm 1.
Vector ties(std::vector<Vector> experts, size_t kept) {
    for (Vector& expert : experts) expert = trimmed(expert, kept);
    std::vector<int> elected;
    for (size_t k = 0; k < experts[0].size(); ++k) {
        double sum = 0;
        for (const Vector& expert : experts) sum += expert[k];
        elected.push_back(sign(sum));
    }
    const int balance = std::accumulate(elected.begin(), elected.end(), 0);
    Vector out;
    for (size_t k = 0; k < experts[0].size(); ++k) {
        const int wanted = elected[k] != 0 ? elected[k] : balance < 0 ? -1 : 1;
        double sum = 0;
        int count = 0;
        for (const Vector& expert : experts)
            if (sign(expert[k]) == wanted) sum += expert[k], ++count;
        out.push_back(count > 0 ? sum / count : 0);
    }
    return out;
}

/// The code that goes with arXiv 2605.03914, for one tensor.
Vector ties_of_nihal(std::vector<Vector> experts, double trim) {
    const auto n = static_cast<double>(experts.size());
    for (Vector& expert : experts) {
        const Vector magnitudes = sorted_magnitudes(expert);
        const double place = trim * static_cast<double>(magnitudes.size() - 1), below = std::floor(place);
        const auto at = static_cast<size_t>(below);
        const double next = magnitudes[std::min(at + 1, magnitudes.size() - 1)];
        const double quantile = magnitudes[at] + (place - below) * (next - magnitudes[at]);
        for (double& value : expert)
            if (std::fabs(value) < quantile) value = 0;
    }
    Vector out;
    for (size_t k = 0; k < experts[0].size(); ++k) {
        int vote = 0;
        for (const Vector& expert : experts) vote += sign(expert[k]);
        const int elected = vote != 0 ? sign(vote) : sign(experts[0][k]);
        double sum = 0;
        int agree = 0;
        for (const Vector& expert : experts)
            if (sign(expert[k]) == elected) sum += expert[k] / n, ++agree;
        out.push_back(sum / std::max(agree, 1));
    }
    return out;
}

void check_close(const Vector& found, const Vector& expected) {
    REQUIRE(found.size() == expected.size());
    for (size_t k = 0; k < found.size(); ++k) {
        INFO(k);
        REQUIRE(found[k] == Approx(expected[k]).epsilon(1e-6).margin(1e-12));
    }
}

}  // namespace

TEST_CASE("TIES follows the paper on odd shapes, whatever the tiles and the observing states") {
    for (const size_t experts : {1UL, 2UL, 3UL, 5UL}) {
        const auto tensors = odd_tensors(experts, experts);
        const size_t elements = flat(tensors, 0).size();
        for (const double density : {0.01, 0.2, 0.5, 0.97, 1.0}) {
            const auto kept = static_cast<size_t>(std::ceil(density * static_cast<double>(elements)));
            const Json with = {{"density", density}, {"lambda", 1.5}};
            const auto found = plugins().run("ties.global", tensors, with);
            Vector expected = ties(all_flat(tensors), kept);
            for (double& value : expected) value *= 1.5;
            check_close(flat(found, 0), expected);
            CHECK(same_bits(plugins().run("ties.global", tensors, with, {{1, 7, 3}, 3, 1}), found));
            CHECK(same_bits(plugins().run("ties.global", tensors, with, {{5}, 40, 1}), found));
        }
        // The default keeps a fifth.
        const auto kept = static_cast<size_t>(std::ceil(0.2 * static_cast<double>(elements)));
        check_close(flat(plugins().run("ties.global", tensors), 0), ties(all_flat(tensors), kept));
    }
}

TEST_CASE("the variant of Nihal et al. follows their code") {
    for (const size_t experts : {1UL, 2UL, 3UL, 4UL})
        for (const double trim : {0.0, 0.1, 0.2, 0.5, 0.8, 1.0}) {
            const auto tensors = odd_tensors(experts, 10 + experts);
            const auto found = plugins().run("ties.nihal2026", tensors, {{"trim", trim}});
            for (size_t t = 0; t < tensors.size(); ++t) {
                INFO(tensors[t].name << " " << trim);
                if (tensors[t].size() == 0) continue;
                const std::vector<StageTensor> one = {tensors[t]};
                check_close(flat({found[t]}, 0), ties_of_nihal(all_flat(one), trim));
            }
        }
}

TEST_CASE("trim keeps the rank over the whole vector, with all ties, of each expert by itself") {
    // Two tensors; expert 0 has its large values in the first, expert 1 in the second.
    const std::vector<StageTensor> tensors = {{"a", "bias", {4}, {{4, -3, 2, 0}, {0, 0, 0.5F, 0}}},
                                              {"b", "bias", {4}, {{1, -2, 0, 2}, {-8, 7, 6, 5}}}};
    // Rank 3 of expert 0 is 2: all three values of that magnitude stay. Ranks 1 to 3 of expert 1 are 8, 7 and 6.
    const auto out = plugins().run("trim", tensors, {{"density", 0.375}});
    CHECK(out[0].experts[0] == std::vector<float>{4, -3, 2, 0});
    CHECK(out[1].experts[0] == std::vector<float>{0, -2, 0, 2});
    CHECK(out[0].experts[1] == std::vector<float>{0, 0, 0, 0});
    CHECK(out[1].experts[1] == std::vector<float>{-8, 7, 6, 0});
    // Magnitudes that differ in the last bit, and in the lower half of the pattern alone.
    const float one = 1, next = std::nextafter(1.0F, 2.0F), middle = 1.002F;
    const auto fine = plugins().run("trim", one_tensor({{one, -next, middle, -1.001F}}), {{"density", 0.75}});
    CHECK(fine[0].experts[0] == std::vector<float>{0, -next, middle, -1.001F});
    // 0.28 of 100 are 28, though the product in floating point is more.
    std::vector<float> hundred(100);
    std::iota(hundred.begin(), hundred.end(), 1.0F);
    const auto part = plugins().run("trim", one_tensor({hundred}), {{"density", 0.28}});
    CHECK(std::count_if(part[0].experts[0].begin(), part[0].experts[0].end(), [](float x) { return x != 0; }) == 28);
    // Fewer values than wanted: all stay. Subnormal numbers are numbers.
    const auto sparse = plugins().run("trim", one_tensor({{0, 1e-41F, -0.0F, -3}}), {{"density", 0.75}});
    CHECK(sparse[0].experts[0] == std::vector<float>{0, 1e-41F, 0, -3});
    // An expert of zeros.
    CHECK(plugins().run("trim", one_tensor({{0, 0}, {1, 2}}))[0].experts[0] == std::vector<float>{0, 0});
}

TEST_CASE("trim.tensor interpolates the quantile and keeps what is at it") {
    // The median of 1 … 5 is 3, which stays; of 1 … 4 it is 2.5.
    CHECK(plugins().run("trim.tensor", one_tensor({{1, -2, 3, -4, 5}}), {{"trim", 0.5}})[0].experts[0] ==
          std::vector<float>{0, 0, 3, -4, 5});
    CHECK(plugins().run("trim.tensor", one_tensor({{4, -3, 2, -1}}), {{"trim", 0.5}})[0].experts[0] ==
          std::vector<float>{4, -3, 0, 0});
    // A value alone, and equal magnitudes.
    CHECK(plugins().run("trim.tensor", one_tensor({{0.5F}}), {{"trim", 0.9}})[0].experts[0] ==
          std::vector<float>{0.5F});
    CHECK(plugins().run("trim.tensor", one_tensor({{2, -2, 2}}), {{"trim", 0.9}})[0].experts[0] ==
          std::vector<float>{2, -2, 2});
    // 0.1 of 70 steps is 7, though the product in floating point is more.
    std::vector<float> steps(71);
    std::iota(steps.begin(), steps.end(), 1.0F);
    const auto out = plugins().run("trim.tensor", one_tensor({steps}), {{"trim", 0.1}})[0].experts[0];
    CHECK(out[6] == 0);
    CHECK(out[7] == 8);
}

TEST_CASE("the elected sign is that of the sum; where it is 0, of most elements; else +") {
    // Sums -2, 0, -1, 3: two of three elected signs are -, so the element that cancels out takes -.
    auto out = plugins().run("elect", one_tensor({{1, 5, -1, 1}, {-3, -5, 0, 2}}));
    CHECK(out[0].experts[0] == std::vector<float>{0, 0, -1, 1});
    CHECK(out[0].experts[1] == std::vector<float>{-3, -5, 0, 2});
    // One + and one -: a tie takes +.
    out = plugins().run("elect", one_tensor({{1, 5, -1}, {0, -5, 0}}));
    CHECK(out[0].experts[0] == std::vector<float>{1, 5, -1});
    CHECK(out[0].experts[1] == std::vector<float>{0, 0, 0});
    // Nothing but cancellation.
    CHECK(plugins().run("elect", one_tensor({{-2}, {2}}))[0].experts[1] == std::vector<float>{2});
    // The majority is that of all tensors, also where observers share them.
    const std::vector<StageTensor> two = {{"a", "bias", {1}, {{2}, {-2}}},
                                          {"b", "bias", {3}, {{-1, -1, 1}, {0, 0, 0}}}};
    for (const size_t states : {1UL, 2UL, 4UL}) {
        const auto both = plugins().run("elect", two, Json::object(), {{1}, states, 1});
        CHECK(both[0].experts[0] == std::vector<float>{0});
        CHECK(both[0].experts[1] == std::vector<float>{-2});
    }
    // A sum that float32 would lose.
    out = plugins().run("elect", one_tensor({{1e8F}, {-1}, {-1e8F}}));
    CHECK(out[0].experts[1] == std::vector<float>{-1});
}

TEST_CASE("signs by count: magnitude doesn't matter, a tie takes the first expert's") {
    auto out = plugins().run("elect.count", one_tensor({{9, 1, -1, 0}, {-1, -9, 1, 1}, {-1, 0, 0, -1}}));
    CHECK(out[0].experts[0] == std::vector<float>{0, 1, -1, 0});
    CHECK(out[0].experts[1] == std::vector<float>{-1, 0, 0, 0});
    CHECK(out[0].experts[2] == std::vector<float>{-1, 0, 0, 0});
}

TEST_CASE("the disjoint mean counts experts that have a value") {
    const auto tensors = one_tensor({{1, 0, -4, 0}, {3, 2, 0, 0}, {2, 0, -2, 0}});
    CHECK(plugins().run("disjoint-mean", tensors)[0].experts[0] == std::vector<float>{2, 2, -3, 0});
    CHECK(plugins().run("disjoint-mean", tensors, {{"lambda", 0.5}})[0].experts[0] ==
          std::vector<float>{1, 1, -1.5F, 0});
    CHECK(plugins().run("disjoint-mean", one_tensor({{8, 4}, {4, 0}}), {{"shrink", true}})[0].experts[0] ==
          std::vector<float>{3, 2});
}

TEST_CASE("TIES: identities and symmetries") {
    const auto alone = odd_tensors(1), tensors = odd_tensors(4);
    CHECK(same_bits(plugins().run("ties.global", alone, {{"density", 1}}), alone));
    CHECK(same_bits(plugins().run("ties.nihal2026", alone, {{"trim", 0}}), alone));
    auto equal = tensors;
    for (StageTensor& tensor : equal) tensor.experts.assign(3, tensor.experts[0]);
    CHECK(distance(plugins().run("ties.global", equal, {{"density", 1}}), equal) < 1e-8);

    const auto found = plugins().run("ties.global", tensors);
    CHECK(distance(plugins().run("ties.global", reversed(tensors)), found) < 1e-8);
    // Powers of two scale without rounding.
    CHECK(same_bits(plugins().run("ties.global", scaled(tensors, 8)), scaled(found, 8)));
    CHECK(same_bits(plugins().run("ties.nihal2026", scaled(tensors, 8)),
                    scaled(plugins().run("ties.nihal2026", tensors), 8)));
    CHECK(distance(plugins().run("ties.global", scaled(tensors, 0)), scaled(found, 0)) == 0);
}

TEST_CASE("TIES: parameters outside of their ranges are refused") {
    for (const auto& [id, with] : std::vector<std::pair<std::string, Json>>{{"trim", {{"density", 0}}},
                                                                            {"trim", {{"density", 1.1}}},
                                                                            {"ties.global", {{"density", 20}}},
                                                                            {"ties.global", {{"trim", 0.2}}},
                                                                            {"trim.tensor", {{"trim", -0.1}}},
                                                                            {"ties.nihal2026", {{"trim", 2}}},
                                                                            {"elect", {{"density", 1}}},
                                                                            {"disjoint-mean", {{"shrink", 1}}}}) {
        INFO(id << with.dump());
        REQUIRE(plugins().problems(id, with).size() == 1);
        CHECK_THAT(plugins().problems(id, with)[0].text(), Catch::Contains("/with/" + with.begin().key()));
    }
}
