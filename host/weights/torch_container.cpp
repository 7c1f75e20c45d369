#include "weights/torch_container.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <zip.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <vector>

#include "base/files.hpp"

namespace biophony {

namespace {

struct TypeRow {
    std::string_view name;
    std::optional<DType> dtype;
    uint64_t size;
};
constexpr TypeRow kStorageTypes[] = {
    {"FloatStorage", DType::kF32, 4},  {"DoubleStorage", DType::kF64, 8},
    {"HalfStorage", DType::kF16, 2},   {"BFloat16Storage", DType::kBF16, 2},
    {"LongStorage", DType::kI64, 8},   {"IntStorage", DType::kI32, 4},
    {"ShortStorage", DType::kI16, 2},  {"CharStorage", DType::kI8, 1},
    {"ByteStorage", DType::kU8, 1},    {"BoolStorage", DType::kBool, 1},
    {"UntypedStorage", DType::kU8, 1}, {"_UntypedStorage", DType::kU8, 1},
    {"ComplexFloatStorage", {}, 8},    {"ComplexDoubleStorage", {}, 16},
    {"QInt8Storage", {}, 1},           {"QUInt8Storage", {}, 1},
    {"QInt32Storage", {}, 4},          {"QUInt4x2Storage", {}, 1},
    {"QUInt2x4Storage", {}, 1},
};

// 0x1950a86a20f9469cfc6c, little-endian
constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

[[noreturn]] void refuse(const std::string& what) {
    throw Error(Code::kRunFailed, "is no valid PyTorch checkpoint: " + what);
}

std::string shown(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 100)) out += c >= ' ' && c <= '~' ? c : '?';
    return out;
}

void read_at(int fd, const fs::path& path, uint64_t offset, std::span<std::byte> out) {
    while (!out.empty()) {
        const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw_errno("read", path);
        if (got == 0) throw Error(Code::kRunFailed, "ends early: it was cut while it was being read");
        offset += static_cast<uint64_t>(got);
        out = out.subspan(static_cast<size_t>(got));
    }
}

// ---- zip ------------------------------------------------------------------------------------------------------------

class ZipContainer : public TorchContainer {
public:
    ZipContainer(int fd, const fs::path& path) {
        int problem = 0;
        // libzip takes its descriptor with it when it closes, and gives it back where it can't open.
        const int own = ::dup(fd);
        if (own < 0) throw_errno("read", path);
        archive_.reset(zip_fdopen(own, ZIP_RDONLY, &problem));
        if (!archive_) {
            ::close(own);
            zip_error_t error;
            zip_error_init_with_code(&error, problem);
            const std::string text = zip_error_strerror(&error);
            zip_error_fini(&error);
            refuse(fmt::format("the zip archive is broken or cut short ({})", text));
        }
        const zip_int64_t entries = zip_get_num_entries(archive_.get(), 0);
        for (zip_int64_t i = 0; i < entries; ++i) {
            const char* name = zip_get_name(archive_.get(), static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
            if (name == nullptr) refuse("an entry of the zip archive has no name");
            if (!entries_.emplace(name, static_cast<uint64_t>(i)).second)
                refuse(fmt::format("the zip entry '{}' is there twice", shown(name)));
        }
        // The outermost folder has the name that the file had when it was written.
        constexpr std::string_view kPickle = "/data.pkl";
        for (const auto& [name, index] : entries_)
            if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size()) {
                if (!root_.empty())
                    refuse(fmt::format("there are two pickles, '{}data.pkl' and '{}'", shown(root_), shown(name)));
                root_ = name.substr(0, name.size() - kPickle.size() + 1);
            }
        if (root_.empty()) refuse("it is a zip archive without a file data.pkl in its one folder");
        const bool script = entries_.contains(root_ + "constants.pkl");
        name_ = script ? "TorchScript" : "PyTorch zip";
        if (entries_.contains(root_ + "byteorder"))
            if (const std::string order = content(root_ + "byteorder", 16); order != "little")
                refuse(fmt::format("its byte order is '{}', expected 'little'", shown(order)));
        const std::string text = content(root_ + "data.pkl", uint64_t{256} << 20);
        pickle_ =
            Pickle::read([&](uint64_t offset,
                             std::span<std::byte> out) { std::memcpy(out.data(), text.data() + offset, out.size()); },
                         0, text.size());
    }

    size_t storage(std::string_view key, uint64_t bytes) const override {
        const std::string name = fmt::format("{}data/{}", root_, key);
        const auto found = entries_.find(name);
        if (found == entries_.end())
            refuse(fmt::format("the pickle refers to the storage '{}', and there is no such zip entry", shown(name)));
        const zip_stat_t status = stored(found->second, name);
        if (status.size != bytes)
            refuse(fmt::format("the storage '{}' has {} bytes, expected {}", shown(name), status.size, bytes));
        return found->second;
    }

    void read(size_t storage, uint64_t offset, std::span<std::byte> out) const override {
        if (out.empty()) return;
        if (!file_ || storage != file_index_ || offset < at_) {
            // As compressed bytes, which for a stored entry are the bytes: torch may leave the checksums out.
            file_.reset(zip_fopen_index(archive_.get(), storage, ZIP_FL_COMPRESSED));
            if (!file_)
                refuse(fmt::format("the zip entry {} can't be read ({})", storage, zip_strerror(archive_.get())));
            file_index_ = storage;
            at_ = 0;
        }
        if (offset != at_ && zip_fseek(file_.get(), static_cast<zip_int64_t>(offset), SEEK_SET) != 0) broken();
        at_ = offset;
        while (!out.empty()) {
            const zip_int64_t got = zip_fread(file_.get(), out.data(), out.size());
            if (got <= 0) broken();
            at_ += static_cast<uint64_t>(got);
            out = out.subspan(static_cast<size_t>(got));
        }
    }

private:
    struct CloseArchive {
        void operator()(zip_t* archive) const { zip_discard(archive); }
    };
    struct CloseFile {
        void operator()(zip_file_t* file) const { zip_fclose(file); }
    };

    [[noreturn]] void broken() const {
        file_.reset();
        refuse(fmt::format("the zip entry {} reaches beyond the file", file_index_));
    }

    zip_stat_t status_of(uint64_t index, const std::string& name) const {
        zip_stat_t status;
        zip_stat_init(&status);
        constexpr zip_uint64_t kNeeded = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
        if (zip_stat_index(archive_.get(), index, 0, &status) != 0 || (status.valid & kNeeded) != kNeeded)
            refuse(fmt::format("the zip entry '{}' has no size", shown(name)));
        if ((status.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && status.encryption_method != ZIP_EM_NONE)
            refuse(fmt::format("the zip entry '{}' is encrypted", shown(name)));
        return status;
    }
    zip_stat_t stored(uint64_t index, const std::string& name) const {
        const zip_stat_t status = status_of(index, name);
        if (status.comp_method != ZIP_CM_STORE || status.size != status.comp_size)
            refuse(fmt::format("the zip entry '{}' is compressed; torch.save stores", shown(name)));
        return status;
    }
    /// A whole entry of at most `limit` bytes, inflated where it is compressed.
    std::string content(const std::string& name, uint64_t limit) const {
        const uint64_t index = entries_.at(name);
        const zip_stat_t status = status_of(index, name);
        if (status.size > limit)
            refuse(
                fmt::format("the zip entry '{}' has {} bytes, expected at most {}", shown(name), status.size, limit));
        const bool plain = status.comp_method == ZIP_CM_STORE;
        const std::unique_ptr<zip_file_t, CloseFile> file(
            zip_fopen_index(archive_.get(), index, plain ? ZIP_FL_COMPRESSED : 0));
        if (!file)
            refuse(fmt::format("the zip entry '{}' can't be read ({})", shown(name), zip_strerror(archive_.get())));
        std::string out;  // grows with what comes, not with what is announced
        while (out.size() < status.size) {
            const size_t before = out.size(), step = std::min<uint64_t>(status.size - before, 1 << 20);
            out.resize(before + step);
            const zip_int64_t got = zip_fread(file.get(), out.data() + before, step);
            if (got <= 0) refuse(fmt::format("the zip entry '{}' is cut short", shown(name)));
            out.resize(before + static_cast<size_t>(got));
        }
        return out;
    }

    std::unique_ptr<zip_t, CloseArchive> archive_;
    std::map<std::string, uint64_t, std::less<>> entries_;
    std::string root_;
    mutable std::unique_ptr<zip_file_t, CloseFile> file_;  ///< the entry that was read last
    mutable size_t file_index_ = 0;
    mutable uint64_t at_ = 0;
};

// ---- before zip -----------------------------------------------------------------------------------------------------

class LegacyContainer : public TorchContainer {
public:
    LegacyContainer(int fd, uint64_t size, fs::path path) : fd_(fd), path_(std::move(path)) {
        name_ = "PyTorch before 1.6";
        const Pickle::Source source = [this](uint64_t offset, std::span<std::byte> out) {
            read_at(fd_, path_, offset, out);
        };
        uint64_t at = 0;
        const auto next = [&] {
            Pickle pickle = Pickle::read(source, at, size);
            at = pickle.end();
            return pickle;
        };
        const Pickle magic = next();
        if (magic.kind(magic.root()) != Pickle::Kind::kBigInteger || magic.text(magic.root()) != kMagic)
            refuse("it is a pickle, but not one of torch.save");
        const Pickle version = next();
        if (version.kind(version.root()) != Pickle::Kind::kInteger || version[version.root()].integer != 1001)
            refuse("the protocol of its container isn't 1001");
        const Pickle types = next();
        if (const Pickle::Id little = types.find(types.root(), "little_endian");
            types.kind(little) == Pickle::Kind::kBool && types[little].integer == 0)
            refuse("its byte order is big-endian, expected little-endian");
        pickle_ = next();

        // How long an element is, only the references say.
        std::map<std::string_view, uint64_t> sizes;
        for (Pickle::Id id = 0; id < pickle_.size(); ++id) {
            if (pickle_.kind(id) != Pickle::Kind::kReference || !is_storage(id)) continue;
            const StorageReference reference = storage_reference(pickle_, id);
            const auto [found, added] = sizes.emplace(reference.key, reference.element_size);
            if (found->second != reference.element_size)
                refuse(fmt::format("the storage '{}' is of two types", shown(reference.key)));
        }
        const Pickle keys = next();
        if (keys.kind(keys.root()) != Pickle::Kind::kList) refuse("the list of its storages is missing");
        for (const Pickle::Id id : keys[keys.root()].items) {
            const std::string key(keys.text(id));
            const auto element = sizes.find(key);
            if (keys.kind(id) != Pickle::Kind::kText || element == sizes.end())
                refuse(fmt::format("nothing refers to the storage '{}', so its length is unknown", shown(key)));
            if (size - at < 8) refuse("it ends before its last storage");
            uint64_t elements = 0, bytes = 0;
            read_at(fd_, path_, at, std::as_writable_bytes(std::span(&elements, 1)));
            at += 8;
            if (__builtin_mul_overflow(elements, element->second, &bytes) || bytes > size - at)
                refuse(
                    fmt::format("the storage '{}' has {} elements and reaches beyond the file", shown(key), elements));
            if (!storages_.emplace(key, Storage{places_.size(), bytes}).second)
                refuse(fmt::format("the storage '{}' is there twice", shown(key)));
            places_.push_back(at);
            at += bytes;
        }
    }

    size_t storage(std::string_view key, uint64_t bytes) const override {
        const auto found = storages_.find(key);
        if (found == storages_.end())
            refuse(fmt::format("the pickle refers to the storage '{}', which there isn't", shown(key)));
        if (found->second.bytes != bytes)
            refuse(fmt::format("the storage '{}' has {} bytes, expected {}", shown(key), found->second.bytes, bytes));
        return found->second.index;
    }

    void read(size_t storage, uint64_t offset, std::span<std::byte> out) const override {
        read_at(fd_, path_, places_[storage] + offset, out);
    }

private:
    struct Storage {
        size_t index;
        uint64_t bytes;
    };

    bool is_storage(Pickle::Id reference) const {
        const Pickle::Id tuple = pickle_[reference].arguments;
        return pickle_.kind(tuple) == Pickle::Kind::kTuple && !pickle_[tuple].items.empty() &&
               pickle_.text(pickle_[tuple].items[0]) == "storage";
    }

    int fd_;
    fs::path path_;
    std::map<std::string, Storage, std::less<>> storages_;
    std::vector<uint64_t> places_;
};

}  // namespace

StorageReference storage_reference(const Pickle& pickle, Pickle::Id id) {
    using Kind = Pickle::Kind;
    const Pickle::Id tuple = pickle.kind(id) == Kind::kReference ? pickle[id].arguments : Pickle::kNothing;
    if (pickle.kind(tuple) != Kind::kTuple || pickle[tuple].items.size() < 5)
        refuse("a reference to a storage isn't one");
    const std::vector<Pickle::Id>& items = pickle[tuple].items;
    const auto count = [&](Pickle::Id number) {
        if (pickle.kind(number) != Kind::kInteger || pickle[number].integer < 0)
            refuse("the length of a storage is no whole number that isn't negative");
        return static_cast<uint64_t>(pickle[number].integer);
    };
    if (pickle.text(items[0]) != "storage" || pickle.kind(items[2]) != Kind::kText)
        refuse("a reference to a storage isn't one");
    // torch.FloatStorage, torch.cuda.FloatStorage, torch.storage.UntypedStorage: where it lay doesn't matter.
    const Pickle::Id type = items[1];
    if (pickle.kind(type) != Kind::kGlobal || !pickle.text(pickle[type].callable).starts_with("torch"))
        refuse("the type of a storage is none of torch's");
    const std::string_view name = pickle.text(pickle[type].arguments);
    const auto* row = std::find_if(std::begin(kStorageTypes), std::end(kStorageTypes),
                                   [&](const TypeRow& r) { return r.name == name; });
    if (row == std::end(kStorageTypes)) refuse(fmt::format("the storage type '{}' is unknown", shown(name)));

    StorageReference out{.key = pickle.text(items[2]),
                         .type = row->name,
                         .dtype = row->dtype,
                         .element_size = row->size,
                         .elements = count(items[4])};
    out.count = out.elements;
    // Very old files: a storage may be a part of another, (key, first, elements).
    if (items.size() > 5 && pickle.kind(items[5]) == Kind::kTuple) {
        const std::vector<Pickle::Id>& view = pickle[items[5]].items;
        if (view.size() != 3) refuse("a part of a storage isn't given by three values");
        out.first = count(view[1]);
        out.count = count(view[2]);
        if (out.first > out.elements || out.count > out.elements - out.first)
            refuse("a part of a storage reaches beyond it");
    }
    return out;
}

std::unique_ptr<TorchContainer> TorchContainer::open(int fd, uint64_t size, const fs::path& path) {
    std::array<char, 512> head{};
    const size_t known = std::min<uint64_t>(size, head.size());
    read_at(fd, path, 0, std::as_writable_bytes(std::span(head)).first(known));
    const std::string_view text(head.data(), known);
    if (text.starts_with("PK\x03\x04") || text.starts_with("PK\x05\x06"))
        return std::make_unique<ZipContainer>(fd, path);
    if (text.size() == head.size() && text.substr(257, 5) == "ustar")
        refuse(
            "it is a tar archive, as PyTorch wrote before 0.1.10; load it with a PyTorch of today and save it again");
    if (text.starts_with('\x80') && text.size() > 1 && text[1] >= 2 && text[1] <= 5)
        return std::make_unique<LegacyContainer>(fd, size, path);
    return nullptr;
}

}  // namespace biophony
