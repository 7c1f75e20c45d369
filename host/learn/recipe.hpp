// Recipes: every setting of a training run as one versioned preset with one hash, so that contributors can show that
// they trained alike. docs/recipes.md has the values with their sources.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "learn/pooling.hpp"

namespace biophony {

struct Recipe {
    enum class Schedule {
        kCosine,   ///< linear warm-up, then cosine to 0
        kOneCycle  ///< PyTorch's OneCycleLR: cosine up from 1/25, cosine down to 1/250 000; β₁ from 0.95 to 0.85 and
                   ///< back
    };
    enum class HeadStart {
        kXavier,  ///< uniform random weights, zero bias
        kProbe    ///< a ridge probe on the encoder as it starts (LP-FT, Kumar et al. 2022, arXiv 2202.10054)
    };

    std::string name;
    int version = 1;  ///< raised with every change of a value

    // Steps.
    int epochs = 12;
    int batch = 16;               ///< windows per step
    double learning_rate = 5e-4;  ///< of the encoder
    double head_learning_rate = 2e-3;
    double weight_decay = 0.05;  ///< AdamW, decoupled; not on biases, norms and gains
    Schedule schedule = Schedule::kCosine;
    double warm_up = 0.1;    ///< share of the steps in which the rate rises
    int warm_up_steps = 0;   ///< and no more steps than this; 0 = the share alone
    double clip_norm = 1.0;  ///< of the gradient over all parameters that learn
    double label_smoothing = 0;
    bool bfloat16 = false;  ///< the encoder's forward pass in training under autocast

    // Start and end.
    HeadStart head_start = HeadStart::kXavier;
    int freeze_epochs = 0;       ///< the head alone learns; afterwards optimiser and schedule are made anew
    double thaw_warm_up = 0.1;   ///< warm_up of the schedule after that
    int thaw_warm_up_steps = 0;  ///< warm_up_steps of it
    bool keep_best = false;      ///< the epoch with the least validation loss, where there are such clips
    int patience = 0;            ///< ends after so many epochs without a lower validation loss; 0 = never

    // Augmentation of train windows. Waves:
    bool random_start = false;   ///< a repeated clip begins anywhere, a window lies anywhere in a longer clip
    double level_jitter_db = 0;  ///< standard deviation of a gain
    int wave_masks = 0;          ///< stretches of silence per window
    double wave_mask_ms = 0;     ///< longest
    double mixup_alpha = 0;  ///< two windows in the shares λ and 1 − λ, λ ~ Beta(α, α) once a batch; 0 < α ≤ 1
    double mixup_share = 0;  ///< of the batches
    // Features with the axes (window, time, band), as SpecAugment (Park et al. 2019) without warping:
    int band_masks = 0;       ///< per window
    int band_mask_width = 0;  ///< each narrower than this
    int time_masks = 0;
    int time_mask_width = 0;  ///< frames of the features

    Pooling pooling = Pooling::kMean;

    /// Whether training needs the sound itself, not only its features.
    bool changes_waves() const { return random_start || level_jitter_db > 0 || wave_masks > 0 || mixup_share > 0; }

    Json values() const;  ///< every setting, by name
    /// {"name", "version", "hash", "values"}; the hash is SHA-256 of the canonical text of the rest.
    Json card() const;
};

/// All presets.
const std::vector<Recipe>& recipes();

/// The preset of this name with the node's own settings ("epochs", "batch", "learning_rate", "head_learning_rate",
/// "pooling") laid over it. Throws Error(kInvalid) for an unknown name, with the nearest.
Recipe recipe_from(const Json& params);

struct Pace {
    double rate = 1;     ///< factor on the learning rates
    double beta1 = 0.9;  ///< Adam's first
};

/// The pace of `step` of `steps`; `thawed` = of the schedule after freeze_epochs.
Pace pace(const Recipe& recipe, int64_t step, int64_t steps, bool thawed = false);

}  // namespace biophony
