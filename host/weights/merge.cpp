#include "weights/merge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/nearest.hpp"
#include "base/random.hpp"
#include "plugins/call.hpp"
#include "weights/finite.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

/// What a manifest's object "merger" says, and where it doesn't fit, `problem`.
struct StageTraits {
    std::string stage;  ///< transform, combine, post
    bool weights = false;
    bool needs_base = false;
    std::string problem;

    explicit StageTraits(const ItemInfo& item) {
        const Json merger = item.raw.is_object() ? item.raw.value("merger", Json()) : Json();
        auto one_of = [&](const char* key, const std::vector<std::string>& known) -> std::string {
            if (!problem.empty()) return {};
            if (!merger.is_object() || !merger.contains(key) || !merger[key].is_string()) {
                problem = fmt::format("the manifest of {} lacks \"merger\"/\"{}\", expected one of {}", item.name(),
                                      key, fmt::join(known, ", "));
                return {};
            }
            const std::string value = merger[key];
            if (std::find(known.begin(), known.end(), value) == known.end())
                problem = fmt::format("{} has the {} '{}', but this version merges with {} {}{}", item.name(), key,
                                      value, key, fmt::join(known, ", "),
                                      known.size() > 1 ? did_you_mean(value, known) : std::string());
            return value;
        };
        if (item.interface_id != BPH_MERGER_V0)
            problem = fmt::format("{} speaks the interface '{}', expected '{}'", item.name(), item.interface_id,
                                  BPH_MERGER_V0);
        stage = one_of("stage", {"transform", "combine", "post"});
        one_of("scope", {"element"});
        weights = one_of("space", {"delta", "weight"}) == "weight";
        if (problem.empty() && merger.contains("needs")) {
            for (const Json& need : merger["needs"])
                if (need == "base")
                    needs_base = true;
                else
                    problem =
                        fmt::format("{} needs {}, but this version gives only \"base\"", item.name(), need.dump());
        }
    }
};

/// One stage, ready to be called: the plugin's table and an instance.
class StageInstance {
public:
    StageInstance(const MergeStage& stage, uint64_t seed, const MergeOptions& options)
        : traits(*stage.item), name(stage.item->name()), seed_(seed), options_(&options) {
        table_ = stage.table != nullptr ? stage.table : static_cast<const bph_merger_v0*>(Registry::load(*stage.item));
        if (table_->struct_size < sizeof(bph_merger_v0) || table_->create == nullptr || table_->destroy == nullptr ||
            table_->element == nullptr)
            throw Error(Code::kPlugin,
                        fmt::format("the table of {} has {} bytes or lacks a function, expected {} bytes with create, "
                                    "destroy and element",
                                    BPH_MERGER_V0, table_->struct_size, sizeof(bph_merger_v0)),
                        {.file = stage.item->library.string(), .plugin = name});
        const PluginCall call(name, call_options());
        const CrashContext crash(name, options.node);
        const std::string params = canonical(stage.params);
        call.check(table_->create(call.get(), {params.data(), params.size()}, &self_));
    }
    ~StageInstance() {
        const CrashContext crash(name, options_->node);
        if (self_ != nullptr) table_->destroy(self_);
    }
    StageInstance(const StageInstance&) = delete;
    StageInstance& operator=(const StageInstance&) = delete;

    CallOptions call_options() const { return {.seed = seed_, .threads = 1, .cancel = options_->cancel}; }
    void element(const PluginCall& call, const bph_merge_tile& tile) const {
        const CrashContext crash(name, options_->node);
        call.check(table_->element(call.get(), self_, &tile));
    }

    const StageTraits traits;
    const std::string name;

private:
    uint64_t seed_;
    const MergeOptions* options_;
    const bph_merger_v0* table_ = nullptr;
    void* self_ = nullptr;
};

/// A floating tensor in all files.
struct Plan {
    const TensorInfo* base = nullptr;
    std::vector<const TensorInfo*> deltas;  ///< one per expert
    std::string role;
    int32_t block = -1;
    uint64_t first_tile = 0;
};

/// What the threads share; constant while they work.
struct Job {
    const SafetensorsFile& base;
    const std::vector<TaskVector>& experts;
    const std::vector<std::unique_ptr<StageInstance>>& stages;
    const std::vector<Plan>& plans;
    SafetensorsWriter& writer;
    size_t tile_elements;
};

/// One thread's buffers and calls. Works on one tile at a time.
class Worker {
public:
    explicit Worker(const Job& job) : job_(job), buffers_(job.experts.size() + 1), base_(job.tile_elements) {
        for (auto& buffer : buffers_) buffer.resize(job.tile_elements);
        for (const auto& stage : job.stages)
            calls_.push_back(std::make_unique<PluginCall>(stage->name, stage->call_options()));
    }

    /// Returns how many bytes were read and written.
    uint64_t run(uint64_t tile) {
        const auto after = std::upper_bound(job_.plans.begin(), job_.plans.end(), tile,
                                            [](uint64_t t, const Plan& plan) { return t < plan.first_tile; });
        plan_ = &*std::prev(after);
        first_ = (tile - plan_->first_tile) * job_.tile_elements;
        count_ = std::min<uint64_t>(job_.tile_elements, plan_->base->elements() - first_);

        const size_t experts = job_.experts.size();
        job_.base.read_floats(*plan_->base, first_, values(base_));
        check_input(job_.base, values(base_));
        for (size_t i = 0; i < experts; ++i) {
            job_.experts[i].file().read_floats(*plan_->deltas[i], first_, values(buffers_[i]));
            check_input(job_.experts[i].file(), values(buffers_[i]));
        }
        // buffers_[0 … live - 1] hold what goes on to the next stage, the last buffer is free.
        size_t live = experts;
        bool weights = false;
        auto make = [&](bool wanted) {
            if (weights == wanted) return;
            for (size_t i = 0; i < live; ++i)
                for (size_t k = 0; k < count_; ++k) buffers_[i][k] += wanted ? base_[k] : -base_[k];
            weights = wanted;
        };
        for (size_t s = 0; s < job_.stages.size(); ++s) {
            make(job_.stages[s]->traits.weights);
            if (job_.stages[s]->traits.stage == "combine") {
                call(s, 0, live, 0);
                std::swap(buffers_[0], buffers_.back());
                live = 1;
            } else {
                for (size_t i = 0; i < live; ++i) {
                    call(s, i, 1, static_cast<uint32_t>(i));
                    std::swap(buffers_[i], buffers_.back());
                }
            }
        }
        make(true);
        const auto merged = values(buffers_[0]);
        if (const size_t i = first_not_finite(merged); i < merged.size())
            throw Error(Code::kRunFailed, fmt::format("the merged tensor '{}' has {} at element {}", plan_->base->name,
                                                      merged[i], first_ + i));
        job_.writer.write_floats(plan_->base->name, first_, merged);
        return count_ * (size_of(plan_->base->dtype) + (experts + 1) * sizeof(float));
    }

private:
    std::span<float> values(std::vector<float>& buffer) const { return std::span(buffer).first(count_); }

    void check_input(const SafetensorsFile& file, std::span<const float> input) const {
        if (const size_t i = first_not_finite(input); i < input.size())
            throw Error(Code::kRunFailed,
                        fmt::format("tensor '{}' has {} at element {}", plan_->base->name, input[i], first_ + i),
                        {.file = file.path().string()});
    }

    /// Runs a stage on `count` buffers from `from` into the free one.
    void call(size_t s, size_t from, size_t count, uint32_t expert_index) {
        const StageInstance& stage = *job_.stages[s];
        const auto out = values(buffers_.back());
        // A value that the plugin forgets is then found below, whatever the buffer held.
        std::fill(out.begin(), out.end(), std::numeric_limits<float>::quiet_NaN());
        inputs_.clear();
        for (size_t i = 0; i < count; ++i) inputs_.push_back(buffers_[from + i].data());
        const bph_merge_tile tile = {.struct_size = sizeof(bph_merge_tile),
                                     .expert_count = static_cast<uint32_t>(count),
                                     .tensor = {plan_->base->name.data(), plan_->base->name.size()},
                                     .role = {plan_->role.data(), plan_->role.size()},
                                     .block = plan_->block,
                                     .expert_index = expert_index,
                                     .offset = first_,
                                     .count = count_,
                                     .experts = inputs_.data(),
                                     .base = stage.traits.needs_base ? base_.data() : nullptr,
                                     .out = out.data()};
        try {
            stage.element(*calls_[s], tile);
        } catch (const Error& error) {
            if (error.code() == Code::kCancelled) throw;
            throw Error(error.code(), fmt::format("{} (tensor '{}')", error.message(), plan_->base->name),
                        error.where());
        }
        if (const size_t i = first_not_finite(out); i < out.size())
            throw Error(Code::kRunFailed,
                        fmt::format("gave {} at element {} of tensor '{}', expected finite values", out[i], first_ + i,
                                    plan_->base->name),
                        {.plugin = stage.name});
    }

    const Job& job_;
    std::vector<std::vector<float>> buffers_;
    std::vector<float> base_;
    std::vector<std::unique_ptr<PluginCall>> calls_;
    std::vector<const float*> inputs_;
    const Plan* plan_ = nullptr;
    uint64_t first_ = 0, count_ = 0;
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

/// All tiles, on all threads. Of several errors the one of the first tile is thrown, so that it doesn't depend on the
/// threads: tiles are taken in order, and a tile once taken is finished.
void run_tiles(const Job& job, uint64_t tiles, const MergeOptions& options, Meter& meter) {
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    uint64_t failed_tile = std::numeric_limits<uint64_t>::max();
    std::exception_ptr problem;
    auto fail = [&](uint64_t tile) {
        const std::lock_guard lock(mutex);
        if (!problem || tile < failed_tile) {
            failed_tile = tile;
            problem = std::current_exception();
        }
        stop = true;
    };
    auto work = [&](bool tells) {
        uint64_t tile = 0;
        try {
            Worker worker(job);
            while (!stop && (tile = next++) < tiles) {
                if (options.cancel != nullptr) options.cancel->check();
                meter.add(worker.run(tile));
                if (tells) meter.tell();
            }
        } catch (...) {
            fail(tile);
        }
    };
    {
        std::vector<std::jthread> helpers;
        const uint64_t threads = std::min<uint64_t>(std::max(options.threads, 1U), tiles);
        try {
            for (uint64_t i = 1; i < threads; ++i) helpers.emplace_back(work, false);
        } catch (const std::system_error&) {
            // The machine gives no more threads: those that run do the work.
        }
        work(true);
    }
    if (problem) std::rethrow_exception(problem);
}

}  // namespace

std::string check_stages(const std::vector<MergeStage>& stages, size_t& stage) {
    constexpr const char* kOrder = "expected any transforms, exactly one combine, then any post stages";
    stage = 0;
    if (stages.empty()) return fmt::format("there are no stages, {}", kOrder);
    std::string combine;
    for (; stage < stages.size(); ++stage) {
        const std::string name = stages[stage].item->name();
        const StageTraits traits(*stages[stage].item);
        if (!traits.problem.empty()) return traits.problem;
        if (traits.stage == "transform" && !combine.empty())
            return fmt::format("{} is a transform after the combine {}, {}", name, combine, kOrder);
        if (traits.stage == "combine" && !combine.empty())
            return fmt::format("{} is a second combine after {}, {}", name, combine, kOrder);
        if (traits.stage == "post" && combine.empty())
            return fmt::format("{} is a post stage before any combine, {}", name, kOrder);
        if (traits.stage == "combine") combine = name;
    }
    stage = stages.size() - 1;
    if (combine.empty()) return fmt::format("no stage is a combine, {}", kOrder);
    stage = 0;
    return {};
}

MergeReport merge(const std::filesystem::path& base_path, const std::vector<std::filesystem::path>& vectors,
                  const std::vector<MergeStage>& stages, const std::filesystem::path& out,
                  const MergeOptions& options) {
    size_t bad = 0;
    if (const std::string what = check_stages(stages, bad); !what.empty())
        throw Error(Code::kInvalid, fmt::format("stage {}: {}", bad, what));
    if (vectors.empty()) throw Error(Code::kInvalid, "there are no task vectors to merge, expected one or more");
    if (options.tile_elements == 0) throw Error(Code::kInvalid, "a tile has 0 elements, expected 1 or more");

    std::vector<std::unique_ptr<StageInstance>> instances;
    for (size_t i = 0; i < stages.size(); ++i)
        instances.push_back(std::make_unique<StageInstance>(stages[i], mix(options.seed, i), options));

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
    uint64_t tiles = 0;
    for (const TensorInfo& tensor : base.tensors()) {
        const bool floating = is_floating(tensor.dtype);
        announced.push_back({tensor.name, floating ? DType::kF32 : tensor.dtype, tensor.shape});
        report.bytes_read += 2 * tensor.bytes();  // for its hash and for itself
        report.bytes_written += floating ? tensor.elements() * sizeof(float) : tensor.bytes();
        if (!floating || tensor.elements() == 0) continue;
        Plan plan{.base = &tensor, .first_tile = tiles};
        if (const auto role = card.roles.find(tensor.name); role != card.roles.end() && role->is_object()) {
            if (const auto kind = role->find("kind"); kind != role->end() && kind->is_string()) plan.role = *kind;
            if (const auto block = role->find("block"); block != role->end() && block->is_number_integer())
                plan.block = *block;
        }
        for (const TaskVector& expert : experts) {
            plan.deltas.push_back(&expert.file().require(tensor.name));
            report.bytes_read += plan.deltas.back()->bytes();
        }
        tiles += (tensor.elements() + options.tile_elements - 1) / options.tile_elements;
        ++report.tensors;
        report.elements += tensor.elements();
        plans.push_back(std::move(plan));
    }

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
    run_tiles({base, experts, instances, plans, writer, options.tile_elements}, tiles, options, meter);
    writer.finish();
    meter.tell();
    return report;
}

}  // namespace biophony
