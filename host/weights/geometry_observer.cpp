#include "weights/geometry_observer.hpp"

#include <algorithm>
#include <limits>

#include "weights/merge.hpp"

namespace biophony {

namespace {

static_assert(MergeObserver::kPiece == GeometrySums::kPiece && MergeObserver::kBlock == GeometrySums::kBlock,
              "else the sums are not those of geometry_of()");

struct Seen : MergeObserver::Block {
    explicit Seen(size_t vectors) : sums(vectors) {}
    void see(const MergePiece& piece) override {
        sums.see(piece.index, piece.deltas, piece.base.size());
        last = piece.index;
    }
    GeometrySums sums;
    size_t last = 0;
};

}  // namespace

void GeometryObserver::begin(const MergePlan& plan) {
    std::vector<GeometryTensor> tensors;
    uint64_t pieces = 0;
    for (const MergeTensor& tensor : plan.tensors) {
        tensors.push_back({tensor.name, tensor.role, tensor.block, tensor.elements});
        pieces += (tensor.elements + kPiece - 1) / kPiece;
    }
    if (pieces_ == kCheap) {
        // Pairs grow as the square of the experts, and the merge as their number: of more experts less is enough. The
        // signs of 512 pieces, a share of one half, are told to 0.0004.
        const uint64_t experts = names_.size();
        pieces_ = std::max<uint64_t>({std::min<uint64_t>(pieces / (4 * experts), 512), 512 / experts, 1});
    }
    if (pieces_) every_ = std::max<uint64_t>(pieces / *pieces_, 1);
    moves_.assign(names_.size(), false);
    geometry_.emplace(names_, std::move(tensors));
}

uint64_t GeometryObserver::block_bytes(size_t tensors) const {
    return GeometrySums::bytes(names_.size(), std::min<uint64_t>(tensors, kBlock / kPiece / every_ + 1));
}

std::unique_ptr<MergeObserver::Block> GeometryObserver::make_block() const {
    return std::make_unique<Seen>(names_.size());
}

void GeometryObserver::join(std::unique_ptr<Block> block) {
    const Seen& seen = static_cast<const Seen&>(*block);
    for (size_t i = 0; i < seen.moves.size(); ++i)
        if (seen.moves[i]) moves_[i] = true;
    open_.join(seen.sums);
    geometry_->take(open_, seen.last);
}

const Geometry& GeometryObserver::geometry() {
    geometry_->take(open_, std::numeric_limits<size_t>::max());
    return *geometry_;
}

std::vector<std::string> GeometryObserver::warnings(const std::vector<std::string>& stages) {
    return geometry().warnings(stages, moves_);
}

}  // namespace biophony
