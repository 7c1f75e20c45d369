// The geometry of the vectors that a merge reads, in its own pass.
#pragma once

#include <optional>

#include "weights/geometry.hpp"
#include "weights/merge_observer.hpp"

namespace biophony {

/// For MergeOptions::observer. The same figures as geometry_of(), to the last bit; or a look at a sample.
class GeometryObserver : public MergeObserver {
public:
    /// `names`: what the experts are called, in their order. `sample`: look at a few thousand pieces alone, evenly over
    /// all tensors, which costs next to nothing. Lengths and null deviations are then the sample's: it does for
    /// warnings().
    explicit GeometryObserver(std::vector<std::string> names, bool sample = false)
        : names_(std::move(names)), sample_(sample), open_(names_.size()) {}

    void begin(const MergePlan& plan) override;
    uint64_t every() const override { return every_; }
    uint64_t bytes() const override { return geometry_->bytes(); }
    uint64_t block_bytes(size_t tensors) const override { return GeometrySums::bytes(names_.size(), tensors); }
    std::unique_ptr<Block> make_block() const override;
    void join(std::unique_ptr<Block> block) override;

    /// After the merge.
    const Geometry& geometry();
    /// Geometry::warnings(); of a sample those which it is enough for.
    std::vector<std::string> warnings(const std::vector<std::string>& stages);

private:
    std::vector<std::string> names_;
    bool sample_;
    uint64_t every_ = 1;
    GeometrySums open_;  ///< of tensors that more blocks may come of
    std::optional<Geometry> geometry_;
};

}  // namespace biophony
