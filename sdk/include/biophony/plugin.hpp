// What every plugin written in C++ uses: errors, the context of a call, and the one macro line that makes a library a
// plugin. The C interface underneath is biophony/c/spine.h; authors don't need to read it.
//
// Throw anything from your code: the thunks catch it, hand its text to the host and return a code. Throw sdk::Error
// where you know which parameter is to blame. Randomness comes from Call::seed() alone.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "biophony/c/spine.h"

namespace biophony::sdk {

/// The parameters of an item as a JSON object that fits the schema of its manifest: every default is filled in, every
/// path is absolute. So `params.at("file").get<std::string>()` needs no further checks.
using Params = nlohmann::json;

inline bph_str to_c(std::string_view text) {
    return {text.data(), text.size()};
}
inline std::string_view from_c(bph_str text) {
    return text.data == nullptr ? std::string_view() : std::string_view(text.data, text.size);
}

/// An error with a status and, where known, the parameter that caused it. Say what was found and what was expected.
class Error : public std::runtime_error {
public:
    explicit Error(const std::string& message, bph_status status = BPH_INVALID_ARGUMENT, std::string parameter = {})
        : std::runtime_error(message), status_(status), parameter_(std::move(parameter)) {}
    bph_status status() const { return status_; }
    const std::string& parameter() const { return parameter_; }

private:
    bph_status status_;
    std::string parameter_;
};

/// The context of one call. Valid until the call returns; any thread may use it.
class Call {
public:
    explicit Call(const bph_call* call) : call_(call) {}
    uint64_t seed() const { return call_->seed; }
    /// How many threads this call may use, its own included.
    uint32_t threads() const { return call_->threads; }
    void log(std::string_view message, int32_t level = BPH_LOG_INFO) const { call_->log(call_, level, to_c(message)); }
    void progress(double done, double total, std::string_view unit) const {
        call_->progress(call_, done, total, to_c(unit));
    }
    /// Throws once the user wants to stop. Ask often in long calls.
    void check_cancelled() const {
        if (call_->cancelled(call_) != 0) throw Error("cancelled", BPH_CANCELLED);
    }

private:
    const bph_call* call_;
};

namespace detail {

/// Runs `body` and turns whatever it throws into a status and a message at the host.
template <class Body>
bph_status guarded(const bph_call* call, Body&& body) noexcept {
    auto report = [call](bph_status status, std::string_view message, std::string_view detail = {}) {
        call->set_error(call, status, to_c(message), to_c(detail));
        return status;
    };
    try {
        std::forward<Body>(body)();
        return BPH_OK;
    } catch (const Error& error) {
        try {
            const std::string detail =
                error.parameter().empty() ? std::string() : nlohmann::json{{"parameter", error.parameter()}}.dump();
            return report(error.status(), error.what(), detail);
        } catch (...) {
            return report(error.status(), error.what());
        }
    } catch (const std::bad_alloc&) {
        return report(BPH_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        return report(BPH_INTERNAL, error.what());
    } catch (...) {
        return report(BPH_INTERNAL, "an exception that is no std::exception");
    }
}

/// One line of a plugin's list: an item, the interface it speaks, and the table for it.
struct Item {
    std::string_view id;
    std::string_view interface_id;
    const void* table;
};

template <size_t N>
const void* find_table(const Item (&items)[N], bph_str item_id, bph_str interface_id) {
    for (const Item& item : items)
        if (item.id == from_c(item_id) && item.interface_id == from_c(interface_id)) return item.table;
    return nullptr;
}

}  // namespace detail
}  // namespace biophony::sdk

/// Written from plugin.json by biophony_add_plugin(): the bytes of the section "bph_meta".
extern "C" const char bph_manifest[];
extern "C" const size_t bph_manifest_size;

/// Makes a library a plugin. One line, once per library, outside any namespace:
///     BIOPHONY_PLUGIN(biophony::sdk::dataset<Folder>("folder"))
/// Several items are separated by commas. The ids are those of plugin.json.
#define BIOPHONY_PLUGIN(...)                                                                                     \
    static const biophony::sdk::detail::Item bph_items[] = {__VA_ARGS__};                                        \
    static const void* bph_get_interface(bph_str item_id, bph_str interface_id) {                                \
        return biophony::sdk::detail::find_table(bph_items, item_id, interface_id);                              \
    }                                                                                                            \
    extern "C" __attribute__((visibility("default"))) const bph_plugin* biophony_plugin_entry(const bph_host*) { \
        static const bph_plugin plugin = {                                                                       \
            sizeof(bph_plugin), BPH_SPINE_VERSION, {bph_manifest, bph_manifest_size}, &bph_get_interface};       \
        return &plugin;                                                                                          \
    }
