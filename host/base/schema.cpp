#include "base/schema.hpp"

#include <fmt/format.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#define VALIJSON_USE_EXCEPTIONS 1  // without, it ends the program
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "base/nearest.hpp"

namespace biophony {

namespace {

bool is_object_schema(const Json& schema) {
    return schema.is_object() && schema.contains("properties") && schema["properties"].is_object();
}

void fill_defaults(const Json& schema, Json& value) {
    if (!is_object_schema(schema) || !value.is_object()) return;
    for (const auto& [name, property] : schema["properties"].items()) {
        if (!value.contains(name) && property.is_object() && property.contains("default"))
            value[name] = property["default"];
        if (value.contains(name)) fill_defaults(property, value[name]);
    }
}

void find_unknown_keys(const Json& schema, const Json& value, const std::string& pointer,
                       std::vector<Diagnostic>& problems) {
    if (!is_object_schema(schema) || !value.is_object()) {
        if (schema.is_object() && schema.contains("items") && value.is_array())
            for (size_t i = 0; i < value.size(); ++i)
                find_unknown_keys(schema["items"], value[i], pointer_join(pointer, std::to_string(i)), problems);
        return;
    }
    std::vector<std::string> names;
    for (const auto& [name, property] : schema["properties"].items()) names.push_back(name);
    const bool open = schema.contains("additionalProperties") && schema["additionalProperties"] != false;
    for (const auto& [key, inner] : value.items()) {
        const std::string at = pointer_join(pointer, key);
        if (schema["properties"].contains(key))
            find_unknown_keys(schema["properties"][key], inner, at, problems);
        else if (!open)
            problems.push_back(
                {Code::kInvalid,
                 {.pointer = at},
                 with_nearest(fmt::format("unknown parameter '{}'", key), key, names, "; there are none")});
    }
}

/// The schema that governs the value at `path` (keys and indices), or null.
const Json* schema_at(const Json& schema, const std::vector<std::string>& path) {
    const Json* at = &schema;
    for (const std::string& key : path) {
        if (is_object_schema(*at) && (*at)["properties"].contains(key))
            at = &(*at)["properties"][key];
        else if (at->is_object() && at->contains("items"))
            at = &(*at)["items"];
        else if (at->is_object() && at->contains("additionalProperties") && (*at)["additionalProperties"].is_object())
            at = &(*at)["additionalProperties"];
        else
            return nullptr;
    }
    return at;
}

/// What valijson is given: without "format", which says nothing that it checks, and for which it throws where the value
/// is no string.
Json without_formats(const Json& schema) {
    if (schema.is_array()) {
        Json out = Json::array();
        for (const Json& inner : schema) out.push_back(without_formats(inner));
        return out;
    }
    if (!schema.is_object()) return schema;
    Json out = Json::object();
    for (const auto& [key, inner] : schema.items()) {
        if (key == "format") continue;
        if (key == "properties" && inner.is_object())
            for (const auto& [name, property] : inner.items()) out[key][name] = without_formats(property);
        else if (key == "default" || key == "enum" || key == "const")
            out[key] = inner;
        else
            out[key] = without_formats(inner);
    }
    return out;
}

/// Compiled once: nodes of one type are held against the same schema. Throws where valijson can't use it. [any thread]
std::shared_ptr<const valijson::Schema> compiled(const Json& schema) {
    static std::mutex mutex;
    static std::map<std::string, std::shared_ptr<const valijson::Schema>> known;
    const std::string text = schema.dump();
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(text); found != known.end()) return found->second;
    const Json checked = without_formats(schema);
    auto made = std::make_shared<valijson::Schema>();
    valijson::SchemaParser().populateSchema(valijson::adapters::NlohmannJsonAdapter(checked), *made);
    if (known.size() >= 1000) known.clear();
    return known[text] = made;
}

/// valijson names a place as "<root>[a][b]".
std::vector<std::string> keys_of_context(const std::vector<std::string>& context) {
    std::vector<std::string> keys;
    for (const std::string& part : context) {
        if (part == "<root>") continue;
        if (part.size() >= 2 && part.front() == '[' && part.back() == ']')
            keys.push_back(part.substr(1, part.size() - 2));
        else
            keys.push_back(part);
    }
    return keys;
}

}  // namespace

std::string expected_by(const Json& schema) {
    if (!schema.is_object()) return "something else";
    if (schema.contains("const")) return schema["const"].dump();
    if (schema.contains("enum")) {
        std::vector<std::string> values;
        for (const auto& value : schema["enum"]) values.push_back(value.dump());
        return fmt::format("one of {}", fmt::join(values, ", "));
    }
    for (const char* key : {"anyOf", "oneOf"})
        if (schema.contains(key)) {
            std::vector<std::string> values;
            for (const auto& inner : schema[key]) values.push_back(expected_by(inner));
            return fmt::format("{}", fmt::join(values, " or "));
        }
    if (schema.contains("type") && schema["type"].is_array()) {
        std::vector<std::string> values;
        for (const auto& type : schema["type"]) {
            Json inner = schema;
            inner["type"] = type;
            values.push_back(expected_by(inner));
        }
        return fmt::format("{}", fmt::join(values, " or "));
    }
    const std::string type = schema.value("type", "");
    std::string out = "a value";
    if (type == "integer") out = "a whole number";
    if (type == "number") out = "a number";
    if (type == "string") out = schema.value("format", "") == "path" ? "a path" : "a text";
    if (type == "boolean") out = "true or false";
    if (type == "object") out = "an object";
    if (type == "null") out = "null";
    if (type == "array") {
        out = "an array";
        if (schema.contains("items")) out += " of: " + expected_by(schema["items"]);
        if (schema.contains("minItems")) out += fmt::format(" (at least {})", schema["minItems"].dump());
    }
    const bool low = schema.contains("minimum"), high = schema.contains("maximum");
    if (low && high) out += fmt::format(" from {} to {}", schema["minimum"].dump(), schema["maximum"].dump());
    if (low && !high) out += fmt::format(" of at least {}", schema["minimum"].dump());
    if (high && !low) out += fmt::format(" of at most {}", schema["maximum"].dump());
    if (schema.contains("exclusiveMinimum")) out += fmt::format(" above {}", schema["exclusiveMinimum"].dump());
    if (schema.contains("exclusiveMaximum")) out += fmt::format(" below {}", schema["exclusiveMaximum"].dump());
    if (schema.contains("minLength") && schema["minLength"] == 1) out += " that is not empty";
    return out;
}

std::vector<Diagnostic> problems_by_schema(const Json& schema, const Json& value) {
    valijson::Schema compiled;
    valijson::SchemaParser parser(valijson::SchemaParser::kDraft7);
    const valijson::adapters::NlohmannJsonAdapter schema_adapter(schema), value_adapter(value);
    try {
        parser.populateSchema(schema_adapter, compiled);
    } catch (const std::exception& error) {
        return {{Code::kInternal, {}, fmt::format("the schema itself can't be used: {}", error.what())}};
    }
    valijson::Validator validator(valijson::Validator::kStrongTypes);
    valijson::ValidationResults results;
    if (validator.validate(compiled, value_adapter, &results)) return {};
    std::vector<Diagnostic> problems;
    valijson::ValidationResults::Error error;
    while (results.popError(error)) {
        std::string pointer;
        for (const std::string& key : keys_of_context(error.context)) pointer = pointer_join(pointer, key);
        problems.push_back({Code::kInvalid, {.pointer = pointer}, error.description});
    }
    return problems;
}

void apply_schema(const Json& schema, Json& value, std::string_view pointer, std::vector<Diagnostic>& problems) {
    const std::string root(pointer);
    if (!value.is_object()) {
        problems.push_back({Code::kInvalid, {.pointer = root}, found_expected(describe(value), "an object")});
        return;
    }
    fill_defaults(schema, value);
    find_unknown_keys(schema, value, root, problems);

    if (is_object_schema(schema) && schema.contains("required"))
        for (const auto& name : schema["required"])
            if (!value.contains(name.get<std::string>()))
                problems.push_back(
                    {Code::kInvalid,
                     {.pointer = root},
                     missing(fmt::format("the parameter {}", name.dump()),
                             expected_by(schema["properties"].value(name.get<std::string>(), Json::object())))});

    std::shared_ptr<const valijson::Schema> rules;
    try {
        rules = compiled(schema);
    } catch (const std::exception& error) {
        problems.push_back(
            {Code::kPlugin, {.pointer = root}, fmt::format("the schema itself can't be used: {}", error.what())});
        return;
    }
    valijson::Validator validator(valijson::Validator::kStrongTypes);
    valijson::ValidationResults results;
    const valijson::adapters::NlohmannJsonAdapter value_adapter(value);
    if (validator.validate(*rules, value_adapter, &results)) return;

    // valijson reports a place once for itself and once for each parent ("failed to validate against properties");
    // the deepest place is the useful one, and one message per place is enough.
    std::set<std::vector<std::string>> places;
    valijson::ValidationResults::Error error;
    while (results.popError(error)) places.insert(keys_of_context(error.context));
    for (auto at = places.begin(); at != places.end(); ++at) {
        const auto next = std::next(at);
        const bool is_parent =
            next != places.end() && next->size() > at->size() && std::equal(at->begin(), at->end(), next->begin());
        if (is_parent || at->empty()) continue;
        const Json* found = &value;
        std::string where = root;
        for (const std::string& key : *at) {
            where = pointer_join(where, key);
            if (found != nullptr && found->is_object() && found->contains(key))
                found = &(*found)[key];
            else if (found != nullptr && found->is_array() && std::stoul(key) < found->size())
                found = &(*found)[std::stoul(key)];
            else
                found = nullptr;
        }
        const Json* wanted = schema_at(schema, *at);
        if (found == nullptr || wanted == nullptr) continue;
        Message message = found_expected(describe(*found), expected_by(*wanted));
        // Inside an object the fault is a key; required and unknown ones below the root are told by their parent.
        if (found->is_object() && wanted->contains("required"))
            for (const auto& name : (*wanted)["required"])
                if (!found->contains(name.get<std::string>()))
                    message = fmt::format("the parameter {} is missing", name.dump());
        if (wanted->contains("enum") && found->is_string()) {
            std::vector<std::string> names;
            for (const auto& name : (*wanted)["enum"])
                if (name.is_string()) names.push_back(name.get<std::string>());
            message = suggesting(std::move(message), nearest(found->get<std::string>(), names));
        }
        bool already_told = false;
        for (const auto& problem : problems)
            already_told |= problem.where.pointer == where || problem.where.pointer.starts_with(where + "/");
        if (!already_told) problems.push_back({Code::kInvalid, {.pointer = where}, message});
    }
    // Rules about the object as a whole (anyOf of required keys …) have no place of their own.
    if (problems.empty() || (places.size() == 1 && places.begin()->empty() && problems.empty()))
        problems.push_back({Code::kInvalid,
                            {.pointer = root},
                            schema.contains("x-rule") ? Message(schema["x-rule"].get<std::string>())
                                                      : found_expected(value.dump(), expected_by(schema))});
}

void resolve_paths(const Json& schema, Json& value, std::string_view pointer,
                   const std::function<std::filesystem::path(std::string_view)>& base_of) {
    if (!schema.is_object()) return;
    if (schema.value("format", "") == "path" && value.is_string()) {
        const std::filesystem::path path = value.get<std::string>();
        if (!path.empty()) value = (base_of(pointer) / path).lexically_normal().string();
        return;
    }
    if (is_object_schema(schema) && value.is_object())
        for (const auto& [name, property] : schema["properties"].items())
            if (value.contains(name)) resolve_paths(property, value[name], pointer_join(pointer, name), base_of);
    if (schema.contains("items") && value.is_array())
        for (size_t i = 0; i < value.size(); ++i)
            resolve_paths(schema["items"], value[i], pointer_join(pointer, std::to_string(i)), base_of);
}

std::vector<std::pair<std::string, std::string>> paths_that_must_exist(const Json& schema, const Json& value,
                                                                       std::string_view pointer) {
    std::vector<std::pair<std::string, std::string>> out;
    if (!schema.is_object()) return out;
    if (schema.value("format", "") == "path" && schema.value("x-must-exist", false) && value.is_string()) {
        out.emplace_back(std::string(pointer), value.get<std::string>());
        return out;
    }
    if (is_object_schema(schema) && value.is_object())
        for (const auto& [name, property] : schema["properties"].items())
            if (value.contains(name))
                for (auto& found : paths_that_must_exist(property, value[name], pointer_join(pointer, name)))
                    out.push_back(std::move(found));
    return out;
}

}  // namespace biophony
