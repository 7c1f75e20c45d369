#include "pipeline/key.hpp"

#include "base/file_hashes.hpp"
#include "base/files.hpp"
#include "base/schema.hpp"
#include "base/sha256.hpp"
#include "plugins/merger_traits.hpp"

namespace biophony {

Json params_for_key(const GraphNode& node) {
    Json params = node.params;
    auto schemas = {&node.type->parameters, node.item == nullptr ? nullptr : &node.item->parameters};
    for (const Json* schema : schemas) {
        if (schema == nullptr) continue;
        for (const auto& [pointer, path] : paths_that_must_exist(*schema, node.params, ""))
            if (fs::is_regular_file(path)) params[Json::json_pointer(pointer)] = "sha256:" + file_hashes().sha256(path);
    }
    return params;
}

namespace {

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

}  // namespace

Json lock_of(const Graph& graph, const Registry& registry) {
    Json plugins = Json::object();
    const HostFacts none;
    const Keys keys(graph, registry, none, 1);
    for (size_t n = 0; n < graph.nodes.size(); ++n)
        for (const auto& [name, item] : keys.items_of(n))
            if (!plugins.contains(name))
                plugins[name] = {{"version", item->version},
                                 {"build", item->build},
                                 {"interface", item->interface_id},
                                 {"library", item->library.filename().string()},
                                 {"sha256", file_hashes().sha256(item->library)}};
    return plugins;
}

Keys::Keys(const Graph& graph, const Registry& registry, const HostFacts& host, unsigned threads)
    : graph_(graph), registry_(registry), host_(host), threads_(threads), encoders_(graph.nodes.size()) {
    // Every node stands behind its inputs, so one walk does.
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        const ItemInfo* item = graph.nodes[n].item;
        if (item != nullptr && item->kind == "encoder") encoders_[n].insert(item);
        for (const auto& [port, sources] : graph.nodes[n].inputs)
            for (const size_t source : sources) encoders_[n].insert(encoders_[source].begin(), encoders_[source].end());
    }
}

std::map<std::string, const ItemInfo*> Keys::items_of(size_t n) const {
    const GraphNode& node = graph_.nodes[n];
    std::map<std::string, const ItemInfo*> items;
    if (node.item != nullptr) items[node.item->name()] = node.item;
    add_named_items(node.params, registry_, items);
    if (node.type->torch)
        for (const ItemInfo* encoder : encoders_[n]) items[encoder->name()] = encoder;
    return items;
}

Json Keys::record_without_inputs(size_t n) const {
    const GraphNode& node = graph_.nodes[n];
    Json record = {{"format", "biophony-key/0"},
                   {"type", node.type->name},
                   {"sources", node.type->sources},
                   {"params", params_for_key(node)},
                   {"seed", node.seed}};
    // Which of the plugins below is the node itself; others may be named by its parameters.
    if (node.item != nullptr) record["item"] = node.item->name();
    if (node.type->named) record["node"] = node.id;
    if (!node.names.empty()) record["names"] = node.names;
    record["plugins"] = Json::object();
    for (const auto& [name, item] : items_of(n)) record["plugins"][name] = item->build;
    if (node.type->torch)
        record["torch"] = {
            {"libtorch", host_.libtorch}, {"device", "cpu"}, {"cpu", host_.cpu_class}, {"threads", threads_}};
    else if (node.type->uses_libtorch && node.type->uses_libtorch(node, registry_))
        record["torch"] = {{"libtorch", host_.libtorch}, {"device", "cpu"}, {"cpu", host_.cpu_class}};
    return record;
}

Json Keys::record(size_t n, const std::vector<std::vector<std::string>>& input_digests) const {
    Json record = record_without_inputs(n), inputs = Json::object();
    size_t at = 0;
    for (const auto& [port, sources] : graph_.nodes[n].inputs) inputs[port] = input_digests.at(at++);
    record["inputs"] = std::move(inputs);
    return record;
}

std::string key_of_record(const Json& record) {
    return sha256_hex(canonical(record));
}

}  // namespace biophony
