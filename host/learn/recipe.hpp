// Recipes: every setting of a training run as one versioned preset with one hash, so that contributors can show that
// they trained alike.
#pragma once

#include <string>

#include "base/json.hpp"

namespace biophony {

struct Recipe {
    std::string name;  ///< "small"
    int version = 1;   ///< raised with every change of a value
    int epochs = 12;
    int batch = 16;               ///< windows per step
    double learning_rate = 5e-4;  ///< of the encoder
    double head_learning_rate = 2e-3;
    double weight_decay = 0.05;  ///< AdamW, decoupled; not on biases, norms and gains
    double warm_up = 0.1;        ///< share of the steps with linearly rising rate; cosine to 0 afterwards
    double clip_norm = 1.0;      ///< of the gradient over all parameters

    Json values() const;  ///< every setting, by name
    /// {"name", "version", "hash", "values"}; the hash is SHA-256 of the canonical text of the rest.
    Json card() const;
};

/// The preset of this name with the node's own settings ("epochs", "batch", "learning_rate", "head_learning_rate")
/// laid over it. Throws Error(kInvalid) for an unknown name.
Recipe recipe_from(const Json& params);

/// The factor on the learning rate at `step` of `steps`: linear warm-up, then cosine to 0.
double schedule(const Recipe& recipe, int64_t step, int64_t steps);

}  // namespace biophony
