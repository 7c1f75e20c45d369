#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "learn/encoder.hpp"
#include "learn/features.hpp"
#include "learn/runtime.hpp"
#include "learn/windows.hpp"
#include "plugins/call.hpp"

namespace biophony {

void run_features(TaskContext& context) {
    const std::vector<ClipSet> sets = {ClipSet::load(context.input("data").folder)};
    LoadedEncoder encoder = load_encoder(context.input("encoder").folder / "encoder.safetensors", *context.registry);
    const CrashContext crash(encoder.card.encoder, context.node);
    const auto begin = std::chrono::steady_clock::now();
    WindowFeatures windows(sets, std::nullopt, *context.registry, *encoder.module, *context.progress, *context.cancel,
                           uint64_t{4} << 30, WindowFeatures::Keep::kFeatures,
                           front_end_key(encoder, *context.registry, sets[0]));
    const EncoderInfo info = encoder.module->info();
    FeatureSet features{.encoder = context.input("encoder").digest,
                        .data = context.input("data").digest,
                        .bands = info.bands,
                        .width = info.width};
    features.values = embed(*encoder.module, windows, context.params.at("batch"), *context.progress, *context.cancel,
                            Pooling::kBands);
    for (const Window& window : windows.windows()) features.clips.push_back(static_cast<int64_t>(window.clip));
    features.save(context.out);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    context.headline = fmt::format("{} windows × {}, {:.0f} windows/s", features.clips.size(), features.values.size(1),
                                   static_cast<double>(features.clips.size()) / std::max(seconds, 1e-9));
}

}  // namespace biophony
