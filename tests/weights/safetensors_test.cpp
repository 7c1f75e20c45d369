#include "weights/safetensors.hpp"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <set>
#include <thread>

#include "base/sha256.hpp"
#include "files.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

template <class T>
void put(SafetensorsWriter& writer, const char* name, const std::vector<T>& values) {
    writer.write(name, 0, std::as_bytes(std::span(values)));
}

/// Every type, a scalar and an empty tensor.
void write_zoo(const fs::path& path) {
    SafetensorsWriter writer(path,
                             {{"b", DType::kF32, {2, 3}},
                              {"a", DType::kF32, {2}},
                              {"s", DType::kF64, {}},
                              {"i", DType::kI64, {3}},
                              {"h", DType::kF16, {2}},
                              {"u", DType::kU8, {3}},
                              {"k", DType::kBool, {2}},
                              {"e", DType::kF32, {0, 4}},
                              {"i3", DType::kI32, {1}},
                              {"u4", DType::kU32, {1}},
                              {"i8", DType::kI8, {1}},
                              {"i16", DType::kI16, {1}},
                              {"u16", DType::kU16, {1}},
                              {"u64", DType::kU64, {1}}},
                             {{"note", "grüße \"x\""}});
    writer.write_floats("b", 3, std::vector<float>{3, 4, 5});
    writer.write_floats("b", 0, std::vector<float>{0, 1, 2});
    writer.write_floats("a", 0, std::vector<float>{1, 2});
    put<double>(writer, "s", {1.5});
    put<int64_t>(writer, "i", {-1, 2, 3});
    put<uint16_t>(writer, "h", {0x3800, 0xc000});
    put<uint8_t>(writer, "u", {1, 2, 3});
    put<uint8_t>(writer, "k", {1, 0});
    put<int32_t>(writer, "i3", {7});
    put<uint32_t>(writer, "u4", {8});
    put<int8_t>(writer, "i8", {-3});
    put<int16_t>(writer, "i16", {-3});
    put<uint16_t>(writer, "u16", {3});
    put<uint64_t>(writer, "u64", {1ULL << 63});
    writer.finish();
}

std::string open_error(const Folder& folder, const std::string& bytes) {
    std::ofstream(folder / "bad", std::ios::binary) << bytes;
    return error_of([&] { SafetensorsFile::open(folder / "bad"); });
}

}  // namespace

TEST_CASE("a written file is the reference writer's, byte for byte") {
    const Folder folder;
    write_zoo(folder / "made/here/zoo");
    // What safetensors 0.8.0 (Python) saves for the same tensors and metadata.
    CHECK(sha256_file(folder / "made/here/zoo") == "387b4ba7e78c597cc08b165a820e6c55d409f378f2b79cb1e4ebcdc96466ee00");
    CHECK(folder.files() == 1);
}

TEST_CASE("what was written is read") {
    const Folder folder;
    write_zoo(folder / "zoo");
    const SafetensorsFile file = SafetensorsFile::open(folder / "zoo");
    CHECK(file.path() == folder / "zoo");
    CHECK(file.tensors().size() == 14);
    CHECK(file.metadata("note") == "grüße \"x\"");
    CHECK(file.metadata("none").empty());
    CHECK(file.read_floats("b") == std::vector<float>{0, 1, 2, 3, 4, 5});
    CHECK(file.read_floats("h") == std::vector<float>{0.5F, -2});
    CHECK(file.read_floats("s") == std::vector<float>{1.5F});
    CHECK(file.read_floats("e").empty());
    CHECK(file.require("s").elements() == 1);
    CHECK(file.require("e").shape == std::vector<int64_t>{0, 4});
    std::vector<float> middle(2);
    file.read_floats(file.require("b"), 3, middle);
    CHECK(middle == std::vector<float>{3, 4});
    int64_t second = 0;
    file.read(file.require("i"), 8, std::as_writable_bytes(std::span(&second, 1)));
    CHECK(second == 2);

    CHECK(file.find("c") == nullptr);
    CHECK_THAT(error_of([&] { file.require("u61"); }),
               Catch::Contains("zoo: has no tensor 'u61'") && Catch::Contains("u64"));
    CHECK_THAT(error_of([&] { file.read_floats("i"); }), Catch::Contains("tensor 'i' is I64, expected F32"));
    std::vector<float> many(7);
    CHECK(code_of([&] { file.read_floats(file.require("b"), 0, many); }) == Code::kInternal);
    CHECK(code_of([&] { file.read_floats(file.require("b"), UINT64_MAX / 2, many); }) == Code::kInternal);
    CHECK(code_of([&] { file.read(file.require("b"), 25, {}); }) == Code::kInternal);
}

TEST_CASE("all half-precision numbers are widened") {
    const Folder folder;
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    SafetensorsWriter writer(folder / "all", {{"half", DType::kF16, {65536}}, {"brain", DType::kBF16, {65536}}}, {});
    put(writer, "half", all);
    put(writer, "brain", all);
    writer.finish();
    const SafetensorsFile file = SafetensorsFile::open(folder / "all");
    const std::vector<float> half = file.read_floats("half"), brain = file.read_floats("brain");
    size_t wrong = 0;
    auto expect = [&](uint32_t sign, int exponent, int bits, int top, int bias, int mantissa, float found) {
        const double s = sign != 0 ? -1 : 1;
        if (exponent == top) {
            wrong += mantissa == 0 ? (found != s * INFINITY ? 1 : 0) : (std::isnan(found) ? 0 : 1);
            return;
        }
        const double value = exponent == 0 ? std::ldexp(mantissa, 1 - bias - bits)
                                           : std::ldexp(mantissa + (1 << bits), exponent - bias - bits);
        wrong += found != static_cast<float>(s * value) || std::signbit(found) != (sign != 0) ? 1 : 0;
    };
    for (int i = 0; i < 65536; ++i) {
        expect(i >> 15, (i >> 10) & 31, 10, 31, 15, i & 1023, half[i]);
        expect(i >> 15, (i >> 7) & 255, 7, 255, 127, i & 127, brain[i]);
    }
    CHECK(wrong == 0);
}

TEST_CASE("files that others may write are read") {
    const Folder folder;
    // Any order of keys and entries, white space, a data part that isn't aligned.
    const std::string header = R"({"y": {"shape": [1], "data_offsets": [2, 6], "dtype": "F32"},
        "x":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}   )";
    write_file_atomically(folder / "a", raw_file(header, std::string("\x00\x3c\x00\x00\x80\x3f", 6)));
    const SafetensorsFile file = SafetensorsFile::open(folder / "a");
    CHECK(file.tensors()[0].name == "x");
    CHECK(file.read_floats("x") == std::vector<float>{1});
    CHECK(file.read_floats("y") == std::vector<float>{1});

    write_file_atomically(folder / "b", raw_file("{}", ""));
    CHECK(SafetensorsFile::open(folder / "b").tensors().empty());
}

TEST_CASE("bad files are refused with what is wrong") {
    const Folder folder;
    struct Bad {
        std::string header, data, message;
    };
    auto entry = [](const std::string& rest) { return R"({"t":{"dtype":"F32",)" + rest + "}}"; };
    const std::string eight(8, 'x');
    const std::vector<Bad> bads = {
        {"", "", "doesn't begin with '{'"},
        {" {}", "", "doesn't begin with '{'"},
        {"[]", "", "doesn't begin with '{'"},
        {"{", "", "isn't JSON"},
        {"{} x", "", "isn't JSON"},
        {std::string("{}\0\0", 4), "", "zero byte"},
        {"{\"\xff\":1}", "", "isn't JSON"},
        {R"({"t":3})", "", "tensor 't' is the number 3, expected an object"},
        {R"({"t":[{}]})", "", "tensor 't' is a list, expected an object"},
        {R"({"t":{}})", "", "tensor 't' lacks dtype"},
        {R"({"t":{"dtype":"F32","data_offsets":[0,8]}})", eight, "lacks shape"},
        {entry(R"("shape":[2])"), eight, "lacks data_offsets"},
        {entry(R"("shape":[2],"data_offsets":[0,8],"more":{})"), eight, "unknown key 'more'"},
        {entry(R"("shape":[-2],"data_offsets":[0,8])"), eight, "the number -2 in shape"},
        {entry(R"("shape":[2.0],"data_offsets":[0,8])"), eight, "the number 2.0 in shape"},
        {entry(R"("shape":2,"data_offsets":[0,8])"), eight, "the number 2 in shape"},
        {entry(R"("shape":[[2]],"data_offsets":[0,8])"), eight, "a list in shape"},
        {entry(R"("shape":null,"data_offsets":[0,8])"), eight, "null in shape"},
        {entry(R"("shape":[9223372036854775808],"data_offsets":[0,8])"), eight, "63 bits"},
        {entry(R"("shape":[99999999999999999999],"data_offsets":[0,8])"), eight, "in shape"},
        {entry(R"("shape":[2],"data_offsets":[0,8,16])"), eight, "more than two data_offsets"},
        {entry(R"("shape":[2],"data_offsets":[8])"), eight, "1 data_offsets"},
        {entry(R"("shape":[2],"data_offsets":{})"), eight, "an object in data_offsets"},
        {entry(R"("shape":[2],"data_offsets":[8,0])"), eight, "before it begins"},
        {entry(R"("shape":[2],"data_offsets":[0,9])"), eight, "ends at byte 9, but the file has 8 bytes"},
        {entry(R"("shape":[2],"data_offsets":[0,18446744073709551615])"), eight, "ends at byte 18446744073709551615"},
        {entry(R"("shape":[1],"data_offsets":[4,8])"), eight, "there is a gap"},
        {entry(R"("shape":[1],"data_offsets":[0,4])"), eight, "4 bytes follow the last tensor"},
        {entry(R"("shape":[3],"data_offsets":[0,8])"), eight, "has 8 bytes, but F32 of shape [3] take 12"},
        {entry(R"("shape":[4294967296,4294967296,2],"data_offsets":[0,8])"), eight, "overflows"},
        {entry(R"("shape":[4611686018427387906],"data_offsets":[0,8])"), eight, "overflows"},  // × 4 = 8 modulo 2⁶⁴
        {entry(R"("shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), "", "overflows"},
        {entry(R"("shape":[2],"shape":[2],"data_offsets":[0,8])"), eight, "'shape' stands twice in tensor 't'"},
        {R"({"t":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})", eight,
         "tensor 't' has the unknown dtype 'F8_E4M3'; known are"},
        {R"({"t":{"dtype":3,"shape":[8],"data_offsets":[0,8]}})", eight, "the number 3 in dtype, expected a string"},
        {R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
         eight, "'t' stands twice"},
        {R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
         eight, "tensor 'b' begins at byte 4 of the data, expected 5 (it overlaps"},
        {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
         eight, "expected 3 (there is a gap)"},
        {R"({"__metadata__":{"a":1}})", "", "__metadata__: 'a' is the number 1, expected a string"},
        {R"({"__metadata__":{"a":{}}})", "", "'a' is an object, expected a string"},
        {R"({"__metadata__":{"a":["b"]}})", "", "'a' is a list, expected a string"},
        {R"({"__metadata__":{"a":"b","a":"c"}})", "", "'a' stands twice"},
        {R"({"__metadata__":{},"__metadata__":{}})", "", "'__metadata__' stands twice"},
        {R"({"__metadata__":"x"})", "", "__metadata__ is the string 'x', expected an object"},
        {R"({"t":)" + std::string(200000, '['), "", "tensor 't' is a list"},
        {entry(R"("shape":[)" +
               [] {
                   std::string ones = "1";
                   for (int i = 0; i < 100; ++i) ones += ",1";
                   return ones;
               }() +
               R"(],"data_offsets":[0,4])"),
         "1234", "more than 64 dimensions"},
    };
    for (const Bad& bad : bads) {
        INFO(bad.header.substr(0, 200));
        const std::string error = open_error(folder, raw_file(bad.header, bad.data));
        CHECK_THAT(error, Catch::Contains((folder / "bad").string() + ": is no valid safetensors file: ") &&
                              Catch::Contains(bad.message));
    }
    CHECK_THAT(open_error(folder, ""), Catch::Contains("it has 0 bytes, expected at least 8"));
    CHECK_THAT(open_error(folder, "1234567"), Catch::Contains("it has 7 bytes"));
    CHECK_THAT(open_error(folder, std::string("\x03\0\0\0\0\0\0\0{}", 10)), Catch::Contains("only 2 follow"));
    CHECK_THAT(open_error(folder, std::string(8, '\xff') + "{}"), Catch::Contains("18446744073709551615 bytes"));
    CHECK_THAT(error_of([&] { SafetensorsFile::open(folder / "none"); }), Catch::Contains("No such file"));
    CHECK_THAT(error_of([&] { SafetensorsFile::open(folder / "."); }), Catch::Contains("is a folder"));

    // A header over the limit that the file does hold (sparse, so that it costs no disk).
    uint64_t length = 100'000'001;
    write_file_atomically(folder / "big", {reinterpret_cast<const char*>(&length), 8});
    fs::resize_file(folder / "big", 8 + length);
    CHECK_THAT(error_of([&] { SafetensorsFile::open(folder / "big"); }), Catch::Contains("at most 100000000"));
}

TEST_CASE("corrupted files are refused or valid, never anything else") {
    const Folder folder;
    write_zoo(folder / "zoo");
    const std::string good = read_file(folder / "zoo");
    const size_t header = good.rfind('}') + 1;
    const std::string alphabet = "{}[]\",:0123456789-eE. \\u\x00\xff\x80tn";
    Random random(20);
    size_t refused = 0, opened = 0;
    for (int round = 0; round < 1500; ++round) {
        std::string bytes = good;
        const uint64_t changes = 1 + random.below(3);
        for (uint64_t change = 0; change < changes; ++change) {
            const size_t at = random.below(std::min(header, bytes.size()));
            const char letter = alphabet[random.below(alphabet.size())];
            switch (random.below(9)) {
                case 0: bytes[at] = static_cast<char>(random.below(256)); break;
                case 1: bytes[at] = letter; break;
                case 2: bytes.insert(at, 1 + random.below(4), letter); break;
                case 3: bytes.erase(at, 1 + random.below(20)); break;
                case 4: bytes.resize(8 + random.below(bytes.size() - 8)); break;
                case 5: bytes += std::string(1 + random.below(9), letter); break;
                case 6: {  // one part over another
                    const size_t from = 8 + random.below(bytes.size() - 8);
                    bytes.replace(at, 10, bytes.substr(from, 1 + random.below(60)));
                    break;
                }
                case 7: {  // a letter for a letter: another name, key or type
                    const size_t where = bytes.find_first_of("abehksui", std::max<size_t>(at, 8));
                    if (where != std::string::npos) bytes[where] = static_cast<char>('a' + random.below(26));
                    break;
                }
                default: {  // a digit for a digit: JSON stays JSON
                    size_t digit = bytes.find_first_of("0123456789", std::max<size_t>(at, 8));
                    if (digit != std::string::npos) bytes[digit] = static_cast<char>('0' + random.below(10));
                }
            }
            if (bytes.size() <= 16) break;
        }
        if (bytes.size() > 8 && random.below(2) == 0) {  // let the length fit, so that more gets as far as the entries
            const size_t end = bytes.rfind('}');
            const uint64_t length = end == std::string::npos || end < 8 ? 0 : end + 1 - 8;
            std::memcpy(bytes.data(), &length, 8);
        }
        const fs::path path = folder / "corrupt";
        std::ofstream(path, std::ios::binary) << bytes;  // no syncs: this is fast
        try {
            const SafetensorsFile file = SafetensorsFile::open(path);
            ++opened;
            uint64_t end = 0;
            std::set<std::string> names;
            for (const TensorInfo& tensor : file.tensors()) {
                REQUIRE(names.insert(tensor.name).second);
                REQUIRE(tensor.begin == end);
                uint64_t elements = 1;
                for (const int64_t dimension : tensor.shape) elements *= static_cast<uint64_t>(dimension);
                REQUIRE(elements * size_of(tensor.dtype) == tensor.bytes());
                std::vector<std::byte> content(tensor.bytes());
                file.read(tensor, 0, content);
                end = tensor.end;
            }
            REQUIRE(end < bytes.size());
        } catch (const Error& error) {
            REQUIRE(error.code() == Code::kRunFailed);
            REQUIRE(error.where().file == path.string());
            ++refused;
        }
        fs::remove(path);
    }
    INFO(refused << " refused, " << opened << " opened");
    CHECK(refused > 1000);
    CHECK(opened > 10);
}

TEST_CASE("a file that is cut after it was opened is told, not zeros") {
    const Folder folder;
    write_zoo(folder / "zoo");
    const SafetensorsFile file = SafetensorsFile::open(folder / "zoo");
    fs::resize_file(folder / "zoo", fs::file_size(folder / "zoo") - 30);
    CHECK_THAT(error_of([&] { file.read_floats("h"); }), Catch::Contains("ends early"));
}

TEST_CASE("threads and order leave no trace in a written file") {
    const Folder folder;
    const std::vector<float> values = normal_values(10000, 1, 5);
    const std::vector<SafetensorsWriter::Tensor> announced = {{"w", DType::kF32, {100, 100}}};
    {
        SafetensorsWriter writer(folder / "one", announced, {{"b", "2"}, {"a", "1"}});
        writer.write_floats("w", 0, values);
        writer.finish();
    }
    {
        SafetensorsWriter writer(folder / "many", announced, {{"a", "1"}, {"b", "2"}});
        std::vector<std::jthread> threads;
        for (size_t t = 0; t < 4; ++t)
            threads.emplace_back([&, t] {
                for (size_t i = 10000 - 25 * (t + 1); i < 10000; i -= 100)
                    writer.write_floats("w", i, std::span(values).subspan(i, 25));
            });
        threads.clear();
        writer.finish();
    }
    CHECK(read_file(folder / "one") == read_file(folder / "many"));
}

TEST_CASE("a writer that doesn't finish leaves nothing, and the old file stands") {
    const Folder folder;
    write_file_atomically(folder / "file", "old");
    {
        SafetensorsWriter writer(folder / "file", {{"a", DType::kF32, {2}}, {"b", DType::kF32, {2}}}, {});
        writer.write_floats("a", 0, std::vector<float>{1, 2});
        writer.write_floats("b", 1, std::vector<float>{1});
        CHECK(folder.files() == 2);
        CHECK_THAT(error_of([&] { writer.finish(); }), Catch::Contains("4 of 8 bytes of tensor 'b'"));
        CHECK(code_of([&] { writer.write_floats("b", 1, std::vector<float>{1, 2}); }) == Code::kInternal);
        CHECK(code_of([&] { writer.write_floats("c", 0, {}); }) == Code::kInternal);
        CHECK(read_file(folder / "file") == "old");
    }
    CHECK(folder.files() == 1);
    CHECK(read_file(folder / "file") == "old");
    auto make = [&](std::vector<SafetensorsWriter::Tensor> tensors, std::map<std::string, std::string> metadata = {}) {
        return code_of([&] { SafetensorsWriter(folder / "x", std::move(tensors), metadata); });
    };
    CHECK(make({{"a", DType::kF32, {2}}, {"a", DType::kF32, {2}}}) == Code::kInternal);
    CHECK(make({{"__metadata__", DType::kF32, {2}}}) == Code::kInternal);
    CHECK(make({{"a", DType::kF32, {-1}}}) == Code::kInternal);
    CHECK(make({{"a", DType::kF32, {INT64_MAX, 2}}}) == Code::kInternal);
    CHECK(make({{"a\xff", DType::kF32, {2}}}) == Code::kInternal);
    CHECK(make({}, {{"a", "\xff"}}) == Code::kInternal);
    CHECK(make({{"a", DType::kU8, {INT64_MAX / 2}}}) == Code::kRunFailed);  // more than any disk
    CHECK(folder.files() == 1);
    CHECK_THAT(error_of([&] { SafetensorsWriter(folder / "file/below", {}, {}); }), Catch::Contains("can't"));
}
