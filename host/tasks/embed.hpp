// Embedding files: what is asked for, which files, where rows begin and end. The work is in learn/run_embed.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "plugins/registry.hpp"

namespace biophony {

/// One sound file, by the path that it was named with or found under.
struct EmbedInput {
    std::string path;
    double seconds = 0;      ///< by its header; by decoding where that is done
    double sample_rate = 0;  ///< Hz
    int channels = 0;
    int64_t rows = 0;
    std::string problem;  ///< why it is left out; empty where it isn't
};

struct EmbedOptions {
    std::string encoder;               ///< "encoder:beats"; empty: the one that the checkpoint names
    std::filesystem::path checkpoint;  ///< empty: for an encoder without weights
    std::filesystem::path config;      ///< a file with the encoder's configuration, or empty: the checkpoint's own
    std::vector<EmbedInput> inputs;    ///< their paths
    double window_seconds = 0;         ///< 0 = one row for a whole file
    double hop_seconds = 0;
    bool frames = false, layers = false, predictions = false;
    bool bfloat16 = false;           ///< the encoder under autocast; the front end never is
    size_t batch = 8;                ///< windows of a forward pass, at most
    unsigned threads = 1;            ///< of the encoder; one more decodes
    std::string program_version;     ///< for the metadata
    std::filesystem::path out, csv;  ///< the safetensors file, the table; empty = not wanted
};

struct EmbedResult {
    std::vector<EmbedInput> inputs;
    double sound_seconds = 0;  ///< of what was embedded
    double seconds = 0;        ///< that it took, from the first file to the last row
    int64_t rows = 0;
    int64_t width = 0;  ///< D
};

/// The files among `paths`, in their order; folders are replaced by the sound files in and below them, by their names'
/// extensions, sorted by path. Links are followed, but not in circles; names that begin with a dot are passed over.
/// Throws Error(kInvalid) for a path that isn't there and a folder without sound files.
std::vector<EmbedInput> find_sounds(const std::vector<std::string>& paths);

/// Where windows of `window` samples lie in a file of `samples`: at 0, hop, 2 · hop … until one reaches the file's end
/// (or the next would begin behind it). A shorter file has one.
int64_t window_count(int64_t samples, int64_t window, int64_t hop);

}  // namespace biophony
