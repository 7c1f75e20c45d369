#include "plugins/call.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <mutex>
#include <utility>

#include "base/json.hpp"

namespace biophony {

namespace {

constexpr size_t kLongestMessage = 8192;

/// A plugin's text, fit for logs and JSON: bytes that are no UTF-8 replaced, cut where it has no end.
std::string safe_text(bph_str text) {
    if (text.data == nullptr) return {};
    const std::string raw(text.data, std::min(text.size, kLongestMessage));
    return Json::parse(Json(raw).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

const char* status_name(bph_status status) {
    switch (status) {
        case BPH_INVALID_ARGUMENT: return "invalid argument";
        case BPH_NOT_FOUND: return "not found";
        case BPH_IO: return "input or output";
        case BPH_UNSUPPORTED: return "unsupported";
        case BPH_OUT_OF_MEMORY: return "out of memory";
        case BPH_CANCELLED: return "cancelled";
        case BPH_INTERNAL: return "internal";
        case BPH_INCOMPATIBLE: return "incompatible";
        default: return "unknown";
    }
}

}  // namespace

struct PluginCall::State {
    bph_call call{};
    std::string plugin;
    CallOptions options;
    std::mutex mutex;
    std::string message, parameter;
    std::atomic<bool> told{false};  ///< whether there may be a message

    static State& of(const bph_call* call) { return *static_cast<State*>(call->host); }

    // Called by plugins, from any thread: nothing may leave these by throwing.
    static void set_error(const bph_call* call, bph_status, bph_str message, bph_str detail) noexcept try {
        State& state = of(call);
        const Json json = Json::parse(safe_text(detail), nullptr, false);
        const Json parameter = json.is_object() ? json.value("parameter", Json()) : Json();
        const std::lock_guard lock(state.mutex);
        state.message = safe_text(message);
        state.parameter = parameter.is_string() ? parameter.get<std::string>() : std::string();
        state.told = true;
    } catch (...) {
    }
    static void log(const bph_call* call, int32_t level, bph_str message) noexcept try {
        State& state = of(call);
        const std::lock_guard lock(state.mutex);
        if (state.options.log) state.options.log(level, safe_text(message));
    } catch (...) {
    }
    static void progress(const bph_call* call, double done, double total, bph_str unit) noexcept try {
        State& state = of(call);
        const std::lock_guard lock(state.mutex);
        if (state.options.progress != nullptr && std::isfinite(done) && std::isfinite(total))
            state.options.progress->update(done, total, safe_text(unit));
    } catch (...) {
    }
    static int32_t cancelled(const bph_call* call) noexcept {
        const Cancel* cancel = of(call).options.cancel;
        return cancel != nullptr && cancel->requested() ? 1 : 0;
    }
};

PluginCall::PluginCall(std::string plugin, CallOptions options) : state_(std::make_unique<State>()) {
    state_->plugin = std::move(plugin);
    state_->options = std::move(options);
    bph_call& call = state_->call;
    call.struct_size = sizeof(bph_call);
    call.threads = std::max(1u, state_->options.threads);
    call.seed = state_->options.seed;
    call.host = state_.get();
    call.set_error = &State::set_error;
    call.log = &State::log;
    call.progress = &State::progress;
    call.cancelled = &State::cancelled;
}
PluginCall::~PluginCall() = default;

const bph_call* PluginCall::get() const {
    return &state_->call;
}

void PluginCall::check(bph_status status) const {
    if (status == BPH_OK && !state_->told.load(std::memory_order_relaxed)) return;
    std::string message, parameter;
    {
        const std::lock_guard lock(state_->mutex);
        state_->told = false;
        message = std::exchange(state_->message, {});
        parameter = std::exchange(state_->parameter, {});
    }
    if (status == BPH_OK) return;
    if (message.empty())
        message = status == BPH_CANCELLED
                      ? "cancelled"
                      : fmt::format("it failed with status {} ({}) and said nothing; that is a bug of the plugin",
                                    status, status_name(status));
    const Code code = status == BPH_CANCELLED          ? Code::kCancelled
                      : status == BPH_INVALID_ARGUMENT ? Code::kInvalid
                                                       : Code::kRunFailed;
    throw Error(code, message, {.plugin = state_->plugin, .parameter = parameter});
}

}  // namespace biophony
