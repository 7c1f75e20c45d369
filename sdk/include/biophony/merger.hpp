// Writing a merge stage: derive from Merger, write the formula in element(), add the macro line.
//
//     class Average : public biophony::sdk::Merger {
//     public:
//         explicit Average(const biophony::sdk::Params&) {}
//         void element(const Tile& tile) const override { … }
//     };
//     BIOPHONY_PLUGIN(biophony::sdk::merger<Average>("average"))
//
// The manifest's "merger" object says stage, scope and space; see biophony/c/merger.h.
#pragma once

#include <memory>
#include <span>

#include "biophony/c/merger.h"
#include "biophony/plugin.hpp"

namespace biophony::sdk {

/// A run of consecutive elements of one tensor; all spans have the same length.
class Tile {
public:
    explicit Tile(const bph_merge_tile* tile) : tile_(tile) {}
    size_t size() const { return static_cast<size_t>(tile_->count); }
    size_t experts() const { return tile_->expert_count; }
    /// Values of expert i: deltas, or weights where the manifest says `"space": "weight"`.
    std::span<const float> expert(size_t i) const { return {tile_->experts[i], size()}; }
    /// The base's weights; empty where the manifest doesn't ask for them.
    std::span<const float> base() const {
        return tile_->base == nullptr ? std::span<const float>() : std::span<const float>(tile_->base, size());
    }
    std::span<float> out() const { return {tile_->out, size()}; }
    std::string_view tensor() const { return from_c(tile_->tensor); }
    std::string_view role() const { return from_c(tile_->role); }
    int block() const { return tile_->block; }
    uint32_t expert_index() const { return tile_->expert_index; }
    uint64_t offset() const { return tile_->offset; }

private:
    const bph_merge_tile* tile_;
};

class Merger {
public:
    virtual ~Merger() = default;
    /// Writes tile.out(). Several threads call it at once; the result may not depend on the tile's offset or size.
    virtual void element(const Tile& tile) const = 0;
};

namespace detail {

template <class M>
struct MergerThunks {
    static bph_status create(const bph_call* call, bph_str params, void** self) {
        return guarded(call, [&] {
            auto instance = std::make_unique<M>(Params::parse(from_c(params)));
            *self = static_cast<Merger*>(instance.release());
        });
    }
    static void destroy(void* self) { delete static_cast<Merger*>(self); }
    static bph_status element(const bph_call* call, const void* self, const bph_merge_tile* tile) {
        return guarded(call, [&] { static_cast<const Merger*>(self)->element(Tile(tile)); });
    }
    static constexpr bph_merger_v0 kTable = {sizeof(bph_merger_v0), 0, &create, &destroy, &element};
};

}  // namespace detail

/// The list entry of a merge stage for BIOPHONY_PLUGIN. M is built from Params.
template <class M>
constexpr detail::Item merger(std::string_view id) {
    return {id, BPH_MERGER_V0, &detail::MergerThunks<M>::kTable};
}

}  // namespace biophony::sdk
