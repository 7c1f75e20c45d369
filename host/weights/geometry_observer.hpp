// The geometry of the vectors that a merge reads, in its own pass.
#pragma once

#include <optional>

#include "weights/geometry.hpp"
#include "weights/merge_observer.hpp"

namespace biophony {

/// For MergeOptions::observer. The same figures as geometry_of(), to the last bit; or a look at a sample.
class GeometryObserver : public MergeObserver {
public:
    /// `names`: what the experts are called, in their order. `pieces`: look at about so many of them alone, evenly over
    /// all tensors; kCheap: at as many as cost little beside the merge. Norms and null deviations are then the
    /// sample's: it does for warnings().
    explicit GeometryObserver(std::vector<std::string> names, std::optional<uint64_t> pieces = {})
        : names_(std::move(names)), pieces_(pieces), open_(names_.size()) {}
    static constexpr uint64_t kCheap = 0;

    void begin(const MergePlan& plan) override;
    uint64_t every() const override { return every_; }
    uint64_t bytes() const override { return geometry_->bytes(); }
    uint64_t block_bytes(size_t tensors) const override;
    std::unique_ptr<Block> make_block() const override;
    void join(std::unique_ptr<Block> block) override;

    /// After the merge.
    const Geometry& geometry();
    /// Geometry::warnings(). Which vectors are 0 is known of all their values, in a sample too.
    std::vector<std::string> warnings(const std::vector<std::string>& stages);

private:
    std::vector<std::string> names_;
    std::optional<uint64_t> pieces_;
    uint64_t every_ = 1;
    GeometrySums open_;        ///< of tensors that more blocks may come of
    std::vector<bool> moves_;  ///< by vector, whether any value of it isn't 0
    std::optional<Geometry> geometry_;
};

}  // namespace biophony
