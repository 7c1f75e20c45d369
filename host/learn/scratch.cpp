#include "learn/scratch.hpp"

#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <numeric>
#include <string>

namespace biophony {

at::Tensor scratch_tensor(const std::vector<int64_t>& shape, const std::filesystem::path& folder) {
    const auto bytes =
        static_cast<size_t>(std::accumulate(shape.begin(), shape.end(), int64_t{sizeof(float)}, std::multiplies<>()));
    if (bytes == 0) return {};
    int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0) {  // not every file system knows O_TMPFILE
        std::string name = (folder / "scratch-XXXXXX").string();
        file = ::mkstemp(name.data());
        if (file < 0) return {};
        ::unlink(name.c_str());
    }
    void* memory = MAP_FAILED;
    // Not posix_fallocate, which writes zeros where the file system can't reserve.
    if (::fallocate(file, 0, 0, static_cast<off_t>(bytes)) == 0)
        memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);  // the mapping keeps it
    if (memory == MAP_FAILED) return {};
    return at::from_blob(
        memory, shape, [bytes](void* at) { ::munmap(at, bytes); }, at::kFloat);
}

}  // namespace biophony
