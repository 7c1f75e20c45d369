// Hashes of files that were read before, and lengths of experts, kept in the user's cache folder.
#pragma once

#include <map>
#include <string>

#include "weights/safetensors.hpp"

namespace biophony {

struct RememberedHashes {
    std::map<std::string, std::string> tensors;  ///< SHA-256 of each tensor's bytes, by name
    bool read = true;                            ///< whether the file was read for it; else it was remembered
};

/// tensor_hashes(), remembered by device, inode, size and times of the file (nanoseconds): a file that was written to,
/// or put in another's place, is read again. One that changed less than two seconds before it was read isn't
/// remembered, as the next change might carry the same time. (A program that goes on writing through a mapping of the
/// file may do so without a new time; no merge of a file that is being written can be trusted.)
/// Where the cache folder can't be used nothing is remembered. `threads` share the tensors. Throws Error(kRunFailed)
/// where the file can't be read or changes meanwhile.
RememberedHashes remembered_hashes(const SafetensorsFile& file, unsigned threads);

/// Squares are summed up in blocks of this many elements, in float64 lanes of kernels::add_squares(). The sums' last
/// bits depend on it, so those of other blocks aren't taken for these.
inline constexpr uint64_t kSquaresBlock = 1 << 20;

/// Sums of the squares of an expert's deltas, by tensor, as remember_squares() was told them for just this state of the
/// file; empty where it wasn't. `base`: for a checkpoint, what the deltas are against; null for a task vector.
std::map<std::string, double> remembered_squares(const SafetensorsFile& file, const SafetensorsFile* base);
/// Keeps them, where both files are old enough and as they were when they were opened.
void remember_squares(const SafetensorsFile& file, const SafetensorsFile* base,
                      const std::map<std::string, double>& squares);

}  // namespace biophony
