// Results by key: a folder per result, whole or not there.
//
//   <store>/objects/ab/abcdef…/      the result's files, read-only, and result.json: key record, digest, hashes, timing
//   <store>/tmp/<process>/           results being made; left-overs of dead processes are removed
//
// A result is written into tmp, synced, and renamed into place, so a kill at any moment leaves the old state or the
// new. Several processes may use one store: whoever renames first wins, and equal keys mean equal bytes.
#pragma once

#include <filesystem>
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

class Store {
public:
    /// Makes the folders and clears what dead processes left. Throws Error(kRunFailed).
    explicit Store(fs::path root);

    const fs::path& root() const { return root_; }
    /// The result with this key, if its files are there with the sizes that were written.
    std::optional<StoredResult> find(const std::string& key) const;
    /// An empty folder to make a result in. Remove it, or give it to put().
    fs::path make_temporary() const;
    /// Makes `temporary` the result with this key ("" = the key is the hash of its content). `about` joins result.json.
    StoredResult put(const fs::path& temporary, std::string key, const Json& about) const;
    /// Compares every file with its hash. Throws Error(kRunFailed) that names the first that differs and what to do.
    void verify(const StoredResult& result) const;

private:
    bool intact(const StoredResult& result) const;
    fs::path object(const std::string& key) const;
    fs::path root_;
};

}  // namespace biophony
