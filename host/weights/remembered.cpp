#include "weights/remembered.hpp"

#include <fmt/format.h>

#include <utility>

#include "base/file_hashes.hpp"
#include "base/files.hpp"
#include "base/json.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

Json record_of(const SafetensorsFile::Identity& identity) {
    return {{"version", 1},          {"device", identity.device},   {"inode", identity.inode},
            {"size", identity.size}, {"changed", identity.changed}, {"modified", identity.modified}};
}

/// Empty where there is no cache folder.
fs::path path_of(const char* folder, const std::string& name) {
    try {
        return cache_folder() / folder / (name + ".json");
    } catch (const fs::filesystem_error&) {
        return {};
    }
}

bool old_enough(const SafetensorsFile& file) {
    return file.opened_at() - file.opened().changed >= kFileSettles;
}

/// The object "tensors" of what stands there for just these files; null where there is nothing, or anything else.
Json recall(const fs::path& path, const Json& expected) try {
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) return {};
    const Json record = Json::parse(read_file(path), nullptr, false);
    if (!record.is_object() || !record.contains("tensors") || !record["tensors"].is_object()) return {};
    for (const auto& [key, value] : expected.items())
        if (record.value(key, Json()) != value) return {};
    return record["tensors"];
} catch (const Error&) {
    return {};
}

template <class Values>
void note(const fs::path& path, Json record, const Values& tensors) try {
    if (path.empty()) return;
    record["tensors"] = tensors;
    write_file_atomically(path, record.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
} catch (const Error&) {
    // It will be read again.
}

/// The hashes of all tensors; empty where one is missing.
std::map<std::string, std::string> hashes_in(const Json& tensors, const SafetensorsFile& file) {
    if (!tensors.is_object() || tensors.size() != file.tensors().size()) return {};
    std::map<std::string, std::string> out;
    for (const TensorInfo& tensor : file.tensors()) {
        const auto found = tensors.find(tensor.name);
        if (found == tensors.end() || !found->is_string() || found->get_ref<const std::string&>().size() != 64)
            return {};
        out[tensor.name] = found->get<std::string>();
    }
    return out;
}

/// Where the squares of an expert stand, and what must stand with them.
std::pair<fs::path, Json> place_of_squares(const SafetensorsFile& file, const SafetensorsFile* base) {
    Json record = record_of(file.opened());
    record["sums"] = fmt::format("float64/1 blocks of {}", kSquaresBlock);
    std::string name = fmt::format("{}-{}", file.opened().device, file.opened().inode);
    if (base != nullptr) {
        record["base"] = record_of(base->opened());
        name += fmt::format("-{}-{}", base->opened().device, base->opened().inode);
    }
    return {path_of("squares", name), record};
}

}  // namespace

RememberedHashes remembered_hashes(const SafetensorsFile& file, unsigned threads) {
    const SafetensorsFile::Identity before = file.opened();
    const fs::path path = path_of("hashes", fmt::format("{}-{}", before.device, before.inode));
    if (auto known = hashes_in(recall(path, record_of(before)), file); !known.empty()) return {std::move(known), false};
    RememberedHashes out{tensor_hashes(file, threads), true};
    if (!(file.identity() == before))
        throw Error(Code::kRunFailed, "was changed while it was being read", {.file = file.path().string()});
    if (old_enough(file)) note(path, record_of(before), out.tensors);
    return out;
}

std::map<std::string, double> remembered_squares(const SafetensorsFile& file, const SafetensorsFile* base) {
    const auto [path, record] = place_of_squares(file, base);
    std::map<std::string, double> out;
    const Json tensors = recall(path, record);
    for (const auto& [name, value] : tensors.items())
        if (value.is_number() && value >= 0.0) out[name] = value;
    return out;
}

void remember_squares(const SafetensorsFile& file, const SafetensorsFile* base,
                      const std::map<std::string, double>& squares) {
    for (const SafetensorsFile* read : {&file, base})
        if (read != nullptr && (!old_enough(*read) || !(read->identity() == read->opened()))) return;
    const auto [path, record] = place_of_squares(file, base);
    note(path, record, squares);
}

}  // namespace biophony
