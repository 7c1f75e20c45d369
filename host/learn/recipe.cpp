#include "learn/recipe.hpp"

#include <cmath>
#include <numbers>

#include "base/sha256.hpp"

namespace biophony {

Json Recipe::values() const {
    return {{"optimiser", "AdamW"},
            {"betas", {0.9, 0.999}},
            {"epsilon", 1e-8},
            {"loss", "cross-entropy"},
            {"schedule", "linear warm-up, cosine to 0"},
            {"pooling", "mean"},
            {"precision", "float32"},
            {"epochs", epochs},
            {"batch", batch},
            {"learning_rate", learning_rate},
            {"head_learning_rate", head_learning_rate},
            {"weight_decay", weight_decay},
            {"warm_up", warm_up},
            {"clip_norm", clip_norm}};
}

Json Recipe::card() const {
    Json card = {{"name", name}, {"version", version}, {"values", values()}};
    card["hash"] = sha256_hex(canonical(card));
    return card;
}

Recipe recipe_from(const Json& params) {
    Recipe recipe;
    recipe.name = params.at("recipe");
    if (recipe.name != "small") throw Error(Code::kInvalid, "found the recipe '" + recipe.name + "', expected small");
    recipe.epochs = params.value("epochs", recipe.epochs);
    recipe.batch = params.value("batch", recipe.batch);
    recipe.learning_rate = params.value("learning_rate", recipe.learning_rate);
    recipe.head_learning_rate = params.value("head_learning_rate", recipe.head_learning_rate);
    return recipe;
}

double schedule(const Recipe& recipe, int64_t step, int64_t steps) {
    const double at = static_cast<double>(step), all = static_cast<double>(steps);
    const double rise = std::max(1.0, std::floor(recipe.warm_up * all));
    if (at < rise) return (at + 1) / rise;
    return 0.5 * (1 + std::cos(std::numbers::pi * (at - rise) / std::max(1.0, all - rise)));
}

}  // namespace biophony
