#include "learn/features.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
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
                         const std::string& data, const ClipSet& clips) {
    const auto found = std::find_if(features.begin(), features.end(), [&](const InputArtefact& artefact) {
        const Json card = read_json(artefact.folder / kCard);
        return card.at("encoder") == encoder && card.at("data") == data;
    });
    if (found == features.end())
        throw Error(
            Code::kInternal,
            fmt::format("the features of the encoder {:.8} on the data {:.8} are not connected", encoder, data));
    FeatureSet out = FeatureSet::load(found->folder);
    out.node = found->node;
    const at::Tensor good = at::isfinite(out.values).all(1);
    if (good.all().item<bool>()) return out;
    const auto window = good.logical_not().nonzero()[0].item<int64_t>();
    const Clip& clip = clips.clips.at(static_cast<size_t>(out.clips.at(static_cast<size_t>(window))));
    throw Error(Code::kRunFailed,
                fmt::format("'{}' has features that are infinite or not numbers, of {} of {} windows, the first in the "
                            "clip {:.3f}–{:.3f} s of '{}'; the encoder gives no numbers there",
                            out.node, good.numel() - good.sum().item<int64_t>(), good.numel(), clip.start_s, clip.end_s,
                            clips.recordings.at(clip.recording).id));
}

}  // namespace biophony
