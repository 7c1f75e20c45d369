#include "pipeline/file_hash.hpp"

#include <sys/stat.h>

#include <array>
#include <map>
#include <mutex>

#include "base/files.hpp"
#include "base/sha256.hpp"

namespace biophony {

std::string file_hash(const std::filesystem::path& path) {
    static std::mutex mutex;
    static std::map<std::array<long long, 7>, std::string> known;
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) throw_errno("read", path);
    const std::array<long long, 7> state = {static_cast<long long>(status.st_dev),
                                            static_cast<long long>(status.st_ino),
                                            status.st_size,
                                            status.st_mtim.tv_sec,
                                            status.st_mtim.tv_nsec,
                                            status.st_ctim.tv_sec,
                                            status.st_ctim.tv_nsec};
    {
        const std::lock_guard lock(mutex);
        if (const auto found = known.find(state); found != known.end()) return found->second;
    }
    std::string hash = sha256_file(path);
    const std::lock_guard lock(mutex);
    return known.emplace(state, std::move(hash)).first->second;
}

}  // namespace biophony
