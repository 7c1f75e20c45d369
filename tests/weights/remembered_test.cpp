// Hashes of a base are remembered for just the state of the file that they were read from.
#include "weights/remembered.hpp"

#include <cstdlib>
#include <fstream>
#include <thread>

#include "files.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

void write_values(const fs::path& path, float last) {
    SafetensorsWriter writer(path, {{"a", DType::kF32, {3}}}, {});
    writer.write_floats("a", 0, std::vector<float>{1, 2, last});
    writer.finish();
}

}  // namespace

TEST_CASE("hashes are read once, and anew after a write or from a corrupt record") {
    const Folder folder;
    const char* before = std::getenv("BIOPHONY_CACHE");
    const std::string old = before == nullptr ? "" : before;
    ::setenv("BIOPHONY_CACHE", (folder / "cache").c_str(), 1);
    const fs::path path = folder / "base";
    write_values(path, 3);
    auto ask = [&] { return remembered_hashes(SafetensorsFile::open(path), 1); };
    CHECK(ask().read);
    CHECK(ask().read);  // it is too young to be remembered
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    const RememberedHashes first = ask();
    CHECK(first.read);
    const RememberedHashes second = ask();
    CHECK(!second.read);
    CHECK(second.tensors == first.tensors);
    const fs::path record = fs::directory_iterator(folder / "cache" / "hashes")->path();
    for (const char* text : {"{", R"({"version": 1})", ""}) {
        std::ofstream(record, std::ios::trunc) << text;
        const RememberedHashes again = ask();
        CHECK(again.read);
        CHECK(again.tensors == first.tensors);
        CHECK(!ask().read);  // and put right
    }
    // The same inode, another value.
    {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(-1, std::ios::end);
        file.put('\x41');
    }
    const RememberedHashes changed = ask();
    CHECK(changed.read);
    CHECK(changed.tensors != first.tensors);
    if (old.empty())
        ::unsetenv("BIOPHONY_CACHE");
    else
        ::setenv("BIOPHONY_CACHE", old.c_str(), 1);
}
