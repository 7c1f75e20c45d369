// What the host makes of each bad plugin: one state, one clear reason, and the host lives.
#include <signal.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <map>

#include "biophony/c/dataset.h"
#include "plugin_files.hpp"
#include "plugins/call.hpp"

using namespace biophony;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

const PluginFile look(const std::string& animal, bool probe = true) {
    return Registry::look_at(kAnimals / (animal + ".so"), probe);
}

struct Verdict {
    PluginState state;
    std::vector<std::string> reason;  ///< texts that it contains
};

void check(const PluginFile& file, const Verdict& verdict) {
    INFO(file.path << ": " << to_string(file.state) << ": " << file.reason);
    CHECK(to_string(file.state) == to_string(verdict.state));
    for (const std::string& part : verdict.reason) CHECK_THAT(file.reason, Contains(part));
    CHECK(file.reason.empty() == verdict.reason.empty());
}

/// No process of this user may run this file.
bool runs_somewhere(const fs::path& file) {
    for (const auto& entry : fs::directory_iterator("/proc")) {
        std::ifstream command(entry.path() / "cmdline");
        std::string text((std::istreambuf_iterator<char>(command)), {});
        if (text.find(file.string()) != std::string::npos) return true;
    }
    return false;
}

}  // namespace

TEST_CASE("each bad plugin has its state and its reason") {
    const Scratch scratch;
    using enum PluginState;
    const std::map<std::string, Verdict> verdicts = {
        {"good", {kOk, {}}},
        {"no_manifest", {kNotAPlugin, {"no section bph_meta"}}},
        {"no_entry", {kNotAPlugin, {"doesn't export the function biophony_plugin_entry"}}},
        {"bad_json", {kBadManifest, {"its manifest:2:"}}},
        {"no_items", {kBadManifest, {"no items"}}},
        {"many_faults",
         {kBadManifest,
          {"found \"datset\"", "did you mean 'dataset'?", "/items/0/id", "Zoo Faults", "\"type\": \"object\""}}},
        {"bad_default",
         {kBadManifest, {"the parameter 'size' of dataset:zoo-bad-default", "\"big\"", "a whole number"}}},
        {"other_manifest", {kBadManifest, {"not the one in its section bph_meta"}}},
        {"no_table", {kBadManifest, {"has dataset:zoo-no-table, but the library has no biophony.dataset/0"}}},
        {"aborts", {kCrashed, {"SIGABRT", ": zoo: no licence file"}}},
        {"exits", {kCrashed, {"status 7"}}},
        {"missing_symbol", {kMissingDependency, {"undefined symbol: zoo_nobody_has_this"}}},
        {"wrong_spine", {kIncompatible, {"spine version: found 7, expected 0"}}},
        {"null_entry", {kIncompatible, {"can't work with this host"}}},
        {"throws_in_entry", {kIncompatible, {"biophony_plugin_entry throws"}}},
        {"later_interface",
         {kIncompatible, {"dataset:zoo-later speaks biophony.dataset/7, this host knows biophony.dataset/0"}}},
        {"preset", {kOk, {}}},
        {"bad_presets",
         {kBadManifest,
          {"/items/0/merger/stage: stands beside 'preset'", "/items/1/merger/preset: found an empty list",
           "/items/2/merger/preset/0/use: found the string \"dataset:table\"", "/items/3/merger/preset/0/with/density",
           "did you mean 'density'?", "/items/4/merger/roles"}}},
        {"later_scope",
         {kIncompatible,
          {"has the scope 'layer', this host knows element, tensor", "needs 'fisher', this host gives"}}},
        {"no_matrix", {kIncompatible, {"biophony.merger/0 of merger:zoo-no-matrix lacks a function"}}},
        {"no_begin", {kIncompatible, {"biophony.merger/0 of merger:zoo-no-begin lacks a function"}}},
        {"short_table", {kIncompatible, {"has 8 bytes, expected at least"}}},
        {"empty_table", {kIncompatible, {"lacks a function"}}},
        {"knows_everything", {kIncompatible, {"'biophony.dataset/0x'", "doesn't exist"}}},
        {"exports_too_much", {kOk, {"symbols beside biophony_plugin_entry", "biophony_add_plugin() hides them"}}},
        {"right_abi", {kOk, {}}},
        {"wrong_abi", {kIncompatible, {"found libtorch 9.9.9, expected libtorch 1.2.3"}}},
        {"no_abi", {kBadManifest, {"no section bph_abi"}}},
        {"fails", {kOk, {}}},
    };
    for (const auto& [animal, verdict] : verdicts) check(look(animal), verdict);
}

TEST_CASE("a file that isn't what its name says is refused before anything is loaded") {
    const Scratch scratch;
    const std::string good = read_file(kAnimals / "good.so");
    using enum PluginState;
    check(Registry::look_at(scratch.write("text.so", "Lorem ipsum")), {kNotAPlugin, {"not an ELF file"}});
    check(Registry::look_at(scratch.write("half.so", good.substr(0, good.size() / 2))), {kNotAPlugin, {"truncated"}});
    check(Registry::look_at(scratch.folder() / "none.so"), {kNotAPlugin, {"No such file"}});
    // Its C library has another name: what the dynamic linker says reaches the user.
    std::string needy = good;
    const size_t at = needy.find("libc.so.6");
    REQUIRE(at != std::string::npos);
    needy[at + 3] = 'q';
    check(Registry::look_at(scratch.write("needy.so", needy)), {kMissingDependency, {"libq.so.6"}});
}

TEST_CASE("a plugin that hangs is stopped, and its children with it") {
    const Scratch scratch;
    set_probe_options({.executable = kHelper, .seconds = 0.5});
    const fs::path path = scratch.copy("hangs", "hangs.so");
    const auto begin = std::chrono::steady_clock::now();
    check(Registry::look_at(path), {PluginState::kTimedOut, {"didn't end within 0.5 s"}});
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
    for (int i = 0; i < 100 && runs_somewhere(path); ++i) ::usleep(10000);
    CHECK_FALSE(runs_somewhere(path));
    // The verdict is kept for an hour, so that each command doesn't wait again.
    set_probe_options({.executable = kHelper, .seconds = 30});
    CHECK(Registry::look_at(path).state == PluginState::kTimedOut);
    for (const auto& entry : fs::directory_iterator(scratch.cache() / "probe"))
        fs::last_write_time(entry.path(), fs::file_time_type::clock::now() - std::chrono::minutes(61));
    set_probe_options({.executable = kHelper, .seconds = 0.2});
    check(Registry::look_at(path), {PluginState::kTimedOut, {"didn't end within 0.2 s"}});
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a plugin that takes all memory takes its own process down") {
    const Scratch scratch;
    check(look("takes_memory"), {PluginState::kCrashed, {"SIGABRT", "bad_alloc"}});
}
#endif

TEST_CASE("nothing runs where nothing is probed") {
    const Scratch scratch;
    check(look("aborts", false), {PluginState::kOk, {}});
    check(look("hangs", false), {PluginState::kOk, {}});
    CHECK_FALSE(fs::exists(scratch.cache() / "probe"));
}

TEST_CASE("without LibTorch an encoder is listed, not probed, and not loaded") {
    const Scratch scratch;
    set_torch_hooks({});
    const PluginFile file = look("wrong_abi");
    check(file, {PluginState::kOk, {}});
    CHECK_FALSE(fs::exists(scratch.cache()));
    try {
        Registry::load(file.items.at(0));
        FAIL("it was loaded");
    } catch (const Error& error) {
        CHECK(error.code() == Code::kPlugin);
        CHECK_THAT(error.what(), Contains("encoder:zoo-wrong-abi") && Contains("LibTorch"));
    }
}

TEST_CASE("loading compares the ABI block before any code runs") {
    const Scratch scratch;
    try {
        Registry::load(look("wrong_abi", false).items.at(0));
        FAIL("it was loaded");
    } catch (const Error& error) {
        CHECK_THAT(error.what(), Contains("found libtorch 9.9.9, expected libtorch 1.2.3"));
    }
    CHECK(Registry::load(look("right_abi").items.at(0)) != nullptr);
}

TEST_CASE("loading refuses what probing would have refused") {
    const Scratch scratch;
    const std::map<std::string, std::string> reasons = {
        {"wrong_spine", "spine version: found 7, expected 0"},
        {"null_entry", "can't work with this host"},
        {"throws_in_entry", "throws"},
        {"missing_symbol", "zoo_nobody_has_this"},
        {"other_manifest", "not the one in its section"},
        {"no_table", "has no biophony.dataset/0"},
    };
    for (const auto& [animal, reason] : reasons) {
        try {
            Registry::load(look(animal, false).items.at(0));
            FAIL(animal << " was loaded");
        } catch (const Error& error) {
            CHECK(error.code() == Code::kPlugin);
            CHECK_THAT(error.what(), Contains(reason) && Contains(animal + ".so"));
        }
    }
}

TEST_CASE("a plugin that fails in use is told with its own words") {
    const Scratch scratch;
    const PluginFile file = look("fails");
    REQUIRE(file.items.size() == 5);
    const auto use = [&file](const std::string& id, CallOptions options = {}) -> std::pair<Code, std::string> {
        const ItemInfo* item = nullptr;
        for (const ItemInfo& candidate : file.items)
            if (candidate.id == id) item = &candidate;
        REQUIRE(item != nullptr);
        const auto* table = static_cast<const bph_dataset_v0*>(Registry::load(*item));
        const PluginCall call(item->name(), std::move(options));
        try {
            void* self = nullptr;
            call.check(table->create(call.get(), {"{}", 2}, &self));
            const bph_dataset_sink sink = {
                sizeof(sink), 0, nullptr,
                [](const bph_dataset_sink*, const bph_recording*) -> bph_status { return BPH_OK; },
                [](const bph_dataset_sink*, const bph_region*) -> bph_status { return BPH_OK; }};
            const bph_status status = table->describe(call.get(), self, &sink);
            table->destroy(self);
            call.check(status);
        } catch (const Error& error) {
            return {error.code(), error.what()};
        }
        return {Code::kInternal, "nothing was thrown"};
    };
    CHECK(use("zoo-throws-in-create") ==
          std::pair{Code::kInvalid,
                    std::string("dataset:zoo-throws-in-create: parameter 'root': found 'moon', expected a folder")});
    CHECK(use("zoo-throws-int") ==
          std::pair{Code::kRunFailed, std::string("dataset:zoo-throws-int: an exception that is no std::exception")});
    const auto [code, text] = use("zoo-fails-silently");
    CHECK(code == Code::kRunFailed);
    CHECK_THAT(text, Contains("dataset:zoo-fails-silently") && Contains("status 3") && Contains("bug of the plugin"));

    Cancel cancel;
    cancel.request();
    std::string logged;
    const auto options = [&] {
        return CallOptions{.cancel = &cancel, .log = [&](int level, std::string_view line) {
                               logged = std::to_string(level) + std::string(line);
                           }};
    };
    CHECK(use("zoo-waits", options()).first == Code::kCancelled);
    CHECK(logged == "2waiting");
}
