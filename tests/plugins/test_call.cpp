#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <thread>

#include "plugin_files.hpp"
#include "plugins/call.hpp"

using namespace biophony;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Equals;

namespace {

bph_str text(std::string_view from) {
    return {from.data(), from.size()};
}

std::pair<Code, std::string> outcome(const PluginCall& call, bph_status status) {
    try {
        call.check(status);
    } catch (const Error& error) {
        return {error.code(), error.what()};
    }
    return {Code::kInternal, "nothing"};
}

/// What the helper prints, and its status.
std::pair<std::string, int> crash(const std::string& how) {
    FILE* pipe = ::popen((kHelper.string() + " crash " + how + " 2>&1").c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string out;
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) out += static_cast<char>(c);
    const int status = ::pclose(pipe);
    return {out, WIFEXITED(status) ? WEXITSTATUS(status) : -1};
}

class Counter : public Progress {
public:
    void update(double done, double total, std::string_view unit) override {
        last =
            std::to_string(static_cast<int>(done)) + "/" + std::to_string(static_cast<int>(total)) + std::string(unit);
    }
    std::string last;
};

}  // namespace

TEST_CASE("a call carries what it was given") {
    Counter progress;
    Cancel cancel;
    PluginCall call("dataset:x", {.seed = 7, .threads = 3, .progress = &progress, .cancel = &cancel});
    const bph_call* c = call.get();
    CHECK(c->struct_size == sizeof(bph_call));
    CHECK(c->seed == 7);
    CHECK(c->threads == 3);
    c->progress(c, 2, 5, text("clips"));
    CHECK(progress.last == "2/5clips");
    c->progress(c, std::nan(""), 5, text("clips"));
    CHECK(progress.last == "2/5clips");
    CHECK(c->cancelled(c) == 0);
    cancel.request();
    CHECK(c->cancelled(c) != 0);
    c->log(c, BPH_LOG_INFO, text("nobody listens"));
    CHECK(PluginCall("x", {.threads = 0}).get()->threads == 1);
}

TEST_CASE("statuses become errors that name the plugin") {
    const PluginCall call("dataset:x");
    const bph_call* c = call.get();
    CHECK(outcome(call, BPH_OK).second == "nothing");
    c->set_error(c, BPH_INVALID_ARGUMENT, text("first"), text(R"({"parameter": "old"})"));
    c->set_error(c, BPH_INVALID_ARGUMENT, text("found 3"), text(R"({"parameter": "size"})"));
    CHECK(outcome(call, BPH_INVALID_ARGUMENT) ==
          std::pair{Code::kInvalid, std::string("dataset:x: parameter 'size': found 3")});
    // A message is for one failure.
    CHECK_THAT(outcome(call, BPH_IO).second, Contains("bug of the plugin") && Contains("input or output"));
    c->set_error(c, BPH_IO, text("forgotten"), {});
    CHECK(outcome(call, BPH_OK).second == "nothing");
    CHECK_THAT(outcome(call, 99).second, Contains("status 99 (unknown)"));
    CHECK(outcome(call, BPH_CANCELLED) == std::pair{Code::kCancelled, std::string("dataset:x: cancelled")});
    // What a plugin says may be anything.
    for (const char* detail : {"no json", "[1]", "{\"parameter\": 3}", "{\"parameter\": \"\xff\"}"}) {
        c->set_error(c, BPH_INTERNAL, text("broken \xff text"), text(detail));
        const auto [code, message] = outcome(call, BPH_INTERNAL);
        CHECK(code == Code::kRunFailed);
        CHECK_THAT(message, Contains("broken \xef\xbf\xbd text"));
        CHECK_NOTHROW(Json(message).dump());
    }
    c->set_error(c, BPH_INTERNAL, text(std::string(1 << 20, 'x')), {});
    CHECK(outcome(call, BPH_INTERNAL).second.size() < 10000);
    c->set_error(c, BPH_INTERNAL, {nullptr, 0}, {nullptr, 0});
    CHECK_THAT(outcome(call, BPH_INTERNAL).second, Contains("bug of the plugin"));
}

TEST_CASE("nothing that the host's side throws reaches the plugin") {
    const PluginCall call("x", {.log = [](int, std::string_view) { throw std::runtime_error("full disk"); }});
    CHECK_NOTHROW(call.get()->log(call.get(), BPH_LOG_INFO, text("hello")));
}

TEST_CASE("errors may come from several threads") {
    const PluginCall call("x");
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&call] {
            for (int i = 0; i < 500; ++i) call.get()->set_error(call.get(), BPH_IO, text("all the same"), {});
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(outcome(call, BPH_IO).second == "x: all the same");
}

TEST_CASE("a crash says whose it is and ends with status 5") {
    const std::string intact = "; finished results are intact\n";
    const auto told = [](const std::string& line) { return std::pair{"biophony: " + line, 5}; };
    CHECK(crash("bare") == told("internal error (SIGSEGV)\n"));
    CHECK(crash("node") == told("internal error (SIGBUS) in node 'expert[bird]'" + intact));
    CHECK(crash("plugin") == told("plugin dataset:x crashed (SIGSEGV) in node 'expert[bird]'" + intact));
    CHECK(crash("abort") == told("plugin dataset:x crashed (SIGABRT) in node 'expert[bird]'" + intact));
    CHECK(crash("nested") == told("plugin encoder:y crashed (SIGFPE) in node 'expert[bird]'" + intact));
    CHECK(crash("thread") == told("plugin dataset:x crashed (SIGILL) in node 'expert[bird]'" + intact));
    CHECK(crash("other-thread") == told("plugin merger:z crashed (SIGSEGV) in node 'merged'" + intact));
    CHECK(crash("overflow") == told("plugin dataset:x crashed (SIGSEGV) in node 'expert[bird]'" + intact));
    CHECK(crash("overflow-in-thread") == told("plugin merger:z crashed (SIGSEGV) in node 'merged'" + intact));
    CHECK(crash("long-name") == told("plugin " + std::string(199, 'a') + " crashed (SIGSEGV) in node '" +
                                     std::string(199, 'a') + "a'" + intact));
}
