// safetensors files: reading them defensively, writing them streamed. Format: huggingface/safetensors, README.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace biophony {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };
size_t size_of(DType dtype);              ///< bytes per element
std::string_view to_string(DType dtype);  ///< "F32", as the format writes it
bool is_floating(DType dtype);

/// What an 8-bit code stands for: minimum + step · code.
struct Affine {
    float minimum = 0, step = 0;
};

struct TensorInfo {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;     ///< bytes, relative to the data
    std::optional<Affine> affine{};  ///< of U8: they are codes of floating values, as the file's reader has learnt
    uint64_t bytes() const { return end - begin; }
    uint64_t elements() const;
};

/// Elements [first, first + out.size()) of a floating tensor as float, from raw bytes that `read` gives. F16, BF16 and
/// codes are widened, F64 is rounded; throws Error(kRunFailed) naming `path` for other types.
void read_widened(const TensorInfo& tensor, uint64_t first, std::span<float> out, const std::filesystem::path& path,
                  const std::function<void(uint64_t offset, std::span<std::byte> out)>& read);

/// `count` raw elements of such a tensor.
void widen(const TensorInfo& tensor, const std::byte* raw, float* out, size_t count);

/// Files stay open while they are merged or measured, and there may be more of them than a process is given at first.
void allow_open_files(size_t count);

/// An open file. Reading is positional and may happen from several threads at once.
class SafetensorsFile {
public:
    /// Checks everything the format promises before any tensor is touched: header length (at most 100 MB) and place,
    /// JSON without duplicate keys, dtypes, shapes, offsets contiguous, within the file and equal to shape × size.
    /// A key of a tensor's entry that the format doesn't have is refused too. Throws Error(kRunFailed) with the file
    /// and what is wrong.
    static SafetensorsFile open(const std::filesystem::path& path);
    ~SafetensorsFile();
    SafetensorsFile(SafetensorsFile&&) noexcept;
    SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

    const std::filesystem::path& path() const { return path_; }
    /// Which file it is, and which state of it: where nothing of this differs, nothing was written to it since.
    struct Identity {
        uint64_t device = 0, inode = 0, size = 0;
        int64_t changed = 0;  ///< the later of the times of content and inode, nanoseconds since 1970
        int64_t modified = 0;
        bool operator==(const Identity&) const = default;
    };
    /// As it was before the first byte was read, and as it is now. Throws Error(kRunFailed) where the file system
    /// doesn't say.
    const Identity& opened() const { return opened_; }
    Identity identity() const;
    /// When it was opened, nanoseconds since 1970.
    int64_t opened_at() const { return opened_at_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    /// A metadata value, or empty.
    std::string metadata(const std::string& key) const;
    /// In the order of their data.
    const std::vector<TensorInfo>& tensors() const { return tensors_; }
    /// From here on the tensor, of U8, is read as what its codes stand for. Not while others read.
    void take_as_codes(std::string_view name, Affine affine);
    const TensorInfo* find(std::string_view name) const;
    /// Throws Error(kRunFailed) naming the file and the nearest tensor.
    const TensorInfo& require(std::string_view name) const;

    /// Raw bytes [offset, offset + out.size()) of a tensor.
    void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const;
    /// Elements [first, first + out.size()) as float. F16 and BF16 are widened, F64 is rounded; integer types are
    /// refused.
    void read_floats(const TensorInfo& tensor, uint64_t first, std::span<float> out) const;
    std::vector<float> read_floats(std::string_view name) const;

private:
    SafetensorsFile() = default;
    std::filesystem::path path_;
    int fd_ = -1;
    uint64_t data_begin_ = 0;
    std::map<std::string, std::string> metadata_;
    std::vector<TensorInfo> tensors_;
    std::vector<uint32_t> by_name_;  ///< places in tensors_
    Identity opened_;
    int64_t opened_at_ = 0;
};

/// Writes one file: all tensors are announced first, then filled in any order, from several threads if need be.
/// Bytes are the same whatever the order. The file appears under its name only with finish().
class SafetensorsWriter {
public:
    struct Tensor {
        std::string name;
        DType dtype = DType::kF32;
        std::vector<int64_t> shape;
    };
    /// Tensors are laid out by descending alignment (and type), then name, as the reference writer does. Missing
    /// parent folders are made and the space is reserved. Throws Error(kRunFailed) where the disk refuses, kInternal
    /// for a name that stands twice or a shape that can't be.
    SafetensorsWriter(std::filesystem::path path, std::vector<Tensor> tensors,
                      const std::map<std::string, std::string>& metadata);
    /// Removes the temporary file where finish() was not reached.
    ~SafetensorsWriter();
    SafetensorsWriter(const SafetensorsWriter&) = delete;
    SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

    void write(std::string_view name, uint64_t byte_offset, std::span<const std::byte> bytes);
    /// Elements [first, …) of an F32 tensor.
    void write_floats(std::string_view name, uint64_t first, std::span<const float> values);
    /// Syncs and renames. Throws Error(kInternal) where a tensor was not filled, kRunFailed where the disk refuses.
    void finish();

private:
    struct Slot {
        TensorInfo info;
        std::atomic<uint64_t> written{0};
    };
    Slot& slot(std::string_view name);
    void start_writeback(uint64_t offset, uint64_t bytes);

    std::filesystem::path path_, temporary_;
    int fd_ = -1;
    uint64_t data_begin_ = 0;
    std::map<std::string, Slot, std::less<>> tensors_;
    /// Bytes that are written of each region of the file: one that is full goes to the disk at once, so that the sync
    /// at the end finds little to do.
    std::vector<std::atomic<uint64_t>> regions_;
};

}  // namespace biophony
