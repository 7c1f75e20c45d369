#include "audio/dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>

#include "audio/collector.hpp"
#include "audio/decode.hpp"
#include "audio/stretch.hpp"

namespace biophony {

namespace {

constexpr int64_t kServedBlock = 1 << 20;  // samples asked for at once

}  // namespace

struct DatasetSource::State {
    State(const ItemInfo& item, const CallOptions& options)
        : where{.plugin = item.name()}, call(item.name(), options), table(nullptr) {}
    ~State() {
        if (self != nullptr) table->destroy(self);
    }

    std::vector<float> serve(size_t index, int64_t first, int64_t count) {
        std::vector<float> out;
        while (static_cast<int64_t>(out.size()) < count) {
            const auto want = static_cast<size_t>(std::min(kServedBlock, count - static_cast<int64_t>(out.size())));
            const size_t at = out.size();
            out.resize(at + want);
            uint64_t got = 0;
            const CrashContext crash(where.plugin, {});
            call.check(table->read_samples(call.get(), self, index, static_cast<uint64_t>(first) + at, want,
                                           out.data() + at, &got));
            if (got > want)
                throw Error(Code::kRunFailed,
                            fmt::format("the plugin gave {} samples where {} were asked for", got, want), where);
            out.resize(at + got);
            for (size_t i = at; i < out.size(); ++i)
                if (!std::isfinite(out[i]))
                    throw Error(Code::kRunFailed,
                                fmt::format("sample {} of recording {} is not a finite number",
                                            static_cast<uint64_t>(first) + i, index),
                                where);
            if (got < want) break;
        }
        return out;
    }

    Where where;
    PluginCall call;
    const bph_dataset_v0* table;
    void* self = nullptr;
};

DatasetSource::DatasetSource(const ItemInfo& item, const Json& params, CallOptions options)
    : state_(std::make_unique<State>(item, options)) {
    if (item.interface_id != BPH_DATASET_V0)
        throw Error(Code::kPlugin,
                    fmt::format("found the interface '{}', expected \"{}\"", item.interface_id, BPH_DATASET_V0),
                    state_->where);
    state_->table = static_cast<const bph_dataset_v0*>(Registry::load(item));
    if (state_->table->struct_size < sizeof(bph_dataset_v0))
        throw Error(Code::kPlugin,
                    fmt::format("found a table of {} bytes for {}, expected at least {}", state_->table->struct_size,
                                BPH_DATASET_V0, sizeof(bph_dataset_v0)),
                    state_->where);
    const std::string text = params.dump();
    const CrashContext crash(item.name(), {});
    void* self = nullptr;
    state_->call.check(state_->table->create(state_->call.get(), {text.data(), text.size()}, &self));
    if (self == nullptr)
        throw Error(Code::kRunFailed, "the plugin made no instance and told no error; that is a bug in it",
                    state_->where);
    state_->self = self;
}

DatasetSource::~DatasetSource() = default;

DatasetSource::Description DatasetSource::describe() {
    State& state = *state_;
    const CrashContext crash(state.where.plugin, {});
    DescriptionCollector collector(state.table->read_samples != nullptr);
    const bph_status status = state.table->describe(state.call.get(), state.self, collector.sink());
    try {
        collector.rethrow();  // what the plugin says after the sink refused something is second-hand
        state.call.check(status);
        return collector.take();
    } catch (const Error& error) {
        throw error.within(state.where);
    }
}

std::vector<float> DatasetSource::read(const Recording& recording, size_t index, double start_s, double end_s,
                                       double rate) {
    if (!recording.uri.empty()) return decode_audio(recording.uri, start_s, end_s, recording.channel, rate);
    State& state = *state_;
    if (state.table->read_samples == nullptr)
        throw Error(Code::kRunFailed,
                    fmt::format("recording '{}' has no file, and the plugin serves no samples", recording.id),
                    state.where);
    SampleSource source;
    source.rate = recording.sample_rate;
    source.frames = recording.seconds > 0 ? std::llround(recording.seconds * recording.sample_rate) : -1;
    source.read = [&](int64_t first, int64_t count) { return state.serve(index, first, count); };
    try {
        return read_stretch(source, start_s, end_s, rate);
    } catch (const Error& error) {
        throw error.within(state.where);
    }
}

}  // namespace biophony
