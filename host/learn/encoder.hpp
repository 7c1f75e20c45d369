// Encoders of plugins as the host uses them: made, loaded from and saved to safetensors files.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/json.hpp"
#include "biophony/torch/encoder.hpp"
#include "plugins/registry.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

using torch_tier::Encoder;
using torch_tier::EncoderInfo;

struct LoadedEncoder {
    std::shared_ptr<Encoder> module;
    EncoderCard card;
};

/// An encoder with random weights from `seed`. `params` fit the item's schema. Throws Error.
LoadedEncoder make_encoder(const ItemInfo& item, const Json& params, uint64_t seed);

/// An encoder with the weights of a public or own checkpoint, in any container that Checkpoint::open() knows. Its
/// configuration is laid over `params`: that of `config`, a file with a JSON object, where it is given; else the file's
/// own; else that of sidecar_config(). Without any it throws, since weights don't say how they are used: a BEATs that
/// was made without deep norm takes the weights of one with it and gives noise. Every parameter must be there with its
/// shape, and every tensor must be known to the encoder; throws Error(kRunFailed) that lists what is missing or too
/// much. Where the encoder has one name for several tensors, they must be equal.
LoadedEncoder load_checkpoint(const ItemInfo& item, const Json& params, const std::filesystem::path& file,
                              const std::filesystem::path& config = {});

/// An encoder file that this host wrote.
LoadedEncoder load_encoder(const std::filesystem::path& file, const Registry& registry);

/// Writes parameters and buffers with the card; bytes depend on nothing else.
void save_encoder(const LoadedEncoder& encoder, const std::filesystem::path& file,
                  const std::map<std::string, std::string>& metadata = {});

}  // namespace biophony
