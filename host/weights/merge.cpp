#include "weights/merge.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <utility>

#include "base/random.hpp"
#include "weights/finite.hpp"
#include "weights/kernels.hpp"
#include "weights/merge_inputs.hpp"
#include "weights/remembered.hpp"
#include "weights/stage_instance.hpp"

namespace biophony {

namespace {

using Scope = MergerTraits::Scope;
using Stage = MergerTraits::Stage;

/// A global stage is shown blocks of about this many elements, each by a state of its own, unless its states join
/// exactly. Results depend on it.
constexpr uint64_t kBlockElements = 1 << 22;
/// Stages get tiles in pieces of this size, so that what one leaves for the next stays in the nearest cache.
constexpr uint64_t kPieceElements = 2048;
/// Results of whole tensors are written in parts of this size.
constexpr uint64_t kChunkElements = 1 << 16;
/// Bytes for tiles of all threads, what global stages count in and what is observed. One of each is always made.
constexpr uint64_t kMemory = 160'000'000;
/// Of these, bytes for what has been observed of blocks, so that none must wait for those before it.
constexpr uint64_t kKeptBlocks = 40'000'000;
/// Bytes for whole tensors of all experts. One is always made.
constexpr uint64_t kWholeMemory = 512'000'000;

/// A floating tensor in all files.
struct Plan {
    const MergeTensor* tensor = nullptr;
    size_t index = 0;
    const TensorInfo* base = nullptr;
    std::vector<const TensorInfo*> experts;
    std::array<uint64_t, 2> matrix{};  ///< rows, columns
    uint64_t name_hash = 0;
    uint32_t blocks = 0;       ///< of the encoder
    uint64_t first_piece = 0;  ///< of the observer's, counted over all tensors
    /// For the first s stages: how many of them run on the whole tensor, as the last of these must see it so. The
    /// others, and all where it is 0, run piece by piece.
    std::vector<size_t> whole;

    bool whole_before(size_t stage) const { return whole[stage] > 0; }
    uint64_t elements() const { return tensor->elements; }
};

/// FNV-1a (Fowler, Noll and Vo), 64 bits.
uint64_t hash_of(std::string_view text) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    return hash;
}

}  // namespace

struct MergePlan::State {
    MergeOptions options;
    LogBook book;
    MergeInputs inputs;
    std::vector<std::unique_ptr<StageInstance>> stages;
    std::vector<Plan> plans;
    unsigned threads = 1;  ///< whose tiles fit into memory
    uint64_t left = 0;     ///< of the memory, beside tiles
    /// By expert: sums of squares of its deltas, by tensor; where a stage needs norms. Empty where not known yet.
    std::vector<std::map<std::string, double>> squares;
    std::vector<double> norms;

    /// Whether the base must be read for what stage `s` is shown.
    bool needs_base_for(size_t s) const {
        const bool weights = stages[0]->traits.weights;
        for (const MergeExpert& expert : inputs.experts)
            if (expert.is_vector() == weights) return true;
        const bool checkpoints = std::any_of(inputs.experts.begin(), inputs.experts.end(),
                                             [](const MergeExpert& expert) { return !expert.is_vector(); });
        for (size_t t = 0; t <= s; ++t) {
            const MergerTraits& traits = stages[t]->traits;
            if (traits.needs_base || traits.weights != weights || (traits.needs_experts && checkpoints)) return true;
        }
        return false;
    }

    /// Whether a tensor of the base is merged; others are copied.
    bool merges(const TensorInfo& tensor) const { return is_merged(tensor, inputs.card ? &*inputs.card : nullptr); }

    /// Whether the first `count` stages, or the one that comes then, need the experts as they were read.
    bool needs_sources(size_t count) const {
        for (size_t s = 0; s < stages.size() && s <= count; ++s)
            if (stages[s]->traits.needs_experts) return true;
        return false;
    }
    /// Whether they stay where they were read into: a combine of deltas leaves them alone.
    bool keeps_inputs() const { return stages[0]->traits.stage == Stage::kCombine && !stages[0]->traits.weights; }
    bool needs_norms() const {
        return std::any_of(stages.begin(), stages.end(), [](const auto& stage) { return stage->traits.needs_norms; });
    }
    /// Rows that stages [from, to) write into, beside those that hold what comes in.
    size_t rows(size_t from, size_t to) const {
        size_t out = 1;
        for (size_t s = from; s < to; ++s)
            if (stages[s]->traits.all_experts) out = inputs.experts.size();
        return out + 1;
    }
};

namespace {

using Job = MergePlan::State;

/// Consecutive elements of one tensor.
struct Segment {
    const Plan* plan;
    uint64_t first, count;
};

/// Memory for floats that grows. What is large comes from the system and goes back to it at once, in large pages where
/// there are any: one is faster to get than its 512 small ones.
class Floats {
public:
    Floats() = default;
    Floats(const Floats&) = delete;
    Floats& operator=(const Floats&) = delete;
    ~Floats() { drop(); }
    float* need(size_t count) {
        if (count <= size_) return data_;
        drop();
        const size_t bytes = count * sizeof(float);
        void* data = bytes < kLarge
                         ? std::aligned_alloc(64, (bytes + 63) / 64 * 64)
                         : ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == nullptr || data == MAP_FAILED) throw std::bad_alloc();
        if (bytes >= kLarge) static_cast<void>(::madvise(data, bytes, MADV_HUGEPAGE));
        data_ = static_cast<float*>(data);
        size_ = count;
        return data_;
    }
    float* get() const { return data_; }
    void drop() {
        if (size_ * sizeof(float) < kLarge)
            std::free(data_);
        else
            ::munmap(data_, size_ * sizeof(float));
        data_ = nullptr;
        size_ = 0;
    }

private:
    static constexpr size_t kLarge = 4 << 20;
    float* data_ = nullptr;
    size_t size_ = 0;
};

/// The distance of experts' values in memory: odd enough that they don't all fall on the same lines of a cache.
size_t stride_of(uint64_t count) {
    return (static_cast<size_t>(count) + 15) / 16 * 16 + 80;
}

/// One thread's buffers and calls. Works on one segment at a time.
class Worker {
public:
    Worker(const Job& job, size_t number)
        : thread(number), job_(job), experts_(job.inputs.experts.size()), crash_("", job.options.node) {
        for (const auto& stage : job.stages) {
            calls_.push_back(std::make_unique<PluginCall>(stage->name, stage->call_options([this] {
                return LogBook::Place{0, at_.plan == nullptr ? 0 : at_.plan->index + 1, at_.first, logged_++};
            })));
        }
        inputs_at_.reserve(experts_);
        outs_.reserve(experts_);
        keys_.reserve(experts_);
    }

    const PluginCall& call(size_t stage) const { return *calls_[stage]; }

    /// From here on what is logged belongs to this segment.
    void begin(const Segment& segment) {
        at_ = segment;
        logged_ = 0;
    }

    /// Reads the segment of all experts, and of the base where that is asked for. What the first stage takes as deltas
    /// becomes that while it is near.
    void read(const Segment& segment, bool base) {
        segment_ = segment;
        stride_ = stride_of(segment.count);
        inputs_.need(experts_ * stride_);
        if (base) {
            load(*job_.inputs.base, *segment.plan->base, segment.first, segment.count, base_.need(segment.count));
            if (!kernels::finite(base_.get(), segment.count))
                not_finite(*job_.inputs.base, *segment.plan->base, segment.first, base_.get(), segment.count);
        }
        for (size_t i = 0; i < experts_; ++i) {
            const SafetensorsFile& file = job_.inputs.experts[i].file();
            const TensorInfo& tensor = *segment.plan->experts[i];
            if (!shifts(i)) {
                load(file, tensor, segment.first, segment.count, input(i, 0));
                continue;
            }
            for (uint64_t done = 0; done < segment.count; done += kChunkElements) {
                const uint64_t part = std::min(kChunkElements, segment.count - done);
                load(file, tensor, segment.first + done, part, input(i, done));
                if (!kernels::subtract(input(i, done), base_.get() + done, part)) blame(i, done, part);
            }
        }
    }

    /// Adds the squares of expert i's deltas to kernels::kLanes lanes, by their place in the tensor.
    void add_squares(const Segment& segment, size_t i, double* lanes) {
        segment_ = segment;
        stride_ = 0;
        float* values = inputs_.need(segment.count);
        const MergeExpert& expert = job_.inputs.experts[i];
        load(expert.file(), *segment.plan->experts[i], segment.first, segment.count, values);
        if (!expert.is_vector()) {
            load(*job_.inputs.base, *segment.plan->base, segment.first, segment.count, base_.need(segment.count));
            if (!kernels::finite(base_.get(), segment.count))
                not_finite(*job_.inputs.base, *segment.plan->base, segment.first, base_.get(), segment.count);
        }
        if (!(expert.is_vector() ? kernels::finite(values, segment.count)
                                 : kernels::subtract(values, base_.get(), segment.count)))
            blame(i, 0, segment.count);
        kernels::add_squares(values, segment.count, segment.first, lanes);
    }

    /// Frees what is larger than tiles are.
    void drop() {
        for (Floats* floats : {&inputs_, &base_, &scratch_, &sources_}) floats->drop();
    }

    /// Shows [skip, skip + count) of what was read, before any stage. `skip` is a multiple of the observer's pieces.
    void show_inputs(uint64_t skip, uint64_t count, MergeObserver::Block& block) {
        const uint64_t every = job_.options.observer->every();
        block.moves.resize(experts_);
        for (size_t i = 0; i < experts_; ++i)
            if (!block.moves[i]) block.moves[i] = moves(i, skip, count);
        for (uint64_t done = 0; done < count; done += MergeObserver::kPiece) {
            const uint64_t from = skip + done, part = std::min(MergeObserver::kPiece, count - done);
            if ((segment_.plan->first_piece + (segment_.first + from) / MergeObserver::kPiece) % every != 0) continue;
            const size_t stride = stride_of(MergeObserver::kPiece);
            inputs_at_.clear();
            for (size_t i = 0; i < experts_; ++i) {
                const float* values = input(i, from);
                if (shifts(i)) {
                    inputs_at_.push_back(values);
                    continue;
                }
                if (!job_.inputs.experts[i].is_vector()) {
                    float* delta = shown_.need(experts_ * stride) + i * stride;
                    std::copy_n(values, part, delta);
                    if (!kernels::subtract(delta, base_.get() + from, part)) blame(i, from, part);
                    values = delta;
                } else if (!kernels::finite(values, part)) {
                    blame(i, from, part);
                }
                inputs_at_.push_back(values);
            }
            block.see({.tensor = segment_.plan->tensor,
                       .index = segment_.plan->index,
                       .first = segment_.first + from,
                       .base = {base_.get() + from, static_cast<size_t>(part)},
                       .deltas = inputs_at_});
        }
    }

    /// Runs the first `stages` stages on [from, from + count) of what was read, and calls each(first, count) with what
    /// is left piece by piece: its place in what was read. Once for each part; what must be whole is so from 0 on.
    template <class Each>
    void for_results(uint64_t from, uint64_t count, size_t stages, Each&& each) {
        const size_t whole = segment_.plan->whole[stages];
        if (whole > 0 && from == 0) {
            start(0, segment_.count, stages);
            run(0, whole, scratch_);
            whole_ = part_;
        }
        for (uint64_t done = 0; done < count; done += kPieceElements) {
            const uint64_t first = from + done, size = std::min(kPieceElements, count - done);
            if (whole > 0) {
                part_ = whole_;
                part_.skip = first;
                part_.count = size;
                for (float*& values : part_.live) values += first;
                if (part_.sources != nullptr) part_.sources += first;
                begin({segment_.plan, segment_.first + first, size});
            } else {
                start(first, size, stages);
            }
            run(whole, stages, pieces_);
            each(first, size);
        }
    }

    /// Merges [from, from + count) of what was read and writes it.
    void write(SafetensorsWriter& writer, uint64_t from, uint64_t count) {
        const uint64_t capacity = std::min(count, kChunkElements);
        float* result = result_.need(capacity);
        uint64_t filled = 0, written = from;
        for_results(from, count, job_.stages.size(), [&](uint64_t first, uint64_t size) {
            for (uint64_t at = 0; at < size;) {
                const uint64_t part = std::min(size - at, capacity - filled);
                merged(at, part, result + filled);
                at += part;
                filled += part;
                if (filled < capacity && first + at < from + count) continue;
                put(writer, segment_.first + written, filled);
                written += filled;
                filled = 0;
            }
        });
    }

    /// Shows what for_results() left to a global stage: as to `element`, so experts one by one where it sees one.
    void show(size_t s, StageInstance::State& to) {
        const MergerTraits& traits = job_.stages[s]->traits;
        make(s);
        const bool together = traits.stage == Stage::kCombine || traits.all_experts;
        const size_t each = together ? part_.live.size() : 1;
        for (size_t from = 0; from < part_.live.size(); from += each) {
            const bph_merge_tile tile = tile_for(s, from, each);
            crash_.enter(job_.stages[s]->name.c_str());
            const bph_status status = to.see(call(s), tile);
            crash_.enter("");
            named([&] { call(s).check(status); });
        }
    }

    const size_t thread;  ///< from 0

private:
    /// Whether expert i, a checkpoint, is there as deltas from the time it is read.
    bool shifts(size_t i) const { return !job_.stages[0]->traits.weights && !job_.inputs.experts[i].is_vector(); }

    /// Whether any of expert i's deltas in [from, from + count) isn't 0; most often the first one tells.
    bool moves(size_t i, uint64_t from, uint64_t count) const {
        const float* const values = input(i, from);
        if (job_.inputs.experts[i].is_vector() || shifts(i))
            return std::any_of(values, values + count, [](float value) { return value != 0; });
        return !std::equal(values, values + count, base_.get() + from);
    }

    /// Elements in the work, in the segment, and where the experts' values are; after a combine there is one.
    struct Part {
        uint64_t skip = 0, count = 0;
        std::vector<float*> live;
        bool weights = false;
        float* sources = nullptr;  ///< of the first expert's, where they are kept
        size_t stride = 0;         ///< from one expert's sources to the next one's
    };

    /// Takes [skip, skip + count) of what was read, for the first `stages` stages and the one after them.
    void start(uint64_t skip, uint64_t count, size_t stages) {
        begin({segment_.plan, segment_.first + skip, count});
        part_.skip = skip;
        part_.count = count;
        part_.weights = job_.stages[0]->traits.weights;
        part_.live.clear();
        part_.sources = nullptr;
        const bool sources = job_.needs_sources(stages);
        if (sources && !job_.keeps_inputs()) keep_sources(skip, count);
        for (size_t i = 0; i < experts_; ++i) {
            float* values = input(i, skip);
            const float* base = base_.get() + skip;
            if (!shifts(i)) {
                const bool vector = job_.inputs.experts[i].is_vector();
                const bool finite =
                    vector == part_.weights ? kernels::add(values, base, count) : kernels::finite(values, count);
                if (!finite) blame(i, skip, count);
            }
            part_.live.push_back(values);
        }
        if (sources && job_.keeps_inputs()) {
            part_.sources = input(0, skip);
            part_.stride = stride_;
        }
    }

    /// Runs stages [from, to) on the part. What they write goes into `memory`, or takes the place of what was read.
    void run(size_t from, size_t to, Floats& memory) {
        if (from == to) return;
        const uint64_t count = part_.count;
        const size_t rows = job_.rows(from, to), stride = stride_of(count);
        memory.need(rows * stride);
        spare_.clear();
        for (size_t r = 0; r < rows; ++r) spare_.push_back(memory.get() + r * stride);
        auto out_row = [&] {
            float* row = spare_.back();
            spare_.pop_back();
            // A value that the plugin forgets is found by this.
            std::fill_n(row, count, std::numeric_limits<float>::quiet_NaN());
            return row;
        };
        for (size_t s = from; s < to; ++s) {
            if (s > 0 && job_.options.cancel != nullptr) job_.options.cancel->check();
            const MergerTraits& traits = job_.stages[s]->traits;
            make(s);
            const bool together = traits.stage == Stage::kCombine || traits.all_experts;
            std::vector<float*>& live = part_.live;
            outs_.assign(live.size(), nullptr);
            if (!together) {
                for (size_t i = 0; i < live.size(); ++i) {
                    outs_[i] = out_row();
                    apply(s, i, 1, 1);
                    spare_.push_back(live[i]);
                }
            } else {
                const size_t results = traits.all_experts ? live.size() : 1;
                for (size_t i = 0; i < results; ++i) outs_[i] = out_row();
                apply(s, 0, live.size(), results);
                // After a combine the rows of the inputs may be those of sources: they stay as they are.
                if (traits.all_experts) spare_.insert(spare_.end(), live.begin(), live.end());
                outs_.resize(results);
            }
            live.assign(outs_.begin(), outs_.end());
        }
    }

    /// [from, from + count) of the part as weights, into `to`. Throws where it isn't finite.
    void merged(uint64_t from, uint64_t count, float* to) const {
        const float* values = part_.live[0] + from;
        bool finite = true;
        if (part_.weights) {
            std::copy_n(values, count, to);
            finite = kernels::finite(to, count);
        } else {
            finite = kernels::sum(base_.get() + part_.skip + from, values, to, count);
        }
        if (finite) return;
        const size_t i = first_not_finite({to, static_cast<size_t>(count)});
        throw Error(Code::kRunFailed, fmt::format("the merged tensor '{}' has {} at element {}",
                                                  segment_.plan->tensor->name, to[i], at_.first + from + i));
    }

    float* input(size_t i, uint64_t skip) const { return inputs_.get() + i * stride_ + skip; }

    void load(const SafetensorsFile& file, const TensorInfo& tensor, uint64_t first, uint64_t count, float* to) {
        if (tensor.dtype == DType::kF32)
            return file.read(tensor, first * sizeof(float), std::as_writable_bytes(std::span(to, count)));
        const size_t size = size_of(tensor.dtype);
        for (uint64_t done = 0; done < count; done += kChunkElements) {
            const uint64_t part = std::min(kChunkElements, count - done);
            raw_.resize(std::max<size_t>(raw_.size(), part * size));
            file.read(tensor, (first + done) * size, std::span(raw_).first(part * size));
            widen(tensor, raw_.data(), to + done, part);
        }
    }

    [[noreturn]] static void not_finite(const SafetensorsFile& file, const TensorInfo& tensor, uint64_t first,
                                        const float* values, uint64_t count) {
        const size_t i = first_not_finite({values, static_cast<size_t>(count)});
        throw Error(Code::kRunFailed,
                    fmt::format("tensor '{}' has {} at element {}", tensor.name, values[i], first + i),
                    {.file = file.path().string()});
    }

    /// Says what is wrong with expert i at [skip, skip + count): a value, or its sum with the base or difference to it.
    [[noreturn]] void blame(size_t i, uint64_t skip, uint64_t count) {
        const SafetensorsFile& file = job_.inputs.experts[i].file();
        const TensorInfo& tensor = *segment_.plan->experts[i];
        std::vector<float> values(count);
        load(file, tensor, segment_.first + skip, count, values.data());
        if (!kernels::finite(values.data(), count))
            not_finite(file, tensor, segment_.first + skip, values.data(), count);
        const bool vector = job_.inputs.experts[i].is_vector();
        for (size_t k = 0; k < count; ++k) values[k] += vector ? base_.get()[skip + k] : -base_.get()[skip + k];
        throw Error(
            Code::kRunFailed,
            fmt::format("tensor '{}': the {} the base at element {} exceeds float32", tensor.name,
                        vector ? "sum with" : "difference to", segment_.first + skip + first_not_finite(values)),
            {.file = file.path().string()});
    }

    /// Turns what is live into weights, or into deltas, as stage s takes it.
    void make(size_t s) {
        const bool weights = job_.stages[s]->traits.weights;
        if (part_.weights == weights) return;
        for (float* values : part_.live) {
            if ((weights ? kernels::add : kernels::subtract)(values, base_.get() + part_.skip, part_.count)) continue;
            const size_t k = first_not_finite({values, static_cast<size_t>(part_.count)});
            throw Error(Code::kRunFailed,
                        fmt::format("what comes to it, as {}, exceeds float32 at element {} of tensor '{}'",
                                    weights ? "weights" : "deltas", at_.first + k, segment_.plan->tensor->name),
                        {.plugin = job_.stages[s]->name});
        }
        part_.weights = weights;
    }

    /// What stage s is told of `count` experts from `from`.
    bph_merge_tile tile_for(size_t s, size_t from, size_t count) {
        const StageInstance& stage = *job_.stages[s];
        const Plan& plan = *segment_.plan;
        const MergeTensor& tensor = *plan.tensor;
        inputs_at_.clear();
        keys_.clear();
        source_pointers_.clear();
        if (stage.traits.needs_experts)
            for (size_t i = 0; i < experts_; ++i) source_pointers_.push_back(part_.sources + i * part_.stride);
        for (size_t i = from; i < from + count; ++i) {
            inputs_at_.push_back(part_.live[i]);
            if (stage.traits.random) keys_.push_back(mix(mix(stage.seed, plan.name_hash), i));
        }
        return {.struct_size = sizeof(bph_merge_tile),
                .expert_count = static_cast<uint32_t>(count),
                .tensor = {tensor.name.data(), tensor.name.size()},
                .role = {tensor.role.data(), tensor.role.size()},
                .block = tensor.block,
                .expert_index = count == 1 ? static_cast<uint32_t>(from) : 0,
                .offset = at_.first,
                .count = part_.count,
                .experts = inputs_at_.data(),
                .base = stage.traits.needs_base ? base_.get() + part_.skip : nullptr,
                .keys = stage.traits.random ? keys_.data() : nullptr,
                .shape = tensor.shape.data(),
                .rank = static_cast<uint32_t>(tensor.shape.size()),
                .observed = nullptr,
                .linalg = stage.traits.needs_linalg ? job_.options.linalg : nullptr,
                .sources = stage.traits.needs_experts ? source_pointers_.data() : nullptr,
                .source_count = static_cast<uint32_t>(source_pointers_.size()),
                .block_count = plan.blocks,
                .norms = stage.traits.needs_norms ? job_.norms.data() + from : nullptr};
    }

    /// Runs stage s on `count` experts from `from`, into as many `results`.
    void apply(size_t s, size_t from, size_t count, size_t results) {
        const StageInstance& stage = *job_.stages[s];
        const Plan& plan = *segment_.plan;
        bph_merge_tile tile = tile_for(s, from, count);
        if (stage.traits.all_experts)
            tile.outs = outs_.data();
        else
            tile.out = outs_[from];
        tile.observed = stage.observed();
        const bool matrix = stage.takes_matrix(plan.tensor->role);
        if (matrix) {
            tile.shape = plan.matrix.data();
            tile.rank = 2;
        }
        crash_.enter(stage.name.c_str());
        const bph_status status = stage.apply(call(s), tile, matrix);
        crash_.enter("");
        named([&] { call(s).check(status); });
        for (size_t r = from; r < from + results; ++r) {
            if (kernels::finite(outs_[r], part_.count)) continue;
            const size_t i = first_not_finite({outs_[r], static_cast<size_t>(part_.count)});
            throw Error(Code::kRunFailed,
                        fmt::format("gave {} at element {} of tensor '{}', expected finite values", outs_[r][i],
                                    at_.first + i, plan.tensor->name),
                        {.plugin = stage.name});
        }
    }

    /// Writes `count` results as the elements from `first` on.
    void put(SafetensorsWriter& writer, uint64_t first, uint64_t count) {
        const MergeTensor& tensor = *segment_.plan->tensor;
        if (tensor.out == DType::kF32) return writer.write_floats(tensor.name, first, {result_.get(), count});
        const size_t size = size_of(tensor.out);
        raw_.resize(std::max<size_t>(raw_.size(), count * size));
        kernels::narrow(tensor.out, result_.get(), raw_.data(), count);
        if (!kernels::narrow_is_finite(tensor.out, raw_.data(), count))
            for (size_t k = 0; k < count; ++k)
                if (!kernels::narrow_is_finite(tensor.out, raw_.data() + k * size, 1))
                    throw Error(Code::kRunFailed,
                                fmt::format("the merged tensor '{}' has {} at element {}, which {} can't hold; "
                                            "float32 can",
                                            tensor.name, result_.get()[k], first + k, to_string(tensor.out)));
        writer.write(tensor.name, first * size, std::span(raw_).first(count * size));
    }

    /// Copies the experts' deltas of a part, before any stage. What isn't finite is found by the one who goes on.
    void keep_sources(uint64_t skip, uint64_t count) {
        part_.stride = stride_of(count);
        part_.sources = sources_.need(experts_ * part_.stride);
        for (size_t i = 0; i < experts_; ++i) {
            float* to = part_.sources + i * part_.stride;
            std::copy_n(input(i, skip), count, to);
            if (!job_.inputs.experts[i].is_vector() && !shifts(i))
                static_cast<void>(kernels::subtract(to, base_.get() + skip, count));
        }
    }

    /// Errors get the tensor's name.
    template <class Body>
    void named(Body&& body) const {
        try {
            body();
        } catch (const Error& error) {
            if (error.code() == Code::kCancelled) throw;
            throw Error(error.code(),
                        fmt::format("{} (tensor '{}')", error.message().text, segment_.plan->tensor->name),
                        error.where());
        }
    }

    const Job& job_;
    const size_t experts_;
    CrashContext crash_;
    Floats inputs_, base_;     ///< of the segment, as read; inputs are overwritten by stages
    Floats scratch_, pieces_;  ///< what stages write of whole tensors, and of pieces
    Floats sources_;           ///< a part's experts as they were read, as deltas, where a stage needs them
    Floats result_, shown_;
    std::vector<std::byte> raw_;
    size_t stride_ = 0;  ///< of inputs_
    Part part_, whole_;
    std::vector<float*> spare_;  ///< rows to write into
    std::vector<std::unique_ptr<PluginCall>> calls_;
    std::vector<const float*> inputs_at_, source_pointers_;
    std::vector<float*> outs_;
    std::vector<uint64_t> keys_;
    Segment segment_{};
    Segment at_{};         ///< the part in the tensor; what logs belong to,
    uint64_t logged_ = 0;  ///< and how many it has
};

/// Tells a user where the merge is.
class Meter {
public:
    Meter(Progress* progress, uint64_t total) : progress_(progress), total_(total) {}
    void add(uint64_t bytes) { done_.fetch_add(bytes, std::memory_order_relaxed); }
    void tell() const {
        if (progress_ != nullptr) progress_->update(static_cast<double>(done_), static_cast<double>(total_), "bytes");
    }

private:
    Progress* progress_;
    uint64_t total_;
    alignas(64) std::atomic<uint64_t> done_{0};
};

/// Lets no more work begin than there is memory for.
class Gate {
public:
    explicit Gate(uint64_t limit) : limit_(limit) {}
    /// Waits until so much is left; what is alone may take any amount.
    void take(uint64_t bytes) {
        std::unique_lock lock(mutex_);
        given_.wait(lock, [&] { return taken_ == 0 || taken_ + bytes <= limit_; });
        taken_ += bytes;
    }
    void give(uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        taken_ -= bytes;
        given_.notify_all();
    }

private:
    const uint64_t limit_;
    uint64_t taken_ = 0;
    std::mutex mutex_;
    std::condition_variable given_;
};

/// What run_units() is told to do; all but the first may be empty.
struct Work {
    std::function<void(Worker&, uint64_t unit)> unit;
    std::function<void(uint64_t unit)> failed;          ///< on the thread where it happened
    std::function<uint64_t(uint64_t unit)> bytes = {};  ///< beyond those for tiles, which all threads have
    uint64_t limit = 0;                                 ///< of these bytes, for units at the same time
};

/// Does the units 0 … units - 1, on all threads. Of several errors the one of the first unit is thrown, so that with
/// tiles of the same size it doesn't depend on the threads: units are taken in order, and a unit once taken is
/// finished.
void run_units(const Job& job, uint64_t units, const Meter& meter, const Work& work) {
    uint64_t next = 0;
    std::atomic<bool> stop{false};
    std::mutex mutex, door;
    Gate gate(work.limit);
    uint64_t failed_unit = std::numeric_limits<uint64_t>::max();
    std::exception_ptr problem;
    auto fail = [&](uint64_t unit) {
        {
            const std::lock_guard lock(mutex);
            if (!problem || unit < failed_unit) {
                failed_unit = unit;
                problem = std::current_exception();
            }
            stop = true;
        }
        if (work.failed) work.failed(unit);
    };
    auto take = [&](size_t thread) {
        uint64_t unit = 0;
        try {
            Worker worker(job, thread);
            for (;;) {
                uint64_t bytes = 0;
                {
                    // Memory is given in the order of units, so that those which wait for earlier ones don't hold what
                    // these need.
                    const std::lock_guard lock(door);
                    if (stop || next == units) return;
                    unit = next++;
                    bytes = work.bytes ? work.bytes(unit) : 0;
                    if (bytes > 0) gate.take(bytes);
                }
                struct Return {
                    Gate& gate;
                    Worker& worker;
                    uint64_t bytes;
                    ~Return() {
                        if (bytes == 0) return;
                        worker.drop();
                        gate.give(bytes);
                    }
                } const back{gate, worker, bytes};
                if (job.options.cancel != nullptr) job.options.cancel->check();
                work.unit(worker, unit);
                if (thread == 0) meter.tell();
            }
        } catch (...) {
            fail(unit);
        }
    };
    {
        std::vector<std::jthread> helpers;
        const uint64_t threads = std::min<uint64_t>(job.threads, units);
        try {
            for (uint64_t i = 1; i < threads; ++i) helpers.emplace_back(take, i);
        } catch (const std::system_error&) {
            // The machine gives no more threads: those that run do the work.
        }
        take(0);
    }
    if (problem) std::rethrow_exception(problem);
}

/// What one thread sees at a time: blocks of segments, each block to a state of its own.
struct Showing {
    size_t first_block = 0;
    std::vector<std::vector<Segment>> blocks;
};

/// All tensors in blocks whose borders depend on their sizes alone: tensors are put together as long as they fit into a
/// block, and one that is larger is cut into blocks of its own. The blocks of a tensor that has to be whole before
/// stage `s` are seen by one thread.
std::vector<Showing> showings(const std::vector<Plan>& plans, size_t s, uint64_t block_elements) {
    std::vector<Showing> out;
    size_t blocks = 0;
    uint64_t filled = block_elements;  // of the last block
    for (const Plan& plan : plans) {
        const uint64_t elements = plan.elements();
        if (elements <= block_elements - filled) {
            out.back().blocks.back().push_back({&plan, 0, elements});
            filled += elements;
            continue;
        }
        for (uint64_t first = 0; first < elements; first += block_elements) {
            const std::vector<Segment> block = {{&plan, first, std::min(block_elements, elements - first)}};
            if (first == 0 || !plan.whole_before(s)) out.push_back({.first_block = blocks});
            out.back().blocks.push_back(block);
            ++blocks;
        }
        filled = elements <= block_elements ? elements : block_elements;
    }
    return out;
}

/// Lets blocks be joined in their order, each on the thread that has it; a thread that is early waits. So there is no
/// more than a state a thread and the joined one.
class InOrder {
public:
    /// Calls `body` when all blocks before have been taken; not at all where an earlier unit failed.
    template <class Body>
    void take(uint64_t unit, size_t block, Body&& body) {
        std::unique_lock lock(mutex_);
        turned_.wait(lock, [&] { return turn_ == block || failed_unit_ < unit; });
        if (turn_ != block) return;
        body();
        ++turn_;
        turned_.notify_all();
    }
    void failed(uint64_t unit) {
        const std::lock_guard lock(mutex_);
        failed_unit_ = std::min(failed_unit_, unit);
        turned_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable turned_;
    size_t turn_ = 0;
    uint64_t failed_unit_ = std::numeric_limits<uint64_t>::max();
};

/// Calls `body` with each tile of the segment.
template <class Body>
void for_tiles(const Segment& segment, uint64_t tile_elements, Body&& body) {
    for (uint64_t done = 0; done < segment.count; done += tile_elements)
        body(Segment{segment.plan, segment.first + done, std::min<uint64_t>(tile_elements, segment.count - done)});
}

/// Tiles of all tensors, whole ones (before stage `s`) first and by size, so that no thread is left alone with them.
class Tiles {
public:
    Tiles(const Job& job, size_t s, uint64_t tile_elements) : s_(s), tile_elements_(tile_elements) {
        for (const Plan& plan : job.plans) order_.push_back(&plan);
        std::stable_sort(order_.begin(), order_.end(), [&](const Plan* a, const Plan* b) {
            const uint64_t size_a = a->whole_before(s) ? a->elements() : 0;
            return size_a > (b->whole_before(s) ? b->elements() : 0);
        });
        for (const Plan* plan : order_) {
            first_.push_back(count_);
            count_ += (plan->elements() + size_for(*plan) - 1) / size_for(*plan);
        }
    }
    uint64_t count() const { return count_; }
    Segment operator[](uint64_t tile) const {
        const auto after = std::upper_bound(first_.begin(), first_.end(), tile);
        const auto at = static_cast<size_t>(after - first_.begin()) - 1;
        const Plan& plan = *order_[at];
        const uint64_t first = (tile - first_[at]) * size_for(plan);
        return {&plan, first, std::min<uint64_t>(size_for(plan), plan.elements() - first)};
    }

private:
    uint64_t size_for(const Plan& plan) const { return plan.whole_before(s_) ? plan.elements() : tile_elements_; }
    const size_t s_;
    const uint64_t tile_elements_;
    std::vector<const Plan*> order_;
    std::vector<uint64_t> first_;
    uint64_t count_ = 0;
};

/// Bytes that are read for an element of the plan.
uint64_t bytes_per_element(const Plan& plan, bool base) {
    uint64_t bytes = base ? size_of(plan.base->dtype) : 0;
    for (const TensorInfo* expert : plan.experts) bytes += size_of(expert->dtype);
    return bytes;
}

/// Bytes that are read for an element to know the length of expert i.
uint64_t squares_bytes(const Job& job, const Plan& plan, size_t i) {
    return size_of(plan.experts[i]->dtype) + (job.inputs.experts[i].is_vector() ? 0 : size_of(plan.base->dtype));
}

/// What the work on tiles of all threads takes, a thread, in bytes.
uint64_t tile_bytes(const Job& job, uint64_t tile) {
    const uint64_t experts = job.inputs.experts.size(), size = job.stages.size();
    const uint64_t piece = stride_of(std::min(tile, kPieceElements));
    uint64_t floats = experts * stride_of(tile) + tile + job.rows(0, size) * piece + std::min(tile, kChunkElements);
    if (job.needs_sources(size) && !job.keeps_inputs()) floats += experts * piece;
    if (job.options.observer != nullptr) floats += experts * stride_of(MergeObserver::kPiece);
    return floats * sizeof(float) + kChunkElements * sizeof(double);
}

/// What a stage takes to decompose a matrix, its own and LibTorch's, in double precision: of m × n with r = min(m, n) 8
/// mn and 6 r², and with more experts than r as if it had a row of each. iso-c and tsv-m were seen to stay within that.
uint64_t decomposing_bytes(const Plan& plan, uint64_t experts) {
    const uint64_t longer = std::max(plan.matrix[0], plan.matrix[1]);
    const uint64_t rows = std::max(std::min(plan.matrix[0], plan.matrix[1]), std::min(experts, longer));
    return (8 * rows * longer + 6 * rows * rows) * sizeof(double);
}

/// What a tensor takes beyond that where some of the first `stages` stages see it whole.
uint64_t whole_bytes(const Job& job, const Plan& plan, size_t stages) {
    if (!plan.whole_before(stages)) return 0;
    const uint64_t experts = job.inputs.experts.size(), stride = stride_of(plan.elements());
    uint64_t rows = experts + 1 + job.rows(0, plan.whole[stages]);
    if (job.needs_sources(stages) && !job.keeps_inputs()) rows += experts;
    uint64_t bytes = rows * stride * sizeof(float);
    for (size_t s = 0; s < stages; ++s)
        if (job.stages[s]->traits.needs_linalg && plan.whole[s + 1] == s + 1) bytes += decomposing_bytes(plan, experts);
    return bytes;
}

/// What units of work may take at the same time, where the largest of them takes `most`, and some are of whole tensors.
uint64_t limit_of(const Job& job, uint64_t most, bool whole) {
    return std::max(whole && !job.options.memory ? kWholeMemory : job.left, most);
}

uint64_t unit_bytes(const Job& job, const Showing& showing, size_t stages, bool observed, uint64_t more) {
    uint64_t bytes = more;
    for (const auto& block : showing.blocks) {
        uint64_t whole = 0;
        for (const Segment& segment : block) whole = std::max(whole, whole_bytes(job, *segment.plan, stages));
        bytes = std::max(bytes, whole + more + (observed ? job.options.observer->block_bytes(block.size()) : 0));
    }
    return bytes;
}

/// The work on tiles of a merge or pass, as run_units() wants it, but for the unit.
Work tile_work(const Job& job, const Tiles& tiles, size_t stages) {
    uint64_t most = 0;
    for (const Plan& plan : job.plans) most = std::max(most, whole_bytes(job, plan, stages));
    if (most == 0) return {};
    return {.bytes = [&job, &tiles, stages](uint64_t unit) { return whole_bytes(job, *tiles[unit].plan, stages); },
            .limit = limit_of(job, most, true)};
}

/// The same of blocks, each of which has a state of `more` bytes or is observed.
Work block_work(const Job& job, const std::vector<Showing>& units, size_t stages, bool observed, uint64_t more) {
    uint64_t most = 0;
    bool whole = false;
    for (const Showing& unit : units) {
        most = std::max(most, unit_bytes(job, unit, stages, observed, more));
        for (const Segment& segment : unit.blocks.front()) whole = whole || segment.plan->whole_before(stages);
    }
    if (most == 0) return {};
    return {.bytes = [&job, &units, stages, observed,
                      more](uint64_t unit) { return unit_bytes(job, units[unit], stages, observed, more); },
            .limit = limit_of(job, most, whole)};
}

/// States of a stage that join exactly: as many as fit into memory, one a thread at most.
size_t states_of(const Job& job, const StageInstance& stage, uint32_t pass) {
    const uint64_t each = stage.state_bytes(pass, job.inputs.experts.size());
    return each == 0 ? job.threads : std::clamp<uint64_t>(job.left / each, 1, job.threads);
}

/// Shows all tensors, as the stages before it leave them, to the global stage s, pass by pass.
void observe(const Job& job, size_t s, uint64_t tile_elements, Meter& meter) {
    StageInstance& stage = *job.stages[s];
    const PluginCall main_call(stage.name, stage.call_options());
    const bool base = job.needs_base_for(s);
    const size_t experts = stage.traits.stage == Stage::kPost ? 1 : job.inputs.experts.size();
    for (uint32_t pass = 0; pass < stage.traits.passes; ++pass) {
        std::unique_ptr<StageInstance::State> all;  // what has been joined so far
        auto join = [&](const PluginCall& call, std::unique_ptr<StageInstance::State> state) {
            if (all == nullptr)
                all = std::move(state);
            else if (state != nullptr)
                all->join(call, *state);
        };
        if (stage.traits.exact_join) {
            struct Shared {
                std::mutex mutex;
                std::unique_ptr<StageInstance::State> state;
            };
            std::vector<Shared> shared(states_of(job, stage, pass));
            const Tiles tiles(job, s, tile_elements);
            Work work = tile_work(job, tiles, s);
            work.unit = [&](Worker& worker, uint64_t unit) {
                const Segment tile = tiles[unit];
                worker.begin(tile);
                worker.read(tile, base);
                Shared& own = shared[worker.thread % shared.size()];
                worker.for_results(0, tile.count, s, [&](uint64_t, uint64_t) {
                    const std::lock_guard lock(own.mutex);
                    if (own.state == nullptr)
                        own.state = std::make_unique<StageInstance::State>(stage, worker.call(s), pass, experts);
                    worker.show(s, *own.state);
                });
                meter.add(tile.count * bytes_per_element(*tile.plan, base));
            };
            run_units(job, tiles.count(), meter, work);
            for (Shared& own : shared) join(main_call, std::move(own.state));
        } else {
            const std::vector<Showing> units = showings(job.plans, s, kBlockElements);
            InOrder order;
            Work work = block_work(job, units, s, false, stage.state_bytes(pass, experts));
            work.unit = [&](Worker& worker, uint64_t unit) {
                const Showing& showing = units[unit];
                for (size_t b = 0; b < showing.blocks.size(); ++b) {
                    worker.begin(showing.blocks[b].front());
                    auto state = std::make_unique<StageInstance::State>(stage, worker.call(s), pass, experts);
                    for (const Segment& segment : showing.blocks[b]) {
                        const Plan& plan = *segment.plan;
                        const bool whole = plan.whole_before(s);
                        if (whole && segment.first == 0) worker.read({&plan, 0, plan.elements()}, base);
                        for_tiles(segment, tile_elements, [&](const Segment& tile) {
                            if (job.options.cancel != nullptr) job.options.cancel->check();
                            if (!whole) worker.read(tile, base);
                            worker.for_results(whole ? tile.first : 0, tile.count, s,
                                               [&](uint64_t, uint64_t) { worker.show(s, *state); });
                            meter.add(tile.count * bytes_per_element(plan, base));
                        });
                    }
                    order.take(unit, showing.first_block + b, [&] { join(worker.call(s), std::move(state)); });
                }
            };
            work.failed = [&](uint64_t unit) { order.failed(unit); };
            run_units(job, units.size(), meter, work);
        }
        if (all == nullptr)  // there is no tensor to be shown
            all = std::make_unique<StageInstance::State>(stage, main_call, pass, experts);
        stage.end(main_call, std::move(all));
    }
}

/// Finds the lengths of the experts that aren't known, and remembers them.
void measure(Job& job, uint64_t tile_elements, Meter& meter) {
    std::vector<size_t> unknown;
    for (size_t i = 0; i < job.squares.size(); ++i)
        if (job.squares[i].empty()) unknown.push_back(i);
    const std::vector<Showing> units = showings(job.plans, 0, kSquaresBlock);
    std::vector<std::vector<double>> found(units.size());  // by segment and expert
    run_units(job, unknown.empty() ? 0 : units.size(), meter, {.unit = [&](Worker& worker, uint64_t unit) {
                  for (const Segment& segment : units[unit].blocks.front())
                      for (const size_t i : unknown) {
                          std::array<double, kernels::kLanes> lanes{};
                          for_tiles(segment, tile_elements, [&](const Segment& tile) {
                              if (job.options.cancel != nullptr) job.options.cancel->check();
                              worker.add_squares(tile, i, lanes.data());
                          });
                          found[unit].push_back(kernels::sum_of_lanes(lanes.data()));
                          meter.add(segment.count * squares_bytes(job, *segment.plan, i));
                      }
              }});
    for (size_t unit = 0; unit < units.size(); ++unit) {
        size_t at = 0;
        for (const Segment& segment : units[unit].blocks.front())
            for (const size_t i : unknown) job.squares[i][segment.plan->tensor->name] += found[unit][at++];
    }
    for (const size_t i : unknown) {
        const MergeExpert& expert = job.inputs.experts[i];
        remember_squares(expert.file(), expert.is_vector() ? nullptr : job.inputs.base.get(), job.squares[i]);
    }
    for (const auto& squares : job.squares) {
        double sum = 0;
        for (const Plan& plan : job.plans) sum += squares.at(plan.tensor->name);
        job.norms.push_back(std::sqrt(sum));
    }
}

/// Merges all tensors.
void write_merged(const Job& job, uint64_t tile_elements, SafetensorsWriter& writer, Meter& meter) {
    const Tiles tiles(job, job.stages.size(), tile_elements);
    Work work = tile_work(job, tiles, job.stages.size());
    work.unit = [&](Worker& worker, uint64_t unit) {
        const Segment tile = tiles[unit];
        worker.read(tile, true);
        worker.write(writer, 0, tile.count);
        meter.add(tile.count * (bytes_per_element(*tile.plan, true) + size_of(tile.plan->tensor->out)));
    };
    run_units(job, tiles.count(), meter, work);
}

/// Elements of a tile where the inputs are observed, too.
uint64_t observed_tile(uint64_t tile_elements) {
    return (tile_elements + MergeObserver::kPiece - 1) / MergeObserver::kPiece * MergeObserver::kPiece;
}

/// How the blocks of an observed merge are worked on.
struct Observed {
    std::vector<Showing> units;  ///< whole tensors first and by size, as in Tiles, where no block waits for another
    size_t blocks = 0;
    uint64_t kept = 0;  ///< bytes of all blocks, where they are kept until the end; else 0, and joined in their order

    explicit Observed(const Job& job) : units(showings(job.plans, job.stages.size(), MergeObserver::kBlock)) {
        for (const Showing& unit : units)
            for (const auto& block : unit.blocks) {
                kept += job.options.observer->block_bytes(block.size());
                ++blocks;
            }
        if (kept > kKeptBlocks) {
            kept = 0;
            return;
        }
        kept = std::max<uint64_t>(kept, 1);
        std::stable_sort(units.begin(), units.end(), [&](const Showing& a, const Showing& b) {
            return whole_bytes(job, *a.blocks[0][0].plan, job.stages.size()) >
                   whole_bytes(job, *b.blocks[0][0].plan, job.stages.size());
        });
    }
};

/// Merges all tensors, and shows them to the observer on the way.
void write_observed(const Job& job, uint64_t tile_elements, SafetensorsWriter& writer, Meter& meter) {
    MergeObserver& observer = *job.options.observer;
    const Observed observed(job);
    const std::vector<Showing>& units = observed.units;
    std::vector<std::unique_ptr<MergeObserver::Block>> kept(observed.kept > 0 ? observed.blocks : 0);
    InOrder order;
    Work work = block_work(job, units, job.stages.size(), observed.kept == 0, 0);
    work.unit = [&](Worker& worker, uint64_t unit) {
        const Showing& showing = units[unit];
        for (size_t b = 0; b < showing.blocks.size(); ++b) {
            std::unique_ptr<MergeObserver::Block> block = observer.make_block();
            for (const Segment& segment : showing.blocks[b]) {
                const Plan& plan = *segment.plan;
                const bool whole = plan.whole_before(job.stages.size());
                if (whole && segment.first == 0) worker.read({&plan, 0, plan.elements()}, true);
                for_tiles(segment, observed_tile(tile_elements), [&](const Segment& tile) {
                    if (job.options.cancel != nullptr) job.options.cancel->check();
                    if (!whole) worker.read(tile, true);
                    worker.show_inputs(whole ? tile.first : 0, tile.count, *block);
                    if (!whole)
                        worker.write(writer, 0, tile.count);
                    else if (tile.first + tile.count == plan.elements())
                        worker.write(writer, 0, plan.elements());
                    meter.add(tile.count * (bytes_per_element(plan, true) + size_of(plan.tensor->out)));
                });
            }
            if (!kept.empty())
                kept[showing.first_block + b] = std::move(block);
            else
                order.take(unit, showing.first_block + b, [&] { observer.join(std::move(block)); });
        }
    };
    work.failed = [&](uint64_t unit) { order.failed(unit); };
    run_units(job, units.size(), meter, work);
    for (auto& block : kept) observer.join(std::move(block));
}

/// As many elements as keep the tiles of all experts, of base, stage and result in about twice a second-level cache,
/// which is a thread's share of the third level or less, and within this memory. Smaller tiles cost more calls of the
/// kernel, and more waiting of threads that write to one file, than the nearer cache saves.
size_t good_tile(size_t experts, uint64_t bytes_of_thread) {
    const long cache = ::sysconf(_SC_LEVEL2_CACHE_SIZE);
    const size_t bytes = cache >= (256L << 10) ? static_cast<size_t>(cache) : size_t{1} << 20;
    const size_t most = std::max<size_t>(bytes_of_thread / sizeof(float) / (experts + 2), 1024);
    return std::min(std::clamp(bytes * 2 / sizeof(float) / (experts + 2), size_t{4096}, size_t{49152}), most) / 1024 *
           1024;
}

/// A floating tensor of the base, as all files have it.
Plan plan_of(const Job& job, const MergeTensor& tensor, size_t index) {
    Plan plan{.tensor = &tensor,
              .index = index,
              .base = &job.inputs.base->require(tensor.name),
              .name_hash = hash_of(tensor.name)};
    plan.matrix[0] = tensor.shape.empty() ? 1 : tensor.shape[0];
    plan.matrix[1] = tensor.elements / plan.matrix[0];
    plan.whole.assign(job.stages.size() + 1, 0);
    for (size_t s = 0; s < job.stages.size(); ++s)
        plan.whole[s + 1] = job.stages[s]->takes_whole(tensor.role) ? s + 1 : plan.whole[s];
    for (const MergeExpert& expert : job.inputs.experts) plan.experts.push_back(&expert.file().require(tensor.name));
    return plan;
}

/// Decides on tiles and threads; returns the bytes that are in use at most.
uint64_t plan_memory(MergePlan& plan, Job& job) {
    const uint64_t budget = job.options.memory.value_or(kMemory), experts = plan.experts.size();
    if (!job.options.tile_elements) plan.tile_elements = good_tile(experts, budget / 4 / plan.threads);
    const uint64_t tile = job.options.observer == nullptr ? plan.tile_elements : observed_tile(plan.tile_elements);
    const uint64_t each = tile_bytes(job, tile);
    job.threads = static_cast<unsigned>(std::clamp<uint64_t>(budget / 2 / each, 1, plan.threads));
    const uint64_t kept = job.options.observer == nullptr ? 0 : job.options.observer->bytes() + Observed(job).kept;
    job.left = budget - std::min(budget, job.threads * each + kept);
    uint64_t most = 0;  // at a time, beyond tiles
    auto count = [&](const Work& work, uint64_t units) {
        std::vector<uint64_t> bytes;
        for (uint64_t unit = 0; work.bytes && unit < units; ++unit) bytes.push_back(work.bytes(unit));
        const size_t together = std::min<size_t>(job.threads, bytes.size());
        std::partial_sort(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(together), bytes.end(),
                          std::greater<>());
        most = std::max(
            most,
            std::min(work.limit, std::accumulate(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(together),
                                                 uint64_t{0})));
    };
    for (size_t s = 0; s < job.stages.size(); ++s) {
        const StageInstance& stage = *job.stages[s];
        for (uint32_t pass = 0; pass < stage.traits.passes; ++pass) {
            const uint64_t state = stage.state_bytes(pass, experts);
            if (stage.traits.exact_join) {
                const Tiles tiles(job, s, tile);
                const uint64_t before = std::exchange(most, 0);
                count(tile_work(job, tiles, s), tiles.count());
                most = std::max(before, most + state * states_of(job, stage, pass));
            } else {
                const std::vector<Showing> units = showings(job.plans, s, kBlockElements);
                count(block_work(job, units, s, false, state), units.size());
            }
        }
    }
    if (job.options.observer != nullptr) {
        const Observed observed(job);
        count(block_work(job, observed.units, job.stages.size(), observed.kept == 0, 0), observed.units.size());
    } else {
        const Tiles tiles(job, job.stages.size(), tile);
        count(tile_work(job, tiles, job.stages.size()), tiles.count());
    }
    return job.threads * each + kept + most;
}

void check_space(const fs::path& out, uint64_t bytes) {
    fs::path folder = fs::absolute(out).parent_path();
    std::error_code problem;
    while (!fs::exists(folder, problem) && folder.has_relative_path()) folder = folder.parent_path();
    if (!fs::is_directory(folder, problem))
        throw Error(Code::kInvalid, fmt::format("{} is no folder", folder.string()), {.file = out.string()});
    if (::access(folder.c_str(), W_OK) != 0)
        throw Error(Code::kRunFailed, fmt::format("can't write into {}", folder.string()), {.file = out.string()});
    const fs::space_info space = fs::space(folder, problem);
    if (!problem && space.available < bytes)
        throw Error(Code::kRunFailed, fmt::format("takes {} bytes, but {} are free", bytes, space.available),
                    {.file = out.string()});
}

}  // namespace

MergePlan::MergePlan() = default;
MergePlan::~MergePlan() = default;
MergePlan::MergePlan(MergePlan&&) noexcept = default;

void MergePlan::tell_log() {
    if (state->options.log) state->book.tell(state->options.log);
}

namespace {

DType out_type(const Job& job, const TensorInfo& tensor) {
    return job.merges(tensor) ? job.options.dtype.value_or(tensor.dtype) : tensor.dtype;
}

void fill_plan(MergePlan& plan, const std::vector<fs::path>& experts, const std::vector<MergeStage>& stages) {
    Job& job = *plan.state;
    size_t bad = 0;
    if (const std::string what = check_stages(stages, bad, experts.size()); !what.empty())
        throw Error(Code::kInvalid, fmt::format("stage {}: {}", bad, what));
    if (experts.empty())
        throw Error(Code::kInvalid, "there are no task vectors or checkpoints to merge, expected one or more");
    if (job.options.tile_elements == size_t{0})
        throw Error(Code::kInvalid, "a tile has 0 elements, expected 1 or more");
    for (size_t i = 0; i < stages.size(); ++i) {
        job.stages.push_back(std::make_unique<StageInstance>(stages[i], i, job.options, job.book));
        plan.stages.push_back(job.stages.back()->name);
    }
    job.inputs = open_inputs(plan.base, experts, plan.out, job.options.threads, job.options.digests);
    const MergeInputs& inputs = job.inputs;
    plan.encoder = inputs.card.has_value();
    plan.base_digest = inputs.base_digest;
    plan.threads = std::max(job.options.threads, 1U);
    plan.tile_elements = job.options.tile_elements.value_or(0);
    for (const MergeExpert& expert : inputs.experts) {
        plan.experts.push_back(
            {.path = expert.file().path(),
             .kind = expert.is_vector() ? MergePlan::Kind::kTaskVector : MergePlan::Kind::kCheckpoint});
        for (const TensorInfo& tensor : expert.file().tensors()) plan.experts.back().bytes += tensor.bytes();
        if (job.options.digests) plan.experts.back().digest = inputs.digests[plan.experts.size() - 1];
    }

    MergeReport& totals = plan.totals;
    totals.bytes_read = inputs.bytes_hashed;
    for (const TensorInfo& tensor : inputs.base->tensors()) {
        const DType out = out_type(job, tensor);
        totals.bytes_written += tensor.elements() * size_of(out);
        if (!job.merges(tensor) || tensor.elements() == 0) {
            ++plan.copied;
            totals.bytes_read += tensor.bytes();
            continue;
        }
        const TensorRole role = inputs.card ? role_of(tensor, *inputs.card) : role_of(tensor);
        plan.tensors.push_back({.name = tensor.name,
                                .role = role.kind,
                                .block = role.block,
                                .shape = {tensor.shape.begin(), tensor.shape.end()},
                                .elements = tensor.elements(),
                                .dtype = tensor.dtype,
                                .out = out});
        ++totals.tensors;
        totals.elements += tensor.elements();
    }
    int32_t last_block = -1;
    for (const MergeTensor& tensor : plan.tensors) last_block = std::max(last_block, tensor.block);
    if (const std::string what = check_blocks(stages, bad, static_cast<size_t>(int64_t{last_block} + 1)); !what.empty())
        throw Error(Code::kInvalid, fmt::format("stage {}: {}", bad, what));
    uint64_t pieces = 0;
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
        job.plans.push_back(plan_of(job, plan.tensors[i], i));
        job.plans.back().blocks = static_cast<uint32_t>(last_block) + 1;
        job.plans.back().first_piece = pieces;
        pieces += (plan.tensors[i].elements + MergeObserver::kPiece - 1) / MergeObserver::kPiece;
        const Plan& tensor = job.plans.back();
        totals.bytes_read += tensor.elements() * bytes_per_element(tensor, true);
        for (size_t s = 0; s < job.stages.size(); ++s)
            totals.bytes_read +=
                job.stages[s]->traits.passes * tensor.elements() * bytes_per_element(tensor, job.needs_base_for(s));
    }
    for (const auto& stage : job.stages) {
        plan.passes += stage->traits.passes;
        if (stage->traits.scope == Scope::kMatrix &&
            std::none_of(plan.tensors.begin(), plan.tensors.end(),
                         [&](const MergeTensor& tensor) { return stage->takes_matrix(tensor.role); }))
            stage->log(BPH_LOG_WARNING,
                       fmt::format("no tensor has a role in [{}]; it does only its rule for others",
                                   fmt::join(stage->traits.roles, ", ")),
                       {});
    }
    if (job.needs_norms()) {
        bool all = true;
        for (size_t i = 0; i < inputs.experts.size(); ++i) {
            const MergeExpert& expert = inputs.experts[i];
            std::map<std::string, double>& squares = job.squares.emplace_back(
                remembered_squares(expert.file(), expert.is_vector() ? nullptr : inputs.base.get()));
            for (const MergeTensor& tensor : plan.tensors)
                if (!squares.contains(tensor.name)) squares.clear();
            if (!squares.empty()) continue;
            all = false;
            for (const Plan& tensor : job.plans) totals.bytes_read += tensor.elements() * squares_bytes(job, tensor, i);
        }
        plan.passes += all ? 0 : 1;
    }
    if (job.options.observer != nullptr) job.options.observer->begin(plan);
    plan.memory = plan_memory(plan, job);
    plan.threads = job.threads;
    check_space(plan.out, totals.bytes_written);
}

MergeReport do_merge(MergePlan& plan) {
    Job& job = *plan.state;
    const SafetensorsFile& base = *job.inputs.base;
    const MergeReport& totals = plan.totals;
    std::vector<SafetensorsWriter::Tensor> announced;
    for (const TensorInfo& tensor : base.tensors())
        announced.push_back({tensor.name, out_type(job, tensor), tensor.shape});
    // The card of an encoder stands; another base's metadata gives way to what is said of this merge.
    std::map<std::string, std::string> metadata = job.inputs.card ? job.inputs.card->to_metadata() : plan.metadata;
    const auto& more = job.inputs.card ? plan.metadata : base.metadata();
    metadata.insert(more.begin(), more.end());

    Meter meter(job.options.progress, totals.bytes_read + totals.bytes_written);
    meter.add(job.inputs.bytes_hashed);
    SafetensorsWriter writer(plan.out, std::move(announced), metadata);
    std::vector<std::byte> buffer(1 << 18);
    for (const TensorInfo& tensor : base.tensors()) {
        if (job.merges(tensor)) continue;
        for (uint64_t done = 0; done < tensor.bytes();) {
            const auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), tensor.bytes() - done));
            base.read(tensor, done, part);
            writer.write(tensor.name, done, part);
            done += part.size();
        }
        meter.add(2 * tensor.bytes());
    }
    meter.tell();
    if (job.needs_norms()) measure(job, plan.tile_elements, meter);
    for (size_t s = 0; s < job.stages.size(); ++s)
        if (job.stages[s]->traits.scope == Scope::kGlobal) observe(job, s, plan.tile_elements, meter);
    (job.options.observer != nullptr ? write_observed : write_merged)(job, plan.tile_elements, writer, meter);

    auto check_unchanged = [](const SafetensorsFile& file) {
        const SafetensorsFile::Identity now = file.identity();
        if (now.size != file.opened().size || now.modified != file.opened().modified)
            throw Error(Code::kRunFailed, "was changed while it was being merged", {.file = file.path().string()});
    };
    check_unchanged(base);
    for (const MergeExpert& expert : job.inputs.experts) check_unchanged(expert.file());
    writer.finish();
    meter.tell();
    return totals;
}

}  // namespace

MergePlan plan_merge(const fs::path& base, const std::vector<fs::path>& experts, const std::vector<MergeStage>& stages,
                     const fs::path& out, const MergeOptions& options) {
    MergePlan plan;
    plan.base = base;
    plan.out = out;
    plan.metadata = options.metadata;
    plan.state = std::make_unique<MergePlan::State>();
    plan.state->options = options;
    try {
        fill_plan(plan, experts, stages);
    } catch (...) {
        plan.tell_log();
        throw;
    }
    return plan;
}

MergeReport run_merge(MergePlan& plan) {
    try {
        const MergeReport report = do_merge(plan);
        plan.tell_log();
        return report;
    } catch (...) {
        // What led to it, as far as the threads had come.
        plan.tell_log();
        throw;
    }
}

MergeReport merge(const fs::path& base, const std::vector<fs::path>& experts, const std::vector<MergeStage>& stages,
                  const fs::path& out, const MergeOptions& options) {
    MergePlan plan = plan_merge(base, experts, stages, out, options);
    return run_merge(plan);
}

}  // namespace biophony
