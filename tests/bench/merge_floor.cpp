// For tests/bench/merge.sh: makes inputs, and measures what reading them and writing a file takes.
//
//   merge_floor make FOLDER EXPERTS WIDTH BLOCKS     base.safetensors and expert0.safetensors …, an encoder's tensors
//   merge_floor floor THREADS OUT FILE…              reads all files, once each, then copies the first one to OUT,
//                                                    durably; prints the seconds
//   merge_floor onepass THREADS OUT FILE…            the same in one pass: the first one is written as it is read
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kRead = 1 << 20;
constexpr size_t kRegion = 8 << 20;  // sent to the disk when it is full, as the engine does

uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}
/// About normal: the sum of four uniform numbers of 16 bits.
float normal(uint64_t seed, uint64_t index) {
    const uint64_t bits = mixed(mixed(seed) + index * 0x9e3779b97f4a7c15ULL);
    const auto sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    return (static_cast<float>(sum) / 65536.0F - 2.0F) * 1.7320508F;
}

struct Tensor {
    std::string name;
    std::vector<size_t> shape;
    size_t size() const {
        size_t out = 1;
        for (const size_t dimension : shape) out *= dimension;
        return out;
    }
};

std::vector<Tensor> tensors(size_t width, size_t blocks) {
    std::vector<Tensor> out = {{"patch_embedding.weight", {512, 1, 16, 16}},
                               {"layer_norm.weight", {512}},
                               {"layer_norm.bias", {512}},
                               {"post_extract_proj.weight", {width, 512}},
                               {"post_extract_proj.bias", {width}},
                               {"encoder.pos_conv.0.weight_v", {width, width / 16, 128}},
                               {"encoder.pos_conv.0.weight_g", {1, 1, 128}}};
    for (size_t block = 0; block < blocks; ++block) {
        const std::string at = "encoder.layers." + std::to_string(block) + ".";
        for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"}) {
            out.push_back({at + name + ".weight", {width, width}});
            out.push_back({at + name + ".bias", {width}});
        }
        out.push_back({at + "self_attn.grep_linear.weight", {8, 64}});
        for (const char* name : {"self_attn_layer_norm", "final_layer_norm"})
            for (const char* part : {".weight", ".bias"}) out.push_back({at + name + part, {width}});
        out.push_back({at + "fc1.weight", {4 * width, width}});
        out.push_back({at + "fc1.bias", {4 * width}});
        out.push_back({at + "fc2.weight", {width, 4 * width}});
        out.push_back({at + "fc2.bias", {width}});
    }
    return out;
}

/// θ_base ~ N(0, 0.02²), and for experts a step ~ N(0, 0.001²).
void make(const std::string& path, const std::vector<Tensor>& list, uint64_t expert) {
    std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
    size_t end = 0;
    for (const Tensor& tensor : list) {
        header += ",\"" + tensor.name + R"(":{"dtype":"F32","shape":[)";
        for (size_t i = 0; i < tensor.shape.size(); ++i)
            header += (i == 0 ? "" : ",") + std::to_string(tensor.shape[i]);
        header += "],\"data_offsets\":[" + std::to_string(end) + "," + std::to_string(end + 4 * tensor.size()) + "]}";
        end += 4 * tensor.size();
    }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    std::ofstream out(path, std::ios::binary);
    const uint64_t length = header.size();
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header;
    std::vector<float> values;
    for (size_t t = 0; t < list.size(); ++t) {
        values.resize(list[t].size());
        for (size_t k = 0; k < values.size(); ++k) {
            values[k] = 0.02F * normal(t + 1, k);
            if (expert > 0) values[k] += 0.001F * normal(1000 * expert + t, k);
        }
        out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(4 * values.size()));
    }
    if (!out.flush()) {
        std::perror(path.c_str());
        std::exit(1);
    }
}

double since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// On all threads, parts of the files in their order.
template <class Body>
void for_parts(unsigned threads, size_t parts, Body&& body) {
    std::atomic<size_t> next{0};
    std::vector<std::thread> workers;
    for (unsigned i = 0; i < threads; ++i)
        workers.emplace_back([&] {
            std::vector<char> buffer(kRead);
            for (size_t part; (part = next++) < parts;) body(part, buffer);
        });
    for (std::thread& worker : workers) worker.join();
}

size_t read_part(int fd, size_t part, std::vector<char>& buffer) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(part * kRead));
    if (got < 0) std::abort();
    return static_cast<size_t>(got);
}

}  // namespace

int main(int count, char** arguments) {
    const std::vector<std::string> args(arguments + 1, arguments + count);
    if (args.size() == 5 && args[0] == "make") {
        const std::vector<Tensor> list = tensors(std::stoul(args[3]), std::stoul(args[4]));
        for_parts(std::thread::hardware_concurrency(), std::stoul(args[2]) + 1, [&](size_t file, std::vector<char>&) {
            make(args[1] + (file == 0 ? "/base" : "/expert" + std::to_string(file - 1)) + ".safetensors", list, file);
        });
        return 0;
    }
    if (args.size() < 4 || (args[0] != "floor" && args[0] != "onepass")) return 2;
    const bool one_pass = args[0] == "onepass";
    const auto threads = static_cast<unsigned>(std::stoul(args[1]));
    std::vector<int> files;
    size_t size = 0, longest = 0;
    for (size_t i = 3; i < args.size(); ++i) {
        files.push_back(::open(args[i].c_str(), O_RDONLY));
        struct stat status {};
        if (::fstat(files.back(), &status) != 0) return 1;
        if (i == 3) size = static_cast<size_t>(status.st_size);
        longest = std::max(longest, static_cast<size_t>(status.st_size));
    }
    const auto begin = std::chrono::steady_clock::now();
    const size_t parts = (longest + kRead - 1) / kRead;
    if (!one_pass) {
        for_parts(threads, parts, [&](size_t part, std::vector<char>& buffer) {
            for (const int file : files) read_part(file, part, buffer);
        });
        files.resize(1);
    }
    // As a merge writes: beside, with the space reserved, full regions sent at once, synced, renamed, the folder
    // synced.
    const std::string temporary = args[2] + ".tmp";
    const int out = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (out < 0) return 1;
    (void)::fallocate(out, 0, 0, static_cast<off_t>(size));
    std::vector<std::atomic<size_t>> regions(size / kRegion + 1);
    for_parts(threads, parts, [&](size_t part, std::vector<char>& buffer) {
        for (size_t file = files.size(); file-- > 0;) {  // the first one last: its bytes are written
            const size_t got = read_part(files[file], part, buffer);
            if (file > 0 || got == 0) continue;
            const auto offset = static_cast<off_t>(part * kRead);
            if (::pwrite(out, buffer.data(), got, offset) != static_cast<ssize_t>(got)) std::abort();
            const size_t region = part * kRead / kRegion;
            if ((regions[region] += got) == kRegion)
                (void)::sync_file_range(out, static_cast<off_t>(region * kRegion), kRegion, SYNC_FILE_RANGE_WRITE);
        }
    });
    if (::fsync(out) != 0 || ::close(out) != 0 || ::rename(temporary.c_str(), args[2].c_str()) != 0) return 1;
    const int folder = ::open(args[2].substr(0, args[2].rfind('/') + 1).c_str(), O_RDONLY);
    ::fsync(folder);
    ::close(folder);
    std::printf("%.4f\n", since(begin));
    return 0;
}
