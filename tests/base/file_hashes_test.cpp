#include "base/file_hashes.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "base/error.hpp"
#include "base/files.hpp"
#include "base/sha256.hpp"

using namespace biophony;

namespace {

/// A temporary folder that is the user's cache folder, too.
struct Folder {
    fs::path path = fs::temp_directory_path() / ("bph-hashes-" + unique_name());
    std::string before = std::getenv("BIOPHONY_CACHE") == nullptr ? "" : std::getenv("BIOPHONY_CACHE");
    Folder() {
        fs::create_directories(path);
        ::setenv("BIOPHONY_CACHE", (path / "cache").c_str(), 1);
    }
    ~Folder() {
        if (before.empty())
            ::unsetenv("BIOPHONY_CACHE");
        else
            ::setenv("BIOPHONY_CACHE", before.c_str(), 1);
        fs::remove_all(path);
    }
};

}  // namespace

TEST_CASE("a file is read once, in this process and the next") {
    Folder folder;
    const fs::path large = folder.path / "large", small = folder.path / "small";
    std::ofstream(large) << std::string(1 << 20, 'x');
    std::ofstream(small) << "abc";
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));  // younger ones aren't remembered
    FileHashes hashes;
    for (int i = 0; i < 3; ++i) {
        CHECK(hashes.sha256(large) == sha256_file(large));
        CHECK(hashes.sha256(small) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
    CHECK(hashes.read() == 2);
    FileHashes later;  // of another process
    CHECK(later.sha256(large) == sha256_file(large));
    CHECK(later.read() == 0);
    later.sha256(small);
    CHECK(later.read() == 1);

    // A changed file is read again, and a spoiled note is none.
    std::ofstream(large, std::ios::in) << "y";
    CHECK(hashes.sha256(large) == sha256_file(large));
    CHECK(later.sha256(large) == sha256_file(large));
    for (const auto& note : fs::directory_iterator(folder.path / "cache" / "hashes"))
        std::ofstream(note.path(), std::ios::trunc) << R"({"stamp": 1, "sha256": [)";
    CHECK(FileHashes().sha256(large) == sha256_file(large));
}

TEST_CASE("a young file is read each time, and a missing one is an error") {
    Folder folder;
    const fs::path file = folder.path / "file";
    std::ofstream(file) << "one";
    FileHashes hashes;
    CHECK(hashes.sha256(file) == sha256_hex("one"));
    std::ofstream(file) << "two";  // of the same size, perhaps at the same time
    CHECK(hashes.sha256(file) == sha256_hex("two"));
    CHECK(hashes.read() == 2);
    CHECK_THROWS_AS(hashes.sha256(folder.path / "none"), Error);
}
