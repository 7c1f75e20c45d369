// A shared library as a file: what is in it, told without running any of it. The one place that knows the object format
// (ELF-64, as in the System V ABI's "gABI", chapters 4 and 5); another format would be another file like this one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace biophony {

/// An open ELF-64 shared library. Every offset and size of the file is checked before it is followed: a library whose
/// parts lie beyond its end would kill the process that loads it with SIGBUS.
class ElfLibrary {
public:
    /// Reads the header and the two tables. Throws Error(kPlugin): no regular file, not ELF, not a shared library,
    /// truncated.
    explicit ElfLibrary(const std::filesystem::path& path);
    ~ElfLibrary();
    ElfLibrary(const ElfLibrary&) = delete;
    ElfLibrary& operator=(const ElfLibrary&) = delete;

    /// "found AArch64, expected x86-64" where the library is for another kind of machine; then nothing else is known.
    const std::string& foreign() const { return foreign_; }
    /// The bytes of a section, or nothing where there is none. Throws Error(kPlugin) where it is larger than 64 MiB.
    std::optional<std::string> section(std::string_view name) const;
    /// Names of the dynamic symbols that the library defines and other libraries can see, in the table's order.
    std::vector<std::string> exported_symbols() const;

private:
    struct Section {
        std::string name;
        uint32_t type = 0;
        uint32_t link = 0;
        uint64_t offset = 0;
        uint64_t size = 0;
    };

    void read_tables();
    std::string bytes(uint64_t offset, uint64_t size, const char* what) const;
    std::string content(const Section& section) const;

    int fd_ = -1;
    uint64_t size_ = 0;
    std::string foreign_;
    std::vector<Section> sections_;
};

}  // namespace biophony
