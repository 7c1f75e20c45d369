// Writing a data-set plugin: derive from Dataset, say what you have in describe(), add the macro line.
//
//     class Mine : public biophony::sdk::Dataset {
//     public:
//         explicit Mine(const biophony::sdk::Params& params) : root_(params.at("root").get<std::string>()) {}
//         void describe(const Call& call, DatasetSink& sink) override {
//             const auto recording = sink.add({.id = "r1", .uri = root_ + "/r1.wav"});
//             sink.add(Region{.recording = recording, .end_s = 3, .labels = {{"Hyla arborea"}}});
//         }
//     };
//     BIOPHONY_PLUGIN(biophony::sdk::dataset<Mine>("mine"))
//
// The constructor takes the parameters and throws where they can't be used. The host decodes, resamples, cuts windows
// and makes splits; a plugin reads tables, not audio. A source whose sound no file holds overrides read_samples and
// says `static constexpr bool kServesSamples = true;`.
#pragma once

#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "biophony/c/dataset.h"
#include "biophony/plugin.hpp"

namespace biophony::sdk {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// One sound file or stream; the fields are those of bph_recording.
struct Recording {
    std::string id;               ///< unique in this data set, stable between runs
    std::string uri;              ///< absolute path; empty where read_samples serves the sound
    int channel = -1;             ///< 0-based; -1 = the mean of all channels
    double seconds = 0;           ///< length; 0 = the host finds out
    double sample_rate = 0;       ///< Hz; 0 = the host finds out
    std::string start_time;       ///< ISO 8601, or empty
    double latitude = kUnknown;   ///< degrees
    double longitude = kUnknown;  ///< degrees
    std::string licence;          ///< as the source says it
    std::vector<std::pair<std::string, std::string>> groups;  ///< what clips may share: "recording", "site", …
    int reviewed = BPH_REVIEWED_NONE;
    std::vector<std::string> reviewed_classes;
    std::string split;  ///< "train", "valid", "test", or empty
};

struct Label {
    std::string name;             ///< as the source writes it
    std::string label_namespace;  ///< "" = the source's own; "scientific", "gbif", "ebird", "inaturalist"
    int state = BPH_PRESENT;
    int rank = BPH_PRIMARY;
};

/// A stretch of a recording with its labels. Seconds from the recording's start; hertz.
struct Region {
    uint64_t recording = 0;  ///< what DatasetSink::add(Recording) returned
    double start_s = 0;
    double end_s = kUnknown;  ///< unknown = to the end of the recording
    double low_hz = kUnknown;
    double high_hz = kUnknown;
    std::vector<Label> labels;
    std::string annotator;
    std::string split;  ///< overrides the recording's
};

/// Takes what a data set describes. Throws where the host wants no more.
class DatasetSink {
public:
    explicit DatasetSink(const bph_dataset_sink* sink) : sink_(sink) {}

    /// Returns the index by which regions name the recording.
    uint64_t add(const Recording& recording) {
        std::vector<bph_key_value> groups;
        for (const auto& [key, value] : recording.groups) groups.push_back({to_c(key), to_c(value)});
        std::vector<bph_str> classes;
        for (const auto& name : recording.reviewed_classes) classes.push_back(to_c(name));
        bph_recording c{};
        c.struct_size = sizeof(c);
        c.channel = recording.channel;
        c.id = to_c(recording.id);
        c.uri = to_c(recording.uri);
        c.seconds = recording.seconds;
        c.sample_rate = recording.sample_rate;
        c.start_time = to_c(recording.start_time);
        c.latitude = recording.latitude;
        c.longitude = recording.longitude;
        c.licence = to_c(recording.licence);
        c.groups = groups.data();
        c.group_count = groups.size();
        c.reviewed = recording.reviewed;
        c.reviewed_classes = classes.data();
        c.reviewed_class_count = classes.size();
        c.split = to_c(recording.split);
        if (const bph_status status = sink_->recording(sink_, &c); status != BPH_OK)
            throw Error("the host refused recording '" + recording.id + "'", status);
        return count_++;
    }

    void add(const Region& region) {
        std::vector<bph_label> labels;
        for (const auto& label : region.labels)
            labels.push_back({to_c(label.name), to_c(label.label_namespace), label.state, label.rank});
        bph_region c{};
        c.struct_size = sizeof(c);
        c.label_count = static_cast<uint32_t>(labels.size());
        c.recording = region.recording;
        c.start_s = region.start_s;
        c.end_s = region.end_s;
        c.low_hz = region.low_hz;
        c.high_hz = region.high_hz;
        c.labels = labels.data();
        c.annotator = to_c(region.annotator);
        c.split = to_c(region.split);
        if (const bph_status status = sink_->region(sink_, &c); status != BPH_OK)
            throw Error("the host refused a region", status);
    }

private:
    const bph_dataset_sink* sink_;
    uint64_t count_ = 0;
};

class Dataset {
public:
    static constexpr bool kServesSamples = false;
    virtual ~Dataset() = default;
    /// Adds every recording and region to the sink, in the same order each time.
    virtual void describe(const Call& call, DatasetSink& sink) = 0;
    /// Writes mono samples in [-1, 1] from frame `first` on; returns how many: fewer than asked only at the end.
    virtual uint64_t read_samples(const Call&, uint64_t /*recording*/, uint64_t /*first*/, std::span<float>) {
        throw Error("this data set's sound is in files", BPH_UNSUPPORTED);
    }
};

namespace detail {

template <class D>
struct DatasetThunks {
    static bph_status create(const bph_call* call, bph_str params, void** self) {
        return guarded(call, [&] {
            auto instance = std::make_unique<D>(Params::parse(from_c(params)));
            *self = static_cast<Dataset*>(instance.release());
        });
    }
    static void destroy(void* self) { delete static_cast<Dataset*>(self); }
    static bph_status describe(const bph_call* call, void* self, const bph_dataset_sink* sink) {
        return guarded(call, [&] {
            DatasetSink out(sink);
            static_cast<Dataset*>(self)->describe(Call(call), out);
        });
    }
    static bph_status read_samples(const bph_call* call, void* self, uint64_t recording, uint64_t first,
                                   uint64_t frames, float* out, uint64_t* got) {
        return guarded(call, [&] {
            *got = static_cast<Dataset*>(self)->read_samples(Call(call), recording, first,
                                                             std::span<float>(out, static_cast<size_t>(frames)));
        });
    }
    static constexpr bph_dataset_v0 kTable = {
        sizeof(bph_dataset_v0), 0, &create, &destroy, &describe, D::kServesSamples ? &read_samples : nullptr};
};

}  // namespace detail

/// The list entry of a data set for BIOPHONY_PLUGIN. D is built from Params.
template <class D>
constexpr detail::Item dataset(std::string_view id) {
    return {id, BPH_DATASET_V0, &detail::DatasetThunks<D>::kTable};
}

}  // namespace biophony::sdk
