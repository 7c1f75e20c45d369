#include "weights/merge_inputs.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/files.hpp"
#include "base/nearest.hpp"
#include "weights/remembered.hpp"

namespace biophony {

namespace {

constexpr size_t kMostOfAFile = 8;  // problems that are told of one file

/// What is wrong, file by file.
class Problems {
public:
    void add(Error error) {
        if (++of_file_[error.where().file] <= kMostOfAFile) errors_.push_back(std::move(error));
    }
    void add(const SafetensorsFile& file, const std::string& what) {
        add(Error(Code::kRunFailed, what, {.file = file.path().string()}));
    }
    /// Whether the next problem of this file will be told, or only counted.
    bool tells(const SafetensorsFile& file) const {
        const auto found = of_file_.find(file.path().string());
        return found == of_file_.end() || found->second < kMostOfAFile;
    }
    void throw_all() const {
        if (errors_.empty()) return;
        size_t all = 0;
        for (const auto& [file, count] : of_file_) all += count;
        if (all == 1) throw errors_.front();
        std::string text = fmt::format("{} problems with the inputs", all);
        for (const Error& error : errors_) text += fmt::format("\n  {}", error.what());
        for (const auto& [file, count] : of_file_)
            if (count > kMostOfAFile) text += fmt::format("\n  {}: … and {} more", file, count - kMostOfAFile);
        throw Error(Code::kRunFailed, text);
    }

private:
    std::vector<Error> errors_;
    std::map<std::string, size_t> of_file_;
};

std::string text_of(const TensorInfo& tensor) {
    return fmt::format("{} [{}]", to_string(tensor.dtype), fmt::join(tensor.shape, ", "));
}

bool same_bytes(const SafetensorsFile& a, const TensorInfo& in_a, const SafetensorsFile& b, const TensorInfo& in_b) {
    std::vector<std::byte> left(1 << 16), right(1 << 16);
    for (uint64_t done = 0; done < in_a.bytes();) {
        const size_t part = std::min<uint64_t>(left.size(), in_a.bytes() - done);
        a.read(in_a, done, std::span(left).first(part));
        b.read(in_b, done, std::span(right).first(part));
        if (std::memcmp(left.data(), right.data(), part) != 0) return false;
        done += part;
    }
    return true;
}

/// Names, shapes and types of a checkpoint against the base's.
void compare(const SafetensorsFile& base, const SafetensorsFile& file, Problems& problems) {
    std::vector<std::string> names;
    for (const TensorInfo& tensor : base.tensors()) {
        names.push_back(tensor.name);
        const TensorInfo* other = file.find(tensor.name);
        if (other == nullptr) {
            problems.add(file, fmt::format("lacks the tensor '{}' of the base {}", tensor.name, base.path().string()));
            continue;
        }
        const bool floating = is_floating(tensor.dtype) && is_floating(other->dtype);
        if (other->shape != tensor.shape || (!floating && other->dtype != tensor.dtype))
            problems.add(file, fmt::format("tensor '{}' is {}, the base's is {}", tensor.name, text_of(*other),
                                           text_of(tensor)));
        else if (!floating && !same_bytes(base, tensor, file, *other))
            problems.add(file, fmt::format("tensor '{}' ({}) differs from the base's; only floating tensors are merged",
                                           tensor.name, to_string(tensor.dtype)));
    }
    for (const TensorInfo& tensor : file.tensors())
        if (base.find(tensor.name) == nullptr)
            // The nearest name costs a look at all of them: only for what will be told.
            problems.add(
                file, fmt::format("has the tensor '{}', which the base {} lacks{}", tensor.name, base.path().string(),
                                  problems.tells(file) ? did_you_mean(tensor.name, names) : std::string()));
}

void check_card(const MergeInputs& inputs, const SafetensorsFile& file, const EncoderCard& card, const char* what,
                Problems& problems) {
    if (!inputs.card) return;
    if (card.encoder != inputs.card->encoder || card.config != inputs.card->config)
        problems.add(file, fmt::format("is {} of {}, but the base {} is {}{}", what, card.encoder,
                                       inputs.base->path().string(), inputs.card->encoder,
                                       card.encoder == inputs.card->encoder ? " with another config" : ""));
}

void check_out(const MergeInputs& inputs, const fs::path& out) {
    auto refuse = [&](const std::string& what) { throw Error(Code::kInvalid, what, {.file = out.string()}); };
    if (out.filename().empty()) refuse("is no name for a file to write");
    struct stat status {};
    if (::stat(out.c_str(), &status) != 0) return;
    if (!S_ISREG(status.st_mode)) refuse("is no file, expected one to write, or none");
    auto check = [&](const SafetensorsFile& file, const char* what) {
        if (file.opened().device == status.st_dev && file.opened().inode == status.st_ino)
            refuse(fmt::format("is {}: the result must be another file", what));
    };
    check(*inputs.base, "the base");
    for (const MergeExpert& expert : inputs.experts) check(expert.file(), "an expert");
}

}  // namespace

TensorRole role_of(const TensorInfo& tensor) {
    TensorRole out;
    std::string name = tensor.name;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    auto has = [&](std::string_view part) { return name.find(part) != std::string::npos; };
    if (tensor.shape.size() > 2)
        out.kind = has("embed") ? "embedding" : "convolution";
    else if (tensor.shape.size() == 2)
        out.kind = has("embed") && !has("proj") ? "embedding" : "matrix";
    else
        out.kind = name.ends_with("bias")                                             ? "bias"
                   : has("norm") || has(".ln") || name.starts_with("ln") || has("bn") ? "norm"
                                                                                      : "vector";
    for (size_t begin = 0; begin < name.size();) {
        const size_t end = std::min(name.find('.', begin), name.size());
        const auto [last, failed] = std::from_chars(name.data() + begin, name.data() + end, out.block);
        if (failed == std::errc() && last == name.data() + end && out.block >= 0) return out;
        out.block = -1;
        begin = end + 1;
    }
    return out;
}

MergeInputs open_inputs(const fs::path& base, const std::vector<fs::path>& experts, const fs::path& out,
                        unsigned threads, bool digests) {
    Problems problems;
    MergeInputs inputs;
    auto collect = [&](auto&& body) {
        try {
            body();
        } catch (const Error& error) {
            if (error.code() == Code::kCancelled) throw;
            problems.add(error);
        }
    };
    collect([&] {
        inputs.base = std::make_unique<SafetensorsFile>(SafetensorsFile::open(base));
        const std::string format = inputs.base->metadata("biophony.format");
        if (format.starts_with("task-vector/"))
            problems.add(*inputs.base, "is a task vector, expected the base that it was made from");
        else if (!format.empty())
            inputs.card = EncoderCard::from(*inputs.base);
    });
    allow_open_files(experts.size());
    for (const fs::path& path : experts)
        collect([&] {
            SafetensorsFile file = SafetensorsFile::open(path);
            if (file.metadata("biophony.format").starts_with("task-vector/"))
                inputs.experts.emplace_back(TaskVector::open(path, false));
            else
                inputs.experts.emplace_back(std::move(file));
        });
    if (inputs.base == nullptr) problems.throw_all();

    const SafetensorsFile& from = *inputs.base;
    auto hashes_of = [&](const SafetensorsFile& file) {
        RememberedHashes remembered = remembered_hashes(file, threads);
        for (const TensorInfo& tensor : file.tensors()) inputs.bytes_hashed += remembered.read ? tensor.bytes() : 0;
        return remembered;
    };
    std::optional<RememberedHashes> hashes;
    for (const MergeExpert& expert : inputs.experts) {
        const SafetensorsFile& file = expert.file();
        if (file.opened().device == from.opened().device && file.opened().inode == from.opened().inode) {
            problems.add(file, "is the base itself, expected an expert");
            continue;
        }
        collect([&] {
            if (!expert.is_vector()) {
                if (!file.metadata("biophony.format").empty())
                    check_card(inputs, file, EncoderCard::from(file), "an encoder", problems);
                compare(from, file, problems);
                return;
            }
            const EncoderCard& card = expert.vector().card();
            check_card(inputs, file, card, "a vector", problems);
            if (inputs.card && (card.encoder != inputs.card->encoder || card.config != inputs.card->config)) return;
            if (!hashes) {
                hashes = hashes_of(from);
                inputs.base_digest = weights_digest(from, hashes->tensors);
            }
            expert.vector().check_base(from, hashes->tensors);
        });
    }
    problems.throw_all();
    check_out(inputs, out);
    if (!digests) return inputs;
    if (!hashes) inputs.base_digest = weights_digest(from, hashes_of(from).tensors);
    for (const MergeExpert& expert : inputs.experts)
        inputs.digests.push_back(weights_digest(expert.file(), hashes_of(expert.file()).tensors));
    return inputs;
}

}  // namespace biophony
