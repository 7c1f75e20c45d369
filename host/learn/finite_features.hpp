// Features as heads and evaluations read them: only numbers.
#pragma once

#include <string>
#include <vector>

#include "learn/features.hpp"

namespace biophony {

/// The name of the node among a port's results that has the features of this encoder on this data, by digest; empty
/// where it isn't there. It names both: "features:merged:clips[bird]".
std::string features_node(const std::vector<InputArtefact>& features, const std::string& encoder,
                          const std::string& data);

/// find_features() for these clips. Throws Error(kRunFailed), with the node and the first such clip, where a value is
/// infinite or not a number.
FeatureSet finite_features(const std::vector<InputArtefact>& features, const std::string& encoder,
                           const std::string& data, const ClipSet& clips);

}  // namespace biophony
