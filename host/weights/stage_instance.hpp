// One stage of a merge, ready to be called, and the book of what stages log.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plugins/call.hpp"
#include "weights/merge.hpp"

namespace biophony {

/// What stages log, from any thread; told at the end, each message once, in an order that the threads don't change.
class LogBook {
public:
    /// Where in the work a message came up: (stage, tensor or 0, element, how many before it). For each the place is
    /// the same whichever thread does the work.
    using Place = std::array<uint64_t, 4>;

    void add(const Place& place, int level, const std::string& text);
    void tell(const std::function<void(int level, const std::string& text)>& log) const;

private:
    std::mutex mutex_;
    std::map<std::pair<int, std::string>, Place> first_;
};

/// Makes an instance of the stage and drops it, so that the plugin says what it thinks of the parameters. Throws as
/// StageInstance does. [any thread]
void try_stage(const MergeStage& stage);

/// The plugin's table and an instance. Constant while threads call it.
class StageInstance {
public:
    /// Throws Error(kPlugin, or what the plugin says of its parameters).
    StageInstance(const MergeStage& stage, size_t index, const MergeOptions& options, LogBook& book);
    ~StageInstance();
    StageInstance(const StageInstance&) = delete;
    StageInstance& operator=(const StageInstance&) = delete;

    /// What is logged is put down at the place that `place` gives.
    CallOptions call_options(std::function<LogBook::Place()> place = [] { return LogBook::Place{}; }) const;
    /// The place's stage is filled in.
    void log(int level, std::string_view text, LogBook::Place place) const;
    /// Whether it sees a tensor of this role as a matrix.
    bool takes_matrix(const std::string& role) const;
    bool takes_whole(const std::string& role) const {
        return traits.scope == MergerTraits::Scope::kTensor || takes_matrix(role);
    }
    /// What it has seen of all tensors; null before.
    const void* observed() const { return ended_.empty() ? nullptr : ended_.back(); }

    /// Bytes of a State in this pass, as far as the plugin tells; at most 2^48. Throws Error(kPlugin) where it fails
    /// to.
    uint64_t state_bytes(uint32_t pass, size_t experts) const;

    /// Calls the plugin. The caller has a CrashContext.
    bph_status apply(const PluginCall& call, const bph_merge_tile& tile, bool matrix) const {
        return (matrix ? table_->matrix : table_->element)(call.get(), self_, &tile);
    }

    /// A state that has seen some tensors in a pass.
    class State {
    public:
        State(const StageInstance& stage, const PluginCall& call, uint32_t pass, size_t experts);
        ~State();
        State(const State&) = delete;
        State& operator=(const State&) = delete;
        /// The caller has a CrashContext.
        bph_status see(const PluginCall& call, const bph_merge_tile& tile) {
            return stage_->table_->observe(call.get(), stage_->self_, state_, &tile);
        }
        void join(const PluginCall& call, const State& later);

    private:
        friend class StageInstance;
        const StageInstance* stage_;
        void* state_ = nullptr;
    };
    /// Ends the one state that is left of a pass, and keeps it.
    void end(const PluginCall& call, std::unique_ptr<State> state);

    const MergerTraits traits;
    const std::string name;
    const uint64_t seed;

private:
    std::function<void(int level, const std::string& text)> hears_;
    const Cancel* cancel_;
    const std::string node_;
    const size_t index_;
    LogBook* book_;
    const bph_merger_v0* table_ = nullptr;
    void* self_ = nullptr;
    std::vector<void*> ended_;  ///< of each pass
};

}  // namespace biophony
