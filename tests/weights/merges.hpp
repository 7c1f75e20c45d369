// Merges with stages that are linked in: a small base, experts, and what a test asks of the result.
#pragma once

#include "biophony/merger.hpp"
#include "files.hpp"
#include "weights/merge.hpp"

namespace biophony::test {

using sdk::Tile;

/// Σ δ_i / N.
struct Mean : sdk::Merger {
    explicit Mean(const sdk::Params&) {}
    void element(const Tile& tile) const override {
        for (size_t k = 0; k < tile.size(); ++k) {
            float sum = 0;
            for (size_t i = 0; i < tile.experts(); ++i) sum += tile.expert(i)[k];
            tile.out()[k] = sum / static_cast<float>(tile.experts());
        }
    }
};
template <class M>
constexpr const bph_merger_v0* kTable = &sdk::detail::MergerThunks<M>::kTable;

inline ItemInfo item(const std::string& id, const std::string& stage, const std::string& space = "delta",
                     const Json& more = Json::object()) {
    ItemInfo out;
    out.kind = "merger";
    out.id = id;
    out.interface_id = BPH_MERGER_V0;
    out.raw = {{"merger", {{"stage", stage}, {"scope", "element"}, {"space", space}}}};
    out.raw["merger"].update(more);
    return out;
}

inline const ItemInfo kMean = item("mean", "combine");

inline MergeStage mean() {
    return {&kMean, Json::object(), kTable<Mean>};
}

struct Setup {
    Folder folder;
    fs::path base = folder / "base", out = folder / "out";
    std::vector<fs::path> vectors;
    EncoderFile base_file;
    std::vector<EncoderFile> models;

    explicit Setup(size_t experts = 3) {
        base_file.values = {{"a", normal_values(5000, 0.05, 1)},
                            {"b.bias", normal_values(1, 0.05, 2)},
                            {"c", normal_values(40001, 0.05, 3)},
                            {"empty", {}}};
        base_file.shapes = {{"a", {50, 100}}, {"empty", {0, 3}}};
        base_file.integers = {{"steps", {1, -2, 3}}};
        base_file.card.roles = {{"a", {{"kind", "matrix"}, {"block", 4}}}, {"c", {{"kind", 7}, {"block", "x"}}}};
        for (size_t i = 0; i < experts; ++i) {
            models.push_back(base_file);
            uint64_t seed = 100 * i;
            for (auto& [name, values] : models.back().values) {
                const std::vector<float> step = normal_values(values.size(), 0.002, ++seed + 7);
                for (size_t k = 0; k < values.size(); ++k) values[k] += step[k];
            }
        }
        write();
    }
    void write() {
        base_file.write(base);
        vectors.clear();
        for (size_t i = 0; i < models.size(); ++i) {
            models[i].write(folder / "model");
            vectors.push_back(folder / ("vector" + std::to_string(i)));
            write_task_vector(base, folder / "model", vectors.back(), {});
        }
        fs::remove(folder / "model");
    }
    MergeReport run(const std::vector<MergeStage>& stages, const MergeOptions& options = {}) const {
        return merge(base, vectors, stages, out, options);
    }
    std::string error(const std::vector<MergeStage>& stages, const MergeOptions& options = {}) const {
        const size_t before = folder.files();
        const std::string error = error_of([&] { run(stages, options); });
        CHECK(folder.files() == before);
        return error;
    }
    std::vector<float> result(const char* name) const { return SafetensorsFile::open(out).read_floats(name); }
    std::vector<float> delta(size_t expert, const char* name) const {
        return SafetensorsFile::open(vectors[expert]).read_floats(name);
    }
};

}  // namespace biophony::test
