#include "pipeline/run_diff.hpp"

#include <catch2/catch.hpp>
#include <fstream>

#include "base/error.hpp"
#include "base/files.hpp"

using namespace biophony;

namespace {

struct Folder {
    fs::path path = fs::temp_directory_path() / ("bph-diff-" + unique_name());
    ~Folder() { fs::remove_all(path); }

    void write(const std::string& name, const std::string& text) const {
        fs::create_directories((path / name).parent_path());
        std::ofstream(path / name) << text;
    }
    RunDifference compare() const { return compare_runs(path / "a", path / "b"); }
};

constexpr const char* kManifest = R"({"format": "biophony-run/0", "started": "2026-01-01T00:00:00Z", "seconds": 3,
    "environment": {"biophony": "1", "threads": 1}, "nodes": [
    {"id": "clips", "use": "dataset:folder", "seed": 0, "in": {}, "params": {"folder": "/x"}, "digest": "d1", "seconds": 1},
    {"id": "expert", "use": "fine-tune", "seed": 0, "in": {"data": ["clips"]}, "params": {"epochs": 5}, "digest": "e1"},
    {"id": "old", "use": "fine-tune", "seed": 0, "in": {"data": ["clips"]}, "params": {}, "digest": "o1"},
    {"id": "score", "use": "evaluate", "seed": 0, "in": {"model": ["expert"]}, "params": {}, "digest": "s1"}]})";
constexpr const char* kLock = R"({"plugins": {"encoder:beats": {"version": "1", "build": "b1", "sha256": "f1"}}})";
constexpr const char* kMetrics = R"({"score": {
    "all": {"clips": 4, "union": {"accuracy": 0.5}, "within": {"accuracy": 0.75}},
    "groups": {"bird": {"clips": 2, "union": {"accuracy": 0.5, "top_5": null}, "within": {"accuracy": 1.0}}}}})";

void write_run(const Folder& folder, const std::string& name) {
    folder.write(name + "/manifest.json", kManifest);
    folder.write(name + "/lock.json", kLock);
    folder.write(name + "/metrics.json", kMetrics);
}

}  // namespace

TEST_CASE("a run doesn't differ from itself, whenever it ran and however long it took") {
    Folder folder;
    write_run(folder, "a");
    write_run(folder, "b");
    Json manifest = Json::parse(kManifest);
    manifest["started"] = "2027-01-01T00:00:00Z";
    manifest["seconds"] = 4;
    manifest["nodes"][0]["seconds"] = 9;
    folder.write("b/manifest.json", manifest.dump());
    Json lock = Json::parse(kLock);
    lock["plugins"]["encoder:beats"]["sha256"] = "f2";  // compiled again from the same sources
    folder.write("b/lock.json", lock.dump());
    const RunDifference difference = folder.compare();
    CHECK(difference.empty());
    CHECK(difference.same_results == 4);
    CHECK(difference.same_figures == 6);
}

TEST_CASE("everything that differs is told") {
    Folder folder;
    write_run(folder, "a");
    write_run(folder, "b");
    Json manifest = Json::parse(kManifest), lock = Json::parse(kLock), metrics = Json::parse(kMetrics);
    manifest["environment"]["threads"] = 4;
    manifest["nodes"][0]["digest"] = "d2";
    manifest["nodes"][1]["params"] = {{"epochs", 9}, {"note", "n"}};
    manifest["nodes"][1]["digest"] = "e2";
    manifest["nodes"][2]["id"] = "new";
    manifest["nodes"][3].erase("digest");
    lock["plugins"]["encoder:beats"]["build"] = "b2";
    metrics["score"]["all"]["union"]["accuracy"] = 0.625;
    metrics["score"]["groups"]["bird"].erase("within");
    folder.write("b/manifest.json", manifest.dump());
    folder.write("b/lock.json", lock.dump());
    folder.write("b/metrics.json", metrics.dump());
    const RunDifference difference = folder.compare();
    CHECK_FALSE(difference.empty());
    REQUIRE(difference.plugins.size() == 1);
    CHECK(difference.plugins[0].path() == "encoder:beats.build");
    REQUIRE(difference.environment.size() == 1);
    CHECK(difference.environment[0].pointer == "/threads");
    CHECK(difference.only_first == std::vector<std::string>{"old"});
    CHECK(difference.only_second == std::vector<std::string>{"new"});
    CHECK(difference.data == std::vector<std::string>{"clips"});
    CHECK(difference.results == std::vector<std::string>{"expert"});
    CHECK(difference.unfinished == std::vector<std::string>{"score"});
    REQUIRE(difference.nodes.size() == 1);
    CHECK(difference.nodes[0].id == "expert");
    REQUIRE(difference.nodes[0].changes.size() == 2);
    CHECK(difference.nodes[0].changes[0].path() == "params.epochs");
    REQUIRE(difference.figures.size() == 2);
    CHECK(difference.figures[0].group == "all");
    CHECK(difference.figures[0].name == "union.accuracy");
    CHECK(difference.figures[0].first == 0.5);
    CHECK(difference.figures[0].second == 0.625);
    CHECK(difference.figures[1].name == "within.accuracy");
    CHECK_FALSE(difference.figures[1].second);
}

TEST_CASE("a run of an older version lacks what it lacks") {
    Folder folder;
    write_run(folder, "a");
    folder.write("b/manifest.json", R"({"format": "biophony-run/0", "nodes": [{"id": "clips"}]})");
    const RunDifference difference = folder.compare();
    CHECK(difference.only_first.size() == 3);
    CHECK(difference.plugins.size() == 2);
    CHECK(difference.unfinished == std::vector<std::string>{"clips"});
    CHECK(difference.figures.size() == 6);
}

TEST_CASE("what is no run directory is told") {
    Folder folder;
    write_run(folder, "a");
    CHECK_THROWS_WITH(folder.compare(), Catch::Contains("there is no such folder"));
    folder.write("b/x", "");
    CHECK_THROWS_WITH(folder.compare(), Catch::Contains("is no run directory: it lacks manifest.json"));
    folder.write("b/biophony-run.txt", "");
    CHECK_THROWS_WITH(folder.compare(), Catch::Contains("hasn't ended"));
    folder.write("b/manifest.json", "[]");
    CHECK_THROWS_WITH(folder.compare(), Catch::Contains("expected an object"));
    folder.write("b/manifest.json", R"({"format": 3})");
    CHECK_THROWS_WITH(folder.compare(), Catch::Contains("the format is the number 3"));
    CHECK_THROWS_WITH(compare_runs(folder.path / "a", folder.path / "a" / "lock.json"),
                      Catch::Contains("is a file, expected a run directory"));
}
