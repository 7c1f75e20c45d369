// Hashes of the files that parameters name.
#pragma once

#include <filesystem>
#include <string>

namespace biophony {

/// SHA-256 of the file's content. A file that hasn't changed (device, inode, size, times) is read once per process,
/// however many nodes name it. Throws Error(kRunFailed). Any thread.
std::string file_hash(const std::filesystem::path& path);

}  // namespace biophony
