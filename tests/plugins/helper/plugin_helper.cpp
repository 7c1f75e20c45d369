// The program's part in tests that need a process of its own:
//   plugin_helper probe FILE    as `biophony probe FILE`
//   plugin_helper crash HOW     crashes and is to say so
#include <signal.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "helper/torch_stand_in.hpp"
#include "plugins/call.hpp"
#include "plugins/registry.hpp"

using namespace biophony;

namespace {

[[gnu::noinline]] int overflow(int depth) {
    volatile char room[4096];
    room[depth % 4096] = static_cast<char>(depth);
    return depth < 0 ? 0 : overflow(depth + 1) + room[depth % 4096];
}

int crash(const std::string& how) {
    install_crash_handler();
    if (how == "bare") ::raise(SIGSEGV);
    const CrashContext node("", "expert[bird]");
    if (how == "node") ::raise(SIGBUS);
    const CrashContext plugin("dataset:x", "");
    if (how == "plugin") ::raise(SIGSEGV);
    if (how == "abort") std::abort();
    if (how == "nested") {
        { const CrashContext done("dataset:done", "done"); }
        const CrashContext inner("encoder:y", "");
        ::raise(SIGFPE);
    }
    // A thread that a plugin started has no context of its own; one of the host's may have.
    if (how == "thread") std::thread([] { ::raise(SIGILL); }).join();
    if (how == "other-thread")
        std::thread([] {
            const CrashContext own("merger:z", "merged");
            ::raise(SIGSEGV);
        }).join();
    if (how == "overflow") return overflow(0);
    if (how == "overflow-in-thread")
        std::thread([] {
            const CrashContext own("merger:z", "merged");
            overflow(0);
        }).join();
    if (how == "long-name") {
        std::string name(199, 'a');
        const CrashContext cut(name + "ä" + name, name + name);
        ::raise(SIGSEGV);
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    set_torch_hooks(torch_stand_in());
    if (argc == 3 && std::strcmp(argv[1], "probe") == 0) {
        install_crash_handler();
        probe_main(argv[2]);
    }
    if (argc == 3 && std::strcmp(argv[1], "crash") == 0) return crash(argv[2]);
    return 2;
}
