#include "learn/model_files.hpp"

#include <filesystem>

#include "toy.hpp"

#undef CHECK
#include <catch2/catch.hpp>

using namespace biophony;

namespace {

/// Two data sets with one clip each, written and loaded together; what that says.
std::string loaded(const ClipSet& first, const ClipSet& second) {
    std::string folder = (std::filesystem::temp_directory_path() / "biophony-test-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("no temporary folder");
    const std::filesystem::path root = folder;
    for (const ClipSet* set : {&first, &second}) {
        std::filesystem::create_directory(root / set->group);
        set->save(root / set->group, {});
    }
    std::string told = "nothing";
    try {
        load_sets({{"clips[" + first.group + "]", "dataset", root / first.group, ""},
                   {"clips[" + second.group + "]", "dataset", root / second.group, ""}});
    } catch (const Error& error) {
        told = error.what();
    }
    std::filesystem::remove_all(root);
    return told;
}

ClipSet one_clip(const std::string& group, const std::string& table, const std::string& id, const std::string& unit,
                 Split split) {
    ClipSet set{.group = group, .item = "dataset:table", .params = {{"file", table}}};
    set.recordings.push_back({.id = id, .unit = unit, .content = id, .index = 0, .source = {}});
    set.clips.push_back({0, 0, 1, group + " call", split});
    return set;
}

}  // namespace

TEST_CASE("a recording that two data sets have in different splits is refused") {
    const ClipSet frogs = one_clip("frog", "/t.csv", "pond-1.wav", "pond", Split::kTrain);
    // Another file of the same recording.
    const std::string told = loaded(frogs, one_clip("bird", "/t.csv", "pond-2.wav", "pond", Split::kTest));
    for (const char* word :
         {"train of 'frog' (clips[frog], 'pond-1.wav')", "test of 'bird' (clips[bird], 'pond-2.wav')",
          "with folds, recordings that several groups share must be in one data set"}) {
        INFO(told);
        CHECK(told.find(word) != std::string::npos);
    }
    CHECK(loaded(frogs, one_clip("bird", "/t.csv", "pond-2.wav", "pond", Split::kTrain)) == "nothing");
    CHECK(loaded(frogs, one_clip("bird", "/t.csv", "hill-1.wav", "hill", Split::kTest)) == "nothing");
    // In another table the same word may mean something else; the same bytes don't.
    CHECK(loaded(frogs, one_clip("bird", "/u.csv", "pond-2.wav", "pond", Split::kTest)) == "nothing");
    CHECK(loaded(frogs, one_clip("bird", "/u.csv", "pond-1.wav", "x", Split::kTest)) != "nothing");
}
