// Looking at a library's file, and loading it: what the registry, the probing process and `load` share.
#pragma once

#include <filesystem>
#include <string>

#include "biophony/c/spine.h"
#include "plugins/registry.hpp"

namespace biophony {

/// Why a library can't be used; caught within host/plugins.
struct Refused {
    PluginState state;
    std::string reason;
};

/// Reads the manifest from the file and executes nothing. Never throws for what is wrong with the file: state and
/// reason say it. `build` of an item without one in the manifest is the hash of the file.
PluginFile read_library_file(const std::filesystem::path& path);

/// Loads the library of a file that read_library_file() found good, once per process and for good, and checks what its
/// entry function returns. For tier T the ABI block is compared before and LibTorch opened first. Throws Refused.
/// [any thread; loads one at a time]
const bph_plugin* load_library(const PluginFile& file);

/// The table of an item, checked: there, of a plausible size, its functions set. Null for a preset, which has none.
/// Throws Refused.
const void* item_table(const bph_plugin* plugin, const ItemInfo& item);

/// Throws Refused where the library answers to names that don't exist, or where a parameter schema or one of its
/// defaults can't be used.
void check_answers(const bph_plugin* plugin, const ItemInfo& item);

bool torch_hooks_set();
/// SHA-256 of a library or program, remembered while the file stays as it is.
std::string sha256_of_library(const std::filesystem::path& path);

}  // namespace biophony
