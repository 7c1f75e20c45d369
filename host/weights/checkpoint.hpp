// Checkpoints as users have them: safetensors files, alone or in shards, and what torch.save writes, in the zip
// container (PyTorch 1.6 and later; TorchScript too) and in the one before. Which of them a file is, its content says,
// not its name. Nothing in a file is ever executed (weights/pickle.hpp). docs/formats/checkpoints.md has the rules in
// words.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/safetensors.hpp"

namespace biophony {

/// An open checkpoint: one state dict, its configuration and its labels. Tensors are read when they are asked for, from
/// one thread at a time.
class Checkpoint {
public:
    /// A tensor of the state dict that this can't give, and why: sparse, quantised, of a type that safetensors lacks, …
    struct Unreadable {
        std::string name, why;
    };

    /// Opens `file` and finds the state dict in it, which is the dictionary under
    ///   1. `key`, where one is given: a path like "model" or "ema/model", "/" for the outermost value;
    ///   2. "model", "state_dict" or "model_state_dict", where the outermost dictionary has tensors under one of these;
    ///   3. else the only dictionary that has tensors, of the outermost one and those right inside of it, then of those
    ///      a level deeper, and so on.
    /// A pickled module counts as the state dict that its state_dict() would have given. Throws Error(kRunFailed): not
    /// a checkpoint, broken, a pickle that asks for something that runs code; and, with the paths that there are, where
    /// two dictionaries would do or none does.
    static Checkpoint open(const std::filesystem::path& file, const std::string& key = "");
    Checkpoint(Checkpoint&&) noexcept;
    Checkpoint& operator=(Checkpoint&&) noexcept;
    ~Checkpoint();

    const std::filesystem::path& path() const;
    /// "safetensors", "PyTorch zip", …
    const std::string& container() const;
    /// Path of the state dict in a PyTorch file, "/" for the outermost value; empty for safetensors.
    const std::string& key() const;
    /// In the order of the state dict. `begin` and `end` of a PyTorch file's tensors count bytes as if they stood one
    /// after the other; tied ones count each.
    const std::vector<TensorInfo>& tensors() const;
    const std::vector<Unreadable>& unreadable() const;
    /// The tensor before this one that is the same piece of memory in the same shape; empty where there is none.
    std::string_view tied_to(const TensorInfo& tensor) const;
    /// What else the file has, one line a thing: "optimizer: a dictionary of 2".
    const std::vector<std::string>& ignored() const;

    /// The configuration as JSON, or empty. Of a PyTorch file the plain values under the first of cfg, config,
    /// hyper_parameters, hparams, model_config, model_args, args, opt that has any, beside the state dict or further
    /// out; of safetensors the metadata "cfg", or else "biophony.config".
    const std::string& config() const;
    /// The labels as JSON, or empty: an array, or an object where their numbers aren't 0, 1, 2, … Of a PyTorch file
    /// "label_dict", of safetensors the metadata "labels".
    const std::string& labels() const;
    /// Of safetensors; else empty.
    const std::map<std::string, std::string>& metadata() const;
    /// The file itself, where it is one safetensors file; else null.
    const SafetensorsFile* safetensors() const;
    /// The files that the tensors are read from: the shards, else path() alone.
    std::vector<std::filesystem::path> files() const;

    /// Raw bytes [offset, offset + out.size()) of a tensor, row by row whatever its strides in the file.
    void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const;
    /// As SafetensorsFile::read_floats().
    void read_floats(const TensorInfo& tensor, uint64_t first, std::span<float> out) const;

private:
    struct State;
    explicit Checkpoint(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

/// Where the configuration of a checkpoint without one is looked for, as AVES ships it: "a.torchaudio.pt" →
/// "a.torchaudio.model_config.json" in the same folder.
std::filesystem::path sidecar_name(const std::filesystem::path& checkpoint);
/// That file where it exists, else empty.
std::filesystem::path sidecar_config(const std::filesystem::path& checkpoint);

}  // namespace biophony
