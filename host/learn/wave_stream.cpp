#include "learn/wave_stream.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <ATen/ops/matmul.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <map>
#include <numbers>
#include <numeric>

#include "audio/window.hpp"
#include "base/random.hpp"

namespace biophony {

namespace {

constexpr size_t kAhead = 4;                                           // batches
constexpr uint64_t kKept = uint64_t{1} << 30;                          // bytes of waves of small sets of files
enum : uint64_t { kOfItems = 11, kOfWaves = 12, kOfEqualisers = 13 };  // what a seed is for

/// A random order of the first `count` of 0 … n − 1; begins anew where count > n.
std::vector<size_t> draw(Random& random, size_t n, size_t count) {
    std::vector<size_t> all(n), out;
    std::iota(all.begin(), all.end(), size_t{0});
    for (size_t i = 0; i < count; ++i) {
        const size_t at = i % n;
        std::swap(all[at], all[at + random.below(n - at)]);
        out.push_back(all[at]);
    }
    return out;
}

}  // namespace

BatchPlan::BatchPlan(const std::vector<ClipSet>& sets, const std::vector<double>& shares, size_t batch, size_t views,
                     uint64_t seed)
    : batch_(batch), views_(views), seed_(mix(seed, kOfItems)) {
    for (const ClipSet& set : sets) {
        std::map<std::string, std::map<size_t, std::vector<size_t>>> found;
        Set& mine = sets_.emplace_back();
        for (size_t c = 0; c < set.clips.size(); ++c) {
            if (set.clips[c].split != Split::kTrain) continue;
            found[set.clips[c].label][set.clips[c].recording].push_back(c);
            ++mine.clips;
        }
        if (found.empty())
            throw Error(Code::kRunFailed, fmt::format("the data set '{}' has no train clips", set.group));
        for (auto& [label, recordings] : found) {
            mine.labels.push_back(label);
            auto& lists = mine.by_label.emplace_back();
            for (auto& [recording, clips] : recordings) lists.push_back(std::move(clips));
        }
    }
    // As many draws as the share says; what rounding leaves goes where the most is missing.
    const size_t all = batch / views;
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    size_t given = 0;
    std::vector<double> missing;
    for (size_t s = 0; s < sets_.size(); ++s) {
        const double wanted = shares[s] / sum * static_cast<double>(all);
        sets_[s].draws = static_cast<size_t>(wanted);
        given += sets_[s].draws;
        missing.push_back(wanted - std::floor(wanted));
    }
    for (; given < all; ++given) {
        const auto most = std::max_element(missing.begin(), missing.end());
        ++sets_[static_cast<size_t>(most - missing.begin())].draws;
        *most -= 1;
    }
}

std::vector<BatchItem> BatchPlan::items(int64_t step) const {
    Random random(mix(seed_, static_cast<uint64_t>(step)));
    std::vector<BatchItem> out;
    out.reserve(batch_);
    for (size_t s = 0; s < sets_.size(); ++s)
        for (const size_t label : draw(random, sets_[s].labels.size(), sets_[s].draws)) {
            const auto& recordings = sets_[s].by_label[label];
            const std::vector<size_t> order = draw(random, recordings.size(), std::min(views_, recordings.size()));
            std::vector<std::vector<size_t>> clips;  // of each of these recordings, in random order
            for (const size_t recording : order)
                clips.push_back(
                    draw(random, recordings[recording].size(), std::min(recordings[recording].size(), views_)));
            for (size_t v = 0; v < views_; ++v) {
                const size_t r = v % order.size(), turn = v / order.size();
                out.push_back({s, recordings[order[r]][clips[r][turn % clips[r].size()]], static_cast<int64_t>(label)});
            }
        }
    return out;
}

at::Tensor equalised(const at::Tensor& waves, double rate, double strength_db, uint64_t seed) {
    constexpr int64_t kCosines = 5;
    constexpr double kLowest = 50;  // Hz
    const int64_t length = waves.size(1), bins = length / 2 + 1;
    at::Tensor basis = at::empty({kCosines, bins}, at::kFloat),
               weights = at::empty({waves.size(0), kCosines}, at::kFloat);
    auto cosines = basis.accessor<float, 2>();
    for (int64_t f = 0; f < bins; ++f) {
        const double hertz = std::max(kLowest, static_cast<double>(f) * rate / static_cast<double>(length));
        const double place = std::log(hertz / kLowest) / std::log(std::max(2.0, rate / 2 / kLowest));
        for (int64_t k = 0; k < kCosines; ++k)
            cosines[k][f] = static_cast<float>(std::cos(std::numbers::pi * static_cast<double>(k + 1) * place));
    }
    // dB → natural logarithm of the amplitude; a cosine has a mean square of a half.
    const double scale = strength_db * std::numbers::ln10 / 20 * std::sqrt(2.0 / kCosines);
    auto rows = weights.accessor<float, 2>();
    for (int64_t i = 0; i < waves.size(0); ++i) {
        Random random(mix(seed, static_cast<uint64_t>(i)));
        for (int64_t k = 0; k < kCosines; ++k) rows[i][k] = static_cast<float>(scale * random.normal());
    }
    return at::fft_irfft(at::fft_rfft(waves) * at::matmul(weights, basis).exp_(), length);
}

/// The sound of all sets, for one thread. Waves of sets of files that fit are kept, and shared by all threads.
class WaveStream::Source {
public:
    struct Kept {
        std::vector<std::atomic<std::shared_ptr<const std::vector<float>>>> clips;  ///< empty: this set isn't kept
    };

    Source(const std::vector<ClipSet>& data, const std::vector<ClipSet>& backgrounds, const Registry& registry,
           std::shared_ptr<std::vector<Kept>> kept, double rate, size_t length)
        : data_count_(data.size()), kept_(std::move(kept)), rate_(rate), length_(length) {
        for (const std::vector<ClipSet>* sets : {&data, &backgrounds})
            for (const ClipSet& set : *sets) {
                sets_.push_back(&set);
                readers_.push_back(std::make_unique<ClipReader>(set, registry));
            }
    }

    static std::shared_ptr<std::vector<Kept>> keep(const std::vector<ClipSet>& data,
                                                   const std::vector<ClipSet>& backgrounds, double rate) {
        auto kept = std::make_shared<std::vector<Kept>>(data.size() + backgrounds.size());
        uint64_t used = 0;
        size_t at = 0;
        for (const std::vector<ClipSet>* sets : {&data, &backgrounds})
            for (const ClipSet& set : *sets) {
                double seconds = 0;
                bool files = true;
                for (const Clip& clip : set.clips)
                    if (clip.split == Split::kTrain) {
                        seconds += clip.seconds();
                        files = files && !set.recordings[clip.recording].source.uri.empty();
                    }
                const auto bytes = static_cast<uint64_t>(seconds * rate * sizeof(float));
                if (files && used + bytes <= kKept) {
                    used += bytes;
                    (*kept)[at].clips = decltype(Kept::clips)(set.clips.size());
                }
                ++at;
            }
        return kept;
    }

    /// A window of a clip; `place` in [0, 1) says where it begins. Backgrounds are the sets behind the data.
    std::vector<float> window(bool background, size_t set, size_t clip, double place) {
        const size_t s = set + (background ? data_count_ : 0);
        const Clip& known = sets_[s]->clips[clip];
        try {
            auto& kept = (*kept_)[s].clips;
            if (!kept.empty()) {
                std::shared_ptr<const std::vector<float>> wave = kept[clip].load();
                if (!wave) kept[clip].store(wave = std::make_shared<std::vector<float>>(heard(s, known)));
                return cut(*wave, place);
            }
            // Of a long clip nothing is read but what is needed.
            const auto samples = static_cast<size_t>(std::llround(known.seconds() * rate_));
            if (samples <= length_) return cut(heard(s, known), place);
            Clip part = known;
            part.start_s += std::floor(place * static_cast<double>(samples - length_ + 1)) / rate_;
            part.end_s = std::min(known.end_s, part.start_s + static_cast<double>(length_) / rate_);
            return window_repeated(heard(s, part), 0, length_);
        } catch (const Error& error) {
            throw Error(error.code(),
                        fmt::format("the clip from {} to {} s of recording '{}' ({}): {}", known.start_s, known.end_s,
                                    sets_[s]->recordings[known.recording].id, sets_[s]->group, error.message().text),
                        error.where());
        }
    }

private:
    std::vector<float> heard(size_t s, const Clip& clip) {
        std::vector<float> wave = readers_[s]->read(clip, rate_);
        if (wave.empty()) throw Error(Code::kRunFailed, "has no samples");
        return wave;
    }

    std::vector<float> cut(const std::vector<float>& wave, double place) const {
        const size_t places = wave.size() > length_ ? wave.size() - length_ + 1 : wave.size();
        return window_repeated(wave, static_cast<size_t>(place * static_cast<double>(places)), length_);
    }

    size_t data_count_;
    std::vector<const ClipSet*> sets_;
    std::vector<std::unique_ptr<ClipReader>> readers_;
    std::shared_ptr<std::vector<Kept>> kept_;
    double rate_;
    size_t length_;
};

WaveStream::WaveStream(const std::vector<ClipSet>& data, const std::vector<ClipSet>& backgrounds,
                       const Registry& registry, const BatchPlan& plan, const Augmentation& augmentation, double rate,
                       size_t length, int64_t steps, uint64_t seed, size_t threads)
    : plan_(plan), augmentation_(augmentation), rate_(rate), length_(length), steps_(steps), seed_(seed) {
    for (size_t s = 0; s < backgrounds.size(); ++s)
        for (size_t c = 0; c < backgrounds[s].clips.size(); ++c)
            if (backgrounds[s].clips[c].split == Split::kTrain) backgrounds_.emplace_back(s, c);
    const auto kept = Source::keep(data, backgrounds, rate);
    for (size_t t = 0; t < threads; ++t)
        sources_.push_back(std::make_unique<Source>(data, backgrounds, registry, kept, rate, length));
    slots_.resize(kAhead);
    try {
        for (auto& source : sources_) threads_.emplace_back([this, &source] { work(*source); });
    } catch (...) {  // those that run would be waited for without end
        stop();
        throw;
    }
}

WaveStream::~WaveStream() {
    stop();
}

void WaveStream::stop() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    work_.notify_all();
}

void WaveStream::work(Source& source) {
    std::unique_lock lock(mutex_);
    for (;;) {
        work_.wait(lock, [&] {
            return stop_ || producing_ >= steps_ || producing_ < consumed_ + static_cast<int64_t>(kAhead);
        });
        if (stop_ || producing_ >= steps_) return;
        const int64_t step = producing_;
        const size_t item = next_item_++;
        Slot& slot = slots_[static_cast<size_t>(step) % kAhead];
        if (item == 0) {
            try {
                slot = {.items = plan_.items(step),
                        .waves =
                            at::empty({static_cast<int64_t>(plan_.batch()), static_cast<int64_t>(length_)}, at::kFloat),
                        .left = plan_.batch(),
                        .error = nullptr};
            } catch (...) {  // such as no memory: there is nothing to fill
                slot = Slot();
                slot.error = std::current_exception();
                next_item_ = 0;
                ++producing_;
                done_.notify_all();
                continue;
            }
        }
        if (next_item_ == plan_.batch()) {
            next_item_ = 0;
            ++producing_;
        }
        float* out = slot.waves.data_ptr<float>() + item * length_;
        const BatchItem at = slot.items[item];
        lock.unlock();
        std::exception_ptr error;
        try {
            fill(source, step, item, at, out);
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        if (error && item < slot.failed) {
            slot.failed = item;
            slot.error = error;
        }
        if (--slot.left == 0) done_.notify_all();
    }
}

void WaveStream::fill(Source& source, int64_t step, size_t item, const BatchItem& at, float* out) const {
    Random random(mix(mix(mix(seed_, kOfWaves), static_cast<uint64_t>(step)), item));
    auto decibels = [](double db) { return std::pow(10.0, db / 20); };
    const std::vector<float> window = source.window(false, at.set, at.clip, random.uniform());
    const auto gain = decibels(random.uniform(augmentation_.gain_low_db, augmentation_.gain_high_db));
    std::transform(window.begin(), window.end(), out, [&](float x) { return static_cast<float>(gain * x); });
    if (backgrounds_.empty() || random.uniform() >= augmentation_.background_share) return;
    const auto [set, clip] = backgrounds_[random.below(backgrounds_.size())];
    const std::vector<float> other = source.window(true, set, clip, random.uniform());
    const double ratio = decibels(-random.uniform(augmentation_.snr_low_db, augmentation_.snr_high_db));
    auto power = [&](const float* wave) {
        return std::accumulate(wave, wave + length_, 0.0, [](double sum, double x) { return sum + x * x; });
    };
    const double mine = power(out), theirs = power(other.data());
    if (theirs <= 0) return;  // silence
    const double level = ratio * std::sqrt(mine / theirs);
    for (size_t i = 0; i < length_; ++i) out[i] += static_cast<float>(level * other[i]);
}

WaveBatch WaveStream::next(const Cancel& cancel) {
    cancel.check();
    WaveBatch batch;
    int64_t step = 0;
    {
        std::unique_lock lock(mutex_);
        step = consumed_;
        Slot& slot = slots_[static_cast<size_t>(step) % kAhead];
        while (!(step < producing_ && slot.left == 0)) {
            cancel.check();
            done_.wait_for(lock, std::chrono::milliseconds(100));
        }
        if (slot.error) std::rethrow_exception(slot.error);
        batch = {std::move(slot.items), std::move(slot.waves)};
        ++consumed_;
    }
    work_.notify_all();
    const at::NoGradGuard no_grad;
    if (augmentation_.equaliser_db > 0)
        batch.waves = equalised(batch.waves, rate_, augmentation_.equaliser_db,
                                mix(mix(seed_, kOfEqualisers), static_cast<uint64_t>(step)));
    // What would be too loud for a recorder is as loud as it can be.
    batch.waves.div_(batch.waves.abs().amax(1, true).clamp_min_(1));
    return batch;
}

}  // namespace biophony
