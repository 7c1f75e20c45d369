#include "plugins/registry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "base/file_hashes.hpp"
#include "base/nearest.hpp"
#include "plugins/library.hpp"
#include "plugins/manifest.hpp"
#include "plugins/probe.hpp"

namespace biophony {

namespace {

/// Sorted names of what a folder holds; empty where it isn't there.
std::vector<fs::path> entries(const fs::path& folder) {
    std::vector<fs::path> out;
    std::error_code problem;
    for (fs::directory_iterator at(folder, problem), end; !problem && at != end; at.increment(problem))
        out.push_back(at->path());
    std::sort(out.begin(), out.end());
    return out;
}

/// Beside the executable: prefix/lib*/biophony/plugins (also below a folder for the machine, as Debian has it), and
/// plugins in a build tree.
std::vector<fs::path> installed_folders() {
    std::error_code problem;
    const fs::path executable = fs::read_symlink("/proc/self/exe", problem);
    if (problem) return {};
    const fs::path prefix = executable.parent_path().parent_path();
    const fs::path below = fs::path("biophony") / "plugins";
    std::vector<fs::path> libraries;
    for (const fs::path& folder : entries(prefix))
        if (folder.filename().string().starts_with("lib")) libraries.push_back(folder);
    for (const fs::path& folder : entries(prefix / "lib")) libraries.push_back(folder);
    std::vector<fs::path> out;
    for (const fs::path& folder : libraries)
        if (fs::is_directory(folder / below, problem)) out.push_back(folder / below);
    if (out.empty()) out.push_back(prefix / "lib" / below);
    if (fs::is_directory(prefix / "plugins", problem)) out.push_back(prefix / "plugins");
    return out;
}

PluginFile look(const fs::path& path, bool probed) {
    PluginFile file = read_library_file(path);
    const bool torch =
        std::any_of(file.items.begin(), file.items.end(), [](const ItemInfo& item) { return item.tier == "T"; });
    if (probed && file.state == PluginState::kOk && (!torch || torch_hooks_set())) probe(file);
    return file;
}

void add_note(PluginFile& file, const std::string& note) {
    file.reason += (file.reason.empty() ? "" : "; ") + note;
}

/// Takes out of `file` the items that an earlier library has.
void refuse_duplicates(PluginFile& file, const std::vector<PluginFile>& earlier) {
    if (file.state != PluginState::kOk) return;
    std::vector<ItemInfo> kept;
    std::string reason;
    for (ItemInfo& item : file.items) {
        const PluginFile* first = nullptr;
        for (const PluginFile& other : earlier)
            if (other.state == PluginState::kOk &&
                std::any_of(other.items.begin(), other.items.end(),
                            [&](const ItemInfo& theirs) { return theirs.name() == item.name(); })) {
                first = &other;
                break;
            }
        if (first == nullptr)
            kept.push_back(item);
        else
            reason += fmt::format("{}{} is taken from {}, which comes first", reason.empty() ? "" : "; ", item.name(),
                                  first->path.string());
    }
    if (reason.empty()) return;
    add_note(file, reason);
    if (kept.empty())
        file.state = PluginState::kDuplicate;
    else
        file.items = std::move(kept);
}

}  // namespace

std::string_view to_string(PluginState state) {
    switch (state) {
        case PluginState::kOk: return "ok";
        case PluginState::kNotAPlugin: return "not a plugin";
        case PluginState::kBadManifest: return "bad manifest";
        case PluginState::kIncompatible: return "incompatible";
        case PluginState::kMissingDependency: return "missing dependency";
        case PluginState::kCrashed: return "crashed";
        case PluginState::kTimedOut: return "timed out";
        case PluginState::kDuplicate: return "duplicate";
    }
    return "unknown";
}

std::vector<fs::path> plugin_folders(const std::vector<fs::path>& from_command_line) {
    std::vector<fs::path> out;
    const auto add = [&out](const fs::path& folder) {
        std::error_code problem;
        fs::path real = fs::weakly_canonical(fs::absolute(folder), problem);
        if (problem) real = fs::absolute(folder);
        if (std::find(out.begin(), out.end(), real) == out.end()) out.push_back(real);
    };
    for (const fs::path& folder : from_command_line) {
        std::error_code problem;
        if (!fs::is_directory(folder, problem))
            throw Error(Code::kInvalid, fmt::format("--plugin-path: there is no folder '{}'", folder.string()));
        add(folder);
    }
    if (const char* path = std::getenv("BIOPHONY_PLUGIN_PATH"); path != nullptr) {
        std::string_view rest = path;
        while (!rest.empty()) {
            const size_t end = std::min(rest.find(':'), rest.size());
            if (end > 0) add(rest.substr(0, end));  // an empty entry is not the current folder
            rest.remove_prefix(std::min(end + 1, rest.size()));
        }
    }
    const char* data = std::getenv("XDG_DATA_HOME");
    const char* home = std::getenv("HOME");
    if (data != nullptr && *data == '/')
        add(fs::path(data) / "biophony" / "plugins");
    else if (home != nullptr && *home == '/')
        add(fs::path(home) / ".local" / "share" / "biophony" / "plugins");
    for (const fs::path& folder : installed_folders()) add(folder);
    return out;
}

Registry::Registry(const std::vector<fs::path>& folders, bool probe) : folders_(folders) {
    std::set<fs::path> seen;  // a link to a library is no second library
    for (const fs::path& folder : folders_) {
        for (const fs::path& path : entries(fs::absolute(folder))) {
            if (path.extension() != ".so") continue;
            std::error_code problem;
            if (const fs::path real = fs::canonical(path, problem); !problem && !seen.insert(real).second) continue;
            PluginFile file = look(path, probe);
            refuse_duplicates(file, files_);
            files_.push_back(std::move(file));
        }
    }
}

Registry Registry::of(std::vector<PluginFile> files) {
    Registry registry;
    registry.files_ = std::move(files);
    return registry;
}

PluginFile Registry::look_at(const fs::path& file, bool probe) {
    return look(fs::absolute(file), probe);
}

std::vector<const ItemInfo*> Registry::items(std::string_view kind) const {
    std::vector<const ItemInfo*> out;
    for (const PluginFile& file : files_)
        if (file.state == PluginState::kOk)
            for (const ItemInfo& item : file.items)
                if (kind.empty() || item.kind == kind) out.push_back(&item);
    std::sort(out.begin(), out.end(), [](const ItemInfo* a, const ItemInfo* b) { return a->name() < b->name(); });
    return out;
}

const ItemInfo* Registry::find(std::string_view kind, std::string_view id) const {
    for (const PluginFile& file : files_)
        if (file.state == PluginState::kOk)
            for (const ItemInfo& item : file.items)
                if (item.kind == kind && item.id == id) return &item;
    return nullptr;
}

const ItemInfo& Registry::require(std::string_view name) const {
    std::vector<std::string> kinds;
    for (const KnownInterface& known : known_interfaces()) kinds.emplace_back(known.kind);
    const size_t colon = name.find(':');
    const std::string_view kind = name.substr(0, std::min(colon, name.size()));
    if (colon == std::string_view::npos)
        throw Error(Code::kPlugin, fmt::format("found '{}', expected a kind and an id, such as dataset:table", name));
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end())
        throw Error(Code::kPlugin,
                    with_nearest(fmt::format("unknown kind of plugin '{}' in '{}'", kind, name), kind, kinds));
    const std::string_view id = name.substr(colon + 1);
    if (const ItemInfo* item = find(kind, id); item != nullptr) return *item;
    for (const PluginFile& file : files_)
        if (file.state != PluginState::kOk && file.state != PluginState::kDuplicate)
            for (const ItemInfo& item : file.items)
                if (item.name() == name)
                    throw Error(Code::kPlugin, fmt::format("{} was refused: {}: {}: {}", name, file.path.string(),
                                                           to_string(file.state), file.reason));
    std::vector<std::string> ids, searched;
    for (const ItemInfo* item : items(kind)) ids.push_back(item->id);
    for (const fs::path& folder : folders_) {
        std::error_code problem;
        searched.push_back(folder.string() + (fs::is_directory(folder, problem) ? "" : " (not there)"));
    }
    const auto refused = std::count_if(files_.begin(), files_.end(), [](const PluginFile& file) {
        return file.state != PluginState::kOk && file.items.empty();
    });
    Message message = with_nearest(fmt::format("there is no {} '{}'", kind, id), id, ids);
    if (message.nearest.empty() && message.expected.empty() && !ids.empty())
        message += "; `biophony plugins` lists those there are";
    if (!searched.empty()) message += fmt::format("; searched {}", fmt::join(searched, ", "));
    if (refused > 0)
        message += fmt::format("; {} file{} there {} refused, see `biophony plugins`", refused, refused == 1 ? "" : "s",
                               refused == 1 ? "was" : "were");
    throw Error(Code::kPlugin, message);
}

const void* Registry::load(const ItemInfo& item) {
    // Each stage of each node asks again; a file that nobody touched isn't read again.
    struct Loaded {
        FileStamp file;
        const void* table = nullptr;
    };
    using Key = std::tuple<std::string, std::string, std::string, std::string>;
    static std::mutex mutex;
    static std::map<Key, Loaded> loaded;
    const Key key = {item.library.string(), item.name(), item.interface_id, item.build};
    const int64_t begin = file_clock();
    const FileStamp stamp = FileStamp::of(item.library);
    {
        const std::lock_guard lock(mutex);
        const auto found = loaded.find(key);
        if (found != loaded.end() && !stamp.text.empty() && found->second.file == stamp) return found->second.table;
    }
    const PluginFile file = read_library_file(item.library);
    const auto refuse = [&item](const std::string& why) {
        throw Error(Code::kPlugin, fmt::format("{}: {}", item.library.string(), why), {.plugin = item.name()});
    };
    if (file.state != PluginState::kOk) refuse(fmt::format("{}: {}", to_string(file.state), file.reason));
    if (std::none_of(file.items.begin(), file.items.end(), [&item](const ItemInfo& now) {
            return now.name() == item.name() && now.interface_id == item.interface_id && now.build == item.build;
        }))
        refuse("the file changed since it was looked at; run again");
    try {
        const void* table = item_table(load_library(file), item);
        const std::lock_guard lock(mutex);
        if (stamp.settled_at(begin)) loaded[key] = {stamp, table};
        return table;
    } catch (const Refused& refused) {
        refuse(fmt::format("{}: {}", to_string(refused.state), refused.reason));
    }
    return nullptr;
}

}  // namespace biophony
