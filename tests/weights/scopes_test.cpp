// What stages of each scope are shown, and that their results depend on neither threads nor tiles.
#include <algorithm>
#include <cmath>
#include <mutex>

#include "merges.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

/// Scope tensor: divides by the largest magnitude of the tensor, in all experts.
struct Largest : sdk::Merger {
    explicit Largest(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        uint64_t elements = 1;
        for (const uint64_t size : tile.shape()) elements *= size;
        if (tile.offset() != 0 || tile.size() != elements) throw std::runtime_error("not whole");
        float largest = 0;
        for (size_t i = 0; i < tile.experts(); ++i)
            for (const float value : tile.expert(i)) largest = std::max(largest, std::fabs(value));
        for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = tile.expert(0)[k] / largest;
    }
};
/// Scope matrix: matrices become columns + 1000 × rows, everything else 0.
struct Sizes : sdk::Merger {
    explicit Sizes(const sdk::Params&) {}
    void element(const Tile& tile) const override { std::ranges::fill(tile.out(), 0.F); }
    void matrix(const Tile& tile) const override {
        if (tile.shape().size() != 2 || tile.offset() != 0) throw std::runtime_error("no matrix");
        const sdk::Matrix first = tile.matrix(0);
        if (first.values.size() != tile.size()) throw std::runtime_error("not all of it");
        std::ranges::fill(tile.out(), static_cast<float>(first.columns + 1000 * first.rows));
    }
};
/// Scope global: what it has seen, and in which order. Subtracts the mean of all values of the expert it is given, or
/// of the first.
struct Centre : sdk::Merger {
    struct Seen : sdk::Observation {
        void see(const Tile& tile) override {
            if (!tile.out().empty()) throw std::runtime_error("a place to write to");
            for (size_t i = 0; i < tile.experts(); ++i) {
                const size_t expert = tile.experts() == 1 ? tile.expert_index() : i;
                for (const float value : tile.expert(i)) sums.at(expert) += value;
            }
            if (tile.experts() == 1 && tile.expert_index() != 0) return;
            count += tile.size();
            if (parts.empty() || parts.back().name != tile.tensor() || parts.back().end != tile.offset())
                parts.push_back({std::string(tile.tensor()), tile.offset(), tile.offset()});
            parts.back().end += tile.size();
        }
        void join(const sdk::Observation& later) override {
            const auto& other = dynamic_cast<const Seen&>(later);
            for (size_t i = 0; i < sums.size(); ++i) sums[i] += other.sums[i];
            count += other.count;
            parts.push_back({"|", 0, 0});
            parts.insert(parts.end(), other.parts.begin(), other.parts.end());
        }
        void end() override {
            const std::lock_guard lock(mutex());
            log() += "pass " + std::to_string(pass) + (had_earlier ? " after " + std::to_string(earlier) : "") +
                     " of " + std::to_string(sums.size()) + ":";
            for (const Part& part : parts)
                log() += part.name == "|"
                             ? " |"
                             : " " + part.name + " " + std::to_string(part.begin) + "-" + std::to_string(part.end);
            log() += "\n";
        }
        struct Part {
            std::string name;
            uint64_t begin, end;
        };
        uint32_t pass = 0;
        bool had_earlier = false;
        uint64_t earlier = 0, count = 0;
        std::vector<double> sums;
        std::vector<Part> parts;
    };
    static std::mutex& mutex() {
        static std::mutex one;
        return one;
    }
    static std::string& log() {
        static std::string text;
        return text;
    }

    explicit Centre(const sdk::Params&) {}
    std::unique_ptr<sdk::Observation> begin(uint32_t pass, size_t experts,
                                            const sdk::Observation* earlier) const override {
        auto seen = std::make_unique<Seen>();
        seen->pass = pass;
        seen->had_earlier = earlier != nullptr;
        if (earlier != nullptr) seen->earlier = dynamic_cast<const Seen&>(*earlier).count;
        seen->sums.resize(experts);
        return seen;
    }
    void element(const Tile& tile) const override {
        const auto& seen = tile.observed<Seen>();
        const size_t expert = tile.experts() == 1 ? tile.expert_index() : 0;
        const auto mean = static_cast<float>(seen.sums[expert] / static_cast<double>(seen.count));
        for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = tile.expert(0)[k] - mean;
    }
};
/// Post: the sum of the experts' deltas as they were read, plus 1000 × blocks, plus what was seen of them while
/// observing.
struct FromSources : sdk::Merger {
    struct Seen : sdk::Observation {
        void see(const Tile& tile) override {
            for (size_t i = 0; i < tile.sources(); ++i)
                for (const float value : tile.source(i)) positive += value > 0 ? 1 : 0;
        }
        void join(const sdk::Observation& later) override { positive += dynamic_cast<const Seen&>(later).positive; }
        uint64_t positive = 0;
    };
    explicit FromSources(const sdk::Params&) {}
    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
        return std::make_unique<Seen>();
    }
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) {
            float sum = 0;
            for (size_t i = 0; i < tile.sources(); ++i) sum += tile.source(i)[k];
            tile.out()[k] =
                sum + 1000.F * static_cast<float>(tile.blocks()) + static_cast<float>(tile.observed<Seen>().positive);
        }
    }
};
/// Scope global: fails while it observes, in the way that "how" says, from the second block of "b" on.
struct Fails : sdk::Merger {
    struct Seen : sdk::Observation {
        explicit Seen(std::string how_now) : how(std::move(how_now)) {}
        void see(const Tile& tile) override {
            late = tile.tensor() == "b" && tile.offset() >= 1 << 22;
            if (how == "see" && late) throw std::runtime_error("at " + std::to_string(tile.offset()));
        }
        void join(const sdk::Observation& later) override {
            if (how == "join" && dynamic_cast<const Seen&>(later).late) throw std::runtime_error("no joining");
        }
        void end() override {
            if (how == "end") throw std::runtime_error("no end");
        }
        std::string how;
        bool late = false;
    };
    explicit Fails(const sdk::Params& params) : how(params.at("how")) {}
    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
        return how == "begin" ? nullptr : std::make_unique<Seen>(how);
    }
    void element(const Tile& tile) const override { std::ranges::fill(tile.out(), 0.F); }
    std::string how;
};
/// A transform of all: each expert becomes the sum of the others.
struct Others : sdk::Merger {
    explicit Others(const sdk::Params& params) : forgets(params.value("forgets", false)) {}
    void element(const Tile& tile) const override {
        if (!tile.out().empty()) throw std::runtime_error("one place to write to");
        for (size_t i = 0; i < tile.experts(); ++i)
            for (size_t k = 0; k < tile.size(); ++k) {
                float sum = 0;
                for (size_t j = 0; j < tile.experts(); ++j) sum += j == i ? 0.F : tile.expert(j)[k];
                if (!(forgets && i + 1 == tile.experts())) tile.out(i)[k] = sum;
            }
    }
    bool forgets;
};
/// Random numbers alone: Σ_i u_i of the experts that it sees.
struct Noise : sdk::Merger {
    explicit Noise(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) {
            float sum = 0;
            for (size_t i = 0; i < tile.experts(); ++i)
                sum += static_cast<float>(tile.random(i).uniform(tile.offset() + k));
            tile.out()[k] = sum;
        }
    }
};
/// The first expert.
struct First : sdk::Merger {
    explicit First(const sdk::Params&) {}
    void element(const Tile& tile) const override { std::ranges::copy(tile.expert(0), tile.out().begin()); }
};
/// The first expert, five times.
struct Five : sdk::Merger {
    explicit Five(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = 5 * tile.expert(0)[k];
    }
};
/// 2 × 2 = 4, by the host's algebra.
struct Product : sdk::Merger {
    explicit Product(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        sdk::Matrix two(1, 1);
        two.at(0, 0) = 2;
        std::ranges::fill(tile.out(), static_cast<float>(tile.linalg().multiply(two, two).at(0, 0)));
    }
};
struct NotFinite : sdk::Merger {
    explicit NotFinite(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        std::ranges::fill(tile.out(), tile.tensor() == "c" ? INFINITY : 0.F);
    }
};

const ItemInfo kFirst = item("first", "combine"), kLargest = item("largest", "combine", "delta", {{"scope", "tensor"}}),
               kLargestPost = item("largest-post", "post", "delta", {{"scope", "tensor"}}),
               kSizes = item("sizes", "post", "weight", {{"scope", "matrix"}}),
               kCentre = item("centre", "transform", "delta", {{"scope", "global"}}),
               kCentreCombine = item("centre-combine", "combine", "delta", {{"scope", "global"}}),
               kCentrePost = item("centre-post", "post", "weight", {{"scope", "global"}, {"observe", 3}}),
               kFive = item("five", "combine"), kOthers = item("others", "transform", "delta", {{"experts", "all"}}),
               kNoise = item("noise", "transform", "delta", {{"random", true}}),
               kNoiseCombine = item("noise-combine", "combine", "delta", {{"random", true}});

MergeStage first() {
    return {&kFirst, Json::object(), kTable<First>};
}
template <class M>
MergeStage stage(const ItemInfo& item, const Json& params = Json::object()) {
    return {&item, params, kTable<M>};
}

/// The result's bytes, which must be the same for all threads and tiles.
std::string same_bytes(const Setup& setup, const std::vector<MergeStage>& stages, MergeOptions options = {},
                       const std::vector<size_t>& tiles = {1, 1000, 1 << 24}) {
    std::string bytes;
    for (const unsigned threads : {1U, 2U, 4U})
        for (const size_t tile : tiles) {
            options.threads = threads;
            options.tile_elements = tile;
            setup.run(stages, options);
            const std::string now = read_file(setup.out);
            if (bytes.empty()) bytes = now;
            INFO(threads << " threads, tiles of " << tile);
            CHECK((now == bytes));
        }
    return bytes;
}

std::vector<float> step(const Setup& setup, const char* name) {
    std::vector<float> out = setup.result(name);
    for (size_t k = 0; k < out.size(); ++k) out[k] -= setup.base_file.values.at(name)[k];
    return out;
}

}  // namespace

TEST_CASE("scope tensor: one tile holds the whole tensor, of any size") {
    const Setup setup;
    same_bytes(setup, {stage<Largest>(kLargest), stage<Largest>(kLargestPost)});
    setup.run({stage<Largest>(kLargest)});
    for (const char* name : {"a", "b.bias", "c"}) {
        float largest = 0;
        for (size_t i = 0; i < 3; ++i)
            for (const float value : setup.delta(i, name)) largest = std::max(largest, std::fabs(value));
        const std::vector<float> found = setup.result(name), delta = setup.delta(0, name),
                                 base = setup.base_file.values.at(name);
        size_t wrong = 0;
        for (size_t k = 0; k < found.size(); ++k) wrong += found[k] == delta[k] / largest + base[k] ? 0 : 1;
        CHECK(wrong == 0);
    }
}

TEST_CASE("scope matrix: tensors of its roles as rows and columns, the others element by element") {
    Setup setup;
    setup.base_file.shapes["c"] = {13, 17, 181};
    setup.base_file.card.roles["c"] = {{"kind", "convolution"}};
    for (EncoderFile& model : setup.models) model.shapes = setup.base_file.shapes, model.card = setup.base_file.card;
    setup.write();
    same_bytes(setup, {first(), stage<Sizes>(kSizes)});
    CHECK(setup.result("a") == std::vector<float>(5000, 50100));
    CHECK(setup.result("b.bias") == std::vector<float>{0});
    CHECK(setup.result("c") == std::vector<float>(40001, 0));
    ItemInfo both = kSizes;
    both.raw["merger"]["roles"] = {"convolution", "matrix"};
    setup.run({first(), stage<Sizes>(both)});
    CHECK(setup.result("a") == std::vector<float>(5000, 50100));
    CHECK(setup.result("c") == std::vector<float>(40001, 13000 + 17 * 181));
    // A vector as a matrix is one column.
    setup.base_file.card.roles["b.bias"] = {{"kind", "matrix"}};
    for (EncoderFile& model : setup.models) model.card = setup.base_file.card;
    setup.write();
    setup.run({first(), stage<Sizes>(kSizes)});
    CHECK(setup.result("b.bias") == std::vector<float>{1001});
}

TEST_CASE("scope global: all tensors are shown in order, as the stages before leave them") {
    const Setup setup;
    const std::string order = " a 0-5000 b.bias 0-1 c 0-40001\n";
    SECTION("a transform sees each expert's own values") {
        Centre::log().clear();
        setup.run({stage<Centre>(kCentre), mean()}, {.threads = 3, .tile_elements = 999});
        CHECK(Centre::log() == "pass 0 of 3:" + order);
        double sum = 0;
        for (const char* name : {"a", "b.bias", "c"})
            for (size_t i = 0; i < 3; ++i)
                for (const float value : setup.delta(i, name)) sum += value;
        const auto base = setup.base_file.values.at("a")[77];
        const double expected =
            (double{setup.delta(0, "a")[77]} + setup.delta(1, "a")[77] + setup.delta(2, "a")[77] - sum / 45002) / 3;
        CHECK(setup.result("a")[77] == Approx(base + expected).epsilon(1e-6));
        same_bytes(setup, {stage<Centre>(kCentre), mean()});
    }
    SECTION("a combine sees them together; passes know of the ones before; a post stage sees one") {
        Centre::log().clear();
        setup.run({stage<Centre>(kCentreCombine), stage<Centre>(kCentrePost)});
        CHECK(Centre::log() == "pass 0 of 3:" + order + "pass 0 of 1:" + order + "pass 1 after 45002 of 1:" + order +
                                   "pass 2 after 45002 of 1:" + order);
        // The second stage sees what the first left, as weights, so that nothing but rounding is left of the mean.
        double mean = 0;
        for (const char* name : {"a", "b.bias", "c"})
            for (const float value : setup.result(name)) mean += value / 45002.0;
        CHECK(std::fabs(mean) < 1e-7);
        same_bytes(setup, {stage<Centre>(kCentreCombine), stage<Centre>(kCentrePost)});
    }
    SECTION("behind stages that see tensors whole") {
        same_bytes(setup, {stage<Largest>(kLargest), stage<Sizes>(kSizes), stage<Centre>(kCentrePost)});
        CHECK(setup.result("a")[0] - setup.result("b.bias")[0] == Approx(50100));
    }
    SECTION("the report and the progress count each pass") {
        struct Watch : Progress {
            void update(double done_now, double total_now, std::string_view) override {
                done = done_now;
                total = total_now;
            }
            double done = 0, total = 0;
        } watch;
        const MergeReport report = setup.run({first(), stage<Centre>(kCentrePost)}, {.threads = 2, .progress = &watch});
        CHECK(report.bytes_read == 2 * (45002 * 4 + 24) + 3 * 45002 * 4 + 3 * 4 * 45002 * 4);
        CHECK(watch.total == static_cast<double>(report.bytes_read + report.bytes_written));
        CHECK(watch.done == watch.total);
    }
    SECTION("no tensor at all") {
        EncoderFile empty;
        empty.values = {{"none", {}}};
        empty.shapes = {{"none", {0}}};
        Setup nothing(1);
        nothing.base_file = empty;
        nothing.models = {empty};
        nothing.write();
        Centre::log().clear();
        nothing.run({first(), stage<Centre>(kCentrePost)});
        CHECK(Centre::log().starts_with("pass 0 of 1:\n"));
    }
}

TEST_CASE("large models are observed in blocks that depend on sizes alone, joined in order") {
    constexpr uint64_t kBlock = 1 << 22;
    Setup setup(1);
    auto ramp = [](size_t size, float slope) {
        std::vector<float> out(size);
        for (size_t k = 0; k < size; ++k) out[k] = slope * static_cast<float>((k * 2654435761U) % 1000);
        return out;
    };
    setup.base_file = EncoderFile();
    setup.base_file.values = {{"a", ramp(1000, 1)},
                              {"b", ramp(2 * kBlock + 5, 1)},
                              {"c", ramp(10, 1)},
                              {"d", ramp(kBlock, 1)},
                              {"e", ramp(20, 1)}};
    setup.base_file.card.roles = {{"b", {{"kind", "matrix"}}}};
    setup.models = {setup.base_file};
    for (auto& [name, values] : setup.models[0].values) values = ramp(values.size(), 1.01F);
    setup.write();
    const std::string order =
        " a 0-1000 | b 0-4194304 | b 4194304-8388608 | b 8388608-8388613 | c 0-10 | d 0-4194304 "
        "| e 0-20\n";
    Centre::log().clear();
    same_bytes(setup, {first(), stage<Centre>(kCentrePost)}, {}, {100003});
    std::string expected;
    for (int i = 0; i < 3; ++i)
        expected +=
            "pass 0 of 1:" + order + "pass 1 after 12583947 of 1:" + order + "pass 2 after 12583947 of 1:" + order;
    CHECK(Centre::log() == expected);
    // What fails is told the same each time, and nobody waits for a state that never comes.
    const ItemInfo fails = item("fails", "combine", "delta", {{"scope", "global"}});
    auto failing = [&](const char* how, unsigned threads) {
        fs::remove(setup.out);
        return setup.error({stage<Fails>(fails, {{"how", how}})}, {.threads = threads, .tile_elements = 100003});
    };
    for (const unsigned threads : {1U, 2U, 5U}) {
        CHECK_THAT(failing("see", threads), Catch::Contains("merger:fails: at 4194304 (tensor 'b')"));
        CHECK_THAT(failing("join", threads), Catch::Contains("merger:fails: no joining"));
        CHECK_THAT(failing("begin", threads), Catch::Contains("merger:fails: observe_begin gave no state"));
        CHECK_THAT(failing("end", threads), Catch::Contains("merger:fails: no end"));
    }
    Centre::log().clear();
    ItemInfo once = kCentrePost;
    once.raw["merger"]["observe"] = 1;
    same_bytes(setup, {first(), stage<Sizes>(kSizes), stage<Centre>(once)}, {}, {1 << 20});
    CHECK(Centre::log() == "pass 0 of 1:" + order + "pass 0 of 1:" + order + "pass 0 of 1:" + order);
}

TEST_CASE("a transform of all experts writes as many as it sees") {
    const Setup setup;
    same_bytes(setup, {stage<Others>(kOthers), stage<Others>(kOthers), mean()});
    setup.run({stage<Others>(kOthers), first()});
    const std::vector<float> found = setup.result("a"), base = setup.base_file.values.at("a");
    CHECK(found[123] == setup.delta(1, "a")[123] + setup.delta(2, "a")[123] + base[123]);
    CHECK_THAT(setup.error({stage<Others>(kOthers, {{"forgets", true}}), mean()}),
               Catch::Contains("merger:others: gave nan at element 0 of tensor 'a'"));
}

TEST_CASE("random numbers belong to stage, seed, tensor, expert and element") {
    Setup setup;
    const std::vector<MergeStage> transform = {stage<Noise>(kNoise), mean()}, combine = {stage<Noise>(kNoiseCombine)};
    const std::string bytes = same_bytes(setup, transform, {.seed = 5});
    same_bytes(setup, combine, {.seed = 5});
    // The keys of a combine in the same place are those of the transform: the sum is three times the mean.
    const std::vector<float> sum = step(setup, "c");
    setup.run(transform, {.seed = 5});
    const std::vector<float> mean = step(setup, "c");
    for (size_t k = 0; k < sum.size(); k += 997) CHECK(sum[k] == Approx(3 * mean[k]).margin(1e-5));
    setup.run(transform, {.seed = 6});
    CHECK((read_file(setup.out) != bytes));
    // Uniform numbers that differ from tensor to tensor and from expert to expert: sums of three have variance 3/12.
    CHECK(std::fabs(sum[0] - step(setup, "a")[0]) > 1e-4);
    double mean_of = 0, square = 0;
    for (const float value : sum) mean_of += value / 40001.0, square += double{value} * value / 40001.0;
    CHECK(mean_of == Approx(1.5).margin(0.02));
    CHECK(square - mean_of * mean_of == Approx(0.25).margin(0.02));
    // One stage further on, others.
    setup.run({stage<Noise>(kNoise), stage<Noise>(kNoiseCombine)}, {.seed = 5});
    CHECK(std::fabs(step(setup, "c")[0] - sum[0]) > 1e-5);
    // A post stage has the numbers of the first expert.
    const ItemInfo post = item("noise-post", "post", "delta", {{"random", true}});
    same_bytes(setup, {first(), stage<Noise>(post)}, {.seed = 5});
}

TEST_CASE("a parameter with one entry per expert has as many as there are") {
    const Setup setup;
    ItemInfo weighted = kFirst;
    weighted.parameters = Json::parse(
        R"({"type": "object", "properties": {"weights": {"type": "array", "items": {"type": "number"}, "x-per-expert": true}}})");
    auto with = [&](const Json& params) { return std::vector<MergeStage>{stage<First>(weighted, params)}; };
    CHECK_NOTHROW(setup.run(with({{"weights", {1, 2, 3}}})));
    CHECK_NOTHROW(setup.run(with(Json::object())));
    fs::remove(setup.out);
    CHECK_THAT(
        setup.error(with({{"weights", {1, 2}}})),
        Catch::Contains("stage 0: the parameter 'weights' of merger:first has 2 entries, expected one per expert, 3"));
    CHECK(code_of([&] { setup.run(with({{"weights", {1, 2, 3, 4}}})); }) == Code::kInvalid);
    CHECK(!fs::exists(setup.out));
}

TEST_CASE("what a manifest says of experts and blocks is checked before a byte is written") {
    Setup setup;
    const size_t before = setup.folder.files();
    auto plan = [&](const ItemInfo& item, const Json& params = Json::object()) {
        return error_of([&] { plan_merge(setup.base, setup.vectors, {stage<First>(item, params)}, setup.out, {}); });
    };
    ItemInfo factors = kFirst, few = kFirst, deep = kFirst;
    factors.parameters = Json::parse(
        R"({"type": "object", "properties": {"blocks": {"type": "array", "items": {"type": "number"}, "x-per-block": true}}})");
    few.raw["merger"]["most_experts"] = 2;
    deep.raw["merger"]["needs"] = {"blocks"};
    // "a" is in block 4, so there are five.
    CHECK(plan(factors, {{"blocks", {1, 2, 3, 4, 5}}}).empty());
    CHECK(plan(factors).empty());
    CHECK_THAT(plan(factors, {{"blocks", {1, 2, 3, 4}}}),
               Catch::Contains("stage 0: the parameter 'blocks' of merger:first has 4 entries, expected one per block "
                               "of the encoder, 5"));
    CHECK_THAT(plan(few), Catch::Contains("stage 0: merger:first takes at most 2 experts, found 3"));
    few.raw["merger"]["most_experts"] = 3;
    CHECK(plan(few).empty());
    few.raw["merger"]["most_experts"] = 0;
    CHECK_THAT(plan(few), Catch::Contains("/most_experts: found the number 0, expected a number from 1 to"));
    CHECK(plan(deep).empty());
    CHECK(setup.folder.files() == before);
    setup.base_file.card.roles = Json::object();
    for (EncoderFile& model : setup.models) model.card.roles = Json::object();
    setup.write();
    CHECK_THAT(plan(deep),
               Catch::Contains("stage 0: merger:first goes by blocks, but no tensor of the base is in one"));
    CHECK_THAT(plan(factors, {{"blocks", {1}}}), Catch::Contains("one per block of the encoder, 0"));
}

TEST_CASE("a stage that can't tell its bytes ends the merge, and one that tells too many gets one state") {
    struct Seen : sdk::Observation {
        void see(const Tile&) override {}
        void join(const sdk::Observation&) override {}
    };
    struct Base : First {
        using First::First;
        std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
            return std::make_unique<Seen>();
        }
    };
    struct Throws : Base {
        using Base::Base;
        uint64_t observed_bytes(uint32_t, size_t) const override { throw std::runtime_error("bytes"); }
    };
    struct Much : Base {
        using Base::Base;
        uint64_t observed_bytes(uint32_t, size_t) const override { return UINT64_MAX - 1; }
    };
    const Setup setup;
    for (const char* join : {"exact", "ordered"}) {
        const ItemInfo global = item("global", "combine", "delta", {{"scope", "global"}, {"join", join}});
        const std::string error = setup.error({stage<Throws>(global)}, {.threads = 3});
        CHECK_THAT(error, Catch::Contains("merger:global") && Catch::Contains("observe_bytes failed to tell"));
        const MergePlan plan = plan_merge(setup.base, setup.vectors, {stage<Much>(global)}, setup.out, {.threads = 3});
        CHECK(plan.memory >= uint64_t{1} << 48);
        CHECK(plan.memory < uint64_t{1} << 50);
        CHECK_NOTHROW(setup.run({stage<Much>(global)}, {.threads = 3}));
        fs::remove(setup.out);
    }
}

TEST_CASE("a post stage that needs the experts sees them as they were read, and how many blocks there are") {
    const Setup setup;
    const ItemInfo sources = item("sources", "post", "delta", {{"scope", "global"}, {"needs", {"experts"}}});
    uint64_t positive = 0;
    std::vector<float> expected(setup.delta(0, "c").size());
    for (size_t i = 0; i < 3; ++i) {
        for (const char* name : {"a", "b.bias", "c"})
            for (const float value : setup.delta(i, name)) positive += value > 0 ? 1 : 0;
        const std::vector<float> delta = setup.delta(i, "c");
        for (size_t k = 0; k < delta.size(); ++k) expected[k] += delta[k];
    }
    // "a" is in block 4, so there are five.
    const std::vector<float> base = setup.base_file.values.at("c");
    for (size_t k = 0; k < expected.size(); ++k)
        expected[k] = base[k] + (expected[k] + 5000.F + static_cast<float>(positive));
    const std::vector<MergeStage> without = {mean(), stage<FromSources>(sources)};
    for (const unsigned threads : {1U, 3U})
        for (const size_t tile : {7UL, 1UL << 20}) {
            setup.run(without, {.threads = threads, .tile_elements = tile});
            CHECK(setup.result("c") == expected);
        }
    // Whatever transforms have done to them.
    const ItemInfo largest = item("largest", "transform", "delta", {{"scope", "tensor"}});
    setup.run({stage<Largest>(largest), mean(), stage<FromSources>(sources)}, {.tile_elements = 100});
    CHECK(setup.result("c") == expected);

    // Checkpoints: what was read is their difference to the base, though no stage before asks for the base. A stage
    // ahead that looks at weights alone needs neither.
    Setup checkpoints;
    for (size_t i = 0; i < 3; ++i) checkpoints.models[i].write(checkpoints.vectors[i]);
    const ItemInfo weights = item("centre-weights", "combine", "weight", {{"scope", "global"}}),
                   element = item("sources-element", "post", "weight", {{"needs", {"experts"}}});
    double sum = 0, count = 0;
    for (const EncoderFile& model : checkpoints.models)
        for (const auto& [name, values] : model.values)
            for (const float value : values) sum += &model == &checkpoints.models[0] ? value : 0, count += 1. / 3;
    for (const unsigned threads : {1U, 3U})
        for (const size_t tile : {7UL, 1UL << 20}) {
            checkpoints.run({stage<Centre>(weights), stage<FromSources>(sources)},
                            {.threads = threads, .tile_elements = tile});
            const std::vector<float> found = checkpoints.result("c");
            float worst = 0;
            for (size_t k = 0; k < expected.size(); ++k) worst = std::max(worst, std::fabs(found[k] - expected[k]));
            CHECK(worst < 2e-3F);  // at numbers of about 70 000: rounding alone
            CHECK_NOTHROW(checkpoints.run({stage<Centre>(weights), stage<First>(element)},
                                          {.threads = threads, .tile_elements = tile}));
            CHECK(checkpoints.result("c")[5] ==
                  Approx(checkpoints.models[0].values["c"][5] - sum / count).margin(1e-6));
        }
}

TEST_CASE("a value that overflows on the way to a stage of the other space is told") {
    Setup setup(1);
    setup.base_file.values["a"][4100] = 3e38F;
    setup.models[0].values["a"][4100] = 3.3e38F;
    setup.write();
    const ItemInfo weight = item("weight", "post", "weight"),
                   global = item("global", "post", "weight", {{"scope", "global"}});
    CHECK_THAT(
        setup.error({stage<Five>(kFive), stage<First>(weight)}),
        Catch::Contains("merger:weight: what comes to it, as weights, exceeds float32 at element 4100 of tensor 'a'"));
    CHECK_THAT(
        setup.error({stage<Five>(kFive), stage<Centre>(global)}),
        Catch::Contains("merger:global: what comes to it, as weights, exceeds float32 at element 4100 of tensor 'a'"));
}

TEST_CASE("a combine that takes two experts takes no other number") {
    const ItemInfo two = item("two", "combine", "delta", {{"experts", 2}});
    CHECK_NOTHROW(Setup(2).run({stage<First>(two)}));
    CHECK_THAT(Setup(3).error({stage<First>(two)}), Catch::Contains("merger:two takes exactly 2 experts, found 3"));
}

TEST_CASE("a value that isn't finite is told with tensor and stage, also where it is observed") {
    const Setup setup;
    const ItemInfo bad = item("bad", "combine"), whole = item("whole", "combine", "delta", {{"scope", "tensor"}});
    for (const unsigned threads : {1U, 4U}) {
        const MergeOptions options{.threads = threads, .tile_elements = 100};
        CHECK_THAT(setup.error({stage<NotFinite>(bad), stage<Centre>(kCentrePost)}, options),
                   Catch::Contains("merger:bad: gave inf at element 0 of tensor 'c'"));
        CHECK_THAT(setup.error({stage<NotFinite>(whole)}, options),
                   Catch::Contains("merger:whole: gave inf at element 0 of tensor 'c'"));
    }
}

TEST_CASE("linear algebra comes to those who need it, or the merge ends at once") {
    const Setup setup(1);
    const ItemInfo product = item("product", "combine", "weight", {{"needs", {"linalg"}}});
    CHECK_THAT(setup.error({stage<Product>(product)}), Catch::Contains("merger:product: it needs linear algebra"));
    bph_linalg_v0 algebra = {.struct_size = sizeof(bph_linalg_v0)};
    algebra.gemm = [](const bph_call* call, uint64_t, uint64_t, uint64_t, const double* a, int32_t, const double* b,
                      int32_t, double* c) -> bph_status {
        *c = *a * *b;
        if (call->threads != 1) return BPH_INTERNAL;
        return BPH_OK;
    };
    setup.run({stage<Product>(product)}, {.threads = 2, .linalg = &algebra});
    CHECK(setup.result("a") == std::vector<float>(5000, 4));
}

TEST_CASE("a table without what its scope asks for is refused") {
    const Setup setup(1);
    bph_merger_v0 table = *kTable<Sizes>;
    table.matrix = nullptr;
    CHECK(code_of([&] { setup.run({first(), {&kSizes, Json::object(), &table}}); }) == Code::kPlugin);
    table = *kTable<Centre>;
    table.observe_join = nullptr;
    CHECK(code_of([&] { setup.run({first(), {&kCentrePost, Json::object(), &table}}); }) == Code::kPlugin);
}
