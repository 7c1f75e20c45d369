// What a merger's manifest says in its object "merger"; the keys are described in biophony/c/merger.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/json.hpp"
#include "plugins/registry.hpp"

namespace biophony {

struct MergerTraits {
    enum class Stage { kTransform, kCombine, kPost };
    enum class Scope { kElement, kTensor, kMatrix, kGlobal };

    Stage stage = Stage::kCombine;
    Scope scope = Scope::kElement;
    bool all_experts = false;        ///< a transform that sees all experts at once
    uint32_t exactly = 0;            ///< how many experts a combine takes; 0 = any number
    uint32_t most_experts = 0;       ///< how many it takes at most; 0 = any number
    bool weights = false;            ///< takes and gives weights, not deltas
    std::vector<std::string> roles;  ///< scope matrix: of the tensors that are matrices
    uint32_t passes = 0;             ///< scope global: how often all tensors are shown
    bool exact_join = false;         ///< scope global: states join the same whichever tensors each has seen
    bool needs_base = false, needs_linalg = false;
    bool needs_experts = false;  ///< a post stage that sees the experts as they were read
    bool needs_norms = false;    ///< sees the lengths of the experts as they were read
    bool needs_blocks = false;   ///< at least one tensor must be in a block
    bool random = false;
    Json preset;  ///< an array of {"use", "with"} where the item stands for other stages; else null
};

/// The keys that "merger" may have.
const std::vector<std::string>& merger_keys();

/// Reads the object "merger" of an item. Appends what is wrong, with pointers below it: code kInvalid for what can't
/// be, kPlugin for what another host may know.
MergerTraits read_merger(const ItemInfo& item, std::vector<Diagnostic>& problems);

/// Of an item whose manifest was found good. Throws Error(kPlugin) otherwise.
MergerTraits merger_traits(const ItemInfo& item);

/// Whether the item is a merger that stands for other stages, and so has no code.
bool is_preset(const ItemInfo& item);

}  // namespace biophony
