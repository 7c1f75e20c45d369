// What a data-set plugin says, and reading sound of it: from files, or from the plugin where it serves samples.
#pragma once

#include <memory>
#include <vector>

#include "base/json.hpp"
#include "biophony/dataset.hpp"
#include "plugins/call.hpp"
#include "plugins/registry.hpp"

namespace biophony {

using sdk::Label;
using sdk::Recording;
using sdk::Region;

/// One open data-set plugin. Not thread-safe.
class DatasetSource {
public:
    /// `params` fit the item's schema. Throws Error.
    DatasetSource(const ItemInfo& item, const Json& params, CallOptions options = {});
    ~DatasetSource();
    DatasetSource(const DatasetSource&) = delete;
    DatasetSource& operator=(const DatasetSource&) = delete;

    struct Description {
        std::vector<Recording> recordings;
        std::vector<Region> regions;
    };
    /// Everything the plugin says, checked: ids unique, region indices and times in range, UTF-8, splits known.
    Description describe();

    /// Mono samples of [start_s, end_s) of a recording at `rate` Hz, as decode_audio() gives them. `index` is the
    /// recording's place in the description.
    std::vector<float> read(const Recording& recording, size_t index, double start_s, double end_s, double rate);

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace biophony
