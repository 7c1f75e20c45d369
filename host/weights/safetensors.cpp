#include "weights/safetensors.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <optional>
#include <set>

#include "base/files.hpp"
#include "base/json.hpp"
#include "base/nearest.hpp"
#include "weights/kernels.hpp"

namespace biophony {

static_assert(std::endian::native == std::endian::little,
              "the format's numbers are little-endian and read as they are");

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxRank = 64;
constexpr uint64_t kRegion = 8 << 20;
constexpr const char* kMetadataKey = "__metadata__";

struct TypeRow {
    DType dtype;
    std::string_view name;
    size_t size;
    int rank;  ///< place in the reference writer's order of types, which sorts the data descending
};
constexpr std::array<TypeRow, 13> kTypes = {{{DType::kU64, "U64", 8, 12},
                                             {DType::kI64, "I64", 8, 11},
                                             {DType::kF64, "F64", 8, 10},
                                             {DType::kF32, "F32", 4, 9},
                                             {DType::kU32, "U32", 4, 8},
                                             {DType::kI32, "I32", 4, 7},
                                             {DType::kBF16, "BF16", 2, 6},
                                             {DType::kF16, "F16", 2, 5},
                                             {DType::kU16, "U16", 2, 4},
                                             {DType::kI16, "I16", 2, 3},
                                             {DType::kI8, "I8", 1, 2},
                                             {DType::kU8, "U8", 1, 1},
                                             {DType::kBool, "BOOL", 1, 0}}};

const TypeRow& row_of(DType dtype) {
    return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.dtype == dtype; });
}

/// Product of a shape and the size of an element in bytes; nothing where it doesn't fit 64 bits.
std::optional<uint64_t> bytes_of(const std::vector<int64_t>& shape, DType dtype) {
    uint64_t bytes = size_of(dtype);
    for (const int64_t dimension : shape)
        if (dimension < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes)) return {};
    return bytes;
}

std::string shape_text(const std::vector<int64_t>& shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// Names come from files: cut to a length that a message can bear.
std::string in_quotes(std::string_view name) {
    return name.size() <= 200 ? fmt::format("'{}'", name) : fmt::format("'{}…'", name.substr(0, 200));
}

void read_all(int fd, const fs::path& path, uint64_t offset, std::span<std::byte> out) {
    while (!out.empty()) {
        const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw_errno("read", path);
        if (got == 0)
            throw Error(Code::kRunFailed, "ends early: it was cut while it was being read", {.file = path.string()});
        offset += static_cast<uint64_t>(got);
        out = out.subspan(static_cast<size_t>(got));
    }
}

void write_all(int fd, const fs::path& path, uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) throw_errno("write", path);
        offset += static_cast<uint64_t>(put);
        bytes = bytes.subspan(static_cast<size_t>(put));
    }
}

/// Reads the header event by event, so that a hostile one is refused where it first leaves the format, before it can
/// cost memory. Depth 1 is the header's object, 2 a tensor's entry or the metadata, 3 a list in an entry.
class HeaderReader : public nlohmann::json_sax<Json> {
public:
    std::map<std::string, std::string> metadata;
    std::vector<TensorInfo> tensors;
    std::string problem;

    bool null() override { return unexpected("null"); }
    bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
    bool number_integer(int64_t value) override { return unexpected(fmt::format("the number {}", value)); }
    bool number_float(double, const std::string& text) override { return unexpected("the number " + text); }
    bool binary(Json::binary_t&) override { return unexpected("binary data"); }

    bool number_unsigned(uint64_t value) override {
        if (depth_ == 3 && field_ == "shape") {
            if (value > static_cast<uint64_t>(INT64_MAX))
                return fail(fmt::format("{} has a dimension of {}, which doesn't fit 63 bits", entry(), value));
            if (shape_.size() == kMaxRank)
                return fail(fmt::format("{} has more than {} dimensions", entry(), kMaxRank));
            shape_.push_back(static_cast<int64_t>(value));
            return true;
        }
        if (depth_ == 3 && field_ == "data_offsets") {
            if (offsets_.size() == 2) return fail(entry() + " has more than two data_offsets");
            offsets_.push_back(value);
            return true;
        }
        return unexpected(fmt::format("the number {}", value));
    }

    bool string(std::string& value) override {
        if (depth_ == 2 && in_metadata_) {
            metadata[field_] = value;
            return true;
        }
        if (depth_ == 2 && field_ == "dtype") {
            const auto found =
                std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.name == value; });
            if (found == kTypes.end()) {
                std::vector<std::string> names;
                for (const TypeRow& row : kTypes) names.emplace_back(row.name);
                return fail(fmt::format("{} has the unknown dtype {}; known are {}", entry(), in_quotes(value),
                                        fmt::join(names, ", ")));
            }
            dtype_ = found->dtype;
            return true;
        }
        return unexpected("the string " + in_quotes(value));
    }

    bool start_object(size_t) override {
        if (depth_ == 0 || (depth_ == 1 && !in_list_)) {
            if (++depth_ == 2) {
                fields_.clear();
                dtype_.reset();
                shape_.clear();
                offsets_.clear();
            }
            return true;
        }
        return unexpected("an object");
    }

    bool key(std::string& value) override {
        if (depth_ == 1) {
            if (!names_.insert(value).second) return fail(fmt::format("the key {} stands twice", in_quotes(value)));
            name_ = value;
            in_metadata_ = value == kMetadataKey;
            return true;
        }
        if (!fields_.insert(value).second)
            return fail(fmt::format("the key {} stands twice in {}", in_quotes(value), entry()));
        if (!in_metadata_ && value != "dtype" && value != "shape" && value != "data_offsets")
            return fail(fmt::format("{} has the unknown key {}; an entry has dtype, shape and data_offsets", entry(),
                                    in_quotes(value)));
        field_ = value;
        return true;
    }

    bool end_object() override {
        if (depth_-- == 2 && !in_metadata_) {
            for (const char* field : {"dtype", "shape", "data_offsets"})
                if (!fields_.contains(field)) return fail(fmt::format("{} lacks {}", entry(), field));
            if (offsets_.size() != 2)
                return fail(fmt::format("{} has {} data_offsets, expected two", entry(), offsets_.size()));
            tensors.push_back({name_, *dtype_, shape_, offsets_[0], offsets_[1]});
        }
        return true;
    }

    bool start_array(size_t) override {
        if (depth_ == 2 && !in_metadata_ && (field_ == "shape" || field_ == "data_offsets")) {
            in_list_ = true;
            ++depth_;
            return true;
        }
        return unexpected("a list");
    }

    bool end_array() override {
        in_list_ = false;
        --depth_;
        return true;
    }

    bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
        return fail(fmt::format("the header isn't JSON (byte {})", at));
    }

private:
    bool fail(std::string what) {
        problem = std::move(what);
        return false;
    }
    std::string entry() const { return in_metadata_ ? std::string(kMetadataKey) : "tensor " + in_quotes(name_); }
    bool unexpected(const std::string& found) {
        if (depth_ == 0) return fail("the header is " + found + ", expected an object");
        if (depth_ == 1) return fail(fmt::format("{} is {}, expected an object", entry(), found));
        if (in_metadata_)
            return fail(fmt::format("{}: {} is {}, expected a string", entry(), in_quotes(field_), found));
        const char* expected = depth_ == 3         ? "whole numbers that are not negative"
                               : field_ == "dtype" ? "a string"
                                                   : "a list of whole numbers";
        return fail(fmt::format("{} has {} in {}, expected {}", entry(), found, field_, expected));
    }

    int depth_ = 0;
    bool in_metadata_ = false, in_list_ = false;
    std::set<std::string> names_, fields_;
    std::string name_, field_;
    std::optional<DType> dtype_;
    std::vector<int64_t> shape_;
    std::vector<uint64_t> offsets_;
};

int64_t nanoseconds(const timespec& time) {
    return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

SafetensorsFile::Identity identity_of(const struct stat& status) {
    return {status.st_dev, status.st_ino, static_cast<uint64_t>(status.st_size),
            std::max(nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)), nanoseconds(status.st_mtim)};
}

}  // namespace

size_t size_of(DType dtype) {
    return row_of(dtype).size;
}
std::string_view to_string(DType dtype) {
    return row_of(dtype).name;
}
bool is_floating(DType dtype) {
    return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}
uint64_t TensorInfo::elements() const {
    return bytes() / size_of(dtype);
}

void allow_open_files(size_t count) {
    constexpr size_t kOthers = 128;
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= count + kOthers) return;
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, count + kOthers);
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

void read_widened(const TensorInfo& tensor, uint64_t first, std::span<float> out, const fs::path& path,
                  const std::function<void(uint64_t offset, std::span<std::byte> out)>& read) {
    if (!is_floating(tensor.dtype) && !tensor.affine)
        throw Error(Code::kRunFailed,
                    fmt::format("tensor {} is {}, expected F32, F16, BF16 or F64", in_quotes(tensor.name),
                                to_string(tensor.dtype)),
                    {.file = path.string()});
    if (tensor.dtype == DType::kF32) return read(first * sizeof(float), std::as_writable_bytes(out));
    std::array<std::byte, 1 << 15> raw;
    const size_t size = size_of(tensor.dtype);
    for (size_t done = 0; done < out.size();) {
        const size_t count = std::min(raw.size() / size, out.size() - done);
        read((first + done) * size, std::span(raw).first(count * size));
        widen(tensor, raw.data(), out.data() + done, count);
        done += count;
    }
}

void widen(const TensorInfo& tensor, const std::byte* raw, float* out, size_t count) {
    if (tensor.affine)
        kernels::widen_codes(raw, tensor.affine->minimum, tensor.affine->step, out, count);
    else
        kernels::widen(tensor.dtype, raw, out, count);
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
    SafetensorsFile out;
    out.path_ = path;
    auto refuse = [&](const std::string& what) {
        throw Error(Code::kRunFailed, "is no valid safetensors file: " + what, {.file = path.string()});
    };
    out.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (out.fd_ < 0) throw_errno("read", path);
    struct stat status {};
    if (::fstat(out.fd_, &status) != 0) throw_errno("read", path);
    if (!S_ISREG(status.st_mode))
        throw Error(Code::kRunFailed, S_ISDIR(status.st_mode) ? "is a folder, expected a file" : "is no regular file",
                    {.file = path.string()});
    timespec time{};
    ::clock_gettime(CLOCK_REALTIME, &time);
    out.opened_at_ = nanoseconds(time);
    out.opened_ = identity_of(status);
    const auto size = static_cast<uint64_t>(status.st_size);
    if (size < 8) refuse(fmt::format("it has {} bytes, expected at least 8", size));
    uint64_t length = 0;
    read_all(out.fd_, path, 0, std::as_writable_bytes(std::span(&length, 1)));
    if (length > kMaxHeader) refuse(fmt::format("the header has {} bytes, expected at most {}", length, kMaxHeader));
    if (length > size - 8) refuse(fmt::format("the header has {} bytes, but only {} follow", length, size - 8));
    std::string header(length, '\0');
    read_all(out.fd_, path, 8, std::as_writable_bytes(std::span(header)));
    if (!header.starts_with('{')) refuse("the header doesn't begin with '{'");
    if (header.find('\0') != std::string::npos) refuse("the header has a zero byte");

    HeaderReader reader;
    if (!Json::sax_parse(header, &reader)) refuse(reader.problem);
    out.metadata_ = std::move(reader.metadata);
    out.tensors_ = std::move(reader.tensors);
    out.data_begin_ = 8 + length;

    std::sort(out.tensors_.begin(), out.tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
        return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    const uint64_t data = size - out.data_begin_;
    uint64_t end = 0;
    for (const TensorInfo& tensor : out.tensors_) {
        const std::string name = "tensor " + in_quotes(tensor.name);
        if (tensor.begin > tensor.end)
            refuse(fmt::format("{} ends at byte {} before it begins at {}", name, tensor.end, tensor.begin));
        if (tensor.end > data)
            refuse(fmt::format("{} ends at byte {}, but the file has {} bytes of data", name, tensor.end, data));
        if (tensor.begin != end)
            refuse(fmt::format("{} begins at byte {} of the data, expected {} ({})", name, tensor.begin, end,
                               tensor.begin < end ? "it overlaps the one before" : "there is a gap"));
        const std::optional<uint64_t> expected = bytes_of(tensor.shape, tensor.dtype);
        if (!expected) refuse(fmt::format("{}: the shape {} overflows", name, shape_text(tensor.shape)));
        if (*expected != tensor.bytes())
            refuse(fmt::format("{} has {} bytes, but {} of shape {} take {}", name, tensor.bytes(),
                               to_string(tensor.dtype), shape_text(tensor.shape), *expected));
        end = tensor.end;
    }
    if (end != data) refuse(fmt::format("{} bytes follow the last tensor", data - end));
    out.by_name_.resize(out.tensors_.size());
    std::iota(out.by_name_.begin(), out.by_name_.end(), 0U);
    std::sort(out.by_name_.begin(), out.by_name_.end(),
              [&](uint32_t a, uint32_t b) { return out.tensors_[a].name < out.tensors_[b].name; });
    return out;
}

SafetensorsFile::~SafetensorsFile() {
    if (fd_ >= 0) ::close(fd_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_begin_(other.data_begin_),
      metadata_(std::move(other.metadata_)),
      tensors_(std::move(other.tensors_)),
      by_name_(std::move(other.by_name_)),
      opened_(other.opened_),
      opened_at_(other.opened_at_) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(data_begin_, other.data_begin_);
    std::swap(metadata_, other.metadata_);
    std::swap(tensors_, other.tensors_);
    std::swap(by_name_, other.by_name_);
    std::swap(opened_, other.opened_);
    std::swap(opened_at_, other.opened_at_);
    return *this;
}

std::string SafetensorsFile::metadata(const std::string& key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? std::string() : found->second;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
    const auto found =
        std::lower_bound(by_name_.begin(), by_name_.end(), name,
                         [&](uint32_t at, std::string_view wanted) { return tensors_[at].name < wanted; });
    return found == by_name_.end() || tensors_[*found].name != name ? nullptr : &tensors_[*found];
}

SafetensorsFile::Identity SafetensorsFile::identity() const {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) throw_errno("read", path_);
    return identity_of(status);
}

const TensorInfo& SafetensorsFile::require(std::string_view name) const {
    if (const TensorInfo* tensor = find(name)) return *tensor;
    std::vector<std::string> names;
    for (const TensorInfo& tensor : tensors_) names.push_back(tensor.name);
    throw Error(Code::kRunFailed, with_nearest(fmt::format("has no tensor {}", in_quotes(name)), name, names),
                {.file = path_.string()});
}

void SafetensorsFile::take_as_codes(std::string_view name, Affine affine) {
    const TensorInfo& tensor = require(name);
    if (tensor.dtype != DType::kU8)
        throw Error(Code::kRunFailed,
                    fmt::format("tensor {} is {}, expected U8", in_quotes(name), to_string(tensor.dtype)),
                    {.file = path_.string()});
    tensors_[static_cast<size_t>(&tensor - tensors_.data())].affine = affine;
}

void SafetensorsFile::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
    if (offset > tensor.bytes() || out.size() > tensor.bytes() - offset)
        throw Error(Code::kInternal,
                    fmt::format("bytes {} to {} of tensor {} were asked for, it has {}", offset, offset + out.size(),
                                in_quotes(tensor.name), tensor.bytes()),
                    {.file = path_.string()});
    read_all(fd_, path_, data_begin_ + tensor.begin + offset, out);
}

void SafetensorsFile::read_floats(const TensorInfo& tensor, uint64_t first, std::span<float> out) const {
    if (first > tensor.elements() || out.size() > tensor.elements() - first)
        throw Error(Code::kInternal,
                    fmt::format("elements {} to {} of tensor {} were asked for, it has {}", first, first + out.size(),
                                in_quotes(tensor.name), tensor.elements()),
                    {.file = path_.string()});
    read_widened(tensor, first, out, path_,
                 [&](uint64_t offset, std::span<std::byte> raw) { read(tensor, offset, raw); });
}

std::vector<float> SafetensorsFile::read_floats(std::string_view name) const {
    const TensorInfo& tensor = require(name);
    std::vector<float> out(tensor.elements());
    read_floats(tensor, 0, out);
    return out;
}

SafetensorsWriter::SafetensorsWriter(fs::path path, std::vector<Tensor> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(std::move(path)) {
    auto refuse = [&](const std::string& what) { throw Error(Code::kInternal, what, {.file = path_.string()}); };
    std::sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
        const int rank_a = row_of(a.dtype).rank, rank_b = row_of(b.dtype).rank;
        return rank_a != rank_b ? rank_a > rank_b : a.name < b.name;
    });
    std::string header = "{";
    auto add = [&](const std::string& key, const std::string& value) {
        header += fmt::format("{}{}:{}", header.size() > 1 ? "," : "", Json(key).dump(), value);
    };
    uint64_t total = 0;
    try {
        if (!metadata.empty()) add(kMetadataKey, Json(metadata).dump());
        for (Tensor& tensor : tensors) {
            const std::optional<uint64_t> bytes = bytes_of(tensor.shape, tensor.dtype);
            const uint64_t begin = total;
            if (!bytes || __builtin_add_overflow(total, *bytes, &total))
                refuse(
                    fmt::format("tensor {} can't have the shape {}", in_quotes(tensor.name), shape_text(tensor.shape)));
            if (tensor.name == kMetadataKey || tensors_.contains(tensor.name))
                refuse(fmt::format("the name {} is taken", in_quotes(tensor.name)));
            add(tensor.name, fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                         to_string(tensor.dtype), fmt::join(tensor.shape, ","), begin, total));
            tensors_[tensor.name].info = {tensor.name, tensor.dtype, std::move(tensor.shape), begin, total};
        }
    } catch (const Json::exception&) {
        refuse("a name or a metadata value isn't UTF-8");
    }
    header += '}';
    header.append((8 - header.size() % 8) % 8, ' ');
    if (header.size() > kMaxHeader)
        throw Error(Code::kRunFailed,
                    fmt::format("the header would have {} bytes, the format allows {}", header.size(), kMaxHeader),
                    {.file = path_.string()});
    data_begin_ = 8 + header.size();

    std::error_code problem;
    if (path_.has_parent_path()) fs::create_directories(path_.parent_path(), problem);
    if (problem) {
        errno = problem.value();
        throw_errno("make the folder", path_.parent_path());
    }
    temporary_ = path_.string() + ".tmp-" + unique_name();
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd_ < 0) throw_errno("write", temporary_);
    try {
        // A full disk is told now; a file system that can't reserve space tells it later.
        const auto size = static_cast<off_t>(data_begin_ + total);
        if (::fallocate(fd_, 0, 0, size) != 0 && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
            throw_errno(fmt::format("reserve {} bytes", size), path_);
        regions_ = std::vector<std::atomic<uint64_t>>((data_begin_ + total) / kRegion + 1);
        regions_[0] = std::min(data_begin_, kRegion);
        const uint64_t length = header.size();
        write_all(fd_, path_, 0, std::as_bytes(std::span(&length, 1)));
        write_all(fd_, path_, 8, std::as_bytes(std::span(header)));
    } catch (...) {
        ::close(fd_);
        ::unlink(temporary_.c_str());
        throw;
    }
}

SafetensorsWriter::~SafetensorsWriter() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
}

SafetensorsWriter::Slot& SafetensorsWriter::slot(std::string_view name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
        throw Error(Code::kInternal, fmt::format("tensor {} was not announced", in_quotes(name)),
                    {.file = path_.string()});
    return found->second;
}

void SafetensorsWriter::write(std::string_view name, uint64_t byte_offset, std::span<const std::byte> bytes) {
    Slot& target = slot(name);
    if (fd_ < 0 || byte_offset > target.info.bytes() || bytes.size() > target.info.bytes() - byte_offset)
        throw Error(Code::kInternal,
                    fmt::format("bytes {} to {} of tensor {} can't be written, it has {}", byte_offset,
                                byte_offset + bytes.size(), in_quotes(name), target.info.bytes()),
                    {.file = path_.string()});
    write_all(fd_, path_, data_begin_ + target.info.begin + byte_offset, bytes);
    target.written += bytes.size();
    start_writeback(data_begin_ + target.info.begin + byte_offset, bytes.size());
}

void SafetensorsWriter::start_writeback(uint64_t offset, uint64_t bytes) {
    while (bytes > 0) {
        const uint64_t region = offset / kRegion, part = std::min(bytes, (region + 1) * kRegion - offset);
        // The last region may never be full; finish() sees to it.
        if ((regions_[region] += part) == kRegion)
            ::sync_file_range(fd_, static_cast<off_t>(region * kRegion), kRegion, SYNC_FILE_RANGE_WRITE);
        offset += part;
        bytes -= part;
    }
}

void SafetensorsWriter::write_floats(std::string_view name, uint64_t first, std::span<const float> values) {
    if (const DType dtype = slot(name).info.dtype; dtype != DType::kF32)
        throw Error(Code::kInternal, fmt::format("tensor {} is {}, not F32", in_quotes(name), to_string(dtype)),
                    {.file = path_.string()});
    write(name, first * sizeof(float), std::as_bytes(values));
}

void SafetensorsWriter::finish() {
    for (const auto& [name, target] : tensors_)
        if (target.written != target.info.bytes())
            throw Error(Code::kInternal,
                        fmt::format("{} of {} bytes of tensor {} were written", target.written.load(),
                                    target.info.bytes(), in_quotes(name)),
                        {.file = path_.string()});
    if (::fsync(fd_) != 0) throw_errno("sync", path_);
    if (::close(std::exchange(fd_, -1)) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
        const int problem = errno;
        ::unlink(temporary_.c_str());
        errno = problem;
        throw_errno("write", path_);
    }
    sync_path(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
}

}  // namespace biophony
