// Batches of waves for pretraining: which clips, which stretch of each, what is done to them; read ahead by threads.
//
// Everything drawn is a function of (seed, step, place in the batch), so results don't depend on the threads' timing.
#pragma once

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/progress.hpp"
#include "tasks/clips.hpp"

namespace biophony {

/// One window of a batch.
struct BatchItem {
    size_t set = 0, clip = 0;  ///< index of the data set, and in its clips
    int64_t label = 0;         ///< index in the set's trained labels
};

/// Which clips make up a batch: as many windows of each set as its share says, and `views` windows of each drawn label,
/// from different recordings where the label has them, else from different clips, else of the same clip. A batch draws
/// a label again only after all others of its set.
class BatchPlan {
public:
    /// `sets` must outlive this; only train clips count. `shares` has one number per set. `batch` is a multiple of
    /// `views`. Throws Error(kRunFailed) for a set without train clips.
    BatchPlan(const std::vector<ClipSet>& sets, const std::vector<double>& shares, size_t batch, size_t views,
              uint64_t seed);

    /// Sets in order, the windows of one label side by side. From any thread.
    std::vector<BatchItem> items(int64_t step) const;
    size_t batch() const { return batch_; }
    const std::vector<std::string>& labels(size_t set) const {
        return sets_[set].labels;
    }                                                            ///< sorted, with train clips
    size_t draws(size_t set) const { return sets_[set].draws; }  ///< labels that a batch draws from this set
    size_t train_clips(size_t set) const { return sets_[set].clips; }

private:
    struct Set {
        std::vector<std::string> labels;
        std::vector<std::vector<std::vector<size_t>>> by_label;  ///< label → recording → clips
        size_t draws = 0, clips = 0;
    };
    std::vector<Set> sets_;
    size_t batch_, views_;
    uint64_t seed_;
};

/// What is done to windows besides choosing their place.
struct Augmentation {
    double gain_low_db = 0, gain_high_db = 0;
    double equaliser_db = 0;      ///< standard deviation of a smooth random curve over log frequency; 0 = none
    double background_share = 0;  ///< of windows that a background is added to, where there are backgrounds
    double snr_low_db = 0, snr_high_db = 0;  ///< the window's power over the background's
};

struct WaveBatch {
    std::vector<BatchItem> items;
    at::Tensor waves;  ///< (B, N) float32
};

/// Waves (B, N) through a random filter each: the gain in dB is a sum of five cosines over log frequency, from 50 Hz to
/// half of `rate`, with a standard deviation of `strength_db`. Row i is drawn from mix(seed, i).
at::Tensor equalised(const at::Tensor& waves, double rate, double strength_db, uint64_t seed);

/// Makes the batches 0, 1, … `steps` − 1 of a plan, some ahead, in threads of its own.
class WaveStream {
public:
    /// Windows have `length` samples at `rate` Hz. A longer clip gives a random stretch, a shorter one is repeated from
    /// a random place of it. `data`, `backgrounds` (train clips) and `plan` must outlive this.
    WaveStream(const std::vector<ClipSet>& data, const std::vector<ClipSet>& backgrounds, const Registry& registry,
               const BatchPlan& plan, const Augmentation& augmentation, double rate, size_t length, int64_t steps,
               uint64_t seed, size_t threads);
    ~WaveStream();
    WaveStream(const WaveStream&) = delete;
    WaveStream& operator=(const WaveStream&) = delete;

    /// The next batch; waits for it. Throws Error that names the clip where one can't be read, and kCancelled, and what
    /// else went wrong in the threads, such as no memory for a batch.
    WaveBatch next(const Cancel& cancel);

private:
    class Source;
    struct Slot {
        std::vector<BatchItem> items;
        at::Tensor waves;
        size_t left = 0;           ///< items that are not there yet
        size_t failed = SIZE_MAX;  ///< the first item that can't be read
        std::exception_ptr error;
    };
    void work(Source& source);
    void stop();
    void fill(Source& source, int64_t step, size_t item, const BatchItem& at, float* out) const;

    const BatchPlan& plan_;
    Augmentation augmentation_;
    double rate_;
    size_t length_;
    int64_t steps_;
    uint64_t seed_;
    std::vector<std::pair<size_t, size_t>> backgrounds_;  ///< set and clip of each train clip
    std::vector<std::unique_ptr<Source>> sources_;        ///< one per thread

    std::mutex mutex_;
    std::condition_variable work_, done_;
    std::vector<Slot> slots_;
    int64_t producing_ = 0, consumed_ = 0;
    size_t next_item_ = 0;
    bool stop_ = false;
    std::vector<std::jthread> threads_;  ///< last: ends before the rest goes
};

}  // namespace biophony
