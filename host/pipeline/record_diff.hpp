// What differs between two records, leaf by leaf, and in words.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"

namespace biophony {

/// A leaf that is only in one of two JSON values, or another one there. Empty objects and lists are leaves.
struct Change {
    std::string pointer;  ///< JSON pointer
    std::optional<Json> then, now;

    std::string path() const;  ///< "params.stages.0.use"
};

/// The leaves that differ, in the order of the pointers' parts.
std::vector<Change> differences(const Json& then, const Json& now);

/// A value in a few characters: text without quotes, hashes and long text cut; "(none)" where there is none.
std::string brief(const std::optional<Json>& value);

/// One line on a change of a key's record of this node type: "parameter epochs: 5 → 9", "plugin encoder:beats was
/// rebuilt".
std::string in_words(const Change& change, std::string_view type);

}  // namespace biophony
