// What the SDK says of stages that ask for what their manifest or their class doesn't have, and what becomes of logs.
#include "merges.hpp"
#include "plugins/call.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

/// Does what "what" says, wrongly.
struct Careless : sdk::Merger {
    explicit Careless(const sdk::Params& params) : what(params.at("what")) {}
    void element(const Tile& tile) const override {
        std::ranges::fill(tile.out(), 0.F);
        if (what == "random") tile.random();
        if (what == "linalg") tile.linalg();
        if (what == "observed") tile.observed<sdk::Observation>();
        if (what == "out") tile.out(0);
        if (what == "matrix") tile.matrix(0);
        const sdk::Matrix tall(3, 2), square(2, 2);
        if (what == "multiply") tile.linalg().multiply(tall, tall);
        if (what == "multiply transposed") tile.linalg().multiply(square, tall, true);
        if (what == "eigh") tile.linalg().eigh(tall);
        if (what == "svd") tile.linalg().svd(square);
        if (what == "svd caught") try {
                tile.linalg().svd(square);
            } catch (const sdk::Error& error) {
                if (error.status() != BPH_INTERNAL) throw std::runtime_error("another status");
            }
        if (what == "svd said anew") try {
                tile.linalg().svd(square);
            } catch (const sdk::Error&) {
                throw sdk::Error("the stage's own words");
            }
    }
    std::string what;
};
/// Logs what it sees: where a tensor begins, and the same each time.
struct Talks : sdk::Merger {
    explicit Talks(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        tile.call().log("always the same");
        if (tile.offset() == 0) {
            tile.call().log("z of " + std::string(tile.tensor()), BPH_LOG_WARNING);
            tile.call().log("a of " + std::string(tile.tensor()), BPH_LOG_DEBUG);
        }
        std::ranges::copy(tile.expert(0), tile.out().begin());
    }
};
/// Logs while it observes, and of the smallest tensor when it is joined or ended.
struct TalksOfAll : sdk::Merger {
    struct Seen : sdk::Observation {
        void see(const Tile& tile) override {
            if (tile.offset() == 0) tile.call().log("saw " + std::string(tile.tensor()));
        }
        void join(const sdk::Observation&) override {}
    };
    explicit TalksOfAll(const sdk::Params&) {}
    std::unique_ptr<sdk::Observation> begin(uint32_t, size_t, const sdk::Observation*) const override {
        return std::make_unique<Seen>();
    }
    void element(const Tile& tile) const override { std::ranges::copy(tile.expert(0), tile.out().begin()); }
};
struct Fails : sdk::Merger {
    explicit Fails(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        tile.call().log("before it failed");
        throw std::runtime_error("failed");
    }
};
struct MatrixOnly : sdk::Merger {
    explicit MatrixOnly(const sdk::Params&) {}
    void element(const Tile& tile) const override { std::ranges::fill(tile.out(), 0.F); }
    void matrix(const Tile& tile) const override { std::ranges::fill(tile.out(), 1.F); }
};
struct ByInheritance : MatrixOnly {
    using MatrixOnly::MatrixOnly;
};

bph_linalg_v0 failing_linalg() {
    bph_linalg_v0 table = {.struct_size = sizeof(bph_linalg_v0)};
    table.svd = [](const bph_call* call, uint64_t, uint64_t, const double*, double*, double*, double*) -> bph_status {
        constexpr std::string_view text = "the host's own words";
        call->set_error(call, BPH_INTERNAL, {text.data(), text.size()}, {nullptr, 0});
        return BPH_INTERNAL;
    };
    return table;
}

const ItemInfo kCareless = item("careless", "combine"),
               kNeeds = item("careless", "combine", "delta", {{"needs", {"linalg"}}});

std::string told(const char* what, const ItemInfo& about = kCareless, const bph_linalg_v0* linalg = nullptr) {
    const Setup setup(1);
    return setup.error({{&about, {{"what", what}}, kTable<Careless>}}, {.linalg = linalg});
}

std::vector<std::string> logs(const Setup& setup, const std::vector<MergeStage>& stages, unsigned threads,
                              size_t tile) {
    std::vector<std::string> out;
    MergeOptions options{.threads = threads, .tile_elements = tile};
    options.log = [&](int level, const std::string& text) { out.push_back(std::to_string(level) + " " + text); };
    setup.run(stages, options);
    return out;
}

}  // namespace

TEST_CASE("a stage that asks for what its manifest doesn't promise is told the key") {
    CHECK_THAT(told("random"), Catch::Contains("merger:careless: Tile::random()") &&
                                   Catch::Contains("\"random\": true") && Catch::Contains("tensor 'a'"));
    CHECK_THAT(told("linalg"), Catch::Contains("\"needs\": [\"linalg\"]"));
    CHECK_THAT(told("observed"), Catch::Contains("\"scope\": \"global\""));
    CHECK_THAT(told("out"), Catch::Contains("\"experts\": \"all\""));
    CHECK_THAT(told("matrix", item("careless", "combine", "delta", {{"scope", "tensor"}})) + told("matrix"),
               Catch::Contains("matrix(i) is for Merger::matrix()"));
}

TEST_CASE("linear algebra: shapes that don't fit are told, and the host's words stand") {
    const bph_linalg_v0 failing = failing_linalg();
    CHECK_THAT(told("multiply", kNeeds, &failing), Catch::Contains("multiply: found 3 x 2 and 3 x 2, expected"));
    CHECK_THAT(told("multiply transposed", kNeeds, &failing), Catch::Contains("found 2 x 2 transposed and 3 x 2"));
    CHECK_THAT(told("eigh", kNeeds, &failing), Catch::Contains("eigh: found a matrix of 3 x 2, expected a square one"));
    CHECK_THAT(told("svd", kNeeds, &failing), Catch::Contains("merger:careless: the host's own words (tensor 'a')"));
    const Setup setup(1);
    CHECK_NOTHROW(setup.run({{&kNeeds, {{"what", "svd caught"}}, kTable<Careless>}}, {.linalg = &failing}));
    CHECK_THAT(told("svd said anew", kNeeds, &failing),
               Catch::Contains("the stage's own words") && !Catch::Contains("host"));
    bph_linalg_v0 short_table = failing;
    short_table.struct_size = 16;
    CHECK_THAT(told("svd", kNeeds, &short_table), Catch::Contains("linear algebra has 16 bytes, expected at least"));
}

TEST_CASE("a tile that is shorter than the stage knows it is refused") {
    const PluginCall call("merger:mean");
    bph_merge_tile tile = {.struct_size = sizeof(bph_merge_tile) - 8};
    void* self = nullptr;
    call.check(kTable<Mean>->create(call.get(), {"{}", 2}, &self));
    CHECK(kTable<Mean>->element(call.get(), self, &tile) == BPH_INCOMPATIBLE);
    CHECK_THAT(error_of([&] { call.check(BPH_INCOMPATIBLE); }), Catch::Contains("bytes, expected at least"));
    kTable<Mean>->destroy(self);
}

TEST_CASE("a table has the functions that its class has") {
    CHECK((kTable<Mean>->matrix == nullptr && kTable<Mean>->observe_begin == nullptr));
    CHECK((kTable<Mean>->observe == nullptr && kTable<Mean>->observe_destroy == nullptr));
    CHECK((kTable<MatrixOnly>->matrix != nullptr && kTable<MatrixOnly>->observe_begin == nullptr));
    CHECK(kTable<ByInheritance>->matrix != nullptr);
    CHECK((kTable<TalksOfAll>->observe_begin != nullptr && kTable<TalksOfAll>->observe_join != nullptr &&
           kTable<TalksOfAll>->matrix == nullptr));
}

TEST_CASE("what stages log is told once each, in an order that threads don't change") {
    const Setup setup(2);
    const ItemInfo talks = item("talks", "combine"), post = item("late", "post"),
                   global = item("global", "transform", "delta", {{"scope", "global"}});
    const std::vector<MergeStage> stages = {{&global, Json::object(), kTable<TalksOfAll>},
                                            {&talks, Json::object(), kTable<Talks>},
                                            {&post, Json::object(), kTable<Talks>}};
    const std::vector<std::string> expected = {
        "1 merger:global: saw a",          "1 merger:global: saw b.bias",    "1 merger:global: saw c",
        "1 merger:talks: always the same", "2 merger:talks: z of a",         "0 merger:talks: a of a",
        "2 merger:talks: z of b.bias",     "0 merger:talks: a of b.bias",    "2 merger:talks: z of c",
        "0 merger:talks: a of c",          "1 merger:late: always the same", "2 merger:late: z of a",
        "0 merger:late: a of a",           "2 merger:late: z of b.bias",     "0 merger:late: a of b.bias",
        "2 merger:late: z of c",           "0 merger:late: a of c"};
    for (const unsigned threads : {1U, 2U, 4U})
        for (const size_t tile : {100UL, 1UL << 24}) {
            INFO(threads << " threads, tiles of " << tile);
            CHECK(logs(setup, stages, threads, tile) == expected);
        }
    // Also what came before an error.
    const ItemInfo fails = item("fails", "combine");
    std::vector<std::string> heard;
    MergeOptions options;
    options.log = [&](int, const std::string& text) { heard.push_back(text); };
    setup.error({{&fails, Json::object(), kTable<Fails>}}, options);
    CHECK(heard == std::vector<std::string>{"merger:fails: before it failed"});
}

TEST_CASE("a stage for matrices that finds none says so") {
    Setup setup(1);
    const ItemInfo flat = item("flat", "combine", "delta", {{"scope", "matrix"}, {"roles", {"matrix", "kernel"}}});
    const std::vector<MergeStage> stages = {{&flat, Json::object(), kTable<MatrixOnly>}};
    CHECK(logs(setup, stages, 2, 1000).empty());
    for (EncoderFile* file : {&setup.base_file, &setup.models[0]}) file->card.roles = Json::object();
    setup.write();
    CHECK(logs(setup, stages, 2, 1000) ==
          std::vector<std::string>{
              "2 merger:flat: no tensor has a role in [matrix, kernel]; it does only its rule for others"});
}
