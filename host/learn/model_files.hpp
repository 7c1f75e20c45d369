// Heads on disk, and the sets that a torch node works on.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "learn/pooling.hpp"
#include "pipeline/node_type.hpp"
#include "tasks/clips.hpp"

namespace biophony {

/// A head that was trained with its encoder. head.safetensors: "weight" (C, D) and "bias" (C), float64 or float32;
/// metadata "biophony.head": JSON with "kind", "labels", "groups" and "pooling" (a file without it: mean). D is what
/// the pooling gives. Heads of all forms are HeadModel's, which reads this one, too.
struct HeadFile {
    at::Tensor weight, bias;
    std::string kind;  ///< "own" (trained with the encoder), "ridge", "ridge, strength 0.1": what tables call it
    std::vector<std::string> labels;  ///< class index → label
    std::vector<std::string> groups;  ///< whose clips it has seen
    Pooling pooling = Pooling::kMean;

    void save(const std::filesystem::path& file) const;
};

/// What says that two recordings are the same: their content, and their unit in one table (files of one recording, such
/// as cut calls, differ in content).
std::vector<std::vector<std::string>> identities(const ClipSet& set, const ClipRecording& recording);

/// All clip sets of a port, in order. Throws Error(kRunFailed) where two have the same group name,
/// or where a recording, known by its content, or by its unit where two sets are of one table, is in different splits
/// of two sets.
std::vector<ClipSet> load_sets(const std::vector<InputArtefact>& data);

/// Labels that have a train clip, over all sets: sorted, unique. Throws Error(kRunFailed) where there are fewer than
/// two.
std::vector<std::string> trained_labels(const std::vector<ClipSet>& sets);

/// The place of a label in a sorted list of labels, or −1.
int64_t class_of(const std::vector<std::string>& labels, const std::string& label);

/// Makes `out/name` from an input's encoder.safetensors, without copying where the file system allows.
void hand_on_encoder(const InputArtefact& from, const std::filesystem::path& out,
                     const std::string& name = "encoder.safetensors");

}  // namespace biophony
