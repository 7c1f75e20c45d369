// Files as they were when somebody looked at them: what tells that one changed, and hashes that need no second reading.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

namespace biophony {

/// Nanoseconds after which the next change of a file is told by its times: they may be as coarse as a second.
inline constexpr int64_t kFileSettles = 2'000'000'000;

/// What a file looks like from outside. Equal stamps of a settled file mean that nobody wrote to it, also where size
/// and modification time were put back: no program sets the time of the last change.
struct FileStamp {
    std::string text;    ///< device, inode, size and times (nanoseconds); empty where there is no such file
    int64_t newest = 0;  ///< the later of its times, in nanoseconds since 1970

    static FileStamp of(const std::filesystem::path& path);
    /// Whether the file's times were old enough at `time` (nanoseconds since 1970) for the next change to be told by
    /// them: times of files may be as coarse as a second.
    bool settled_at(int64_t time) const;
    bool operator==(const FileStamp& other) const { return text == other.text; }
};
/// Now, as files' times count: nanoseconds since 1970.
int64_t file_clock();

/// SHA-256 of files by path, remembered as long as device, inode, size and times (nanoseconds) of the file are the
/// same: in this object, and for files of at least 1 MiB in the user's cache folder, so that the next process knows
/// them too. A file that changed less than two seconds before it was read isn't remembered, as the next change might
/// carry the same time. Any thread.
class FileHashes {
public:
    /// Throws Error(kRunFailed) where the file can't be read.
    std::string sha256(const std::filesystem::path& path);
    /// Takes a hash that is known of the file as `stamp` has it, so that it isn't read for it.
    void learn(const std::filesystem::path& path, const FileStamp& stamp, const std::string& sha256);
    /// How many files were read for it; the others were remembered.
    size_t read() const;

private:
    struct Known {
        FileStamp stamp;
        std::string sha256;
    };
    mutable std::mutex mutex_;
    std::map<std::string, Known> known_;
    size_t read_ = 0;
};

/// The one of this process.
FileHashes& file_hashes();

}  // namespace biophony
