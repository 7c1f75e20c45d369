// The host's side of a plugin's describe(): takes what is pushed, and refuses what can't be. Used by DatasetSource
// alone.
#pragma once

#include <exception>
#include <string>
#include <unordered_set>

#include "audio/dataset.hpp"

namespace biophony {

/// Nothing is thrown through the plugin: the first problem is kept, and the plugin gets a status. Not thread-safe.
class DescriptionCollector {
public:
    /// Without `serves_samples` every recording needs a file.
    explicit DescriptionCollector(bool serves_samples);
    DescriptionCollector(const DescriptionCollector&) = delete;
    DescriptionCollector& operator=(const DescriptionCollector&) = delete;

    const bph_dataset_sink* sink() const { return &sink_; }
    /// Throws the first problem, Error(kRunFailed): which recording or region, found, expected.
    void rethrow() const;
    /// Everything that was pushed. Throws where there was a problem, or no recording.
    DatasetSource::Description take();

private:
    template <class Body>
    bph_status guarded(Body&& body) noexcept;
    [[noreturn]] void refuse(const std::string& message) const;
    void require(bool good, const char* field, double found, const std::string& expected) const;
    std::string text(bph_str value, const char* field) const;
    std::string split(bph_str value) const;
    void take(const bph_recording* recording);
    void take(const bph_region* region);

    bool serves_samples_;
    bph_dataset_sink sink_{};
    DatasetSource::Description out_;
    std::unordered_set<std::string> ids_;
    std::string at_;  // what is being taken, for messages
    std::exception_ptr problem_;
};

}  // namespace biophony
