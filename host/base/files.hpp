// Files that are whole or not there: everything is written under a temporary name, synced and renamed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace biophony {

namespace fs = std::filesystem;

/// The whole content; throws Error(kRunFailed) naming the file.
std::string read_file(const fs::path& path);

/// Writes `path` so that a reader, or a kill, sees the old file or the new one. Makes missing parent folders.
void write_file_atomically(const fs::path& path, std::string_view content);

/// Makes the file's bytes, or the folder's entries, durable. Throws Error(kRunFailed).
void sync_path(const fs::path& path);

/// While one lives, sync_path() syncs nothing that lies below `folder`, in this thread, and write_file_atomically()
/// writes there directly: whoever made the folder syncs and shows it as a whole.
class SyncLater {
public:
    explicit SyncLater(const fs::path& folder);
    ~SyncLater();
    SyncLater(const SyncLater&) = delete;
    SyncLater& operator=(const SyncLater&) = delete;

private:
    std::string before_;
};

/// Syncs every file below `folder`, then the folders, innermost first.
void sync_tree(const fs::path& folder);

/// A name no other process or call of this machine uses: "<pid>-<start time>-<count>".
std::string unique_name();

/// False where `name`, made by unique_name(), belongs to a process of this machine that has ended.
bool owner_is_alive(std::string_view name);

/// Throws Error(kRunFailed) with errno's text: "can't write: No space left on device".
[[noreturn]] void throw_errno(std::string_view what, const fs::path& path);

/// The user's cache folder: $BIOPHONY_CACHE, else $XDG_CACHE_HOME/biophony, else ~/.cache/biophony.
fs::path cache_folder();

}  // namespace biophony
