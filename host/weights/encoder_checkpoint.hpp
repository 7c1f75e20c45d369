// Checkpoints that encoders are filled from, as far as their heads tell.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "weights/checkpoint.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

struct EncoderCheckpoint {
    Checkpoint file;
    std::optional<EncoderCard> card;    ///< where it is an encoder file, which this program wrote
    std::string config;                 ///< else its configuration, JSON as it was published
    std::filesystem::path config_file;  ///< where that stands, if it isn't the file itself
};

/// Opens `file` for the encoder item `encoder` ("encoder:beats"). `config` names a file with the configuration, or is
/// empty. Reads no weights. Throws Error(kRunFailed): no checkpoint, shards, another encoder's, without a
/// configuration, with tensors that can't be read or, of an encoder file, without ones that it says it has.
EncoderCheckpoint open_encoder_checkpoint(const std::string& encoder, const std::filesystem::path& file,
                                          const std::filesystem::path& config);

}  // namespace biophony
