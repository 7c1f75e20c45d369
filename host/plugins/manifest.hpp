// The manifest of a plugin library: JSON in the section "bph_meta", written by biophony_add_plugin() from plugin.json.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "plugins/registry.hpp"

namespace biophony {

/// An interface that this host can talk to.
struct KnownInterface {
    std::string_view kind;
    std::string_view id;
    std::string_view tier;
};
std::span<const KnownInterface> known_interfaces();

struct Manifest {
    std::string version;
    std::string build;  ///< 64 hex digits, or empty where the manifest has none
    std::vector<ItemInfo> items;
};

/// Reads the text strictly. What makes the library unusable is appended to `problems`: code kInvalid for a wrong
/// manifest, kPlugin for a right one that speaks of things this host doesn't know. Keys that nobody knows go to
/// `notes`: a later SDK may have them. `library` and `build` of the items are left empty.
Manifest parse_manifest(std::string text, std::vector<Diagnostic>& problems, std::vector<std::string>& notes);

}  // namespace biophony
