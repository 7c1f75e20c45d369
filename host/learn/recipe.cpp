#include "learn/recipe.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/nearest.hpp"
#include "base/sha256.hpp"
#include "learn/optimiser.hpp"

namespace biophony {

const std::vector<Recipe>& recipes() {
    static const std::vector<Recipe> kPresets = {
        // For small encoders and few clips.
        {.name = "small",
         .version = 4,
         .epochs = 12,
         .batch = 32,
         .learning_rate = 5e-4,
         .head_learning_rate = 1e-3,
         .weight_decay = 0.05,
         .schedule = Recipe::Schedule::kCosine,
         .warm_up = 0.1,
         .clip_norm = 1,
         .label_smoothing = 0.1,
         .bfloat16 = true,
         .head_start = Recipe::HeadStart::kProbe,
         .keep_best = true,
         .random_start = true,
         .level_jitter_db = 5.7,
         .mixup_alpha = 0.3,
         .mixup_share = 0.5,
         .band_masks = 1,
         .band_mask_width = 20,
         .time_masks = 1,
         .time_mask_width = 32,
         .pooling = Pooling::kBands},
        // Nihal et al. 2026, for BEATs at full size.
        {.name = "nihal2026",
         .version = 1,
         .epochs = 20,
         .batch = 32,
         .learning_rate = 1e-5,
         .head_learning_rate = 1e-5,
         .weight_decay = 0.01,
         .schedule = Recipe::Schedule::kOneCycle,
         .warm_up = 0.3,
         .warm_up_steps = 500,
         .clip_norm = 1,
         .label_smoothing = 0.1,
         .bfloat16 = true,
         .head_start = Recipe::HeadStart::kXavier,
         .freeze_epochs = 2,
         .thaw_warm_up = 0.1,
         .thaw_warm_up_steps = 100,
         .keep_best = true,
         .patience = 5,
         .wave_masks = 2,
         .wave_mask_ms = 50,
         .mixup_alpha = 0.3,
         .mixup_share = 0.5,
         .pooling = Pooling::kMean},
    };
    return kPresets;
}

/// Every field, in order. A field that is added or taken away is an error here: list it here, in values() below, and in
/// the test "a recipe's hash covers every field". (The size would not tell: small fields fit in between.)
[[maybe_unused]] static void all_fields(const Recipe& recipe) {
    [[maybe_unused]] const auto& [name, version, epochs, batch, learning_rate, head_learning_rate, weight_decay,
                                  schedule, warm_up, warm_up_steps, clip_norm, label_smoothing, bfloat16, head_start,
                                  freeze_epochs, thaw_warm_up, thaw_warm_up_steps, keep_best, patience, random_start,
                                  level_jitter_db, wave_masks, wave_mask_ms, mixup_alpha, mixup_share, band_masks,
                                  band_mask_width, time_masks, time_mask_width, pooling] = recipe;
}

Json Recipe::values() const {
    const bool one_cycle = schedule == Schedule::kOneCycle;
    return {{"optimiser", "AdamW"},
            {"beta1", one_cycle ? Json{0.85, 0.95} : Json(0.9)},
            {"beta2", 0.999},
            {"epsilon", 1e-8},
            {"loss", "cross-entropy"},
            {"schedule", one_cycle ? "one cycle" : "linear warm-up, cosine to 0"},
            {"epochs", epochs},
            {"batch", batch},
            {"learning_rate", learning_rate},
            {"head_learning_rate", head_learning_rate},
            {"weight_decay", weight_decay},
            {"warm_up", warm_up},
            {"warm_up_steps", warm_up_steps},
            {"clip_norm", clip_norm},
            {"label_smoothing", label_smoothing},
            {"precision", bfloat16 ? "bfloat16 autocast" : "float32"},
            {"head_start", head_start == HeadStart::kProbe ? "probe" : "xavier"},
            {"freeze_epochs", freeze_epochs},
            {"thaw_warm_up", thaw_warm_up},
            {"thaw_warm_up_steps", thaw_warm_up_steps},
            {"keep_best", keep_best},
            {"patience", patience},
            {"random_start", random_start},
            {"level_jitter_db", level_jitter_db},
            {"wave_masks", wave_masks},
            {"wave_mask_ms", wave_mask_ms},
            {"mixup_alpha", mixup_alpha},
            {"mixup_share", mixup_share},
            {"band_masks", band_masks},
            {"band_mask_width", band_mask_width},
            {"time_masks", time_masks},
            {"time_mask_width", time_mask_width},
            {"pooling", to_string(pooling)}};
}

Json Recipe::card() const {
    Json card = {{"name", name}, {"version", version}, {"values", values()}};
    card["hash"] = sha256_hex(canonical(card));
    return card;
}

Recipe recipe_from(const Json& params) {
    const std::string wanted = params.at("recipe");
    const auto found =
        std::find_if(recipes().begin(), recipes().end(), [&](const Recipe& recipe) { return recipe.name == wanted; });
    if (found == recipes().end()) {
        std::vector<std::string> names;
        for (const Recipe& recipe : recipes()) names.push_back(recipe.name);
        throw Error(Code::kInvalid, with_nearest("unknown recipe '" + wanted + "'", wanted, names));
    }
    Recipe recipe = *found;
    recipe.epochs = params.value("epochs", recipe.epochs);
    recipe.batch = params.value("batch", recipe.batch);
    recipe.learning_rate = params.value("learning_rate", recipe.learning_rate);
    recipe.head_learning_rate = params.value("head_learning_rate", recipe.head_learning_rate);
    if (params.contains("pooling")) recipe.pooling = pooling_from(params["pooling"].get<std::string>());
    return recipe;
}

Pace pace(const Recipe& recipe, int64_t step, int64_t steps, bool thawed) {
    const double at = static_cast<double>(step), all = static_cast<double>(steps);
    double share = thawed ? recipe.thaw_warm_up : recipe.warm_up;
    if (const int most = thawed ? recipe.thaw_warm_up_steps : recipe.warm_up_steps; most > 0)
        share = std::min(share, most / std::max(1.0, all));
    auto cosine = [](double from, double to, double part) {
        return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * part));
    };
    if (recipe.schedule == Recipe::Schedule::kCosine) return {.rate = warm_up_then_cosine(step, steps, share)};
    // torch.optim.lr_scheduler.OneCycleLR(pct_start = share, div_factor = 25, final_div_factor = 1e4), which cycles
    // Adam's first beta against the rate. Its phases end at share·steps − 1 and steps − 1.
    constexpr double kFirst = 1.0 / 25, kLast = kFirst / 1e4, kLeast = 0.85, kMost = 0.95;
    const double peak = share * all - 1, end = all - 1;
    if (at <= peak && peak > 0) return {cosine(kFirst, 1, at / peak), cosine(kMost, kLeast, at / peak)};
    const double part = end > peak ? std::min(1.0, (at - peak) / (end - peak)) : 0;
    return {cosine(1, kLast, part), cosine(kLeast, kMost, part)};
}

}  // namespace biophony
