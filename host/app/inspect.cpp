#include <fmt/format.h>

#include <fstream>

#include "app/command.hpp"
#include "base/nearest.hpp"
#include "base/schema.hpp"
#include "plugins/merger_traits.hpp"
#include "tasks/node_types.hpp"

namespace biophony::app {

namespace {

void print_parameters(const Json& schema, int indent) {
    if (!schema.contains("properties")) return;
    const Json required = schema.value("required", Json::array());
    for (const auto& [name, property] : schema["properties"].items()) {
        std::string line = fmt::format("{:{}}{}: {}", "", indent, name, expected_by(property));
        if (property.contains("x-unit")) line += " " + property["x-unit"].get<std::string>();
        if (property.contains("default") && !property.contains("properties"))
            line += fmt::format(", default {}", property["default"].dump());
        else if (std::find(required.begin(), required.end(), name) != required.end())
            line += ", required";
        fmt::print("{}\n", line);
        if (property.contains("description"))
            fmt::print("{:{}}    {}\n", "", indent, property["description"].get<std::string>());
        if (property.contains("x-source"))
            fmt::print("{:{}}    source: {}\n", "", indent, property["x-source"].get<std::string>());
        print_parameters(property, indent + 4);
    }
}

/// What sort of stage a merger is, or for a preset the stages that it stands for.
void print_merger(const ItemInfo& item) {
    const Json& merger = item.raw.at("merger");
    if (!is_preset(item)) {
        fmt::print("  stage      {}, scope {}, space {}\n", merger.value("stage", ""), merger.value("scope", ""),
                   merger.value("space", ""));
        std::vector<Diagnostic> told_as_verdict;
        const MergerTraits traits = read_merger(item, told_as_verdict);
        if (traits.all_experts) fmt::print("  experts    all at once\n");
        if (traits.scope == MergerTraits::Scope::kMatrix)
            fmt::print("  roles      {}\n", fmt::join(traits.roles, ", "));
        if (traits.passes > 0)
            fmt::print("  observe    all tensors, {}\n",
                       traits.passes == 1 ? "once" : fmt::format("{} times", traits.passes));
        if (traits.needs_base) fmt::print("  needs      the base's weights\n");
        if (traits.needs_linalg) fmt::print("  needs      linear algebra\n");
        if (traits.random) fmt::print("  random     yes, from the node's seed\n");
        return;
    }
    fmt::print("  stands for\n");
    for (const Json& stage : merger.at("preset")) {
        std::string with;
        const Json parameters = stage.value("with", Json::object());
        for (const auto& [key, value] : parameters.items())
            with += fmt::format("{}{}: {}", with.empty() ? "" : ", ", key,
                                value.is_object() && value.contains("parameter")
                                    ? fmt::format("<{}>", value["parameter"].get<std::string>())
                                    : value.dump());
        fmt::print("    {}{}\n", stage.at("use").get<std::string>(), with.empty() ? "" : " with " + with);
    }
}

void print_item(const ItemInfo& item) {
    fmt::print("{} {}\n", item.name(), item.version);
    if (!item.title.empty()) fmt::print("  {}\n", item.title);
    if (!item.summary.empty()) fmt::print("  {}\n", item.summary);
    fmt::print("  interface  {} (tier {})\n", item.interface_id, item.tier);
    if (!item.licence.empty()) fmt::print("  licence    {}\n", item.licence);
    for (const Json& citation : item.raw.value("citations", Json::array()))
        fmt::print("  cite       {}\n", citation.is_string() ? citation.get<std::string>() : citation.dump());
    fmt::print("  library    {}\n  build      {}\n", item.library.string(), item.build.substr(0, 16));
    if (item.kind == "merger") print_merger(item);
    fmt::print("  parameters\n");
    print_parameters(item.parameters, 4);
    if (const NodeType* type = node_types().find(item.kind);
        type != nullptr && !type->parameters.value("properties", Json::object()).empty()) {
        fmt::print("  and of every {} node\n", item.kind);
        print_parameters(type->parameters, 4);
    }
}

void print_node_type(const NodeType& type) {
    fmt::print("{}: {}\n", type.name, type.summary);
    for (const PortSpec& port : type.inputs) {
        if (port.implied) continue;
        fmt::print("  in   {}: {}{}{}{}\n", port.name, fmt::join(port.types, " or "),
                   port.named  ? ", one or more, also as {\"name\": node}"
                   : port.many ? ", one or more"
                               : "",
                   port.required ? "" : ", optional", port.summary.empty() ? "" : "; " + port.summary);
    }
    fmt::print("  out  {}\n", type.output);
    print_parameters(type.parameters, 2);
}

Json json_of(const NodeType& type) {
    Json inputs = Json::array();
    for (const PortSpec& port : type.inputs)
        if (!port.implied)
            inputs.push_back({{"name", port.name},
                              {"types", port.types},
                              {"many", port.many},
                              {"named", port.named},
                              {"required", port.required},
                              {"summary", port.summary}});
    return {{"kind", "node type"}, {"name", type.name},     {"summary", type.summary},
            {"inputs", inputs},    {"output", type.output}, {"parameters", type.parameters}};
}

Json json_of(const Checkpoint& checkpoint) {
    Json tensors = Json::array(), unreadable = Json::array();
    for (const TensorInfo& tensor : checkpoint.tensors())
        tensors.push_back({{"name", tensor.name}, {"type", to_string(tensor.dtype)}, {"shape", tensor.shape}});
    for (const auto& [name, why] : checkpoint.unreadable()) unreadable.push_back({{"name", name}, {"why", why}});
    return {{"kind", "checkpoint"},     {"file", checkpoint.path().string()},
            {"tensors", tensors},       {"container", checkpoint.container()},
            {"unreadable", unreadable}, {"ignored", checkpoint.ignored()}};
}

/// Whether a file is to be looked at as a library: by its name, else (libx.so.1) by its content.
bool is_library(const fs::path& file) {
    std::string head(4, '\0');
    return file.extension() == ".so" ||
           (fs::is_regular_file(file) && std::ifstream(file, std::ios::binary).read(head.data(), 4) &&
            head ==
                "\x7f"
                "ELF");
}

int inspect_checkpoint(const fs::path& file, const std::string& key, bool json) {
    const Checkpoint checkpoint = Checkpoint::open(file, key);
    if (json) {
        print_json(json_of(checkpoint), 2);
        return 0;
    }
    print_checkpoint(checkpoint);
    for (const TensorInfo& tensor : checkpoint.tensors())
        fmt::print("    {:<4} [{}] {}\n", to_string(tensor.dtype), fmt::join(tensor.shape, ", "), tensor.name);
    return 0;
}

}  // namespace

int inspect_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    add_plugin_options(described);
    add_format_option(described);
    described.add_options()("key", options::value<std::string>()->value_name("PATH")->default_value("", ""),
                            "of a checkpoint: where the state dict stands in it, as for convert");
    described.add_options()("_what", options::value<std::string>()->required(), "");
    options::positional_options_description positional;
    positional.add("_what", 1);
    options::variables_map values;
    if (!parse(arguments, "inspect ID|FILE [--format json] [--plugin-path DIR]… [--key PATH]",
               "Shows an item by its name (dataset:table), a node type (fine-tune), what a library file holds and "
               "whether it can be used, or what a checkpoint holds.",
               described, positional, values))
        return 0;
    const std::string what = values["_what"].as<std::string>();
    const std::string key = values["key"].as<std::string>();
    const bool json = format_of(values) == "json";
    // A word alone is a name first, and a file here only where nothing has that name.
    const bool is_path = what.find_first_of("/.") != std::string::npos, is_file = fs::is_regular_file(what);
    const bool library = is_library(what);
    if (is_path && is_file && !library) return inspect_checkpoint(what, key, json);
    const auto no_checkpoint = [&] {
        if (!key.empty())
            throw Error(Code::kInvalid, fmt::format("--key: goes with a checkpoint, which '{}' is not", what));
    };
    if (what.find('/') != std::string::npos || (is_path && library)) {
        no_checkpoint();
        const PluginFile file = Registry::look_at(fs::absolute(what));
        if (json) {
            print_json(json_of(file), 2);
            return file.state == PluginState::kOk ? 0 : static_cast<int>(Code::kPlugin);
        }
        fmt::print("{}: {}{}\n", file.path.string(), to_string(file.state),
                   file.reason.empty() ? "" : ": " + file.reason);
        if (!file.sha256.empty()) fmt::print("  sha256     {}\n", file.sha256);
        for (const ItemInfo& item : file.items) {
            fmt::print("\n");
            print_item(item);
        }
        return file.state == PluginState::kOk ? 0 : static_cast<int>(Code::kPlugin);
    }
    if (const NodeType* type = node_types().find(what)) {
        no_checkpoint();
        if (json)
            print_json(json_of(*type), 2);
        else
            print_node_type(*type);
        return 0;
    }
    const Registry registry = make_registry(values);
    std::string name = what;
    if (what.find(':') == std::string::npos) {
        // A bare id is enough where it is the only one.
        std::vector<std::string> names;
        for (const ItemInfo* item : registry.items())
            if (item->id == what) names.push_back(item->name());
        if (names.size() == 1) name = names[0];
        if (names.empty() && is_file) return inspect_checkpoint(what, key, json);
        if (names.empty()) {
            for (const ItemInfo* item : registry.items()) names.push_back(item->name());
            for (const NodeType& type : node_types().all()) names.push_back(type.name);
            throw Error(Code::kPlugin,
                        with_nearest(fmt::format("there is no item or node type '{}'", what), what, names));
        }
    }
    no_checkpoint();
    const ItemInfo& item = registry.require(name);
    if (json)
        print_json(json_of(item), 2);
    else
        print_item(item);
    return 0;
}

}  // namespace biophony::app
