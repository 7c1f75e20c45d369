// Hashes of files that pipelines name, so that each file is read once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

namespace biophony {

/// SHA-256 of files by path, remembered as long as device, inode, size and times (nanoseconds) of the file are the
/// same: in this object, and for files of at least 1 MiB in the user's cache folder, so that the next process knows
/// them too. A file that changed less than two seconds before it was read isn't remembered, as the next change might
/// carry the same time. Any thread.
class FileHashes {
public:
    /// Throws Error(kRunFailed) where the file can't be read.
    std::string sha256(const std::filesystem::path& path);
    /// How many files were read for it; the others were remembered.
    size_t read() const;

private:
    struct Known {
        std::string stamp, sha256;
    };
    mutable std::mutex mutex_;
    std::map<std::string, Known> known_;
    size_t read_ = 0;
};

/// The one of this process.
FileHashes& file_hashes();

}  // namespace biophony
