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

/// All clip sets of a port, in order. Throws as require_together() does.
std::vector<ClipSet> load_sets(const std::vector<InputArtefact>& data);

/// trained_labels() of tasks/clips.hpp.
std::vector<std::string> trained_labels(const std::vector<ClipSet>& sets);

/// Makes `out/name` from an input's encoder.safetensors, without copying where the file system allows.
void hand_on_encoder(const InputArtefact& from, const std::filesystem::path& out,
                     const std::string& name = "encoder.safetensors");

}  // namespace biophony
