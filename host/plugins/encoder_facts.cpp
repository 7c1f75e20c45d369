#include "plugins/encoder_facts.hpp"

#include <fmt/format.h>

#include <cmath>

namespace biophony {

namespace {

constexpr const char* kNumbers[] = {"sample_rate", "window_seconds", "width", "bands", "blocks"};

std::optional<double> number_of(const ItemInfo& item, const char* key, const Json& config) {
    const Json facts = item.raw.value("encoder", Json::object());
    if (!facts.is_object() || !facts.contains(key)) return std::nullopt;
    const Json& fact = facts[key];
    if (fact.is_number()) return fact.get<double>();
    if (!fact.is_object() || !fact.contains("parameter") || !fact["parameter"].is_string()) return std::nullopt;
    const std::string name = fact["parameter"];
    const Json properties = item.parameters.value("properties", Json::object());
    Json value = config.value(name, Json());
    if (value.is_null() && properties.contains(name)) value = properties[name].value("default", Json());
    if (!value.is_number()) return std::nullopt;
    if (!fact.contains("divides")) return value.get<double>();
    if (!fact["divides"].is_number() || value.get<double>() <= 0) return std::nullopt;
    return std::floor(fact["divides"].get<double>() / value.get<double>());
}

std::optional<int64_t> whole(const std::optional<double>& value) {
    if (!value || !(*value >= 0) || *value > 1e12) return std::nullopt;
    return std::llround(*value);
}

}  // namespace

EncoderFacts encoder_facts(const ItemInfo& item, const Json& config) {
    EncoderFacts out{.sample_rate = number_of(item, "sample_rate", config),
                     .window_seconds = number_of(item, "window_seconds", config),
                     .width = whole(number_of(item, "width", config)),
                     .bands = whole(number_of(item, "bands", config)),
                     .blocks = whole(number_of(item, "blocks", config)),
                     .trainable = std::nullopt};
    const Json facts = item.raw.value("encoder", Json::object());
    if (facts.is_object() && facts.contains("trainable") && facts["trainable"].is_boolean())
        out.trainable = facts["trainable"].get<bool>();
    return out;
}

void check_encoder_facts(const ItemInfo& item, std::vector<Diagnostic>& problems) {
    if (!item.raw.contains("encoder")) return;
    const Json& facts = item.raw["encoder"];
    auto wrong = [&](const std::string& at, const std::string& what) {
        problems.push_back({Code::kInvalid, {.pointer = at}, what});
    };
    if (!facts.is_object()) return wrong("", fmt::format("found {}, expected an object", describe(facts)));
    const Json properties =
        item.parameters.is_object() ? item.parameters.value("properties", Json::object()) : Json::object();
    for (const char* key : kNumbers) {
        if (!facts.contains(key) || facts[key].is_number()) continue;
        const Json& fact = facts[key];
        const std::string at = std::string("/") + key;
        if (!fact.is_object() || !fact.contains("parameter") || !fact["parameter"].is_string() ||
            (fact.contains("divides") && !fact["divides"].is_number()))
            wrong(
                at,
                fmt::format(
                    R"(found {}, expected a number, {{"parameter": NAME}} or {{"parameter": NAME, "divides": NUMBER}})",
                    describe(fact)));
        else if (properties.is_object() && !properties.contains(fact["parameter"].get<std::string>()))
            wrong(at, fmt::format("there is no parameter '{}'", fact["parameter"].get<std::string>()));
    }
    if (facts.contains("trainable") && !facts["trainable"].is_boolean())
        wrong("/trainable", fmt::format("found {}, expected true or false", describe(facts["trainable"])));
}

}  // namespace biophony
