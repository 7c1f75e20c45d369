// The merge engine: base + experts + stages → merged weights.
//
// Everything that can be wrong with the inputs is found by plan_merge(), before a byte is written. Then tiles of every
// tensor are read from the base and all experts, run through the stages (plugins of interface biophony.merger/0), added
// to the base where the last stage gives a delta, rounded once, and written at their final place, all while they are in
// the cache of the processor: constant space. Where a stage must see a tensor whole, by its scope, that tensor is one
// tile. A stage of scope "global" is shown all tensors before, as the stages ahead of it leave them. Threads take tiles
// from a counter; a result never depends on their number or the size of a tile.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/progress.hpp"
#include "biophony/c/linalg.h"
#include "weights/merge_observer.hpp"
#include "weights/stages.hpp"

namespace biophony {

struct MergeOptions {
    unsigned threads = 1;
    /// Elements of a tile; where not given, as many as keep the tiles of all experts in a processor's cache.
    std::optional<size_t> tile_elements;
    /// Bytes for buffers and what is counted on the way; where not given, 160 MB, and 512 MB where a stage must see
    /// tensors whole. What one thread, one tensor of all experts or one state of a stage takes is always taken.
    std::optional<uint64_t> memory = {};
    uint64_t seed = 0;
    /// Type of floating tensors in the result; where not given, that of the base's.
    std::optional<DType> dtype = DType::kF32;
    Progress* progress = nullptr;
    const Cancel* cancel = nullptr;
    std::map<std::string, std::string> metadata;  ///< of the file that is written, beside the encoder card
    std::string node;                             ///< whose work it is, for the message of a plugin's crash
    const bph_linalg_v0* linalg = nullptr;        ///< for stages that need it; null = not there
    bool digests = false;                         ///< of the base and all experts are wanted in the plan
    MergeObserver* observer = nullptr;            ///< sees the inputs in the same pass; null = none
    /// Hears what stages log (levels of spine.h), "merger:x: …", at the end, on the calling thread: each message once,
    /// by stage, tensor and element. Also before an error is thrown.
    std::function<void(int level, const std::string& text)> log;
};

/// What was done; bytes are those of tensors, what is read for hashes (where they weren't remembered) and passes
/// that observe included.
struct MergeReport {
    uint64_t tensors = 0, elements = 0, bytes_read = 0, bytes_written = 0;
};

/// A merge that can be done: files are open, names and shapes agree, vectors belong to the base, stages are made.
class MergePlan {
public:
    enum class Kind { kTaskVector, kCheckpoint };
    struct Expert {
        std::filesystem::path path;
        Kind kind = Kind::kTaskVector;
        uint64_t bytes = 0;  ///< of its tensors
        std::string digest;  ///< weights_digest() where MergeOptions asked for it, else empty
    };

    std::filesystem::path base, out;
    std::vector<Expert> experts;
    std::vector<MergeTensor> tensors;  ///< in the order of their data in the base
    size_t copied = 0;                 ///< tensors that aren't floating, have no element or are excluded: the base's
    bool encoder = false;              ///< whether base and result are encoder files; else roles come from shapes
    std::vector<std::string> stages;   ///< names
    uint32_t passes = 1;               ///< over the inputs: one to merge, one for lengths not known, those that observe
    std::string base_digest;           ///< likewise, also where a task vector asked for it
    std::map<std::string, std::string> metadata;  ///< as MergeOptions says; what is added goes into the file
    size_t tile_elements = 0;
    unsigned threads = 1;  ///< whose tiles fit into memory, of those asked for
    uint64_t memory = 0;   ///< most bytes for tiles, whole tensors, the observer, and states of stages that tell theirs
    MergeReport totals;    ///< what will have been done

    /// Tells MergeOptions::log what stages have logged so far; run_merge() does so at its end.
    void tell_log();

    struct State;  ///< the engine's: open files, stages
    MergePlan();
    ~MergePlan();
    MergePlan(MergePlan&&) noexcept;
    std::unique_ptr<State> state;
};

/// Opens and checks everything. `experts` are task vectors or checkpoints (files with the base's tensors), in the order
/// that stages see. `base` is an encoder file or any safetensors file. Throws Error: kInvalid for stages or parameters,
/// kPlugin, kRunFailed with all that is wrong with the files, one a line. [any thread; several merges may run at a
/// time]
MergePlan plan_merge(const std::filesystem::path& base, const std::vector<std::filesystem::path>& experts,
                     const std::vector<MergeStage>& stages, const std::filesystem::path& out,
                     const MergeOptions& options);

/// Merges and writes the plan's `out`: the base's tensors under their names, with the base's card where it is an
/// encoder file, else with the base's metadata. Tensors that are not floating are the base's. A value that is not
/// finite, in any input, after any stage or in the result, ends the merge with tensor, file and element. `out` is whole
/// or not there. Progress counts bytes and comes from the calling thread alone. Throws Error: kCancelled, kRunFailed,
/// kInvalid or kPlugin from plugins. [any thread; as plan_merge()]
MergeReport run_merge(MergePlan& plan);

/// plan_merge() and run_merge(). What stages log is told in any case.
MergeReport merge(const std::filesystem::path& base, const std::vector<std::filesystem::path>& experts,
                  const std::vector<MergeStage>& stages, const std::filesystem::path& out, const MergeOptions& options);

}  // namespace biophony
