#include "base/memory.hpp"

#include <algorithm>
#include <fstream>
#include <string>

namespace biophony {

namespace {

/// The number after `key` in lines of a key, a number and perhaps a unit; `otherwise` where there is none.
double number_of(const std::filesystem::path& file, const std::string& key, double otherwise) {
    std::ifstream in(file);
    double value = 0;
    for (std::string found, rest; in >> found >> value; std::getline(in, rest))
        if (found == key) return value;
    return otherwise;
}

}  // namespace

double free_memory(const std::filesystem::path& root) {
    const double free = number_of(root / "proc/meminfo", "MemAvailable:", 1e18 / 1024) * 1024;
    const std::filesystem::path group = root / "sys/fs/cgroup";
    double limit = 0, used = 0;
    if (!(std::ifstream(group / "memory.max") >> limit) || !(std::ifstream(group / "memory.current") >> used))
        return free;
    return std::min(free, limit - (used - number_of(group / "memory.stat", "inactive_file", 0)));
}

}  // namespace biophony
