#include "plugins/library.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>

#include "base/file_hashes.hpp"
#include "base/schema.hpp"
#include "base/sha256.hpp"
#include "biophony/c/dataset.h"
#include "biophony/c/merger.h"
#include "plugins/elf.hpp"
#include "plugins/manifest.hpp"
#include "plugins/merger_traits.hpp"

#ifndef BPH_VERSION
#define BPH_VERSION ""
#endif

namespace biophony {

namespace {

TorchHooks torch_hooks;

std::string_view from_c(bph_str text) {
    return text.data == nullptr ? std::string_view() : std::string_view(text.data, text.size);
}
bph_str to_c(std::string_view text) {
    return {text.data(), text.size()};
}
std::string_view without_zeros(std::string_view text) {
    while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
    return text;
}

bool has_torch_tier(const PluginFile& file) {
    return std::any_of(file.items.begin(), file.items.end(), [](const ItemInfo& item) { return item.tier == "T"; });
}

/// What the host offers libraries. No services yet.
const bph_host* host_table() {
    static const bph_host host = {sizeof(bph_host), BPH_SPINE_VERSION, to_c(BPH_VERSION),
                                  [](const bph_host*, bph_str) -> const void* { return nullptr; }};
    return &host;
}

/// The dynamic linker's own words out of Boost's message, without the path that is told anyway.
std::string linker_text(const std::string& message, const fs::path& path) {
    std::string text = message;
    if (const size_t at = text.find("dlerror"); at != std::string::npos) {
        const size_t begin = text.find(": ", at);
        const size_t end = text.rfind("): ");
        if (begin != std::string::npos && end != std::string::npos && begin + 2 < end)
            text = text.substr(begin + 2, end - begin - 2);
    }
    if (const std::string prefix = path.string() + ": "; text.starts_with(prefix)) text.erase(0, prefix.size());
    return text;
}

struct Loaded {
    boost::dll::shared_library library;
    const bph_plugin* plugin = nullptr;
};

/// Never destroyed: threads, vtables and deleters of a plugin may be in use until the last instruction.
struct LoadedLibraries {
    std::mutex mutex;
    std::map<fs::path, Loaded> by_path;
    std::vector<boost::dll::shared_library> refused;  ///< stay mapped, too: their threads may run already
};
LoadedLibraries& loaded_libraries() {
    static auto* const libraries = new LoadedLibraries;
    return *libraries;
}

const bph_plugin* checked_entry(boost::dll::shared_library& library, const std::string& manifest) {
    if (!library.has(BPH_ENTRY_NAME))
        throw Refused{PluginState::kNotAPlugin, "it doesn't export the function " BPH_ENTRY_NAME};
    const bph_plugin* plugin = nullptr;
    try {
        plugin = library.get<const bph_plugin*(const bph_host*)>(BPH_ENTRY_NAME)(host_table());
    } catch (...) {
        throw Refused{PluginState::kIncompatible,
                      BPH_ENTRY_NAME " throws; nothing may be thrown across the C interface"};
    }
    if (plugin == nullptr)
        throw Refused{PluginState::kIncompatible,
                      fmt::format("it says that it can't work with this host (spine version {})", BPH_SPINE_VERSION)};
    if (plugin->spine_version != BPH_SPINE_VERSION)
        throw Refused{PluginState::kIncompatible,
                      fmt::format("spine version: found {}, expected {}", plugin->spine_version, BPH_SPINE_VERSION)};
    if (plugin->struct_size < sizeof(bph_plugin))
        throw Refused{PluginState::kIncompatible, fmt::format("its table bph_plugin has {} bytes, expected at least {}",
                                                              plugin->struct_size, sizeof(bph_plugin))};
    if (plugin->get_interface == nullptr)
        throw Refused{PluginState::kIncompatible, "its table bph_plugin has no get_interface"};
    if (without_zeros(from_c(plugin->manifest)) != without_zeros(manifest))
        throw Refused{PluginState::kBadManifest,
                      "the manifest that its table names is not the one in its section " BPH_MANIFEST_SECTION};
    return plugin;
}

}  // namespace

void set_torch_hooks(const TorchHooks& hooks) {
    torch_hooks = hooks;
}
std::string sha256_of_library(const fs::path& path) try { return file_hashes().sha256(path); } catch (const Error&) {
    return sha256_file(path);  // it is being replaced: what counts is told of the bytes that there are
}
bool torch_hooks_set() {
    return torch_hooks.open_torch != nullptr && torch_hooks.abi_mismatch != nullptr;
}

PluginFile read_library_file(const fs::path& path) {
    PluginFile file;
    file.path = path;
    const auto refuse = [&file](PluginState state, std::string reason) {
        file.state = state;
        file.reason = std::move(reason);
    };
    try {
        const ElfLibrary elf(path);
        if (!elf.foreign().empty()) return refuse(PluginState::kIncompatible, elf.foreign()), file;
        const std::optional<std::string> text = elf.section(BPH_MANIFEST_SECTION);
        if (!text)
            return refuse(PluginState::kNotAPlugin, "it has no section " BPH_MANIFEST_SECTION ", the manifest"), file;
        file.sha256 = sha256_of_library(path);

        std::vector<Diagnostic> problems;
        std::vector<std::string> notes;
        Manifest manifest = parse_manifest(*text, problems, notes);
        file.version = manifest.version;
        file.items = std::move(manifest.items);
        for (ItemInfo& item : file.items) {
            item.library = path;
            item.build = manifest.build.empty() ? file.sha256 : manifest.build;
        }
        if (!problems.empty()) {
            const bool wrong = std::any_of(problems.begin(), problems.end(),
                                           [](const Diagnostic& problem) { return problem.code == Code::kInvalid; });
            std::vector<std::string> lines;
            for (size_t i = 0; i < std::min<size_t>(problems.size(), 5); ++i) lines.push_back(problems[i].text());
            if (problems.size() > 5) lines.push_back(fmt::format("and {} more", problems.size() - 5));
            return refuse(wrong ? PluginState::kBadManifest : PluginState::kIncompatible,
                          fmt::format("{}", fmt::join(lines, "; "))),
                   file;
        }
        if (has_torch_tier(file) && !elf.section(BPH_ABI_SECTION))
            return refuse(PluginState::kBadManifest,
                          "its manifest has an item of tier T, but it has no section " BPH_ABI_SECTION
                          "; BIOPHONY_TORCH_PLUGIN() makes it"),
                   file;

        std::vector<std::string> others;
        bool has_entry = false;
        // The names that linkers add by themselves do no harm.
        const std::vector<std::string> harmless = {"_init", "_fini", "_edata", "_end", "__bss_start"};
        for (const std::string& name : elf.exported_symbols())
            if (name == BPH_ENTRY_NAME)
                has_entry = true;
            else if (std::find(harmless.begin(), harmless.end(), name) == harmless.end())
                others.push_back(name);
        if (!has_entry) return refuse(PluginState::kNotAPlugin, "it doesn't export the function " BPH_ENTRY_NAME), file;
        if (!others.empty())
            notes.push_back(fmt::format("it exports {} symbol{} beside " BPH_ENTRY_NAME
                                        " ({}{}), which may mix with those of other plugins; biophony_add_plugin() "
                                        "hides them",
                                        others.size(), others.size() == 1 ? "" : "s", others[0],
                                        others.size() == 1 ? "" : ", …"));
        file.reason = fmt::format("{}", fmt::join(notes, "; "));
    } catch (const Error& error) {
        refuse(PluginState::kNotAPlugin, error.message().text);
    }
    return file;
}

const bph_plugin* load_library(const PluginFile& file) {
    LoadedLibraries& libraries = loaded_libraries();
    const std::lock_guard lock(libraries.mutex);
    if (const auto found = libraries.by_path.find(file.path); found != libraries.by_path.end())
        return found->second.plugin;
    std::string manifest, abi;
    try {
        const ElfLibrary elf(file.path);
        if (!elf.foreign().empty()) throw Refused{PluginState::kIncompatible, elf.foreign()};
        manifest = elf.section(BPH_MANIFEST_SECTION).value_or("");
        abi = elf.section(BPH_ABI_SECTION).value_or("");
    } catch (const Error& error) {
        throw Refused{PluginState::kNotAPlugin, error.message().text};
    }
    if (has_torch_tier(file)) {
        if (!torch_hooks_set())
            throw Refused{PluginState::kMissingDependency, "it needs LibTorch, which this program doesn't offer"};
        try {
            if (const std::string table = torch_hooks.abi_mismatch(abi); !table.empty())
                throw Refused{PluginState::kIncompatible, table};
            torch_hooks.open_torch();
        } catch (const Error& error) {
            throw Refused{PluginState::kMissingDependency, error.message().text};
        }
    }
    Loaded loaded;
    try {
        // Now, not at the first call: a missing symbol is told here. Local and absolute, so that nothing mixes.
        loaded.library.load(fs::absolute(file.path), boost::dll::load_mode::rtld_now);
    } catch (const std::exception& error) {
        throw Refused{PluginState::kMissingDependency, linker_text(error.what(), file.path)};
    }
    try {
        loaded.plugin = checked_entry(loaded.library, manifest);
    } catch (const Refused&) {
        libraries.refused.push_back(std::move(loaded.library));
        throw;
    }
    return libraries.by_path.emplace(file.path, std::move(loaded)).first->second.plugin;
}

const void* item_table(const bph_plugin* plugin, const ItemInfo& item) {
    if (is_preset(item)) return nullptr;
    const void* table = plugin->get_interface(to_c(item.id), to_c(item.interface_id));
    if (table == nullptr)
        throw Refused{PluginState::kBadManifest, fmt::format("its manifest has {}, but the library has no {} for it",
                                                             item.name(), item.interface_id)};
    // Every table begins with its size; what a later revision appends may be missing.
    uint32_t size = 0;
    std::memcpy(&size, table, sizeof(size));
    const auto need = [&](size_t least) {
        if (size < least || size > 1 << 16)
            throw Refused{PluginState::kIncompatible,
                          fmt::format("the table {} of {} has {} bytes, expected at least {}", item.interface_id,
                                      item.name(), size, least)};
    };
    const auto need_functions = [&](bool set) {
        if (!set)
            throw Refused{PluginState::kIncompatible,
                          fmt::format("the table {} of {} lacks a function", item.interface_id, item.name())};
    };
    if (item.interface_id == BPH_DATASET_V0) {
        need(offsetof(bph_dataset_v0, read_samples));
        const auto* dataset = static_cast<const bph_dataset_v0*>(table);
        need_functions(dataset->create != nullptr && dataset->destroy != nullptr && dataset->describe != nullptr);
    } else if (item.interface_id == BPH_MERGER_V0) {
        need(offsetof(bph_merger_v0, observe_bytes));
        const auto* merger = static_cast<const bph_merger_v0*>(table);
        need_functions(merger->create != nullptr && merger->destroy != nullptr && merger->element != nullptr);
        const MergerTraits::Scope scope = merger_traits(item).scope;
        if (scope == MergerTraits::Scope::kMatrix) need_functions(merger->matrix != nullptr);
        if (scope == MergerTraits::Scope::kGlobal)
            need_functions(merger->observe_begin != nullptr && merger->observe != nullptr &&
                           merger->observe_join != nullptr && merger->observe_end != nullptr &&
                           merger->observe_destroy != nullptr);
    } else {
        // torch_tier::EncoderTable, whose header needs LibTorch.
        struct TorchTable {
            uint32_t struct_size;
            const void* factory;
        };
        need(sizeof(TorchTable));
        need_functions(static_cast<const TorchTable*>(table)->factory != nullptr);
    }
    return table;
}

void check_answers(const bph_plugin* plugin, const ItemInfo& item) {
    const auto must_not_know = [&](const std::string& id, const std::string& interface_id) {
        if (plugin->get_interface(to_c(id), to_c(interface_id)) != nullptr)
            throw Refused{
                PluginState::kIncompatible,
                fmt::format("asked for the interface '{}' of '{}', which doesn't exist, it answers; names must "
                            "match whole",
                            interface_id, id)};
    };
    must_not_know(item.id, item.interface_id + "x");
    must_not_know(item.id, item.interface_id.substr(0, item.interface_id.size() - 1));
    must_not_know(item.id + "x", item.interface_id);
    must_not_know("", item.interface_id);

    const Json properties = item.parameters.value("properties", Json::object());
    for (const auto& [name, property] : properties.items()) {
        // Nothing given: what is wrong then is the schema, or the default that was filled in.
        const Json alone = {{"type", "object"}, {"properties", {{name, property}}}};
        Json value = Json::object();
        std::vector<Diagnostic> problems;
        apply_schema(alone, value, "/" + item.name(), problems);
        if (!problems.empty())
            throw Refused{PluginState::kBadManifest,
                          fmt::format("the parameter '{}' of {}: {}{}", name, item.name(),
                                      problems[0].code == Code::kPlugin ? "" : "its default doesn't fit its schema: ",
                                      problems[0].message.text)};
    }
}

}  // namespace biophony
