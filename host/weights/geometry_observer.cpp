#include "weights/geometry_observer.hpp"

#include "weights/merge.hpp"

namespace biophony {

namespace {

static_assert(MergeObserver::kPiece == GeometrySums::kPiece, "else the sums are not those of geometry_of()");

struct Seen : MergeObserver::Block {
    explicit Seen(size_t vectors) : sums(vectors) {}
    void see(const MergePiece& piece) override { sums.see(piece.index, piece.deltas, piece.base.size()); }
    GeometrySums sums;
};

}  // namespace

void GeometryObserver::begin(const MergePlan& plan) {
    for (const MergeTensor& tensor : plan.tensors)
        tensors_.push_back({tensor.name, tensor.role, tensor.block, tensor.elements});
}

std::unique_ptr<MergeObserver::Block> GeometryObserver::make_block() const {
    return std::make_unique<Seen>(names_.size());
}

void GeometryObserver::join(std::unique_ptr<Block> block) {
    sums_.join(static_cast<const Seen&>(*block).sums);
}

}  // namespace biophony
