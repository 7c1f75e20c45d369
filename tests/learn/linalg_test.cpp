// The linear algebra that merge stages are lent, against small known matrices.
#include "linalg/linalg.hpp"

#include <ATen/Parallel.h>

#include <cmath>
#include <cstring>
#include <random>
#include <thread>

#include "biophony/merger.hpp"
#include "plugins/call.hpp"
#include "tasks/torch_runtime.hpp"

#undef CHECK
#include <catch2/catch.hpp>

#include "../weights/matrices.hpp"
#include "../weights/merges.hpp"

using namespace biophony;
using sdk::Matrix;
using test::product;
using test::transposed;

namespace {

/// Other tests have the threads that they had.
struct KeepThreads {
    ~KeepThreads() { at::set_num_threads(threads); }
    int threads = at::get_num_threads();
};

Matrix matrix(size_t rows, size_t columns, std::vector<double> values) {
    Matrix out(rows, columns);
    REQUIRE(values.size() == out.values.size());
    out.values = std::move(values);
    return out;
}
Matrix noise(size_t rows, size_t columns, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    Matrix out(rows, columns);
    for (double& value : out.values) value = normal(random);
    return out;
}
double distance(const Matrix& a, const Matrix& b) {
    REQUIRE((a.rows == b.rows && a.columns == b.columns));
    double worst = 0;
    for (size_t k = 0; k < a.values.size(); ++k) worst = std::max(worst, std::fabs(a.values[k] - b.values[k]));
    return worst;
}
Matrix identity(size_t size) {
    Matrix out(size, size);
    for (size_t i = 0; i < size; ++i) out.at(i, i) = 1;
    return out;
}
Matrix diagonal(const std::vector<double>& values) {
    Matrix out(values.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i) out.at(i, i) = values[i];
    return out;
}

}  // namespace

TEST_CASE("svd: a = u s vt, orthonormal, descending, thin") {
    const KeepThreads keep;
    const PluginCall call("merger:test");
    const sdk::Linalg algebra(lent_linalg(), call.get());
    // A 2 × 3 matrix whose singular values are known: 5 and 3 (Strang, Introduction to Linear Algebra, 7.2).
    const sdk::Linalg::Svd known = algebra.svd(matrix(2, 3, {3, 2, 2, 2, 3, -2}));
    REQUIRE(known.s.size() == 2);
    CHECK(known.s[0] == Approx(5));
    CHECK(known.s[1] == Approx(3));
    for (const auto& [rows, columns] : {std::pair{7, 4}, {4, 7}, {5, 5}, {1, 6}, {6, 1}, {1, 1}}) {
        const Matrix a = noise(static_cast<size_t>(rows), static_cast<size_t>(columns), 3);
        const sdk::Linalg::Svd svd = algebra.svd(a);
        CHECK(distance(product(product(svd.u, diagonal(svd.s)), svd.vt), a) < 1e-12);
        CHECK(distance(product(transposed(svd.u), svd.u), identity(svd.s.size())) < 1e-12);
        CHECK(distance(product(svd.vt, transposed(svd.vt)), identity(svd.s.size())) < 1e-12);
        CHECK(std::is_sorted(svd.s.rbegin(), svd.s.rend()));
    }
    CHECK(algebra.svd(Matrix(0, 3)).s.empty());
}

TEST_CASE("eigh: values ascending, vectors in columns") {
    const KeepThreads keep;
    const PluginCall call("merger:test");
    const sdk::Linalg algebra(lent_linalg(), call.get());
    const sdk::Linalg::Eigh known = algebra.eigh(matrix(2, 2, {2, 1, 1, 2}));
    CHECK(known.values[0] == Approx(1));
    CHECK(known.values[1] == Approx(3));
    CHECK(known.vectors.at(0, 1) == Approx(known.vectors.at(1, 1)));  // (1, 1) / √2 belongs to 3
    CHECK(std::fabs(known.vectors.at(0, 1)) == Approx(std::sqrt(0.5)));
    const Matrix half = noise(6, 6, 4), symmetric = product(half, transposed(half));
    const sdk::Linalg::Eigh eigh = algebra.eigh(symmetric);
    CHECK(distance(product(product(eigh.vectors, diagonal(eigh.values)), transposed(eigh.vectors)), symmetric) < 1e-11);
    CHECK(std::is_sorted(eigh.values.begin(), eigh.values.end()));
}

TEST_CASE("gemm, with either matrix stored transposed") {
    const KeepThreads keep;
    const PluginCall call("merger:test");
    const sdk::Linalg algebra(lent_linalg(), call.get());
    const Matrix two = algebra.multiply(matrix(2, 2, {1, 2, 3, 4}), matrix(2, 2, {5, 6, 7, 8}));
    CHECK(two.values == std::vector<double>{19, 22, 43, 50});
    const Matrix a = noise(3, 5, 1), b = noise(5, 4, 2), expected = product(a, b);
    CHECK(distance(algebra.multiply(a, b), expected) < 1e-13);
    CHECK(distance(algebra.multiply(transposed(a), b, true), expected) < 1e-13);
    CHECK(distance(algebra.multiply(a, transposed(b), false, true), expected) < 1e-13);
    CHECK(distance(algebra.multiply(transposed(a), transposed(b), true, true), expected) < 1e-13);
    CHECK(algebra.multiply(Matrix(2, 0), Matrix(0, 3)).values == std::vector<double>(6, 0));
}

TEST_CASE("what doesn't converge is told, not thrown") {
    const KeepThreads keep;
    const PluginCall call("merger:test");
    const bph_linalg_v0* algebra = lent_linalg();
    const std::vector<double> bad(9, NAN);
    std::vector<double> u(9), s(3), vt(9);
    const bph_status status = algebra->svd(call.get(), 3, 3, bad.data(), u.data(), s.data(), vt.data());
    CHECK(status == BPH_INTERNAL);
    try {
        call.check(status);
        FAIL("nothing was thrown");
    } catch (const Error& error) {
        CHECK_THAT(error.what(), Catch::Contains("non-finite") && !Catch::Contains("\n"));
    }
}

TEST_CASE("results don't depend on how many threads call at once, or on what ran before") {
    const KeepThreads keep;
    const Matrix a = noise(150, 90, 9);
    auto bits = [&a](const bph_linalg_v0* table) {
        const PluginCall call("merger:test");
        const sdk::Linalg algebra(table, call.get());
        const sdk::Linalg::Svd svd = algebra.svd(a);
        std::vector<double> out = algebra.multiply(a, a, true).values;
        for (const auto* part : {&svd.u.values, &svd.s, &svd.vt.values})
            out.insert(out.end(), part->begin(), part->end());
        return out;
    };
    at::set_num_threads(4);  // as a torch node before may have left it
    const bph_linalg_v0* table = lent_linalg();
    const std::vector<double> alone = bits(table);
    CHECK(at::get_num_threads() == 1);
    std::vector<std::vector<double>> found(4);
    {
        std::vector<std::jthread> threads;
        for (std::vector<double>& out : found) threads.emplace_back([&] { out = bits(table); });
    }
    for (const std::vector<double>& out : found) {
        REQUIRE(out.size() == alone.size());
        CHECK(std::memcmp(out.data(), alone.data(), alone.size() * sizeof(double)) == 0);
    }
    CHECK(torch_runtime().linalg() == table);
}

namespace {

/// Scope matrix: the sum of the experts with all singular values set to their mean.
struct Flat : sdk::Merger {
    explicit Flat(const sdk::Params&) {}
    void element(const sdk::Tile& tile) const override { std::fill(tile.out().begin(), tile.out().end(), 0.0F); }
    void matrix(const sdk::Tile& tile) const override {
        Matrix sum = tile.matrix(0);
        for (size_t i = 1; i < tile.experts(); ++i) {
            const Matrix other = tile.matrix(i);
            for (size_t k = 0; k < sum.values.size(); ++k) sum.values[k] += other.values[k];
        }
        const sdk::Linalg algebra = tile.linalg();
        const sdk::Linalg::Svd svd = algebra.svd(sum);
        double mean = 0;
        for (const double s : svd.s) mean += s / static_cast<double>(svd.s.size());
        const Matrix out = algebra.multiply(svd.u, svd.vt);
        for (size_t k = 0; k < out.values.size(); ++k) tile.out()[k] = static_cast<float>(mean * out.values[k]);
    }
};

}  // namespace

TEST_CASE("a merge with decompositions gives the same bytes on any number of threads") {
    const KeepThreads keep;
    test::Setup setup(2);
    setup.base_file.values.clear();
    setup.base_file.shapes.clear();
    setup.base_file.card.roles = Json::object();
    for (int i = 0; i < 8; ++i) {
        const std::string name = "w" + std::to_string(i);
        setup.base_file.values[name] = test::normal_values(120 * 70, 1, static_cast<uint64_t>(i));
        setup.base_file.shapes[name] = {120, 70};
        setup.base_file.card.roles[name] = {{"kind", "matrix"}};
    }
    uint64_t seed = 50;
    for (test::EncoderFile& model : setup.models) {
        model = setup.base_file;
        for (auto& [name, values] : model.values) values = test::normal_values(values.size(), 1, ++seed);
    }
    setup.write();
    const ItemInfo flat = test::item("flat", "combine", "delta", {{"scope", "matrix"}, {"needs", {"linalg"}}});
    const MergeStage stage{&flat, Json::object(), test::kTable<Flat>};
    std::string bytes;
    for (const unsigned threads : {1U, 2U, 4U}) {
        at::set_num_threads(3);
        setup.run({stage}, {.threads = threads, .linalg = lent_linalg()});
        const std::string now = read_file(setup.out);
        if (bytes.empty()) bytes = now;
        CHECK((now == bytes));
    }
    // The merged step's singular values are all the same.
    const PluginCall call("merger:test");
    Matrix step(120, 70);
    const std::vector<float> merged = setup.result("w3");
    for (size_t k = 0; k < merged.size(); ++k) step.values[k] = merged[k] - setup.base_file.values["w3"][k];
    const std::vector<double> s = sdk::Linalg(lent_linalg(), call.get()).svd(step).s;
    CHECK(s.front() == Approx(s.back()).epsilon(1e-4));
}
