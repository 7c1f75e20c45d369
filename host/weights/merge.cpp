#include "weights/merge.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>

#include "base/random.hpp"
#include "weights/finite.hpp"
#include "weights/kernels.hpp"
#include "weights/merge_inputs.hpp"
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

/// A floating tensor in all files.
struct Plan {
    const MergeTensor* tensor = nullptr;
    size_t index = 0;
    const TensorInfo* base = nullptr;
    std::vector<const TensorInfo*> experts;
    std::array<uint64_t, 2> matrix{};  ///< rows, columns
    uint64_t name_hash = 0;
    uint32_t blocks = 0;    ///< of the encoder
    size_t whole_from = 0;  ///< the first stage that must see the tensor whole; the number of stages where none must

    bool whole_before(size_t stage) const { return whole_from < stage; }
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

    /// The first stage that needs the experts as they were read; the number of stages where none does.
    size_t sources_from() const {
        size_t s = 0;
        while (s < stages.size() && !stages[s]->traits.needs_experts) ++s;
        return s;
    }
};

namespace {

using Job = MergePlan::State;

/// Consecutive elements of one tensor.
struct Segment {
    const Plan* plan;
    uint64_t first, count;
};

/// Memory for floats that grows. What is new is NaN, so that a value that nobody writes is found.
class Floats {
public:
    float* need(size_t count) {
        if (count <= size_) return data_.get();
        data_.reset(static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64)));
        size_ = data_ == nullptr ? 0 : count;
        if (data_ == nullptr) throw std::bad_alloc();
        std::fill_n(data_.get(), count, std::numeric_limits<float>::quiet_NaN());
        return data_.get();
    }
    float* get() const { return data_.get(); }

private:
    struct Free {
        void operator()(float* data) const { std::free(data); }
    };
    std::unique_ptr<float, Free> data_;
    size_t size_ = 0;
};

/// The distance of experts' values in memory: odd enough that they don't all fall on the same lines of a cache.
size_t stride_of(uint64_t count) {
    return (static_cast<size_t>(count) + 15) / 16 * 16 + 80;
}

/// One thread's buffers and calls. Works on one segment at a time.
class Worker {
public:
    explicit Worker(const Job& job)
        : job_(job),
          experts_(job.inputs.experts.size()),
          crash_("", job.options.node),
          live_(experts_),
          sources_from_(job.sources_from()) {
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

    /// Reads the segment of all experts, and of the base where that is asked for.
    void read(const Segment& segment, bool base) {
        segment_ = segment;
        stride_ = stride_of(segment.count);
        inputs_.need(experts_ * stride_);
        if (base) {
            load(*job_.inputs.base, *segment.plan->base, segment.first, segment.count, base_.need(segment.count));
            if (!kernels::finite(base_.get(), segment.count))
                not_finite(*job_.inputs.base, *segment.plan->base, segment.first, base_.get(), segment.count);
        }
        for (size_t i = 0; i < experts_; ++i)
            load(job_.inputs.experts[i].file(), *segment.plan->experts[i], segment.first, segment.count, input(i, 0));
    }

    /// Shows [skip, skip + count) of what was read, before any stage. `skip` is a multiple of the observer's pieces.
    void show_inputs(uint64_t skip, uint64_t count, MergeObserver::Block& block) {
        for (uint64_t done = 0; done < count; done += MergeObserver::kPiece) {
            const uint64_t from = skip + done, part = std::min(MergeObserver::kPiece, count - done);
            const size_t stride = stride_of(MergeObserver::kPiece);
            inputs_at_.clear();
            for (size_t i = 0; i < experts_; ++i) {
                const float* values = input(i, from);
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

    /// Runs the first `stages` stages on [skip, skip + count) of what was read. Once for each part.
    void run(uint64_t skip, uint64_t count, size_t stages) {
        begin({segment_.plan, segment_.first + skip, count});
        skip_ = skip;
        count_ = count;
        weights_ = job_.stages[0]->traits.weights;
        const float* base = base_.get() + skip;
        // For a stage that runs, or the one that run() goes before.
        if (sources_from_ < job_.stages.size() && sources_from_ <= stages) keep_sources(skip, count);
        for (size_t i = 0; i < experts_; ++i) {
            live_[i] = input(i, skip);
            const bool vector = job_.inputs.experts[i].is_vector();
            const bool finite = vector != weights_ ? kernels::finite(live_[i], count)
                                : vector           ? kernels::add(live_[i], base, count)
                                                   : kernels::subtract(live_[i], base, count);
            if (!finite) blame(i, skip, count);
        }
        alive_ = experts_;
        in_scratch_ = false;
        for (size_t s = 0; s < stages; ++s) {
            if (s > 0 && job_.options.cancel != nullptr) job_.options.cancel->check();
            const MergerTraits& traits = job_.stages[s]->traits;
            make(s);
            outs_.clear();
            const size_t results = traits.stage == Stage::kCombine ? 1 : alive_;
            for (size_t i = 0; i < results; ++i) {
                outs_.push_back(in_scratch_ ? input(i, skip) : scratch(i));
                // A value that the plugin forgets is found below.
                std::fill_n(outs_[i], count, std::numeric_limits<float>::quiet_NaN());
            }
            if (traits.stage == Stage::kCombine || traits.all_experts) {
                apply(s, 0, alive_, results);
            } else {
                for (size_t i = 0; i < alive_; ++i) apply(s, i, 1, 1);
            }
            alive_ = results;
            std::copy_n(outs_.begin(), results, live_.begin());
            in_scratch_ = !in_scratch_;
        }
    }

    /// What run() left at [from, from + count) of its part, as weights, into `to`. Throws where it isn't finite.
    void merged(uint64_t from, uint64_t count, float* to) const {
        const float* values = live_[0] + from;
        bool finite = true;
        if (weights_) {
            std::copy_n(values, count, to);
            finite = kernels::finite(to, count);
        } else {
            finite = kernels::sum(base_.get() + skip_ + from, values, to, count);
        }
        if (finite) return;
        const size_t i = first_not_finite({to, static_cast<size_t>(count)});
        throw Error(Code::kRunFailed, fmt::format("the merged tensor '{}' has {} at element {}",
                                                  segment_.plan->tensor->name, to[i], at_.first + from + i));
    }

    /// Merges all of what was read and writes it.
    void write(SafetensorsWriter& writer) {
        const uint64_t piece = segment_.plan->whole_before(job_.stages.size())
                                   ? segment_.count
                                   : std::min<uint64_t>(kPieceElements, segment_.count);
        const uint64_t capacity = piece > kChunkElements ? kChunkElements : segment_.count;
        float* result = result_.need(capacity);
        uint64_t filled = 0, written = 0;
        for (uint64_t skip = 0; skip < segment_.count; skip += piece) {
            const uint64_t count = std::min(piece, segment_.count - skip);
            run(skip, count, job_.stages.size());
            for (uint64_t from = 0; from < count;) {
                const uint64_t part = std::min(count - from, capacity - filled);
                merged(from, part, result + filled);
                from += part;
                filled += part;
                if (filled < capacity && skip + from < segment_.count) continue;
                put(writer, segment_.first + written, filled);
                written += filled;
                filled = 0;
            }
        }
    }

    /// Shows a part of what run() left to a global stage: as to `element`, so experts one by one where it sees one.
    void show(size_t s, uint64_t first, uint64_t count, StageInstance::State& to) {
        const MergerTraits& traits = job_.stages[s]->traits;
        make(s);
        const bool together = traits.stage == Stage::kCombine || traits.all_experts;
        const size_t each = together ? alive_ : 1;
        for (size_t from = 0; from < alive_; from += each) {
            const bph_merge_tile tile = tile_for(s, from, each, first - at_.first, count);
            crash_.enter(job_.stages[s]->name.c_str());
            const bph_status status = to.see(call(s), tile);
            crash_.enter("");
            named([&] { call(s).check(status); });
        }
    }

    /// Of a stage whose states join exactly: what this thread has seen.
    std::unique_ptr<StageInstance::State> state;

private:
    float* input(size_t i, uint64_t skip) const { return inputs_.get() + i * stride_ + skip; }
    float* scratch(size_t i) {
        const size_t stride = stride_of(count_);
        return scratch_.need(experts_ * stride) + i * stride;
    }

    void load(const SafetensorsFile& file, const TensorInfo& tensor, uint64_t first, uint64_t count, float* to) {
        if (tensor.dtype == DType::kF32)
            return file.read(tensor, first * sizeof(float), std::as_writable_bytes(std::span(to, count)));
        const size_t size = size_of(tensor.dtype);
        for (uint64_t done = 0; done < count; done += kChunkElements) {
            const uint64_t part = std::min(kChunkElements, count - done);
            raw_.resize(std::max<size_t>(raw_.size(), part * size));
            file.read(tensor, (first + done) * size, std::span(raw_).first(part * size));
            kernels::widen(tensor.dtype, raw_.data(), to + done, part);
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
        if (weights_ == weights) return;
        for (size_t i = 0; i < alive_; ++i) {
            if ((weights ? kernels::add : kernels::subtract)(live_[i], base_.get() + skip_, count_)) continue;
            const size_t k = first_not_finite({live_[i], static_cast<size_t>(count_)});
            throw Error(Code::kRunFailed,
                        fmt::format("what comes to it, as {}, exceeds float32 at element {} of tensor '{}'",
                                    weights ? "weights" : "deltas", at_.first + k, segment_.plan->tensor->name),
                        {.plugin = job_.stages[s]->name});
        }
        weights_ = weights;
    }

    /// What stage s is told of `count` experts from `from`, and of the elements [skip, skip + elements) of the part.
    bph_merge_tile tile_for(size_t s, size_t from, size_t count, uint64_t skip, uint64_t elements) {
        const StageInstance& stage = *job_.stages[s];
        const Plan& plan = *segment_.plan;
        const MergeTensor& tensor = *plan.tensor;
        inputs_at_.clear();
        keys_.clear();
        source_pointers_.clear();
        if (stage.traits.needs_experts)
            for (size_t i = 0; i < experts_; ++i) source_pointers_.push_back(sources_.get() + i * stride_ + skip);
        for (size_t i = from; i < from + count; ++i) {
            inputs_at_.push_back(live_[i] + skip);
            if (stage.traits.random) keys_.push_back(mix(mix(stage.seed, plan.name_hash), i));
        }
        return {.struct_size = sizeof(bph_merge_tile),
                .expert_count = static_cast<uint32_t>(count),
                .tensor = {tensor.name.data(), tensor.name.size()},
                .role = {tensor.role.data(), tensor.role.size()},
                .block = tensor.block,
                .expert_index = count == 1 ? static_cast<uint32_t>(from) : 0,
                .offset = at_.first + skip,
                .count = elements,
                .experts = inputs_at_.data(),
                .base = stage.traits.needs_base ? base_.get() + skip_ + skip : nullptr,
                .keys = stage.traits.random ? keys_.data() : nullptr,
                .shape = tensor.shape.data(),
                .rank = static_cast<uint32_t>(tensor.shape.size()),
                .observed = nullptr,
                .linalg = stage.traits.needs_linalg ? job_.options.linalg : nullptr,
                .sources = stage.traits.needs_experts ? source_pointers_.data() : nullptr,
                .source_count = static_cast<uint32_t>(source_pointers_.size()),
                .block_count = plan.blocks};
    }

    /// Runs stage s on `count` experts from `from`, into as many `results`.
    void apply(size_t s, size_t from, size_t count, size_t results) {
        const StageInstance& stage = *job_.stages[s];
        const Plan& plan = *segment_.plan;
        bph_merge_tile tile = tile_for(s, from, count, 0, count_);
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
            if (kernels::finite(outs_[r], count_)) continue;
            const size_t i = first_not_finite({outs_[r], static_cast<size_t>(count_)});
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
        sources_.need(experts_ * stride_);
        for (size_t i = 0; i < experts_; ++i) {
            float* to = sources_.get() + i * stride_;
            std::copy_n(input(i, skip), count, to);
            if (!job_.inputs.experts[i].is_vector())
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
            throw Error(error.code(), fmt::format("{} (tensor '{}')", error.message(), segment_.plan->tensor->name),
                        error.where());
        }
    }

    const Job& job_;
    const size_t experts_;
    CrashContext crash_;
    Floats inputs_, base_;  ///< of the segment, as read; inputs are overwritten by stages
    Floats scratch_;        ///< a part's results of every other stage
    Floats result_, shown_;
    std::vector<std::byte> raw_;
    size_t stride_ = 0;
    std::vector<float*> live_;  ///< the first alive_ go on to the next stage
    size_t alive_ = 0;
    bool in_scratch_ = false;
    bool weights_ = false;
    std::vector<std::unique_ptr<PluginCall>> calls_;
    std::vector<const float*> inputs_at_, source_pointers_;
    Floats sources_;  ///< a part's experts as they were read, as deltas, where a stage needs them
    const size_t sources_from_;
    std::vector<float*> outs_;
    std::vector<uint64_t> keys_;
    Segment segment_{};
    uint64_t skip_ = 0, count_ = 0;  ///< of the part that run() was called for, in the segment
    Segment at_{};                   ///< that part in the tensor; what logs belong to,
    uint64_t logged_ = 0;            ///< and how many it has
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

/// What run_units() is told to do; the last two may be empty.
struct Work {
    std::function<void(Worker&, uint64_t unit)> unit;
    std::function<void(uint64_t unit)> failed;        ///< on the thread where it happened
    std::function<void(Worker&, size_t thread)> end;  ///< a thread has done its last unit; one at a time
};

/// Does the units 0 … units - 1, on all threads. Of several errors the one of the first unit is thrown, so that it
/// doesn't depend on the threads: units are taken in order, and a unit once taken is finished.
void run_units(const Job& job, uint64_t units, const Meter& meter, const Work& work) {
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
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
            Worker worker(job);
            while (!stop && (unit = next++) < units) {
                if (job.options.cancel != nullptr) job.options.cancel->check();
                work.unit(worker, unit);
                if (thread == 0) meter.tell();
            }
            if (work.end) {
                const std::lock_guard lock(mutex);
                work.end(worker, thread);
            }
        } catch (...) {
            fail(unit);
        }
    };
    {
        std::vector<std::jthread> helpers;
        const uint64_t threads = std::min<uint64_t>(std::max(job.options.threads, 1U), units);
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

/// Shows all tensors, as the stages before it leave them, to the global stage s, pass by pass.
void observe(const Job& job, size_t s, uint64_t tile_elements, Meter& meter) {
    StageInstance& stage = *job.stages[s];
    const PluginCall main_call(stage.name, stage.call_options());
    const bool base = job.needs_base_for(s);
    const size_t experts = stage.traits.stage == Stage::kPost ? 1 : job.inputs.experts.size();
    // What lies in `segment`, whose tensor needn't be whole, tile by tile and piece by piece.
    auto show = [&](Worker& worker, const Segment& tile, StageInstance::State& state) {
        worker.read(tile, base);
        for (uint64_t skip = 0; skip < tile.count; skip += kPieceElements) {
            const uint64_t count = std::min(kPieceElements, tile.count - skip);
            worker.run(skip, count, s);
            worker.show(s, tile.first + skip, count, state);
        }
    };
    for (uint32_t pass = 0; pass < stage.traits.passes; ++pass) {
        std::unique_ptr<StageInstance::State> all;  // what has been joined so far
        auto join = [&](const PluginCall& call, std::unique_ptr<StageInstance::State> state) {
            if (all == nullptr)
                all = std::move(state);
            else
                all->join(call, *state);
        };
        if (stage.traits.exact_join) {
            const Tiles tiles(job, s, tile_elements);
            run_units(job, tiles.count(), meter,
                      {.unit =
                           [&](Worker& worker, uint64_t unit) {
                               const Segment tile = tiles[unit];
                               worker.begin(tile);
                               if (worker.state == nullptr)
                                   worker.state =
                                       std::make_unique<StageInstance::State>(stage, worker.call(s), pass, experts);
                               if (tile.plan->whole_before(s)) {
                                   worker.read(tile, base);
                                   worker.run(0, tile.count, s);
                                   worker.show(s, 0, tile.count, *worker.state);
                               } else {
                                   show(worker, tile, *worker.state);
                               }
                               meter.add(tile.count * bytes_per_element(*tile.plan, base));
                           },
                       .end =
                           [&](Worker& worker, size_t) {
                               if (worker.state != nullptr) join(worker.call(s), std::move(worker.state));
                           }});
        } else {
            const std::vector<Showing> units = showings(job.plans, s, kBlockElements);
            InOrder order;
            run_units(
                job, units.size(), meter,
                {.unit =
                     [&](Worker& worker, uint64_t unit) {
                         const Showing& showing = units[unit];
                         for (size_t b = 0; b < showing.blocks.size(); ++b) {
                             worker.begin(showing.blocks[b].front());
                             auto state = std::make_unique<StageInstance::State>(stage, worker.call(s), pass, experts);
                             for (const Segment& segment : showing.blocks[b]) {
                                 const Plan& plan = *segment.plan;
                                 const bool whole = plan.whole_before(s);
                                 if (whole && segment.first == 0) {
                                     worker.read({&plan, 0, plan.elements()}, base);
                                     worker.run(0, plan.elements(), s);
                                 }
                                 for_tiles(segment, tile_elements, [&](const Segment& tile) {
                                     if (job.options.cancel != nullptr) job.options.cancel->check();
                                     if (whole)
                                         worker.show(s, tile.first, tile.count, *state);
                                     else
                                         show(worker, tile, *state);
                                     meter.add(tile.count * bytes_per_element(plan, base));
                                 });
                             }
                             order.take(unit, showing.first_block + b, [&] { join(worker.call(s), std::move(state)); });
                         }
                     },
                 .failed = [&](uint64_t unit) { order.failed(unit); }});
        }
        if (all == nullptr)  // there is no tensor to be shown
            all = std::make_unique<StageInstance::State>(stage, main_call, pass, experts);
        stage.end(main_call, std::move(all));
    }
}

/// Merges all tensors.
void write_merged(const Job& job, uint64_t tile_elements, SafetensorsWriter& writer, Meter& meter) {
    const Tiles tiles(job, job.stages.size(), tile_elements);
    run_units(job, tiles.count(), meter, {.unit = [&](Worker& worker, uint64_t unit) {
                  const Segment tile = tiles[unit];
                  worker.read(tile, true);
                  worker.write(writer);
                  meter.add(tile.count * (bytes_per_element(*tile.plan, true) + size_of(tile.plan->tensor->out)));
              }});
}

/// Merges all tensors, and shows them to the observer on the way.
void write_observed(const Job& job, uint64_t tile_elements, SafetensorsWriter& writer, Meter& meter) {
    MergeObserver& observer = *job.options.observer;
    const uint64_t tile_size =
        (tile_elements + MergeObserver::kPiece - 1) / MergeObserver::kPiece * MergeObserver::kPiece;
    const std::vector<Showing> units = showings(job.plans, job.stages.size(), MergeObserver::kBlock);
    InOrder order;
    run_units(job, units.size(), meter,
              {.unit =
                   [&](Worker& worker, uint64_t unit) {
                       const Showing& showing = units[unit];
                       for (size_t b = 0; b < showing.blocks.size(); ++b) {
                           std::unique_ptr<MergeObserver::Block> block = observer.make_block();
                           for (const Segment& segment : showing.blocks[b]) {
                               const Plan& plan = *segment.plan;
                               const bool whole = plan.whole_before(job.stages.size());
                               if (whole && segment.first == 0) worker.read({&plan, 0, plan.elements()}, true);
                               for_tiles(segment, tile_size, [&](const Segment& tile) {
                                   if (job.options.cancel != nullptr) job.options.cancel->check();
                                   if (!whole) worker.read(tile, true);
                                   worker.show_inputs(whole ? tile.first : 0, tile.count, *block);
                                   if (!whole || tile.first + tile.count == plan.elements()) worker.write(writer);
                                   meter.add(tile.count * (bytes_per_element(plan, true) + size_of(plan.tensor->out)));
                               });
                           }
                           order.take(unit, showing.first_block + b, [&] { observer.join(std::move(block)); });
                       }
                   },
               .failed = [&](uint64_t unit) { order.failed(unit); }});
}

/// As many elements as keep the tiles of all experts, of base, stage and result in half of the second-level cache.
size_t good_tile(size_t experts) {
    const long cache = ::sysconf(_SC_LEVEL2_CACHE_SIZE);
    const size_t bytes = cache >= (256L << 10) ? static_cast<size_t>(cache) : size_t{1} << 20;
    return std::clamp(bytes / 2 / sizeof(float) / (experts + 2), size_t{4096}, size_t{32768}) / 1024 * 1024;
}

/// A floating tensor of the base, as all files have it.
Plan plan_of(const Job& job, const MergeTensor& tensor, size_t index) {
    Plan plan{.tensor = &tensor,
              .index = index,
              .base = &job.inputs.base->require(tensor.name),
              .name_hash = hash_of(tensor.name)};
    plan.matrix[0] = tensor.shape.empty() ? 1 : tensor.shape[0];
    plan.matrix[1] = tensor.elements / plan.matrix[0];
    while (plan.whole_from < job.stages.size() && !job.stages[plan.whole_from]->takes_whole(tensor.role))
        ++plan.whole_from;
    for (const MergeExpert& expert : job.inputs.experts) plan.experts.push_back(&expert.file().require(tensor.name));
    return plan;
}

uint64_t memory_of(const MergePlan& plan, const Job& job) {
    const uint64_t experts = plan.experts.size();
    uint64_t most = (experts + 2) * plan.tile_elements + experts * kPieceElements;
    for (const Plan& tensor : job.plans)
        if (tensor.whole_before(job.stages.size()))
            most = std::max(most, (2 * experts + 1) * tensor.elements() + kChunkElements);
    return plan.threads * most * sizeof(float);
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
    job.inputs = open_inputs(plan.base, experts, plan.out, job.options.threads);
    const MergeInputs& inputs = job.inputs;
    plan.encoder = inputs.card.has_value();
    plan.base_digest = inputs.base_digest;
    plan.threads = std::max(job.options.threads, 1U);
    plan.tile_elements = job.options.tile_elements.value_or(good_tile(experts.size()));
    for (const MergeExpert& expert : inputs.experts) {
        plan.experts.push_back(
            {.path = expert.file().path(),
             .kind = expert.is_vector() ? MergePlan::Kind::kTaskVector : MergePlan::Kind::kCheckpoint});
        for (const TensorInfo& tensor : expert.file().tensors()) plan.experts.back().bytes += tensor.bytes();
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
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
        job.plans.push_back(plan_of(job, plan.tensors[i], i));
        job.plans.back().blocks = static_cast<uint32_t>(last_block) + 1;
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
    plan.memory = memory_of(plan, job);
    check_space(plan.out, totals.bytes_written);
}

MergeReport do_merge(MergePlan& plan) {
    const Job& job = *plan.state;
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
    if (job.options.observer != nullptr) job.options.observer->begin(plan);
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
