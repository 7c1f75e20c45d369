#include "tasks/clips.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "audio/decode.hpp"
#include "audio/stretch.hpp"
#include "base/files.hpp"

namespace biophony {

std::string_view to_string(Split split) {
    switch (split) {
        case Split::kTrain: return "train";
        case Split::kValid: return "valid";
        case Split::kTest: return "test";
    }
    return "?";
}

Split split_from(std::string_view text) {
    for (const Split split : {Split::kTrain, Split::kValid, Split::kTest})
        if (to_string(split) == text) return split;
    throw Error(Code::kRunFailed, fmt::format("found the split '{}', expected train, valid or test", text));
}

std::vector<std::string> ClipSet::labels() const {
    std::set<std::string> unique;
    for (const Clip& clip : clips) unique.insert(clip.label);
    return {unique.begin(), unique.end()};
}

void ClipSet::save(const std::filesystem::path& folder, const std::vector<SkippedFile>& skipped) const {
    Json recordings_json = Json::array(), clips_json = Json::array(), places = Json::array(),
         skipped_json = Json::array();
    for (const ClipRecording& recording : recordings) {
        recordings_json.push_back({{"id", recording.id},
                                   {"unit", recording.unit},
                                   {"content", recording.content},
                                   {"channel", recording.source.channel},
                                   {"licence", recording.source.licence}});
        places.push_back({{"uri", recording.source.uri},
                          {"index", recording.index},
                          {"seconds", recording.source.seconds},
                          {"rate", recording.source.sample_rate}});
    }
    for (const Clip& clip : clips)
        clips_json.push_back({{"recording", clip.recording},
                              {"start_s", clip.start_s},
                              {"end_s", clip.end_s},
                              {"label", clip.label},
                              {"split", to_string(clip.split)}});
    for (const SkippedFile& file : skipped) skipped_json.push_back({{"file", file.file}, {"reason", file.reason}});
    Json data = {{"format", "biophony-dataset/0"}, {"group", group},
                 {"band_limit_hz", band_limit_hz}, {"labels", labels()},
                 {"recordings", recordings_json},  {"clips", clips_json}};
    if (!names.empty()) data["names"] = names;  // others keep the content that results are keyed by
    write_json(folder / "dataset.json", data);
    write_json(folder / "locations.local.json",
               {{"item", item}, {"params", params}, {"recordings", places}, {"skipped", skipped_json}});
}

ClipSet ClipSet::load(const std::filesystem::path& folder) {
    const Json data = read_json(folder / "dataset.json");
    const Json places = read_json(folder / "locations.local.json");
    ClipSet set;
    set.group = data.at("group");
    set.band_limit_hz = data.value("band_limit_hz", 0.0);  // results of older versions have none
    if (data.contains("names")) set.names = data["names"];
    set.item = places.at("item");
    set.params = places.at("params");
    for (size_t i = 0; i < data.at("recordings").size(); ++i) {
        const Json& known = data["recordings"][i];
        const Json& place = places.at("recordings").at(i);
        ClipRecording recording;
        recording.id = known.at("id");
        recording.unit = known.at("unit");
        recording.content = known.at("content");
        recording.index = place.at("index");
        recording.source.id = recording.id;
        recording.source.channel = known.at("channel");
        recording.source.licence = known.at("licence");
        recording.source.uri = place.at("uri");
        recording.source.seconds = place.at("seconds");
        recording.source.sample_rate = place.at("rate");
        set.recordings.push_back(std::move(recording));
    }
    for (const Json& clip : data.at("clips"))
        set.clips.push_back({clip.at("recording"), clip.at("start_s"), clip.at("end_s"), clip.at("label"),
                             split_from(clip.at("split").get<std::string>())});
    return set;
}

std::vector<std::vector<std::string>> identities(const ClipSet& set, const ClipRecording& recording) {
    std::vector<std::vector<std::string>> out = {{recording.content}};
    if (const std::string table = set.params.value("file", ""); !table.empty())
        out.push_back({set.item, table, recording.unit});
    return out;
}

std::vector<const ClipSet*> pointers_to(const std::vector<ClipSet>& sets) {
    std::vector<const ClipSet*> out;
    for (const ClipSet& set : sets) out.push_back(&set);
    return out;
}

void require_together(const std::vector<const ClipSet*>& sets, const std::vector<std::string>& nodes) {
    std::set<std::string> groups;
    struct Heard {
        Split split;
        std::string group, node, recording;
    };
    std::map<std::vector<std::string>, Heard> heard;  // by content, and by unit of one table
    for (size_t s = 0; s < sets.size(); ++s) {
        const ClipSet& set = *sets[s];
        if (!groups.insert(set.group).second) throw Error(Code::kRunFailed, two_sets_of_one_name(set.group, nodes[s]));
        for (const Clip& clip : set.clips) {
            const ClipRecording& recording = set.recordings[clip.recording];
            auto check = [&](std::vector<std::string> key) {
                const auto [found, added] =
                    heard.try_emplace(std::move(key), Heard{clip.split, set.group, nodes[s], recording.id});
                const Heard& other = found->second;
                if (!added && other.split != clip.split)
                    throw Error(
                        Code::kRunFailed,
                        fmt::format("one recording is in the split {} of '{}' ({}, '{}') and in the split {} of '{}' "
                                    "({}, '{}'), so a model would be tested on what it was trained on; give both data "
                                    "sets the source's own splits; with folds, recordings that several groups share "
                                    "must be in one data set, or be left out of one",
                                    to_string(other.split), other.group, other.node, other.recording,
                                    to_string(clip.split), set.group, nodes[s], recording.id));
            };
            for (auto& identity : identities(set, recording)) check(std::move(identity));
        }
    }
}

std::string two_sets_of_one_name(const std::string& group, const std::string& node) {
    return fmt::format("two data sets are called '{}' (the second is {}); give one a \"group_name\"", group, node);
}

std::vector<std::string> trained_labels(const std::vector<const ClipSet*>& sets) {
    std::set<std::string> labels;
    for (const ClipSet* set : sets)
        for (const Clip& clip : set->clips)
            if (clip.split == Split::kTrain) labels.insert(clip.label);
    std::vector<std::string> out(labels.begin(), labels.end());
    require_two(out);
    return out;
}

void require_two(const std::vector<std::string>& labels) {
    if (labels.size() < 2)
        throw Error(Code::kRunFailed,
                    fmt::format("found {} labels with train clips, expected at least 2", labels.size()));
}

int64_t class_of(const std::vector<std::string>& labels, const std::string& label) {
    const auto at = std::lower_bound(labels.begin(), labels.end(), label);
    return at != labels.end() && *at == label ? at - labels.begin() : -1;
}

ClipReader::ClipReader(const ClipSet& set, const Registry& registry) : set_(set), compared_(set.recordings.size()) {
    for (const ClipRecording& recording : set.recordings)
        if (recording.source.uri.empty()) {
            source_ = std::make_unique<DatasetSource>(registry.require(set.item), set.params);
            break;
        }
}
ClipReader::~ClipReader() = default;

std::vector<float> ClipReader::read(const Clip& clip, double rate) {
    require_unchanged(clip.recording);
    std::vector<float> samples = heard(clip, rate);
    require_unchanged(clip.recording);
    return samples;
}

void ClipReader::require_unchanged(size_t index) {
    const ClipRecording& recording = set_.recordings.at(index);
    if (recording.source.uri.empty()) return;
    const int64_t begin = file_clock();
    const FileStamp stamp = FileStamp::of(recording.source.uri);
    if (!stamp.text.empty() && stamp == compared_[index]) return;
    if (file_hashes().sha256(recording.source.uri) != recording.content)
        throw Error(Code::kRunFailed,
                    fmt::format("changed since the data set '{}' was looked at; run again", set_.group),
                    {.file = recording.source.uri});
    compared_[index] = stamp.settled_at(begin) ? stamp : FileStamp();
}

std::vector<float> ClipReader::heard(const Clip& clip, double rate) {
    const double limited = 2 * set_.band_limit_hz;
    if (limited <= 0 || limited == rate) return read(clip.recording, clip.start_s, clip.end_s, rate);
    const SampleSource source{.rate = limited, .frames = -1, .read = [&](int64_t first, int64_t count) {
                                  const auto start = static_cast<double>(first) / limited;
                                  return read(clip.recording, start, start + static_cast<double>(count) / limited,
                                              limited);
                              }};
    return read_stretch(source, clip.start_s, clip.end_s, rate);
}

std::vector<float> ClipReader::read(size_t index, double start_s, double end_s, double rate) {
    const ClipRecording& recording = set_.recordings.at(index);
    if (recording.source.uri.empty()) return source_->read(recording.source, recording.index, start_s, end_s, rate);
    return decode_audio(recording.source.uri, start_s, end_s, recording.source.channel, rate);
}

}  // namespace biophony
