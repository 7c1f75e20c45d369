#include "pipeline/store.hpp"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <thread>

using namespace biophony;

namespace {

struct Folder {
    fs::path path = fs::temp_directory_path() / ("bph-store-" + unique_name());
    ~Folder() { fs::remove_all(path); }
};

StoredResult put(const Store& store, const std::string& key, const std::string& text) {
    const fs::path temporary = store.make_temporary();
    fs::create_directories(temporary / "inner");
    std::ofstream(temporary / "a.txt") << text;
    std::ofstream(temporary / "inner" / "b.txt") << "b";
    std::ofstream(temporary / "places.local.json") << temporary;  // differs each time
    return store.put(temporary, key, {{"node", "n"}});
}

}  // namespace

TEST_CASE("a result is found by its key, whole and read-only") {
    Folder folder;
    const Store store(folder.path / "store");
    CHECK_FALSE(store.find("abcd"));
    const StoredResult made = put(store, "abcd", "one");
    const auto found = store.find("abcd");
    REQUIRE(found);
    CHECK(found->digest == made.digest);
    CHECK(found->record.at("node") == "n");
    CHECK(read_file(found->folder / "a.txt") == "one");
    CHECK((fs::status(found->folder / "a.txt").permissions() & fs::perms::owner_write) == fs::perms::none);
    CHECK_NOTHROW(store.verify(*found));
    CHECK(fs::is_empty(store.root() / "tmp"));
}

TEST_CASE("the digest is that of the content, wherever it lies") {
    Folder folder;
    const Store store(folder.path / "store");
    const StoredResult a = put(store, "aa11", "same"), b = put(store, "bb22", "same"), c = put(store, "cc33", "other");
    CHECK(a.digest == b.digest);
    CHECK(a.digest != c.digest);
    // Without a key the content is the key, local files included.
    CHECK(put(store, "", "same").key.size() == 64);
}

TEST_CASE("whoever comes second takes what is there") {
    Folder folder;
    const Store store(folder.path / "store");
    const StoredResult first = put(store, "abcd", "one"), second = put(store, "abcd", "one");
    CHECK(first.folder == second.folder);
    CHECK(fs::is_empty(store.root() / "tmp"));
}

TEST_CASE("a shortened result is made again, a changed one is told") {
    Folder folder;
    const Store store(folder.path / "store");
    const StoredResult made = put(store, "abcd", "one");
    ::chmod((made.folder / "a.txt").c_str(), 0644);
    std::ofstream(made.folder / "a.txt") << "two";
    CHECK(store.find("abcd"));  // same size: seen when it is used
    CHECK_THROWS_WITH(store.verify(made), Catch::Contains("was changed since it was made"));
    fs::resize_file(made.folder / "a.txt", 1);
    CHECK_FALSE(store.find("abcd"));
    put(store, "abcd", "one");
    REQUIRE(store.find("abcd"));
    CHECK_NOTHROW(store.verify(*store.find("abcd")));
    std::ofstream(made.folder / "result.json", std::ios::trunc) << "{";
    ::chmod((made.folder / "result.json").c_str(), 0644);
    std::ofstream(made.folder / "result.json", std::ios::trunc) << "{";
    CHECK_FALSE(store.find("abcd"));
}

TEST_CASE("what dead processes left is cleared, what living ones make is not") {
    Folder folder;
    fs::create_directories(folder.path / "store" / "tmp" / "999999999-1-0");
    const Store first(folder.path / "store");
    CHECK(fs::is_empty(first.root() / "tmp"));
    const fs::path mine = first.make_temporary();
    const Store second(folder.path / "store");
    CHECK(fs::exists(mine));
}

TEST_CASE("after a power loss what might be damaged is compared, and what is damaged removed") {
    Folder folder;
    const std::string good(64, 'a'), bad(64, 'b'), unlisted(64, 'c'), cut(64, 'e');
    const fs::path unsynced = folder.path / "store" / "unsynced";
    auto make = [&] {
        const Store store(folder.path / "store");
        for (const std::string& key : {good, bad, unlisted, cut}) {
            const StoredResult made = put(store, key, "one");
            if (key == good) continue;
            const char* file = key == cut ? "result.json" : "a.txt";
            ::chmod((made.folder / file).c_str(), 0644);
            std::ofstream(made.folder / file) << (key == cut ? "" : "two");
        }
        CHECK(store.settle());
    };
    const std::string boot = read_file("/proc/sys/kernel/random/boot_id");
    struct stat status {};
    make();
    CHECK(fs::is_empty(unsynced));
    CHECK(::stat((folder.path / "store" / "objects").c_str(), &status) == 0);
    const auto time = [](int64_t seconds) {
        std::string digits = std::to_string(seconds);
        return std::string(20 - digits.size(), '0') + digits + "\n";
    };
    // The keys after the head may have been lost, all that appeared since then counts. The last line is cut, as where a
    // process was killed while it wrote.
    const std::string keys = bad + "\n" + good + "\n" + unlisted.substr(0, 20);
    const std::vector<std::pair<std::string, bool>> lists_left = {
        {boot + time(status.st_ctim.tv_sec) + keys, false},
        {"another boot\n" + time(status.st_ctim.tv_sec + 3600) + keys, false},
        {"another boot\n" + time(status.st_ctim.tv_sec) + keys, true},
        {"another boot\n" + time(status.st_ctim.tv_sec), true},
        {std::string(), true}};
    for (const auto& [list, compared] : lists_left) {
        make();
        std::ofstream(unsynced / "999999999-1-0") << list;
        const Store store(folder.path / "store");
        INFO(list);
        CHECK(store.find(good));
        CHECK(store.find(bad).has_value() == !compared);
        CHECK(store.find(unlisted).has_value() == !compared);
        if (compared) CHECK(!fs::exists(folder.path / "store" / "objects" / "ee" / cut));
        CHECK(!fs::exists(unsynced / "999999999-1-0"));
        CHECK(fs::is_empty(folder.path / "store" / "tmp"));
        CHECK(store.settle());
    }
    // A living process looks after its own.
    const Store living(folder.path / "store");
    put(living, std::string(64, 'd'), "x");
    const auto lists =
        std::distance(fs::directory_iterator(folder.path / "store" / "unsynced"), fs::directory_iterator());
    for (const auto& list : fs::directory_iterator(folder.path / "store" / "unsynced"))
        CHECK(read_file(list.path()).starts_with(boot));
    const Store second(folder.path / "store");
    CHECK(lists == 1);
    CHECK(std::distance(fs::directory_iterator(folder.path / "store" / "unsynced"), fs::directory_iterator()) == 1);
}

TEST_CASE("what other machines make in the store is let be for a week") {
    Folder folder;
    const fs::path tmp = folder.path / "store" / "tmp";
    fs::create_directories(tmp / "elsewhere~1-1-0");
    fs::create_directories(tmp / "elsewhere~1-1-1");
    fs::last_write_time(tmp / "elsewhere~1-1-1", fs::file_time_type::clock::now() - std::chrono::hours(24 * 8));
    const Store store(folder.path / "store");
    CHECK(fs::exists(tmp / "elsewhere~1-1-0"));
    CHECK(!fs::exists(tmp / "elsewhere~1-1-1"));
}

TEST_CASE("a result that shows late is waited for, until a cancel") {
    Folder folder;
    const Store store(folder.path / "store"), elsewhere(folder.path / "store");
    const std::string key(64, 'a');
    std::thread later([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(150));
        put(elsewhere, key, "one");
    });
    CHECK(store.wait_for(key, nullptr));
    later.join();
    Cancel cancel;
    cancel.request();
    CHECK_THROWS_AS(store.wait_for(std::string(64, 'b'), &cancel), Error);
}

TEST_CASE("several open a store that a dead process left, and one sees to it") {
    Folder folder;
    const std::string bad(64, 'b');
    {
        const Store store(folder.path / "store");
        const StoredResult made = put(store, bad, "one");
        ::chmod((made.folder / "a.txt").c_str(), 0644);
        std::ofstream(made.folder / "a.txt") << "two";
    }
    std::ofstream(folder.path / "store" / "unsynced" / "999999999-1-0") << "another boot\n";
    std::vector<std::thread> openers;
    for (int i = 0; i < 8; ++i) openers.emplace_back([&] { const Store store(folder.path / "store"); });
    for (std::thread& opener : openers) opener.join();
    CHECK(fs::is_empty(folder.path / "store" / "unsynced"));
    CHECK(fs::is_empty(folder.path / "store" / "tmp"));
    CHECK(!fs::exists(folder.path / "store" / "objects" / "bb" / bad));
}
