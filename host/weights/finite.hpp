// The search for NaN and infinity, which every weight that is read or written goes through.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace biophony {

/// Index of the first value that is NaN or infinite, or size() where there is none.
inline size_t first_not_finite(std::span<const float> values) {
    uint32_t found = 0;  // no early exit in this loop: it runs at the speed of memory
    for (const float value : values) found |= (std::bit_cast<uint32_t>(value) & 0x7f800000U) == 0x7f800000U ? 1U : 0U;
    if (found == 0) return values.size();
    size_t i = 0;
    while (std::isfinite(values[i])) ++i;
    return i;
}

}  // namespace biophony
