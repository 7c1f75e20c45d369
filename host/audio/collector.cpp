#include "audio/collector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string_view>

#include "base/nearest.hpp"

namespace biophony {

namespace {

constexpr double kEndSlackSeconds = 0.05;  // tables round times

/// RFC 3629: no overlong forms, no surrogates, at most U+10FFFF.
bool is_utf8(std::string_view text) {
    size_t i = 0;
    while (i < text.size()) {
        const auto lead = static_cast<unsigned char>(text[i]);
        size_t more = 0;
        uint32_t code = 0, least = 0;
        if (lead < 0x80) {
            ++i;
            continue;
        }
        if (lead >= 0xc2 && lead < 0xe0)
            more = 1, code = lead & 0x1fU, least = 0x80;
        else if (lead >= 0xe0 && lead < 0xf0)
            more = 2, code = lead & 0x0fU, least = 0x800;
        else if (lead >= 0xf0 && lead < 0xf5)
            more = 3, code = lead & 0x07U, least = 0x10000;
        else
            return false;
        if (i + more >= text.size()) return false;
        for (size_t k = 1; k <= more; ++k) {
            const auto next = static_cast<unsigned char>(text[i + k]);
            if ((next & 0xc0U) != 0x80) return false;
            code = code << 6 | (next & 0x3fU);
        }
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
        i += more + 1;
    }
    return true;
}

/// Text for a message: bytes that are no UTF-8 are shown as \xhh, long text is cut.
std::string shown(std::string_view text) {
    if (is_utf8(text) && text.size() <= 200) return std::string(text);
    std::string out;
    for (const char c : text.substr(0, 200)) {
        const auto byte = static_cast<unsigned char>(c);
        out += byte >= 0x20 && byte < 0x7f ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
    }
    return out;
}

bool is_length(double value) {
    return std::isfinite(value) && value >= 0;
}

}  // namespace

template <class Body>
bph_status DescriptionCollector::guarded(Body&& body) noexcept {
    if (problem_) return BPH_INVALID_ARGUMENT;
    try {
        body();
        return BPH_OK;
    } catch (...) {
        problem_ = std::current_exception();
        return BPH_INVALID_ARGUMENT;
    }
}

DescriptionCollector::DescriptionCollector(bool serves_samples) : serves_samples_(serves_samples) {
    sink_.struct_size = sizeof(sink_);
    sink_.host = this;
    sink_.recording = [](const bph_dataset_sink* sink, const bph_recording* recording) {
        auto* self = static_cast<DescriptionCollector*>(sink->host);
        return self->guarded([&] { self->take(recording); });
    };
    sink_.region = [](const bph_dataset_sink* sink, const bph_region* region) {
        auto* self = static_cast<DescriptionCollector*>(sink->host);
        return self->guarded([&] { self->take(region); });
    };
}

void DescriptionCollector::rethrow() const {
    if (problem_) std::rethrow_exception(problem_);
}

DatasetSource::Description DescriptionCollector::take() {
    rethrow();
    if (out_.recordings.empty())
        throw Error(Code::kRunFailed, "the plugin describes no recordings, expected at least one");
    return std::move(out_);
}

void DescriptionCollector::refuse(const std::string& message) const {
    throw Error(Code::kRunFailed, fmt::format("the plugin describes {}: {}", at_, message));
}
void DescriptionCollector::require(bool good, const char* field, double found, const std::string& expected) const {
    if (!good) refuse(fmt::format("found {} = {}, expected {}", field, found, expected));
}
std::string DescriptionCollector::text(bph_str value, const char* field) const {
    if (value.size == 0) return {};
    if (value.data == nullptr) refuse(fmt::format("{} has a length but no text", field));
    const std::string_view view(value.data, value.size);
    if (!is_utf8(view)) refuse(fmt::format("{} is not UTF-8: '{}'", field, shown(view)));
    if (view.find('\0') != std::string_view::npos) refuse(fmt::format("{} has a NUL byte", field));
    return std::string(view);
}
std::string DescriptionCollector::split(bph_str value) const {
    static const std::vector<std::string> kSplits = {"train", "valid", "test"};
    std::string name = text(value, "split");
    if (!name.empty() && std::find(kSplits.begin(), kSplits.end(), name) == kSplits.end())
        refuse(fmt::format("found split = '{}', expected \"train\", \"valid\", \"test\" or nothing{}", shown(name),
                           did_you_mean(name, kSplits)));
    return name;
}

void DescriptionCollector::take(const bph_recording* c) {
    at_ = fmt::format("recording {}", out_.recordings.size());
    if (c == nullptr || c->struct_size < sizeof(bph_recording)) refuse("the struct is smaller than biophony.dataset/0");
    Recording r;
    r.id = text(c->id, "id");
    if (r.id.empty()) refuse("it has no id");
    at_ += fmt::format(" ('{}')", shown(r.id));
    if (!ids_.insert(r.id).second) refuse("the id stands for an earlier recording already; expected unique ids");
    r.uri = text(c->uri, "uri");
    if (r.uri.empty() && !serves_samples_)
        refuse("it has no file, and the plugin doesn't serve samples itself; expected an absolute path in uri");
    if (!r.uri.empty() && !std::filesystem::path(r.uri).is_absolute())
        refuse(fmt::format("found uri = '{}', expected an absolute path", shown(r.uri)));
    r.channel = c->channel;
    require(r.channel >= -1, "channel", r.channel, "0 or more, or -1 for the mean of all");
    r.seconds = c->seconds;
    require(is_length(r.seconds), "seconds", r.seconds, "0 (unknown) or more");
    r.sample_rate = c->sample_rate;
    require(is_length(r.sample_rate), "sample_rate", r.sample_rate, "0 (unknown) or more");
    if (r.uri.empty()) {
        require(r.sample_rate > 0, "sample_rate", r.sample_rate, "the rate at which the plugin serves samples");
        require(r.seconds > 0, "seconds", r.seconds, "the length of what the plugin serves");
    }
    r.start_time = text(c->start_time, "start_time");
    r.latitude = c->latitude;
    require(std::isnan(r.latitude) || std::abs(r.latitude) <= 90, "latitude", r.latitude, "-90 to 90 degrees");
    r.longitude = c->longitude;
    require(std::isnan(r.longitude) || std::abs(r.longitude) <= 180, "longitude", r.longitude, "-180 to 180 degrees");
    r.licence = text(c->licence, "licence");
    std::set<std::string> keys;
    for (size_t i = 0; i < c->group_count; ++i) {
        std::string key = text(c->groups[i].key, "a group's key");
        if (key.empty()) refuse("a group has no key");
        if (!keys.insert(key).second) refuse(fmt::format("the group '{}' is given twice", shown(key)));
        r.groups.emplace_back(std::move(key), text(c->groups[i].value, "a group's value"));
    }
    r.reviewed = c->reviewed;
    require(r.reviewed >= BPH_REVIEWED_NONE && r.reviewed <= BPH_REVIEWED_CLASSES, "reviewed", r.reviewed,
            "0 (none), 1 (whole) or 2 (classes)");
    for (size_t i = 0; i < c->reviewed_class_count; ++i)
        r.reviewed_classes.push_back(text(c->reviewed_classes[i], "a reviewed class"));
    r.split = split(c->split);
    out_.recordings.push_back(std::move(r));
}

void DescriptionCollector::take(const bph_region* c) {
    at_ = fmt::format("region {}", out_.regions.size());
    if (c == nullptr || c->struct_size < sizeof(bph_region)) refuse("the struct is smaller than biophony.dataset/0");
    Region r;
    r.recording = c->recording;
    if (r.recording >= out_.recordings.size())
        refuse(fmt::format("found the recording's index {}, expected one below {}, the number described so far",
                           r.recording, out_.recordings.size()));
    const Recording& recording = out_.recordings[r.recording];
    at_ += fmt::format(" of recording '{}'", shown(recording.id));
    r.start_s = c->start_s;
    require(is_length(r.start_s), "start_s", r.start_s, "0 or more");
    r.end_s = c->end_s;
    require(std::isnan(r.end_s) || (std::isfinite(r.end_s) && r.end_s > r.start_s), "end_s", r.end_s,
            "a time after the start, or NaN for the end of the recording");
    if (recording.seconds > 0) {
        require(r.start_s < recording.seconds, "start_s", r.start_s,
                fmt::format("a time within the recording's {} s", recording.seconds));
        require(!(r.end_s > recording.seconds + kEndSlackSeconds), "end_s", r.end_s,
                fmt::format("a time within the recording's {} s", recording.seconds));
    }
    r.low_hz = c->low_hz;
    require(std::isnan(r.low_hz) || is_length(r.low_hz), "low_hz", r.low_hz, "0 or more, or NaN");
    r.high_hz = c->high_hz;
    require(std::isnan(r.high_hz) || (is_length(r.high_hz) && !(r.high_hz < r.low_hz)), "high_hz", r.high_hz,
            "low_hz or more, or NaN");
    for (uint32_t i = 0; i < c->label_count; ++i) {
        const bph_label& label = c->labels[i];
        Label out{text(label.name, "a label"), text(label.label_namespace, "a label's namespace"), label.state,
                  label.rank};
        if (out.name.empty()) refuse("a label has no name");
        require(out.state >= BPH_PRESENT && out.state <= BPH_UNCERTAIN, "a label's state", out.state,
                "0 (present), 1 (absent) or 2 (uncertain)");
        require(out.rank >= BPH_PRIMARY && out.rank <= BPH_SECONDARY, "a label's rank", out.rank,
                "0 (primary) or 1 (secondary)");
        r.labels.push_back(std::move(out));
    }
    r.annotator = text(c->annotator, "annotator");
    r.split = split(c->split);
    out_.regions.push_back(std::move(r));
}

}  // namespace biophony
