// The files that a merge reads: a base and experts, opened once, and found to belong together.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weights/merge_observer.hpp"
#include "weights/safetensors.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

/// A file with θ_expert − θ_base (a task vector), or with θ_expert (a checkpoint).
class MergeExpert {
public:
    explicit MergeExpert(TaskVector vector) : vector_(std::move(vector)) {}
    explicit MergeExpert(SafetensorsFile checkpoint) : checkpoint_(std::move(checkpoint)) {}
    bool is_vector() const { return vector_.has_value(); }
    const TaskVector& vector() const { return *vector_; }
    const SafetensorsFile& file() const { return vector_ ? vector_->file() : *checkpoint_; }

private:
    std::optional<TaskVector> vector_;
    std::optional<SafetensorsFile> checkpoint_;
};

struct MergeInputs {
    std::unique_ptr<SafetensorsFile> base;
    std::optional<EncoderCard> card;  ///< of the base; none where it is no encoder file
    std::vector<MergeExpert> experts;
    /// weights_digest() of the base where a task vector or the caller asked for it, else empty; by expert where the
    /// caller did, else none.
    std::string base_digest;
    std::vector<std::string> digests;
    uint64_t bytes_hashed = 0;  ///< that were read for these
};

/// The role of a tensor that no encoder tells, by its shape and name. Kind: "bias" and "norm" by the name for one
/// dimension, else "vector"; "matrix" for two, "embedding" where the name says so; "convolution" for more. Block: the
/// first number that stands between dots, as in "encoder.layers.3.fc1.weight", else -1.
TensorRole role_of(const TensorInfo& tensor);

/// Opens the files and compares them: which encoder, names, shapes, types; that vectors were made from this base, by
/// its hashes; that tensors which are not floating are the same everywhere; that `out` is none of them. Nothing is
/// written. With `digests` those of all files are taken, by the hashes that are remembered or read now. Throws Error:
/// the one problem, or all of them, one a line. kInvalid where `out` alone is wrong, else kRunFailed.
MergeInputs open_inputs(const std::filesystem::path& base, const std::vector<std::filesystem::path>& experts,
                        const std::filesystem::path& out, unsigned threads, bool digests);

}  // namespace biophony
