#include "pipeline/store.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>
#include <tuple>

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

/// A list in unsynced/ begins with the boot and a time of the file system, in seconds since 1970.
std::string list_head(int64_t seconds) {
    return fmt::format("{}\n{:020}\n", this_boot(), seconds);
}

/// A list in unsynced/, as somebody left it.
struct LeftList {
    bool same_boot = false;
    int64_t since = 0;  ///< what appeared before is on the disk; 0 where the list doesn't tell
    std::vector<std::string> keys;

    explicit LeftList(const std::string& text) {
        std::istringstream lines(text);
        std::string boot, time;
        if (!std::getline(lines, boot) || !std::getline(lines, time)) return;
        constexpr size_t kTimeDigits = 20;
        if (time.size() != kTimeDigits || time.find_first_not_of("0123456789") != std::string::npos) return;
        same_boot = boot == this_boot() && boot != "unknown";
        since = std::strtoll(time.c_str(), nullptr, 10);
        for (std::string key; std::getline(lines, key);)
            if (key.size() == kKeyDigits) keys.push_back(std::move(key));
    }
};

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
        if (fd_ < 0) begin_list();
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
    bool settle(const std::function<bool()>& give_up) {
        std::unique_lock lock(mutex_);
        hurry_ = true;
        wake_.notify_all();
        while (!done_.wait_for(lock, kLooks, [this] { return waiting_.empty() && working_.empty(); }))
            if (give_up && give_up()) return false;
        hurry_ = false;
        if (!failure_) return true;
        const Error failure = *failure_;
        failure_.reset();
        throw failure;
    }

private:
    static constexpr std::chrono::milliseconds kGathers{250}, kLooks{50};

    /// The list's head is on the disk before the first result appears: it says since when results may be damaged. The
    /// keys that follow are for whoever goes on after a kill, which loses nothing that was written.
    void begin_list() {
        const int fd = ::open(list_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0) throw_errno("write", list_);
        try {
            write_head(fd);
            if (::fdatasync(fd) != 0) throw_errno("sync", list_);
            sync_path(list_.parent_path());
        } catch (...) {
            ::close(fd);
            throw;
        }
        fd_ = fd;
    }
    /// Everything is on the disk. Where this itself gets lost, more is compared than has to be.
    void begin_list_anew() {
        if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) != 0) throw_errno("write", list_);
        write_head(fd_);
    }
    void write_head(int fd) const {
        struct stat status {};
        if (::fstat(fd, &status) != 0) throw_errno("read", list_);
        write_all(fd, list_head(status.st_ctim.tv_sec), list_);
    }

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
            if (waiting_.empty() && announced_ == 0 && fd_ >= 0) {
                try {
                    begin_list_anew();
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
    in_use_ = std::make_shared<const StoreLock>(root_, StoreLock::Kind::kShared);
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root_ / "tmp", ignored))
        if (is_left_over(entry.path())) fs::remove_all(entry.path(), ignored);
    syncing_ = std::make_unique<Syncing>(root_);
    take_over();
}

Store::~Store() = default;

void Store::take_over() const {
    std::vector<fs::path> left;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root_ / "unsynced", ignored))
        if (is_left_over(entry.path())) left.push_back(entry.path());
    std::vector<fs::path> claimed;
    std::optional<int64_t> lost;
    for (const fs::path& list : left) {
        // One process alone sees to it, and where that is killed, the next one.
        const fs::path own = root_ / "unsynced" / own_name();
        if (::rename(list.c_str(), own.c_str()) != 0) continue;
        claimed.push_back(own);
        const LeftList found(read_file(own));
        if (!found.same_boot) {
            lost = std::min(lost.value_or(found.since), found.since);
            continue;
        }
        // A process that was killed has lost nothing.
        for (const std::string& key : found.keys)
            if (const fs::path folder = folder_of(key); fs::exists(folder, ignored)) {
                syncing_->announce(key);
                syncing_->add(key, folder);
            }
    }
    if (lost) remove_damaged(*lost);
    for (const fs::path& list : claimed) fs::remove(list, ignored);
}

void Store::remove_damaged(int64_t since) const {
    constexpr int64_t kBetween = 60;  // seconds between the last change of a result's files and its rename, at most
    std::error_code ignored;
    for (const auto& part : fs::directory_iterator(root_ / "objects", ignored))
        for (const auto& entry : fs::directory_iterator(part.path(), ignored)) {
            const fs::path& folder = entry.path();
            struct stat of_folder {
            }, of_record{};
            if (::stat(folder.c_str(), &of_folder) != 0) continue;
            const bool has_record = ::stat((folder / "result.json").c_str(), &of_record) == 0;
            if (has_record && std::max(of_folder.st_ctim.tv_sec, of_record.st_ctim.tv_sec) < since - kBetween) continue;
            if (const std::optional<StoredResult> result = find(folder.filename().string()); result && intact(*result))
                continue;
            const fs::path aside = root_ / "tmp" / own_name();
            if (::rename(folder.c_str(), aside.c_str()) == 0) fs::remove_all(aside, ignored);
        }
}

bool Store::settle(const std::function<bool()>& give_up) const {
    return syncing_->settle(give_up);
}

fs::path Store::folder_of(const std::string& key) const {
    return root_ / "objects" / key.substr(0, 2) / key;
}

std::optional<StoredResult> Store::find(const std::string& key) const {
    const fs::path folder = folder_of(key);
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

std::optional<StoredResult> Store::wait_for(const std::string& key, const Cancel* cancel) const {
    constexpr double kLongest = 30;  // seconds; folders that NFS has cached may be as old
    const auto begin = std::chrono::steady_clock::now();
    for (auto pause = std::chrono::milliseconds(20);; pause = std::min(2 * pause, std::chrono::milliseconds(1000))) {
        if (std::optional<StoredResult> found = find(key)) return found;
        if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() > kLongest)
            return std::nullopt;
        for (auto slept = std::chrono::milliseconds(0); slept < pause; slept += std::chrono::milliseconds(20)) {
            if (cancel != nullptr) cancel->check();
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        // Opening a folder asks the server for it again.
        const fs::path folder = folder_of(key), part = folder.parent_path();
        for (const fs::path& each : {part.parent_path(), part, folder}) {
            std::error_code ignored;
            for (fs::directory_iterator at(each, ignored), end; at != end; at.increment(ignored)) {
            }
        }
    }
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

    result.folder = folder_of(result.key);
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
        used(result);
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

void Store::used(const StoredResult& result) const {
    constexpr time_t kOften = 3600;  // seconds
    const fs::path path = result.folder / "result.json";
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || std::time(nullptr) - status.st_mtim.tv_sec < kOften) return;
    (void)::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // a store that can't be written to isn't pruned either
}

namespace {

/// "biophony run p.json (process 123)" for each process that holds the lock, as far as the system tells.
std::vector<std::string> holders_of(const fs::path& lock) {
    struct stat status {};
    std::vector<std::string> out;
    if (::stat(lock.c_str(), &status) != 0) return out;
    // "1: FLOCK  ADVISORY  READ 123 fd:01:4711 0 EOF"; the device isn't everywhere the one that stat() tells.
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
        std::istringstream fields(line);
        std::string number, kind, mode, access, pid, file;
        fields >> number >> kind >> mode >> access >> pid >> file;
        if (kind != "FLOCK" || !file.ends_with(":" + std::to_string(status.st_ino)) || pid == "0") continue;
        std::ifstream in("/proc/" + pid + "/cmdline");
        std::string command((std::istreambuf_iterator<char>(in)), {});
        std::replace(command.begin(), command.end(), '\0', ' ');
        while (command.ends_with(' ')) command.pop_back();
        out.push_back(command.empty() ? "process " + pid : fmt::format("{} (process {})", command, pid));
    }
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

bool is_key(const std::string& name) {
    return name.size() >= 3 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

StoreLock::StoreLock(const fs::path& root, Kind kind) {
    const fs::path path = root / "lock";
    const bool exclusive = kind == Kind::kExclusive;
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) {
        if (!exclusive) return;
        throw_errno("lock", path);
    }
    while (::flock(fd_, exclusive ? LOCK_EX | LOCK_NB : LOCK_SH) != 0) {
        if (errno == EINTR) continue;
        const int problem = errno;
        ::close(fd_);
        fd_ = -1;
        if (!exclusive) return;
        errno = problem;
        if (problem != EWOULDBLOCK) throw_errno("lock", path);
        const std::vector<std::string> holders = holders_of(path);
        throw Error(Code::kRunFailed,
                    fmt::format("the store is in use by {}; nothing was removed",
                                holders.empty() ? "another process" : fmt::format("{}", fmt::join(holders, ", "))),
                    {.file = root.string()});
    }
}

StoreLock::~StoreLock() {
    if (fd_ >= 0) ::close(fd_);
}

std::string StoreEntry::text(const char* name) const {
    if (!record.is_object()) return {};
    const Json value = record.value(name, Json());
    return value.is_string() ? value.get<std::string>() : std::string();
}

double StoreEntry::seconds() const {
    if (!record.is_object()) return 0;
    const Json value = record.value("seconds", Json());
    return value.is_number() ? value.get<double>() : 0;
}

std::vector<StoreEntry> list_store(const fs::path& root) {
    std::error_code problem;
    if (!fs::is_directory(root / "objects", problem))
        throw Error(Code::kInvalid,
                    fs::exists(root, problem) ? "is no store: it lacks the folder 'objects'" : "there is no such store",
                    {.file = root.string()});
    std::vector<StoreEntry> out;
    for (const auto& part : fs::directory_iterator(root / "objects")) {
        if (!part.is_directory()) continue;
        for (const auto& folder : fs::directory_iterator(part.path(), problem)) {
            StoreEntry entry{.key = folder.path().filename().string(), .folder = folder.path()};
            if (!is_key(entry.key) || entry.key.substr(0, 2) != part.path().filename()) continue;
            struct stat status {};
            if (::stat((entry.folder / "result.json").c_str(), &status) == 0 ||
                ::stat(entry.folder.c_str(), &status) == 0)
                entry.used = status.st_mtim.tv_sec;
            try {
                entry.record = Json::parse(read_file(entry.folder / "result.json"), nullptr, false);
                if (!entry.record.is_object()) entry.record = nullptr;
                if (entry.record.is_object())
                    for (const Json& file : entry.record.at("files")) entry.bytes += file.at("bytes").get<uint64_t>();
            } catch (const std::exception&) {
                entry.record = nullptr;
            }
            if (entry.record.is_null()) {
                entry.bytes = 0;
                for (const auto& file : fs::recursive_directory_iterator(entry.folder, problem))
                    if (file.is_regular_file()) entry.bytes += file.file_size();
            }
            out.push_back(std::move(entry));
        }
    }
    std::sort(out.begin(), out.end(), [](const StoreEntry& a, const StoreEntry& b) { return a.key < b.key; });
    return out;
}

std::vector<std::string> faults_of(const StoreEntry& entry) {
    std::error_code problem;
    if (!fs::exists(entry.folder / "result.json", problem)) return {"result.json is missing"};
    if (!entry.record.is_object()) return {"result.json can't be read"};
    std::vector<std::string> out;
    try {
        if (entry.record.at("key") != entry.key) out.push_back("result.json is that of another key");
        const Json files = entry.record.at("files");
        if (entry.record.at("digest") != digest_of(files, false)) out.push_back("the digest is not that of the files");
        for (const Json& file : files) {
            const std::string name = file.at("name");
            const fs::path path = entry.folder / name;
            if (!fs::is_regular_file(path, problem))
                out.push_back(name + " is missing");
            else if (const uint64_t bytes = fs::file_size(path), expected = file.at("bytes"); bytes != expected)
                out.push_back(fmt::format("{} has {} bytes, expected {}", name, bytes, expected));
            else if (sha256_file(path) != file.at("sha256"))
                out.push_back(name + " was changed");
        }
    } catch (const Json::exception&) {
        out.push_back("result.json lacks what it should have");
    } catch (const Error& error) {
        out.push_back(error.what());
    }
    return out;
}

std::vector<StoreEntry> choose_for_pruning(std::vector<StoreEntry> entries, std::optional<int64_t> before,
                                           std::optional<uint64_t> keep_bytes) {
    std::sort(entries.begin(), entries.end(), [](const StoreEntry& a, const StoreEntry& b) {
        return std::tie(a.used, a.key) < std::tie(b.used, b.key);
    });
    uint64_t left = 0;
    for (const StoreEntry& entry : entries) left += entry.bytes;
    size_t count = 0;
    for (; count < entries.size(); ++count) {
        const StoreEntry& entry = entries[count];
        if (!(before && entry.used < *before) && !(keep_bytes && left > *keep_bytes)) break;
        left -= entry.bytes;
    }
    entries.resize(count);
    return entries;
}

Removed remove_results(const fs::path& root, const std::vector<StoreEntry>& entries, bool dry_run) {
    std::optional<StoreLock> lock;
    if (!dry_run) lock.emplace(root, StoreLock::Kind::kExclusive);
    Removed removed;
    for (const StoreEntry& entry : entries) {
        std::error_code problem;
        // Between the look at the store and the lock a run may have used it, or another process removed it.
        struct stat status {};
        if (::stat((entry.folder / "result.json").c_str(), &status) == 0 && status.st_mtim.tv_sec > entry.used)
            continue;
        removed.bytes += entry.bytes;
        for (const auto& file : fs::recursive_directory_iterator(entry.folder, problem))
            if (file.is_regular_file(problem) && file.hard_link_count(problem) > 1)
                removed.held += file.file_size(problem);
        if (dry_run) continue;
        // First out of the way in one step, so that a kill leaves no half of it.
        make_folders(root / "tmp");
        const fs::path aside = root / "tmp" / (machine() + "~" + unique_name());
        if (::rename(entry.folder.c_str(), aside.c_str()) != 0) {
            if (errno == ENOENT) continue;
            throw_errno("remove", entry.folder);
        }
        fs::remove_all(aside, problem);
        if (problem) {
            errno = problem.value();
            throw_errno("remove", aside);
        }
    }
    return removed;
}

}  // namespace biophony
