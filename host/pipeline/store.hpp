// Results by key: a folder per result, whole or not there.
//
//   <store>/objects/ab/abcdef…/      the result's files, read-only, and result.json: key record, digest, hashes, timing
//   <store>/tmp/<machine>~<process>/ results being made; left-overs of dead processes are removed
//   <store>/unsynced/<machine>~<process>   the boot, a time, and the keys of results that may not be on the disk yet
//   <store>/lock                     held shared by every Store, exclusively while results are removed
//
// A result is written into tmp and renamed into place, so a kill at any moment leaves the old state or the new. Syncing
// follows behind, many results at a time. Before a process shows its first result, the head of its list is on the disk:
// the boot, and the time from which on results may be unsynced. After a power loss the next process that opens the
// store finds it, compares all results since then with their hashes and removes what is damaged. (This trusts the file
// system to keep the order of its folders' changes, as journals do.) After settle() everything is on the disk. Several
// processes, of several machines too, may use one store: whoever renames first wins, and equal keys mean equal bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "base/json.hpp"
#include "base/progress.hpp"
#include "pipeline/node_type.hpp"

namespace biophony {

/// A finished result.
struct StoredResult {
    std::string key;
    fs::path folder;
    std::string digest;  ///< SHA-256 over the names and hashes of its files, those called *.local.json left out
    Json record;         ///< result.json
};

/// A store's lock file, held until the end of this object or of the process.
class StoreLock {
public:
    enum class Kind { kShared, kExclusive };
    /// Shared: waits for who removes results; where the file system has no locks, or the store can't be written to, it
    /// goes on without. Exclusive: throws Error(kRunFailed) that names the processes that hold it.
    StoreLock(const fs::path& root, Kind kind);
    ~StoreLock();
    StoreLock(const StoreLock&) = delete;
    StoreLock& operator=(const StoreLock&) = delete;

private:
    int fd_ = -1;
};

/// Any thread; several at once.
class Store {
public:
    /// Makes the folders and clears what dead processes left. Until its end no result is removed by another process.
    /// Throws Error(kRunFailed).
    explicit Store(fs::path root);
    ~Store();  ///< settles, and tells no failure
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    const fs::path& root() const { return root_; }
    /// Where the result with this key is, or would be.
    fs::path folder_of(const std::string& key) const;
    /// The result with this key, if its files are there with the sizes that were written.
    std::optional<StoredResult> find(const std::string& key) const;
    /// The same for a result that another machine has just made: a network's file system may show it late, so this
    /// looks for up to 30 seconds. Throws Error(kCancelled). `cancel` may be null.
    std::optional<StoredResult> wait_for(const std::string& key, const Cancel* cancel) const;
    /// An empty folder to make a result in. Remove it, or give it to put().
    fs::path make_temporary() const;
    /// Makes `temporary` the result with this key ("" = the key is the hash of its content). `about` joins result.json.
    StoredResult put(const fs::path& temporary, std::string key, const Json& about) const;
    /// Compares every file with its hash. Throws Error(kRunFailed) that names the first that differs and what to do.
    void verify(const StoredResult& result) const;
    /// Waits until all that this object has put or found is on the disk; false where `give_up`, asked meanwhile, says
    /// so. Throws Error(kRunFailed) where a result couldn't be synced; it is taken out of the store again.
    bool settle(const std::function<bool()>& give_up = nullptr) const;
    /// Notes that the result was used now, for pruning: the time of its result.json, set once an hour at most.
    void used(const StoredResult& result) const;

private:
    class Syncing;
    bool intact(const StoredResult& result) const;
    /// Renames `temporary` to the result's folder; `result` becomes what is there where that is the same.
    void show(const fs::path& temporary, StoredResult& result) const;
    /// Sees to the lists of dead processes in unsynced/.
    void take_over() const;
    /// Compares the results that appeared from then on with their hashes, and removes those that differ.
    void remove_damaged(int64_t since) const;
    fs::path root_;
    std::unique_ptr<Syncing> syncing_;
    std::shared_ptr<const StoreLock> in_use_;
};

/// A result as the store's keeper sees it.
struct StoreEntry {
    std::string key;
    fs::path folder;
    Json record;         ///< result.json; null where it is missing or can't be read
    uint64_t bytes = 0;  ///< of its files
    int64_t used = 0;    ///< when it was last used or made, in seconds since 1970

    std::string text(const char* name) const;  ///< of the record: "node", "type"; empty where there is none
    double seconds() const;                    ///< how long it took; 0 where that isn't known
};

/// All results of a store, by key. Writes nothing and holds no lock, so results may come and go meanwhile. Throws
/// Error(kInvalid) where the folder is no store.
std::vector<StoreEntry> list_store(const fs::path& root);

/// What is wrong with a result: missing and changed files, an unreadable result.json; empty where nothing is. Reads all
/// of its bytes.
std::vector<std::string> faults_of(const StoreEntry& entry);

/// What removing results freed.
struct Removed {
    uint64_t bytes = 0;  ///< of the results
    uint64_t held = 0;   ///< of these, what stays on the disk, because run directories link the files
};

/// Removes results whole. Throws Error(kRunFailed) where a process uses the store. `dry_run` = only says what would be.
Removed remove_results(const fs::path& root, const std::vector<StoreEntry>& entries, bool dry_run);

/// Which results prune takes: those last used before `before` (seconds since 1970), then the least recently used ones
/// until the others have at most `keep_bytes`.
std::vector<StoreEntry> choose_for_pruning(std::vector<StoreEntry> entries, std::optional<int64_t> before,
                                           std::optional<uint64_t> keep_bytes);

}  // namespace biophony
