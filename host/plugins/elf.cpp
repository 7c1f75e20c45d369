#include "plugins/elf.hpp"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.hpp"

namespace biophony {

namespace {

constexpr uint64_t kLargestSection = 64 << 20;

#if defined(__x86_64__)
constexpr uint16_t kOwnMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr uint16_t kOwnMachine = EM_AARCH64;
#elif defined(__riscv)
constexpr uint16_t kOwnMachine = EM_RISCV;
#elif defined(__powerpc64__)
constexpr uint16_t kOwnMachine = EM_PPC64;
#else
#error "say here which e_machine this processor has"
#endif
constexpr unsigned char kOwnByteOrder = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;

std::string machine_name(uint16_t machine) {
    switch (machine) {
        case EM_386: return "x86 with 32 bits";
        case EM_ARM: return "ARM with 32 bits";
        case EM_X86_64: return "x86-64";
        case EM_AARCH64: return "AArch64";
        case EM_RISCV: return "RISC-V";
        case EM_PPC64: return "POWER";
        default: return fmt::format("machine number {}", machine);
    }
}

[[noreturn]] void refuse(const std::string& why) {
    throw Error(Code::kPlugin, why);
}

template <class T>
T read_as(const std::string& bytes, size_t index) {
    T value;
    std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
    return value;
}

}  // namespace

ElfLibrary::ElfLibrary(const std::filesystem::path& path) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) refuse(fmt::format("can't be read: {}", std::strerror(errno)));
    try {
        struct stat status {};
        if (::fstat(fd_, &status) != 0) refuse(fmt::format("can't be read: {}", std::strerror(errno)));
        if (!S_ISREG(status.st_mode)) refuse("no regular file");
        size_ = static_cast<uint64_t>(status.st_size);
        read_tables();
    } catch (...) {
        ::close(fd_);
        throw;
    }
}

ElfLibrary::~ElfLibrary() {
    ::close(fd_);
}

std::string ElfLibrary::bytes(uint64_t offset, uint64_t size, const char* what) const {
    if (offset > size_ || size > size_ - offset)
        refuse(fmt::format("truncated: its {} ends at byte {}, the file at byte {}", what,
                           size > UINT64_MAX - offset ? UINT64_MAX : offset + size, size_));
    std::string out(static_cast<size_t>(size), '\0');
    uint64_t done = 0;
    while (done < size) {
        const ssize_t got = ::pread(fd_, out.data() + done, size - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) refuse(fmt::format("can't be read: {}", got < 0 ? std::strerror(errno) : "it became shorter"));
        done += static_cast<uint64_t>(got);
    }
    return out;
}

void ElfLibrary::read_tables() {
    if (size_ < EI_NIDENT || bytes(0, SELFMAG, "magic") != ELFMAG) refuse("not an ELF file");
    const std::string ident = bytes(0, EI_NIDENT, "header");
    if (ident[EI_CLASS] != ELFCLASS64 || static_cast<unsigned char>(ident[EI_DATA]) != kOwnByteOrder) {
        foreign_ =
            fmt::format("for another machine: found {} bits and {}-endian, expected 64 bits and {}-endian",
                        ident[EI_CLASS] == ELFCLASS64 ? 64 : 32, ident[EI_DATA] == ELFDATA2LSB ? "little" : "big",
                        kOwnByteOrder == ELFDATA2LSB ? "little" : "big");
        return;
    }
    const auto header = read_as<Elf64_Ehdr>(bytes(0, sizeof(Elf64_Ehdr), "header"), 0);
    if (header.e_machine != kOwnMachine) {
        foreign_ = fmt::format("for another machine: found {}, expected {}", machine_name(header.e_machine),
                               machine_name(kOwnMachine));
        return;
    }
    if (header.e_type != ET_DYN) refuse(fmt::format("an ELF file, but no shared library (type {})", header.e_type));

    // What the loader maps must be there, else touching it is a SIGBUS.
    if (header.e_phnum > 0 && header.e_phentsize != sizeof(Elf64_Phdr))
        refuse(fmt::format("damaged: program headers of {} bytes", header.e_phentsize));
    const std::string programs =
        bytes(header.e_phoff, uint64_t{header.e_phnum} * sizeof(Elf64_Phdr), "program header table");
    for (size_t i = 0; i < header.e_phnum; ++i) {
        const auto program = read_as<Elf64_Phdr>(programs, i);
        if (program.p_type == PT_LOAD && (program.p_offset > size_ || program.p_filesz > size_ - program.p_offset))
            refuse(fmt::format("truncated: the file ends at byte {}, amid what is to be loaded", size_));
    }

    if (header.e_shoff == 0) return;
    if (header.e_shentsize != sizeof(Elf64_Shdr))
        refuse(fmt::format("damaged: section headers of {} bytes", header.e_shentsize));
    const auto first = read_as<Elf64_Shdr>(bytes(header.e_shoff, sizeof(Elf64_Shdr), "section header table"), 0);
    const uint64_t count = header.e_shnum != 0 ? header.e_shnum : first.sh_size;
    const uint64_t names_at = header.e_shstrndx != SHN_XINDEX ? header.e_shstrndx : first.sh_link;
    if (count > size_ / sizeof(Elf64_Shdr))
        refuse(fmt::format("truncated: {} sections don't fit into {} bytes", count, size_));
    const std::string table = bytes(header.e_shoff, count * sizeof(Elf64_Shdr), "section header table");
    if (names_at >= count) refuse("damaged: no section holds the sections' names");
    const auto names_header = read_as<Elf64_Shdr>(table, static_cast<size_t>(names_at));
    if (names_header.sh_size > kLargestSection) refuse("damaged: the sections' names take more than 64 MiB");
    const std::string names = bytes(names_header.sh_offset, names_header.sh_size, "table of section names");
    sections_.resize(static_cast<size_t>(count));
    for (size_t i = 0; i < sections_.size(); ++i) {
        const auto section = read_as<Elf64_Shdr>(table, i);
        if (section.sh_name < names.size()) sections_[i].name = names.c_str() + section.sh_name;
        sections_[i].type = section.sh_type;
        sections_[i].link = section.sh_link;
        sections_[i].offset = section.sh_offset;
        sections_[i].size = section.sh_type == SHT_NOBITS ? 0 : section.sh_size;
    }
}

std::string ElfLibrary::content(const Section& section) const {
    if (section.size > kLargestSection)
        refuse(fmt::format("its section '{}' has {} bytes, expected at most {}", section.name, section.size,
                           kLargestSection));
    return bytes(section.offset, section.size, "section");
}

std::optional<std::string> ElfLibrary::section(std::string_view name) const {
    for (const Section& section : sections_)
        if (section.name == name) return content(section);
    return std::nullopt;
}

std::vector<std::string> ElfLibrary::exported_symbols() const {
    std::vector<std::string> out;
    for (const Section& section : sections_) {
        if (section.type != SHT_DYNSYM || section.link >= sections_.size()) continue;
        const std::string symbols = content(section), names = content(sections_[section.link]);
        for (size_t i = 0; i < symbols.size() / sizeof(Elf64_Sym); ++i) {
            const auto symbol = read_as<Elf64_Sym>(symbols, i);
            const unsigned binding = ELF64_ST_BIND(symbol.st_info), visibility = ELF64_ST_VISIBILITY(symbol.st_other);
            if (symbol.st_shndx == SHN_UNDEF || symbol.st_name >= names.size() || binding == STB_LOCAL ||
                visibility == STV_HIDDEN || visibility == STV_INTERNAL)
                continue;
            out.emplace_back(names.c_str() + symbol.st_name);
        }
    }
    return out;
}

}  // namespace biophony
