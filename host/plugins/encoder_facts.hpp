// What an encoder's manifest says in its object "encoder": what holds for a configuration, known without its code.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/json.hpp"
#include "plugins/registry.hpp"

namespace biophony {

/// As biophony::torch_tier::EncoderInfo has them, of one configuration. Absent = the manifest doesn't say.
struct EncoderFacts {
    std::optional<double> sample_rate, window_seconds;
    std::optional<int64_t> width, bands, blocks;
    std::optional<bool> trainable;  ///< false: it has no parameters
};

/// Of an encoder with this configuration. What stands in the manifest is a number, {"parameter": NAME} for the value of
/// a parameter (its default where the configuration has none), or {"parameter": NAME, "divides": 128} for the whole
/// number of times that it goes into 128. What doesn't come out as a number is absent.
EncoderFacts encoder_facts(const ItemInfo& item, const Json& config);

/// Appends what is wrong with the object "encoder", with pointers below it.
void check_encoder_facts(const ItemInfo& item, std::vector<Diagnostic>& problems);

}  // namespace biophony
