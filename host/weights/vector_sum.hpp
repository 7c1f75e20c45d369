// Task vectors from task vectors: Σ c_i τ_i of one base.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/progress.hpp"

namespace biophony {

/// Writes Σ c_i τ_i, added in float64 in the order that is given and rounded once to float32: a task vector of the same
/// base. `extra` is added to its metadata. Throws Error(kRunFailed) where the vectors are not of one base and encoder,
/// or where a value isn't finite; kCancelled.
void write_vector_sum(const std::vector<std::filesystem::path>& vectors, std::span<const double> factors,
                      const std::filesystem::path& out, const std::map<std::string, std::string>& extra,
                      Progress* progress = nullptr, const Cancel* cancel = nullptr);

}  // namespace biophony
