#include "base/file_hashes.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "base/error.hpp"
#include "base/files.hpp"
#include "base/json.hpp"
#include "base/sha256.hpp"

namespace biophony {

namespace {

constexpr int64_t kLarge = 1 << 20;  // bytes; smaller files are read as quickly as a note about them

int64_t nanoseconds(const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

FileStamp stamp_of(const struct stat& status) {
    const int64_t modified = nanoseconds(status.st_mtim), changed = nanoseconds(status.st_ctim);
    return {fmt::format("{} {} {} {} {}", status.st_dev, status.st_ino, status.st_size, modified, changed),
            std::max(modified, changed)};
}

/// Where the hash of this file is kept between processes; empty where nothing can be kept.
fs::path note_of(const struct stat& status) {
    if (status.st_size < kLarge) return {};
    try {
        return cache_folder() / "hashes" / fmt::format("file-{}-{}.json", status.st_dev, status.st_ino);
    } catch (const fs::filesystem_error&) {
        return {};
    }
}

std::string recall(const fs::path& note, const std::string& stamp) try {
    std::error_code ignored;
    if (note.empty() || !fs::is_regular_file(note, ignored)) return {};
    const Json record = Json::parse(read_file(note), nullptr, false);
    if (!record.is_object() || record.value("stamp", Json()) != stamp) return {};
    const Json hash = record.value("sha256", Json());
    return hash.is_string() && hash.get_ref<const std::string&>().size() == 64 ? hash.get<std::string>() : "";
} catch (const Error&) {
    return {};
}

}  // namespace

FileStamp FileStamp::of(const fs::path& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? stamp_of(status) : FileStamp();
}

bool FileStamp::settled_at(int64_t time) const {
    return !text.empty() && time - newest >= kFileSettles;
}

int64_t file_clock() {
    timespec time{};
    ::clock_gettime(CLOCK_REALTIME, &time);
    return nanoseconds(time);
}

std::string FileHashes::sha256(const fs::path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) throw_errno("read", path);
    const FileStamp stamp = stamp_of(status);
    {
        const std::lock_guard lock(mutex_);
        const auto found = known_.find(path.string());
        if (found != known_.end() && found->second.stamp == stamp) return found->second.sha256;
    }
    const fs::path note = note_of(status);
    std::string hash = recall(note, stamp.text);
    const bool was_read = hash.empty();
    if (was_read) {
        const int64_t begin = file_clock();
        hash = sha256_file(path);
        struct stat after {};
        if (::stat(path.c_str(), &after) != 0 || after.st_ino != status.st_ino || after.st_size != status.st_size ||
            nanoseconds(after.st_mtim) != nanoseconds(status.st_mtim))
            throw Error(Code::kRunFailed, "was changed while it was being read", {.file = path.string()});
        // A new link to it changes a time, too, and not the file.
        if (!(stamp_of(after) == stamp) || !stamp.settled_at(begin)) {
            const std::lock_guard lock(mutex_);
            ++read_;
            return hash;
        }
        if (!note.empty()) try {
                write_file_atomically(note, Json{{"stamp", stamp.text}, {"sha256", hash}}.dump() + "\n");
            } catch (const Error&) {
                // It will be read again.
            }
    }
    const std::lock_guard lock(mutex_);
    read_ += was_read ? 1 : 0;
    known_[path.string()] = {stamp, hash};
    return hash;
}

void FileHashes::learn(const fs::path& path, const FileStamp& stamp, const std::string& sha256) {
    const std::lock_guard lock(mutex_);
    known_[path.string()] = {stamp, sha256};
}

size_t FileHashes::read() const {
    const std::lock_guard lock(mutex_);
    return read_;
}

FileHashes& file_hashes() {
    static FileHashes hashes;
    return hashes;
}

}  // namespace biophony
