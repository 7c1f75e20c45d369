#include "pipeline/store.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/sha256.hpp"

namespace biophony {

namespace {

void make_folders(const fs::path& path) {
    std::error_code problem;
    fs::create_directories(path, problem);
    if (problem) {
        errno = problem.value();
        throw_errno("make the folder", path);
    }
}

/// Name, size and hash of every file below the folder, sorted by name.
Json list_files(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    Json list = Json::array();
    for (const fs::path& file : files)
        list.push_back({{"name", file.lexically_relative(folder).string()},
                        {"bytes", fs::file_size(file)},
                        {"sha256", sha256_file(file)}});
    return list;
}

std::string digest_of(const Json& files, bool with_local) {
    Sha256 hash;
    for (const Json& file : files) {
        const std::string name = file.at("name");
        if (!with_local && name.ends_with(".local.json")) continue;
        hash.update(fmt::format("{} {}\n", name, file.at("sha256").get<std::string>()));
    }
    return hash.hex();
}

}  // namespace

Store::Store(fs::path root) : root_(fs::absolute(std::move(root)).lexically_normal()) {
    make_folders(root_ / "objects");
    make_folders(root_ / "tmp");
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root_ / "tmp", ignored))
        if (!owner_is_alive(entry.path().filename().string())) fs::remove_all(entry.path(), ignored);
}

fs::path Store::object(const std::string& key) const {
    return root_ / "objects" / key.substr(0, 2) / key;
}

std::optional<StoredResult> Store::find(const std::string& key) const {
    const fs::path folder = object(key);
    std::error_code problem;
    if (!fs::exists(folder / "result.json", problem)) return std::nullopt;
    StoredResult result{.key = key, .folder = folder};
    try {
        result.record = read_json(folder / "result.json");
        result.digest = result.record.at("digest");
        for (const Json& file : result.record.at("files"))
            if (fs::file_size(folder / file.at("name").get<std::string>()) != file.at("bytes").get<uint64_t>())
                return std::nullopt;
    } catch (const std::exception&) {
        return std::nullopt;  // somebody changed it; it is made again
    }
    return result;
}

fs::path Store::make_temporary() const {
    const fs::path folder = root_ / "tmp" / unique_name();
    make_folders(folder);
    return folder;
}

StoredResult Store::put(const fs::path& temporary, std::string key, const Json& about) const {
    const Json files = list_files(temporary);
    StoredResult result{.key = std::move(key), .digest = digest_of(files, false)};
    if (result.key.empty()) result.key = digest_of(files, true);
    result.record = about;
    result.record["format"] = "biophony-result/0";
    result.record["key"] = result.key;
    result.record["digest"] = result.digest;
    result.record["files"] = files;
    write_json(temporary / "result.json", result.record);
    for (const auto& entry : fs::recursive_directory_iterator(temporary))
        if (entry.is_regular_file() && ::chmod(entry.path().c_str(), 0444) != 0) throw_errno("protect", entry.path());
    sync_tree(temporary);

    result.folder = object(result.key);
    make_folders(result.folder.parent_path());
    if (::rename(temporary.c_str(), result.folder.c_str()) != 0) {
        if (errno != ENOTEMPTY && errno != EEXIST) throw_errno("rename to", result.folder);
        std::error_code ignored;
        // Another process was faster: equal keys mean equal bytes. If they aren't, what is there is damaged or of a
        // build that wasn't deterministic, and what was made now counts.
        if (std::optional<StoredResult> there = find(result.key);
            there && there->digest == result.digest && intact(*there)) {
            fs::remove_all(temporary, ignored);
            return *there;
        }
        const fs::path aside = root_ / "tmp" / unique_name();
        if (::rename(result.folder.c_str(), aside.c_str()) != 0) throw_errno("move away", result.folder);
        fs::remove_all(aside, ignored);
        if (::rename(temporary.c_str(), result.folder.c_str()) != 0) throw_errno("rename to", result.folder);
    }
    sync_path(result.folder.parent_path());
    return result;
}

bool Store::intact(const StoredResult& result) const {
    try {
        verify(result);
        return true;
    } catch (const Error&) {
        return false;
    }
}

void Store::verify(const StoredResult& result) const {
    for (const Json& file : result.record.at("files")) {
        const fs::path path = result.folder / file.at("name").get<std::string>();
        const std::string expected = file.at("sha256"), found = sha256_file(path);
        if (found != expected)
            throw Error(Code::kRunFailed,
                        fmt::format("was changed since it was made: found SHA-256 {}…, expected {}…; remove the folder "
                                    "{} and run again",
                                    found.substr(0, 12), expected.substr(0, 12), result.folder.string()),
                        {.file = path.string()});
    }
}

}  // namespace biophony
