// Results by key: a folder per result, whole or not there.
//
//   <store>/objects/ab/abcdef…/      the result's files, read-only, and result.json: key record, digest, hashes, timing
//   <store>/tmp/<machine>~<process>/ results being made; left-overs of dead processes are removed
//   <store>/unsynced/<machine>~<process>   the boot, and the keys of results that may not be on the disk yet
//
// A result is written into tmp and renamed into place, so a kill at any moment leaves the old state or the new. Syncing
// follows behind, many results at a time. Where a power loss came in between, the next process that opens the store
// finds the list, compares those results with their hashes and removes what is damaged. (This trusts the file system to
// keep the order of its folders' changes, as journals do.) After settle() everything is on the disk.
// Several processes, of several machines too, may use one store: whoever renames first wins, and equal keys mean equal
// bytes.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "base/json.hpp"
#include "pipeline/node_type.hpp"

namespace biophony {

/// A finished result.
struct StoredResult {
    std::string key;
    fs::path folder;
    std::string digest;  ///< SHA-256 over the names and hashes of its files, those called *.local.json left out
    Json record;         ///< result.json
};

/// Any thread; several at once.
class Store {
public:
    /// Makes the folders and clears what dead processes left. Throws Error(kRunFailed).
    explicit Store(fs::path root);
    ~Store();  ///< settles, and tells no failure
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    const fs::path& root() const { return root_; }
    /// The result with this key, if its files are there with the sizes that were written.
    std::optional<StoredResult> find(const std::string& key) const;
    /// An empty folder to make a result in. Remove it, or give it to put().
    fs::path make_temporary() const;
    /// Makes `temporary` the result with this key ("" = the key is the hash of its content). `about` joins result.json.
    StoredResult put(const fs::path& temporary, std::string key, const Json& about) const;
    /// Compares every file with its hash. Throws Error(kRunFailed) that names the first that differs and what to do.
    void verify(const StoredResult& result) const;
    /// Waits until all that this object has put or found is on the disk. Throws Error(kRunFailed) where a result
    /// couldn't be synced; it is taken out of the store again.
    void settle() const;

private:
    class Syncing;
    bool intact(const StoredResult& result) const;
    /// Renames `temporary` to the result's folder; `result` becomes what is there where that is the same.
    void show(const fs::path& temporary, StoredResult& result) const;
    /// Sees to the results on a dead process's list in unsynced/.
    void take_over(const fs::path& list) const;
    fs::path object(const std::string& key) const;
    fs::path root_;
    std::unique_ptr<Syncing> syncing_;
};

}  // namespace biophony
