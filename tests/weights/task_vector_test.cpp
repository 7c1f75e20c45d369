#include "weights/task_vector.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/sha256.hpp"
#include "files.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

EncoderFile small_base() {
    EncoderFile out;
    out.values = {{"conv.weight", {1, 2, 3, 4, 5, 6}}, {"norm.bias", {0.5F, -0.5F}}};
    out.shapes = {{"conv.weight", {2, 3}}};
    out.integers = {{"steps", {7}}};
    out.card.roles = {{"conv.weight", {{"kind", "convolution"}, {"block", 0}}}};
    return out;
}

EncoderFile small_model() {
    EncoderFile out = small_base();
    out.values["conv.weight"] = {1, 2.5F, 3, 4, 5, -6};
    out.values["norm.bias"] = {0.25F, 0};
    out.metadata = {{"biophony.recipe", "{}"}};
    return out;
}

struct Pair {
    Folder folder;
    fs::path base = folder / "base", model = folder / "model", vector = folder / "vector";
    EncoderFile base_file = small_base(), model_file = small_model();
    void write() const {
        base_file.write(base);
        model_file.write(model);
    }
    void make(const std::map<std::string, std::string>& extra = {}, const std::string& encoding = "dense-f32") const {
        write();
        write_task_vector(base, model, vector, extra, encoding);
    }
    std::string error() const {
        return error_of([&] { make(); });
    }
};

double ulp(float value) {
    const float magnitude = std::fabs(value);
    return static_cast<double>(std::nextafter(magnitude, std::numeric_limits<float>::infinity())) - magnitude;
}

}  // namespace

TEST_CASE("an encoder without parameters has no task vector") {
    Pair pair;
    for (EncoderFile* file : {&pair.base_file, &pair.model_file}) {
        file->values.clear();
        file->integers.clear();
    }
    CHECK_THAT(pair.error(), Catch::Contains("encoder:toy has no parameters, so there is no task vector"));
}

TEST_CASE("an encoder's card goes through a file") {
    const Pair pair;
    pair.write();
    const EncoderCard card = EncoderCard::from(SafetensorsFile::open(pair.base));
    CHECK(card.encoder == "encoder:toy");
    CHECK(card.config == Json{{"width", 4}});
    CHECK(card.roles.at("conv.weight").at("kind") == "convolution");

    auto refused = [&](const std::map<std::string, std::string>& metadata) {
        SafetensorsWriter writer(pair.folder / "other", {}, metadata);
        writer.finish();
        return error_of([&] { EncoderCard::from(SafetensorsFile::open(pair.folder / "other")); });
    };
    auto with = [&](const char* key, const char* value) {
        auto metadata = card.to_metadata();
        metadata[key] = value;
        return metadata;
    };
    CHECK(refused(card.to_metadata()).empty());
    CHECK_THAT(refused({}), Catch::Contains("is no encoder file: it lacks the metadata 'biophony.format'"));
    CHECK_THAT(refused(with("biophony.format", "task-vector/0")),
               Catch::Contains("'task-vector/0', expected 'encoder/0'"));
    CHECK_THAT(refused(with("biophony.config", "{")), Catch::Contains("'biophony.config' isn't a JSON object"));
    const std::string deep = R"({"a":)" + std::string(200000, '[') + std::string(200000, ']') + "}";
    CHECK_THAT(refused(with("biophony.config", deep.c_str())), Catch::Contains("nested more than 100 deep"));
    CHECK_THAT(refused(with("biophony.roles", "[]")), Catch::Contains("'biophony.roles' isn't a JSON object"));
    CHECK_THAT(refused(with("biophony.encoder", "")), Catch::Contains("lacks the metadata 'biophony.encoder'"));
}

TEST_CASE("a task vector holds the differences, the base's identity and the extras") {
    const Pair pair;
    pair.make({{"biophony.labels", R"(["a","b"])"}});
    const TaskVector vector = TaskVector::open(pair.vector);
    CHECK(vector.file().tensors().size() == 2);
    CHECK(vector.file().read_floats("conv.weight") == std::vector<float>{0, 0.5F, 0, 0, 0, -12});
    CHECK(vector.file().require("conv.weight").shape == std::vector<int64_t>{2, 3});
    CHECK(vector.file().read_floats("norm.bias") == std::vector<float>{-0.25F, 0.5F});
    CHECK(vector.file().metadata("biophony.format") == "task-vector/0");
    CHECK(vector.file().metadata("biophony.encoding") == "dense-f32");
    CHECK(vector.file().metadata("biophony.labels") == R"(["a","b"])");
    CHECK(vector.card().encoder == "encoder:toy");
    const SafetensorsFile base = SafetensorsFile::open(pair.base);
    CHECK(vector.base().at("digest") == weights_digest(base));
    const std::vector<float> bias = {0.5F, -0.5F};
    CHECK(vector.base().at("tensors").at("norm.bias") == sha256_hex({reinterpret_cast<const char*>(bias.data()), 8}));
    CHECK(vector.base().at("tensors").contains("steps"));
    CHECK_NOTHROW(vector.check_base(base));

    const std::string first = read_file(pair.vector);
    pair.make({{"biophony.labels", R"(["a","b"])"}});
    CHECK(read_file(pair.vector) == first);
    CHECK(code_of([&] { pair.make({{"biophony.base", "{}"}}); }) == Code::kInternal);
}

TEST_CASE("hashes don't depend on threads, digests not on metadata") {
    Pair pair;
    pair.write();
    const SafetensorsFile base = SafetensorsFile::open(pair.base);
    CHECK(tensor_hashes(base, 1) == tensor_hashes(base, 8));
    const std::string digest = weights_digest(base);
    CHECK(digest != weights_digest(SafetensorsFile::open(pair.model)));
    pair.base_file.metadata = {{"note", "x"}};
    pair.write();
    CHECK(weights_digest(SafetensorsFile::open(pair.base)) == digest);
    pair.base_file.shapes["conv.weight"] = {3, 2};
    pair.write();
    CHECK(weights_digest(SafetensorsFile::open(pair.base)) != digest);
}

TEST_CASE("the base and its vector give the specialist back within one unit in the last place") {
    Pair pair;
    const size_t count = 300000;  // more than one chunk
    std::vector<float> base = normal_values(count, 0.03, 1), model = normal_values(count, 0.001, 2);
    Random random(3);
    for (size_t i = 0; i < count; ++i) {
        switch (i % 8) {
            case 0: model[i] = -base[i]; break;                                    // the difference doubles
            case 1: model[i] = std::nextafter(base[i], 1.0F); break;               // it cancels
            case 2: model[i] *= 1e-12F; break;                                     // the specialist is next to zero
            case 3: base[i] *= 1e-12F; break;                                      // the base is
            case 4: base[i] *= 1e-38F, model[i] *= 1e-38F; break;                  // subnormal numbers
            case 5: base[i] = 1.5e38F, model[i] = -1.5e38F * (i % 16 < 8); break;  // near the end of float32
            default: model[i] += base[i];
        }
        if (i % 8 == 6)
            model[i] = static_cast<float>(base[i] *
                                          std::ldexp(1.0 + random.uniform(), static_cast<int>(random.below(60)) - 30) *
                                          (i % 16 < 8 ? 1 : -1));
    }
    pair.base_file.values["conv.weight"] = base;
    pair.model_file.values["conv.weight"] = model;
    pair.base_file.shapes.clear();
    pair.model_file.shapes.clear();
    pair.make();
    const std::vector<float> delta = TaskVector::open(pair.vector).file().read_floats("conv.weight");
    size_t exact = 0;
    double worst = 0;
    for (size_t i = 0; i < count; ++i) {
        const float back = base[i] + delta[i];
        exact += back == model[i] ? 1 : 0;
        worst = std::max(worst, std::fabs(static_cast<double>(back) - model[i]) /
                                    ulp(std::max(std::fabs(base[i]), std::fabs(model[i]))));
    }
    CHECK(worst <= 1.0);
    CHECK(worst > 0.0);
    CHECK(exact > count / 2);
}

TEST_CASE("models that don't belong to the base are refused with the first difference") {
    Pair pair;
    SECTION("encoder") {
        pair.model_file.card.encoder = "encoder:tiny";
        CHECK_THAT(pair.error(), Catch::Contains("model: holds encoder:tiny, expected encoder:toy"));
    }
    SECTION("config") {
        pair.model_file.card.config["width"] = 8;
        CHECK_THAT(pair.error(), Catch::Contains("config/width is the number 8, expected the number 4"));
    }
    SECTION("missing config") {
        pair.base_file.card.config["depth"] = 8;
        CHECK_THAT(pair.error(), Catch::Contains("config/depth is missing"));
    }
    SECTION("roles") {
        pair.model_file.card.roles["conv.weight"]["block"] = 1;
        CHECK_THAT(pair.error(), Catch::Contains("roles/conv.weight/block is the number 1"));
    }
    SECTION("missing tensor") {
        pair.model_file.values.erase("norm.bias");
        CHECK_THAT(pair.error(), Catch::Contains("has no tensor 'norm.bias', which the base has"));
    }
    SECTION("tensor too many") {
        pair.model_file.values["norm.biass"] = {1};
        CHECK_THAT(pair.error(), Catch::Contains("'norm.biass', which the base lacks; did you mean 'norm.bias'?"));
    }
    SECTION("shape") {
        pair.model_file.shapes["conv.weight"] = {3, 2};
        CHECK_THAT(pair.error(), Catch::Contains("tensor 'conv.weight' is F32 [3, 2], expected F32 [2, 3]"));
    }
    SECTION("type") {
        pair.model_file.values.erase("norm.bias");
        pair.model_file.integers["norm.bias"] = {1, 2};
        CHECK_THAT(pair.error(), Catch::Contains("tensor 'norm.bias' is I64 [2], expected F32 [2]"));
    }
    SECTION("integers") {
        pair.model_file.integers["steps"] = {8};
        CHECK_THAT(pair.error(), Catch::Contains("tensor 'steps' (I64) differs from the base's"));
    }
    SECTION("NaN") {
        pair.model_file.values["norm.bias"][1] = NAN;
        CHECK_THAT(pair.error(), Catch::Contains("model: tensor 'norm.bias' has nan at element 1"));
    }
    SECTION("infinity in the base") {
        pair.base_file.values["norm.bias"][0] = -INFINITY;
        CHECK_THAT(pair.error(), Catch::Contains("base: tensor 'norm.bias' has -inf at element 0"));
    }
    SECTION("overflow") {
        pair.base_file.values["norm.bias"][0] = 3e38F;
        pair.model_file.values["norm.bias"][0] = -3e38F;
        CHECK_THAT(pair.error(), Catch::Contains("exceeds float32"));
    }
    CHECK(!fs::exists(pair.vector));
    CHECK(pair.folder.files() == 2);
}

TEST_CASE("a vector knows its base") {
    Pair pair;
    pair.make();
    const TaskVector vector = TaskVector::open(pair.vector);
    auto against = [&](const EncoderFile& other) {
        other.write(pair.folder / "other");
        return error_of([&] { vector.check_base(SafetensorsFile::open(pair.folder / "other")); });
    };
    EncoderFile other = small_base();
    CHECK(against(other).empty());
    other.metadata = {{"note", "other metadata, same weights"}};
    CHECK(against(other).empty());
    SECTION("one bit of one weight") {
        other.values["norm.bias"][1] = std::nextafter(-0.5F, 0.0F);
        CHECK_THAT(against(other), Catch::Contains("vector: was made from another base than") &&
                                       Catch::Contains("tensor 'norm.bias' differs"));
    }
    SECTION("several: the first in the order of the data") {
        other.values["norm.bias"][1] = 3;
        other.values["conv.weight"][1] = 3;
        CHECK_THAT(against(other), Catch::Contains("tensor 'conv.weight' differs"));
    }
    SECTION("integers") {
        other.integers["steps"] = {8};
        CHECK_THAT(against(other), Catch::Contains("tensor 'steps' differs"));
    }
    SECTION("another name") {
        other.values["more"] = {1};
        CHECK_THAT(against(other), Catch::Contains("no tensor 'more'"));
    }
    SECTION("a name less") {
        other.values.erase("norm.bias");
        CHECK_THAT(against(other), Catch::Contains("'norm.bias' is missing"));
    }
    SECTION("the same bytes in another shape") {
        other.shapes["conv.weight"] = {3, 2};
        CHECK_THAT(against(other), Catch::Contains("types or shapes"));
    }
}

TEST_CASE("files that only look like task vectors are refused") {
    Pair pair;
    pair.make();
    const auto good = SafetensorsFile::open(pair.vector).metadata();
    struct Options {
        std::map<std::string, std::string> metadata;
        float value = 1;
        DType dtype = DType::kF32;
        std::string name = "norm.bias";
    };
    auto opened = [&](const Options& options, bool scan = true) {
        SafetensorsWriter writer(pair.folder / "x", {{options.name, options.dtype, {1}}}, options.metadata);
        const double wide = options.value;
        if (options.dtype == DType::kF32)
            writer.write_floats(options.name, 0, {&options.value, 1});
        else
            writer.write(options.name, 0, std::as_bytes(std::span(&wide, 1)));
        writer.finish();
        return error_of([&] { TaskVector::open(pair.folder / "x", scan); });
    };
    auto with = [&](const char* key, const char* value) {
        auto metadata = good;
        metadata[key] = value;
        return Options{metadata};
    };
    CHECK(opened({good}).empty());
    CHECK_THAT(opened({good, NAN}), Catch::Contains("tensor 'norm.bias' has nan at element 0"));
    CHECK_THAT(opened({good, INFINITY}), Catch::Contains("inf at element 0"));
    CHECK(opened({good, NAN}, false).empty());
    CHECK_THAT(opened({good, 1, DType::kF64}), Catch::Contains("is F64, expected F32"));
    CHECK_THAT(opened({good, 1, DType::kF32, "norm"}), Catch::Contains("'norm' is not among the base's"));
    CHECK_THAT(opened(with("biophony.format", "encoder/0")), Catch::Contains("expected 'task-vector/0'"));
    CHECK_THAT(opened(with("biophony.encoding", "int4")),
               Catch::Contains("the unknown encoding 'int4'; there are: dense-f32, dense-bf16, dense-f16, affine-u8"));
    for (const char* base : {"{}", R"({"digest":1,"tensors":{}})", R"({"digest":"x","tensors":{"a":1}})",
                             R"({"digest":"x","tensors":[]})"})
        CHECK_THAT(opened(with("biophony.base", base)), Catch::Contains("biophony.base"));

    // A vector that lacks one of the base's tensors says nothing of that tensor: refused.
    SafetensorsWriter writer(pair.folder / "x", {{"norm.bias", DType::kF32, {2}}}, good);
    writer.write_floats("norm.bias", 0, std::vector<float>{1, 2});
    writer.finish();
    const TaskVector part = TaskVector::open(pair.folder / "x");
    CHECK_THAT(error_of([&] { part.check_base(SafetensorsFile::open(pair.base)); }),
               Catch::Contains("lacks the tensor 'conv.weight'"));
}

namespace {

/// Differences of many sizes, and a tensor that didn't move.
void widen(Pair& pair) {
    std::vector<float> before(1000), after(1000);
    for (size_t k = 0; k < before.size(); ++k) {
        before[k] = std::sin(static_cast<float>(k));
        after[k] = before[k] + 0.01F * std::cos(static_cast<float>(k * k)) + 0.003F;
    }
    pair.base_file.values["conv.weight"] = before;
    pair.model_file.values["conv.weight"] = after;
    for (EncoderFile* file : {&pair.base_file, &pair.model_file}) file->shapes["conv.weight"] = {10, 100};
    pair.model_file.values["norm.bias"] = pair.base_file.values["norm.bias"];
}

}  // namespace

TEST_CASE("a task vector is stored in fewer bytes, and is off by no more than its encoding says") {
    Pair pair;
    widen(pair);
    pair.make();
    const std::vector<float> exact = TaskVector::open(pair.vector).file().read_floats("conv.weight");
    const auto [least, largest] = std::minmax_element(exact.begin(), exact.end());
    const double step = (double{*largest} - *least) / 255;
    struct Case {
        const char* encoding;
        DType dtype;
        double relative, absolute;
    };
    for (const Case& of : {Case{"dense-bf16", DType::kBF16, 1.0 / 256, 0},
                           {"dense-f16", DType::kF16, 1.0 / 2048, 1e-7},
                           {"affine-u8", DType::kU8, 1e-6, step * 0.5001}}) {
        INFO(of.encoding);
        pair.make({}, of.encoding);
        const TaskVector vector = TaskVector::open(pair.vector);
        CHECK(vector.file().require("conv.weight").dtype == of.dtype);
        vector.check_base(SafetensorsFile::open(pair.base));
        const std::vector<float> read = vector.file().read_floats("conv.weight");
        double worst = 0;
        for (size_t k = 0; k < exact.size(); ++k) {
            const double off = std::fabs(double{read[k]} - exact[k]);
            CHECK(off <= of.relative * std::fabs(exact[k]) + of.absolute);
            worst = std::max(worst, off);
        }
        CHECK(worst > 0);
        CHECK(vector.file().read_floats("norm.bias") == std::vector<float>{0, 0});
        // A part is what stands there in the whole.
        std::vector<float> part(37);
        vector.file().read_floats(vector.file().require("conv.weight"), 900, part);
        CHECK(std::equal(part.begin(), part.end(), read.begin() + 900));
    }
}

TEST_CASE("an encoding that isn't there, can't hold a difference, or doesn't say its steps is refused") {
    Pair pair;
    widen(pair);
    CHECK_THAT(error_of([&] { pair.make({}, "affine-u4"); }),
               Catch::Contains("the unknown encoding 'affine-u4'; did you mean 'affine-u8'?"));
    pair.model_file.values["conv.weight"][3] = 1e6F;
    CHECK_THAT(error_of([&] { pair.make({}, "dense-f16"); }),
               Catch::Contains("tensor 'conv.weight': a difference to the base exceeds the encoding dense-f16"));
    CHECK_FALSE(fs::exists(pair.vector));
    pair.model_file.values["conv.weight"][3] = 3e38F;
    pair.model_file.values["conv.weight"][4] = -3e38F;
    CHECK_THAT(error_of([&] { pair.make({}, "affine-u8"); }), Catch::Contains("are too far apart for codes"));

    Pair good;
    widen(good);
    good.make({}, "affine-u8");
    const SafetensorsFile file = SafetensorsFile::open(good.vector);
    auto with = [&](const std::string& key, const std::string& value) {
        std::map<std::string, std::string> metadata = file.metadata();
        metadata[key] = value;
        std::vector<SafetensorsWriter::Tensor> tensors;
        for (const TensorInfo& tensor : file.tensors()) tensors.push_back({tensor.name, tensor.dtype, tensor.shape});
        SafetensorsWriter writer(good.folder / "other", std::move(tensors), metadata);
        for (const TensorInfo& tensor : file.tensors()) {
            std::vector<std::byte> raw(tensor.bytes());
            file.read(tensor, 0, raw);
            writer.write(tensor.name, 0, raw);
        }
        writer.finish();
        return error_of([&] { TaskVector::open(good.folder / "other"); });
    };
    CHECK(with("biophony.affine", file.metadata("biophony.affine")).empty());
    for (const char* affine :
         {R"({"conv.weight": [0, 1]})", R"({"conv.weight": [0, 1], "norm.bias": [0, -1]})",
          R"({"conv.weight": [0, 1], "norm.bias": [0, 1e38]})", R"({"conv.weight": [0, 1], "norm.bias": [0, 1e300]})",
          R"({"conv.weight": [0, 1], "norm.bias": [0]})", R"({"conv.weight": [0, 1], "norm.bias": "0"})"})
        CHECK_THAT(with("biophony.affine", affine), Catch::Contains("of tensor 'norm.bias', expected [minimum, step]"));
    CHECK_THAT(with("biophony.encoding", "dense-bf16"), Catch::Contains("is U8, expected BF16 (encoding dense-bf16)"));
}

TEST_CASE("codes that stand for other values are other weights") {
    Pair one, two;
    widen(one), widen(two);
    for (auto& [name, values] : two.model_file.values)
        for (size_t k = 0; k < values.size(); ++k) values[k] = 2 * one.model_file.values[name][k];
    for (auto& [name, values] : two.base_file.values)
        for (size_t k = 0; k < values.size(); ++k) values[k] = 2 * one.base_file.values[name][k];
    one.make({}, "affine-u8"), two.make({}, "affine-u8");
    const TaskVector a = TaskVector::open(one.vector), b = TaskVector::open(two.vector);
    CHECK(tensor_hashes(a.file()) == tensor_hashes(b.file()));
    CHECK(weights_digest(a.file()) != weights_digest(b.file()));
}
