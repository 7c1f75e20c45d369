#include "learn/finite_features.hpp"

#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

#include "base/json.hpp"

namespace biophony {

std::string features_node(const std::vector<InputArtefact>& features, const std::string& encoder,
                          const std::string& data) {
    for (const InputArtefact& artefact : features) {
        const Json card = read_json(artefact.folder / "features.json");
        if (card.at("encoder") == encoder && card.at("data") == data) return artefact.node;
    }
    return {};
}

FeatureSet finite_features(const std::vector<InputArtefact>& features, const std::string& encoder,
                           const std::string& data, const ClipSet& clips) {
    FeatureSet out = find_features(features, encoder, data);
    const at::Tensor good = at::isfinite(out.values).all(1);
    if (good.all().item<bool>()) return out;
    const auto window = good.logical_not().nonzero()[0].item<int64_t>();
    const Clip& clip = clips.clips.at(static_cast<size_t>(out.clips.at(static_cast<size_t>(window))));
    throw Error(Code::kRunFailed,
                fmt::format("'{}' has features that are infinite or not numbers, of {} of {} windows, the first in the "
                            "clip {:.3f}–{:.3f} s of '{}'; the encoder gives no numbers there",
                            features_node(features, encoder, data), good.numel() - good.sum().item<int64_t>(),
                            good.numel(), clip.start_s, clip.end_s, clips.recordings.at(clip.recording).id));
}

}  // namespace biophony
