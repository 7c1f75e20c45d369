// The two containers of torch.save: one pickle each, and storages (flat memory of one type) that it refers to by key.
//
// zip, since PyTorch 1.6: entries ROOT/data.pkl, ROOT/data/KEY, ROOT/version and perhaps ROOT/byteorder; what we read
// is stored, not compressed, but for the pickle of TorchScript archives, which have ROOT/constants.pkl and ROOT/code/
// too. Before that: five pickles one after the other (a magic number, a version, sizes of types, the value, the keys in
// order), then for each key the number of elements, 64 bits, and the elements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "weights/pickle.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

/// What a pickle says of a storage that it refers to: ('storage', type, key, device, elements[, view]).
struct StorageReference {
    std::string_view key;
    std::string_view type;       ///< "FloatStorage"
    std::optional<DType> dtype;  ///< nothing where safetensors has no such type
    uint64_t element_size = 0;
    uint64_t elements = 0;          ///< of the whole storage
    uint64_t first = 0, count = 0;  ///< the part of it that is meant, in elements
};

/// Throws Error(kRunFailed) where the reference isn't one to a storage of a known type.
StorageReference storage_reference(const Pickle& pickle, Pickle::Id reference);

class TorchContainer {
public:
    /// `fd` is an open file of `size` bytes; it stays the caller's and must outlive this. Nothing where the content is
    /// neither container; safetensors may begin like the older one and must be told apart before. Throws
    /// Error(kRunFailed) where it is one and broken.
    static std::unique_ptr<TorchContainer> open(int fd, uint64_t size, const std::filesystem::path& path);
    virtual ~TorchContainer() = default;

    const Pickle& pickle() const { return pickle_; }
    const std::string& name() const { return name_; }  ///< "PyTorch zip"

    /// A number for a storage of that many bytes. Throws Error(kRunFailed) where there is none, or one of another size.
    virtual size_t storage(std::string_view key, uint64_t bytes) const = 0;
    /// Bytes from `offset` on, within the bytes that storage() was asked for.
    virtual void read(size_t storage, uint64_t offset, std::span<std::byte> out) const = 0;

protected:
    Pickle pickle_;
    std::string name_;
};

}  // namespace biophony
