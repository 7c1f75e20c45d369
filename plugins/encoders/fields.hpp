// The configurations of encoders as JSON: reading fields, and what to say where one doesn't fit.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "biophony/plugin.hpp"

namespace biophony::encoders {

using nlohmann::json;

/// Throws sdk::Error that names the parameter; `message` is "found …, expected …".
[[noreturn]] inline void refuse(const std::string& parameter, const std::string& message) {
    throw sdk::Error("'" + parameter + "': " + message, BPH_INVALID_ARGUMENT, parameter);
}

inline void assign(const std::string& name, const json& value, bool& to) {
    if (!value.is_boolean()) refuse(name, "found " + value.dump() + ", expected true or false");
    to = value.get<bool>();
}
inline void assign(const std::string& name, const json& value, int64_t& to) {
    if (!value.is_number_integer()) refuse(name, "found " + value.dump() + ", expected an integer");
    to = value.get<int64_t>();
}
inline void assign(const std::string& name, const json& value, double& to) {
    if (!value.is_number()) refuse(name, "found " + value.dump() + ", expected a number");
    to = value.get<double>();
}
inline void assign(const std::string& name, const json& value, std::string& to) {
    if (!value.is_string()) refuse(name, "found " + value.dump() + ", expected a string");
    to = value.get<std::string>();
}

inline void positive(const std::string& name, int64_t value) {
    if (value < 1) refuse(name, "found " + std::to_string(value) + ", expected an integer from 1");
}
/// In [0, 1).
inline void probability(const std::string& name, double value) {
    if (!(value >= 0 && value < 1))
        refuse(name, "found " + json(value).dump() + ", expected a number from 0 to below 1");
}

/// A window has 0.2 s at least, and the `samples` at 16 kHz without which there is no frame.
inline void check_window(double window_seconds, int64_t samples) {
    const double shortest = std::max(0.2, static_cast<double>(samples) / 16000);
    if (!(window_seconds >= shortest))
        refuse("window_seconds",
               "found " + json(window_seconds).dump() + ", expected a number from " + json(shortest).dump());
}

inline json parse_object(const std::string& text, const char* what) {
    json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!value.is_object()) throw sdk::Error(std::string(what) + ": expected a JSON object");
    return value;
}

/// `params_json` with those values of a checkpoint's own configuration laid over it that `Config` has (its
/// for_each_field(config, visit) calls visit(name, member)) and that aren't null. A configuration without any of them
/// (settings of a training, say) is refused: weights can fit with wrong settings, too, and then give noise.
template <class Config>
std::string overlay_fields(const std::string& config_json, const std::string& params_json) {
    const json config = parse_object(config_json, "the checkpoint's configuration");
    json params = parse_object(params_json, "the parameters of the encoder");
    Config known;
    bool any = config.empty();
    for_each_field(known, [&](const char* name, auto&) {
        if (!config.contains(name) || config.at(name).is_null()) return;
        params[name] = config.at(name);
        any = true;
    });
    if (!any) throw sdk::Error("the checkpoint's configuration has no field that this encoder knows");
    return params.dump();
}

}  // namespace biophony::encoders
