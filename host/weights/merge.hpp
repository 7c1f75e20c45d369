// The merge engine: base + task vectors + stages → merged weights, in constant space.
//
// Tiles of every tensor are read from the base and all experts, run through the stages (plugins of interface
// biophony.merger/0), added to the base where the last stage gives a delta, and written at their final place. Threads
// take tiles from a counter; a result never depends on their number or the size of a tile.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/progress.hpp"
#include "biophony/c/merger.h"
#include "plugins/registry.hpp"

namespace biophony {

struct MergeStage {
    const ItemInfo* item = nullptr;  ///< kind merger
    Json params;                     ///< fits the item's schema
    /// Where not null, called instead of what the item's library offers: a stage that is linked in.
    const bph_merger_v0* table = nullptr;
};

struct MergeOptions {
    unsigned threads = 1;
    size_t tile_elements = 32768;
    uint64_t seed = 0;
    Progress* progress = nullptr;
    const Cancel* cancel = nullptr;
    std::map<std::string, std::string> metadata;  ///< of the file that is written, beside the encoder card
    std::string node;                             ///< whose work it is, for the message of a plugin's crash
};

/// What was done; bytes are those of tensors, the base's pass for its hashes included.
struct MergeReport {
    uint64_t tensors = 0, elements = 0, bytes_read = 0, bytes_written = 0;
};

/// Whether the stages fit together: any number of `transform`, exactly one `combine`, any number of `post`, scopes,
/// spaces and needs that the engine knows. The item's manifest says them: "merger": {"stage": …, "scope": "element",
/// "space": "delta" or "weight", "needs": ["base"] where Tile::base() is wanted}. Returns an empty text or what is
/// wrong, with the place of the stage in `stage`.
std::string check_stages(const std::vector<MergeStage>& stages, size_t& stage);

/// Merges and writes `out`, an encoder file with the base's card and float32 weights; tensors that are not floating are
/// the base's. Experts come in the order of `vectors`. The base of every vector is checked by its hashes first; so are
/// names and shapes. A value that is not finite, in any input, after any stage or in the result, ends the merge with
/// the tensor's name. `out` is whole or not there. Progress counts bytes and comes from the calling thread alone.
/// Throws Error: kInvalid for stages or parameters, kPlugin, kCancelled, kRunFailed. [main], as it loads plugins.
MergeReport merge(const std::filesystem::path& base, const std::vector<std::filesystem::path>& vectors,
                  const std::vector<MergeStage>& stages, const std::filesystem::path& out, const MergeOptions& options);

}  // namespace biophony
