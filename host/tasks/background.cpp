// background: the quietest stretches of each recording, labelled with the group. A head for the groups on these says
// how far groups can be told apart without hearing an animal: by place, microphone, file format.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/files.hpp"
#include "base/sha256.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/clips.hpp"
#include "tasks/node_types.hpp"
#include "tasks/quiet.hpp"

namespace biophony {

namespace {

/// What a search found. The sound is read once for each content of the data set, not once a run.
struct Background {
    std::vector<Clip> clips;
    size_t without = 0;  ///< recordings that have no such stretch
    size_t silent = 0;   ///< recordings with digital silence in them
};

Background search(const ClipSet& set, const QuietSearch& wanted, TaskContext& context) {
    // Levels are those of the recording as it is: what an animal sings above a band limit is not background either.
    ClipSet open = set;
    open.band_limit_hz = 0;
    ClipReader reader(open, *context.registry);
    std::map<size_t, std::vector<const Clip*>> clips_of;
    for (const Clip& clip : set.clips) clips_of[clip.recording].push_back(&clip);
    Background out;
    size_t done = 0;
    for (const auto& [recording, clips] : clips_of) {
        context.cancel->check();
        const Recording& source = set.recordings[recording].source;
        const auto length = static_cast<size_t>(std::llround(source.seconds * source.sample_rate));
        std::vector<std::pair<double, double>> busy;
        for (const Clip* clip : clips) busy.emplace_back(clip->start_s, clip->end_s);
        auto read = [&](size_t first, size_t count) -> std::vector<float> {
            const size_t end = std::min(length, first + count);
            if (first >= end) return {};
            return reader.read({recording, static_cast<double>(first) / source.sample_rate,
                                static_cast<double>(end) / source.sample_rate, "", Split::kTrain},
                               source.sample_rate);
        };
        const QuietFound found = quietest(read, source.sample_rate, busy, wanted);
        for (const QuietStretch& stretch : found.stretches)
            out.clips.push_back({recording, stretch.start_s, stretch.end_s, set.group, clips.front()->split});
        out.without += found.stretches.empty() ? 1 : 0;
        out.silent += found.silence ? 1 : 0;
        context.progress->update(static_cast<double>(++done), static_cast<double>(clips_of.size()), "recordings");
    }
    return out;
}

void run_background(TaskContext& context) {
    const InputArtefact& input = context.input("data");
    ClipSet set = ClipSet::load(input.folder);
    const QuietSearch wanted{.seconds = context.params.at("seconds"), .most = context.params.at("per_recording")};
    const fs::path cache = cache_folder() / "background" /
                           (sha256_hex(sources::k_background + canonical(context.params) + input.digest) + ".json");
    Background found;
    bool known = false;
    if (fs::exists(cache)) {
        try {
            const Json json = read_json(cache);
            for (const Json& clip : json.at("clips"))
                found.clips.push_back(
                    {clip.at(0), clip.at(1), clip.at(2), set.group, split_from(clip.at(3).get<std::string>())});
            found.without = json.at("without");
            found.silent = json.at("silent");
            known = true;
        } catch (const std::exception&) {
            found = {};  // a spoiled cache is an empty one
        }
    }
    if (!known) {
        found = search(set, wanted, context);
        Json clips = Json::array();
        for (const Clip& clip : found.clips)
            clips.push_back({clip.recording, clip.start_s, clip.end_s, to_string(clip.split)});
        try {
            write_json(cache, {{"clips", clips}, {"without", found.without}, {"silent", found.silent}});
        } catch (const Error&) {
            // The cache only saves time.
        }
    }
    if (found.silent > 0)
        context.note(fmt::format("{} recordings have digital silence, which is no background and was passed over",
                                 found.silent));
    if (found.without > 0)
        context.note(fmt::format("{} recordings have no stretch of {} s that could be background", found.without,
                                 wanted.seconds));
    if (found.clips.empty())
        throw Error(Code::kRunFailed, fmt::format("no recording of '{}' has a stretch of {} s that could be background",
                                                  set.group, wanted.seconds));
    set.clips = std::move(found.clips);
    set.names.clear();  // of the labels that the clips had
    set.save(context.out, {});
    std::array<size_t, 3> counts{};
    for (const Clip& clip : set.clips) ++counts[static_cast<size_t>(clip.split)];
    context.headline = fmt::format("{} quiet stretches ({} train, {} valid, {} test) of '{}'", set.clips.size(),
                                   counts[0], counts[1], counts[2], set.group);
}

void describe_background(Describing& describing) {
    describing.out.groups = describing.input("data")->groups;
    describing.out.holds = "one recording";
    if (describing.result.empty()) return;
    auto set = std::make_shared<ClipSet>(ClipSet::load(describing.result));
    describing.out.labels = set->labels();
    describing.out.clips = std::move(set);
}

}  // namespace

NodeType background_type() {
    return {
        .name = "background",
        .summary =
            "the quietest stretches of a data set's recordings, labelled with the group: what a classifier can "
            "tell without hearing an animal",
        .inputs = {{.name = "data", .types = {"dataset"}, .summary = "whose recordings"}},
        .output = std::string(port::kDataset),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "seconds": {"type": "number", "minimum": 0.05, "maximum": 60, "default": 0.5, "description": "length of a stretch"},
                "per_recording": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 2,
                                  "description": "how many at most; they don't overlap"}
            }
        })"),
        // The result says where the files lie, which may have changed though the data set has not.
        .volatile_source = true,
        .sources = sources::k_background,
        .run = run_background,
        .describe = describe_background,
    };
}

}  // namespace biophony
