// What a sweep's checks and its work share.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "base/json.hpp"

namespace biophony {

/// The share of its accuracy on the base that each control keeps where the pipeline doesn't say.
inline constexpr double kFloor = 0.95;

/// Puts the head of the folder `head` on the encoder of the folder `encoder`, whose result has this digest: a head's
/// result in `out`. Throws Error(kRunFailed) where the head reads several encoders.
void keep_head(const fs::path& head, const fs::path& encoder, const std::string& digest, const fs::path& out);

/// The values of each coefficient of a "grid": lists, or {"from", "to", "step"} with both ends. Throws Error(kInvalid)
/// with the pointer below the grid.
std::map<std::string, std::vector<double>> grids_of(const Json& grid);

}  // namespace biophony
