// PyTorch checkpoints made by hand, good and hostile: pickles instruction by instruction, both containers byte by byte.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace biophony::test {

template <class T>
std::string little(T value) {
    std::string out(sizeof value, '\0');
    std::memcpy(out.data(), &value, sizeof value);
    return out;
}

// Each gives the instructions that leave one value on the stack.
inline std::string text(const std::string& value) {
    return "X" + little<uint32_t>(static_cast<uint32_t>(value.size())) + value;
}
inline std::string integer(int64_t value) {
    if (value == static_cast<int32_t>(value)) return "J" + little<int32_t>(static_cast<int32_t>(value));
    return std::string("\x8a\x08") + little(value);
}
inline std::string global(const std::string& module, const std::string& name) {
    return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::string>& values) {
    std::string out = "(";
    for (const std::string& value : values) out += value;
    return out + "t";
}
inline std::string integers(const std::vector<int64_t>& values) {
    std::vector<std::string> out;
    for (const int64_t value : values) out.push_back(integer(value));
    return tuple(out);
}
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& values) {
    std::string out = "}(";
    for (const auto& [key, value] : values) out += text(key) + value;
    return out + "u";
}
inline std::string call(const std::string& what, const std::vector<std::string>& arguments) {
    return what + tuple(arguments) + "R";
}
inline std::string storage(const std::string& key, int64_t elements, const std::string& type = "FloatStorage") {
    return tuple({text("storage"), global("torch", type), text(key), text("cpu"), integer(elements)}) + "Q";
}
inline std::string tensor(const std::string& storage, int64_t first, const std::vector<int64_t>& shape,
                          const std::vector<int64_t>& strides) {
    return call(global("torch._utils", "_rebuild_tensor_v2"),
                {storage, integer(first), integers(shape), integers(strides), "\x89",
                 global("collections", "OrderedDict") + ")R"});
}
inline std::string pickle(const std::string& value) {
    return "\x80\x02" + value + ".";
}

/// The bytes of float32 values.
inline std::string floats(const std::vector<float>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

/// A file as before PyTorch 1.6; storages are key → (elements, bytes).
inline std::string legacy(const std::string& value,
                          const std::vector<std::pair<std::string, std::pair<int64_t, std::string>>>& storages,
                          bool little_endian = true) {
    std::string out = pickle(std::string("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12)) +
                      pickle(integer(1001)) + pickle(dict({{"little_endian", little_endian ? "\x88" : "\x89"}})) +
                      pickle(value);
    std::string keys = "](", data;
    for (const auto& [key, content] : storages) {
        keys += text(key);
        data += little<int64_t>(content.first) + content.second;
    }
    return out + pickle(keys + "e") + data;
}

struct ZipEntry {
    std::string name, content;
    uint16_t method = 0;  ///< 0 = stored
    int64_t moved = 0;    ///< added to the place that the directory says
};

/// A zip archive; checksums are left zero, as torch may leave them.
inline std::string zip(const std::vector<ZipEntry>& entries) {
    std::string out, directory;
    for (const ZipEntry& entry : entries) {
        const auto size = static_cast<uint32_t>(entry.content.size());
        const std::string sizes = little<uint16_t>(20) + little<uint16_t>(0) + little(entry.method) +
                                  little<uint32_t>(0) + little<uint32_t>(0) + little(size) + little(size) +
                                  little<uint16_t>(static_cast<uint16_t>(entry.name.size())) + little<uint16_t>(0);
        directory += "PK\x01\x02" + little<uint16_t>(20) + sizes + little<uint16_t>(0) + little<uint16_t>(0) +
                     little<uint16_t>(0) + little<uint32_t>(0) +
                     little<uint32_t>(static_cast<uint32_t>(static_cast<int64_t>(out.size()) + entry.moved)) +
                     entry.name;
        out += "PK\x03\x04" + sizes + entry.name + entry.content;
    }
    const auto count = static_cast<uint16_t>(entries.size());
    return out + directory + "PK\x05\x06" + little<uint32_t>(0) + little(count) + little(count) +
           little<uint32_t>(static_cast<uint32_t>(directory.size())) +
           little<uint32_t>(static_cast<uint32_t>(out.size())) + little<uint16_t>(0);
}

}  // namespace biophony::test
