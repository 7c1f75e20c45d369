// Memory that lies in a file without a name: for values that are too many to hold and too dear to compute again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

namespace biophony {

/// A float32 tensor of this shape, its memory the pages of a new file in `folder` that has no name, so that it is gone
/// with the tensor or the process; the system writes it out and reads it back as it needs to. The space is reserved:
/// where the disk hasn't got it, or the folder can't hold such a file, an undefined tensor.
at::Tensor scratch_tensor(const std::vector<int64_t>& shape, const std::filesystem::path& folder);

}  // namespace biophony
