// biophony: the thin main. Finds the command, turns errors into exit statuses.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>
#include <thread>

#include "app/command.hpp"
#include "base/nearest.hpp"
#include "plugins/call.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony::app {

Cancel cancel;

namespace {

const Command kCommands[] = {
    {"run", "run a pipeline", run_command},
    {"check", "check a pipeline, all problems at once, without reading audio", check_command},
    {"plan", "say what a run would do with each node, and why", plan_command},
    {"run-node", "run one node of a pipeline against a store, for a cluster's scheduler", run_node_command},
    {"explain", "say what one node depends on, and what changed since an earlier result", explain_command},
    {"graph", "print a pipeline's graph for Graphviz, Mermaid or programs", graph_command},
    {"cache", "list, verify or prune the store of results", cache_command},
    {"diff", "say what differs between two run directories", diff_command},
    {"embed", "make embeddings of sound files with an encoder", embed_command},
    {"merge", "merge a base and experts, as files, into one file", merge_command},
    {"plugins", "list the plugins that are found, and those refused with the reason", plugins_command},
    {"inspect", "show an item (dataset:table), a library file or a checkpoint: what it is, what it holds",
     inspect_command},
    {"schema", "print the JSON Schema of pipelines, for editors, or of a run's files", schema_command},
    {"convert", "write a PyTorch checkpoint, or safetensors in shards, as one safetensors file", convert_command},
    {"probe", "load one library and print what it says",
     [](const std::vector<std::string>& arguments) { return probe_main(arguments.at(0)); }, true},
};

void print_help() {
    fmt::print(
        "Usage: biophony COMMAND [options]\n\nComposes separately fine-tuned bioacoustic encoders into one "
        "classifier.\n\nCommands:\n");
    for (const Command& command : kCommands)
        if (!command.hidden) fmt::print("  {:<9} {}\n", command.name, command.summary);
    fmt::print(
        "\nbiophony COMMAND --help tells a command's options. biophony --version tells versions.\n\nExit status: 0 ok, "
        "1 run failed, "
        "2 invalid pipeline or usage, 3 plugin missing or refused,\n4 cancelled, 5 internal error or a plugin crashed, "
        "6 finished with skipped files\n");
}

extern "C" void on_signal(int number) {
    // A second Ctrl-C doesn't wait.
    if (cancel.requested()) {
        ::signal(number, SIG_DFL);
        ::raise(number);
    }
    cancel.request();
}

std::vector<std::string> started_as;

int dispatch(const std::vector<std::string>& command_line) {
    started_as = command_line;
    if (command_line.size() < 2 || command_line[1] == "--help" || command_line[1] == "-h" ||
        command_line[1] == "help") {
        print_help();
        return command_line.size() < 2 ? static_cast<int>(Code::kInvalid) : 0;
    }
    if (command_line[1] == "--version") {
        fmt::print("biophony {} (LibTorch {}, {})\n", BPH_VERSION, libtorch_version(), cpu_class());
        return 0;
    }
    std::vector<std::string> names;
    for (const Command& command : kCommands) {
        if (command_line[1] == command.name) {
            if (command_line[1] == "run" || command_line[1] == "run-node" || command_line[1] == "embed")
                restart_for_torch();
            if (command_line[1] == "probe" && command_line.size() != 3)
                throw Error(Code::kInvalid, "Usage: biophony probe FILE");
            return command.run({command_line.begin() + 2, command_line.end()});
        }
        if (!command.hidden) names.emplace_back(command.name);
    }
    throw Error(Code::kInvalid,
                with_nearest(fmt::format("unknown command '{}'", command_line[1]), command_line[1], names));
}

}  // namespace

void restart_for_torch() {
    if (std::getenv("BIOPHONY_STARTED") != nullptr) {
        ::unsetenv("BIOPHONY_STARTED");
        return;
    }
    ::setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
    ::setenv("OMP_DYNAMIC", "FALSE", 1);  // these two would change results
    ::setenv("MKL_DYNAMIC", "FALSE", 1);
    ::setenv("KMP_BLOCKTIME", "0", 0);
    ::setenv("BIOPHONY_STARTED", "1", 1);
    std::vector<char*> arguments;
    for (const std::string& argument : started_as) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    ::execv("/proc/self/exe", arguments.data());
    ::unsetenv("BIOPHONY_STARTED");  // it goes on without; only slower
}

}  // namespace biophony::app

int main(int argc, char** argv) {
    using namespace biophony;
    install_crash_handler();
    ::signal(SIGPIPE, SIG_IGN);
    struct sigaction action {};
    action.sa_handler = app::on_signal;
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
    set_torch_hooks({.open_torch = [] { torch_runtime(); },
                     .abi_mismatch = [](std::string_view section) { return torch_runtime().abi_mismatch(section); }});
    int status = 0;
    try {
        status = app::dispatch({argv, argv + argc});
    } catch (const Error& error) {
        std::fflush(stdout);
        fmt::print(stderr, "biophony: {}\n", error.what());
        status = static_cast<int>(error.code());
    } catch (const std::system_error& error) {
        // Whoever read the output has left, like `head`: there is nobody to tell.
        status = static_cast<int>(error.code().value() == EPIPE ? Code::kRunFailed : Code::kInternal);
        if (error.code().value() != EPIPE) fmt::print(stderr, "biophony: internal error: {}\n", error.what());
    } catch (const std::exception& error) {
        std::fflush(stdout);
        fmt::print(stderr, "biophony: internal error: {}\n", error.what());
        status = static_cast<int>(Code::kInternal);
    }
    std::fflush(stdout);
    std::fflush(stderr);
    // Plugins and LibTorch are never unloaded, so no destructor of theirs may run: everything is flushed, leave.
    std::_Exit(status);
}
