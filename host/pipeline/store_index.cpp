#include "pipeline/store_index.hpp"

#include <algorithm>

namespace biophony {

namespace {

const std::vector<const StoreEntry*> kNone;

template <class Map, class Key>
const std::vector<const StoreEntry*>& at(const Map& map, const Key& key) {
    const auto found = map.find(key);
    return found == map.end() ? kNone : found->second;
}

}  // namespace

StoreIndex::StoreIndex(const fs::path& root) {
    std::error_code ignored;
    if (fs::is_directory(root / "objects", ignored)) entries_ = list_store(root);
    std::erase_if(entries_, [](const StoreEntry& entry) { return !entry.record.is_object(); });
    for (const StoreEntry& entry : entries_) {
        const std::string type = entry.text("type"), node = entry.text("node");
        by_type_[type].push_back(&entry);
        by_node_[{type, node}].push_back(&entry);
        by_stem_[{type, node.substr(0, node.find('['))}].push_back(&entry);
        by_digest_.emplace(entry.text("digest"), &entry);
    }
}

const std::vector<const StoreEntry*>& StoreIndex::of_node(const std::string& type, const std::string& node) const {
    return at(by_node_, std::pair(type, node));
}

const std::vector<const StoreEntry*>& StoreIndex::of_type(const std::string& type) const {
    return at(by_type_, type);
}

std::vector<const StoreEntry*> StoreIndex::with_digest(const std::string& digest, std::string_view node) const {
    const auto [begin, end] = by_digest_.equal_range(digest);
    List all, own;
    for (auto entry = begin; entry != end; ++entry) {
        all.push_back(entry->second);
        if (entry->second->text("node") == node) own.push_back(entry->second);
    }
    return own.empty() ? all : own;
}

std::optional<double> StoreIndex::usual_seconds(const std::string& type, const std::string& stem) const {
    std::vector<double> seconds;
    for (const StoreEntry* entry : at(by_stem_, std::pair(type, stem))) seconds.push_back(entry->seconds());
    if (seconds.empty()) return std::nullopt;
    const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
    std::nth_element(seconds.begin(), middle, seconds.end());
    return *middle;
}

const Json& record_of(const StoreEntry& entry) {
    static const Json none = Json::object();
    const auto found = entry.record.find("record");
    return found != entry.record.end() && found->is_object() ? *found : none;
}

}  // namespace biophony
