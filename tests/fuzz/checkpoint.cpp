// Checkpoints of every container: opened, and all small tensors read. Whatever the bytes, it ends with tensors or with
// an Error; a crash, another exception, memory without bounds or a hang is what is looked for.
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "weights/checkpoint.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace biophony;
    static const int memory = ::memfd_create("checkpoint", MFD_CLOEXEC);
    static const std::string path = "/proc/self/fd/" + std::to_string(memory);
    if (::ftruncate(memory, 0) != 0 || ::pwrite(memory, data, size, 0) != static_cast<ssize_t>(size)) ::abort();
    try {
        const Checkpoint checkpoint = Checkpoint::open(path);
        uint64_t total = 0;
        for (const TensorInfo& tensor : checkpoint.tensors()) {
            if ((total += tensor.bytes()) > (1 << 20)) break;
            std::vector<std::byte> bytes(tensor.bytes());
            checkpoint.read(tensor, 0, bytes);
            if (!is_floating(tensor.dtype)) continue;
            // In two parts, so that one begins within the tensor.
            std::vector<float> floats(tensor.elements());
            const size_t half = floats.size() / 2;
            checkpoint.read_floats(tensor, half, std::span(floats).subspan(half));
            checkpoint.read_floats(tensor, 0, std::span(floats).first(half));
        }
        // What is given as JSON is JSON. A safetensors file's metadata is whatever its author wrote.
        if (checkpoint.safetensors() == nullptr)
            for (const std::string* text : {&checkpoint.config(), &checkpoint.labels()})
                if (!text->empty() && !Json::accept(*text)) ::abort();
    } catch (const Error&) {
    }
    return 0;
}
