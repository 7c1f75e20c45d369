// The merge plugins that come with the program, loaded as a pipeline loads them.
#include <cmath>

#include "base/schema.hpp"
#include "files.hpp"
#include "weights/merge.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

const Registry& registry() {
    static const Registry plugins({fs::path(BPH_BUILD_DIR) / "plugins"}, false);
    return plugins;
}

struct Merges {
    Folder folder;
    EncoderFile base;
    std::vector<EncoderFile> models;
    std::vector<fs::path> vectors;
    size_t count = 0;

    explicit Merges(size_t experts) {
        base.values = {{"w", normal_values(3001, 0.05, 1)}, {"b", normal_values(7, 1, 2)}};
        base.write(folder / "base");
        for (size_t i = 0; i < experts; ++i) {
            models.push_back(base);
            for (auto& [name, values] : models.back().values) {
                const std::vector<float> step = normal_values(values.size(), 0.01, 10 * i + name.size());
                for (size_t k = 0; k < values.size(); ++k) values[k] += step[k] * (i == 1 ? 1000.F : 1.F);
            }
            models.back().write(folder / "model");
            vectors.push_back(folder / ("vector" + std::to_string(i)));
            write_task_vector(folder / "base", folder / "model", vectors.back(), {});
        }
    }
    fs::path run(const char* name, const Json& params, const MergeOptions& options = {}) {
        const fs::path out = folder / ("merged" + std::to_string(count++));
        merge(folder / "base", vectors, {{&registry().require(name), params}}, out, options);
        return out;
    }
    std::string bytes(const char* name, const Json& params, const MergeOptions& options = {}) {
        return read_file(run(name, params, options));
    }
    /// Largest distance to base + scale × Σ δ in double, in units of the largest term.
    double error(const fs::path& merged, double scale) {
        double worst = 0;
        for (const auto& [name, values] : base.values) {
            const std::vector<float> found = SafetensorsFile::open(merged).read_floats(name);
            for (size_t k = 0; k < values.size(); ++k) {
                double sum = 0, size = std::fabs(values[k]);
                for (const fs::path& vector : vectors) {
                    const double delta = SafetensorsFile::open(vector).read_floats(name)[k];
                    sum += delta;
                    size = std::max(size, std::fabs(scale * delta));
                }
                worst = std::max(worst, std::fabs(found[k] - (values[k] + scale * sum)) / size);
                if (values.size() > 100) k += 99;
            }
        }
        return worst;
    }
};

std::vector<Diagnostic> checked(Json params) {
    std::vector<Diagnostic> problems;
    apply_schema(registry().require("merger:task-arithmetic").parameters, params, "/with", problems);
    return problems;
}

}  // namespace

TEST_CASE("the mergers' manifests fit the engine") {
    for (const char* name : {"merger:average", "merger:task-arithmetic"}) {
        const ItemInfo& item = registry().require(name);
        CHECK(item.licence == "Apache-2.0");
        CHECK(item.tier == "S");
        CHECK(item.build.size() == 64);
        size_t at = 0;
        CHECK(check_stages({{&item, Json::object()}}, at).empty());
        for (const auto& [parameter, schema] : item.parameters.at("properties").items()) {
            CHECK(schema.contains("description"));
            CHECK(schema.contains("x-source"));
        }
    }
}

TEST_CASE("average is task arithmetic at lambda_mean 1, bit for bit") {
    for (const size_t experts : {1UL, 2UL, 3UL, 5UL, 7UL}) {
        Merges merges(experts);
        const std::string average = merges.bytes("merger:average", Json::object());
        CHECK((average == merges.bytes("merger:task-arithmetic", {{"lambda_mean", 1}})));
        CHECK((average == merges.bytes("merger:task-arithmetic", Json::object())));
        CHECK(
            (average == merges.bytes("merger:task-arithmetic", {{"lambda_sum", 1.0 / static_cast<double>(experts)}})));
        CHECK((average != merges.bytes("merger:task-arithmetic", {{"lambda_mean", 0.9}})));
        for (const unsigned threads : {2U, 8U})
            CHECK(
                (average == merges.bytes("merger:average", Json::object(), {.threads = threads, .tile_elements = 7})));
    }
}

TEST_CASE("average and task arithmetic follow their formulas") {
    Merges merges(4);
    CHECK(merges.error(merges.run("merger:average", Json::object()), 0.25) < 1e-6);
    CHECK(merges.error(merges.run("merger:task-arithmetic", {{"lambda_mean", 0.8}}), 0.2) < 1e-6);
    CHECK(merges.error(merges.run("merger:task-arithmetic", {{"lambda_sum", 0.3}}), 0.3) < 1e-6);
    CHECK(merges.error(merges.run("merger:task-arithmetic", {{"lambda_sum", -0.5}}), -0.5) < 1e-6);
    // Scale 0 is the base itself.
    const fs::path none = merges.run("merger:task-arithmetic", {{"lambda_sum", 0}});
    CHECK(SafetensorsFile::open(none).read_floats("w") == merges.base.values.at("w"));
    // λ_sum = λ_mean / N.
    CHECK((merges.bytes("merger:task-arithmetic", {{"lambda_mean", 0.8}}) ==
           merges.bytes("merger:task-arithmetic", {{"lambda_sum", 0.2}})));
}

TEST_CASE("coefficients scale each expert before the sum") {
    Merges merges(3);
    const std::string average = merges.bytes("merger:average", Json::object());
    CHECK((average == merges.bytes("merger:task-arithmetic", {{"coefficients", {1, 1, 1}}})));
    const std::vector<double> coefficients = {0.5, -1, 2};
    const Json with = {{"coefficients", coefficients}, {"lambda_sum", 0.3}};
    const std::vector<float> found = SafetensorsFile::open(merges.run("merger:task-arithmetic", with)).read_floats("w");
    double worst = 0;
    std::vector<double> expected(found.size());
    for (size_t i = 0; i < merges.vectors.size(); ++i) {
        const std::vector<float> delta = SafetensorsFile::open(merges.vectors[i]).read_floats("w");
        for (size_t k = 0; k < delta.size(); ++k) expected[k] += 0.3 * coefficients[i] * delta[k];
    }
    for (size_t k = 0; k < found.size(); ++k)
        worst = std::max(worst, std::fabs(found[k] - (merges.base.values.at("w")[k] + expected[k])));
    CHECK(worst < 3e-6);  // expert 1's steps are up to 40
    CHECK((merges.bytes("merger:task-arithmetic", {{"coefficients", {1, 1, 1}}, {"lambda_sum", 0.3}}) ==
           merges.bytes("merger:task-arithmetic", {{"lambda_sum", 0.3}})));
    const Json two = {{"coefficients", {1, 1}}}, huge = {{"coefficients", {1, 1e39, 1}}};
    CHECK(code_of([&] { merges.run("merger:task-arithmetic", two); }) == Code::kInvalid);
    CHECK_THAT(error_of([&] { merges.run("merger:task-arithmetic", two); }), Catch::Contains("coefficients"));
    CHECK_THAT(error_of([&] { merges.run("merger:task-arithmetic", huge); }), Catch::Contains("fits float32"));
}

TEST_CASE("the order of the experts matters to rounding alone") {
    Merges merges(5);
    const std::vector<float> one = SafetensorsFile::open(merges.run("merger:average", Json::object())).read_floats("w");
    std::reverse(merges.vectors.begin(), merges.vectors.end());
    const std::vector<float> two = SafetensorsFile::open(merges.run("merger:average", Json::object())).read_floats("w");
    double worst = 0;
    for (size_t k = 0; k < one.size(); ++k) worst = std::max(worst, std::fabs(static_cast<double>(one[k]) - two[k]));
    CHECK(worst < 1e-5);
    CHECK(worst > 0);
}

TEST_CASE("task arithmetic wants one scale") {
    CHECK(checked(Json::object()).empty());
    CHECK(checked({{"lambda_mean", 1}}).empty());
    CHECK(checked({{"lambda_sum", -0.5}}).empty());
    REQUIRE(checked({{"lambda_mean", 1}, {"lambda_sum", 1}}).size() == 1);
    CHECK_THAT(checked({{"lambda_mean", 1}, {"lambda_sum", 1}})[0].text(),
               Catch::Contains("/with") && Catch::Contains("expected one of them"));
    CHECK_THAT(checked({{"lambda_sum", "1"}})[0].text(), Catch::Contains("/with/lambda_sum"));
    CHECK(checked({{"lambda_mean", 1}, {"coefficients", {1, 2}}}).empty());
    CHECK_THAT(checked({{"coefficients", {1, "2"}}})[0].text(), Catch::Contains("/with/coefficients/1"));
    CHECK(checked({{"coefficients", Json::array()}}).size() == 1);
    CHECK_THAT(checked({{"lambda", 1}})[0].text(), Catch::Contains("unknown parameter 'lambda'"));

    Merges merges(2);
    const Json both = {{"lambda_mean", 1}, {"lambda_sum", 1}}, huge = {{"lambda_sum", 1e39}};
    CHECK(code_of([&] { merges.run("merger:task-arithmetic", both); }) == Code::kInvalid);
    CHECK_THAT(error_of([&] { merges.run("merger:task-arithmetic", both); }),
               Catch::Contains("both lambda_mean and lambda_sum") && Catch::Contains("parameter 'lambda_sum'"));
    CHECK_THAT(error_of([&] { merges.run("merger:task-arithmetic", huge); }), Catch::Contains("fits float32"));
}
