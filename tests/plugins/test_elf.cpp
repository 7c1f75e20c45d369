#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "base/random.hpp"
#include "plugin_files.hpp"
#include "plugins/elf.hpp"

using namespace biophony;
using Catch::Matchers::Contains;

namespace {

std::string problem_of(const fs::path& path) {
    try {
        const ElfLibrary elf(path);
        return elf.foreign();
    } catch (const Error& error) {
        CHECK(error.code() == Code::kPlugin);
        return error.message().text;
    }
}

/// Everything that can be asked; only Error may come out of it.
void read_all(const fs::path& path) {
    try {
        const ElfLibrary elf(path);
        static_cast<void>(elf.section("bph_meta"));
        static_cast<void>(elf.section("bph_abi"));
        static_cast<void>(elf.exported_symbols());
    } catch (const Error&) {
    }
}

}  // namespace

TEST_CASE("a section is read without loading the library") {
    const ElfLibrary elf(kAnimals / "aborts.so");
    CHECK(elf.foreign().empty());
    REQUIRE(elf.section("bph_meta"));
    CHECK_THAT(*elf.section("bph_meta"), Contains("\"zoo-aborts\""));
    CHECK_FALSE(elf.section("bph_met"));
    CHECK_FALSE(elf.section("bph_metadata"));
    CHECK(elf.exported_symbols() == std::vector<std::string>{"biophony_plugin_entry"});
    const auto shown = ElfLibrary(kAnimals / "exports_too_much.so").exported_symbols();
    CHECK(std::find(shown.begin(), shown.end(), "zoo_shown") != shown.end());
}

TEST_CASE("files that are no shared library say so") {
    const Scratch scratch;
    const std::string good = read_file(kAnimals / "good.so");
    CHECK_THAT(problem_of(scratch.write("text.so", "this is a plugin, honestly\n")), Contains("not an ELF file"));
    CHECK_THAT(problem_of(scratch.write("empty.so", "")), Contains("not an ELF file"));
    CHECK_THAT(problem_of(scratch.folder() / "none.so"), Contains("No such file"));
    CHECK_THAT(problem_of(scratch.folder()), Contains("no regular file"));
    CHECK_THAT(problem_of(scratch.write("magic.so", good.substr(0, 20))), Contains("truncated"));
    // The section table stands at the end; half a file has lost it.
    CHECK_THAT(problem_of(scratch.write("half.so", good.substr(0, good.size() / 2))), Contains("truncated"));
    CHECK_THAT(problem_of(scratch.write("short.so", good.substr(0, good.size() - 1))), Contains("truncated"));

    std::string other = good;
    other[offsetof(Elf64_Ehdr, e_machine)] = static_cast<char>(EM_SPARCV9);
    CHECK_THAT(problem_of(scratch.write("sparc.so", other)),
               Contains("another machine") && Contains("found machine number 43") && Contains("expected"));
    other = good;
    other[EI_CLASS] = ELFCLASS32;
    CHECK_THAT(problem_of(scratch.write("small.so", other)), Contains("found 32 bits") && Contains("expected 64 bits"));
    other = good;
    other[offsetof(Elf64_Ehdr, e_type)] = ET_REL;
    CHECK_THAT(problem_of(scratch.write("object.so", other)), Contains("no shared library"));
}

TEST_CASE("damaged libraries are read without harm") {
    const std::string good = read_file(kAnimals / "good.so");
    Random random(7);
    const int file = ::memfd_create("damaged", MFD_CLOEXEC);
    REQUIRE(file >= 0);
    const fs::path path = "/proc/self/fd/" + std::to_string(file);
    // The header and the tables, where offsets and sizes are.
    Elf64_Ehdr header;
    std::memcpy(&header, good.data(), sizeof(header));
    for (int round = 0; round < 5000; ++round) {
        std::string bytes = good;
        for (int i = 0; i < 4; ++i) {
            const uint64_t in_table = header.e_shoff + random.below(header.e_shnum * sizeof(Elf64_Shdr));
            const uint64_t at = round % 3 == 0   ? random.below(sizeof(header))
                                : round % 3 == 1 ? in_table
                                                 : random.below(good.size());
            bytes[at] = static_cast<char>(random.below(2) == 0 ? 0xff : random.below(256));
        }
        if (round % 5 == 0) bytes.resize(random.below(bytes.size()));
        REQUIRE(::ftruncate(file, static_cast<off_t>(bytes.size())) == 0);
        REQUIRE(::pwrite(file, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
        read_all(path);
    }
    ::close(file);
}
