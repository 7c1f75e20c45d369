// Hashes of a base and lengths of experts are remembered for just the state of the files that they were read from.
#include "weights/remembered.hpp"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "merges.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

void write_values(const fs::path& path, float last) {
    SafetensorsWriter writer(path, {{"a", DType::kF32, {3}}}, {});
    writer.write_floats("a", 0, std::vector<float>{1, 2, last});
    writer.finish();
}

/// The cache folder of a test, for as long as it lasts.
struct CacheFolder {
    explicit CacheFolder(const fs::path& path) {
        if (const char* before = std::getenv("BIOPHONY_CACHE"); before != nullptr) old = before;
        ::setenv("BIOPHONY_CACHE", path.c_str(), 1);
    }
    ~CacheFolder() {
        if (old.empty())
            ::unsetenv("BIOPHONY_CACHE");
        else
            ::setenv("BIOPHONY_CACHE", old.c_str(), 1);
    }
    std::string old;
};

/// Σ δ_i ‖δ_i‖, to see what a stage is told.
struct ByNorm : sdk::Merger {
    explicit ByNorm(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) {
            float sum = 0;
            for (size_t i = 0; i < tile.experts(); ++i) sum += static_cast<float>(tile.norm(i)) * tile.expert(i)[k];
            tile.out()[k] = sum;
        }
    }
};

/// Tells the norm of the one expert that it sees.
struct Tells : sdk::Merger {
    explicit Tells(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) tile.out()[k] = static_cast<float>(tile.norm(0));
    }
};

}  // namespace

TEST_CASE("lengths of experts are measured once, and the same whether they were remembered or not") {
    Setup setup(3);
    const CacheFolder cache(setup.folder / "cache");
    const fs::path squares = setup.folder / "cache" / "squares";
    // More than a block, and what the card excludes counts for nothing.
    setup.base_file.values["big"] = normal_values((1 << 20) + 4097, 0.05, 40);
    setup.base_file.card.roles = {{"c", {{"kind", "excluded"}}}};
    for (size_t i = 0; i < 3; ++i) {
        setup.models[i].card = setup.base_file.card;
        setup.models[i].values["big"] = normal_values((1 << 20) + 4097, 0.05, 50 + i);
    }
    setup.write();
    const fs::path checkpoint = setup.folder / "checkpoint";
    setup.models[2].write(checkpoint);
    const std::vector<fs::path> experts = {setup.vectors[0], setup.vectors[1], checkpoint};
    const ItemInfo by_norm = item("by-norm", "combine", "delta", {{"needs", {"norms"}}}),
                   tells = item("tells", "transform", "delta", {{"needs", {"norms"}}});
    const std::vector<MergeStage> stages = {{&by_norm, Json::object(), kTable<ByNorm>}};
    std::vector<long double> norms;
    for (size_t i = 0; i < 3; ++i) {
        long double sum = 0;
        for (const char* name : {"a", "b.bias", "big"})
            for (const float value : setup.delta(i, name)) sum += static_cast<long double>(value) * value;
        norms.push_back(std::sqrt(sum));
    }
    std::string first;
    auto run = [&](uint32_t passes, unsigned threads, std::optional<size_t> tile) {
        MergePlan plan =
            plan_merge(setup.base, experts, stages, setup.out, {.threads = threads, .tile_elements = tile});
        INFO(threads << " threads, tiles of " << tile.value_or(0));
        CHECK(plan.passes == passes);
        run_merge(plan);
        const std::string bytes = read_file(setup.out);
        if (first.empty()) first = bytes;
        CHECK((bytes == first));
    };
    for (const unsigned threads : {1U, 4U})
        for (const size_t tile : {33, 5000}) {
            run(2, threads, tile);
            fs::remove_all(squares);
        }
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));  // what is younger isn't remembered
    run(2, 2, {});
    run(1, 1, {});
    run(1, 4, 33);
    const std::vector<float> merged = setup.result("a"), base = setup.base_file.values.at("a");
    for (size_t k = 0; k < merged.size(); k += 100) {
        double expected = base[k];
        for (size_t i = 0; i < 3; ++i) expected += static_cast<double>(norms[i]) * setup.delta(i, "a")[k];
        CHECK(merged[k] == Approx(expected).epsilon(1e-5));
    }
    // Only what isn't known is read: another expert, beside two that are. And a transform is told its own expert's.
    merge(setup.base, {setup.vectors[2], experts[0]}, {{&tells, Json::object(), kTable<Tells>}, mean()}, setup.out, {});
    const double mean_norm = (static_cast<double>(norms[2]) + static_cast<double>(norms[0])) / 2;
    CHECK(setup.result("b.bias")[0] - setup.base_file.values.at("b.bias")[0] == Approx(mean_norm).epsilon(1e-6));
    MergePlan plan = plan_merge(setup.base, {experts[0], setup.vectors[1]}, stages, setup.out, {});
    CHECK(plan.passes == 1);
    // A record that says something else of the file or of how it was summed up, or nothing of a tensor, is none.
    size_t records = 0;
    for (const auto& record : fs::directory_iterator(squares)) {
        Json json = Json::parse(read_file(record.path()));
        if (++records % 3 == 0)
            json["tensors"].erase("big");
        else if (records % 3 == 1)
            json["size"] = 1;
        else  // sums of other blocks have other last bits
            json["sums"] = "float64/1 blocks of 65536";
        std::ofstream(record.path(), std::ios::trunc) << json.dump();
    }
    CHECK(records == 4);
    run(2, 2, {});
    run(1, 2, {});
    // A checkpoint's length is against its base: a new base makes it unknown, a vector's stands.
    setup.base_file.write(setup.base);
    run(2, 2, {});
    // NaN is found in this pass as well.
    setup.models[2].values["big"][70] = NAN;
    setup.models[2].write(checkpoint);
    CHECK_THAT(error_of([&] { merge(setup.base, experts, stages, setup.out, {.threads = 3}); }),
               Catch::Contains("checkpoint: tensor 'big' has nan at element 70"));
}

TEST_CASE("hashes are read once, and anew after a write or from a corrupt record") {
    const Folder folder;
    const CacheFolder cache(folder / "cache");
    const fs::path path = folder / "base";
    write_values(path, 3);
    auto ask = [&] { return remembered_hashes(SafetensorsFile::open(path), 1); };
    CHECK(ask().read);
    CHECK(ask().read);  // it is too young to be remembered
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    const RememberedHashes first = ask();
    CHECK(first.read);
    const RememberedHashes second = ask();
    CHECK(!second.read);
    CHECK(second.tensors == first.tensors);
    const fs::path record = fs::directory_iterator(folder / "cache" / "hashes")->path();
    for (const char* text : {"{", R"({"version": 1})", ""}) {
        std::ofstream(record, std::ios::trunc) << text;
        const RememberedHashes again = ask();
        CHECK(again.read);
        CHECK(again.tensors == first.tensors);
        CHECK(!ask().read);  // and put right
    }
    // The same inode, another value.
    {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(-1, std::ios::end);
        file.put('\x41');
    }
    const RememberedHashes changed = ask();
    CHECK(changed.read);
    CHECK(changed.tensors != first.tensors);
}
