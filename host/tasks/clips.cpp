#include "tasks/clips.hpp"

#include <fmt/format.h>

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

ClipReader::ClipReader(const ClipSet& set, const Registry& registry) : set_(set) {
    for (const ClipRecording& recording : set.recordings)
        if (recording.source.uri.empty()) {
            source_ = std::make_unique<DatasetSource>(registry.require(set.item), set.params);
            break;
        }
}
ClipReader::~ClipReader() = default;

std::vector<float> ClipReader::read(const Clip& clip, double rate) {
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
