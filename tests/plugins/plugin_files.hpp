// Files and folders for the tests of host/plugins.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/files.hpp"
#include "helper/torch_stand_in.hpp"
#include "plugins/registry.hpp"

namespace fs = std::filesystem;

inline const fs::path kAnimals = fs::path(BPH_BUILD_DIR) / "tests" / "zoo" / "animals";
inline const fs::path kHelper = fs::path(BPH_BUILD_DIR) / "bin" / "plugin_helper";

/// A folder of its own, gone at the end. Until then the cache folder is in it, plugin_helper probes, and LibTorch is
/// the stand-in's.
class Scratch {
public:
    Scratch() {
        std::string name = (fs::temp_directory_path() / "biophony-test-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        folder_ = fs::canonical(name);
        ::setenv("BIOPHONY_CACHE", cache().c_str(), 1);
        biophony::set_probe_options({.executable = kHelper});
        biophony::set_torch_hooks(torch_stand_in());
    }
    ~Scratch() {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
        ::unsetenv("BIOPHONY_CACHE");
        biophony::set_probe_options({});
        biophony::set_torch_hooks({});
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    const fs::path& folder() const { return folder_; }
    fs::path cache() const { return folder_ / "cache"; }
    /// A file below the folder.
    fs::path write(const fs::path& name, const std::string& content) const {
        const fs::path path = folder_ / name;
        fs::create_directories(path.parent_path());
        std::ofstream(path, std::ios::binary) << content;
        return path;
    }
    /// A copy of an animal: "good" as "a/good.so".
    fs::path copy(const std::string& animal, const fs::path& name) const {
        return write(name, biophony::read_file(kAnimals / (animal + ".so")));
    }

private:
    fs::path folder_;
};
