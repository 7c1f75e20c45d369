// How much memory there is to have.
#pragma once

#include <filesystem>

namespace biophony {

/// Bytes that could be had now: of the machine, and of the control group (version 2) that this runs in, where both can
/// give up what they keep of files that were read. `root` is where /proc and /sys stand.
double free_memory(const std::filesystem::path& root = "/");

}  // namespace biophony
