// What a run leaves for people: results under the names of their nodes, and files that say what was done.
// docs/formats/run-directory.md is its format.
#pragma once

#include <fstream>
#include <string>
#include <string_view>

#include "base/files.hpp"
#include "base/json.hpp"
#include "pipeline/store.hpp"

namespace biophony {

/// Makes the folder where it isn't there; its canonical path. Throws Error(kInvalid) where it is neither empty nor an
/// earlier run's: everything below nodes/ is replaced.
fs::path open_run_directory(const fs::path& folder);
/// From here on the folder is a run's.
void mark_run_directory(const fs::path& folder);

/// Held while a run writes to a directory.
class RunLock {
public:
    /// Throws Error(kInvalid) where another process holds it.
    explicit RunLock(const fs::path& folder);
    ~RunLock();
    RunLock(const RunLock&) = delete;
    RunLock& operator=(const RunLock&) = delete;

private:
    int fd_ = -1;
};

/// The run's log: one JSON object a line, written as it happens.
class RunLog {
public:
    /// Writes to `file` from here on, and first what was told before. Throws Error(kRunFailed).
    void open(const fs::path& file);
    void line(std::string_view node, std::string_view event, std::string_view text, const std::string& time);
    /// Throws Error(kRunFailed) where a line couldn't be written.
    void check() const;

private:
    fs::path file_;
    std::ofstream out_;
    std::string before_;  ///< lines from before open()
    int problem_ = 0;     ///< errno of the first line that couldn't be written
};

/// Links the result's files into `target`, or copies them where the file system can't link; `target` then appears by
/// one rename. Does nothing where just these links are there. Any thread. Throws Error(kRunFailed).
void expose(const StoredResult& result, const fs::path& target);

/// Adds a node's metrics.json to `all`, and its figures as rows of metrics.csv: node, group, figure, value.
void add_metrics(const std::string& node, const Json& metrics, Json& all, std::string& rows);

/// A node's folder in the run directory: its id as one path component. Ids may hold any axis value, so what a component
/// can't hold is written as %XX, and a long one ends in its hash.
std::string folder_name(const std::string& id);

}  // namespace biophony
