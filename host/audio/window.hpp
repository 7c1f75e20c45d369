// Clips → windows of one length.
#pragma once

#include <cstddef>
#include <vector>

namespace biophony {

/// A window of exactly `length` samples that begins at `offset` of the clip. A shorter clip is repeated end to end,
/// so that the window has no silence that the clip hasn't. An empty clip gives silence.
std::vector<float> window_repeated(const std::vector<float>& clip, size_t offset, size_t length);

}  // namespace biophony
