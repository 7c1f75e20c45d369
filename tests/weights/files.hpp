// Files for the tests: a folder that goes away, raw safetensors bytes, small encoders.
#pragma once

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/files.hpp"
#include "base/json.hpp"
#include "base/random.hpp"
#include "weights/safetensors.hpp"
#include "weights/task_vector.hpp"

namespace biophony::test {

class Folder {
public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "biophony-test-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        path_ = name;
    }
    ~Folder() { fs::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    fs::path operator/(const std::string& name) const { return path_ / name; }
    size_t files() const {
        return static_cast<size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
    }

private:
    fs::path path_;
};

/// The error's text, or empty where nothing was thrown. Another exception fails the test.
inline std::string error_of(const std::function<void()>& body) {
    try {
        body();
        return {};
    } catch (const Error& error) {
        return error.what();
    }
}

inline Code code_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& error) {
        return error.code();
    }
    throw std::runtime_error("nothing was thrown");
}

/// Length, header, data.
inline std::string raw_file(const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &length, 8);
    return out + header + data;
}

using Values = std::map<std::string, std::vector<float>>;

struct EncoderFile {
    std::map<std::string, std::vector<int64_t>> shapes;  ///< one dimension of all values where not given
    Values values;
    std::map<std::string, std::vector<int64_t>> integers;
    EncoderCard card{"encoder:toy", {{"width", 4}}, Json::object()};
    std::map<std::string, std::string> metadata;

    void write(const fs::path& path) const {
        std::vector<SafetensorsWriter::Tensor> announced;
        auto shape = [&](const std::string& name, size_t size) {
            const auto found = shapes.find(name);
            return found == shapes.end() ? std::vector<int64_t>{static_cast<int64_t>(size)} : found->second;
        };
        for (const auto& [name, list] : values) announced.push_back({name, DType::kF32, shape(name, list.size())});
        for (const auto& [name, list] : integers) announced.push_back({name, DType::kI64, shape(name, list.size())});
        std::map<std::string, std::string> all = card.to_metadata();
        all.insert(metadata.begin(), metadata.end());
        SafetensorsWriter writer(path, announced, all);
        for (const auto& [name, list] : values) writer.write_floats(name, 0, list);
        for (const auto& [name, list] : integers) writer.write(name, 0, std::as_bytes(std::span(list)));
        writer.finish();
    }
};

inline std::vector<float> normal_values(size_t count, double deviation, uint64_t seed) {
    Random random(seed);
    std::vector<float> out(count);
    for (float& value : out) value = static_cast<float>(deviation * random.normal());
    return out;
}

}  // namespace biophony::test
