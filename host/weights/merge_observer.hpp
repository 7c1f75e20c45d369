// The hook by which statistics see what a merge reads, in the same pass.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "weights/safetensors.hpp"

namespace biophony {

/// A floating tensor that is merged.
struct MergeTensor {
    std::string name;
    std::string role;    ///< "matrix", "norm", …: the encoder's word, or role_of() from shape and name
    int32_t block = -1;  ///< 0-based block of the encoder, or -1
    std::vector<uint64_t> shape;
    uint64_t elements = 0;
    DType dtype = DType::kF32;  ///< of the base
    DType out = DType::kF32;    ///< of the result
};

/// Consecutive elements of one tensor in the base and all experts, as they lie in the inputs, before any stage.
struct MergePiece {
    const MergeTensor* tensor = nullptr;
    size_t index = 0;    ///< of the tensor in MergePlan::tensors
    uint64_t first = 0;  ///< row-major index of the first element; a multiple of MergeObserver::kPiece
    std::span<const float> base;
    std::span<const float* const> deltas;  ///< θ_expert − θ_base, base.size() values each, in the order of the experts
};

class MergePlan;

/// Sees the inputs of a merge while it reads them: for statistics that then cost no pass of their own. What it sees is
/// cut the same way whatever threads and tiles are: all tensors, in the plan's order, in blocks of up to kBlock
/// elements (small tensors together, a large one in several), each block in pieces of kPiece elements from a tensor's
/// start (its last one shorter). A block belongs to one thread; blocks are joined in their order. So sums that are
/// taken per piece or per block come out the same to the last bit.
class MergeObserver {
public:
    static constexpr uint64_t kBlock = 1 << 18;
    static constexpr uint64_t kPiece = 4096;

    /// What has been seen of one block.
    class Block {
    public:
        virtual ~Block() = default;
        /// In ascending order of tensors and elements. Values are finite. On any thread, one thread a block.
        virtual void see(const MergePiece& piece) = 0;
        /// By expert: whether any of its deltas in this block isn't 0, be it in a piece that is shown or not; filled in
        /// before join().
        std::vector<bool> moves;
    };

    virtual ~MergeObserver() = default;
    /// When all is known of the merge, before its first byte; once. [the thread that merges]
    virtual void begin(const MergePlan& plan) = 0;
    /// Of all pieces, in the order of tensors, each so many-th is shown, from the first on. After begin().
    virtual uint64_t every() const { return 1; }
    /// Bytes that joined blocks take in the end, and a block that sees so many tensors; for the plan. After begin().
    virtual uint64_t bytes() const { return 0; }
    virtual uint64_t block_bytes(size_t /*tensors*/) const { return 0; }
    /// A state for a block. On any thread, at once with others.
    virtual std::unique_ptr<Block> make_block() const = 0;
    /// Adds a block, in ascending order of blocks. On any thread, one at a time. What is thrown ends the merge.
    virtual void join(std::unique_ptr<Block> block) = 0;
};

}  // namespace biophony
