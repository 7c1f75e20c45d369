#include "plugins/manifest.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/nearest.hpp"
#include "base/schema.hpp"
#include "plugins/encoder_facts.hpp"
#include "plugins/merger_traits.hpp"

namespace biophony {

namespace {

constexpr KnownInterface kInterfaces[] = {
    {"dataset", "biophony.dataset/0", "S"},
    {"merger", "biophony.merger/0", "S"},
    {"encoder", "biophony.torch.encoder/0", "T"},
};

const std::vector<std::string> kManifestKeys = {"biophony_manifest", "version", "build", "items", "notes"};
const std::vector<std::string> kItemKeys = {"kind",       "id",        "version",   "title",   "summary", "licence",
                                            "authors",    "citations", "interface", "tier",    "threads", "determinism",
                                            "parameters", "dataset",   "merger",    "encoder", "notes"};

bool is_id(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    });
}

class Reader {
public:
    Reader(const JsonText& text, std::vector<Diagnostic>& problems, std::vector<std::string>& notes)
        : text_(text), problems_(problems), notes_(notes) {}

    Manifest read() {
        Manifest manifest;
        const Json& root = text_.value();
        if (!root.is_object()) return complain("", found(root, "an object")), manifest;
        const Json format = root.value("biophony_manifest", Json());
        if (!format.is_number_integer())
            complain("", "the key 'biophony_manifest' is missing, expected \"biophony_manifest\": 1");
        else if (format != 1)
            complain("/biophony_manifest", fmt::format("found manifest format {}, this host reads 1", format.dump()),
                     Code::kPlugin);
        if (!problems_.empty()) return manifest;  // another format has other keys
        note_unknown(root, "", kManifestKeys);
        manifest.version = text(root, "", "version", false);
        manifest.build = text(root, "", "build", false);
        if (!manifest.build.empty() &&
            (manifest.build.size() != 64 || manifest.build.find_first_not_of("0123456789abcdef") != std::string::npos))
            complain("/build", fmt::format("found \"{}\", expected 64 hex digits", manifest.build));
        if (!root.contains("items") || !root["items"].is_array() || root["items"].empty()) {
            complain(root.contains("items") ? "/items" : "",
                     "no items: expected \"items\": [{\"kind\": …, \"id\": …}]");
            return manifest;
        }
        for (size_t i = 0; i < root["items"].size(); ++i) {
            const std::string pointer = fmt::format("/items/{}", i);
            ItemInfo item = read_item(root["items"][i], pointer);
            if (item.version.empty()) item.version = manifest.version;
            for (const ItemInfo& other : manifest.items)
                if (other.name() == item.name() && !item.id.empty())
                    complain(pointer, fmt::format("the item {} is there twice", item.name()));
            manifest.items.push_back(std::move(item));
        }
        return manifest;
    }

private:
    static std::string found(const Json& value, std::string_view expected) {
        return fmt::format("found {}, expected {}", describe(value), expected);
    }

    void complain(const std::string& pointer, Message message, Code code = Code::kInvalid) {
        problems_.push_back({code, text_.where(pointer), std::move(message)});
    }

    void note_unknown(const Json& object, const std::string& pointer, const std::vector<std::string>& known) {
        for (const auto& [key, value] : object.items())
            if (!key.starts_with("x-") && key != "$schema" &&
                std::find(known.begin(), known.end(), key) == known.end()) {
                notes_.push_back(fmt::format("the manifest's {} isn't known{}", pointer_join(pointer, key),
                                             did_you_mean_only(key, known)));
            }
    }

    std::string text(const Json& object, const std::string& pointer, const char* key, bool required) {
        if (!object.contains(key)) {
            if (required) complain(pointer, fmt::format("the key '{}' is missing", key));
            return {};
        }
        const Json& value = object[key];
        if (value.is_string() && !(required && value.get_ref<const std::string&>().empty())) return value;
        complain(pointer_join(pointer, key), found(value, required ? "a text that is not empty" : "a text"));
        return {};
    }

    ItemInfo read_item(const Json& object, const std::string& pointer) {
        ItemInfo item;
        if (!object.is_object()) return complain(pointer, found(object, "an object")), item;
        note_unknown(object, pointer, kItemKeys);
        item.raw = object;
        item.kind = text(object, pointer, "kind", true);
        item.id = text(object, pointer, "id", true);
        item.interface_id = text(object, pointer, "interface", true);
        item.tier = text(object, pointer, "tier", true);
        item.version = text(object, pointer, "version", false);
        item.title = text(object, pointer, "title", false);
        item.summary = text(object, pointer, "summary", false);
        item.licence = text(object, pointer, "licence", false);
        if (!item.id.empty() && !is_id(item.id))
            complain(pointer + "/id", found(object["id"], "letters a-z, digits, '.', '_' and '-'"));
        check_interface(item, pointer);
        check_parameters(item, object, pointer);
        if (item.kind == "merger") check_merger(item, pointer);
        if (item.kind == "encoder") check_encoder(item, pointer);
        return item;
    }

    void check_interface(const ItemInfo& item, const std::string& pointer) {
        std::vector<std::string> kinds;
        const KnownInterface* of_kind = nullptr;
        for (const KnownInterface& known : kInterfaces) {
            kinds.emplace_back(known.kind);
            if (known.kind == item.kind) of_kind = &known;
        }
        if (!item.kind.empty() && of_kind == nullptr) {
            complain(pointer + "/kind", fmt::format("found \"{}\", expected one of {}{}", item.kind,
                                                    fmt::join(kinds, ", "), did_you_mean_only(item.kind, kinds)));
            return;
        }
        if (of_kind == nullptr || item.interface_id.empty()) return;
        if (item.interface_id != of_kind->id)
            complain(pointer + "/interface",
                     fmt::format("{} speaks {}, this host knows {}", item.name(), item.interface_id, of_kind->id),
                     Code::kPlugin);
        else if (!item.tier.empty() && item.tier != of_kind->tier)
            complain(pointer + "/tier",
                     fmt::format("found \"{}\", expected \"{}\" for {}", item.tier, of_kind->tier, item.interface_id));
    }

    void check_encoder(const ItemInfo& item, const std::string& pointer) {
        std::vector<Diagnostic> found;
        check_encoder_facts(item, found);
        for (Diagnostic& problem : found)
            complain(pointer + "/encoder" + problem.where.pointer, std::move(problem.message));
        if (item.raw.contains("encoder") && item.raw["encoder"].is_object())
            note_unknown(item.raw["encoder"], pointer + "/encoder",
                         {"sample_rate", "window_seconds", "width", "bands", "blocks", "trainable"});
    }

    void check_merger(const ItemInfo& item, const std::string& pointer) {
        std::vector<Diagnostic> found;
        read_merger(item, found);
        const bool there = item.raw.contains("merger");
        for (Diagnostic& problem : found)
            complain(there ? pointer + "/merger" + problem.where.pointer : pointer, std::move(problem.message),
                     problem.code);
        if (there && item.raw["merger"].is_object())
            note_unknown(item.raw["merger"], pointer + "/merger", merger_keys());
        refuse_paths(item.parameters, pointer + "/parameters");
    }

    /// A merger's parameters are those of a node's: their paths aren't resolved, and their files don't count for its
    /// key.
    void refuse_paths(const Json& schema, const std::string& pointer) {
        if (schema.is_object() && schema.value("format", Json()) == "path")
            complain(pointer + "/format", "found \"path\"; parameters of merge stages that are files can't be used yet",
                     Code::kPlugin);
        if (!schema.is_structured()) return;
        for (const auto& [key, inner] : schema.items()) refuse_paths(inner, pointer_join(pointer, key));
    }

    static std::string did_you_mean_only(std::string_view word, const std::vector<std::string>& names) {
        return suggesting(Message(), nearest(word, names)).text;
    }

    void check_parameters(ItemInfo& item, const Json& object, const std::string& pointer) {
        const std::string at = pointer + "/parameters";
        if (!object.contains("parameters")) {
            complain(pointer, "the key 'parameters' is missing, expected a JSON Schema of type object");
            return;
        }
        item.parameters = object["parameters"];
        if (!item.parameters.is_object() || item.parameters.value("type", Json()) != "object") {
            complain(at, found(item.parameters, "a JSON Schema with \"type\": \"object\""));
            return;
        }
        const Json properties = item.parameters.value("properties", Json::object());
        const Json required = item.parameters.value("required", Json::array());
        if (!properties.is_object()) complain(at + "/properties", found(properties, "an object"));
        if (!required.is_array()) complain(at + "/required", found(required, "an array of names"));
        if (!properties.is_object() || !required.is_array()) return;
        for (const auto& [name, property] : properties.items())
            if (!property.is_object())
                complain(pointer_join(at + "/properties", name), found(property, "an object, a parameter's schema"));
        for (const Json& name : required)
            if (!name.is_string() || !properties.contains(name.get<std::string>()))
                complain(at + "/required", fmt::format("{} is required, but no parameter", describe(name)));
    }

    const JsonText& text_;
    std::vector<Diagnostic>& problems_;
    std::vector<std::string>& notes_;
};

}  // namespace

std::span<const KnownInterface> known_interfaces() {
    return kInterfaces;
}

Manifest parse_manifest(std::string text, std::vector<Diagnostic>& problems, std::vector<std::string>& notes) {
    while (!text.empty() && text.back() == '\0') text.pop_back();  // a C string literal in the section ends with one
    const JsonText json = JsonText::parse(std::move(text), "its manifest", problems);
    if (!problems.empty()) return {};
    return Reader(json, problems, notes).read();
}

}  // namespace biophony
