#include "learn/features.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/json.hpp"
#include "learn/windows.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

namespace {
constexpr const char* kFile = "features.safetensors";
constexpr const char* kCard = "features.json";
}  // namespace

void FeatureSet::save(const std::filesystem::path& folder) const {
    const auto count = static_cast<int64_t>(clips.size());
    SafetensorsWriter writer(folder / kFile,
                             {{"features", DType::kF32, values.sizes().vec()}, {"clip", DType::kI64, {count}}},
                             {{"biophony.format", "features/0"}});
    const at::Tensor dense = values.contiguous();
    writer.write("features", 0, {static_cast<const std::byte*>(dense.data_ptr()), dense.nbytes()});
    writer.write("clip", 0, std::as_bytes(std::span(clips)));
    writer.finish();
    write_json(folder / kCard, {{"format", "biophony-features/0"},
                                {"encoder", encoder},
                                {"data", data},
                                {"bands", bands},
                                {"width", width},
                                {"windows", count},
                                {"pooling", to_string(bands > 1 ? Pooling::kBands : Pooling::kMean)}});
}

FeatureSet FeatureSet::load(const std::filesystem::path& folder) {
    const Json card = read_json(folder / kCard);
    const SafetensorsFile file = SafetensorsFile::open(folder / kFile);
    FeatureSet out;
    out.encoder = card.at("encoder");
    out.data = card.at("data");
    out.bands = card.at("bands");
    out.width = card.at("width");
    const TensorInfo &values = file.require("features"), &clips = file.require("clip");
    if (values.dtype != DType::kF32 || clips.dtype != DType::kI64 || values.shape.size() != 2 ||
        clips.shape != std::vector{values.shape[0]} || values.shape[1] != out.bands * out.width)
        throw Error(Code::kRunFailed, "the tensors 'features' and 'clip' don't fit each other and features.json",
                    {.file = file.path().string()});
    out.values = at::empty(values.shape, at::kFloat);
    out.clips.resize(static_cast<size_t>(clips.shape[0]));
    file.read(values, 0, {static_cast<std::byte*>(out.values.data_ptr()), out.values.nbytes()});
    file.read(clips, 0, std::as_writable_bytes(std::span(out.clips)));
    return out;
}

at::Tensor FeatureSet::pooled(Pooling pooling) const {
    if (pooling == Pooling::kBands || bands == 1) return values;
    return values.reshape({values.size(0), bands, width}).mean(1);
}

std::vector<int64_t> FeatureSet::windows_of(const ClipSet& set, Split split) const {
    std::vector<int64_t> out;
    for (size_t w = 0; w < clips.size(); ++w)
        if (set.clips.at(static_cast<size_t>(clips[w])).split == split) out.push_back(static_cast<int64_t>(w));
    return out;
}

FeatureSet find_features(const std::vector<InputArtefact>& features, const std::string& encoder,
                         const std::string& data) {
    for (const InputArtefact& artefact : features) {
        const Json card = read_json(artefact.folder / kCard);
        if (card.at("encoder") == encoder && card.at("data") == data) return FeatureSet::load(artefact.folder);
    }
    throw Error(Code::kInternal,
                fmt::format("the features of the encoder {:.8} on the data {:.8} are not connected", encoder, data));
}

}  // namespace biophony
