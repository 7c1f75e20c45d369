// Task vectors: θ_expert − θ_base of an encoder, with the identity of the base inside.
//
// One safetensors file. Tensors: the deltas, dense, named as the encoder's parameters. Metadata (all text, JSON where
// noted):
//   biophony.format      "task-vector/0"
//   biophony.encoder     encoder item, "encoder:beats"
//   biophony.config      JSON, the encoder's parameters
//   biophony.roles       JSON, parameter → {"kind", "block"}
//   biophony.base        JSON, {"digest": …, "tensors": {name: SHA-256 of its bytes}}
//   biophony.recipe      JSON, {"name", "hash", "values"} of the training
//   biophony.labels      JSON, the label space: an array of names
//   biophony.encoding    "dense-f32", "dense-bf16", "dense-f16" or "affine-u8"
//   biophony.affine      JSON, {name: [minimum, step]}, of "affine-u8": what its 8-bit codes stand for
// Ilharco et al. 2022 (arXiv 2212.04089); heads are never part of it.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/progress.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

/// What an encoder file's metadata says, beside the tensors: the same keys as above without base, labels, encoding;
/// biophony.format is "encoder/0".
struct EncoderCard {
    std::string encoder;  ///< "encoder:beats"
    Json config;          ///< parameters of the encoder
    Json roles;           ///< parameter → {"kind", "block"}
    std::map<std::string, std::string> to_metadata() const;
    /// Throws Error(kRunFailed) where the file is no encoder file.
    static EncoderCard from(const SafetensorsFile& file);
};

struct TensorRole {
    std::string kind;
    int32_t block = -1;
};
/// What the encoder's card says of a tensor.
TensorRole role_of(const TensorInfo& tensor, const EncoderCard& card);
/// Whether a tensor is merged, measured and moved; others are the base's, byte by byte: those that aren't floating, and
/// what the encoder's card excludes (a published classifier, say). Null: there is no encoder.
bool is_merged(const TensorInfo& tensor, const EncoderCard* card);

/// SHA-256 of each tensor's bytes, by tensor name; `threads` share the tensors.
std::map<std::string, std::string> tensor_hashes(const SafetensorsFile& file, unsigned threads = 1);
/// One digest over names, dtypes, shapes and hashes: the identity of a set of weights, whatever its metadata.
std::string weights_digest(const SafetensorsFile& file);
/// The same with its tensor_hashes() at hand.
std::string weights_digest(const SafetensorsFile& file, const std::map<std::string, std::string>& hashes);

/// Writes θ_model − θ_base for every floating tensor, rounded once to float32. Both files must have the same encoder,
/// config, roles, names and shapes, tensors of other types the same bytes, and no value may be NaN or infinite; throws
/// Error(kRunFailed) that names the first difference. `extra` is added to the metadata (recipe, labels). The same
/// inputs give the same bytes. Adding the vector to the base in float32 gives the model back within one unit in the
/// last place of max(|θ_base|, |θ_model|), not always exactly: the difference of two floats is rounded.
/// Other encodings take half or a quarter of the bytes: "dense-bf16", "dense-f16" (refused where a difference exceeds
/// it), and "affine-u8", in which a tensor's values become the nearest of 256, evenly from its least to its largest, so
/// that each is off by half a step at most (Kim et al. 2025, "Task Vector Quantization", arXiv 2503.06921).
void write_task_vector(const std::filesystem::path& base, const std::filesystem::path& model,
                       const std::filesystem::path& out, const std::map<std::string, std::string>& extra,
                       const std::string& encoding = "dense-f32");
/// Names of encodings, the one that is taken where none is asked for first.
std::vector<std::string> task_vector_encodings();

/// An open task vector.
class TaskVector {
public:
    /// Throws Error(kRunFailed): not a task vector, NaN or infinity inside (asked for with `scan`), unknown encoding.
    static TaskVector open(const std::filesystem::path& path, bool scan = true);
    const SafetensorsFile& file() const { return file_; }
    /// What the vector says of its encoder: the base's card.
    const EncoderCard& card() const { return card_; }
    const Json& base() const { return base_; }
    /// Throws Error(kRunFailed) where `base` isn't the one this was made from: names the first tensor that differs.
    void check_base(const SafetensorsFile& base) const;
    /// The same with the base's tensor_hashes() at hand, for several vectors of one base.
    void check_base(const SafetensorsFile& base, const std::map<std::string, std::string>& hashes) const;

private:
    explicit TaskVector(SafetensorsFile file) : file_(std::move(file)) {}
    SafetensorsFile file_;
    EncoderCard card_;
    Json base_;
};

}  // namespace biophony
