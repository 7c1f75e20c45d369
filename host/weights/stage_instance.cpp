#include "weights/stage_instance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/random.hpp"

namespace biophony {

using Scope = MergerTraits::Scope;

namespace {

/// Of the table without what was added to it later.
constexpr size_t kLeastTable = offsetof(bph_merger_v0, observe_bytes);
/// More than any machine has, and little enough that the states of all threads can be added up.
constexpr uint64_t kMostState = uint64_t{1} << 48;

}  // namespace

void LogBook::add(const Place& place, int level, const std::string& text) {
    const std::lock_guard lock(mutex_);
    const auto [found, added] = first_.try_emplace({level, text}, place);
    if (!added) found->second = std::min(found->second, place);
}

void LogBook::tell(const std::function<void(int level, const std::string& text)>& log) const {
    std::vector<std::pair<Place, std::pair<int, std::string>>> lines;
    for (const auto& [line, place] : first_) lines.emplace_back(place, line);
    std::sort(lines.begin(), lines.end());
    for (const auto& [place, line] : lines) log(line.first, line.second);
}

void try_stage(const MergeStage& stage) {
    const bph_linalg_v0 unused{};  // what makes an instance is lent no algebra
    MergeOptions options;
    options.linalg = &unused;
    LogBook book;
    const StageInstance instance(stage, 0, options, book);
}

StageInstance::StageInstance(const MergeStage& stage, size_t index, const MergeOptions& options, LogBook& book)
    : traits(merger_traits(*stage.item)),
      name(stage.item->name()),
      seed(mix(options.seed, index)),
      hears_(options.log),
      cancel_(options.cancel),
      node_(options.node),
      index_(index),
      book_(&book) {
    if (traits.needs_linalg && options.linalg == nullptr)
        throw Error(Code::kPlugin,
                    "it needs linear algebra, which this program doesn't offer; that comes with LibTorch",
                    {.plugin = name});
    table_ = stage.table != nullptr ? stage.table : static_cast<const bph_merger_v0*>(Registry::load(*stage.item));
    const bool whole_table =
        table_->struct_size >= kLeastTable && table_->create != nullptr && table_->destroy != nullptr &&
        table_->element != nullptr && (traits.scope != Scope::kMatrix || table_->matrix != nullptr) &&
        (traits.scope != Scope::kGlobal ||
         (table_->observe_begin != nullptr && table_->observe != nullptr && table_->observe_join != nullptr &&
          table_->observe_end != nullptr && table_->observe_destroy != nullptr));
    if (!whole_table)
        throw Error(Code::kPlugin,
                    fmt::format("the table of {} has {} bytes or lacks a function, expected {} bytes with create, "
                                "destroy, element and what its scope asks for",
                                BPH_MERGER_V0, table_->struct_size, kLeastTable),
                    {.file = stage.item->library.string(), .plugin = name});
    const PluginCall call(name, call_options());
    const CrashContext crash(name, node_);
    const std::string params = canonical(stage.params);
    call.check(table_->create(call.get(), {params.data(), params.size()}, &self_));
}

StageInstance::~StageInstance() {
    const CrashContext crash(name, node_);
    for (; !ended_.empty(); ended_.pop_back()) table_->observe_destroy(ended_.back());
    if (self_ != nullptr) table_->destroy(self_);
}

CallOptions StageInstance::call_options(std::function<LogBook::Place()> place) const {
    CallOptions out{.seed = seed, .threads = 1, .cancel = cancel_};
    if (hears_)
        out.log = [this, place = std::move(place)](int level, std::string_view text) { log(level, text, place()); };
    return out;
}

void StageInstance::log(int level, std::string_view text, LogBook::Place place) const {
    place[0] = index_;
    book_->add(place, level, fmt::format("{}: {}", name, text));
}

bool StageInstance::takes_matrix(const std::string& role) const {
    return traits.scope == Scope::kMatrix &&
           std::find(traits.roles.begin(), traits.roles.end(), role) != traits.roles.end();
}

uint64_t StageInstance::state_bytes(uint32_t pass, size_t experts) const {
    if (table_->struct_size < sizeof(bph_merger_v0) || table_->observe_bytes == nullptr) return 0;
    const CrashContext crash(name, node_);
    const uint64_t bytes = table_->observe_bytes(self_, pass, static_cast<uint32_t>(experts));
    if (bytes == UINT64_MAX)
        throw Error(
            Code::kPlugin,
            fmt::format("observe_bytes failed to tell what a state takes in pass {} of {} experts", pass, experts),
            {.plugin = name});
    return std::min(bytes, kMostState);
}

StageInstance::State::State(const StageInstance& stage, const PluginCall& call, uint32_t pass, size_t experts)
    : stage_(&stage) {
    const CrashContext crash(stage.name, stage.node_);
    call.check(stage.table_->observe_begin(call.get(), stage.self_, pass, static_cast<uint32_t>(experts),
                                           stage.observed(), &state_));
    if (state_ == nullptr)
        throw Error(Code::kRunFailed, "observe_begin gave no state; that is a bug of the plugin",
                    {.plugin = stage.name});
}

StageInstance::State::~State() {
    const CrashContext crash(stage_->name, stage_->node_);
    if (state_ != nullptr) stage_->table_->observe_destroy(state_);
}

void StageInstance::State::join(const PluginCall& call, const State& later) {
    const CrashContext crash(stage_->name, stage_->node_);
    call.check(stage_->table_->observe_join(call.get(), stage_->self_, state_, later.state_));
}

void StageInstance::end(const PluginCall& call, std::unique_ptr<State> state) {
    const CrashContext crash(name, node_);
    call.check(table_->observe_end(call.get(), self_, state->state_));
    ended_.push_back(std::exchange(state->state_, nullptr));
}

}  // namespace biophony
