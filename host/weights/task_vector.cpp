#include "weights/task_vector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "base/nearest.hpp"
#include "base/sha256.hpp"
#include "weights/finite.hpp"
#include "weights/kernels.hpp"

namespace biophony {

namespace {

constexpr const char* kEncoderFormat = "encoder/0";
constexpr const char* kVectorFormat = "task-vector/0";
struct Encoding {
    const char* name;
    DType dtype;
};
constexpr Encoding kEncodings[] = {
    {"dense-f32", DType::kF32}, {"dense-bf16", DType::kBF16}, {"dense-f16", DType::kF16}, {"affine-u8", DType::kU8}};
constexpr float kCodes = 255;       // steps between the least and the largest value of a tensor
constexpr size_t kChunk = 1 << 18;  // elements

[[noreturn]] void refuse(const SafetensorsFile& file, const std::string& what) {
    throw Error(Code::kRunFailed, what, {.file = file.path().string()});
}

std::string shape_text(const TensorInfo& tensor) {
    return fmt::format("{} [{}]", to_string(tensor.dtype), fmt::join(tensor.shape, ", "));
}

Json metadata_json(const SafetensorsFile& file, const char* key, const char* what) {
    if (!file.metadata().contains(key)) refuse(file, fmt::format("is no {}: it lacks the metadata '{}'", what, key));
    bool deep = false;  // comparing and printing recurse
    auto watch = [&deep](int depth, Json::parse_event_t, Json&) {
        deep = deep || depth > 100;
        return !deep;
    };
    Json value = Json::parse(file.metadata(key), watch, false);
    if (deep) refuse(file, fmt::format("is no {}: the metadata '{}' is nested more than 100 deep", what, key));
    if (!value.is_object()) refuse(file, fmt::format("is no {}: the metadata '{}' isn't a JSON object", what, key));
    return value;
}

EncoderCard card_of(const SafetensorsFile& file, const char* format, const char* what) {
    const std::string found = file.metadata("biophony.format");
    if (found != format)
        refuse(file, found.empty() ? fmt::format("is no {}: it lacks the metadata 'biophony.format'", what)
                                   : fmt::format("is no {}: its format is '{}', expected '{}'", what, found, format));
    EncoderCard card;
    card.encoder = file.metadata("biophony.encoder");
    if (card.encoder.empty()) refuse(file, fmt::format("is no {}: it lacks the metadata 'biophony.encoder'", what));
    card.config = metadata_json(file, "biophony.config", what);
    card.roles = metadata_json(file, "biophony.roles", what);
    return card;
}

std::string hash_of(const SafetensorsFile& file, const TensorInfo& tensor, std::vector<std::byte>& buffer) {
    Sha256 hash;
    for (uint64_t done = 0; done < tensor.bytes();) {
        const auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), tensor.bytes() - done));
        file.read(tensor, done, part);
        hash.update(part.data(), part.size());
        done += part.size();
    }
    return hash.hex();
}

std::string digest_of(const SafetensorsFile& file, const std::map<std::string, std::string>& hashes) {
    Json record = Json::object();
    for (const TensorInfo& tensor : file.tensors()) {
        Json& entry = record[tensor.name] = {to_string(tensor.dtype), tensor.shape, hashes.at(tensor.name)};
        if (tensor.affine) entry.push_back({tensor.affine->minimum, tensor.affine->step});
    }
    return sha256_hex(canonical(record));
}

/// Names the first difference of two JSON values below `key`: "config/depth is the number 4, expected the number 12".
std::string first_difference(const std::string& key, const Json& found, const Json& expected) {
    if (found == expected) return {};
    if (found.is_object() && expected.is_object()) {
        for (const auto& [name, value] : expected.items()) {
            if (!found.contains(name)) return fmt::format("{} is missing", pointer_join(key, name));
            if (std::string inner = first_difference(pointer_join(key, name), found[name], value); !inner.empty())
                return inner;
        }
        for (const auto& [name, value] : found.items())
            if (!expected.contains(name)) return fmt::format("{} is not expected", pointer_join(key, name));
    }
    return fmt::format("{} is {}, expected {}", key, describe(found), describe(expected));
}

void check_same_model(const SafetensorsFile& base, const SafetensorsFile& model) {
    const EncoderCard expected = card_of(base, kEncoderFormat, "encoder file");
    const EncoderCard found = card_of(model, kEncoderFormat, "encoder file");
    const std::string from = fmt::format("; the base is {}", base.path().string());
    if (found.encoder != expected.encoder)
        refuse(model, fmt::format("holds {}, expected {}{}", found.encoder, expected.encoder, from));
    for (const auto& problem : {first_difference("config", found.config, expected.config),
                                first_difference("roles", found.roles, expected.roles)})
        if (!problem.empty()) refuse(model, problem + from);
    std::vector<std::string> names;
    for (const TensorInfo& tensor : base.tensors()) {
        const TensorInfo* other = model.find(tensor.name);
        if (other == nullptr) refuse(model, fmt::format("has no tensor '{}', which the base has{}", tensor.name, from));
        const bool floating = is_floating(tensor.dtype) && is_floating(other->dtype);
        if (other->shape != tensor.shape || (!floating && other->dtype != tensor.dtype))
            refuse(model, fmt::format("tensor '{}' is {}, expected {}{}", tensor.name, shape_text(*other),
                                      shape_text(tensor), from));
        names.push_back(tensor.name);
    }
    for (const TensorInfo& tensor : model.tensors())
        if (base.find(tensor.name) == nullptr)
            refuse(model, fmt::format("has the tensor '{}', which the base lacks{}{}", tensor.name,
                                      did_you_mean(tensor.name, names), from));
}

/// Throws Error(kRunFailed) where there is none of this name.
const Encoding& encoding_of(const std::string& name, const std::filesystem::path& path) {
    for (const Encoding& encoding : kEncodings)
        if (name == encoding.name) return encoding;
    const std::vector<std::string> names = task_vector_encodings();
    throw Error(Code::kRunFailed, with_nearest(fmt::format("has the unknown encoding '{}'", name), name, names),
                {.file = path.string()});
}

/// What the codes of a tensor with these extremes stand for. Throws where the extremes are too far apart for float32.
Affine affine_of(const SafetensorsFile& model, const TensorInfo& tensor, float least, float largest) {
    const float step = (largest - least) / kCodes;
    if (!std::isfinite(step))
        refuse(model, fmt::format("tensor '{}': the differences to the base, {} to {}, are too far apart for codes",
                                  tensor.name, least, largest));
    return {least, step};
}

std::byte code_of(float value, Affine affine) {
    if (affine.step == 0) return std::byte{0};
    return static_cast<std::byte>(
        std::lround(std::clamp((double{value} - affine.minimum) / affine.step, 0.0, double{kCodes})));
}

/// Makes the tensors of a vector in codes readable.
void take_codes(SafetensorsFile& file) {
    const Json affine = metadata_json(file, "biophony.affine", "task vector");
    std::vector<std::string> names;
    for (const TensorInfo& tensor : file.tensors()) names.push_back(tensor.name);
    for (const std::string& name : names) {
        const auto found = affine.find(name);
        auto number = [&](size_t i) {
            constexpr double kMost = std::numeric_limits<float>::max();
            const bool there = found != affine.end() && found->is_array() && found->size() == 2 &&
                               (*found)[i].is_number() && std::fabs((*found)[i].get<double>()) <= kMost;
            return there ? (*found)[i].get<float>() : std::numeric_limits<float>::quiet_NaN();
        };
        const Affine read{number(0), number(1)};
        if (!(read.step >= 0) || !std::isfinite(read.minimum + kCodes * read.step))
            refuse(file, fmt::format("'biophony.affine' says {} of tensor '{}', expected [minimum, step], finite in "
                                     "float32, and no step below 0",
                                     found == affine.end() ? "nothing" : found->dump(), name));
        file.take_as_codes(name, read);
    }
}

void check_finite(const SafetensorsFile& file, const TensorInfo& tensor, uint64_t first,
                  std::span<const float> values) {
    if (const size_t i = first_not_finite(values); i < values.size())
        refuse(file, fmt::format("tensor '{}' has {} at element {}", tensor.name, values[i], first + i));
}

}  // namespace

std::vector<std::string> task_vector_encodings() {
    std::vector<std::string> out;
    for (const Encoding& encoding : kEncodings) out.emplace_back(encoding.name);
    return out;
}

std::map<std::string, std::string> EncoderCard::to_metadata() const {
    return {{"biophony.format", kEncoderFormat},
            {"biophony.encoder", encoder},
            {"biophony.config", canonical(config)},
            {"biophony.roles", canonical(roles)}};
}

TensorRole role_of(const TensorInfo& tensor, const EncoderCard& card) {
    TensorRole out;
    const auto role = card.roles.find(tensor.name);
    if (role == card.roles.end() || !role->is_object()) return out;
    if (const auto kind = role->find("kind"); kind != role->end() && kind->is_string()) out.kind = *kind;
    if (const auto block = role->find("block"); block != role->end() && block->is_number_integer()) out.block = *block;
    return out;
}

bool is_merged(const TensorInfo& tensor, const EncoderCard* card) {
    return is_floating(tensor.dtype) && !(card != nullptr && role_of(tensor, *card).kind == "excluded");
}

EncoderCard EncoderCard::from(const SafetensorsFile& file) {
    return card_of(file, kEncoderFormat, "encoder file");
}

std::map<std::string, std::string> tensor_hashes(const SafetensorsFile& file, unsigned threads) {
    const std::vector<TensorInfo>& tensors = file.tensors();
    std::vector<std::string> hashes(tensors.size());
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr problem;
    auto work = [&] {
        try {
            std::vector<std::byte> buffer(1 << 20);
            for (size_t i; !failed && (i = next++) < tensors.size();) hashes[i] = hash_of(file, tensors[i], buffer);
        } catch (...) {
            if (!failed.exchange(true)) problem = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> helpers;
        for (unsigned i = 1; i < std::min<size_t>(threads, tensors.size()); ++i) helpers.emplace_back(work);
        work();
    }
    if (problem) std::rethrow_exception(problem);
    std::map<std::string, std::string> out;
    for (size_t i = 0; i < tensors.size(); ++i) out[tensors[i].name] = std::move(hashes[i]);
    return out;
}

std::string weights_digest(const SafetensorsFile& file) {
    return weights_digest(file, tensor_hashes(file));
}

std::string weights_digest(const SafetensorsFile& file, const std::map<std::string, std::string>& hashes) {
    return digest_of(file, hashes);
}

void write_task_vector(const std::filesystem::path& base_path, const std::filesystem::path& model_path,
                       const std::filesystem::path& out, const std::map<std::string, std::string>& extra,
                       const std::string& encoding_name) {
    const Encoding& encoding = encoding_of(encoding_name, out);
    const SafetensorsFile base = SafetensorsFile::open(base_path), model = SafetensorsFile::open(model_path);
    check_same_model(base, model);
    if (base.tensors().empty())
        refuse(base, fmt::format("{} has no parameters, so there is no task vector", EncoderCard::from(base).encoder));

    const std::map<std::string, std::string> hashes = tensor_hashes(base);
    std::map<std::string, std::string> metadata = EncoderCard::from(base).to_metadata();
    metadata["biophony.format"] = kVectorFormat;
    metadata["biophony.encoding"] = encoding.name;
    metadata["biophony.base"] = canonical({{"digest", digest_of(base, hashes)}, {"tensors", hashes}});
    for (const auto& [key, value] : extra)
        if (!metadata.emplace(key, value).second)
            throw Error(Code::kInternal, fmt::format("the metadata '{}' is the task vector's own", key),
                        {.file = out.string()});

    std::vector<SafetensorsWriter::Tensor> announced;
    for (const TensorInfo& tensor : base.tensors())
        if (is_floating(tensor.dtype)) announced.push_back({tensor.name, encoding.dtype, tensor.shape});
    std::vector<float> from(kChunk), to(kChunk);
    // Calls each(first, deltas) for the parts of a tensor.
    auto for_deltas = [&](const TensorInfo& tensor, auto&& each) {
        const TensorInfo& other = model.require(tensor.name);
        for (uint64_t first = 0; first < tensor.elements(); first += kChunk) {
            const size_t count = std::min<uint64_t>(kChunk, tensor.elements() - first);
            const auto before = std::span(from).first(count), after = std::span(to).first(count);
            base.read_floats(tensor, first, before);
            model.read_floats(other, first, after);
            check_finite(base, tensor, first, before);
            check_finite(model, other, first, after);
            for (size_t i = 0; i < count; ++i) after[i] -= before[i];
            if (const size_t i = first_not_finite(after); i < count)
                refuse(model, fmt::format("tensor '{}': the difference to the base at element {} exceeds float32",
                                          tensor.name, first + i));
            each(first, after);
        }
    };
    std::map<std::string, Affine> affine;
    if (encoding.dtype == DType::kU8) {
        Json told = Json::object();
        for (const TensorInfo& tensor : base.tensors()) {
            if (!is_floating(tensor.dtype)) continue;
            float least = 0, largest = 0;
            for_deltas(tensor, [&](uint64_t first, std::span<const float> deltas) {
                const auto [low, high] = std::minmax_element(deltas.begin(), deltas.end());
                least = first == 0 ? *low : std::min(least, *low);
                largest = first == 0 ? *high : std::max(largest, *high);
            });
            const Affine made = affine[tensor.name] = affine_of(model, tensor, least, largest);
            told[tensor.name] = {made.minimum, made.step};
        }
        metadata["biophony.affine"] = canonical(told);
    }
    SafetensorsWriter writer(out, std::move(announced), metadata);
    std::vector<std::byte> raw(encoding.dtype == DType::kF32 ? 0 : kChunk * size_of(encoding.dtype));
    for (const TensorInfo& tensor : base.tensors()) {
        if (!is_floating(tensor.dtype)) {
            std::vector<std::byte> buffer(kChunk);
            if (hash_of(model, model.require(tensor.name), buffer) != hashes.at(tensor.name))
                refuse(model, fmt::format("tensor '{}' ({}) differs from the base's; only floating tensors may differ",
                                          tensor.name, to_string(tensor.dtype)));
            continue;
        }
        for_deltas(tensor, [&](uint64_t first, std::span<const float> deltas) {
            if (encoding.dtype == DType::kF32) return writer.write_floats(tensor.name, first, deltas);
            const size_t size = size_of(encoding.dtype);
            const auto part = std::span(raw).first(deltas.size() * size);
            if (encoding.dtype == DType::kU8)
                std::transform(deltas.begin(), deltas.end(), part.begin(),
                               [of = affine.at(tensor.name)](float delta) { return code_of(delta, of); });
            else
                kernels::narrow(encoding.dtype, deltas.data(), part.data(), deltas.size());
            if (encoding.dtype != DType::kU8 && !kernels::narrow_is_finite(encoding.dtype, part.data(), deltas.size()))
                refuse(model, fmt::format("tensor '{}': a difference to the base exceeds the encoding {}; dense-f32 "
                                          "holds it",
                                          tensor.name, encoding.name));
            writer.write(tensor.name, first * size, part);
        });
    }
    writer.finish();
}

TaskVector TaskVector::open(const std::filesystem::path& path, bool scan) {
    TaskVector out(SafetensorsFile::open(path));
    SafetensorsFile& file = out.file_;
    out.card_ = card_of(file, kVectorFormat, "task vector");
    const Encoding& encoding = encoding_of(file.metadata("biophony.encoding"), path);
    out.base_ = metadata_json(file, "biophony.base", "task vector");
    bool valid = out.base_.contains("digest") && out.base_["digest"].is_string() && out.base_.contains("tensors") &&
                 out.base_["tensors"].is_object();
    if (valid)
        for (const Json& hash : out.base_["tensors"]) valid = valid && hash.is_string();
    if (!valid)
        refuse(file, "is no task vector: 'biophony.base' isn't {\"digest\": text, \"tensors\": {name: SHA-256}}");
    if (encoding.dtype == DType::kU8) take_codes(file);
    std::vector<float> values(scan ? kChunk : 0);
    for (const TensorInfo& tensor : file.tensors()) {
        if (tensor.dtype != encoding.dtype)
            refuse(file, fmt::format("tensor '{}' is {}, expected {} (encoding {})", tensor.name,
                                     to_string(tensor.dtype), to_string(encoding.dtype), encoding.name));
        if (!out.base_["tensors"].contains(tensor.name))
            refuse(file,
                   fmt::format("tensor '{}' is not among the base's, as 'biophony.base' tells them", tensor.name));
        for (uint64_t first = 0; scan && first < tensor.elements(); first += kChunk) {
            const auto part = std::span(values).first(std::min<uint64_t>(kChunk, tensor.elements() - first));
            file.read_floats(tensor, first, part);
            check_finite(file, tensor, first, part);
        }
    }
    return out;
}

void TaskVector::check_base(const SafetensorsFile& base) const {
    check_base(base, tensor_hashes(base));
}

void TaskVector::check_base(const SafetensorsFile& base, const std::map<std::string, std::string>& hashes) const {
    auto differs = [&](const std::string& what) {
        refuse(file_, fmt::format("was made from another base than {}: {}", base.path().string(), what));
    };
    const Json& expected = base_["tensors"];
    for (const TensorInfo& tensor : base.tensors()) {
        if (!expected.contains(tensor.name)) differs(fmt::format("its base had no tensor '{}'", tensor.name));
        if (expected[tensor.name] != hashes.at(tensor.name)) differs(fmt::format("tensor '{}' differs", tensor.name));
    }
    for (const auto& [name, hash] : expected.items())
        if (!hashes.contains(name)) differs(fmt::format("the tensor '{}' is missing there", name));
    // The same bytes under another type or shape.
    if (base_["digest"] != digest_of(base, hashes)) differs("the types or shapes of its tensors differ");

    for (const TensorInfo& tensor : base.tensors()) {
        if (!is_floating(tensor.dtype)) continue;
        const TensorInfo* delta = file_.find(tensor.name);
        if (delta == nullptr) refuse(file_, fmt::format("lacks the tensor '{}' of its base", tensor.name));
        if (delta->shape != tensor.shape)
            refuse(file_, fmt::format("tensor '{}' is {}, the base's is {}", tensor.name, shape_text(*delta),
                                      shape_text(tensor)));
    }
    for (const TensorInfo& delta : file_.tensors())
        if (!is_floating(base.require(delta.name).dtype))
            refuse(file_, fmt::format("has a difference for '{}', which is {} in the base", delta.name,
                                      to_string(base.require(delta.name).dtype)));
}

}  // namespace biophony
