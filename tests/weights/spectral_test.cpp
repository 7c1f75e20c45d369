// Iso-C and TSV-M on matrices that are made from chosen singular values and vectors, so that the answer is known
// without a decomposition. Polar factors come from Newton and Schulz's iteration, X ← X (3 I − Xᵀ X) / 2.
#include <catch2/catch.hpp>

#include "biophony/merger.hpp"
#include "matrices.hpp"
#include "stage_host.hpp"

using namespace biophony;
using namespace biophony::test;
using sdk::Matrix;

namespace {

const StagePlugins& plugins() {
    return StagePlugins::get();
}

/// Random orthonormal columns, by Gram and Schmidt.
Matrix orthonormal(size_t rows, size_t columns, Random& random) {
    Matrix q(rows, columns);
    for (double& value : q.values) value = random.normal();
    for (size_t c = 0; c < columns; ++c)
        for (int twice = 0; twice < 2; ++twice) {
            for (size_t b = 0; b < c; ++b) {
                double dot = 0;
                for (size_t r = 0; r < rows; ++r) dot += q.at(r, b) * q.at(r, c);
                for (size_t r = 0; r < rows; ++r) q.at(r, c) -= dot * q.at(r, b);
            }
            double norm = 0;
            for (size_t r = 0; r < rows; ++r) norm += q.at(r, c) * q.at(r, c);
            for (size_t r = 0; r < rows; ++r) q.at(r, c) /= std::sqrt(norm);
        }
    return q;
}

/// Columns that are orthonormal blocks side by side: norm √blocks at most.
Matrix polar(Matrix x, size_t blocks) {
    for (double& value : x.values) value /= std::sqrt(static_cast<double>(blocks));
    for (int step = 0; step < 100; ++step) {
        Matrix gram = product(transposed(x), x);
        for (size_t i = 0; i < gram.rows; ++i)
            for (size_t j = 0; j < gram.columns; ++j) gram.at(i, j) = ((i == j ? 3 : 0) - gram.at(i, j)) / 2;
        x = product(x, gram);
    }
    return x;
}

struct Triplets {
    Matrix u, v;
    std::vector<double> s;

    Triplets(size_t m, size_t n, std::vector<double> values, Random& random)
        : u(orthonormal(m, values.size(), random)), v(orthonormal(n, values.size(), random)), s(std::move(values)) {}
    Matrix matrix() const { return with(s); }
    Matrix with(const std::vector<double>& spectrum) const {
        Matrix scaled = u;
        for (size_t r = 0; r < u.rows; ++r)
            for (size_t c = 0; c < u.columns; ++c) scaled.at(r, c) *= spectrum[c];
        return product(scaled, transposed(v));
    }
};

std::vector<float> floats(const Matrix& a) {
    return {a.values.begin(), a.values.end()};
}
std::vector<StageTensor> expected(const Matrix& a) {
    return one_tensor({floats(a)}, {a.rows, a.columns});
}
std::vector<StageTensor> experts(const std::vector<Matrix>& matrices) {
    std::vector<std::vector<float>> values;
    for (const Matrix& matrix : matrices) values.push_back(floats(matrix));
    return one_tensor(values, {matrices[0].rows, matrices[0].columns});
}

struct Shape {
    size_t m, n;
};
const std::vector<Shape> kShapes = {{1, 1}, {1, 7}, {9, 1}, {6, 6}, {11, 6}, {5, 17}};

std::vector<double> falling(size_t count) {
    std::vector<double> s;
    for (size_t j = 0; j < count; ++j) s.push_back(0.1 / static_cast<double>(j + 1));
    return s;
}

/// TSV-M from the triplets themselves.
Matrix tsv_m(const std::vector<Triplets>& all, size_t share) {
    const size_t m = all[0].u.rows, n = all[0].v.rows, total = share * all.size();
    Matrix u(m, total), v(n, total);
    std::vector<double> s;
    for (const Triplets& of : all)
        for (size_t j = 0; j < share; ++j) {
            for (size_t r = 0; r < m; ++r) u.at(r, s.size()) = of.u.at(r, j);
            for (size_t r = 0; r < n; ++r) v.at(r, s.size()) = of.v.at(r, j);
            s.push_back(of.s[j]);
        }
    u = polar(u, all.size());
    v = polar(v, all.size());
    for (size_t r = 0; r < m; ++r)
        for (size_t c = 0; c < total; ++c) u.at(r, c) *= s[c];
    return product(u, transposed(v));
}

}  // namespace

TEST_CASE("Iso-C gives the sum a flat spectrum") {
    Random random(1);
    for (const auto& [m, n] : kShapes) {
        INFO(m << " x " << n);
        const size_t r = std::min(m, n);
        const Triplets sum(m, n, falling(r), random);
        // Three experts that add up to it.
        std::vector<Matrix> parts(3, Matrix(m, n));
        for (size_t k = 0; k < m * n; ++k) {
            parts[0].values[k] = 0.02 * random.normal();
            parts[1].values[k] = 0.02 * random.normal();
            parts[2].values[k] = sum.matrix().values[k] - parts[0].values[k] - parts[1].values[k];
        }
        const double mean = std::accumulate(sum.s.begin(), sum.s.end(), 0.0) / static_cast<double>(r);
        CHECK(distance(plugins().run("iso-c", experts(parts)), expected(sum.with(std::vector<double>(r, mean)))) <
              2e-6);
        CHECK(distance(plugins().run("iso-c", experts(parts), {{"lambda", 1.5}}),
                       expected(sum.with(std::vector<double>(r, 1.5 * mean)))) < 3e-6);
    }
}

TEST_CASE("Iso-C leaves directions of no more than rounding alone") {
    // Rank 2 of 6: the mean is over the two, and the other four stay 0.
    Random random(2);
    const Triplets sum(11, 6, {0.3, 0.1}, random);
    const auto merger = plugins().stage("iso-c");
    CHECK(distance(merger->run(experts({sum.matrix()})), expected(sum.with({0.2, 0.2}))) < 1e-6);
    REQUIRE(merger->log().size() == 1);
    // exp(H(3/4, 1/4)) = 1.7547…
    CHECK_THAT(merger->log()[0], Catch::StartsWith("0 tensor 'w'") && Catch::Contains("rank 2 of 6") &&
                                     Catch::Contains("effective rank 1.75"));
    // Experts that cancel out, and nothing at all.
    Matrix against = sum.matrix();
    for (double& value : against.values) value = -value;
    CHECK(distance(plugins().run("iso-c", experts({sum.matrix(), against})), expected(Matrix(11, 6))) == 0);
    CHECK(distance(plugins().run("iso-c", experts({Matrix(4, 3), Matrix(4, 3)})), expected(Matrix(4, 3))) == 0);
    // One expert isn't given back.
    CHECK(distance(plugins().run("iso-c", experts({sum.matrix()})), expected(sum.matrix())) > 0.01);
}

TEST_CASE("TSV-M makes the leading triplets of all experts orthogonal") {
    Random random(3);
    for (const auto& [m, n] : kShapes)
        for (const size_t count : {1UL, 2UL, 3UL}) {
            const size_t r = std::min(m, n), share = r / count;
            if (share == 0) continue;
            INFO(m << " x " << n << ", " << count);
            std::vector<Triplets> all;
            std::vector<Matrix> matrices;
            for (size_t i = 0; i < count; ++i) {
                all.emplace_back(m, n, falling(r), random);
                matrices.push_back(all.back().matrix());
            }
            CHECK(distance(plugins().run("tsv-m", experts(matrices)), expected(tsv_m(all, share))) < 2e-6);
            Matrix half = tsv_m(all, share);
            for (double& value : half.values) value /= 2;
            CHECK(distance(plugins().run("tsv-m", experts(matrices), {{"alpha", 0.5}}), expected(half)) < 1e-6);
        }
}

TEST_CASE("TSV-M: one expert is itself, equal experts of low rank are themselves, zeros stay zeros") {
    Random random(4);
    for (const auto& [m, n] : kShapes) {
        const Triplets full(m, n, falling(std::min(m, n)), random);
        CHECK(distance(plugins().run("tsv-m", experts({full.matrix()})), expected(full.matrix())) < 1e-7);
    }
    const Triplets low(8, 6, {0.2, 0.1}, random);
    // The bases of equal experts overlap wholly: the polar factor has rank 2, not 6.
    CHECK(distance(plugins().run("tsv-m", experts({low.matrix(), low.matrix(), low.matrix()})),
                   expected(low.matrix())) < 1e-6);
    // A zero expert takes room, but adds nothing.
    CHECK(distance(plugins().run("tsv-m", experts({low.matrix(), Matrix(8, 6)})), expected(low.matrix())) < 1e-6);
    CHECK(distance(plugins().run("tsv-m", experts({Matrix(8, 6), Matrix(8, 6)})), expected(Matrix(8, 6))) == 0);
}

TEST_CASE("TSV-M: more experts than rank keep one direction each, with a warning") {
    const auto merger = plugins().stage("tsv-m");
    // 1 × 1: the polar factors of (1, 1, 1) and of the signs are those by √3, so the result is the mean of sizes and
    // signs.
    const auto out = merger->run(one_tensor({{0.3F}, {-0.6F}, {0.9F}}, {1, 1}));
    CHECK(out[0].experts[0][0] == Approx(0.2));
    const auto log = merger->log();
    CHECK(std::count_if(log.begin(), log.end(), [](const std::string& line) { return line[0] == '2'; }) == 1);
    // With room for all there is none.
    const auto roomy = plugins().stage("tsv-m");
    roomy->run(one_tensor({{0.3F, 0, 0, 0, 0.2F, 0, 0, 0, 0.1F}, {0, 1, 0, 1, 0, 0, 0, 0, 1}}, {3, 3}));
    const auto quiet = roomy->log();
    CHECK(quiet.size() == 2);  // the ranks of the two
    CHECK(std::none_of(quiet.begin(), quiet.end(), [](const std::string& line) { return line[0] == '2'; }));
}

TEST_CASE("spectral methods: other tensors get the scaled mean, and shapes of more dimensions are seen as two") {
    auto tensors = odd_tensors(3);
    for (const auto& [id, scale] : {std::pair{"iso-c", "lambda"}, std::pair{"tsv-m", "alpha"}}) {
        const auto found = plugins().run(id, tensors, {{scale, 0.8}}, {{2, 3}, 1, 1});
        const auto mean = plugins().run("task-arithmetic", tensors, {{"lambda_mean", 0.8}});
        for (size_t t = 0; t < tensors.size(); ++t) {
            INFO(id << " " << tensors[t].name);
            if (tensors[t].role != "matrix")
                CHECK(same_bits({found[t]}, {mean[t]}));
            else
                CHECK(distance({found[t]}, {mean[t]}) > 1e-5);
        }
        auto flat = tensors.back();
        flat.role = "matrix";
        auto two = flat;
        two.shape = {2, 12};
        CHECK(same_bits(plugins().run(id, {flat}), plugins().run(id, {two})));
    }
}

TEST_CASE("spectral methods: order and scale of the experts") {
    const auto tensors = odd_tensors(3);
    for (const char* id : {"iso-c", "tsv-m"}) {
        INFO(id);
        const auto found = plugins().run(id, tensors);
        CHECK(distance(plugins().run(id, reversed(tensors)), found) < 1e-7);
        CHECK(distance(plugins().run(id, scaled(tensors, 4)), scaled(found, 4)) < 1e-7);
        CHECK(distance(plugins().run(id, tensors, Json::object(), {{1}, 1, 1}), found) == 0);
    }
}
