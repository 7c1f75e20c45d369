// The store's keeper: what is there, what is broken, what is removed, and never under a run's feet.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <ctime>
#include <fstream>

#include "base/error.hpp"
#include "pipeline/store.hpp"
#include "pipeline/store_index.hpp"

using namespace biophony;

namespace {

struct Folder {
    fs::path path = fs::temp_directory_path() / ("bph-keep-" + unique_name());
    fs::path root = path / "store";
    ~Folder() { fs::remove_all(path); }

    void put(const std::string& key, const std::string& text, Json about = {{"node", "n"}, {"type", "t"}}) const {
        const Store store(root);
        const fs::path temporary = store.make_temporary();
        std::ofstream(temporary / "a.txt") << text;
        std::ofstream(temporary / "b.txt") << "b";
        store.put(temporary, key, about);
    }
    fs::path file(const std::string& key, const char* name) const {
        return root / "objects" / key.substr(0, 2) / key / name;
    }
    void used_at(const std::string& key, int64_t seconds) const {
        const timespec times[2] = {{seconds, 0}, {seconds, 0}};
        REQUIRE(::utimensat(AT_FDCWD, file(key, "result.json").c_str(), times, 0) == 0);
    }
    void spoil(const std::string& key, const char* name, const std::string& text) const {
        ::chmod(file(key, name).c_str(), 0644);
        std::ofstream(file(key, name), std::ios::trunc) << text;
    }
    StoreEntry entry(const std::string& key) const {
        for (const StoreEntry& one : list_store(root))
            if (one.key == key) return one;
        FAIL("there is no " << key);
        return {};
    }
};

std::vector<std::string> keys_of(const std::vector<StoreEntry>& entries) {
    std::vector<std::string> out;
    for (const StoreEntry& entry : entries) out.push_back(entry.key);
    return out;
}

}  // namespace

TEST_CASE("results are listed with size, type and last use") {
    Folder folder;
    folder.put("bb22", "twelve bytes");
    folder.put("aa11", "x", {{"node", "m"}, {"type", "t"}, {"seconds", 2.5}});
    folder.used_at("aa11", 1000);
    fs::create_directories(folder.root / "objects" / "zz" / "not a key");
    const std::vector<StoreEntry> entries = list_store(folder.root);
    REQUIRE(keys_of(entries) == std::vector<std::string>{"aa11", "bb22"});
    CHECK(entries[0].text("node") == "m");
    CHECK(entries[0].seconds() == 2.5);
    CHECK(entries[0].used == 1000);
    CHECK(entries[1].bytes == 13);
    CHECK(entries[1].seconds() == 0);
    CHECK_THROWS_WITH(list_store(folder.path), Catch::Contains("is no store"));
    CHECK_THROWS_WITH(list_store(folder.path / "x"), Catch::Contains("there is no such store"));
    CHECK_FALSE(fs::exists(folder.path / "x"));
}

TEST_CASE("a use is noted in the time of result.json, and not each time") {
    Folder folder;
    folder.put("aa11", "x");
    const Store store(folder.root);
    folder.used_at("aa11", 1000);
    store.used(*store.find("aa11"));
    const int64_t used = folder.entry("aa11").used, now = std::time(nullptr);
    CHECK(used > now - 60);
    folder.used_at("aa11", now - 600);
    store.used(*store.find("aa11"));
    CHECK(folder.entry("aa11").used == now - 600);
}

TEST_CASE("what is made once more was used") {
    Folder folder;
    folder.put("aa11", "x");
    folder.used_at("aa11", 1000);
    folder.put("aa11", "x");
    CHECK(folder.entry("aa11").used > std::time(nullptr) - 60);
}

TEST_CASE("every kind of fault is told") {
    Folder folder;
    for (const char* key : {"aa01", "aa02", "aa03", "aa04", "aa05", "aa06"}) folder.put(key, "text");
    folder.spoil("aa02", "a.txt", "texx");
    folder.spoil("aa03", "a.txt", "te");
    fs::remove(folder.file("aa04", "b.txt"));
    folder.spoil("aa05", "result.json", "{");
    fs::remove(folder.file("aa06", "result.json"));
    CHECK(faults_of(folder.entry("aa01")).empty());
    CHECK(faults_of(folder.entry("aa02")) == std::vector<std::string>{"a.txt was changed"});
    CHECK(faults_of(folder.entry("aa03")) == std::vector<std::string>{"a.txt has 2 bytes, expected 4"});
    CHECK(faults_of(folder.entry("aa04")) == std::vector<std::string>{"b.txt is missing"});
    CHECK(faults_of(folder.entry("aa05")) == std::vector<std::string>{"result.json can't be read"});
    CHECK(faults_of(folder.entry("aa06")) == std::vector<std::string>{"result.json is missing"});
    CHECK(folder.entry("aa06").bytes == 5);

    Json record = folder.entry("aa01").record;
    record["files"][0]["sha256"] = record["files"][1]["sha256"];
    folder.spoil("aa01", "result.json", record.dump());
    CHECK(faults_of(folder.entry("aa01")) ==
          std::vector<std::string>{"the digest is not that of the files", "a.txt was changed"});
    folder.spoil("aa01", "result.json", "{\"key\": \"aa01\"}");
    CHECK(faults_of(folder.entry("aa01")) == std::vector<std::string>{"result.json can't be read"});
}

TEST_CASE("the least recently used go first") {
    std::vector<StoreEntry> entries;
    for (const auto& [key, bytes, used] : {std::tuple{"a", 10, 300}, {"b", 20, 100}, {"c", 30, 200}, {"d", 40, 400}}) {
        StoreEntry entry;
        entry.key = key;
        entry.bytes = static_cast<uint64_t>(bytes);
        entry.used = used;
        entries.push_back(entry);
    }
    using Keys = std::vector<std::string>;
    CHECK(keys_of(choose_for_pruning(entries, 200, {})) == Keys{"b"});
    CHECK(keys_of(choose_for_pruning(entries, 201, {})) == Keys{"b", "c"});
    CHECK(keys_of(choose_for_pruning(entries, {}, 100)).empty());
    CHECK(keys_of(choose_for_pruning(entries, {}, 99)) == Keys{"b"});
    CHECK(keys_of(choose_for_pruning(entries, {}, 50)) == Keys{"b", "c"});
    CHECK(keys_of(choose_for_pruning(entries, {}, 0)) == Keys{"b", "c", "a", "d"});
    CHECK(keys_of(choose_for_pruning(entries, 101, 60)) == Keys{"b", "c"});
}

TEST_CASE("results are removed whole, unless somebody uses the store") {
    Folder folder;
    folder.put("aa11", "one");
    folder.put("bb22", "four");
    fs::create_hard_link(folder.file("bb22", "a.txt"), folder.path / "of a run");
    const std::vector<StoreEntry> entries = list_store(folder.root);
    {
        const Store store(folder.root);
        CHECK_THROWS_WITH(remove_results(folder.root, entries, false),
                          Catch::Contains("is in use by") && Catch::Contains(std::to_string(::getpid())));
        const Removed dry = remove_results(folder.root, entries, true);
        CHECK(dry.bytes == 9);
        CHECK(dry.held == 4);
        CHECK(list_store(folder.root).size() == 2);
    }
    // One that was used between the look and the removal stays.
    folder.used_at("aa11", std::time(nullptr) + 100);
    const Removed removed = remove_results(folder.root, entries, false);
    CHECK(removed.bytes == 5);
    CHECK(removed.held == 4);
    CHECK(keys_of(list_store(folder.root)) == std::vector<std::string>{"aa11"});
    CHECK(fs::is_empty(folder.root / "tmp"));
    CHECK(read_file(folder.path / "of a run") == "four");
    folder.put("bb22", "four");  // can be made again
    CHECK(Store(folder.root).find("bb22"));
}

TEST_CASE("an index finds results by node, type and digest, and leaves broken ones out") {
    Folder folder;
    folder.put("aa11", "same", {{"node", "x[a]"}, {"type", "t"}, {"seconds", 1}, {"record", {{"seed", 1}}}});
    folder.put("bb22", "same", {{"node", "x[b]"}, {"type", "t"}, {"seconds", 5}});
    folder.put("cc33", "other", {{"node", "x[c]"}, {"type", "t"}, {"seconds", 2}});
    folder.put("dd44", "other", {{"node", "x[a]"}, {"type", "u"}});
    folder.put("ee55", "broken");
    folder.spoil("ee55", "result.json", "[]");
    const StoreIndex index(folder.root);
    CHECK(index.entries().size() == 4);
    REQUIRE(index.of_node("t", "x[a]").size() == 1);
    CHECK(record_of(*index.of_node("t", "x[a]")[0]) == Json{{"seed", 1}});
    CHECK(record_of(*index.of_node("t", "x[b]")[0]) == Json::object());
    CHECK(index.of_type("t").size() == 3);
    CHECK(index.of_type("v").empty());
    const std::string digest = folder.entry("aa11").text("digest");
    CHECK(index.with_digest(digest, "nobody").size() == 2);
    REQUIRE(index.with_digest(digest, "x[b]").size() == 1);
    CHECK(index.with_digest(digest, "x[b]")[0]->key == "bb22");
    CHECK(index.usual_seconds("t", "x") == 2);
    CHECK_FALSE(index.usual_seconds("t", "y"));
    CHECK(StoreIndex(folder.path / "nowhere").entries().empty());
}
