// Durations and sizes as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace biophony {

/// "45s", "90m", "12h", "30d", "2w" → seconds. Throws Error(kInvalid) that names `option`.
int64_t parse_duration(std::string_view option, const std::string& text);

/// "0", "500MB", "1.5GB" (powers of 1000), "10GiB" (of 1024), "4096" or "4096B" → bytes. Throws Error(kInvalid) that
/// names `option`.
uint64_t parse_bytes(std::string_view option, const std::string& text);

/// "512 B", "3.2 MB": powers of 1000.
std::string bytes_text(uint64_t bytes);

}  // namespace biophony
