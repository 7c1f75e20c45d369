#include "pipeline/record_diff.hpp"

#include <catch2/catch.hpp>

using namespace biophony;

namespace {

std::vector<std::string> told(const char* then, const char* now) {
    std::vector<std::string> out;
    for (const Change& change : differences(Json::parse(then), Json::parse(now)))
        out.push_back(change.path() + " " + brief(change.then) + " → " + brief(change.now));
    return out;
}

std::string words(const char* then, const char* now) {
    const std::vector<Change> changes = differences(Json::parse(then), Json::parse(now));
    REQUIRE(changes.size() == 1);
    return in_words(changes[0], "fine-tune");
}

}  // namespace

TEST_CASE("differences are told leaf by leaf") {
    using Lines = std::vector<std::string>;
    CHECK(told(R"({"a": 1, "b": [1, {"c": 2}]})", R"({"b": [1, {"c": 2}], "a": 1})").empty());
    CHECK(told(R"({"a": {"x": 1, "y": 2}})", R"({"a": {"y": 3, "z": 4}})") ==
          Lines{"a.x 1 → (none)", "a.y 2 → 3", "a.z (none) → 4"});
    CHECK(told("[1, 2]", "[1, 3, 4]") == Lines{"1 2 → 3", "2 (none) → 4"});
    CHECK(told(R"({"a": null})", R"({})") == Lines{"a null → (none)"});
    // Results have the parameters in them as they are written.
    CHECK(told(R"({"a": 1})", R"({"a": 1.0})") == Lines{"a 1 → 1.0"});
    CHECK(told(R"({"a": 1})", R"({"a": "1"})").size() == 1);
    CHECK(differences(Json(1), Json(1u)).empty());
    CHECK(differences(Json{{"a/b", 1}, {"c~d", 2}}, Json::object())[0].path() == "a/b");
}

TEST_CASE("an object or list that takes the place of a value is told with its leaves") {
    const auto lines = told(R"({"a": 1})", R"({"a": {"b": 2, "c": 3}})");
    CHECK(lines == std::vector<std::string>{"a 1 → (none)", "a.b (none) → 2", "a.c (none) → 3"});
}

TEST_CASE("values are told in a few characters") {
    CHECK(brief(Json("")) == "\"\"");
    CHECK(brief(Json("text")) == "text");
    CHECK(brief(Json(0.1)) == "0.1");
    CHECK(brief(Json("sha256:" + std::string(64, 'a'))) == "aaaaaaaaaaaa…");
    const std::string cut = brief(Json(std::string(40, 'x') + "ééééééééééé"));
    CHECK(cut.size() <= 50);
    CHECK(cut.ends_with("é…"));
    CHECK_NOTHROW(Json(cut).dump());  // cut between characters
}

TEST_CASE("changes of a record in words") {
    const std::string a(64, 'a'), b(64, 'b');
    CHECK(words(R"({"params": {"epochs": 5}})", R"({"params": {"epochs": 9}})") == "parameter epochs: 5 → 9");
    CHECK(words(R"({"params": {"a.b": {"c": 1}}})", R"({"params": {"a.b": {"c": 2}}})") == "parameter a.b.c: 1 → 2");
    CHECK(words(("{\"params\": {\"checkpoint\": \"sha256:" + a + "\"}}").c_str(),
                ("{\"params\": {\"checkpoint\": \"sha256:" + b + "\"}}").c_str()) ==
          "the file of parameter checkpoint changed");
    CHECK(words(R"({"plugins": {}})", R"({"plugins": {}, "seed": 1})") == "seed (none) → 1");
    CHECK(words(R"({"plugins": {"x:y": "1", "x:z": "1"}})", R"({"plugins": {"x:z": "1"}})") ==
          "plugin x:y takes no part any more");
    CHECK(words(R"({"plugins": {"x:z": "1"}})", R"({"plugins": {"x:y": "1", "x:z": "1"}})") ==
          "plugin x:y takes part now");
    CHECK(words(R"({"torch": {"cpu": "avx2"}})", R"({"torch": {"cpu": "avx512"}})") == "processor class avx2 → avx512");
    CHECK(words(R"({"torch": {"device": "cpu"}})", R"({"torch": {"device": "cuda"}})") == "device cpu → cuda");
    CHECK(words(R"({"later": {"field": 1}})", R"({"later": {"field": 2}})") == "later.field: 1 → 2");
    CHECK(words(R"({"node": "a"})", R"({"node": "b"})") == "the node was called a");
    CHECK(words(R"({"names": {"vectors": ["a"]}})", R"({"names": {"vectors": ["b"]}})") ==
          "the name of input vectors.0: a → b");
}
