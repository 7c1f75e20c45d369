#include "pipeline/key.hpp"

#include <map>
#include <set>

#include "base/files.hpp"
#include "base/schema.hpp"
#include "base/sha256.hpp"
#include "pipeline/file_hash.hpp"
#include "plugins/merger_traits.hpp"

namespace biophony {

namespace {

/// Parameters as they count for the key: a path stands for the file's content, wherever it lies.
Json params_for_key(const GraphNode& node) {
    Json params = node.params;
    auto schemas = {&node.type->parameters, node.item == nullptr ? nullptr : &node.item->parameters};
    for (const Json* schema : schemas) {
        if (schema == nullptr) continue;
        for (const auto& [pointer, path] : paths_that_must_exist(*schema, node.params, ""))
            if (fs::is_regular_file(path)) params[Json::json_pointer(pointer)] = "sha256:" + file_hash(path);
    }
    return params;
}

/// The items that parameters name: every text that is an item's name, and for presets the items that they name.
void add_named_items(const Json& value, const Registry& registry, std::map<std::string, const ItemInfo*>& items) {
    if (value.is_string()) {
        const std::string text = value;
        const size_t colon = text.find(':');
        if (colon == std::string::npos) return;
        const ItemInfo* item = registry.find(text.substr(0, colon), text.substr(colon + 1));
        if (item == nullptr || !items.emplace(text, item).second) return;
        if (is_preset(*item)) add_named_items(item->raw["merger"]["preset"], registry, items);
    } else if (value.is_structured()) {
        for (const Json& inner : value) add_named_items(inner, registry, items);
    }
}

void add_encoders_upstream(const Graph& graph, const GraphNode& node, std::set<size_t>& seen,
                           std::map<std::string, const ItemInfo*>& items) {
    if (node.item != nullptr && node.item->kind == "encoder") items[node.item->name()] = node.item;
    for (const auto& [port, sources] : node.inputs)
        for (const size_t source : sources)
            if (seen.insert(source).second) add_encoders_upstream(graph, graph.nodes[source], seen, items);
}

/// The plugins whose code a node's result depends on.
std::map<std::string, const ItemInfo*> items_of(const Graph& graph, const GraphNode& node, const Registry& registry) {
    std::map<std::string, const ItemInfo*> items;
    if (node.item != nullptr) items[node.item->name()] = node.item;
    add_named_items(node.params, registry, items);
    std::set<size_t> seen;
    if (node.type->torch) add_encoders_upstream(graph, node, seen, items);
    return items;
}

}  // namespace

Json lock_of(const Graph& graph, const Registry& registry) {
    Json plugins = Json::object();
    for (const GraphNode& node : graph.nodes)
        for (const auto& [name, item] : items_of(graph, node, registry))
            if (!plugins.contains(name))
                plugins[name] = {{"version", item->version},
                                 {"build", item->build},
                                 {"interface", item->interface_id},
                                 {"library", item->library.filename().string()},
                                 {"sha256", sha256_file(item->library)}};
    return plugins;
}

std::string node_key(const Graph& graph, const GraphNode& node,
                     const std::vector<std::vector<std::string>>& input_digests, const Registry& registry,
                     const HostFacts& host, unsigned threads, Json& record) {
    Json inputs = Json::object();
    size_t at = 0;
    for (const auto& [port, sources] : node.inputs) inputs[port] = input_digests.at(at++);
    record = {{"format", "biophony-key/0"},     {"type", node.type->name}, {"sources", node.type->sources},
              {"params", params_for_key(node)}, {"seed", node.seed},       {"inputs", inputs}};
    if (node.type->named) record["node"] = node.id;
    if (!node.names.empty()) record["names"] = node.names;
    record["plugins"] = Json::object();
    for (const auto& [name, item] : items_of(graph, node, registry)) record["plugins"][name] = item->build;
    if (node.type->torch)
        record["torch"] = {
            {"libtorch", host.libtorch}, {"device", "cpu"}, {"cpu", host.cpu_class}, {"threads", threads}};
    else if (node.type->uses_libtorch && node.type->uses_libtorch(node, registry))
        record["torch"] = {{"libtorch", host.libtorch}, {"device", "cpu"}, {"cpu", host.cpu_class}};
    return sha256_hex(canonical(record));
}

}  // namespace biophony
