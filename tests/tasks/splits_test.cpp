// Splits by recording and by fold: whole units, every clip in one fold's test, labels spread over the folds.
#include "tasks/splits.hpp"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <map>
#include <set>

using namespace biophony;

namespace {

/// `units[i]` are the labels of unit i, one clip each, in a recording (file) of its own.
ClipSet set_of(const std::vector<std::vector<std::string>>& units) {
    ClipSet set;
    for (size_t u = 0; u < units.size(); ++u)
        for (const std::string& label : units[u]) {
            set.recordings.push_back({.id = fmt::format("f{}", set.recordings.size()),
                                      .unit = fmt::format("u{}", u),
                                      .content = "",
                                      .source = {}});
            set.clips.push_back({set.recordings.size() - 1, 0, 1, label, Split::kTrain});
        }
    return set;
}

std::vector<Split> splits_of(const ClipSet& set) {
    std::vector<Split> out;
    for (const Clip& clip : set.clips) out.push_back(clip.split);
    return out;
}

std::map<std::string, std::set<Split>> by_unit(const ClipSet& set) {
    std::map<std::string, std::set<Split>> out;
    for (const Clip& clip : set.clips) out[set.recordings[clip.recording].unit].insert(clip.split);
    return out;
}

/// 12 units of a, 7 of b, 5 of c, 2 of d, two of them with a second label.
std::vector<std::vector<std::string>> mixed() {
    std::vector<std::vector<std::string>> units;
    for (const auto& [label, count] : {std::pair("a", 12), {"b", 7}, {"c", 5}, {"d", 2}})
        for (int i = 0; i < count; ++i) units.push_back({label, label});
    units[0].push_back("b");
    units[1].push_back("d");
    return units;
}

}  // namespace

TEST_CASE("each clip is in the test split of one fold, and units stay whole") {
    constexpr size_t kFolds = 5;
    ClipSet set = set_of(mixed());
    std::vector<std::vector<Split>> all;
    for (size_t fold = 0; fold < kFolds; ++fold) {
        split_by_fold(set, kFolds, fold, 3);
        all.push_back(splits_of(set));
        for (const auto& [unit, splits] : by_unit(set)) CHECK(splits.size() == 1);
        std::map<std::string, int> in_test;
        for (const Clip& clip : set.clips) in_test[clip.label] += clip.split == Split::kTest ? 1 : 0;
        for (const char* label : {"a", "b", "c"}) CHECK(in_test[label] > 0);
    }
    for (size_t c = 0; c < set.clips.size(); ++c)
        for (size_t fold = 0; fold < kFolds; ++fold) {
            int tests = 0;
            for (size_t f = 0; f < kFolds; ++f) tests += all[f][c] == Split::kTest ? 1 : 0;
            CHECK(tests == 1);
            // The next fold's test clips are this one's validation clips.
            CHECK((all[fold][c] == Split::kValid) == (all[(fold + 1) % kFolds][c] == Split::kTest));
        }
}

TEST_CASE("folds are as even as whole units allow") {
    // 23 units of one label in 5 folds: 5, 5, 5, 4, 4. Six labels of 2 units: 12 units, 3 + 3 + 2 + 2 + 2.
    std::vector<std::vector<std::string>> one(23, {"a"}), six;
    for (int i = 0; i < 12; ++i) six.push_back({std::string(1, static_cast<char>('a' + i / 2))});
    for (const auto& [units, least, most] : {std::tuple(one, 4, 5), {six, 2, 3}})
        for (size_t fold = 0; fold < 5; ++fold) {
            ClipSet set = set_of(units);
            split_by_fold(set, 5, fold, 1);
            const std::vector<Split> splits = splits_of(set);
            const auto tests = std::count(splits.begin(), splits.end(), Split::kTest);
            CHECK(tests >= least);
            CHECK(tests <= most);
        }
}

TEST_CASE("folds depend on the seed, and not on the order of the clips") {
    ClipSet set = set_of(mixed()), again = set, other = set;
    std::reverse(again.clips.begin(), again.clips.end());
    split_by_fold(set, 4, 2, 9);
    split_by_fold(again, 4, 2, 9);
    std::reverse(again.clips.begin(), again.clips.end());
    CHECK(splits_of(again) == splits_of(set));
    split_by_fold(other, 4, 2, 10);
    CHECK(splits_of(other) != splits_of(set));
    CHECK_THROWS_AS(split_by_fold(set, 2, 0, 1), Error);
    CHECK_THROWS_AS(split_by_fold(set, 5, 5, 1), Error);
}

TEST_CASE("rare labels are dropped by recordings, not by clips") {
    // d: two units and a third beside a; e: five clips of one unit.
    std::vector<std::vector<std::string>> units = mixed();
    units.push_back({"e", "e", "e", "e", "e"});
    ClipSet set = set_of(units);
    const size_t before = set.clips.size();
    const LeftOut none = drop_rare_labels(set, 1);
    CHECK(none.labels == 0);
    CHECK(set.clips.size() == before);
    const LeftOut rare = drop_rare_labels(set, 3);
    CHECK(rare.labels == 1);
    CHECK(rare.clips == 5);
    CHECK(set.labels() == std::vector<std::string>{"a", "b", "c", "d"});
    CHECK(drop_rare_labels(set, 4).clips == 5);  // d: twice two clips and one
    CHECK(set.clips.size() == before - 10);
}

TEST_CASE("a split by recording gives every label what it can") {
    ClipSet set = set_of(mixed());
    split_by_unit(set, {0.6, 0.2, 0.2}, 1);
    for (const auto& [unit, splits] : by_unit(set)) CHECK(splits.size() == 1);
    std::map<std::string, std::set<Split>> of_label;
    for (const Clip& clip : set.clips) of_label[clip.label].insert(clip.split);
    for (const char* label : {"a", "b", "c"}) CHECK(of_label[label].size() == 3);
}
