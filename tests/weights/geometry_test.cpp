// The geometry of task vectors: hand-made numbers, the law of Gaussian signs, the null of matched norms.
#include "weights/geometry.hpp"

#include <cmath>
#include <numbers>

#include "merges.hpp"
#include "weights/geometry_observer.hpp"
#include "weights/kernels.hpp"
#include "weights/vector_sum.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

Geometry of(const std::vector<std::string>& names, const std::vector<GeometryTensor>& tensors,
            const std::vector<std::vector<std::vector<float>>>& values) {  // [tensor][vector][element]
    GeometrySums sums(names.size());
    for (size_t t = 0; t < tensors.size(); ++t)
        for (size_t first = 0; first < tensors[t].elements; first += GeometrySums::kPiece) {
            std::vector<const float*> pointers;
            for (const auto& vector : values[t]) pointers.push_back(vector.data() + first);
            sums.see(t, pointers, std::min<size_t>(GeometrySums::kPiece, tensors[t].elements - first));
        }
    return {names, tensors, sums};
}

/// Jointly Gaussian with correlation rho.
std::vector<std::vector<float>> gaussian(size_t count, double rho, uint64_t seed, double scale = 1) {
    Random random(seed);
    std::vector<std::vector<float>> out(2);
    for (size_t k = 0; k < count; ++k) {
        const double a = random.normal(), b = random.normal();
        out[0].push_back(static_cast<float>(scale * a));
        out[1].push_back(static_cast<float>(scale * (rho * a + std::sqrt(1 - rho * rho) * b)));
    }
    return out;
}

}  // namespace

TEST_CASE("small vectors, by hand") {
    // a = (3, 0, -4 | 0, 12), b = (1, 2, 2 | 5, -1): two tensors.
    const Geometry geometry =
        of({"a", "b"}, {{"w", "matrix", 0, 3}, {"n", "norm", -1, 2}}, {{{3, 0, -4}, {1, 2, 2}}, {{0, 12}, {5, -1}}});
    const Geometry::Part whole = geometry.whole();
    CHECK(whole.elements == 5);
    CHECK(whole.norms[0] == Approx(13));
    CHECK(whole.norms[1] == Approx(std::sqrt(35.0)));
    const PairGeometry& pair = whole.pairs.at(0);
    // Dot products −5 and −12.
    CHECK(pair.cosine == Approx(-17 / (13 * std::sqrt(35.0))));
    CHECK(pair.null_deviation == Approx(std::sqrt(25.0 * 9 / 3 + 144.0 * 26 / 2) / (13 * std::sqrt(35.0))));
    // Neither is 0 at elements 0, 2 and 4; only the first agrees.
    CHECK(pair.sign_agreement == Approx(1.0 / 3));
    const double w = 0.5 + std::asin(-5 / (5.0 * 3)) / std::numbers::pi,
                 n = 0.5 + std::asin(-12 / (12 * std::sqrt(26.0))) / std::numbers::pi;
    CHECK(pair.sign_expected == Approx((2 * w + n) / 3));
    // |ab| = 3 + 8 + 12, of which 3 agree; independent magnitudes: 7·5/3 + 12·6/2.
    CHECK(pair.weighted_agreement == Approx(3.0 / 23));
    CHECK(pair.overlap == Approx(23 / (35.0 / 3 + 36)));
    CHECK(geometry.roles().at("norm").norms == std::vector<double>{12, std::sqrt(26.0)});
    CHECK(geometry.blocks().at(0).pairs[0].cosine == Approx(-1.0 / 3));
    CHECK(geometry.blocks().at(-1).elements == 2);
    CHECK(geometry.norm_balance() == Approx(13 / std::sqrt(35.0)));

    const Json json = geometry.to_json({"told"});
    CHECK(json["whole"]["cosine"][1][0] == json["whole"]["cosine"][0][1]);
    CHECK(json["whole"]["cosine"][0][0] == 1);
    CHECK(json["blocks"].contains("none"));
    CHECK(json["warnings"] == Json{"told"});
    const std::string csv = geometry.to_csv();
    CHECK(std::count(csv.begin(), csv.end(), '\n') == 1 + 1 + 2 + 2 + 2);
    CHECK_THAT(csv, Catch::Contains("tensor,w,3,a,b,5,3,-0.333333"));
}

TEST_CASE("signs of jointly Gaussian elements agree as their correlation says") {
    constexpr size_t kCount = 400'000;
    for (const double rho : {0.0, 0.04, 0.3, -0.6}) {
        // The second tensor is much larger in norm, and of another correlation: the expectation goes tensor by tensor.
        const Geometry geometry = of({"a", "b"}, {{"x", "matrix", 0, kCount}, {"y", "matrix", 1, kCount}},
                                     {gaussian(kCount, rho, 1), gaussian(kCount, -rho / 2, 2, 50)});
        const double law = 0.5 + std::asin(rho) / std::numbers::pi,
                     other = 0.5 + std::asin(-rho / 2) / std::numbers::pi;
        const double deviation = 0.5 / std::sqrt(static_cast<double>(kCount));
        CHECK(geometry.blocks().at(0).pairs[0].sign_agreement == Approx(law).margin(4 * deviation));
        const PairGeometry pair = geometry.whole().pairs[0];
        CHECK(pair.sign_agreement == Approx((law + other) / 2).margin(4 * deviation));
        // What is above the law is noise; against the whole's cosine, which the second tensor rules, it is not.
        CHECK(std::abs(pair.sign_agreement - pair.sign_expected) < 4 * deviation);
        if (rho == 0.3)
            CHECK(std::abs(pair.sign_agreement - (0.5 + std::asin(pair.cosine) / std::numbers::pi)) > 40 * deviation);
        if (rho == 0) CHECK(pair.overlap == Approx(1).margin(0.01));
        if (rho == -0.6) CHECK(geometry.blocks().at(0).pairs[0].overlap > 1.1);
    }
}

TEST_CASE("the null of the cosine is that of random directions with the tensors' norms") {
    // A few elements carry nearly all the norm, so that 1/√P, 0.031, would be far too small a null.
    const std::vector<GeometryTensor> tensors = {{"small", "bias", -1, 24}, {"large", "matrix", 0, 1000}};
    double squares = 0;
    constexpr int kDraws = 2000;
    double told = 0;
    for (int draw = 0; draw < kDraws; ++draw) {
        auto small = gaussian(24, 0, 2 * static_cast<uint64_t>(draw)),
             large = gaussian(1000, 0, 2 * static_cast<uint64_t>(draw) + 1);
        for (auto* tensor : {&small, &large})
            for (auto& vector : *tensor) {
                double norm = 0;
                for (const float x : vector) norm += static_cast<double>(x) * x;
                const double want = tensor == &small ? 5 : 0.5;
                for (float& x : vector) x = static_cast<float>(x * want / std::sqrt(norm));
            }
        const PairGeometry pair = of({"a", "b"}, tensors, {small, large}).whole().pairs[0];
        squares += pair.cosine * pair.cosine;
        told = pair.null_deviation;
    }
    CHECK(told == Approx(std::sqrt(625.0 / 24 + 0.0625 / 1000) / 25.25));
    CHECK(std::sqrt(squares / kDraws) == Approx(told).epsilon(0.05));
}

TEST_CASE("premises that don't hold are told") {
    auto geometry = [](double rho, double factor) {
        auto values = gaussian(50'000, rho, 5);
        for (float& x : values[1]) x = static_cast<float>(x * factor);
        return of({"bird", "frog"}, {{"w", "matrix", 0, 50'000}}, {values});
    };
    CHECK(geometry(0.9, 1).warnings().empty());
    CHECK(geometry(0.0, 1).warnings({"average"}).empty());
    const std::vector<std::string> signs = geometry(0.02, 1).warnings({"trim", "elect", "disjoint-mean"});
    REQUIRE(signs.size() == 1);
    CHECK_THAT(signs[0], Catch::Contains("electing signs (TIES) decides by a toss"));
    const std::vector<std::string> stock = geometry(0.02, 1).warnings({"model-stock"});
    REQUIRE(stock.size() == 1);
    CHECK_THAT(stock[0], Catch::Contains("Model Stock keeps"));
    CHECK(geometry(0.5, 1).warnings({"model-stock"}).empty());
    const std::vector<std::string> norms = geometry(0.9, 7).warnings({"average"});
    REQUIRE(norms.size() == 1);
    CHECK_THAT(norms[0], Catch::Contains("'frog' is 7.") && Catch::Contains("times as long as 'bird'"));
    CHECK(geometry(0.9, 7).warnings({"norm-adjusted"}).empty());
    // A post stage evens nothing out: it is told the merged vector alone.
    CHECK(geometry(0.9, 7).warnings({"average", "norm-match"}).size() == 1);
    CHECK(geometry(0.9, 7).warnings({"average", "norm-match.global"}).size() == 1);
    // Without stages, whatever any method needs.
    CHECK(geometry(0.0, 7).warnings().size() == 3);
    const Geometry zero = geometry(0.5, 0);
    REQUIRE(zero.warnings().size() == 1);
    CHECK_THAT(zero.warnings()[0], Catch::Contains("'frog' is 0"));
    CHECK(zero.to_json({})["whole"]["cosine"][0][1].is_null());
    CHECK(zero.to_json({})["mean_cosine"].is_null());
    // One that is 0 takes nothing away from what is told of the others.
    const auto pair = gaussian(50'000, 0.02, 5);
    const Geometry three =
        of({"bird", "nothing", "frog"}, {{"w", "matrix", 0, 50'000}}, {{pair[0], std::vector<float>(50'000), pair[1]}});
    CHECK(three.mean_cosine() == Approx(0.02).margin(0.02));
    const std::vector<std::string> told = three.warnings({"elect", "model-stock"});
    REQUIRE(told.size() == 3);
    CHECK_THAT(told[0], Catch::Contains("'nothing' is 0"));
    CHECK_THAT(told[1], Catch::Contains("decides by a toss") && Catch::Contains("% where each counts by its magni"));
    CHECK_THAT(told[2], Catch::Contains("Model Stock keeps"));
    CHECK(three.warnings({"elect"}, {true, true, true}).size() == 1);
    CHECK_THAT(zero.to_text({}), Catch::Contains("frog"));
}

TEST_CASE("the geometry of files doesn't depend on threads") {
    Setup setup(3);
    // More than a block, and not a multiple of one.
    setup.base_file.values["big"] = std::vector<float>((1 << 20) + 4097, 0.5F);
    setup.base_file.card.roles["big"] = {{"kind", "matrix"}, {"block", 2}};
    for (auto& model : setup.models) model.card = setup.base_file.card;
    for (size_t i = 0; i < setup.models.size(); ++i)
        setup.models[i].values["big"] = normal_values((1 << 20) + 4097, 0.01, 50 + i);
    setup.write();
    const std::vector<std::string> names = {"x", "y", "z"};
    const Geometry one = geometry_of(setup.base, setup.vectors, names, 1);
    CHECK(one.to_json({}).dump() == geometry_of(setup.base, setup.vectors, names, 4).to_json({}).dump());
    // Against sums in long double.
    long double dot = 0, a = 0, b = 0;
    const std::vector<float> x = setup.delta(0, "big"), y = setup.delta(2, "big");
    for (size_t k = 0; k < x.size(); ++k) {
        dot += static_cast<long double>(x[k]) * y[k];
        a += static_cast<long double>(x[k]) * x[k];
        b += static_cast<long double>(y[k]) * y[k];
    }
    const Geometry::Part block = one.blocks().at(2);
    CHECK(block.norms[0] == Approx(static_cast<double>(std::sqrt(a))).epsilon(1e-12));
    CHECK(block.pairs[1].cosine == Approx(static_cast<double>(dot / std::sqrt(a * b))).epsilon(1e-10));
    CHECK(one.roles().contains("other"));
}

TEST_CASE("sums of products, signs and squares are those of their lanes, one by one") {
    const std::vector<float> x = normal_values(700, 1, 1), y = normal_values(700, 1, 2);
    std::vector<double> a(x.begin(), x.end()), b(y.begin(), y.end());
    for (const size_t count : {0, 16, 48, 688}) {
        double sums[16]{}, absolutes[16]{};
        for (size_t k = 0; k < count; ++k) {
            sums[k % 16] += a[k] * b[k];
            absolutes[k % 16] += std::abs(a[k] * b[k]);
        }
        auto add = [](const double* s) {
            return (((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))) +
                   (((s[8] + s[9]) + (s[10] + s[11])) + ((s[12] + s[13]) + (s[14] + s[15])));
        };
        const auto [sum, absolute] = kernels::products(a.data(), b.data(), count);
        CHECK(sum == add(sums));
        CHECK(absolute == add(absolutes));
    }
    std::vector<float> zeros = x;
    for (size_t k = 0; k < zeros.size(); k += 3) zeros[k] = k % 2 == 0 ? 0.0F : -0.0F;
    for (const size_t count : {1, 63, 64, 65, 128, 700}) {
        const size_t words = (count + 63) / 64;
        std::vector<uint64_t> negative(2 * words, ~0ULL), set(2 * words, ~0ULL);
        kernels::signs(zeros.data(), count, negative.data(), set.data());
        kernels::signs(y.data(), count, negative.data() + words, set.data() + words);
        uint64_t both = 0, agree = 0;
        for (size_t k = 0; k < count; ++k) {
            both += zeros[k] != 0 && y[k] != 0 ? 1 : 0;
            agree += zeros[k] != 0 && y[k] != 0 && (zeros[k] < 0) == (y[k] < 0) ? 1 : 0;
        }
        const auto found =
            kernels::agreement(negative.data(), set.data(), negative.data() + words, set.data() + words, words);
        CHECK(found.both == both);
        CHECK(found.agree == agree);
    }
    // However they are cut.
    double lanes[16]{}, cut[16]{};
    for (size_t k = 0; k < x.size(); ++k) lanes[k % 16] += a[k] * a[k];
    for (size_t first = 0, size = 1; first < x.size(); first += size, size = size * 2 + 1)
        kernels::add_squares(x.data() + first, std::min(size, x.size() - first), first, cut);
    CHECK(std::equal(lanes, lanes + 16, cut));
}

TEST_CASE("of many vectors the pairs of single tensors, then those of roles and blocks, are left out") {
    const std::vector<GeometryTensor> tensors = {{"x", "matrix", 0, 50}, {"y", "norm", 1, 20}};
    for (const size_t count : {32, 33, 129}) {
        std::vector<std::string> names;
        std::vector<std::vector<std::vector<float>>> values(2);
        for (size_t i = 0; i < count; ++i) {
            names.push_back("v" + std::to_string(i));
            values[0].push_back(normal_values(50, 1, 3 * i));
            values[1].push_back(normal_values(20, 1, 3 * i + 1));
        }
        const Geometry geometry = of(names, tensors, values);
        const size_t pairs = count * (count - 1) / 2;
        REQUIRE(geometry.whole().pairs.size() == pairs);
        double dot = 0;
        for (const auto& tensor : values)
            for (size_t k = 0; k < tensor[0].size(); ++k) dot += double{tensor[0][k]} * tensor[count - 1][k];
        CHECK(geometry.whole().pairs[count - 2].cosine ==
              Approx(dot / geometry.whole().norms[0] / geometry.whole().norms[count - 1]));
        CHECK(geometry.roles().at("norm").pairs.size() == (count > 128 ? 0 : pairs));
        CHECK(geometry.blocks().at(0).pairs.size() == (count > 128 ? 0 : pairs));
        CHECK(geometry.roles().at("norm").norms.size() == count);
        const std::string csv = geometry.to_csv();
        const size_t parts = count > 128 ? count : pairs, single = count > 32 ? count : pairs;
        CHECK(static_cast<size_t>(std::count(csv.begin(), csv.end(), '\n')) == 1 + pairs + 4 * parts + 2 * single);
        const Json json = geometry.to_json({});
        CHECK(json.contains("left_out") == (count > 32));
        CHECK(json["roles"]["norm"].contains("cosine") == (count <= 128));
        CHECK(json["whole"]["cosine"].size() == count);
        CHECK(geometry.bytes() > sizeof(PairGeometry) * pairs);
        CHECK(geometry.bytes() < 1'000'000 + 400 * pairs);
        if (count > 32) CHECK_THAT(geometry.to_text({}), Catch::Contains(std::to_string(pairs) + " pairs"));
    }
}

TEST_CASE("a sample is enough for warnings, and which vectors are 0 is known of all their values") {
    Setup setup(2);
    setup.base_file.values = {{"w", normal_values(200'000, 0.05, 1)}, {"z", normal_values(3000, 0.05, 2)}};
    setup.base_file.shapes.clear();
    setup.models = {setup.base_file, setup.base_file};
    for (size_t i = 0; i < 2; ++i) {
        const std::vector<float> step = normal_values(200'000, i == 0 ? 0.001 : 0.005, 70 + i);
        for (size_t k = 0; k < step.size(); ++k) setup.models[i].values["w"][k] += step[k];
    }
    setup.write();
    std::vector<std::string> first;
    for (const unsigned threads : {1U, 3U})
        for (const size_t tile : {4096, 50'000}) {
            GeometryObserver observer({"x", "y"}, 10);
            MergeOptions options;
            options.threads = threads;
            options.tile_elements = tile;
            options.observer = &observer;
            setup.run({mean()}, options);
            CHECK(observer.every() == 5);
            // Pieces 0, 5, …, 45 of 50: the last is "z", in which both are 0.
            CHECK(observer.geometry().whole().elements == 200'000);
            const std::vector<std::string> warnings = observer.warnings({"elect"});
            REQUIRE(warnings.size() == 2);
            CHECK_THAT(warnings[0], Catch::Contains("'y' is 5.0 times as long as 'x'"));
            CHECK_THAT(warnings[1], Catch::Contains("decides by a toss"));
            if (first.empty()) first = warnings;
            CHECK(warnings == first);
        }
    // A vector that moves one value alone, which the sample doesn't see, isn't 0; one that moves none is.
    setup.models[0] = setup.base_file;
    setup.write();
    for (const bool vectors : {false, true}) {
        GeometryObserver none({"x", "y"}, 10);
        std::vector<fs::path> experts = setup.vectors;
        for (size_t i = 0; i < 2 && !vectors; ++i)
            setup.models[i].write(experts[i] = setup.folder / ("checkpoint" + std::to_string(i)));
        merge(setup.base, experts, {mean()}, setup.out, {.observer = &none});
        REQUIRE(none.warnings({}).size() == 1);
        CHECK_THAT(none.warnings({})[0], Catch::Contains("'x' is 0"));
    }
    setup.models[0].values["w"][4100] += 1;
    setup.write();
    GeometryObserver some({"x", "y"}, 10), all({"x", "y"});
    setup.run({mean()}, {.observer = &some});
    CHECK(some.warnings({}).empty());
    setup.run({mean()}, {.observer = &all});
    CHECK(all.geometry().whole().norms[0] == Approx(1));
}

TEST_CASE("a vector of a sum is the sum, of the same base") {
    Setup setup(3);
    const std::vector<double> factors = {1, -0.5, 2};
    write_vector_sum(setup.vectors, factors, setup.out, {{"biophony.labels", "[]"}});
    const TaskVector sum = TaskVector::open(setup.out);
    sum.check_base(SafetensorsFile::open(setup.base));
    CHECK(sum.file().metadata("biophony.labels") == "[]");
    for (const TensorInfo& tensor : sum.file().tensors()) {
        const std::vector<float> values = sum.file().read_floats(tensor.name);
        for (size_t k = 0; k < values.size(); ++k) {
            double expected = 0;
            for (size_t i = 0; i < 3; ++i)
                expected += factors[i] * static_cast<double>(setup.delta(i, tensor.name.c_str())[k]);
            REQUIRE(values[k] == static_cast<float>(expected));
        }
    }
    // A value that isn't finite is told with its file.
    {
        const TaskVector good = TaskVector::open(setup.vectors[1]);
        std::vector<SafetensorsWriter::Tensor> announced;
        for (const TensorInfo& tensor : good.file().tensors())
            announced.push_back({tensor.name, DType::kF32, tensor.shape});
        SafetensorsWriter writer(setup.folder / "broken", announced, good.file().metadata());
        for (const TensorInfo& tensor : good.file().tensors()) {
            std::vector<float> values = good.file().read_floats(tensor.name);
            if (tensor.name == "c") values[70] = NAN;
            writer.write_floats(tensor.name, 0, values);
        }
        writer.finish();
        CHECK_THAT(error_of([&] {
                       write_vector_sum({setup.vectors[0], setup.folder / "broken"}, std::vector<double>{1, 1},
                                        setup.folder / "sum", {});
                   }),
                   Catch::Contains("broken: tensor 'c' has nan at element 70"));
    }
    // A vector of another base is refused, and nothing is left behind.
    Setup other(1);
    other.base_file.values["c"][0] += 1;
    other.write();
    fs::remove(setup.out);
    CHECK_THAT(error_of([&] {
                   write_vector_sum({setup.vectors[0], other.vectors[0]}, std::vector<double>{1, 1}, setup.out, {});
               }),
               Catch::Contains("is a vector of another base"));
    CHECK(!fs::exists(setup.out));
}

TEST_CASE("what a merge sees in its own pass is the same, whatever threads and tiles") {
    Setup setup(3);
    setup.base_file.values["big"] = std::vector<float>((1 << 20) + 4097, 0.5F);
    // What the card excludes differs, and counts for neither.
    setup.base_file.card.roles = {{"a", {{"kind", "matrix"}, {"block", 4}}},
                                  {"c", {{"kind", "excluded"}}},
                                  {"big", {{"kind", "matrix"}, {"block", 2}}}};
    for (size_t i = 0; i < setup.models.size(); ++i) {
        setup.models[i].card = setup.base_file.card;
        setup.models[i].values["big"] = normal_values((1 << 20) + 4097, 0.01, 50 + i);
    }
    setup.write();
    const std::vector<std::string> names = {"x", "y", "z"};
    const Json expected = geometry_of(setup.base, setup.vectors, names, 2).to_json({});
    CHECK(expected["whole"]["elements"] == 5001 + (1 << 20) + 4097);
    CHECK(!expected["roles"].contains("excluded"));
    for (const unsigned threads : {1U, 3U})
        for (const size_t tile : {4096, 100'000}) {
            GeometryObserver observer(names);
            MergeOptions options;
            options.threads = threads;
            options.tile_elements = tile;
            options.observer = &observer;
            setup.run({mean()}, options);
            CHECK(observer.geometry().to_json({}).dump() == expected.dump());
        }
}
