// The engine around the stages: every plugin of the tree on any threads and tiles, checkpoints beside vectors, what an
// observer sees, types of the result, and what is refused before anything is written.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <mutex>

#include "base/schema.hpp"
#include "merges.hpp"
#include "stage_host.hpp"
#include "weights/kernels.hpp"
#include "weights/merge_inputs.hpp"
#include "weights/vector_sum.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

const Registry& tree() {
    static const Registry registry({fs::path(BPH_BUILD_DIR) / "plugins"}, false);
    return registry;
}

MergeStage stage_of(const ItemInfo& item) {
    MergeStage out{&item, Json::object()};
    std::vector<Diagnostic> problems;
    apply_schema(item.parameters, out.params, "", problems);
    REQUIRE(problems.empty());
    return out;
}

/// The files of a setup as a plain checkpoint, without a card.
fs::path plain(const Setup& setup, const EncoderFile& model, const std::string& name, DType dtype = DType::kF32) {
    std::vector<SafetensorsWriter::Tensor> announced;
    for (const auto& [tensor, values] : model.values) {
        const auto shape = model.shapes.find(tensor);
        announced.push_back(
            {tensor, dtype,
             shape == model.shapes.end() ? std::vector<int64_t>{static_cast<int64_t>(values.size())} : shape->second});
    }
    for (const auto& [tensor, values] : model.integers)
        announced.push_back({tensor, DType::kI64, {static_cast<int64_t>(values.size())}});
    SafetensorsWriter writer(setup.folder / name, announced, {});
    for (const auto& [tensor, values] : model.values) {
        std::vector<std::byte> raw(values.size() * size_of(dtype));
        kernels::narrow(dtype, values.data(), raw.data(), values.size());
        writer.write(tensor, 0, raw);
    }
    for (const auto& [tensor, values] : model.integers) writer.write(tensor, 0, std::as_bytes(std::span(values)));
    writer.finish();
    return setup.folder / name;
}

std::vector<fs::path> plain_experts(const Setup& setup) {
    std::vector<fs::path> out;
    for (size_t i = 0; i < setup.models.size(); ++i)
        out.push_back(plain(setup, setup.models[i], "checkpoint" + std::to_string(i)));
    return out;
}

/// Sums in float64 by block, and remembers what it was shown.
struct Sums : MergeObserver {
    struct Seen : Block {
        void see(const MergePiece& piece) override {
            for (size_t i = 0; i < piece.deltas.size(); ++i)
                for (size_t k = 0; k < piece.base.size(); ++k) sum += double{piece.deltas[i][k]} * piece.base[k];
            elements += piece.base.size();
            whole = whole && piece.first % kPiece == 0 &&
                    (piece.base.size() == kPiece || piece.first + piece.base.size() == piece.tensor->elements);
            text += piece.tensor->name + "@" + std::to_string(piece.first) + " ";
        }
        double sum = 0;
        uint64_t elements = 0;
        bool whole = true;
        std::string text;
    };
    void begin(const MergePlan& plan) override { tensors = plan.tensors.size(); }
    std::unique_ptr<Block> make_block() const override { return std::make_unique<Seen>(); }
    void join(std::unique_ptr<Block> block) override {
        const auto& seen = static_cast<const Seen&>(*block);
        sum += seen.sum;
        elements += seen.elements;
        whole = whole && seen.whole;
        text += seen.text + "| ";
        if (++blocks == fails_at) throw Error(Code::kRunFailed, "the observer's own");
    }
    size_t tensors = 0, blocks = 0, fails_at = 0;
    double sum = 0;
    uint64_t elements = 0;
    bool whole = true;
    std::string text;
};

}  // namespace

TEST_CASE("every stage of the tree gives the same bytes on any threads and tiles") {
    Setup setup;
    setup.base_file.shapes["c"] = {1, 40001};
    for (EncoderFile& model : setup.models) model.shapes = setup.base_file.shapes;
    setup.write();
    const ItemInfo& average = tree().require("merger:average");
    size_t stages = 0;
    for (const ItemInfo* item : tree().items("merger")) {
        if (is_preset(*item)) continue;
        const MergerTraits traits = merger_traits(*item);
        std::vector<MergeStage> list = {stage_of(*item)};
        if (traits.stage == MergerTraits::Stage::kTransform) list.push_back(stage_of(average));
        if (traits.stage == MergerTraits::Stage::kPost) list.insert(list.begin(), stage_of(average));
        std::vector<fs::path> vectors = setup.vectors;
        if (traits.exactly > 0) vectors.resize(traits.exactly);
        std::string first;
        for (const unsigned threads : {1U, 2U, 4U})
            for (const std::optional<size_t> tile :
                 {std::optional<size_t>(33), std::optional<size_t>(5000), std::optional<size_t>()}) {
                for (const std::optional<uint64_t> memory : {std::optional<uint64_t>(), std::optional<uint64_t>(1)}) {
                    merge(setup.base, vectors, list, setup.out,
                          {.threads = threads,
                           .tile_elements = tile,
                           .memory = memory,
                           .seed = 3,
                           .linalg = &small_linalg()});
                    const std::string bytes = read_file(setup.out);
                    if (first.empty()) first = bytes;
                    INFO(item->name() << ", " << threads << " threads, tiles of " << tile.value_or(0) << ", memory "
                                      << memory.value_or(0));
                    CHECK((bytes == first));
                }
            }
        ++stages;
    }
    CHECK(stages >= 11);
}

TEST_CASE("memory is bounded whatever the threads, and more experts take little more") {
    auto memory_of = [&](const Setup& setup, const char* id, unsigned threads, size_t experts,
                         std::optional<uint64_t> memory = {}) {
        std::vector<fs::path> list;
        while (list.size() < experts) list.insert(list.end(), setup.vectors.begin(), setup.vectors.end());
        std::vector<Diagnostic> problems;
        const std::vector<MergeStage> stages =
            read_stages({{{"use", id}, {"with", Json::object()}}}, tree(), "", problems);
        REQUIRE(problems.empty());
        return plan_merge(setup.base, list, stages, setup.out,
                          {.threads = threads, .memory = memory, .linalg = &small_linalg()})
            .memory;
    };
    const Setup setup(4);
    for (const char* id : {"merger:average", "merger:ties.global", "merger:pcb", "merger:norm-adjusted"})
        for (const size_t experts : {8, 64})
            for (const unsigned threads : {1U, 4U, 16U, 64U}) {
                INFO(id << " " << experts << " " << threads);
                CHECK(memory_of(setup, id, threads, experts) <= 165'000'000);
            }
    // Two passes of counts for each of 8 experts: 2¹⁶ of 4 bytes, a thread.
    CHECK(memory_of(setup, "merger:ties.global", 4, 8) > 4 * 8 * 4 << 16);
    // Whole tensors: one of all experts, with the base and two rows to write into, however little there is.
    const uint64_t whole = (8 + 1 + 2) * 40001 * 4, tiles = memory_of(setup, "merger:average", 1, 8, 1);
    const uint64_t one = memory_of(setup, "merger:ties.nihal2026", 16, 8, 1);
    CHECK(one > whole);
    CHECK(one < whole + 2 * tiles);
    CHECK(memory_of(setup, "merger:ties.nihal2026", 1, 8) < memory_of(setup, "merger:ties.nihal2026", 2, 8));
    // And beside those what decomposing a matrix takes.
    Setup matrices(4);
    matrices.base_file.shapes["c"] = {1, 40001};
    matrices.base_file.card.roles["c"] = {{"kind", "matrix"}};
    for (EncoderFile& model : matrices.models) {
        model.shapes = matrices.base_file.shapes;
        model.card = matrices.base_file.card;
    }
    matrices.write();
    CHECK(memory_of(matrices, "merger:iso-c", 1, 8, 1) > whole + 8 * 8 * 8 * 40001);  // a row for each expert
    CHECK(memory_of(setup, "merger:tsv-m", 1, 8, 1) > (8 + 3) * 5000 * 4 + 8 * (8 * 5000 + 6 * 50 * 50));
    CHECK(memory_of(setup, "merger:iso-c", 1, 8, 1) < whole);  // what is no matrix isn't decomposed
}

TEST_CASE("a checkpoint is worth its vector, and stands beside it") {
    const Setup setup;
    const std::vector<fs::path> checkpoints = plain_experts(setup);
    setup.run({mean()});
    const std::vector<float> vectors = setup.result("c");
    // The difference of two floats is what a vector holds: the same bits.
    merge(setup.base, checkpoints, {mean()}, setup.out, {});
    CHECK(setup.result("c") == vectors);
    CHECK(EncoderCard::from(SafetensorsFile::open(setup.out)).encoder == "encoder:toy");
    merge(setup.base, {setup.vectors[0], checkpoints[1], setup.vectors[2]}, {mean()}, setup.out, {});
    CHECK(setup.result("c") == vectors);
    // A stage of weights has a checkpoint's weights as they are.
    const ItemInfo weights = item("weights", "combine", "weight");
    merge(setup.base, {checkpoints[1]}, {{&weights, Json::object(), kTable<Mean>}}, setup.out, {});
    CHECK(setup.result("c") == setup.models[1].values.at("c"));
}

TEST_CASE("vectors in any encoding are merged as what they stand for") {
    Setup setup(4);
    const std::vector<std::string> encodings = task_vector_encodings();
    REQUIRE(encodings.size() == 4);
    std::vector<float> sum(5000);
    for (size_t i = 0; i < encodings.size(); ++i) {
        setup.models[i].write(setup.folder / "model");
        write_task_vector(setup.base, setup.folder / "model", setup.vectors[i], {}, encodings[i]);
        const std::vector<float> read = TaskVector::open(setup.vectors[i]).file().read_floats("a");
        REQUIRE(read.size() == sum.size());
        for (size_t k = 0; k < sum.size(); ++k) sum[k] += read[k];
    }
    const std::vector<float>& base = setup.base_file.values.at("a");
    std::string bytes;
    for (const size_t tile : {1024, 2048, 8192}) {
        setup.run({mean()}, {.threads = 3, .tile_elements = tile});
        const std::vector<float> merged = setup.result("a");
        for (size_t k = 0; k < sum.size(); ++k) CHECK(merged[k] == base[k] + sum[k] * 0.25F);
        if (bytes.empty()) bytes = read_file(setup.out);
        CHECK(read_file(setup.out) == bytes);
    }
}

TEST_CASE("a sum of vectors in any encoding is one that opens") {
    Setup setup(4);
    const std::vector<std::string> encodings = task_vector_encodings();
    for (size_t first = 0; first < encodings.size(); ++first) {
        INFO(encodings[first]);
        std::vector<double> expected(5000);
        std::vector<fs::path> vectors;
        for (size_t i = 0; i < encodings.size(); ++i) {
            setup.models[i].write(setup.folder / "model");
            vectors.push_back(setup.folder / ("coded" + std::to_string(i)));
            write_task_vector(setup.base, setup.folder / "model", vectors.back(), {},
                              encodings[(first + i) % encodings.size()]);
            const std::vector<float> read = TaskVector::open(vectors.back()).file().read_floats("a");
            for (size_t k = 0; k < expected.size(); ++k) expected[k] += (i % 2 == 0 ? 1 : -0.5) * double{read[k]};
        }
        write_vector_sum(vectors, std::vector<double>{1, -0.5, 1, -0.5}, setup.out, {});
        const std::vector<float> sum = TaskVector::open(setup.out).file().read_floats("a");
        for (size_t k = 0; k < expected.size(); ++k) CHECK(sum[k] == Approx(expected[k]).margin(1e-9));
    }
}

TEST_CASE("a base that is no encoder file: roles from shapes and names, its metadata in the result") {
    const Setup setup;
    const fs::path base = plain(setup, setup.base_file, "plain");
    MergePlan plan = plan_merge(base, plain_experts(setup), {mean()}, setup.out, {.metadata = {{"more", "1"}}});
    CHECK(!plan.encoder);
    CHECK(plan.base_digest.empty());
    CHECK(plan.tensors.size() == 3);
    CHECK(plan.tensors[0].role == "matrix");
    CHECK(plan.tensors[1].role == "bias");
    CHECK(plan.copied == 2);
    CHECK(plan.passes == 1);
    CHECK(plan.experts[2].kind == MergePlan::Kind::kCheckpoint);
    CHECK(plan.memory < 10'000'000);
    CHECK(!fs::exists(setup.out));
    const MergeReport report = run_merge(plan);
    CHECK(report.bytes_read == 4 * 45002 * 4 + 24);
    CHECK(SafetensorsFile::open(setup.out).metadata() == std::map<std::string, std::string>{{"more", "1"}});
    // The same experts, against the encoder file: the same bytes in the tensors.
    const std::vector<float> merged = setup.result("a");
    setup.run({mean()});
    CHECK(setup.result("a") == merged);
    // A vector made from the encoder file fits a plain file with its tensors.
    merge(base, setup.vectors, {mean()}, setup.out, {});
    CHECK(setup.result("a") == merged);
}

TEST_CASE("roles by shape and name") {
    auto role = [](const char* name, std::vector<int64_t> shape) {
        const TensorRole out = role_of(TensorInfo{.name = name, .shape = std::move(shape)});
        return out.kind + " " + std::to_string(out.block);
    };
    CHECK(role("encoder.layers.11.fc1.weight", {4, 4}) == "matrix 11");
    CHECK(role("encoder.layers.11.fc1.bias", {4}) == "bias 11");
    CHECK(role("h.0.ln_1.weight", {4}) == "norm 0");
    CHECK(role("encoder.layer_norm.weight", {4}) == "norm -1");
    CHECK(role("encoder.layer_norm.bias", {4}) == "bias -1");
    CHECK(role("conv1.weight", {4, 1, 3, 3}) == "convolution -1");
    CHECK(role("frontend.7.weight", {4, 1, 3}) == "convolution 7");
    CHECK(role("embed_tokens.weight", {100, 4}) == "embedding -1");
    CHECK(role("scale", {}) == "vector -1");
    CHECK(role("a.1x.b", {2, 2}) == "matrix -1");
}

TEST_CASE("types of the result: as asked for, or as in the base, rounded once") {
    Setup setup;
    setup.base_file.values = {{"w", normal_values(3001, 0.05, 1)}};
    setup.base_file.shapes.clear();
    setup.base_file.integers.clear();
    setup.models = {setup.base_file, setup.base_file};
    for (size_t i = 0; i < 2; ++i) setup.models[i].values["w"] = normal_values(3001, 0.05, 5 + i);
    for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32, DType::kF64}) {
        INFO(to_string(dtype));
        const fs::path base = plain(setup, setup.base_file, "plain", dtype);
        const std::vector<fs::path> experts = {plain(setup, setup.models[0], "e0", dtype),
                                               plain(setup, setup.models[1], "e1", DType::kF32)};
        merge(base, experts, {mean()}, setup.out, {.dtype = DType::kF32});
        const std::vector<float> full = setup.result("w");
        merge(base, experts, {mean()}, setup.out, {.threads = 2, .tile_elements = 100, .dtype = {}});
        const SafetensorsFile out = SafetensorsFile::open(setup.out);
        CHECK(out.require("w").dtype == dtype);
        std::vector<std::byte> expected(full.size() * size_of(dtype)), found(expected.size());
        kernels::narrow(dtype, full.data(), expected.data(), full.size());
        out.read(out.require("w"), 0, found);
        CHECK(found == expected);
    }
    setup.models[0].values["w"][7] = 70000;
    const fs::path base = plain(setup, setup.base_file, "plain"), expert = plain(setup, setup.models[0], "e0");
    CHECK_THAT(error_of([&] { merge(base, {expert}, {mean()}, setup.out, {.dtype = DType::kF16}); }),
               Catch::Contains("tensor 'w' has 70000") && Catch::Contains("at element 7, which F16 can't hold"));
}

TEST_CASE("an observer sees all inputs, cut the same way whatever threads and tiles") {
    const Setup setup;
    const std::vector<fs::path> checkpoints = plain_experts(setup);
    const ItemInfo weights = item("weights", "combine", "weight"),
                   whole = item("whole", "combine", "delta", {{"scope", "tensor"}});
    for (const MergeStage& stage : {mean(), MergeStage{&weights, Json::object(), kTable<Mean>},
                                    MergeStage{&whole, Json::object(), kTable<Mean>}}) {
        merge(setup.base, checkpoints, {stage}, setup.out, {});
        const std::string bytes = read_file(setup.out);
        std::string text;
        double sum = 0;
        for (const auto& experts : {setup.vectors, checkpoints})
            for (const unsigned threads : {1U, 3U})
                for (const size_t tile : {100, 5000, 100000}) {
                    Sums sums;
                    merge(setup.base, experts, {stage}, setup.out,
                          {.threads = threads, .tile_elements = tile, .observer = &sums});
                    CHECK(sums.tensors == 3);
                    CHECK(sums.elements == 45002);
                    CHECK(sums.whole);
                    if (text.empty()) text = sums.text, sum = sums.sum;
                    CHECK(sums.text == text);
                    CHECK(sums.sum == sum);
                    if (experts == checkpoints) CHECK((read_file(setup.out) == bytes));
                }
        CHECK(text.starts_with("a@0 a@4096 b.bias@0 c@0 c@4096 "));
    }
    double expected = 0;
    for (size_t i = 0; i < 3; ++i)
        for (const char* name : {"a", "b.bias", "c"}) {
            const std::vector<float> delta = setup.delta(i, name), &base = setup.base_file.values.at(name);
            for (size_t k = 0; k < delta.size(); ++k) expected += double{delta[k]} * base[k];
        }
    Sums sums;
    setup.run({mean()}, {.threads = 2, .observer = &sums});
    CHECK(sums.sum == Approx(expected));
    fs::remove(setup.out);
    sums.blocks = 0;
    sums.fails_at = 1;
    CHECK_THAT(setup.error({mean()}, {.threads = 2, .observer = &sums}), Catch::Contains("the observer's own"));
}

TEST_CASE("large tensors are observed in blocks of their own, joined in order") {
    Setup setup(1);
    setup.base_file = EncoderFile();
    setup.base_file.values = {{"a", std::vector<float>(10, 1)}, {"b", std::vector<float>((2 << 20) + 5, 1)}};
    setup.models = {setup.base_file};
    for (auto& [name, values] : setup.models[0].values)
        for (size_t k = 0; k < values.size(); ++k) values[k] += 0.001F * static_cast<float>(k % 100);
    setup.write();
    std::string text;
    for (const unsigned threads : {1U, 4U}) {
        Sums sums;
        setup.run({mean()}, {.threads = threads, .observer = &sums});
        CHECK(sums.blocks == 10);
        if (text.empty()) text = sums.text;
        CHECK((sums.text == text));
    }
    CHECK(text.find("| b@262144 ") != std::string::npos);
}

TEST_CASE("all that is wrong with the inputs is told at once, before anything is written") {
    Setup setup;
    EncoderFile wrong = setup.base_file;
    wrong.values.erase("b.bias");
    wrong.values["d"] = {1};
    wrong.shapes["a"] = {100, 50};
    wrong.integers["steps"] = {1, 2, 3};
    const fs::path bad = plain(setup, wrong, "bad");
    const size_t files = setup.folder.files();
    const std::string error = error_of([&] {
        merge(setup.base, {setup.vectors[0], bad, setup.folder / "none"}, {mean()}, setup.out, {});
    });
    CHECK(setup.folder.files() == files);
    for (const char* text :
         {"5 problems", "bad: lacks the tensor 'b.bias'", "bad: has the tensor 'd'", "tensor 'a' is F32 [100, 50]",
          "the base's is F32 [50, 100]", "tensor 'steps' (I64) differs", "none: can't read"})
        CHECK_THAT(error, Catch::Contains(text));
    // The result would take the place of an input.
    for (const fs::path& out : {setup.base, setup.vectors[1]}) {
        const std::string before = read_file(out);
        CHECK(code_of([&] { merge(setup.base, setup.vectors, {mean()}, out, {}); }) == Code::kInvalid);
        CHECK(read_file(out) == before);
    }
    fs::create_symlink(setup.base, setup.folder / "link");
    CHECK_THAT(error_of([&] { merge(setup.base, setup.vectors, {mean()}, setup.folder / "link", {}); }),
               Catch::Contains("the result must be another file"));
    CHECK_THAT(error_of([&] { merge(setup.vectors[0], setup.vectors, {mean()}, setup.out, {}); }),
               Catch::Contains("is a task vector, expected the base"));
}

TEST_CASE("kernels: widening and rounding, every value of 16 bits, and lengths that fill no register") {
    size_t wrong = 0;
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
        std::vector<uint16_t> all(1 << 16);
        for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
        std::vector<float> wide(all.size());
        kernels::widen(dtype, reinterpret_cast<const std::byte*>(all.data()), wide.data(), all.size());
        const int mantissa = dtype == DType::kF16 ? 10 : 7, bias = dtype == DType::kF16 ? 15 : 127;
        for (size_t i = 0; i < all.size(); ++i) {
            const int exponent = static_cast<int>((i & 0x7fff) >> mantissa);
            const double fraction = static_cast<double>(i & ((1U << mantissa) - 1)) / (1 << mantissa);
            if (exponent == 2 * bias + 1) {
                wrong += std::isfinite(wide[i]) ? 1 : 0;
                continue;
            }
            const double magnitude =
                exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
            wrong += double{wide[i]} == (i >> 15 != 0 ? -magnitude : magnitude) ? 0 : 1;
            // Back again, and what lies between two neighbours goes to the nearer, a tie to the even one.
            const auto back = [&](float value) {
                uint16_t out = 0;
                kernels::narrow(dtype, &value, reinterpret_cast<std::byte*>(&out), 1);
                return out;
            };
            wrong += back(wide[i]) == i ? 0 : 1;
            if (((i + 1) & 0x7fff) >> mantissa == 2U * bias + 1 || (i & 0x7fff) == 0x7fff) continue;
            const float middle = static_cast<float>((double{wide[i]} + double{wide[i + 1]}) / 2);
            if (double{middle} * 2 != double{wide[i]} + double{wide[i + 1]}) continue;
            wrong += back(middle) == (i % 2 == 0 ? i : i + 1) ? 0 : 1;
            wrong += back(std::nextafterf(middle, wide[i])) == i ? 0 : 1;
        }
    }
    CHECK(wrong == 0);
    for (size_t count = 0; count < 70; ++count)
        for (size_t at = 0; at <= count; ++at) {
            std::vector<float> values(count, 1.5F), base(count, 0.25F);
            if (at < count) values[at] = at % 2 == 0 ? NAN : -INFINITY;
            CHECK(kernels::finite(values.data(), count) == (at == count));
            CHECK(kernels::subtract(values.data(), base.data(), count) == (at == count));
            if (at == count) CHECK(values == std::vector<float>(count, 1.25F));
        }
    float top[2] = {3e38F, 1}, more[2] = {3e38F, 1}, out[2];
    CHECK(!kernels::sum(top, more, out, 2));
    CHECK(!kernels::add(top, more, 2));
}

TEST_CASE("random bits of many elements are those of each") {
    for (const uint64_t first : {0UL, 1UL, 3UL, 4UL, 999999UL, (1UL << 34) - 17}) {
        const sdk::Philox random(0x123456789abcdef0 + first);
        for (const size_t count : {0, 1, 2, 5, 31, 32, 33, 100, 1027}) {
            std::vector<uint32_t> bits(count);
            random.bits(first, bits);
            size_t wrong = 0;
            for (size_t k = 0; k < count; ++k) wrong += bits[k] * 0x1p-32 == random.uniform(first + k) ? 0 : 1;
            CHECK(wrong == 0);
        }
    }
}
