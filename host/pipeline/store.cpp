#include "pipeline/store.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/sha256.hpp"

namespace biophony {

namespace {

void make_folders(const fs::path& path) {
    std::error_code problem;
    fs::create_directories(path, problem);
    if (problem) {
        errno = problem.value();
        throw_errno("make the folder", path);
    }
}

/// Name, size and hash of every file below the folder, sorted by name.
Json list_files(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    Json list = Json::array();
    for (const fs::path& file : files)
        list.push_back({{"name", file.lexically_relative(folder).string()},
                        {"bytes", fs::file_size(file)},
                        {"sha256", sha256_file(file)}});
    return list;
}

std::string digest_of(const Json& files, bool with_local) {
    Sha256 hash;
    for (const Json& file : files) {
        const std::string name = file.at("name");
        if (!with_local && name.ends_with(".local.json")) continue;
        hash.update(fmt::format("{} {}\n", name, file.at("sha256").get<std::string>()));
    }
    return hash.hex();
}

/// One line of /proc, or what a machine without it is called.
std::string line_of(const char* file) {
    try {
        std::string text = read_file(file);
        while (!text.empty() && text.back() == '\n') text.pop_back();
        return text;
    } catch (const Error&) {
        return "unknown";
    }
}

/// What process ids are told apart by where several machines, or containers, share a store.
const std::string& machine() {
    static const std::string name = [] {
        char host[256] = {};
        ::gethostname(host, sizeof host - 1);
        struct stat space {};
        ::stat("/proc/self/ns/pid", &space);
        std::string text = fmt::format("{}.{}", host, space.st_ino);
        std::replace_if(
            text.begin(), text.end(), [](char c) { return c == '/' || c == '~'; }, '_');
        return text;
    }();
    return name;
}

/// "<machine>~<process>-…", for what processes leave in a store.
std::string own_name() {
    return machine() + "~" + unique_name();
}

/// Whether nobody goes on with this entry of the store: its process has ended, or, on another machine, it is a week
/// old.
bool is_left_over(const fs::path& path) {
    const std::string name = path.filename().string();
    const size_t at = name.find('~');
    if (at == std::string::npos) return !owner_is_alive(name);
    if (std::string_view(name).substr(0, at) == machine()) return !owner_is_alive(name.substr(at + 1));
    std::error_code problem;
    const auto written = fs::last_write_time(path, problem);
    return !problem && fs::file_time_type::clock::now() - written > std::chrono::hours(24 * 7);
}

const std::string& this_boot() {
    static const std::string boot = line_of("/proc/sys/kernel/random/boot_id");
    return boot;
}

void write_all(int fd, std::string_view content, const fs::path& path) {
    while (!content.empty()) {
        const ssize_t put = ::write(fd, content.data(), content.size());
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) throw_errno("write", path);
        content.remove_prefix(static_cast<size_t>(put));
    }
}

constexpr size_t kKeyDigits = 64;

}  // namespace

/// Brings results to the disk, in a thread of its own.
class Store::Syncing {
public:
    explicit Syncing(fs::path root) : root_(std::move(root)), list_(root_ / "unsynced" / own_name()) {}
    ~Syncing() {
        {
            const std::lock_guard lock(mutex_);
            end_ = true;
        }
        wake_.notify_all();
        if (thread_.joinable()) thread_.join();
        if (fd_ < 0) return;
        ::close(fd_);
        std::error_code ignored;
        fs::remove(list_, ignored);
    }
    Syncing(const Syncing&) = delete;
    Syncing& operator=(const Syncing&) = delete;

    /// The result with this key is about to appear.
    void announce(const std::string& key) {
        const std::lock_guard lock(mutex_);
        if (fd_ < 0) {
            fd_ = ::open(list_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
            if (fd_ < 0) throw_errno("write", list_);
            write_all(fd_, this_boot() + "\n", list_);
        }
        write_all(fd_, key + "\n", list_);
        ++announced_;
    }
    /// It didn't.
    void retract() {
        const std::lock_guard lock(mutex_);
        --announced_;
    }
    /// The result with this key lies in `folder`.
    void add(const std::string& key, const fs::path& folder) {
        {
            const std::lock_guard lock(mutex_);
            --announced_;
            waiting_[key] = folder;
            if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
        }
        wake_.notify_all();
    }
    void settle() {
        std::unique_lock lock(mutex_);
        hurry_ = true;
        wake_.notify_all();
        done_.wait(lock, [this] { return waiting_.empty() && working_.empty(); });
        hurry_ = false;
        if (!failure_) return;
        const Error failure = *failure_;
        failure_.reset();
        throw failure;
    }

private:
    static constexpr std::chrono::milliseconds kGathers{250};

    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return end_ || !waiting_.empty(); });
            // While a file system syncs, it holds up others' changes: better seldom and much.
            wake_.wait_for(lock, kGathers, [this] { return end_ || hurry_; });
            if (waiting_.empty()) return;
            working_.swap(waiting_);
            lock.unlock();
            sync(working_);
            lock.lock();
            working_.clear();
            // Keys that are on the list for longer than they need cost a comparison after a power loss, no more.
            if (waiting_.empty() && announced_ == 0 && fd_ >= 0 && ::ftruncate(fd_, 0) == 0) {
                try {
                    write_all(fd_, this_boot() + "\n", list_);
                } catch (const Error& error) {
                    if (!failure_) failure_ = error;
                }
            }
            done_.notify_all();
        }
    }

    void sync(const std::map<std::string, fs::path>& batch) {
        // Many at once cost one pass over the file system's unwritten pages instead of a commit for each file.
        constexpr size_t kMany = 8;
        if (batch.size() >= kMany) {
            try {
                const int fd = ::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd < 0) throw_errno("sync", root_);
                const int result = ::syncfs(fd);
                const int problem = errno;
                ::close(fd);
                errno = problem;
                if (result != 0) throw_errno("sync", root_);
            } catch (const Error& error) {
                for (const auto& [key, folder] : batch) withdraw(folder, error);
            }
            return;
        }
        std::set<fs::path> parents;
        for (const auto& [key, folder] : batch) {
            try {
                sync_tree(folder);
                parents.insert(folder.parent_path());
            } catch (const std::exception& error) {
                std::error_code ignored;
                if (fs::exists(folder, ignored))  // else somebody has removed it
                    withdraw(folder, Error(Code::kRunFailed, error.what()));
            }
        }
        try {
            parents.insert(root_ / "objects");
            for (const fs::path& parent : parents) sync_path(parent);
        } catch (const Error& error) {
            for (const auto& [key, folder] : batch) withdraw(folder, error);
        }
    }
    void withdraw(const fs::path& folder, const Error& error) {
        const fs::path aside = root_ / "tmp" / own_name();
        std::error_code ignored;
        if (::rename(folder.c_str(), aside.c_str()) == 0) fs::remove_all(aside, ignored);
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = error;
    }

    fs::path root_, list_;
    int fd_ = -1;           ///< of the list
    size_t announced_ = 0;  ///< results that are on it and not yet in place
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::map<std::string, fs::path> waiting_, working_;
    std::optional<Error> failure_;
    bool end_ = false, hurry_ = false;
    std::thread thread_;
};

Store::Store(fs::path root) : root_(fs::absolute(std::move(root)).lexically_normal()) {
    for (const char* folder : {"objects", "tmp", "unsynced"}) make_folders(root_ / folder);
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root_ / "tmp", ignored))
        if (is_left_over(entry.path())) fs::remove_all(entry.path(), ignored);
    syncing_ = std::make_unique<Syncing>(root_);
    for (const auto& entry : fs::directory_iterator(root_ / "unsynced", ignored))
        if (is_left_over(entry.path())) take_over(entry.path());
}

Store::~Store() = default;

void Store::take_over(const fs::path& list) const {
    std::string text;
    try {
        text = read_file(list);
    } catch (const Error&) {
        return;  // another process was faster
    }
    const size_t first = text.find('\n');
    const bool same_boot = first != std::string::npos && std::string_view(text).substr(0, first) == this_boot();
    for (size_t at = first == std::string::npos ? text.size() : first + 1; at + kKeyDigits < text.size();
         at += kKeyDigits + 1) {
        const std::string key = text.substr(at, kKeyDigits);
        const fs::path folder = object(key);
        std::error_code ignored;
        if (!fs::exists(folder, ignored)) continue;
        // A process that was killed has lost nothing.
        const std::optional<StoredResult> result = find(key);
        if (!same_boot && (!result || !intact(*result))) {
            fs::remove_all(folder, ignored);
        } else {
            syncing_->announce(key);
            syncing_->add(key, folder);
        }
    }
    std::error_code ignored;
    fs::remove(list, ignored);
}

void Store::settle() const {
    syncing_->settle();
}

fs::path Store::object(const std::string& key) const {
    return root_ / "objects" / key.substr(0, 2) / key;
}

std::optional<StoredResult> Store::find(const std::string& key) const {
    const fs::path folder = object(key);
    std::error_code problem;
    if (!fs::exists(folder / "result.json", problem)) return std::nullopt;
    StoredResult result{.key = key, .folder = folder};
    try {
        result.record = read_json(folder / "result.json");
        result.digest = result.record.at("digest");
        for (const Json& file : result.record.at("files"))
            if (fs::file_size(folder / file.at("name").get<std::string>()) != file.at("bytes").get<uint64_t>())
                return std::nullopt;
    } catch (const std::exception&) {
        return std::nullopt;  // somebody changed it; it is made again
    }
    return result;
}

fs::path Store::make_temporary() const {
    const fs::path folder = root_ / "tmp" / own_name();
    make_folders(folder);
    return folder;
}

StoredResult Store::put(const fs::path& temporary, std::string key, const Json& about) const {
    const Json files = list_files(temporary);
    StoredResult result{.key = std::move(key), .digest = digest_of(files, false)};
    if (result.key.empty()) result.key = digest_of(files, true);
    result.record = about;
    result.record["format"] = "biophony-result/0";
    result.record["key"] = result.key;
    result.record["digest"] = result.digest;
    result.record["files"] = files;
    {
        const SyncLater later(temporary);
        write_file_atomically(temporary / "result.json", result.record.dump(2) + "\n");
    }
    for (const auto& entry : fs::recursive_directory_iterator(temporary))
        if (entry.is_regular_file() && ::chmod(entry.path().c_str(), 0444) != 0) throw_errno("protect", entry.path());

    result.folder = object(result.key);
    make_folders(result.folder.parent_path());
    syncing_->announce(result.key);
    try {
        show(temporary, result);
    } catch (...) {
        syncing_->retract();
        throw;
    }
    syncing_->add(result.key, result.folder);
    return result;
}

void Store::show(const fs::path& temporary, StoredResult& result) const {
    if (::rename(temporary.c_str(), result.folder.c_str()) == 0) return;
    if (errno != ENOTEMPTY && errno != EEXIST) throw_errno("rename to", result.folder);
    std::error_code ignored;
    // Another process was faster: equal keys mean equal bytes. If they aren't, what is there is damaged or of a build
    // that wasn't deterministic, and what was made now counts.
    if (std::optional<StoredResult> there = find(result.key);
        there && there->digest == result.digest && intact(*there)) {
        fs::remove_all(temporary, ignored);
        result = *std::move(there);
        return;
    }
    const fs::path aside = root_ / "tmp" / own_name();
    if (::rename(result.folder.c_str(), aside.c_str()) != 0) throw_errno("move away", result.folder);
    fs::remove_all(aside, ignored);
    if (::rename(temporary.c_str(), result.folder.c_str()) != 0) throw_errno("rename to", result.folder);
}

bool Store::intact(const StoredResult& result) const {
    try {
        verify(result);
        return true;
    } catch (const Error&) {
        return false;
    }
}

void Store::verify(const StoredResult& result) const {
    for (const Json& file : result.record.at("files")) {
        const fs::path path = result.folder / file.at("name").get<std::string>();
        const std::string expected = file.at("sha256"), found = sha256_file(path);
        if (found != expected)
            throw Error(Code::kRunFailed,
                        fmt::format("was changed since it was made: found SHA-256 {}…, expected {}…; remove the folder "
                                    "{} and run again",
                                    found.substr(0, 12), expected.substr(0, 12), result.folder.string()),
                        {.file = path.string()});
    }
}

}  // namespace biophony
