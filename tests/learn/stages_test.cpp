// The merge stages that come with the program, from the registry through the engine with LAPACK, against the same
// formulas in another host or in float64.
#include <ATen/Parallel.h>

#include <cmath>

#include "linalg/linalg.hpp"
#include "tasks/node_types.hpp"

#undef CHECK
#include <catch2/catch.hpp>

#include "../weights/merges.hpp"
#include "../weights/stage_host.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

/// Other tests have the threads that they had.
struct KeepThreads {
    ~KeepThreads() { at::set_num_threads(threads); }
    int threads = at::get_num_threads();
};

const Registry& registry() {
    static const Registry plugins({fs::path(BPH_BUILD_DIR) / "plugins"}, false);
    return plugins;
}

std::vector<MergeStage> stages_of(const char* list) {
    std::vector<Diagnostic> problems;
    std::vector<MergeStage> stages = read_stages(Json::parse(list), registry(), "/stages", problems);
    for (const Diagnostic& problem : problems) FAIL(problem.text());
    return stages;
}

constexpr size_t kExperts = 3;

/// Three experts. Their deltas are what is written: the base is 0 in all but one tensor.
struct Models {
    explicit Models(bool large) : setup(kExperts) {
        Values deltas[kExperts];
        auto add = [&](const std::string& name, const char* role, std::vector<int64_t> shape, auto&& value) {
            size_t size = 1;
            for (const int64_t side : shape) size *= static_cast<size_t>(side);
            setup.base_file.shapes[name] = shape;
            setup.base_file.values[name] = std::vector<float>(size);
            setup.base_file.card.roles[name] = {{"kind", role}, {"block", 0}};
            tensors.push_back({name, role, {shape.begin(), shape.end()}, {}});
            for (size_t i = 0; i < kExperts; ++i) {
                Random random(100 * i + tensors.size());
                for (size_t k = 0; k < size; ++k) deltas[i][name].push_back(static_cast<float>(value(random, i, k)));
            }
        };
        auto noise = [](Random& random, size_t, size_t) { return 0.01 * random.normal(); };
        const int64_t size = large ? 61 : 5;
        setup.base_file = EncoderFile();
        add("a.norm", "norm", {large ? 3001 : 4}, noise);
        add("b.kernel", "convolution", {3, 2, 2}, noise);
        add("full", "matrix", {size, size + 8}, noise);
        // Rank 2, in numbers that float32 has: rows are multiples of two patterns.
        add("low", "matrix", {size + 2, size}, [size](Random&, size_t i, size_t k) {
            const auto row = static_cast<int64_t>(k) / size, column = static_cast<int64_t>(k) % size;
            const int64_t first = (row + static_cast<int64_t>(i)) % 5 - 2, second = row * row % 3 - 1;
            return static_cast<double>(first * (column % 4 - 1) + second * (column % 3)) / 64;
        });
        add("zero", "matrix", {size, 6}, [](Random&, size_t, size_t) { return 0.0; });
        setup.base_file.values["a.norm"] = normal_values(setup.base_file.values["a.norm"].size(), 0.01, 9);
        setup.models.assign(kExperts, setup.base_file);
        for (size_t i = 0; i < kExperts; ++i)
            for (auto& [name, values] : setup.models[i].values)
                for (size_t k = 0; k < values.size(); ++k) values[k] += deltas[i].at(name)[k];
        setup.write();
        for (StageTensor& tensor : tensors)
            for (size_t i = 0; i < kExperts; ++i) tensor.experts.push_back(setup.delta(i, tensor.name.c_str()));
    }

    /// Merges on several threads and with several tiles, which must not matter; gives the result.
    std::vector<StageTensor> merged(const char* list, const std::vector<size_t>& tiles = {1000, 1 << 24}) const {
        const std::vector<MergeStage> stages = stages_of(list);
        std::string bytes;
        for (const unsigned threads : {1U, 2U, 4U})
            for (const size_t tile : tiles) {
                at::set_num_threads(3);
                setup.run(stages, {.threads = threads, .tile_elements = tile, .seed = 7, .linalg = lent_linalg()});
                const std::string now = read_file(setup.out);
                if (bytes.empty()) bytes = now;
                INFO(list << ", " << threads << " threads, tiles of " << tile);
                CHECK((now == bytes));
            }
        std::vector<StageTensor> out = tensors;
        for (StageTensor& tensor : out) tensor.experts = {setup.result(tensor.name.c_str())};
        return out;
    }
    /// Base + step.
    std::vector<StageTensor> at(std::vector<StageTensor> steps) const {
        for (StageTensor& tensor : steps)
            for (size_t k = 0; k < tensor.size(); ++k)
                tensor.experts[0][k] += setup.base_file.values.at(tensor.name)[k];
        return steps;
    }

    Setup setup;
    std::vector<StageTensor> tensors;
};

/// Key of a stage's numbers for a tensor and an expert, with the seed above.
uint64_t key(size_t stage, const std::string& tensor, size_t expert) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const char c : tensor) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    return mix(mix(mix(7, stage), hash), expert);
}

/// One expert whose values are body(tensor, k), in float64.
template <class Body>
std::vector<StageTensor> plainly(const std::vector<StageTensor>& tensors, Body&& body) {
    std::vector<StageTensor> out = tensors;
    for (size_t t = 0; t < tensors.size(); ++t) {
        out[t].experts.assign(1, std::vector<float>(tensors[t].size()));
        for (size_t k = 0; k < tensors[t].size(); ++k) out[t].experts[0][k] = static_cast<float>(body(tensors[t], k));
    }
    return out;
}
double mean_delta(const StageTensor& tensor, size_t k) {
    double sum = 0;
    for (const auto& expert : tensor.experts) sum += expert[k];
    return sum / static_cast<double>(tensor.experts.size());
}
double norm_of(const StageTensor& tensor, const std::function<double(const StageTensor&, size_t)>& value) {
    double sum = 0;
    for (size_t k = 0; k < tensor.size(); ++k) sum += value(tensor, k) * value(tensor, k);
    return std::sqrt(sum);
}

/// TIES by sorting and counting, in float64.
std::vector<StageTensor> ties(const std::vector<StageTensor>& tensors, double density) {
    std::vector<double> threshold;
    for (size_t i = 0; i < kExperts; ++i) {
        std::vector<double> all;
        for (const StageTensor& tensor : tensors)
            for (const float value : tensor.experts[i]) all.push_back(std::fabs(value));
        std::sort(all.rbegin(), all.rend());
        threshold.push_back(all[static_cast<size_t>(std::ceil(density * static_cast<double>(all.size()))) - 1]);
    }
    auto kept = [&](const StageTensor& tensor, size_t i, size_t k) {
        const double value = tensor.experts[i][k];
        return std::fabs(value) >= threshold[i] ? value : 0.0;
    };
    auto sum = [&](const StageTensor& tensor, size_t k) {
        double total = 0;
        for (size_t i = 0; i < kExperts; ++i) total += kept(tensor, i, k);
        return total;
    };
    int64_t votes = 0;
    for (const StageTensor& tensor : tensors)
        for (size_t k = 0; k < tensor.size(); ++k) votes += (sum(tensor, k) > 0) - (sum(tensor, k) < 0);
    return plainly(tensors, [&](const StageTensor& tensor, size_t k) {
        double sign = sum(tensor, k), total = 0, count = 0;
        if (sign == 0) sign = votes < 0 ? -1 : 1;
        for (size_t i = 0; i < kExperts; ++i)
            if (kept(tensor, i, k) * sign > 0) total += kept(tensor, i, k), ++count;
        return count > 0 ? total / count : 0.0;
    });
}

}  // namespace

TEST_CASE("shipped stages in the engine: the same bytes for all threads and tiles, and what their formulas say") {
    const KeepThreads keep;
    const Models models(true);
    const StagePlugins& plugins = StagePlugins::get();
    SECTION("ties.global") {
        CHECK(distance(models.merged(R"([{"use": "merger:ties.global", "with": {"density": 0.3}}])"),
                       models.at(ties(models.tensors, 0.3))) < 1e-8);
    }
    SECTION("ties.nihal2026") {
        CHECK(distance(models.merged(R"([{"use": "merger:ties.nihal2026"}])"),
                       models.at(plugins.run("ties.nihal2026", models.tensors))) < 1e-8);
    }
    SECTION("dare") {
        const auto expected = plainly(models.tensors, [](const StageTensor& tensor, size_t k) {
            double sum = 0;
            for (size_t i = 0; i < kExperts; ++i)
                if (sdk::Philox(key(0, tensor.name, i)).uniform(k) >= 0.6) sum += tensor.experts[i][k] / 0.4;
            return sum / kExperts;
        });
        CHECK(distance(models.merged(R"([{"use": "merger:dare", "with": {"p": 0.6}}])"), models.at(expected)) < 1e-7);
    }
    SECTION("average, then a random step") {
        auto drawn = [](const StageTensor& tensor, size_t k) { return sdk::Philox(key(1, tensor.name, 0)).normal(k); };
        std::map<std::string, double> scale;
        for (const StageTensor& tensor : models.tensors)
            scale[tensor.name] = norm_of(tensor, mean_delta) / norm_of(tensor, drawn);
        const auto expected = plainly(models.tensors, [&](const StageTensor& tensor, size_t k) {
            return drawn(tensor, k) * scale.at(tensor.name);
        });
        CHECK(distance(models.merged(R"([{"use": "merger:average"}, {"use": "merger:random-step"}])"),
                       models.at(expected)) < 1e-7);
    }
    // Singular vectors by Jacobi's method, in a host of its own.
    SECTION("iso-c") {
        const auto found = models.merged(R"([{"use": "merger:iso-c", "with": {"lambda": 0.7}}])");
        CHECK(distance(found, models.at(plugins.run("iso-c", models.tensors, {{"lambda", 0.7}}))) < 1e-6);
        for (const float value : found.back().experts[0]) CHECK(value == 0);
    }
    SECTION("tsv-m") {
        const auto found = models.merged(R"([{"use": "merger:tsv-m"}])");
        CHECK(distance(found, models.at(plugins.run("tsv-m", models.tensors))) < 1e-6);
        for (const float value : found.back().experts[0]) CHECK(value == 0);
    }
    SECTION("iso-c behind two stages that draw and look at the whole") {
        models.merged(R"([{"use": "merger:random-drop"}, {"use": "merger:trim"}, {"use": "merger:iso-c"},
                          {"use": "merger:random-step"}])");
    }
}

TEST_CASE("shipped stages in the engine, element by element") {
    const KeepThreads keep;
    const Models models(false);
    for (const char* list :
         {R"([{"use": "merger:average"}, {"use": "merger:random-step"}])", R"([{"use": "merger:ties.global"}])",
          R"([{"use": "merger:ties.nihal2026"}])", R"([{"use": "merger:dare"}])", R"([{"use": "merger:iso-c"}])",
          R"([{"use": "merger:tsv-m"}])"})
        models.merged(list, {1, 3, 1 << 24});
}

TEST_CASE("compose: what stages warn of is for the user, the rest for the node's log") {
    const KeepThreads keep;
    Models models(false);
    fs::create_directory(models.setup.folder / "base_folder");
    fs::rename(models.setup.base, models.setup.folder / "base_folder" / "encoder.safetensors");
    TaskContext context;
    struct Nobody : Progress {
        void update(double, double, std::string_view) override {}
    } progress;
    const Cancel cancel;
    std::vector<std::string> notes, log;
    context.registry = &registry();
    context.params = Json::parse(R"({"stages": [{"use": "merger:tsv-m"}]})");
    context.progress = &progress;
    context.cancel = &cancel;
    context.note = [&](std::string_view text) { notes.emplace_back(text); };
    context.log = [&](std::string_view text) { log.emplace_back(text); };
    context.out = models.setup.folder / "out_folder";
    fs::create_directory(context.out);
    context.inputs["base"].push_back({.folder = models.setup.folder / "base_folder"});
    // Eight experts: each of three, some more than once. Matrices have rank 5 at most.
    for (size_t i = 0; i < 8; ++i) {
        const fs::path folder = models.setup.folder / ("vector_folder" + std::to_string(i));
        fs::create_directory(folder);
        fs::copy_file(models.setup.vectors[i % kExperts], folder / "task_vector.safetensors");
        context.inputs["vectors"].push_back({.folder = folder});
    }
    compose_type().run(context);
    REQUIRE(notes.size() == 3);  // a matrix each, in the order of their names
    CHECK_THAT(notes[0], Catch::StartsWith("merger:tsv-m: tensor 'full' has rank 5 at most for 8 experts"));
    CHECK_THAT(notes[1], Catch::Contains("'low'"));
    CHECK_THAT(notes[2], Catch::Contains("'zero'"));
    REQUIRE(log.size() == 24);
    CHECK_THAT(log[9], Catch::StartsWith("merger:tsv-m: tensor 'low', expert 1: rank 2 of 5"));
}
