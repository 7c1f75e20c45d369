// The geometry of the vectors that a merge reads, in its own pass.
#pragma once

#include "weights/geometry.hpp"
#include "weights/merge_observer.hpp"

namespace biophony {

/// For MergeOptions::observer. The same figures as geometry_of(), to the last bit.
class GeometryObserver : public MergeObserver {
public:
    /// What the experts are called, in their order.
    explicit GeometryObserver(std::vector<std::string> names) : names_(std::move(names)), sums_(names_.size()) {}

    void begin(const MergePlan& plan) override;
    std::unique_ptr<Block> make_block() const override;
    void join(std::unique_ptr<Block> block) override;

    /// After the merge.
    Geometry geometry() const { return {names_, tensors_, sums_}; }

private:
    std::vector<std::string> names_;
    std::vector<GeometryTensor> tensors_;
    GeometrySums sums_;
};

}  // namespace biophony
