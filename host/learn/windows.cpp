#include "learn/windows.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "audio/window.hpp"

namespace biophony {

WindowFeatures::WindowFeatures(const std::vector<ClipSet>& sets, Split split, const Registry& registry,
                               Encoder& encoder, Progress& progress, const Cancel& cancel, uint64_t memory_limit)
    : sets_(sets), encoder_(encoder) {
    const double seconds = encoder.info().window_seconds, rate = encoder.info().sample_rate;
    const auto length = static_cast<size_t>(std::llround(seconds * rate));
    for (size_t s = 0; s < sets.size(); ++s) {
        readers_.push_back(std::make_unique<ClipReader>(sets[s], registry));
        for (size_t c = 0; c < sets[s].clips.size(); ++c) {
            if (sets[s].clips[c].split != split) continue;
            const auto count =
                static_cast<size_t>(std::max<long long>(1, std::llround(sets[s].clips[c].seconds() / seconds)));
            for (size_t w = 0; w < count; ++w) windows_.push_back({s, c, w * length});
        }
    }
    const at::NoGradGuard no_grad;
    // A clip's windows stand next to each other; waves go through the front end in groups.
    constexpr size_t kGroup = 32;
    int64_t keep = -1;
    for (size_t begin = 0; begin < windows_.size(); begin += kGroup) {
        cancel.check();
        const size_t end = std::min(begin + kGroup, windows_.size());
        std::vector<at::Tensor> waves;
        for (size_t i = begin; i < end; ++i) waves.push_back(wave(i));
        const at::Tensor features = encoder_.features(at::stack(waves)).contiguous();
        if (keep < 0) {
            const uint64_t each = features[0].nbytes();
            keep =
                static_cast<int64_t>(std::min<uint64_t>(windows_.size(), memory_limit / std::max<uint64_t>(1, each)));
            std::vector<int64_t> shape = features.sizes().vec();
            shape[0] = keep;
            kept_ = at::empty(shape, features.options());
        }
        const int64_t fits = std::min<int64_t>(static_cast<int64_t>(end), keep) - static_cast<int64_t>(begin);
        if (fits > 0) kept_.narrow(0, static_cast<int64_t>(begin), fits).copy_(features.narrow(0, 0, fits));
        progress.update(static_cast<double>(end), static_cast<double>(windows_.size()), "windows heard");
        if (static_cast<int64_t>(end) >= keep) break;
    }
}

at::Tensor WindowFeatures::wave(size_t window) {
    const Window& at = windows_[window];
    const double rate = encoder_.info().sample_rate;
    const auto length = static_cast<size_t>(std::llround(encoder_.info().window_seconds * rate));
    if (at.set != last_set_ || at.clip != last_clip_) {
        last_ = readers_[at.set]->read(sets_[at.set].clips[at.clip], rate);
        last_set_ = at.set;
        last_clip_ = at.clip;
    }
    const std::vector<float> filled = window_repeated(last_, at.offset, length);
    at::Tensor out = at::empty({static_cast<int64_t>(length)}, at::kFloat);
    std::memcpy(out.data_ptr<float>(), filled.data(), length * sizeof(float));
    return out;
}

at::Tensor WindowFeatures::batch(std::span<const size_t> indices) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> rows;
    for (const size_t i : indices) {
        if (static_cast<int64_t>(i) < kept_.size(0))
            rows.push_back(kept_[static_cast<int64_t>(i)]);
        else
            rows.push_back(encoder_.features(wave(i).unsqueeze(0))[0]);
    }
    return at::stack(rows);
}

}  // namespace biophony
