#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <map>

#include "base/files.hpp"
#include "base/json.hpp"
#include "base/memory.hpp"
#include "base/nearest.hpp"
#include "base/random.hpp"
#include "base/schema.hpp"
#include "base/sha256.hpp"

using namespace biophony;

namespace {

std::vector<std::string> problems_of(const std::string& text) {
    std::vector<Diagnostic> problems;
    JsonText::parse(text, "p.json", problems);
    std::vector<std::string> out;
    for (const auto& problem : problems) out.push_back(problem.text());
    return out;
}

std::vector<std::string> schema_problems(const std::string& schema, const std::string& value) {
    Json json = Json::parse(value);
    std::vector<Diagnostic> problems;
    apply_schema(Json::parse(schema), json, "/with", problems);
    std::vector<std::string> out;
    for (const auto& problem : problems) out.push_back(problem.text());
    return out;
}

struct Folder {
    fs::path path = fs::temp_directory_path() / ("bph-" + unique_name());
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
};

}  // namespace

TEST_CASE("SHA-256 equals the standard's test vectors") {
    // FIPS 180-4 examples.
    CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    Folder folder;
    std::ofstream(folder.path / "f") << std::string(3'000'000, 'a');
    CHECK(sha256_file(folder.path / "f") == sha256_hex(std::string(3'000'000, 'a')));
    CHECK_THROWS_AS(sha256_file(folder.path / "none"), Error);
}

TEST_CASE("nearest names") {
    const std::vector<std::string> names = {"learning_rate", "batch", "epochs", "recipe"};
    CHECK(nearest("learing_rate", names) == "learning_rate");
    CHECK(nearest("EPOCH", names) == "epochs");
    CHECK(nearest("bathc", names) == "batch");
    CHECK(nearest("zzzzzz", names).empty());
    const std::vector<std::string> ids = {"lines", "commedian", "coordinate-median", "ties.global", "trimmed-mean"};
    CHECK(nearest("Median", ids) == "coordinate-median");
    CHECK(nearest("ties", ids) == "ties.global");
    CHECK(nearest("mean", {{"norm-mean", "trimmed-mean"}}).empty());
    CHECK(near_names("mean", std::vector<std::string>{"norm-mean", "meat", "trimmed-mean"}).one == "meat");
    CHECK(near_names("mean", ids).one == "trimmed-mean");
    CHECK(did_you_mean("global", std::vector<std::string>{"ties.global", "norm.global", "trim"}) ==
          "; did you mean one of ties.global, norm.global?");
    CHECK(nearest("lnies", ids) == "lines");
    CHECK(nearest("an", ids).empty());
    CHECK(nearest("rdinate", ids).empty());
    CHECK(edit_distance("ab", "ba") == 1);
    CHECK(did_you_mean("epcohs", names) == "; did you mean 'epochs'?");
    CHECK(did_you_mean("zzzzzz", names) == "; there are: learning_rate, batch, epochs, recipe");
}

TEST_CASE("JSON texts are strict and know their places") {
    std::vector<Diagnostic> problems;
    const JsonText text = JsonText::parse("{\n  \"a\": {\"b\": [1,\n 2]},\n  \"s\": \"x\\\"y\"}", "p.json", problems);
    REQUIRE(problems.empty());
    CHECK(text.where("/a").line == 2);
    CHECK(text.where("/a").column == 3);
    CHECK(text.where("/a/b/1").line == 3);
    CHECK(text.where("/a/b/1").column == 2);
    CHECK(text.where("/a/missing/deep").line == 2);  // the nearest enclosing value
    CHECK(text.where("/s").text() == "p.json:4:3: /s");

    CHECK(problems_of("{\"a\": 1, \"a\": 2}") ==
          std::vector<std::string>{"p.json:1:10: /a: the key 'a' stands twice in one object; keep one"});
    CHECK(problems_of("{} x").at(0).find("p.json:1:4: not JSON") == 0);
    CHECK(problems_of("{\"a\": 1 // why\n}").at(0).find("put the words into a \"notes\" value") != std::string::npos);
    CHECK(problems_of("{\"a\": 1 /* why */}").at(0).find("notes") != std::string::npos);
    CHECK(problems_of("").at(0).find("not JSON") != std::string::npos);
    CHECK(problems_of("{\"a\": \"\xff\"}").at(0).find("not JSON") != std::string::npos);
    CHECK(problems_of(std::string(100000, '[')).at(0) == "p.json:1:201: nested more than 200 deep");
    CHECK(problems_of("{\"a\": -Infinity}") ==
          std::vector<std::string>{"p.json:1:8: not JSON: JSON has no NaN and no infinity"});
    CHECK(problems_of("{\"a\": NaN}").at(0).find("no NaN") != std::string::npos);
    CHECK(problems_of("{\"a\": True}").at(0).find("in small letters") != std::string::npos);
    CHECK(problems_of("{'a': 1}").at(0).find("double quotes") != std::string::npos);
    CHECK(problems_of("{a: 1}").at(0).find("double quotes") != std::string::npos);
    CHECK(problems_of("[1,\n ]") ==
          std::vector<std::string>{"p.json:2:2: not JSON: there is a comma behind the last item; take it out"});
    CHECK(problems_of(std::string("{\0\"\0", 4)).at(0).find("UTF-16") != std::string::npos);
    CHECK(problems_of("\xff\xfe{").at(0).find("UTF-16") != std::string::npos);
    CHECK(problems_of("\xef\xbb\xbf{\"a\": 1}").empty());  // a byte order mark says nothing wrong
    // What a parser would turn into another number without a word.
    CHECK(problems_of("[1, 18446744073709551616]")
              .at(0)
              .find("p.json:1:5: /1: the whole number 18446744073709551616 is too large") == 0);
    CHECK(problems_of("[-9223372036854775809]").size() == 1);
    CHECK(problems_of("[-9223372036854775808, 18446744073709551615, -0, 1e30, 0.1]").empty());
    CHECK(problems_of("{\"1e999\": [1,\n 1e999]}") ==
          std::vector<std::string>{"p.json:2:2: the number 1e999 is too large"});
    // Pointers below a long key would fill the memory.
    std::string long_key = "{\"" + std::string(1 << 20, 'k') + "\": [0";
    for (int i = 0; i < 100'000; ++i) long_key += ",0";
    CHECK(problems_of(long_key + "]}") ==
          std::vector<std::string>{"p.json:1:2: found a key of 1048576 bytes, expected at most 1000"});
    std::string twice = "{\"a\": 1";
    for (int i = 0; i < 5000; ++i) twice += ", \"a\": 1";
    CHECK(problems_of(twice + "}").size() == 1000);
}

TEST_CASE("canonical JSON is one text, and refuses what JSON doesn't have") {
    CHECK(canonical(Json::parse(R"({"b": 1, "a": [0.1, 1e300, true]})")) == R"({"a":[0.1,1e+300,true],"b":1})");
    CHECK_THROWS_AS(canonical(Json{{"x", std::nan("")}}), Error);
    CHECK_THROWS_AS(canonical(Json{{"x", {1.0, INFINITY}}}), Error);
}

TEST_CASE("schemas fill defaults and name every problem") {
    const std::string schema = R"({"type": "object", "required": ["file"], "properties": {
        "file": {"type": "string"}, "rate": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "kind": {"enum": ["ridge", "lda"]}, "inner": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}},
        "list": {"type": "array", "items": {"type": "object", "required": ["use"], "properties": {"use": {"type": "string"}}}}}})";
    Json value = {{"file", "x"}};
    std::vector<Diagnostic> problems;
    apply_schema(Json::parse(schema), value, "", problems);
    CHECK(problems.empty());
    CHECK(value == Json::parse(R"({"file": "x", "rate": 0.5, "inner": {"n": 3}})"));

    CHECK(schema_problems(schema, R"({"flie": "x"})") ==
          std::vector<std::string>{"/with/flie: unknown parameter 'flie'; did you mean 'file'?",
                                   "/with: the parameter \"file\" is missing, expected a text"});
    CHECK(schema_problems(schema, R"({"file": "x", "rate": 2, "kind": "rigde"})") ==
          std::vector<std::string>{
              "/with/kind: found the string \"rigde\", expected one of \"ridge\", \"lda\"; did you mean 'ridge'?",
              "/with/rate: found the number 2, expected a number from 0 to 1"});
    CHECK(schema_problems(schema, R"({"file": "x", "inner": {"n": 1.5, "m": 1}})") ==
          std::vector<std::string>{"/with/inner/m: unknown parameter 'm'; there are: n",
                                   "/with/inner/n: found the number 1.5, expected a whole number"});
    CHECK(schema_problems(schema, R"({"file": "x", "list": [{"use": "a"}, {}]})") ==
          std::vector<std::string>{"/with/list/1: the parameter \"use\" is missing"});
    CHECK(schema_problems(schema, "[]") == std::vector<std::string>{"/with: found an array of 0, expected an object"});
    // A problem of one name hides none of a name that begins with it.
    CHECK(schema_problems(schema, R"({"file": 1, "files": 1})") ==
          std::vector<std::string>{"/with/files: unknown parameter 'files'; did you mean 'file'?",
                                   "/with/file: found the number 1, expected a text"});
}

TEST_CASE("schemas are held against values of any kind") {
    const std::string schema = R"({"properties": {"file": {"type": "string", "format": "path"},
        "files": {"type": "array", "items": {"type": "string", "format": "path"}},
        "format": {"enum": ["wav"], "default": "wav"}}})";
    for (const char* value : {"1", "null", "[\"a\"]", "{\"a\": 1}", "true", "0.5"}) {
        INFO(value);
        const std::string found = describe(Json::parse(value));
        CHECK(schema_problems(schema, std::string(R"({"file": )") + value + "}") ==
              std::vector<std::string>{"/with/file: found " + found + ", expected a path"});
        CHECK(schema_problems(schema, std::string(R"({"files": ["a", )") + value + "]}") ==
              std::vector<std::string>{"/with/files/1: found " + found + ", expected a path"});
    }
    CHECK(schema_problems(schema, R"({"format": "mp3"})").size() == 1);
    CHECK(schema_problems(R"({"properties": {"a": {"type": "strong"}}})", "{}").at(0).find("can't be used") !=
          std::string::npos);
}

TEST_CASE("messages are UTF-8, whatever they are about") {
    std::string text(56, 'a');
    for (int i = 0; i < 6; ++i, text += "a") CHECK_NOTHROW(canonical(describe(text + "é…é")));
    for (const std::string& found : problems_of("{\"a\": \"\xff\"}")) CHECK_NOTHROW(canonical(found));
}

TEST_CASE("paths are resolved where the schema says so") {
    const Json schema = Json::parse(
        R"({"properties": {"file": {"type": "string", "format": "path", "x-must-exist": true}, "word": {"type": "string"},
        "files": {"type": "array", "items": {"type": "string", "format": "path"}}}})");
    Json value = {{"file", "a/../b.csv"}, {"word", "a/b"}, {"files", {"x", "/abs/y"}}};
    resolve_paths(schema, value, "", [](std::string_view) { return fs::path("/base"); });
    CHECK(value == Json{{"file", "/base/b.csv"}, {"word", "a/b"}, {"files", {"/base/x", "/abs/y"}}});
    CHECK(paths_that_must_exist(schema, value, "/with") ==
          std::vector<std::pair<std::string, std::string>>{{"/with/file", "/base/b.csv"}});
}

TEST_CASE("files appear whole or not at all") {
    Folder folder;
    write_file_atomically(folder.path / "deep" / "f.txt", "one");
    write_file_atomically(folder.path / "deep" / "f.txt", "two");
    CHECK(read_file(folder.path / "deep" / "f.txt") == "two");
    CHECK(std::distance(fs::directory_iterator(folder.path / "deep"), fs::directory_iterator()) == 1);
    CHECK_THROWS_WITH(read_file(folder.path / "none"), Catch::Contains("No such file"));
    CHECK_THROWS_WITH(read_file(folder.path), Catch::Contains("is a folder"));
    // A full disk: /dev/full refuses every write; the old file stays and nothing is left beside it.
    CHECK_THROWS_AS(write_file_atomically("/proc/version/x", "x"), Error);
}

TEST_CASE("names tell whether their process lives") {
    CHECK(owner_is_alive(unique_name()));
    CHECK(unique_name() != unique_name());
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const std::string name = unique_name();
        if (::write(ends[1], name.data(), name.size()) < 0) ::_exit(1);
        ::_exit(0);
    }
    char buffer[200];
    const ssize_t got = ::read(ends[0], buffer, sizeof buffer);
    ::waitpid(child, nullptr, 0);
    ::close(ends[0]);
    ::close(ends[1]);
    REQUIRE(got > 0);
    CHECK_FALSE(owner_is_alive({buffer, static_cast<size_t>(got)}));
    CHECK_FALSE(owner_is_alive("nonsense"));
}

TEST_CASE("random numbers are the published sequence, and bounded draws are even") {
    // SplitMix64 with seed 1234567: the sequence given with the reference implementation.
    Random random(1234567);
    CHECK(random.next() == 6457827717110365317ULL);
    CHECK(random.next() == 3203168211198807973ULL);
    Random draws(1);
    std::map<uint64_t, int> counts;
    for (int i = 0; i < 60000; ++i) ++counts[draws.below(6)];
    REQUIRE(counts.size() == 6);
    for (const auto& [value, count] : counts) CHECK(std::abs(count - 10000) < 500);
    double sum = 0, squares = 0;
    for (int i = 0; i < 50000; ++i) {
        const double x = draws.normal();
        sum += x;
        squares += x * x;
    }
    CHECK(std::abs(sum / 50000) < 0.02);
    CHECK(std::abs(squares / 50000 - 1) < 0.03);
    CHECK(mix(1, 2) != mix(2, 1));
}

TEST_CASE("free memory counts what a control group keeps of files as free") {
    std::string name = (fs::temp_directory_path() / "biophony-memory-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    const fs::path root = name;
    const auto write = [&](const char* file, const char* text) { write_file_atomically(root / file, text); };
    write("proc/meminfo", "MemTotal:       9000 kB\nHugePages_Total:    0\nMemAvailable:   8000 kB\n");
    CHECK(free_memory(root) == 8000 * 1024.0);
    write("sys/fs/cgroup/memory.max", "max\n");
    write("sys/fs/cgroup/memory.current", "900000\n");
    CHECK(free_memory(root) == 8000 * 1024.0);
    write("sys/fs/cgroup/memory.max", "1000000\n");
    CHECK(free_memory(root) == 100000);
    write("sys/fs/cgroup/memory.stat", "anon 200000\nfile 700000\ninactive_anon 1\ninactive_file 600000\nslab 3\n");
    CHECK(free_memory(root) == 700000);
    fs::remove_all(root);
}
