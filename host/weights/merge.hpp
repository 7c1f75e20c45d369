// The merge engine: base + task vectors + stages → merged weights.
//
// Tiles of every tensor are read from the base and all experts, run through the stages (plugins of interface
// biophony.merger/0), added to the base where the last stage gives a delta, and written at their final place: constant
// space. Where a stage must see a tensor whole, by its scope, that tensor is one tile. A stage of scope "global" is
// shown all tensors before, as the stages ahead of it leave them. Threads take tiles from a counter; a result never
// depends on their number or the size of a tile.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/progress.hpp"
#include "biophony/c/linalg.h"
#include "weights/stages.hpp"

namespace biophony {

struct MergeOptions {
    unsigned threads = 1;
    size_t tile_elements = 32768;
    uint64_t seed = 0;
    Progress* progress = nullptr;
    const Cancel* cancel = nullptr;
    std::map<std::string, std::string> metadata;  ///< of the file that is written, beside the encoder card
    std::string node;                             ///< whose work it is, for the message of a plugin's crash
    const bph_linalg_v0* linalg = nullptr;        ///< for stages that need it; null = not there
    /// Hears what stages log (levels of spine.h), "merger:x: …", at the end, on the calling thread: each message once,
    /// by stage, tensor and element. Also before an error is thrown.
    std::function<void(int level, const std::string& text)> log;
};

/// What was done; bytes are those of tensors, the base's pass for its hashes and passes that observe included.
struct MergeReport {
    uint64_t tensors = 0, elements = 0, bytes_read = 0, bytes_written = 0;
};

/// Merges and writes `out`, an encoder file with the base's card and float32 weights; tensors that are not floating are
/// the base's. Experts come in the order of `vectors`. The base of every vector is checked by its hashes first; so are
/// names and shapes. A value that is not finite, in any input, after any stage or in the result, ends the merge with
/// the tensor's name. `out` is whole or not there. Progress counts bytes and comes from the calling thread alone.
/// Throws Error: kInvalid for stages or parameters, kPlugin, kCancelled, kRunFailed. [main], as it loads plugins.
MergeReport merge(const std::filesystem::path& base, const std::vector<std::filesystem::path>& vectors,
                  const std::vector<MergeStage>& stages, const std::filesystem::path& out, const MergeOptions& options);

}  // namespace biophony
