// The engine with stages that are linked in, so that each kind, space and failure has one.
#include "weights/merge.hpp"

#include <atomic>
#include <cmath>
#include <thread>

#include "merges.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

/// Multiplies by "by", and by 1 + the expert's index.
struct Scale : sdk::Merger {
    explicit Scale(const sdk::Params& params) : by(params.at("by").get<float>()) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k)
            tile.out()[k] = tile.expert(0)[k] * by * static_cast<float>(1 + tile.expert_index());
    }
    float by;
};
/// A number that depends on name, role, block and place: what a stage is told.
struct Told : sdk::Merger {
    explicit Told(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k)
            tile.out()[k] = static_cast<float>(tile.tensor().size() * 1000000 + tile.role().size() * 10000 +
                                               static_cast<size_t>(tile.block() + 1) * 1000 + tile.offset() + k);
    }
};
/// The base's values where it was asked for, else −1; as weights.
struct Base : sdk::Merger {
    explicit Base(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = tile.base().empty() ? -1.0F : tile.base()[k];
    }
};
/// Fails in the way that "how" says, where the tensor is called "c".
struct Bad : sdk::Merger {
    explicit Bad(const sdk::Params& params) : how(params.at("how")) {
        if (how == "create") throw sdk::Error("this can't be", BPH_INVALID_ARGUMENT, "how");
    }
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = 0;
        if (tile.tensor() != "c") return;
        if (how == "throw") throw std::runtime_error("at " + std::to_string(tile.offset()));
        if (how == "cancel") throw sdk::Error("cancelled", BPH_CANCELLED);
        if (how == "nan") tile.out().back() = NAN;
    }
    std::string how;
};
/// Writes nothing for the last element.
struct Forgetful : sdk::Merger {
    explicit Forgetful(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k + 1 < tile.size(); ++k) tile.out()[k] = 0;
    }
};

struct ForgetsMiddle : sdk::Merger {
    explicit ForgetsMiddle(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        uint64_t elements = 1;
        for (const uint64_t size : tile.shape()) elements *= size;
        if (tile.offset() > 0 && tile.offset() + tile.size() < elements) return;
        std::ranges::fill(tile.out(), 0.F);
    }
};

const ItemInfo kWeightMean = item("weight-mean", "combine", "weight"), kScale = item("scale", "transform"),
               kPostScale = item("post-scale", "post"), kWeightScale = item("weight-scale", "post", "weight");

}  // namespace

TEST_CASE("a merge is an encoder file: base + combined deltas, the base's card and integers") {
    const Setup setup;
    MergeOptions options;
    options.metadata = {{"biophony.stages", "[]"}, {"biophony.format", "mine"}};
    const MergeReport report = setup.run({mean()}, options);
    const SafetensorsFile file = SafetensorsFile::open(setup.out);
    const EncoderCard card = EncoderCard::from(file);
    CHECK(card.encoder == setup.base_file.card.encoder);
    CHECK(card.config == setup.base_file.card.config);
    CHECK(card.roles == setup.base_file.card.roles);
    CHECK(file.metadata("biophony.stages") == "[]");
    CHECK(file.require("a").shape == std::vector<int64_t>{50, 100});
    CHECK(file.require("empty").shape == std::vector<int64_t>{0, 3});
    std::vector<int64_t> steps(3);
    file.read(file.require("steps"), 0, std::as_writable_bytes(std::span(steps)));
    CHECK(steps == std::vector<int64_t>{1, -2, 3});
    for (const char* name : {"a", "b.bias", "c"}) {
        const std::vector<float> merged = file.read_floats(name), base = setup.base_file.values.at(name);
        std::vector<std::vector<float>> deltas;
        for (size_t i = 0; i < 3; ++i) deltas.push_back(setup.delta(i, name));
        size_t wrong = 0;
        for (size_t k = 0; k < base.size(); ++k)
            wrong += merged[k] == base[k] + (deltas[0][k] + deltas[1][k] + deltas[2][k]) / 3.0F ? 0 : 1;
        CHECK(wrong == 0);
    }
    CHECK(report.tensors == 3);
    CHECK(report.elements == 45002);
    CHECK(report.bytes_written == 45002 * 4 + 24);
    CHECK(report.bytes_read == 2 * (45002 * 4 + 24) + 3 * 45002 * 4);
}

TEST_CASE("what the encoder's card excludes is the base's, though experts differ") {
    Setup setup;
    setup.base_file.card.roles["b.bias"] = {{"kind", "excluded"}, {"block", -1}};
    for (EncoderFile& model : setup.models) model.card = setup.base_file.card;
    setup.write();
    setup.run({mean()});
    CHECK(setup.delta(0, "b.bias")[0] != 0);
    CHECK(setup.result("b.bias") == setup.base_file.values["b.bias"]);
    CHECK(setup.result("a") != setup.base_file.values["a"]);
}

TEST_CASE("the bytes depend neither on threads nor on the size of tiles") {
    const Setup setup;
    const std::vector<MergeStage> stages = {
        {&kScale, {{"by", 0.37}}, kTable<Scale>}, mean(), {&kWeightScale, {{"by", 1.01}}, kTable<Scale>}};
    std::string first;
    for (const unsigned threads : {1U, 2U, 8U})
        for (const size_t tile : {1UL, 7UL, 1024UL, 32768UL, 1UL << 20}) {
            setup.run(stages, {.threads = threads, .tile_elements = tile});
            const std::string bytes = read_file(setup.out);
            if (first.empty()) first = bytes;
            INFO(threads << " threads, tiles of " << tile);
            CHECK((bytes == first));
        }
}

TEST_CASE("stages run in their order, each in its space") {
    const Setup setup;
    const std::vector<float> base = setup.base_file.values.at("a");
    const std::vector<float> d0 = setup.delta(0, "a"), d1 = setup.delta(1, "a"), d2 = setup.delta(2, "a");
    auto largest_difference = [&](const std::function<double(size_t)>& expected) {
        const std::vector<float> merged = setup.result("a");
        double worst = 0;
        for (size_t k = 0; k < merged.size(); ++k) worst = std::max(worst, std::fabs(merged[k] - expected(k)));
        return worst;
    };
    SECTION("a transform sees every expert, with its index") {
        setup.run({{&kScale, {{"by", 0.5}}, kTable<Scale>}, mean()});
        CHECK(largest_difference(
                  [&](size_t k) { return base[k] + 0.5 * (1.0 * d0[k] + 2.0 * d1[k] + 3.0 * d2[k]) / 3; }) < 1e-7);
    }
    SECTION("two transforms, two posts") {
        setup.run({{&kScale, {{"by", 0.5}}, kTable<Scale>},
                   {&kScale, {{"by", 3}}, kTable<Scale>},
                   mean(),
                   {&kPostScale, {{"by", 2}}, kTable<Scale>},
                   {&kPostScale, {{"by", 0.25}}, kTable<Scale>}});
        CHECK(largest_difference(
                  [&](size_t k) { return base[k] + 0.75 * (1.0 * d0[k] + 4.0 * d1[k] + 9.0 * d2[k]) / 3; }) < 1e-7);
    }
    SECTION("weights") {
        setup.run({{&kWeightMean, Json::object(), kTable<Mean>}});
        CHECK(largest_difference([&](size_t k) { return base[k] + (1.0 * d0[k] + d1[k] + d2[k]) / 3; }) < 1e-7);
        setup.run({mean(), {&kWeightScale, {{"by", 2}}, kTable<Scale>}, {&kPostScale, {{"by", 0.5}}, kTable<Scale>}});
        CHECK(largest_difference([&](size_t k) {
                  const double weights = 2 * (base[k] + (1.0 * d0[k] + d1[k] + d2[k]) / 3);
                  return base[k] + 0.5 * (weights - base[k]);
              }) < 1e-7);
    }
    SECTION("the base comes to those who ask") {
        const ItemInfo asks = item("asks", "combine", "weight", {{"needs", {"base"}}}),
                       silent = item("silent", "combine", "weight");
        setup.run({{&asks, Json::object(), kTable<Base>}});
        CHECK(setup.result("a") == base);
        setup.run({{&silent, Json::object(), kTable<Base>}});
        CHECK(setup.result("a") == std::vector<float>(5000, -1));
    }
    SECTION("name, role, block and offset") {
        const ItemInfo told = item("told", "combine", "weight");
        setup.run({{&told, Json::object(), kTable<Told>}}, {.threads = 2, .tile_elements = 100});
        CHECK(setup.result("a")[4321] == 1000000.F + 60000 + 5000 + 4321);
        CHECK(setup.result("b.bias")[0] == 6000000.F);
        CHECK(setup.result("c")[123] == 1000000.F + 123);
    }
}

TEST_CASE("one expert at full scale is that expert, within one unit in the last place") {
    const Setup setup(1);
    setup.run({mean()});
    for (const char* name : {"a", "b.bias", "c"}) {
        const std::vector<float> merged = setup.result(name), model = setup.models[0].values.at(name),
                                 base = setup.base_file.values.at(name);
        for (size_t k = 0; k < merged.size(); ++k) {
            const float top = std::max(std::fabs(base[k]), std::fabs(model[k]));
            if (std::fabs(merged[k] - model[k]) > std::nextafter(top, 1e9F) - top) FAIL(name << " " << k);
        }
    }
}

TEST_CASE("stages that don't fit together are refused with their place") {
    auto check = [](const std::vector<ItemInfo>& items, size_t expected) {
        std::vector<MergeStage> stages;
        for (const ItemInfo& one : items) stages.push_back({&one, Json::object()});
        size_t at = 99;
        const std::string problem = check_stages(stages, at);
        CHECK(at == expected);
        return problem;
    };
    const ItemInfo t = item("t", "transform"), c = item("c", "combine"), p = item("p", "post");
    CHECK(check({c}, 0).empty());
    CHECK(check({t, t, c, p, p}, 0).empty());
    CHECK_THAT(check({}, 0), Catch::Contains("there are no stages"));
    CHECK_THAT(check({t, t}, 1), Catch::Contains("no stage is a combine"));
    CHECK_THAT(check({t, c, p, c}, 3), Catch::Contains("merger:c is a second combine after merger:c"));
    CHECK_THAT(check({t, p, c}, 1), Catch::Contains("merger:p is a post stage before any combine"));
    CHECK_THAT(check({c, t}, 1), Catch::Contains("merger:t is a transform after the combine merger:c"));
    CHECK_THAT(check({c, item("m", "post", "delta", {{"scope", "matrx"}})}, 1),
               Catch::Contains("merger:m") &&
                   Catch::Contains("has the scope 'matrx', this host knows element, tensor") &&
                   Catch::Contains("did you mean 'matrix'?"));
    CHECK_THAT(check({item("m", "combin")}, 0),
               Catch::Contains("'combin'") && Catch::Contains("did you mean 'combine'"));
    CHECK_THAT(check({item("m", "combine", "logits")}, 0), Catch::Contains("the space 'logits'"));
    CHECK_THAT(check({item("m", "combine", "delta", {{"needs", {"linalgs"}}})}, 0),
               Catch::Contains("needs 'linalgs'") && Catch::Contains("did you mean 'linalg'?"));
    CHECK_THAT(check({item("m", "combine", "delta", {{"experts", "all"}})}, 0), Catch::Contains("is for transforms"));
    CHECK_THAT(check({item("m", "combine", "delta", {{"experts", 0}})}, 0), Catch::Contains("found 0, expected"));
    CHECK_THAT(check({item("m", "transform", "delta", {{"experts", 2}})}, 0), Catch::Contains("for a combine"));
    CHECK_THAT(check({c, item("m", "post", "delta", {{"needs", {"expert"}}})}, 1),
               Catch::Contains("did you mean 'experts'?"));
    CHECK_THAT(check({item("m", "combine", "delta", {{"needs", {"experts"}}})}, 0),
               Catch::Contains("/needs: found \"experts\", which is for post stages"));
    CHECK_THAT(check({item("m", "combine", "delta", {{"observe", 2}})}, 0),
               Catch::Contains("for the scope \"global\""));
    CHECK_THAT(check({item("m", "combine", "delta", {{"scope", "global"}, {"observe", 0}})}, 0),
               Catch::Contains("/observe: found the number 0"));
    CHECK_THAT(check({item("m", "combine", "delta", {{"roles", {"matrix"}}})}, 0),
               Catch::Contains("for the scope \"matrix\""));
    CHECK_THAT(check({item("m", "combine", "delta", {{"needs", {"fisher"}}})}, 0),
               Catch::Contains("needs 'fisher', this host gives base, linalg"));
    ItemInfo bare = c;
    bare.raw = Json::object();
    CHECK_THAT(check({bare}, 0), Catch::Contains("the object 'merger' is missing"));
    bare.raw = {{"merger", 3}};
    CHECK_THAT(check({bare}, 0), Catch::Contains("the object 'merger' is missing"));
    bare.raw = {{"merger", Json::object()}};
    CHECK_THAT(check({bare}, 0),
               Catch::Contains("the key 'stage' is missing, expected one of transform, combine, post"));
    bare.raw = {{"merger", {{"preset", {{{"use", "merger:t"}}}}}}};
    CHECK_THAT(check({bare}, 0), Catch::Contains("is a preset, expected the stages that it stands for"));
    bare = c;
    bare.interface_id = "biophony.merger/9";
    CHECK_THAT(check({bare}, 0), Catch::Contains("'biophony.merger/9', expected 'biophony.merger/0'"));

    const Setup setup(1);
    CHECK(code_of([&] { setup.run({{&t, Json::object()}}); }) == Code::kInvalid);
    CHECK(code_of([&] { setup.run({mean()}, {.tile_elements = 0}); }) == Code::kInvalid);
    CHECK_THAT(error_of([&] { merge(setup.base, {}, {mean()}, setup.out, {}); }), Catch::Contains("no task vectors"));
}

TEST_CASE("vectors of another base or encoder are refused by name") {
    Setup setup;
    SECTION("base") {
        EncoderFile other = setup.base_file;
        other.values["c"][40000] += 1;
        other.write(setup.base);
        CHECK_THAT(setup.error({mean()}), Catch::Contains("vector0: was made from another base than") &&
                                              Catch::Contains("tensor 'c' differs"));
    }
    SECTION("config") {
        EncoderFile other = setup.base_file;
        other.card.config["width"] = 5;
        other.write(setup.base);
        CHECK_THAT(setup.error({mean()}),
                   Catch::Contains("vector0: is a vector of encoder:toy") && Catch::Contains("with another config"));
    }
    SECTION("a vector that is an encoder") {
        setup.vectors[1] = setup.base;
        CHECK_THAT(setup.error({mean()}), Catch::Contains("base: is the base itself"));
    }
    SECTION("a missing file") {
        setup.vectors[1] = setup.folder / "none";
        CHECK_THAT(setup.error({mean()}), Catch::Contains("none: can't read"));
    }
}

TEST_CASE("values that are not finite end the merge with the tensor's name") {
    const Setup setup;
    const auto good = SafetensorsFile::open(setup.vectors[1]);
    {
        std::vector<SafetensorsWriter::Tensor> announced;
        for (const TensorInfo& tensor : good.tensors()) announced.push_back({tensor.name, tensor.dtype, tensor.shape});
        SafetensorsWriter writer(setup.vectors[1], announced, good.metadata());
        for (const TensorInfo& tensor : good.tensors()) {
            std::vector<float> values = good.read_floats(tensor.name);
            if (tensor.name == "c") values[40000] = NAN;
            writer.write_floats(tensor.name, 0, values);
        }
        writer.finish();
    }
    CHECK_THAT(setup.error({mean()}, {.threads = 3, .tile_elements = 1000}),
               Catch::Contains("vector1: tensor 'c' has nan at element 40000"));
}

TEST_CASE("an overflow of the sum is told") {
    Setup setup(1);
    setup.base_file.values["a"][17] = 3e38F;
    setup.models[0].values["a"][17] = 3.3e38F;
    setup.write();
    CHECK_THAT(setup.error({mean(), {&kPostScale, {{"by", 5}}, kTable<Scale>}}),
               Catch::Contains("the merged tensor 'a' has inf at element 17"));
}

TEST_CASE("what goes wrong in a plugin reaches the caller, from any thread, the same each time") {
    const Setup setup;
    const ItemInfo bad = item("bad", "combine");
    auto stages = [&](const char* how) { return std::vector<MergeStage>{{&bad, {{"how", how}}, kTable<Bad>}}; };
    for (const unsigned threads : {1U, 4U})
        for (int round = 0; round < 5; ++round) {
            const MergeOptions options{.threads = threads, .tile_elements = 64};
            CHECK_THAT(setup.error(stages("throw"), options),
                       Catch::Contains("merger:bad") && Catch::Contains("at 0 (tensor 'c')"));
            CHECK_THAT(setup.error(stages("nan"), options),
                       Catch::Contains("merger:bad: gave nan at element 63 of tensor 'c'"));
        }
    CHECK(code_of([&] { setup.run(stages("cancel")); }) == Code::kCancelled);
    CHECK(code_of([&] { setup.run(stages("create")); }) == Code::kInvalid);
    CHECK_THAT(setup.error(stages("create")), Catch::Contains("this can't be") && Catch::Contains("'how'"));
    const ItemInfo forgetful = item("forgetful", "combine");
    CHECK_THAT(setup.error({{&forgetful, Json::object(), kTable<Forgetful>}}),
               Catch::Contains("merger:forgetful: gave nan at element 2047 of tensor 'a'"));
    // Also between a tensor's ends, where what was there before is finite.
    CHECK_THAT(setup.error({{&forgetful, Json::object(), kTable<ForgetsMiddle>}}),
               Catch::Contains("merger:forgetful: gave nan at element 2048 of tensor 'a'"));
    CHECK_NOTHROW(setup.run(stages("nothing")));
}

TEST_CASE("a table that is too short is refused") {
    const Setup setup(1);
    bph_merger_v0 table = *kTable<Mean>;
    table.struct_size = 16;
    CHECK(code_of([&] { setup.run({{&kMean, Json::object(), &table}}); }) == Code::kPlugin);
}

TEST_CASE("a merge can be cancelled, and tells where it is") {
    const Setup setup;
    struct Watch : Progress {
        void update(double done_now, double total_now, std::string_view unit_now) override {
            rises = rises && done_now >= done && (total == 0 || total == total_now);
            one_thread = one_thread && std::this_thread::get_id() == thread;
            done = done_now;
            total = total_now;
            unit = unit_now;
            if (cancel != nullptr && done > total / 2) cancel->request();
        }
        std::thread::id thread = std::this_thread::get_id();
        bool rises = true, one_thread = true;
        double done = 0, total = 0;
        std::string unit;
        Cancel* cancel = nullptr;
    };
    Watch watch;
    const MergeReport report = setup.run({mean()}, {.threads = 3, .tile_elements = 500, .progress = &watch});
    CHECK(watch.rises);
    CHECK(watch.one_thread);
    CHECK(watch.unit == "bytes");
    CHECK(watch.done == watch.total);
    CHECK(watch.total == static_cast<double>(report.bytes_read + report.bytes_written));

    fs::remove(setup.out);
    Cancel cancel;
    Watch stopping;
    stopping.cancel = &cancel;
    const MergeOptions options{.threads = 2, .tile_elements = 10, .progress = &stopping, .cancel = &cancel};
    CHECK(code_of([&] { setup.run({mean()}, options); }) == Code::kCancelled);
    CHECK(!fs::exists(setup.out));
    CHECK(stopping.done < stopping.total);
}
