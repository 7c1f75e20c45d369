// Fine-tuning by a recipe: pooled frames, one linear layer, cross-entropy.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.hpp"
#include "learn/pooling.hpp"
#include "learn/recipe.hpp"
#include "learn/windows.hpp"

namespace biophony {

/// A linear classifier on pooled features.
struct LinearHead {
    at::Tensor weight;  ///< (C, D) float32
    at::Tensor bias;    ///< (C) float32
};

struct TrainedHead {
    LinearHead head;
    Json history;        ///< one entry per epoch: epoch, train_loss, valid_loss, valid_accuracy; where there are
                         ///< held-out windows, first one of the start: epoch 0 without train_loss
    int kept_epoch = 0;  ///< whose weights these are, from 1; 0 = where training started, if there was no epoch
    double windows_per_second = 0;
};

/// Trains `encoder` in place. `labels[i]` is the class of train window i, `recordings[i]` what may not be torn apart,
/// `valid_labels` as `labels` (−1 = not a class of this model, left out). `windows` keeps sound where the recipe
/// changes waves. Losses are the recipe's, with its label smoothing, validation without augmentation and in float32.
/// Deterministic in seed and LibTorch's thread count. Throws Error(kRunFailed) when a loss or a gradient is no longer
/// finite.
TrainedHead train(Encoder& encoder, WindowFeatures& windows, const std::vector<int64_t>& labels,
                  const std::vector<std::string>& recordings, WindowFeatures& valid,
                  const std::vector<int64_t>& valid_labels, int64_t classes, const Recipe& recipe, uint64_t seed,
                  Progress& progress, const Cancel& cancel, const std::function<void(std::string_view)>& log);

}  // namespace biophony
