// One call into a plugin: the context it receives, and what becomes of its errors, logs, progress and crashes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "base/progress.hpp"
#include "biophony/c/spine.h"

namespace biophony {

struct CallOptions {
    uint64_t seed = 0;
    uint32_t threads = 1;
    Progress* progress = nullptr;                                  ///< not owned; may be null
    const Cancel* cancel = nullptr;                                ///< not owned; may be null
    std::function<void(int level, std::string_view message)> log;  ///< may be empty
};

/// The context of calls to one plugin. Functions of the context may be called from any thread while it lives.
class PluginCall {
public:
    /// `plugin` names it in messages: "dataset:table".
    explicit PluginCall(std::string plugin, CallOptions options = {});
    ~PluginCall();
    PluginCall(const PluginCall&) = delete;
    PluginCall& operator=(const PluginCall&) = delete;

    const bph_call* get() const;

    /// Throws where `status` isn't BPH_OK: Error with the plugin's own message, its name and, where told, the
    /// parameter; kCancelled for BPH_CANCELLED, kInvalid for BPH_INVALID_ARGUMENT, else kRunFailed. A failure
    /// without a message is told as the plugin's bug.
    void check(bph_status status) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// While one lives, a fatal signal in this thread's process is told as "plugin X crashed (SIGSEGV) in node Y" and the
/// process ends with status 5. Nests. Names longer than 200 bytes are cut.
class CrashContext {
public:
    CrashContext(std::string_view plugin, std::string_view node);
    ~CrashContext();
    CrashContext(const CrashContext&) = delete;
    CrashContext& operator=(const CrashContext&) = delete;
    /// From here on it is this plugin's call ("" = none's). The text must outlive the context, or the next call of
    /// this. Costs nothing, for calls in a loop.
    void enter(const char* plugin);

private:
    void* slot_ = nullptr;
    char plugin_[208];
    char node_[208];
};
/// Installs the handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT. Once, by main.
void install_crash_handler();

}  // namespace biophony
