#include "base/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.hpp"

namespace biophony {

namespace {

/// The start time of a process in clock ticks since boot, or empty where there is none: field 22 of /proc/PID/stat.
/// With the process id it tells a process from a later one that got the same id.
std::string start_time(const std::string& pid) {
    std::ifstream in("/proc/" + pid + "/stat");
    std::stringstream text;
    text << in.rdbuf();
    const std::string stat = text.str();
    const size_t end_of_name = stat.rfind(')');
    if (end_of_name == std::string::npos) return {};
    std::istringstream fields(stat.substr(end_of_name + 1));
    std::string field;
    for (int i = 3; i <= 22; ++i) fields >> field;
    return field;
}

/// The folder of the SyncLater that lives in this thread, with a slash at its end; empty = none.
thread_local std::string later_folder;

bool is_synced_later(const fs::path& path) {
    return !later_folder.empty() && (path.string() + '/').starts_with(later_folder);
}

}  // namespace

SyncLater::SyncLater(const fs::path& folder) : before_(std::move(later_folder)) {
    later_folder = folder.string() + '/';
}
SyncLater::~SyncLater() {
    later_folder = std::move(before_);
}

void throw_errno(std::string_view what, const fs::path& path) {
    throw Error(Code::kRunFailed, fmt::format("can't {}: {}", what, std::strerror(errno)), {.file = path.string()});
}

std::string read_file(const fs::path& path) {
    std::error_code problem;
    if (fs::is_directory(path, problem))
        throw Error(Code::kRunFailed, "is a folder, expected a file", {.file = path.string()});
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw_errno("read", path);
    std::string content;
    char buffer[1 << 16];
    for (;;) {
        const ssize_t got = ::read(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            ::close(fd);
            throw_errno("read", path);
        }
        if (got == 0) break;
        content.append(buffer, static_cast<size_t>(got));
    }
    ::close(fd);
    return content;
}

void sync_path(const fs::path& path) {
    if (is_synced_later(path)) return;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw_errno("sync", path);
    const int result = ::fsync(fd);
    ::close(fd);
    if (result != 0) throw_errno("sync", path);
}

void sync_tree(const fs::path& folder) {
    for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.is_symlink()) continue;
        if (entry.is_directory())
            sync_tree(entry.path());
        else
            sync_path(entry.path());
    }
    sync_path(folder);
}

std::string unique_name() {
    static std::atomic<unsigned> count{0};
    // A process that was forked without exec asks for itself.
    static const std::pair<pid_t, std::string> first{::getpid(), start_time(std::to_string(::getpid()))};
    const pid_t pid = ::getpid();
    return fmt::format("{}-{}-{}", pid, pid == first.first ? first.second : start_time(std::to_string(pid)), count++);
}

bool owner_is_alive(std::string_view name) {
    const size_t first = name.find('-');
    const size_t second = name.find('-', first == std::string_view::npos ? first : first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) return false;
    const std::string pid(name.substr(0, first));
    return start_time(pid) == name.substr(first + 1, second - first - 1);
}

void write_file_atomically(const fs::path& path, std::string_view content) {
    if (path.has_parent_path()) {
        std::error_code problem;
        fs::create_directories(path.parent_path(), problem);
        if (problem) {
            errno = problem.value();
            throw_errno("make the folder", path.parent_path());
        }
    }
    // Of a folder that is synced as a whole nothing is seen before.
    const bool later = is_synced_later(path);
    const fs::path temporary = later ? path : fs::path(path.string() + ".tmp-" + unique_name());
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | (later ? O_TRUNC : O_EXCL) | O_CLOEXEC, 0644);
    if (fd < 0) throw_errno("write", temporary);
    auto fail = [&](std::string_view what) {
        const int problem = errno;
        ::close(fd);
        ::unlink(temporary.c_str());
        errno = problem;
        throw_errno(what, path);
    };
    size_t done = 0;
    while (done < content.size()) {
        const ssize_t put = ::write(fd, content.data() + done, content.size() - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail("write");
        done += static_cast<size_t>(put);
    }
    if (!later && ::fsync(fd) != 0) fail("sync");
    if (::close(fd) != 0) {
        ::unlink(temporary.c_str());
        throw_errno("write", path);
    }
    if (later) return;
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
        const int problem = errno;
        ::unlink(temporary.c_str());
        errno = problem;
        throw_errno("rename to", path);
    }
    sync_path(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

fs::path cache_folder() {
    auto from = [](const char* name) {
        const char* value = std::getenv(name);
        return fs::path(value == nullptr ? "" : value);
    };
    if (const fs::path own = from("BIOPHONY_CACHE"); !own.empty()) return own;
    if (const fs::path base = from("XDG_CACHE_HOME"); !base.empty()) return base / "biophony";
    if (const fs::path home = from("HOME"); !home.empty()) return home / ".cache" / "biophony";
    return fs::temp_directory_path() / fmt::format("biophony-{}", ::getuid());
}

}  // namespace biophony
