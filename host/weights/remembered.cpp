#include "weights/remembered.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/files.hpp"
#include "base/json.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

constexpr int64_t kYoung = 2'000'000'000;  // nanoseconds; times of files may be as coarse as a second

Json record_of(const SafetensorsFile::Identity& identity) {
    return {{"version", 1},          {"device", identity.device},   {"inode", identity.inode},
            {"size", identity.size}, {"changed", identity.changed}, {"modified", identity.modified}};
}

bool is_hash(const Json& value) {
    return value.is_string() && value.get_ref<const std::string&>().size() == 64;
}

/// What stands there for just this state of the file; empty where there is nothing, or anything else.
std::map<std::string, std::string> recall(const fs::path& path, const SafetensorsFile& file,
                                          const SafetensorsFile::Identity& identity) try {
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) return {};
    const Json record = Json::parse(read_file(path), nullptr, false);
    if (!record.is_object() || !record.contains("tensors") || !record["tensors"].is_object()) return {};
    const Json expected = record_of(identity);
    for (const auto& [key, value] : expected.items())
        if (record.value(key, Json()) != value) return {};
    const Json& tensors = record["tensors"];
    if (tensors.size() != file.tensors().size()) return {};
    std::map<std::string, std::string> out;
    for (const TensorInfo& tensor : file.tensors()) {
        const auto found = tensors.find(tensor.name);
        if (found == tensors.end() || !is_hash(*found)) return {};
        out[tensor.name] = found->get<std::string>();
    }
    return out;
} catch (const Error&) {
    return {};
}

}  // namespace

RememberedHashes remembered_hashes(const SafetensorsFile& file, unsigned threads) {
    const SafetensorsFile::Identity before = file.opened();
    fs::path path;  // empty where there is no cache folder
    try {
        path = cache_folder() / "hashes" / fmt::format("{}-{}.json", before.device, before.inode);
    } catch (const fs::filesystem_error&) {
        // Then nothing is remembered.
    }
    if (std::map<std::string, std::string> known = recall(path, file, before); !known.empty())
        return {std::move(known), false};
    RememberedHashes out{tensor_hashes(file, threads), true};
    if (!(file.identity() == before))
        throw Error(Code::kRunFailed, "was changed while it was being read", {.file = file.path().string()});
    if (path.empty() || file.opened_at() - before.changed < kYoung) return out;
    try {
        Json record = record_of(before);
        record["tensors"] = out.tensors;
        write_file_atomically(path, record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    } catch (const Error&) {
        // It will be read again.
    }
    return out;
}

}  // namespace biophony
