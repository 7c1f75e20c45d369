// The results of a store by what made them, to say what a new one differs from.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/store.hpp"

namespace biophony {

/// Read once, so it knows nothing of what comes later. Results without a readable result.json are left out.
class StoreIndex {
public:
    /// A folder that is no store has no results.
    explicit StoreIndex(const fs::path& root);
    StoreIndex(const StoreIndex&) = delete;
    StoreIndex& operator=(const StoreIndex&) = delete;

    const std::vector<StoreEntry>& entries() const { return entries_; }
    /// Results of the node with this id and type.
    const std::vector<const StoreEntry*>& of_node(const std::string& type, const std::string& node) const;
    const std::vector<const StoreEntry*>& of_type(const std::string& type) const;
    /// The results with this digest; where some are of this node, only those.
    std::vector<const StoreEntry*> with_digest(const std::string& digest, std::string_view node) const;
    /// The median time of this type's results of nodes with this stem: "expert" has that of "expert[bird]".
    std::optional<double> usual_seconds(const std::string& type, const std::string& stem) const;

private:
    using List = std::vector<const StoreEntry*>;
    std::vector<StoreEntry> entries_;
    std::map<std::string, List> by_type_;
    std::map<std::pair<std::string, std::string>, List> by_node_, by_stem_;
    std::multimap<std::string, const StoreEntry*> by_digest_;
};

/// The key's record that the result was made from; an empty object where it lacks.
const Json& record_of(const StoreEntry& entry);

}  // namespace biophony
