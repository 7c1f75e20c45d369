// Pretraining: an encoder learns from many clips by up to three objectives at once, whose heads are thrown away.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string_view>
#include <vector>

#include "base/progress.hpp"
#include "learn/encoder.hpp"
#include "learn/masked.hpp"
#include "learn/wave_stream.hpp"

namespace biophony {

/// The parameters of the node; tasks/pretrain.cpp describes them and has their defaults.
struct PretrainSettings {
    int64_t steps = 0;
    size_t batch = 0, views = 0;
    double learning_rate = 0, weight_decay = 0, warm_up = 0, clip_norm = 0;
    bool bfloat16 = false;
    int64_t log_every = 1;
    std::vector<double> shares;  ///< empty = equal
    struct Contrastive {
        double weight = 0, temperature = 0;
        std::string pooling;
        int64_t projection = 0;
    } contrastive;
    struct Supervised {
        double weight = 0;
        std::string pooling;
    } supervised;
    MaskedSettings masked;
    Augmentation augmentation;

    static PretrainSettings from(const Json& params);
};

/// Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2: the sum outside of the logarithm).
/// `z` (B, P) has rows of length 1. Rows of one label (B, int64) are each other's positives; pairs in `excluded` (B, B,
/// bool, symmetric) are neither positives nor negatives; a row without positives isn't counted.
struct ContrastiveResult {
    at::Tensor loss;      ///< a scalar, with gradient
    at::Tensor accuracy;  ///< share of rows whose nearest other row, without the excluded, has their label
};
ContrastiveResult contrastive_loss(const at::Tensor& z, const at::Tensor& labels, const at::Tensor& excluded,
                                   double temperature);

/// What the windows of a batch are to each other for contrastive_loss. `data` must outlive this.
class Pairs {
public:
    Pairs(const std::vector<ClipSet>& data, const BatchPlan& plan);
    struct Batch {
        at::Tensor labels;    ///< (B) int64: a number per set and label
        at::Tensor excluded;  ///< (B, B) bool: of one file or one label's name, but not of one label of one set
    };
    Batch operator()(const std::vector<BatchItem>& items) const;

private:
    const std::vector<ClipSet>& data_;
    std::vector<int64_t> first_;                    ///< of each set, the number of its first label
    std::vector<std::vector<int64_t>> names_;       ///< set → label → number of its name
    std::vector<std::vector<int64_t>> recordings_;  ///< set → recording → number of its content
};

struct Pretrained {
    Json history;  ///< one entry per `log_every` steps, means over them: step, learning_rate, and of each objective
                   ///< that has a weight its loss and accuracy; for masked also
                   ///< how many different codes a batch has
    double windows_per_second = 0;
};

/// Trains `encoder` in place on the train clips of `data`. Deterministic in seed and LibTorch's thread count, whatever
/// `threads` that read ahead. Throws Error(kRunFailed) when the loss is no longer finite or a clip can't be read.
Pretrained pretrain(Encoder& encoder, const std::vector<ClipSet>& data, const std::vector<ClipSet>& backgrounds,
                    const Registry& registry, const PretrainSettings& settings, uint64_t seed, size_t threads,
                    Progress& progress, const Cancel& cancel, const std::function<void(std::string_view)>& log);

}  // namespace biophony
