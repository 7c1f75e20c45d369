// What plugin libraries there are, what is in them, and why one was refused.
//
// Inspection has three steps: read the manifest from the file, executing nothing; load it in a child process with a
// time and memory limit, once per content and host build; load it here when a pipeline needs it. Loaded libraries are
// held by a registry that is never destroyed: nothing is ever unloaded.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/json.hpp"

namespace biophony {

namespace fs = std::filesystem;

/// One thing a library offers, as its manifest tells it.
struct ItemInfo {
    std::string kind;     ///< "encoder", "dataset", "merger"
    std::string id;       ///< "beats"
    std::string version;  ///< of the item, else of the library
    std::string title;
    std::string summary;
    std::string licence;
    std::string interface_id;  ///< "biophony.dataset/0"
    std::string tier;          ///< "S" or "T"
    Json parameters;           ///< JSON Schema of its parameters; an object
    Json raw;                  ///< the item as it stands in the manifest
    std::string build;         ///< identity of the sources it was built from: 64 hex digits
    fs::path library;          ///< absolute

    std::string name() const { return kind + ":" + id; }
};

enum class PluginState {
    kOk,
    kNotAPlugin,         ///< no ELF library, truncated, or without the section "bph_meta" or the entry function
    kBadManifest,        ///< the section is there, but not what it should hold
    kIncompatible,       ///< spine version, interface or ABI block differ; reason has the table of fields
    kMissingDependency,  ///< the linker can't load it; reason has its text
    kCrashed,            ///< ended the probing process; reason names the signal or status
    kTimedOut,           ///< the probing process had to be killed
    kDuplicate,          ///< every item is offered by an earlier library
};
/// "ok", "not a plugin", … as `biophony plugins` prints it.
std::string_view to_string(PluginState state);

/// What is known of one file that was looked at.
struct PluginFile {
    fs::path path;
    std::string sha256;
    std::string version;
    PluginState state = PluginState::kOk;
    std::string reason;  ///< empty where ok; warnings (a duplicate id) may stand beside kOk
    std::vector<ItemInfo> items;
};

/// The folders to search, in order: `from_command_line`, BIOPHONY_PLUGIN_PATH, the user's folder
/// ($XDG_DATA_HOME/biophony/plugins), the installed folder beside the executable. Never the current folder.
/// Throws Error(kInvalid) where a folder of the command line is missing.
std::vector<fs::path> plugin_folders(const std::vector<fs::path>& from_command_line);

class Registry {
public:
    /// Looks at every *.so of the folders, sorted by name within a folder. `probe` = also load each in a child process
    /// (results are kept in the cache folder by content and host build).
    explicit Registry(const std::vector<fs::path>& folders, bool probe = true);

    /// A registry of files that were looked at before; nothing is read. For tests, and for checks without a disk.
    static Registry of(std::vector<PluginFile> files);

    /// Looks at one file alone, for `inspect FILE`.
    static PluginFile look_at(const fs::path& file, bool probe = true);

    const std::vector<PluginFile>& files() const { return files_; }
    const std::vector<fs::path>& folders() const { return folders_; }
    /// All usable items of a kind ("" = all), sorted by name.
    std::vector<const ItemInfo*> items(std::string_view kind = {}) const;
    const ItemInfo* find(std::string_view kind, std::string_view id) const;
    /// The item called "kind:id". Throws Error(kPlugin): unknown kind or id (nearest name, folders searched), or
    /// refused (file and reason).
    const ItemInfo& require(std::string_view name) const;

    /// Loads the item's library into this process (once, for good) and returns its interface table; null for a preset.
    /// Throws Error(kPlugin). [any thread; loads one at a time]
    static const void* load(const ItemInfo& item);

private:
    Registry() = default;

    std::vector<fs::path> folders_;
    std::vector<PluginFile> files_;
};

/// How libraries are probed. The running program is the one that probes, so it has to answer `probe FILE` by calling
/// probe_main(); a program that can't, such as a test, names another here. Before a Registry is made. [main]
struct ProbeOptions {
    fs::path executable = "/proc/self/exe";
    double seconds = 10;  ///< a library that isn't loaded by then is refused
};
void set_probe_options(const ProbeOptions& options);

/// `biophony probe FILE`: loads the library in this process, writes {"ok": true} or {"state": "…", "error": "…"} to
/// standard output and ends the process: status 0 where the library can be used, else 3.
[[noreturn]] int probe_main(const fs::path& file);

/// The torch library's facts, which tier T needs: filled in by the application before a Registry is made.
/// `open_torch` makes LibTorch's symbols available to plugins that are loaded afterwards; `abi_mismatch` compares the
/// bytes of a plugin's section "bph_abi" with the host's and returns an empty text or the table of fields.
struct TorchHooks {
    void (*open_torch)() = nullptr;
    std::string (*abi_mismatch)(std::string_view abi_section) = nullptr;
};
void set_torch_hooks(const TorchHooks& hooks);

}  // namespace biophony
