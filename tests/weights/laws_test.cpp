// What every merge stage and preset promises, asked of all that the registry finds: a new plugin is tested without a
// line here. The plugins' manifests say in "x-laws" what holds beyond what holds for all.
#include <cmath>

#include "files.hpp"
#include "stage_host.hpp"
#include "weights/merge.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

const StagePlugins& plugins() {
    return StagePlugins::get();
}
const Registry& registry() {
    static const Registry found({fs::path(BPH_BUILD_DIR) / "plugins"}, false);
    return found;
}

const Json& merger(const std::string& id) {
    return plugins().manifest(id).at("merger");
}
bool preset(const std::string& id) {
    return merger(id).contains("preset");
}
/// The stages that an item stands for, the item itself where it is one.
std::vector<std::string> parts(const std::string& id) {
    if (!preset(id)) return {id};
    std::vector<std::string> out;
    for (const Json& part : merger(id).at("preset")) out.push_back(part.at("use").get<std::string>().substr(7));
    return out;
}
std::string stage_of(const std::string& id) {
    return merger(parts(id).back()).at("stage");
}
bool weights(const std::string& id) {
    return merger(parts(id).front()).at("space") == "weight";
}
bool random(const std::string& id) {
    const auto all = parts(id);
    return std::any_of(all.begin(), all.end(), [](const auto& part) { return merger(part).value("random", false); });
}
bool holds(const std::string& id, const std::string& law) {
    const Json laws = merger(id).value("x-laws", Json::object()).value("holds", Json::array());
    return std::find(laws.begin(), laws.end(), law) != laws.end();
}
Json with(const std::string& id) {
    return merger(id).value("x-laws", Json::object()).value("with", Json::object());
}
/// How many experts it takes, as near to `wanted` as it can.
size_t experts_of(const std::string& id, size_t wanted) {
    const Json exactly = merger(parts(id).back()).value("experts", Json());
    if (exactly.is_number()) return exactly;
    return stage_of(id) == "post" ? 1 : wanted;
}

std::vector<StageTensor> tensors(size_t experts) {
    std::vector<StageTensor> out = odd_tensors(experts);
    int32_t block = -1;
    for (StageTensor& tensor : out) tensor.block = block++ % 3;
    // Less than one value of a hundred, a single row and a tensor of equal values come with the others.
    out.push_back({"even", "bias", {12}, std::vector<std::vector<float>>(experts, std::vector<float>(12, 0.25F))});
    return out;
}
std::vector<StageTensor> all_equal(size_t experts) {
    std::vector<StageTensor> out = tensors(experts);
    for (StageTensor& tensor : out) std::fill(tensor.experts.begin(), tensor.experts.end(), tensor.experts[0]);
    return out;
}
/// Largest distance from the expert, in units of the expert's largest value in that tensor.
double distance_to_expert(const std::vector<StageTensor>& out, const std::vector<StageTensor>& in) {
    double worst = 0;
    for (size_t t = 0; t < in.size(); ++t) {
        double size = 0;
        for (const float value : in[t].experts[0]) size = std::max(size, std::fabs(static_cast<double>(value)));
        for (size_t k = 0; k < in[t].size(); ++k)
            worst = std::max(worst, std::fabs(static_cast<double>(out[t].experts[0][k]) - in[t].experts[0][k]) / size);
    }
    return worst;
}

}  // namespace

TEST_CASE("laws: every combine and every preset says what holds for it, in words that are known") {
    for (const std::string& id : plugins().ids()) {
        INFO(id);
        const Json laws = merger(id).value("x-laws", Json::object());
        for (const auto& [key, value] : laws.items()) CHECK((key == "holds" || key == "with"));
        for (const Json& law : laws.value("holds", Json::array()))
            CHECK((law == "one" || law == "equal" || law == "scale"));
        CHECK(plugins().problems(id, with(id)).empty());
    }
    CHECK(plugins().ids().size() > 40);
}

TEST_CASE("laws: deltas of zero give zero, and equal weights themselves") {
    for (const std::string& id : plugins().ids()) {
        INFO(id);
        const size_t experts = experts_of(id, 3);
        if (weights(id)) {
            const auto same = all_equal(experts);
            CHECK(distance_to_expert(plugins().run(id, same), same) < 1e-6);
            continue;
        }
        for (const StageTensor& tensor : plugins().run(id, scaled(tensors(experts), 0)))
            for (const auto& expert : tensor.experts)
                for (const float value : expert) REQUIRE(value == 0);
    }
}

TEST_CASE("laws: one expert is given back, of equal experts one") {
    size_t asked = 0;
    for (const std::string& id : plugins().ids()) {
        INFO(id);
        if (holds(id, "one")) {
            const auto one = tensors(1);
            CHECK(distance_to_expert(plugins().run(id, one, with(id)), one) < 1e-6);
            ++asked;
        }
        if (holds(id, "equal")) {
            const auto same = all_equal(experts_of(id, 4));
            CHECK(distance_to_expert(plugins().run(id, same, with(id)), same) < 1e-6);
            ++asked;
        }
    }
    CHECK(asked > 30);
}

TEST_CASE("laws: results grow with the deltas") {
    size_t asked = 0;
    for (const std::string& id : plugins().ids()) {
        if (!holds(id, "scale")) continue;
        INFO(id);
        const auto in = tensors(experts_of(id, 3));
        const auto out = plugins().run(id, in, with(id));
        for (const float factor : {0.0625F, 1024.0F}) {
            const auto larger = plugins().run(id, scaled(in, factor), with(id));
            CHECK(distance(scaled(larger, 1 / factor), out) < 1e-7);
        }
        ++asked;
    }
    CHECK(asked > 30);
}

TEST_CASE("laws: the order of the experts doesn't matter where the manifest says so") {
    for (const std::string& id : plugins().ids()) {
        const auto all = parts(id);
        if (!std::all_of(all.begin(), all.end(),
                         [](const auto& part) { return merger(part).value("permutation_invariant", false); }))
            continue;
        INFO(id);
        for (const size_t wanted : {2UL, 5UL}) {
            const auto in = tensors(experts_of(id, wanted));
            auto swapped = plugins().run(id, reversed(in));
            if (stage_of(id) == "transform") swapped = reversed(swapped);
            CHECK(distance(swapped, plugins().run(id, in)) < 1e-6);
        }
    }
}

TEST_CASE("laws: a random method gives another draw for another seed, and no other does") {
    for (const std::string& id : plugins().ids()) {
        INFO(id);
        const auto in = tensors(experts_of(id, 3));
        const auto out = plugins().run(id, in);
        CHECK(same_bits(plugins().run(id, in), out));
        CHECK(same_bits(plugins().run(id, in, Json::object(), {.seed = 2}), out) != random(id));
    }
}

TEST_CASE("laws: through the engine, the same bytes for every tile and thread, and no value that isn't finite") {
    Folder folder;
    EncoderFile base;
    base.values = {{"m", normal_values(60 * 40, 0.05, 1)},
                   {"n.bias", normal_values(7, 0.05, 2)},
                   {"s", normal_values(1, 0.05, 3)},
                   {"row", normal_values(9, 0.05, 4)},
                   {"column", normal_values(9, 0.05, 5)},
                   {"k", normal_values(5 * 24, 0.05, 6)},
                   {"none", {}}};
    base.shapes = {{"m", {60, 40}},    {"s", {}},           {"row", {1, 9}},
                   {"column", {9, 1}}, {"k", {5, 2, 3, 4}}, {"none", {0, 3}}};
    base.card.roles = {{"m", {{"kind", "matrix"}, {"block", 0}}},
                       {"row", {{"kind", "matrix"}, {"block", 1}}},
                       {"column", {{"kind", "matrix"}, {"block", 1}}},
                       {"k", {{"kind", "convolution"}}}};
    base.write(folder / "base");
    std::vector<fs::path> vectors;
    for (size_t i = 0; i < 3; ++i) {
        EncoderFile model = base;
        for (auto& [name, values] : model.values) {
            const auto step = normal_values(values.size(), 0.01, 100 * i + name.size());
            for (size_t k = 0; k < values.size(); ++k) values[k] += step[k];
        }
        model.write(folder / "model");
        vectors.push_back(folder / ("vector" + std::to_string(i)));
        write_task_vector(folder / "base", folder / "model", vectors.back(), {});
    }
    for (const std::string& id : plugins().ids()) {
        INFO(id);
        Json list = Json::array();
        if (stage_of(id) == "post") list.push_back({{"use", "merger:average"}});
        list.push_back({{"use", "merger:" + id}});
        if (stage_of(id) == "transform") list.push_back({{"use", "merger:average"}});
        std::vector<Diagnostic> problems;
        const auto stages = read_stages(list, registry(), "", problems);
        REQUIRE(problems.empty());
        const std::vector<fs::path> used(vectors.begin(), vectors.begin() + (experts_of(id, 3) == 2 ? 2 : 3));
        const auto merged = [&](unsigned threads, size_t tile) {
            merge(folder / "base", used, stages, folder / "out",
                  {.threads = threads, .tile_elements = tile, .seed = 7, .linalg = &small_linalg()});
            return read_file(folder / "out");
        };
        const std::string expected = merged(1, 1 << 20);
        CHECK((merged(2, 333) == expected));
        CHECK((merged(4, 7) == expected));
        for (const auto& [name, values] : base.values)
            for (const float value : SafetensorsFile::open(folder / "out").read_floats(name))
                REQUIRE(std::isfinite(value));
    }
}
