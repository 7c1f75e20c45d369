// The stages of a merge: read from a pipeline, with presets put in, and checked for whether they fit together.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "biophony/c/merger.h"
#include "plugins/merger_traits.hpp"
#include "plugins/registry.hpp"

namespace biophony {

struct MergeStage {
    const ItemInfo* item = nullptr;  ///< kind merger, no preset
    Json params;                     ///< fits the item's schema
    /// Where not null, called instead of what the item's library offers: a stage that is linked in.
    const bph_merger_v0* table = nullptr;
    const ItemInfo* preset = nullptr;  ///< the item that it was written out of, or null
    size_t entry = 0;                  ///< place of what it was read from in the list of stages
};

/// Reads a list of {"use": "merger:…", "with": {…}}: finds the items, fills in defaults, and writes presets out, each
/// as the stages that it stands for. Appends what is wrong, with pointers below `pointer`.
std::vector<MergeStage> read_stages(const Json& list, const Registry& registry, std::string_view pointer,
                                    std::vector<Diagnostic>& problems);

/// Whether the stages fit together: any number of `transform`, exactly one `combine`, any number of `post`, and
/// parameters with one entry per expert that have as many as there are (`experts`, where not 0), those that count
/// experts no more. Returns an empty text
/// or what is wrong, with the place of the stage in `stage`.
std::string check_stages(const std::vector<MergeStage>& stages, size_t& stage, size_t experts = 0);

/// What is wrong with stages of a base that has so many blocks: its last one + 1, 0 where no tensor is in one. Else
/// empty.
std::string check_blocks(const std::vector<MergeStage>& stages, size_t& stage, size_t blocks);

}  // namespace biophony
