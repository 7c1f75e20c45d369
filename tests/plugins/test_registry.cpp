#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <chrono>

#include "plugin_files.hpp"
#include "plugins/manifest.hpp"

using namespace biophony;
using Catch::Matchers::Contains;

namespace {

std::string refusal(const Registry& registry, const std::string& name) {
    try {
        registry.require(name);
    } catch (const Error& error) {
        CHECK(error.code() == Code::kPlugin);
        return error.what();
    }
    return "nothing was thrown";
}

std::vector<fs::path> cached(const Scratch& scratch) {
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator(scratch.cache() / "probe")) out.push_back(entry.path());
    return out;
}

class Environment {
public:
    Environment(const char* name, const std::string& value) : name_(name) {
        if (const char* old = std::getenv(name)) old_ = old;
        ::setenv(name, value.c_str(), 1);
    }
    ~Environment() {
        if (old_)
            ::setenv(name_, old_->c_str(), 1);
        else
            ::unsetenv(name_);
    }

private:
    const char* name_;
    std::optional<std::string> old_;
};

}  // namespace

TEST_CASE("a folder's plugins are found, and the rest is told") {
    const Scratch scratch;
    scratch.copy("good", "a/x.so");
    scratch.copy("fails", "a/y.so");
    scratch.write("a/text.so", "no plugin");
    scratch.write("a/readme.txt", "no library");
    const Registry registry({scratch.folder() / "a"});
    REQUIRE(registry.files().size() == 3);
    CHECK(registry.files()[0].path == scratch.folder() / "a" / "text.so");
    CHECK(registry.files()[0].state == PluginState::kNotAPlugin);
    CHECK(registry.items().size() == 6);
    CHECK(registry.items("merger").empty());
    const ItemInfo& good = registry.require("dataset:zoo-good");
    CHECK(good.library == scratch.folder() / "a" / "x.so");
    CHECK(good.version == "1.2");  // the library's
    CHECK(good.tier == "S");
    CHECK(good.build.size() == 64);
    CHECK(registry.find("dataset", "zoo-good") == &good);
    CHECK(registry.find("dataset", "zoo-goo") == nullptr);
    const void* table = Registry::load(good);
    CHECK(table != nullptr);
    CHECK(Registry::load(good) == table);
}

TEST_CASE("an item that isn't there is told with the nearest one and where it was looked for") {
    const Scratch scratch;
    scratch.copy("good", "a/x.so");
    scratch.copy("aborts", "a/y.so");
    const Registry registry({scratch.folder() / "a", scratch.folder() / "b"});
    CHECK_THAT(refusal(registry, "dataset:zoo-god"), Contains("no dataset 'zoo-god'") &&
                                                         Contains("did you mean 'zoo-good'?") &&
                                                         Contains((scratch.folder() / "a").string()) &&
                                                         Contains((scratch.folder() / "b").string() + " (not there)"));
    CHECK_THAT(refusal(registry, "datset:zoo-good"), Contains("'datset'") && Contains("did you mean 'dataset'?"));
    CHECK_THAT(refusal(registry, "zoo-good"), Contains("found 'zoo-good'") && Contains("dataset:table"));
    CHECK_THAT(refusal(registry, "dataset:zoo-aborts"),
               Contains("was refused") && Contains("y.so: crashed: ") && Contains("SIGABRT"));
}

TEST_CASE("the first library of an item wins, and both are named") {
    const Scratch scratch;
    scratch.copy("good", "a/x.so");
    scratch.copy("second_good", "b/x.so");
    scratch.copy("half_good", "c/x.so");
    const Registry registry({scratch.folder() / "a", scratch.folder() / "b", scratch.folder() / "c"});
    REQUIRE(registry.files().size() == 3);
    CHECK(registry.require("dataset:zoo-good").library == scratch.folder() / "a" / "x.so");
    const PluginFile& second = registry.files()[1];
    CHECK(second.state == PluginState::kDuplicate);
    CHECK_THAT(second.reason, Contains("dataset:zoo-good") && Contains((scratch.folder() / "a" / "x.so").string()));
    const PluginFile& half = registry.files()[2];
    CHECK(half.state == PluginState::kOk);
    CHECK_THAT(half.reason, Contains("dataset:zoo-good is taken from " + (scratch.folder() / "a" / "x.so").string()));
    CHECK(registry.require("dataset:zoo-half-good").library == half.path);
    CHECK(registry.items().size() == 2);
    // The order of the folders decides.
    const Registry other({scratch.folder() / "b", scratch.folder() / "a"});
    CHECK(other.require("dataset:zoo-good").library == scratch.folder() / "b" / "x.so");
}

TEST_CASE("a refused library doesn't hide a good one, and a link is no second library") {
    const Scratch scratch;
    scratch.write("a/x.so", read_file(kAnimals / "good.so").substr(0, 5000));
    scratch.copy("good", "b/x.so");
    fs::create_symlink("x.so", scratch.folder() / "b" / "y.so");
    const Registry registry({scratch.folder() / "a", scratch.folder() / "b"});
    CHECK(registry.files().size() == 2);
    CHECK(registry.require("dataset:zoo-good").library == scratch.folder() / "b" / "x.so");
}

TEST_CASE("plugin folders come in their order, and never the current one") {
    const Scratch scratch;
    for (const char* name : {"line", "one", "two"}) fs::create_directories(scratch.folder() / name);
    const Environment path("BIOPHONY_PLUGIN_PATH", ":" + (scratch.folder() / "one").string() +
                                                       "::" + (scratch.folder() / "two").string() + ":" +
                                                       (scratch.folder() / "one").string() + ":");
    const Environment data("XDG_DATA_HOME", (scratch.folder() / "data").string());
    const auto folders = plugin_folders({scratch.folder() / "line"});
    REQUIRE(folders.size() >= 5);
    CHECK(folders[0] == scratch.folder() / "line");
    CHECK(folders[1] == scratch.folder() / "one");
    CHECK(folders[2] == scratch.folder() / "two");
    CHECK(folders[3] == scratch.folder() / "data" / "biophony" / "plugins");
    CHECK(folders.back() == fs::canonical(BPH_BUILD_DIR) / "plugins");
    for (const fs::path& folder : folders) {
        CHECK(folder.is_absolute());
        CHECK(folder != fs::current_path());
    }
    try {
        plugin_folders({scratch.folder() / "lien"});
        FAIL("a missing folder was taken");
    } catch (const Error& error) {
        CHECK(error.code() == Code::kInvalid);
        CHECK_THAT(error.what(), Contains("--plugin-path") && Contains("lien"));
    }
}

TEST_CASE("a good probe is kept, by content and host") {
    const Scratch scratch;
    const fs::path library = scratch.copy("good", "a/x.so");
    REQUIRE(Registry::look_at(library).state == PluginState::kOk);
    REQUIRE(cached(scratch).size() == 1);
    const fs::path entry = cached(scratch)[0];
    CHECK_THAT(entry.filename().string(), Contains(Registry::look_at(library).sha256));

    // With the entry nothing is started; a prober that can't be started would tell.
    const std::string bytes = read_file(kHelper);
    const fs::path prober = scratch.write("prober", bytes);
    ::chmod(prober.c_str(), 0755);
    set_probe_options({.executable = prober});
    REQUIRE(Registry::look_at(library).state == PluginState::kOk);
    fs::permissions(prober, fs::perms::owner_read);
    CHECK(Registry::look_at(library).state == PluginState::kOk);
    fs::permissions(prober, fs::perms::owner_all);

    SECTION("a damaged entry is no entry") {
        for (const std::string& damage : {std::string("{\"ok\": tr"), std::string(), std::string("[]"),
                                          std::string("{\"state\": \"ok\", \"error\": \"\"}"),
                                          std::string("{\"state\": \"wonderful\", \"error\": \"yes\"}")}) {
            for (const fs::path& path : cached(scratch)) scratch.write(path, damage);
            CHECK(Registry::look_at(library).state == PluginState::kOk);
            CHECK(read_file(entry).size() > 0);
        }
    }
    SECTION("another content has another entry") {
        scratch.copy("aborts", "a/x.so");
        CHECK(Registry::look_at(library).state == PluginState::kCrashed);
    }
    SECTION("another host asks again") {
        const fs::path changed = scratch.write("changed", bytes + " ");
        ::chmod(changed.c_str(), 0755);
        set_probe_options({.executable = changed});
        const size_t before = cached(scratch).size();
        CHECK(Registry::look_at(library).state == PluginState::kOk);
        CHECK(cached(scratch).size() == before + 1);
    }
    SECTION("a crash is asked about again: what was missing may be there now") {
        const fs::path bad = scratch.copy("aborts", "a/y.so");
        const size_t before = cached(scratch).size();
        CHECK(Registry::look_at(bad).state == PluginState::kCrashed);
        CHECK(cached(scratch).size() == before);
    }
    SECTION("where nothing can be kept, it is asked each time") {
        scratch.write("file", "");
        const Environment cache("BIOPHONY_CACHE", (scratch.folder() / "file").string());
        CHECK(Registry::look_at(library).state == PluginState::kOk);
    }
}

TEST_CASE("a library that changed since it was looked at isn't loaded") {
    const Scratch scratch;
    const fs::path library = scratch.copy("good", "a/x.so");
    const Registry registry({scratch.folder() / "a"});
    scratch.copy("second_good", "a/x.so");
    try {
        Registry::load(registry.require("dataset:zoo-good"));
        FAIL("it was loaded");
    } catch (const Error& error) {
        CHECK_THAT(error.what(), Contains("changed since"));
    }
}

TEST_CASE("manifests are read strictly, and all faults are told") {
    const auto read = [](const std::string& text) {
        std::vector<Diagnostic> problems;
        std::vector<std::string> notes;
        parse_manifest(text, problems, notes);
        std::string out;
        for (const Diagnostic& problem : problems) out += problem.text() + "\n";
        for (const std::string& note : notes) out += "note: " + note + "\n";
        return out;
    };
    const auto item = [](const std::string& changes) {
        Json json = {{"kind", "merger"},
                     {"id", "a.b-c_1"},
                     {"interface", "biophony.merger/0"},
                     {"tier", "S"},
                     {"merger", {{"stage", "combine"}, {"scope", "element"}, {"space", "delta"}}},
                     {"parameters", {{"type", "object"}}}};
        json.merge_patch(Json::parse(changes));
        return Json{{"biophony_manifest", 1}, {"items", {json}}}.dump();
    };
    CHECK(read(item("{}")).empty());
    CHECK(read(item("{}") + std::string(3, '\0')).empty());
    CHECK_THAT(read(item("{}") + "{}"), Contains("its manifest:1:"));
    CHECK_THAT(read("[]"), Contains("expected an object"));
    CHECK_THAT(read("{}"), Contains("\"biophony_manifest\": 1"));
    CHECK_THAT(read(R"({"biophony_manifest": 2, "things": []})"),
               Contains("found manifest format 2, this host reads 1"));
    CHECK_THAT(read(R"({"biophony_manifest": 1, "biophony_manifest": 1})"), Contains("biophony_manifest"));
    CHECK_THAT(read(R"({"biophony_manifest": 1, "items": {}})"), Contains("no items"));
    CHECK_THAT(read(R"({"biophony_manifest": 1, "items": [3]})"), Contains("/items/0") && Contains("the number 3"));
    for (const char* key : {"kind", "id", "interface", "tier", "parameters"})
        CHECK_THAT(read(item(std::string("{\"") + key + "\": null}")), Contains(key));
    CHECK_THAT(read(item(R"({"id": 3})")), Contains("/items/0/id") && Contains("the number 3"));
    CHECK_THAT(read(item(R"({"id": "Ä"})")), Contains("letters a-z"));
    CHECK_THAT(read(item(R"({"kind": "dataset"})")),
               Contains("dataset:a.b-c_1 speaks biophony.merger/0, this host knows biophony.dataset/0"));
    CHECK_THAT(read(item(R"({"tier": "T"})")), Contains("expected \"S\""));
    CHECK_THAT(read(item(R"({"merger": null})")), Contains("stage, scope and space"));
    CHECK_THAT(read(item(R"({"merger": {"stage": null}})")),
               Contains("/items/0/merger") && Contains("the key 'stage' is missing, expected one of transform"));
    CHECK_THAT(read(item(R"({"merger": {"scope": "glob"}})")), Contains("/items/0/merger/scope"));
    CHECK_THAT(read(item(R"({"merger": {"random": 1}})")),
               Contains("/items/0/merger/random") && Contains("the number 1, expected true or false"));
    CHECK_THAT(read(item(R"({"merger": {"needs": "base"}})")), Contains("expected an array of texts"));
    CHECK_THAT(read(item(R"({"merger": {"scop": "element"}})")),
               Contains("note: ") && Contains("did you mean 'scope'?"));
    const auto encoder = [&](const char* facts) {
        Json json = Json::parse(
            item(R"({"kind": "encoder", "interface": "biophony.torch.encoder/0", "tier": "T", "merger": null})"));
        json["items"][0]["parameters"]["properties"] = {{"dim", {{"type", "integer"}, {"default", 8}}}};
        json["items"][0]["encoder"] = Json::parse(facts);
        return read(json.dump());
    };
    CHECK(encoder(
              R"({"sample_rate": 16000, "width": {"parameter": "dim"}, "bands": {"parameter": "dim", "divides": 128}})")
              .empty());
    CHECK_THAT(encoder("3"), Contains("/items/0/encoder: found the number 3, expected an object"));
    CHECK_THAT(encoder(R"({"width": "dim"})"),
               Contains("/items/0/encoder/width: found the string \"dim\", expected a number"));
    CHECK_THAT(encoder(R"({"width": {"parameter": "dims"}})"),
               Contains("/items/0/encoder/width: there is no parameter 'dims'"));
    CHECK_THAT(encoder(R"({"trainable": 1})"), Contains("/items/0/encoder/trainable"));
    CHECK_THAT(encoder(R"({"widht": 3})"), Contains("note: ") && Contains("did you mean 'width'?"));
    CHECK_THAT(read(item(R"({"parameters": {"type": "object", "required": ["x"]}})")), Contains("\"x\""));
    CHECK_THAT(read(item(R"({"parameters": {"properties": []}})")), Contains("/items/0/parameters/properties"));
    const auto preset = [&](const char* with) {
        Json json = Json::parse(item(R"({"parameters": {"properties": {"density": {"type": "number"}}}})"));
        json["items"][0]["merger"] = {{"preset", {{{"use", "merger:trim"}, {"with", Json::parse(with)}}}}};
        return read(json.dump());
    };
    CHECK(preset(R"({"density": {"parameter": "density"}})").empty());
    CHECK_THAT(preset(R"({"density": 0.5})"),
               Contains("/items/0/merger/preset") && Contains("no stage takes the item's parameter 'density'"));
    for (const char* file :
         {R"({"f": {"type": "string", "format": "path"}})",
          R"({"list": {"type": "array", "items": {"type": "string", "format": "path", "x-must-exist": true}}})"})
        CHECK_THAT(read(item(std::string(R"({"parameters": {"type": "object", "properties": )") + file + "}}")),
                   Contains("/items/0/parameters/properties/") && Contains("can't be used yet"));
    CHECK(read(item(R"({"parameters": {"type": "object", "properties": {"format": {"default": "path"}}}})")).empty());
    CHECK_THAT(read(item(R"({"licens": "x"})")), Contains("note: ") && Contains("did you mean 'licence'?"));
    CHECK(read(item(R"({"x-lab": "x"})")).empty());
    const Json twice = Json::parse(item("{}"));
    CHECK_THAT(read(Json{{"biophony_manifest", 1}, {"items", {twice["items"][0], twice["items"][0]}}}.dump()),
               Contains("merger:a.b-c_1 is there twice"));
    CHECK_THAT(read(Json{{"biophony_manifest", 1}, {"build", "abc"}, {"items", twice["items"]}}.dump()),
               Contains("64 hex digits"));
}
