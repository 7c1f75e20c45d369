#include "tasks/embed.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace biophony {

namespace {

/// What libsndfile reads, and what people take for readable: those are named and left out, not passed over.
constexpr std::array<std::string_view, 18> kExtensions = {".wav", ".wave", ".flac", ".ogg",  ".oga", ".opus",
                                                          ".mp3", ".aif",  ".aiff", ".aifc", ".au",  ".snd",
                                                          ".w64", ".rf64", ".caf",  ".m4a",  ".aac", ".wma"};

bool is_sound(const fs::path& path) {
    std::string extension = path.extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

void collect(const fs::path& folder, std::vector<fs::path>& parents, std::vector<std::string>& files) {
    std::error_code error;
    const fs::path real = fs::canonical(folder, error);
    if (error || std::find(parents.begin(), parents.end(), real) != parents.end()) return;
    parents.push_back(real);
    const fs::directory_iterator entries(folder, error);
    if (error) throw Error(Code::kRunFailed, "can't be listed: " + error.message(), {.file = folder.string()});
    for (const fs::directory_entry& entry : entries) {
        if (entry.path().filename().string().starts_with('.')) continue;
        std::error_code ignored;
        if (entry.is_directory(ignored))
            collect(entry.path(), parents, files);
        else if (entry.is_regular_file(ignored) && is_sound(entry.path()))
            files.push_back(entry.path().string());
    }
    parents.pop_back();
}

}  // namespace

std::vector<EmbedInput> find_sounds(const std::vector<std::string>& paths) {
    std::vector<EmbedInput> out;
    for (const std::string& path : paths) {
        std::error_code ignored;
        const fs::file_status status = fs::status(path, ignored);
        if (!fs::exists(status)) throw Error(Code::kInvalid, "there is no such file or folder", {.file = path});
        if (!fs::is_directory(status)) {
            out.push_back({.path = path});
            continue;
        }
        std::vector<fs::path> parents;
        std::vector<std::string> files;
        collect(path, parents, files);
        if (files.empty())
            throw Error(Code::kInvalid,
                        "holds no sound files, nor do its folders; expected names that end in .wav, .flac, .ogg, "
                        ".mp3, .aif or the like",
                        {.file = path});
        std::sort(files.begin(), files.end());
        for (std::string& file : files) out.push_back({.path = std::move(file)});
    }
    return out;
}

int64_t window_count(int64_t samples, int64_t window, int64_t hop) {
    if (samples <= 0) return 0;
    const int64_t inside = (samples + hop - 1) / hop;
    return samples <= window ? 1 : std::min(inside, 1 + (samples - window + hop - 1) / hop);
}

}  // namespace biophony
