#include "weights/merge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/random.hpp"
#include "plugins/call.hpp"
#include "weights/finite.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

using Scope = MergerTraits::Scope;

/// A global stage is shown blocks of about this many elements, each by a state of its own. Results depend on it.
constexpr uint64_t kBlockElements = 1 << 22;

/// What stages log, from any thread; told at the end, each message once, in an order that the threads don't change.
class LogBook {
public:
    /// Where in the work a message came up: (stage, tensor or 0, element, how many before it). For each the place is
    /// the same whichever thread does the work.
    using Place = std::array<uint64_t, 4>;

    void add(const Place& place, int level, const std::string& text) {
        const std::lock_guard lock(mutex_);
        const auto [found, added] = first_.try_emplace({level, text}, place);
        if (!added) found->second = std::min(found->second, place);
    }
    void tell(const std::function<void(int level, const std::string& text)>& log) const {
        std::vector<std::pair<Place, std::pair<int, std::string>>> lines;
        for (const auto& [line, place] : first_) lines.emplace_back(place, line);
        std::sort(lines.begin(), lines.end());
        for (const auto& [place, line] : lines) log(line.first, line.second);
    }

private:
    std::mutex mutex_;
    std::map<std::pair<int, std::string>, Place> first_;
};

/// One stage, ready to be called: the plugin's table and an instance.
class StageInstance {
public:
    StageInstance(const MergeStage& stage, size_t index, const MergeOptions& options, LogBook& book)
        : traits(merger_traits(*stage.item)),
          name(stage.item->name()),
          seed(mix(options.seed, index)),
          options_(&options),
          index_(index),
          book_(&book) {
        if (traits.needs_linalg && options.linalg == nullptr)
            throw Error(Code::kPlugin,
                        "it needs linear algebra, which this program doesn't offer; that comes with LibTorch",
                        {.plugin = name});
        table_ = stage.table != nullptr ? stage.table : static_cast<const bph_merger_v0*>(Registry::load(*stage.item));
        const bool whole_table =
            table_->struct_size >= sizeof(bph_merger_v0) && table_->create != nullptr && table_->destroy != nullptr &&
            table_->element != nullptr && (traits.scope != Scope::kMatrix || table_->matrix != nullptr) &&
            (traits.scope != Scope::kGlobal ||
             (table_->observe_begin != nullptr && table_->observe != nullptr && table_->observe_join != nullptr &&
              table_->observe_end != nullptr && table_->observe_destroy != nullptr));
        if (!whole_table)
            throw Error(Code::kPlugin,
                        fmt::format("the table of {} has {} bytes or lacks a function, expected {} bytes with create, "
                                    "destroy, element and what its scope asks for",
                                    BPH_MERGER_V0, table_->struct_size, sizeof(bph_merger_v0)),
                        {.file = stage.item->library.string(), .plugin = name});
        const PluginCall call(name, call_options());
        const CrashContext crash(name, options.node);
        const std::string params = canonical(stage.params);
        call.check(table_->create(call.get(), {params.data(), params.size()}, &self_));
    }
    ~StageInstance() {
        const CrashContext crash(name, options_->node);
        for (; !ended_.empty(); ended_.pop_back()) table_->observe_destroy(ended_.back());
        if (self_ != nullptr) table_->destroy(self_);
    }
    StageInstance(const StageInstance&) = delete;
    StageInstance& operator=(const StageInstance&) = delete;

    /// What is logged is put down at the place that `place` gives.
    CallOptions call_options(std::function<LogBook::Place()> place = [] { return LogBook::Place{}; }) const {
        CallOptions out{.seed = seed, .threads = 1, .cancel = options_->cancel};
        if (options_->log)
            out.log = [this, place = std::move(place)](int level, std::string_view text) { log(level, text, place()); };
        return out;
    }
    /// The place's stage is filled in.
    void log(int level, std::string_view text, LogBook::Place place) const {
        place[0] = index_;
        book_->add(place, level, fmt::format("{}: {}", name, text));
    }
    /// Whether it sees a tensor of this role as a matrix.
    bool takes_matrix(const std::string& role) const {
        return traits.scope == Scope::kMatrix &&
               std::find(traits.roles.begin(), traits.roles.end(), role) != traits.roles.end();
    }
    bool takes_whole(const std::string& role) const { return traits.scope == Scope::kTensor || takes_matrix(role); }
    /// What it has seen of all tensors; null before.
    const void* observed() const { return ended_.empty() ? nullptr : ended_.back(); }

    void apply(const PluginCall& call, const bph_merge_tile& tile, bool matrix) const {
        const CrashContext crash(name, options_->node);
        call.check((matrix ? table_->matrix : table_->element)(call.get(), self_, &tile));
    }

    /// A state that has seen some tensors in a pass.
    class State {
    public:
        State(const StageInstance& stage, const PluginCall& call, uint32_t pass, size_t experts) : stage_(&stage) {
            const CrashContext crash(stage.name, stage.options_->node);
            call.check(stage.table_->observe_begin(call.get(), stage.self_, pass, static_cast<uint32_t>(experts),
                                                   stage.observed(), &state_));
            if (state_ == nullptr)
                throw Error(Code::kRunFailed, "observe_begin gave no state; that is a bug of the plugin",
                            {.plugin = stage.name});
        }
        ~State() {
            const CrashContext crash(stage_->name, stage_->options_->node);
            if (state_ != nullptr) stage_->table_->observe_destroy(state_);
        }
        State(const State&) = delete;
        State& operator=(const State&) = delete;
        void see(const PluginCall& call, const bph_merge_tile& tile) {
            const CrashContext crash(stage_->name, stage_->options_->node);
            call.check(stage_->table_->observe(call.get(), stage_->self_, state_, &tile));
        }
        void join(const PluginCall& call, const State& later) {
            const CrashContext crash(stage_->name, stage_->options_->node);
            call.check(stage_->table_->observe_join(call.get(), stage_->self_, state_, later.state_));
        }

    private:
        friend class StageInstance;
        const StageInstance* stage_;
        void* state_ = nullptr;
    };
    /// Ends the one state that is left of a pass, and keeps it.
    void end(const PluginCall& call, std::unique_ptr<State> state) {
        const CrashContext crash(name, options_->node);
        call.check(table_->observe_end(call.get(), self_, state->state_));
        ended_.push_back(std::exchange(state->state_, nullptr));
    }

    const MergerTraits traits;
    const std::string name;
    const uint64_t seed;

private:
    const MergeOptions* options_;
    const size_t index_;
    LogBook* book_;
    const bph_merger_v0* table_ = nullptr;
    void* self_ = nullptr;
    std::vector<void*> ended_;  ///< of each pass
};

/// A floating tensor in all files.
struct Plan {
    const TensorInfo* base = nullptr;
    std::vector<const TensorInfo*> deltas;  ///< one per expert
    std::string role;
    int32_t block = -1;
    std::vector<uint64_t> shape;
    std::array<uint64_t, 2> matrix{};  ///< rows, columns
    uint64_t name_hash = 0;
    uint32_t blocks = 0;    ///< of the encoder
    size_t whole_from = 0;  ///< the first stage that must see the tensor whole; the number of stages where none must

    bool whole_before(size_t stage) const { return whole_from < stage; }
};

/// FNV-1a (Fowler, Noll and Vo), 64 bits.
uint64_t hash_of(std::string_view text) {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    return hash;
}

/// What the threads share; constant while they work.
struct Job {
    const SafetensorsFile& base;
    const std::vector<TaskVector>& experts;
    const std::vector<std::unique_ptr<StageInstance>>& stages;
    const std::vector<Plan>& plans;
    const MergeOptions& options;
};

/// Consecutive elements of one tensor.
struct Segment {
    const Plan* plan;
    uint64_t first, count;
};

/// One thread's buffers and calls. Works on one segment at a time.
class Worker {
public:
    explicit Worker(const Job& job) : job_(job), values_(job.experts.size()), out_(1) {
        for (const auto& stage : job.stages) {
            keeps_sources_ |= stage->traits.needs_experts;
            calls_.push_back(std::make_unique<PluginCall>(stage->name, stage->call_options([this] {
                const auto tensor = static_cast<uint64_t>(at_.plan - job_.plans.data());
                return LogBook::Place{0, tensor + 1, at_.first, logged_++};
            })));
        }
    }

    const PluginCall& call(size_t stage) const { return *calls_[stage]; }

    /// From here on what is logged belongs to this segment.
    void begin(const Segment& segment) {
        at_ = segment;
        logged_ = 0;
    }

    /// Reads the segment of all experts, and of the base, and runs the first `stages` stages.
    void run(const Segment& segment, size_t stages) {
        begin(segment);
        segment_ = segment;
        read(job_.base, *segment.plan->base, base_);
        for (size_t i = 0; i < values_.size(); ++i) read(job_.experts[i].file(), *segment.plan->deltas[i], values_[i]);
        if (keeps_sources_) {
            sources_.resize(values_.size());
            for (size_t i = 0; i < values_.size(); ++i)
                sources_[i].assign(values_[i].begin(), values_[i].begin() + static_cast<std::ptrdiff_t>(segment.count));
        }
        live_ = values_.size();
        weights_ = false;
        for (size_t s = 0; s < stages; ++s) {
            if (s > 0 && job_.options.cancel != nullptr) job_.options.cancel->check();
            const MergerTraits& traits = job_.stages[s]->traits;
            make(traits.weights);
            if (traits.stage == MergerTraits::Stage::kCombine) {
                apply(s, 0, live_, 1);
                std::swap(values_[0], out_[0]);
                live_ = 1;
            } else if (traits.all_experts) {
                apply(s, 0, live_, live_);
                for (size_t i = 0; i < live_; ++i) std::swap(values_[i], out_[i]);
            } else {
                for (size_t i = 0; i < live_; ++i) {
                    apply(s, i, 1, 1);
                    std::swap(values_[i], out_[0]);
                }
            }
        }
    }

    /// What run() left, as weights. Throws where it isn't finite.
    std::span<const float> merged() {
        make(true);
        const std::span<const float> merged = span(values_[0]);
        if (const size_t i = first_not_finite(merged); i < merged.size())
            throw Error(Code::kRunFailed, fmt::format("the merged tensor '{}' has {} at element {}",
                                                      segment_.plan->base->name, merged[i], segment_.first + i));
        return merged;
    }

    /// Shows a part of what run() left to a global stage: as to `element`, so experts one by one where it sees one.
    void show(size_t s, const Segment& part, StageInstance::State& state) {
        const MergerTraits& traits = job_.stages[s]->traits;
        make(traits.weights);
        const bool together = traits.stage == MergerTraits::Stage::kCombine || traits.all_experts;
        const size_t count = together ? live_ : 1;
        for (size_t from = 0; from < live_; from += count) {
            const bph_merge_tile tile = tile_for(s, from, count, part.first - segment_.first, part.count);
            named([&] { state.see(call(s), tile); });
        }
    }

private:
    std::span<float> span(std::vector<float>& buffer) const {
        return std::span(buffer).first(static_cast<size_t>(segment_.count));
    }

    void read(const SafetensorsFile& file, const TensorInfo& tensor, std::vector<float>& buffer) const {
        if (buffer.size() < segment_.count) buffer.resize(segment_.count);
        file.read_floats(tensor, segment_.first, span(buffer));
        const std::span<const float> input = span(buffer);
        if (const size_t i = first_not_finite(input); i < input.size())
            throw Error(Code::kRunFailed,
                        fmt::format("tensor '{}' has {} at element {}", tensor.name, input[i], segment_.first + i),
                        {.file = file.path().string()});
    }

    /// Turns what is live into weights, or into deltas.
    void make(bool weights) {
        if (weights_ == weights) return;
        for (size_t i = 0; i < live_; ++i)
            for (size_t k = 0; k < segment_.count; ++k) values_[i][k] += weights ? base_[k] : -base_[k];
        weights_ = weights;
    }

    /// What stage s is told of `count` experts from `from`, and of the elements [skip, skip + elements) of the segment.
    bph_merge_tile tile_for(size_t s, size_t from, size_t count, uint64_t skip, uint64_t elements) {
        const StageInstance& stage = *job_.stages[s];
        const Plan& plan = *segment_.plan;
        inputs_.clear();
        keys_.clear();
        source_pointers_.clear();
        if (stage.traits.needs_experts)
            for (const auto& source : sources_) source_pointers_.push_back(source.data() + skip);
        for (size_t i = from; i < from + count; ++i) {
            inputs_.push_back(values_[i].data() + skip);
            if (stage.traits.random) keys_.push_back(mix(mix(stage.seed, plan.name_hash), i));
        }
        return {.struct_size = sizeof(bph_merge_tile),
                .expert_count = static_cast<uint32_t>(count),
                .tensor = {plan.base->name.data(), plan.base->name.size()},
                .role = {plan.role.data(), plan.role.size()},
                .block = plan.block,
                .expert_index = count == 1 ? static_cast<uint32_t>(from) : 0,
                .offset = segment_.first + skip,
                .count = elements,
                .experts = inputs_.data(),
                .base = stage.traits.needs_base ? base_.data() + skip : nullptr,
                .keys = stage.traits.random ? keys_.data() : nullptr,
                .shape = plan.shape.data(),
                .rank = static_cast<uint32_t>(plan.shape.size()),
                .observed = nullptr,
                .linalg = stage.traits.needs_linalg ? job_.options.linalg : nullptr,
                .sources = stage.traits.needs_experts ? source_pointers_.data() : nullptr,
                .source_count = static_cast<uint32_t>(source_pointers_.size()),
                .block_count = plan.blocks};
    }

    /// Runs stage s on `count` experts from `from` into the first `results` of out_.
    void apply(size_t s, size_t from, size_t count, size_t results) {
        const StageInstance& stage = *job_.stages[s];
        const Plan& plan = *segment_.plan;
        if (out_.size() < results) out_.resize(results);
        outs_.clear();
        for (size_t i = 0; i < results; ++i) {
            if (out_[i].size() < segment_.count) out_[i].resize(segment_.count);
            // A value that the plugin forgets is then found below, whatever the buffer held.
            std::fill_n(out_[i].begin(), segment_.count, std::numeric_limits<float>::quiet_NaN());
            outs_.push_back(out_[i].data());
        }
        bph_merge_tile tile = tile_for(s, from, count, 0, segment_.count);
        if (stage.traits.all_experts)
            tile.outs = outs_.data();
        else
            tile.out = outs_[0];
        tile.observed = stage.observed();
        const bool matrix = stage.takes_matrix(plan.role);
        if (matrix) {
            tile.shape = plan.matrix.data();
            tile.rank = 2;
        }
        named([&] { stage.apply(call(s), tile, matrix); });
        for (size_t r = 0; r < results; ++r) {
            const std::span<const float> out = span(out_[r]);
            if (const size_t i = first_not_finite(out); i < out.size())
                throw Error(Code::kRunFailed,
                            fmt::format("gave {} at element {} of tensor '{}', expected finite values", out[i],
                                        segment_.first + i, plan.base->name),
                            {.plugin = stage.name});
        }
    }

    /// Errors get the tensor's name.
    template <class Body>
    void named(Body&& body) const {
        try {
            body();
        } catch (const Error& error) {
            if (error.code() == Code::kCancelled) throw;
            throw Error(error.code(), fmt::format("{} (tensor '{}')", error.message(), segment_.plan->base->name),
                        error.where());
        }
    }

    const Job& job_;
    std::vector<std::vector<float>> values_;  ///< the first live_ go on to the next stage
    std::vector<std::vector<float>> out_;
    std::vector<float> base_;
    size_t live_ = 0;
    bool weights_ = false;
    std::vector<std::unique_ptr<PluginCall>> calls_;
    std::vector<std::vector<float>> sources_;  ///< the experts as they were read, where a stage needs them
    bool keeps_sources_ = false;
    std::vector<const float*> inputs_, source_pointers_;
    std::vector<float*> outs_;
    std::vector<uint64_t> keys_;
    Segment segment_{};
    Segment at_{};         ///< what logs belong to,
    uint64_t logged_ = 0;  ///< and how many it has
};

/// Tells a user where the merge is.
class Meter {
public:
    Meter(Progress* progress, uint64_t total) : progress_(progress), total_(total) {}
    void add(uint64_t bytes) { done_ += bytes; }
    void tell() const {
        if (progress_ != nullptr) progress_->update(static_cast<double>(done_), static_cast<double>(total_), "bytes");
    }

private:
    Progress* progress_;
    uint64_t total_;
    std::atomic<uint64_t> done_{0};
};

/// Does `work` for the units 0 … units - 1, on all threads. Of several errors the one of the first unit is thrown, so
/// that it doesn't depend on the threads: units are taken in order, and a unit once taken is finished. `failed` hears
/// of each error, on the thread where it happened.
void run_units(const Job& job, uint64_t units, const Meter& meter,
               const std::function<void(Worker&, uint64_t unit)>& work,
               const std::function<void(uint64_t unit)>& failed = {}) {
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
        if (failed) failed(unit);
    };
    auto take = [&](bool tells) {
        uint64_t unit = 0;
        try {
            Worker worker(job);
            while (!stop && (unit = next++) < units) {
                if (job.options.cancel != nullptr) job.options.cancel->check();
                work(worker, unit);
                if (tells) meter.tell();
            }
        } catch (...) {
            fail(unit);
        }
    };
    {
        std::vector<std::jthread> helpers;
        const uint64_t threads = std::min<uint64_t>(std::max(job.options.threads, 1U), units);
        try {
            for (uint64_t i = 1; i < threads; ++i) helpers.emplace_back(take, false);
        } catch (const std::system_error&) {
            // The machine gives no more threads: those that run do the work.
        }
        take(true);
    }
    if (problem) std::rethrow_exception(problem);
}

/// What one thread shows to a global stage at a time: blocks of segments, each block to a state of its own.
struct Showing {
    size_t first_block = 0;
    std::vector<std::vector<Segment>> blocks;
};

/// All tensors in blocks whose borders depend on their sizes alone: tensors are put together as long as they fit into a
/// block, and one that is larger is cut into blocks of its own. The blocks of a tensor that has to be whole before
/// stage `s` are shown by one thread.
std::vector<Showing> showings(const std::vector<Plan>& plans, size_t s) {
    std::vector<Showing> out;
    size_t blocks = 0;
    uint64_t filled = kBlockElements;  // of the last block
    for (const Plan& plan : plans) {
        const uint64_t elements = plan.base->elements();
        if (elements <= kBlockElements - filled) {
            out.back().blocks.back().push_back({&plan, 0, elements});
            filled += elements;
            continue;
        }
        for (uint64_t first = 0; first < elements; first += kBlockElements) {
            const std::vector<Segment> block = {{&plan, first, std::min(kBlockElements, elements - first)}};
            if (first == 0 || !plan.whole_before(s)) out.push_back({.first_block = blocks});
            out.back().blocks.push_back(block);
            ++blocks;
        }
        filled = elements <= kBlockElements ? elements : kBlockElements;
    }
    return out;
}

/// Calls `body` with each tile of the segment.
template <class Body>
void for_tiles(const Segment& segment, size_t tile_elements, Body&& body) {
    for (uint64_t done = 0; done < segment.count; done += tile_elements)
        body(Segment{segment.plan, segment.first + done, std::min<uint64_t>(tile_elements, segment.count - done)});
}

/// Bytes that are read for an element of the plan.
uint64_t bytes_per_element(const Plan& plan) {
    uint64_t bytes = size_of(plan.base->dtype);
    for (const TensorInfo* delta : plan.deltas) bytes += size_of(delta->dtype);
    return bytes;
}

/// Shows all tensors, as the stages before it leave them, to the global stage s, pass by pass.
void observe(const Job& job, size_t s, Meter& meter) {
    StageInstance& stage = *job.stages[s];
    const PluginCall main_call(stage.name, stage.call_options());
    const std::vector<Showing> units = showings(job.plans, s);
    const size_t experts = stage.traits.stage == MergerTraits::Stage::kPost ? 1 : job.experts.size();
    for (uint32_t pass = 0; pass < stage.traits.passes; ++pass) {
        std::mutex mutex;
        std::condition_variable joined;
        std::unique_ptr<StageInstance::State> all;  // what has been joined so far: the blocks below `turn`
        size_t turn = 0;
        uint64_t failed_unit = std::numeric_limits<uint64_t>::max();
        // Blocks are joined in order; a thread that is early waits, so there is no more than a state a thread and
        // `all`.
        auto join = [&](Worker& worker, uint64_t unit, size_t block, std::unique_ptr<StageInstance::State> state) {
            std::unique_lock lock(mutex);
            joined.wait(lock, [&] { return turn == block || failed_unit < unit; });
            if (turn != block) return;  // an earlier one failed, and is told
            if (all == nullptr)
                all = std::move(state);
            else
                all->join(worker.call(s), *state);
            ++turn;
            joined.notify_all();
        };
        run_units(
            job, units.size(), meter,
            [&](Worker& worker, uint64_t unit) {
                const Showing& showing = units[unit];
                for (size_t b = 0; b < showing.blocks.size(); ++b) {
                    worker.begin(showing.blocks[b].front());
                    auto state = std::make_unique<StageInstance::State>(stage, worker.call(s), pass, experts);
                    for (const Segment& segment : showing.blocks[b]) {
                        const Plan& plan = *segment.plan;
                        const bool whole = plan.whole_before(s);
                        if (whole && segment.first == 0) worker.run({&plan, 0, plan.base->elements()}, s);
                        for_tiles(segment, job.options.tile_elements, [&](const Segment& tile) {
                            if (job.options.cancel != nullptr) job.options.cancel->check();
                            if (!whole) worker.run(tile, s);
                            worker.show(s, tile, *state);
                            meter.add(tile.count * bytes_per_element(plan));
                        });
                    }
                    join(worker, unit, showing.first_block + b, std::move(state));
                }
            },
            [&](uint64_t unit) {
                const std::lock_guard lock(mutex);
                failed_unit = std::min(failed_unit, unit);
                joined.notify_all();
            });
        if (all == nullptr)  // there is no tensor to be shown
            all = std::make_unique<StageInstance::State>(stage, main_call, pass, experts);
        stage.end(main_call, std::move(all));
    }
}

/// Merges all tensors.
void write_merged(const Job& job, SafetensorsWriter& writer, Meter& meter) {
    std::vector<uint64_t> first_tile;
    uint64_t tiles = 0;
    auto tile_size = [&](const Plan& plan) {
        return plan.whole_before(job.stages.size()) ? plan.base->elements() : job.options.tile_elements;
    };
    for (const Plan& plan : job.plans) {
        first_tile.push_back(tiles);
        tiles += (plan.base->elements() + tile_size(plan) - 1) / tile_size(plan);
    }
    run_units(job, tiles, meter, [&](Worker& worker, uint64_t tile) {
        const auto after = std::upper_bound(first_tile.begin(), first_tile.end(), tile);
        const auto at = static_cast<size_t>(after - first_tile.begin()) - 1;
        const Plan& plan = job.plans[at];
        const uint64_t first = (tile - first_tile[at]) * tile_size(plan);
        const uint64_t count = std::min<uint64_t>(tile_size(plan), plan.base->elements() - first);
        worker.run({&plan, first, count}, job.stages.size());
        writer.write_floats(plan.base->name, first, worker.merged());
        meter.add(count * (bytes_per_element(plan) + sizeof(float)));
    });
}

MergeReport merge_all(const std::filesystem::path& base_path, const std::vector<std::filesystem::path>& vectors,
                      const std::vector<MergeStage>& stages, const std::filesystem::path& out,
                      const MergeOptions& options, LogBook& book) {
    size_t bad = 0;
    if (const std::string what = check_stages(stages, bad, vectors.size()); !what.empty())
        throw Error(Code::kInvalid, fmt::format("stage {}: {}", bad, what));
    if (vectors.empty()) throw Error(Code::kInvalid, "there are no task vectors to merge, expected one or more");
    if (options.tile_elements == 0) throw Error(Code::kInvalid, "a tile has 0 elements, expected 1 or more");

    std::vector<std::unique_ptr<StageInstance>> instances;
    for (size_t i = 0; i < stages.size(); ++i)
        instances.push_back(std::make_unique<StageInstance>(stages[i], i, options, book));

    // Everything that can be wrong with the inputs as files is told before a byte is written.
    const SafetensorsFile base = SafetensorsFile::open(base_path);
    const EncoderCard card = EncoderCard::from(base);
    std::vector<TaskVector> experts;
    for (const auto& path : vectors) {
        experts.push_back(TaskVector::open(path, false));
        if (const EncoderCard& other = experts.back().card();
            other.encoder != card.encoder || other.config != card.config)
            throw Error(Code::kRunFailed,
                        fmt::format("is a vector of {}, but the base {} is {}{}", other.encoder, base_path.string(),
                                    card.encoder, other.encoder == card.encoder ? " with another config" : ""),
                        {.file = path.string()});
    }
    const std::map<std::string, std::string> hashes = tensor_hashes(base, options.threads);
    for (const TaskVector& expert : experts) expert.check_base(base, hashes);

    MergeReport report;
    std::vector<SafetensorsWriter::Tensor> announced;
    std::vector<Plan> plans;
    for (const TensorInfo& tensor : base.tensors()) {
        const bool floating = is_floating(tensor.dtype);
        announced.push_back({tensor.name, floating ? DType::kF32 : tensor.dtype, tensor.shape});
        report.bytes_read += 2 * tensor.bytes();  // for its hash and for itself
        report.bytes_written += floating ? tensor.elements() * sizeof(float) : tensor.bytes();
        if (!floating || tensor.elements() == 0) continue;
        Plan plan{.base = &tensor, .name_hash = hash_of(tensor.name)};
        if (const auto role = card.roles.find(tensor.name); role != card.roles.end() && role->is_object()) {
            if (const auto kind = role->find("kind"); kind != role->end() && kind->is_string()) plan.role = *kind;
            if (const auto block = role->find("block"); block != role->end() && block->is_number_integer())
                plan.block = *block;
        }
        plan.shape.assign(tensor.shape.begin(), tensor.shape.end());
        plan.matrix[0] = plan.shape.empty() ? 1 : plan.shape[0];
        plan.matrix[1] = tensor.elements() / plan.matrix[0];
        while (plan.whole_from < instances.size() && !instances[plan.whole_from]->takes_whole(plan.role))
            ++plan.whole_from;
        for (const TaskVector& expert : experts) plan.deltas.push_back(&expert.file().require(tensor.name));
        report.bytes_read += tensor.elements() * bytes_per_element(plan) - tensor.bytes();
        for (const auto& stage : instances)
            report.bytes_read += stage->traits.passes * tensor.elements() * bytes_per_element(plan);
        ++report.tensors;
        report.elements += tensor.elements();
        plans.push_back(std::move(plan));
    }
    int32_t last_block = -1;
    for (const Plan& plan : plans) last_block = std::max(last_block, plan.block);
    for (Plan& plan : plans) plan.blocks = static_cast<uint32_t>(last_block) + 1;
    for (const auto& stage : instances)
        if (stage->traits.scope == Scope::kMatrix &&
            std::none_of(plans.begin(), plans.end(), [&](const Plan& plan) { return stage->takes_matrix(plan.role); }))
            stage->log(BPH_LOG_WARNING,
                       fmt::format("no tensor has a role in [{}]; it does only its rule for others",
                                   fmt::join(stage->traits.roles, ", ")),
                       {});

    Meter meter(options.progress, report.bytes_read + report.bytes_written);
    std::map<std::string, std::string> metadata = card.to_metadata();
    metadata.insert(options.metadata.begin(), options.metadata.end());
    SafetensorsWriter writer(out, std::move(announced), metadata);
    std::vector<std::byte> buffer(1 << 18);
    for (const TensorInfo& tensor : base.tensors()) {
        meter.add(tensor.bytes());
        if (is_floating(tensor.dtype)) continue;
        for (uint64_t done = 0; done < tensor.bytes();) {
            const auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), tensor.bytes() - done));
            base.read(tensor, done, part);
            writer.write(tensor.name, done, part);
            done += part.size();
        }
        meter.add(2 * tensor.bytes());
    }
    meter.tell();
    const Job job{base, experts, instances, plans, options};
    for (size_t s = 0; s < instances.size(); ++s)
        if (instances[s]->traits.scope == Scope::kGlobal) observe(job, s, meter);
    write_merged(job, writer, meter);
    writer.finish();
    meter.tell();
    return report;
}

}  // namespace

MergeReport merge(const std::filesystem::path& base, const std::vector<std::filesystem::path>& vectors,
                  const std::vector<MergeStage>& stages, const std::filesystem::path& out,
                  const MergeOptions& options) {
    LogBook book;
    try {
        const MergeReport report = merge_all(base, vectors, stages, out, options, book);
        if (options.log) book.tell(options.log);
        return report;
    } catch (...) {
        // What led to it, as far as the threads had come.
        if (options.log) book.tell(options.log);
        throw;
    }
}

}  // namespace biophony
