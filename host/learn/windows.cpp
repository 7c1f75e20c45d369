#include "learn/windows.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <numeric>

#include "audio/window.hpp"
#include "base/sha256.hpp"
#include "learn/scratch.hpp"

namespace biophony {

namespace {

struct CachedFeatures {
    std::string key;
    at::Tensor features;
};

struct CacheState {
    uint64_t limit = uint64_t{2} << 30, used = 0;
    std::list<CachedFeatures> entries;  // the most recently used first

    void shrink() {
        while (used > limit) {
            used -= entries.back().features.nbytes();
            entries.pop_back();
        }
    }
    static CacheState& get() {
        static CacheState state;
        return state;
    }
};

}  // namespace

void FrontEndCache::set_limit(uint64_t bytes) {
    CacheState::get().limit = bytes;
    CacheState::get().shrink();
}

at::Tensor FrontEndCache::find(const std::string& key) {
    std::list<CachedFeatures>& entries = CacheState::get().entries;
    const auto found =
        std::find_if(entries.begin(), entries.end(), [&](const CachedFeatures& entry) { return entry.key == key; });
    if (found == entries.end()) return {};
    entries.splice(entries.begin(), entries, found);
    return entries.front().features;
}

void FrontEndCache::keep(const std::string& key, const at::Tensor& features) {
    CacheState& state = CacheState::get();
    if (features.nbytes() > state.limit || find(key).defined()) return;
    state.entries.push_front({key, features});
    state.used += features.nbytes();
    state.shrink();
}

std::string front_end_key(const LoadedEncoder& encoder, const Registry& registry, const ClipSet& set) {
    const size_t colon = encoder.card.encoder.find(':');
    const ItemInfo* item = colon == std::string::npos ? nullptr
                                                      : registry.find(encoder.card.encoder.substr(0, colon),
                                                                      encoder.card.encoder.substr(colon + 1));
    if (item == nullptr) return {};
    Sha256 hash;
    auto add = [&](std::string_view text) {
        hash.update(std::to_string(text.size()) + ":");
        hash.update(text);
    };
    add(item->name());
    add(item->build);
    add(canonical(encoder.card.config));
    for (const auto& buffer : encoder.module->named_buffers()) {
        const at::Tensor values = buffer.value().contiguous();
        add(buffer.key());
        add({static_cast<const char*>(values.data_ptr()), values.nbytes()});
    }
    add(canonical(set.band_limit_hz));
    for (const Clip& clip : set.clips) {
        const ClipRecording& recording = set.recordings[clip.recording];
        add(recording.content);
        add(canonical({recording.source.channel, clip.start_s, clip.end_s}));
    }
    return hash.hex();
}

WindowFeatures::WindowFeatures(const std::vector<ClipSet>& sets, std::optional<Split> split, const Registry& registry,
                               Encoder& encoder, Progress& progress, const Cancel& cancel, uint64_t memory_limit,
                               Keep keep, const std::string& cache_key, const std::filesystem::path& scratch)
    : sets_(sets),
      encoder_(encoder),
      length_(static_cast<size_t>(std::llround(encoder.info().window_seconds * encoder.info().sample_rate))) {
    const double seconds = encoder.info().window_seconds;
    for (size_t s = 0; s < sets.size(); ++s) {
        readers_.push_back(std::make_unique<ClipReader>(sets[s], registry));
        for (size_t c = 0; c < sets[s].clips.size(); ++c) {
            if (split && sets[s].clips[c].split != *split) continue;
            const auto count =
                static_cast<size_t>(std::max<long long>(1, std::llround(sets[s].clips[c].seconds() / seconds)));
            for (size_t w = 0; w < count; ++w) windows_.push_back({s, c, w * length_});
        }
    }
    if (keep == Keep::kSound)
        keep_sound(memory_limit, progress, cancel);
    else
        keep_features(memory_limit, progress, cancel, cache_key, scratch);
}

void WindowFeatures::keep_features(uint64_t memory_limit, Progress& progress, const Cancel& cancel,
                                   const std::string& cache_key, const std::filesystem::path& scratch) {
    const at::NoGradGuard no_grad;
    if (!cache_key.empty()) {
        kept_ = FrontEndCache::find(cache_key);
        if (kept_.defined() && kept_.size(0) == static_cast<int64_t>(windows_.size())) return;
        kept_ = at::Tensor();
    }
    // A clip's windows stand next to each other; waves go through the front end in groups.
    constexpr size_t kGroup = 32;
    int64_t keep = -1;
    bool in_file = false;
    for (size_t begin = 0; begin < windows_.size(); begin += kGroup) {
        cancel.check();
        const size_t end = std::min(begin + kGroup, windows_.size());
        std::vector<size_t> group(end - begin);
        std::iota(group.begin(), group.end(), begin);
        const at::Tensor features = encoder_.features(waves(group)).contiguous();
        if (keep < 0) {
            const uint64_t each = features[0].nbytes();
            keep =
                static_cast<int64_t>(std::min<uint64_t>(windows_.size(), memory_limit / std::max<uint64_t>(1, each)));
            std::vector<int64_t> shape = features.sizes().vec();
            shape[0] = static_cast<int64_t>(windows_.size());
            if (keep < shape[0] && !scratch.empty()) kept_ = scratch_tensor(shape, scratch);
            in_file = kept_.defined();
            shape[0] = in_file ? shape[0] : keep;
            keep = shape[0];
            if (!in_file) kept_ = at::empty(shape, features.options());
        }
        const int64_t fits = std::min<int64_t>(static_cast<int64_t>(end), keep) - static_cast<int64_t>(begin);
        if (fits > 0) kept_.narrow(0, static_cast<int64_t>(begin), fits).copy_(features.narrow(0, 0, fits));
        progress.update(static_cast<double>(end), static_cast<double>(windows_.size()), "windows heard");
        if (static_cast<int64_t>(end) >= keep) break;
    }
    if (!cache_key.empty() && !in_file && keep == static_cast<int64_t>(windows_.size()))
        FrontEndCache::keep(cache_key, kept_);
}

void WindowFeatures::keep_sound(uint64_t memory_limit, Progress& progress, const Cancel& cancel) {
    for (const ClipSet& set : sets_) sounds_.emplace_back(set.clips.size());
    uint64_t used = 0;
    for (size_t w = 0; w < windows_.size(); ++w) {
        const Window& window = windows_[w];
        if (window.offset > 0) continue;
        cancel.check();
        const std::vector<float>& samples = sound(window);
        used += samples.size() * sizeof(float);
        if (used > memory_limit) break;
        sounds_[window.set][window.clip] = samples;
        progress.update(static_cast<double>(w + 1), static_cast<double>(windows_.size()), "windows heard");
    }
}

const std::vector<float>& WindowFeatures::sound(const Window& window) {
    if (!sounds_.empty() && !sounds_[window.set][window.clip].empty()) return sounds_[window.set][window.clip];
    if (window.set != last_set_ || window.clip != last_clip_) {
        last_ = readers_[window.set]->read(sets_[window.set].clips[window.clip], encoder_.info().sample_rate);
        last_set_ = window.set;
        last_clip_ = window.clip;
    }
    return last_;
}

at::Tensor WindowFeatures::waves(std::span<const size_t> indices, Random* start) {
    at::Tensor out = at::empty({static_cast<int64_t>(indices.size()), static_cast<int64_t>(length_)}, at::kFloat);
    float* to = out.data_ptr<float>();
    for (const size_t index : indices) {
        const Window& window = windows_[index];
        const std::vector<float>& clip = sound(window);
        size_t offset = window.offset;
        if (start != nullptr && !clip.empty())
            offset = start->below(clip.size() > length_ ? clip.size() - length_ + 1 : clip.size());
        const std::vector<float> filled = window_repeated(clip, offset, length_);
        to = std::copy(filled.begin(), filled.end(), to);
    }
    return out;
}

at::Tensor WindowFeatures::batch(std::span<const size_t> indices) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> rows;
    for (const size_t i : indices) {
        if (kept_.defined() && static_cast<int64_t>(i) < kept_.size(0))
            rows.push_back(kept_[static_cast<int64_t>(i)]);
        else
            rows.push_back(encoder_.features(waves(std::span<const size_t>(&i, 1)))[0]);
    }
    return at::stack(rows);
}

at::Tensor embed(Encoder& encoder, WindowFeatures& windows, size_t batch, Progress& progress, const Cancel& cancel,
                 Pooling pooling) {
    const at::NoGradGuard no_grad;
    encoder.eval();
    std::vector<at::Tensor> parts;
    std::vector<size_t> all(windows.windows().size());
    std::iota(all.begin(), all.end(), size_t{0});
    for (size_t begin = 0; begin < all.size(); begin += batch) {
        cancel.check();
        const std::span<const size_t> indices(all.data() + begin, std::min(batch, all.size() - begin));
        parts.push_back(pooled(encoder, windows.batch(indices), pooling));
        progress.update(static_cast<double>(begin + indices.size()), static_cast<double>(all.size()), "windows");
    }
    if (parts.empty()) return at::zeros({0, pooled_width(encoder.info(), pooling)});
    return at::cat(parts);
}

}  // namespace biophony
