// A data-set node: what the plugin describes → recordings that decode, clips with one label, splits without leaks.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <set>

#include "audio/decode.hpp"
#include "base/file_hashes.hpp"
#include "base/files.hpp"
#include "base/nearest.hpp"
#include "base/sha256.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/graph.hpp"
#include "tasks/clips.hpp"
#include "tasks/node_types.hpp"
#include "tasks/splits.hpp"

namespace biophony {

namespace {

/// What is known of audio files by path, as long as their stamps are the same, so that each is read once, not once a
/// run. Their hashes are known to file_hashes() from then on.
class Inventory {
public:
    explicit Inventory(std::string_view key) : path_(cache_folder() / "inventory" / (std::string(key) + ".json")) {
        known_ = read();
    }

    struct Entry {
        std::string sha256, problem;
        double seconds = 0, rate = 0;
        int channels = 0;
    };

    Entry look(const std::string& file) {
        const int64_t begin = file_clock();
        const FileStamp stamp = FileStamp::of(file);
        if (stamp.text.empty()) return {.problem = "is missing"};
        if (const auto found = known_.find(file);
            found != known_.end() && found->is_object() && found->value("stamp", Json()) == stamp.text) {
            const Json& entry = *found;
            file_hashes().learn(file, stamp, entry.value("sha256", ""));
            return {entry.value("sha256", ""), entry.value("problem", ""), entry.value("seconds", 0.0),
                    entry.value("rate", 0.0), entry.value("channels", 0)};
        }
        const AudioCheck check = check_audio(file);
        Entry entry{.problem = check.problem,
                    .seconds = check.info.seconds(),
                    .rate = check.info.sample_rate,
                    .channels = check.info.channels};
        if (!entry.problem.empty()) return entry;  // not remembered: it may be mended, or have been a passing fault
        entry.sha256 = file_hashes().sha256(file);
        if (!(FileStamp::of(file) == stamp))
            throw Error(Code::kRunFailed, "was changed while it was being read", {.file = file});
        if (!stamp.settled_at(begin)) return entry;  // the next change might carry the same times
        added_[file] = {{"stamp", stamp.text},      {"sha256", entry.sha256}, {"problem", entry.problem},
                        {"seconds", entry.seconds}, {"rate", entry.rate},     {"channels", entry.channels}};
        known_[file] = added_[file];
        return entry;
    }

    void save() const {
        if (added_.empty()) return;
        try {
            // Another data set may have written what it read meanwhile.
            static std::mutex mutex;
            const std::lock_guard lock(mutex);
            Json all = read();
            all.update(added_);
            write_json(path_, all);
        } catch (const Error&) {
            // The cache only saves time; a full disk will be told where it matters.
        }
    }

private:
    Json read() const {
        try {
            if (Json known = fs::exists(path_) ? read_json(path_) : Json(); known.is_object()) return known;
        } catch (const Error&) {
            // A spoiled cache is an empty one.
        }
        return Json::object();
    }

    fs::path path_;
    Json known_ = Json::object(), added_ = Json::object();
};

/// "clips[amphibian]" → "amphibian"; "frogs" → "frogs".
std::string group_of(const std::string& node) {
    const size_t open = node.find('[');
    return open == std::string::npos || node.back() != ']' ? node : node.substr(open + 1, node.size() - open - 2);
}

/// Recordings with the same bytes are one unit, whatever they are called. Returns how many were joined to another.
size_t join_equal_recordings(ClipSet& set) {
    std::map<std::string, std::string> unit_of_content, joined;  // joined: unit → the unit that it becomes
    auto root = [&](std::string unit) {
        for (auto at = joined.find(unit); at != joined.end(); at = joined.find(unit)) unit = at->second;
        return unit;
    };
    size_t count = 0;
    for (const ClipRecording& recording : set.recordings) {
        const auto [first, added] = unit_of_content.emplace(recording.content, recording.unit);
        const std::string a = root(first->second), b = root(recording.unit);
        if (added || a == b) continue;
        joined[b] = a;
        ++count;
    }
    for (ClipRecording& recording : set.recordings) recording.unit = root(recording.unit);
    return count;
}

void refuse_leaks(const ClipSet& set) {
    std::map<std::string, const Clip*> first;
    for (const Clip& clip : set.clips) {
        const ClipRecording& recording = set.recordings[clip.recording];
        const auto [found, added] = first.emplace(recording.unit, &clip);
        if (added || found->second->split == clip.split) continue;
        const std::string& other = set.recordings[found->second->recording].id;
        throw Error(
            Code::kRunFailed,
            fmt::format(
                "the recording '{}'{} has clips in the splits {} and {}, so a model would be tested on what it was "
                "trained on; correct the source's splits, or use \"split\": {{\"by\": \"recording\"}}",
                recording.unit,
                other == recording.id
                    ? std::string()
                    : fmt::format(" (files '{}' and '{}', told to be one or equal byte for byte)", other, recording.id),
                to_string(found->second->split), to_string(clip.split)));
    }
}

/// One stretch of sound, one label: rows that say the same twice count once, and a stretch with several labels is left
/// out, as a classifier with one answer can neither learn from it nor be scored on it. `clips` is sorted by place.
void settle_equal_places(ClipSet& set, TaskContext& context) {
    std::vector<Clip> kept;
    size_t repeated = 0;
    auto same_place = [](const Clip& a, const Clip& b) {
        return a.recording == b.recording && a.start_s == b.start_s && a.end_s == b.end_s;
    };
    for (size_t i = 0; i < set.clips.size();) {
        size_t end = i + 1;
        std::set<std::string> labels = {set.clips[i].label};
        for (; end < set.clips.size() && same_place(set.clips[i], set.clips[end]); ++end)
            labels.insert(set.clips[end].label);
        if (labels.size() == 1) {
            repeated += end - i - 1;
            kept.push_back(set.clips[i]);
        } else {
            context.skipped.push_back({set.recordings[set.clips[i].recording].id,
                                       fmt::format("the clip from {} s to {} s has several labels ({}), expected one",
                                                   set.clips[i].start_s, set.clips[i].end_s, fmt::join(labels, ", "))});
        }
        i = end;
    }
    if (repeated > 0) context.note(fmt::format("{} clips stand twice with the same label; they count once", repeated));
    set.clips = std::move(kept);
}

/// Which label of a region is its own: the first that is present and primary; null where there is none.
const Label* label_of(const Region& region) {
    for (const Label& label : region.labels)
        if (label.state == BPH_PRESENT && label.rank == BPH_PRIMARY) return &label;
    return nullptr;
}

/// The canonical taxon id beside a region's label, in the order in which catalogues are trusted: "gbif:2489214"; a
/// scientific name is its own id. Empty where the source gives none.
std::string taxon_of(const Region& region) {
    for (const char* source : {"gbif", "ebird", "inaturalist", "scientific"})
        for (const Label& label : region.labels) {
            if (label.label_namespace != source || label.state != BPH_PRESENT || label.rank != BPH_PRIMARY) continue;
            const size_t first = label.name.find_first_not_of(" \t");
            if (first == std::string::npos) continue;
            const std::string name = label.name.substr(first, label.name.find_last_not_of(" \t") + 1 - first);
            return source == std::string_view("scientific") ? name : fmt::format("{}:{}", source, name);
        }
    return {};
}

/// "rename_labels", from → to. Throws Error(kRunFailed) where the source has no label that an entry renames.
std::map<std::string, std::string> renames_for(const Json& params, const std::vector<Region>& regions) {
    const std::map<std::string, std::string> renames = params;
    if (renames.empty()) return renames;
    std::set<std::string> there;
    for (const Region& region : regions)
        if (const Label* label = label_of(region)) there.insert(label->name);
    for (const auto& [from, to] : renames)
        if (!there.contains(from)) {
            const std::vector<std::string> labels(there.begin(), there.end());
            throw Error(Code::kRunFailed,
                        with_nearest(fmt::format("\"rename_labels\": no clip has the label '{}'", from), from, labels));
        }
    return renames;
}

/// A stretch of a recording, to find its clip again.
using Stretch = std::tuple<size_t, double, double>;
Stretch stretch_of(const Clip& clip) {
    return {clip.recording, clip.start_s, clip.end_s};
}

/// Fills `set.names` from the clips that are left. `written`: the source's labels where they aren't the class.
void name_classes(ClipSet& set, const std::map<Stretch, std::string>& written, TaskContext& context) {
    std::map<std::string, std::map<std::string, size_t>> labels_of, classes_of;
    for (const Clip& clip : set.clips) {
        const auto found = written.find(stretch_of(clip));
        const std::string& label = found == written.end() ? clip.label : found->second;
        ++labels_of[clip.label][label];
        ++classes_of[label][clip.label];
    }
    for (const auto& [name, labels] : labels_of) {
        if (labels.size() == 1 && labels.begin()->first == name) continue;
        for (const auto& [label, count] : labels) set.names[name].push_back(label);
    }
    auto note = [&](const auto& all, const char* text) {
        std::vector<std::string> several;
        for (const auto& [name, parts] : all) {
            if (parts.size() < 2) continue;
            std::vector<std::string> counts;
            for (const auto& [part, count] : parts) counts.push_back(fmt::format("'{}' {}", part, count));
            several.push_back(fmt::format("'{}' ({})", name, fmt::join(counts, ", ")));
        }
        if (!several.empty()) context.note(fmt::format(fmt::runtime(text), several.size(), fmt::join(several, "; ")));
    };
    note(labels_of, "{} classes have several labels in the source; clips of each: {}");
    note(classes_of, "{} labels of the source stand for several classes; clips of each: {}");
}

void check_dataset(const GraphNode& node, const Registry&, std::string_view pointer,
                   std::vector<Diagnostic>& problems) {
    double sum = 0;
    const Json& fractions = node.params.at("split").at("fractions");
    for (const Json& fraction : fractions) sum += fraction.get<double>();
    if (std::abs(sum - 1) > 1e-6 || fractions.at(0).get<double>() <= 0)
        problems.push_back({Code::kInvalid,
                            {.pointer = std::string(pointer) + "/split/fractions"},
                            found_expected(fractions.dump(), "three shares that sum to 1, the first (train) above 0")});
    const Json& split = node.params.at("split");
    auto problem = [&](const char* where, Message message) {
        problems.push_back({Code::kInvalid, {.pointer = std::string(pointer) + where}, std::move(message)});
    };
    if (split.at("by") != "folds") {
        for (const char* name : {"folds", "fold"})
            if (split.contains(name))
                problem("/split",
                        found_expected(fmt::format("'{}' with \"by\": \"{}\"", name, split.at("by").get<std::string>()),
                                       "it with \"by\": \"folds\" only"));
        return;
    }
    for (const char* name : {"folds", "fold"})
        if (!split.contains(name))
            return problem("/split",
                           fmt::format("'{}' is missing; expected {}", name,
                                       name == std::string_view("fold") ? "which fold is the test split, from 0"
                                                                        : "how many folds there are"));
    const int64_t folds = split.at("folds"), fold = split.at("fold");
    if (fold >= folds)
        return problem("/split/fold", found_expected(fmt::format("the fold {}", fold),
                                                     fmt::format("0 to {} for {} folds", folds - 1, folds)));
    if (const auto axis = node.axis_of.find("/split/fold");
        axis != node.axis_of.end() && node.params.at("group_name") == "")
        return problem("", fmt::format("the group would be called '{}', another one in each fold; expected a "
                                       "\"group_name\" without the axis '{}', such as \"{{taxon}}\"",
                                       group_of(node.id), axis->second));
}

void run_dataset(TaskContext& context) {
    Json params = context.params;
    const Json split = params.at("split");
    params.erase("split");
    const std::string group = params.value("group_name", "");
    const size_t minimum_recordings = params.at("minimum_recordings");
    const double band_limit_hz = params.at("band_limit_hz");
    const bool by_taxon = params.at("classes") == "taxon";
    const Json rename_labels = params.at("rename_labels");
    for (const char* ours : {"group_name", "minimum_recordings", "band_limit_hz", "classes", "rename_labels"})
        params.erase(ours);

    // Whatever is random in a data set has a seed among its parameters: readers open it again without this node.
    CallOptions options{.seed = 0,
                        .threads = context.threads,
                        .progress = nullptr,
                        .cancel = context.cancel,
                        .log = [&](int, std::string_view text) { context.note(text); }};
    CrashContext crash(context.item->name(), context.node);
    DatasetSource source(*context.item, params, options);
    const DatasetSource::Description described = source.describe();

    ClipSet set;
    set.group = group.empty() ? group_of(context.node) : group;
    set.item = context.item->name();
    set.params = params;
    set.band_limit_hz = band_limit_hz;

    Inventory inventory(sha256_hex(context.item->name() + canonical(params) + sources::k_dataset));
    std::vector<size_t> place(described.recordings.size(), SIZE_MAX);
    std::vector<double> seconds(described.recordings.size(), 0);
    double total_seconds = 0;
    for (size_t i = 0; i < described.recordings.size(); ++i) {
        context.cancel->check();
        Recording recording = described.recordings[i];
        ClipRecording known{.id = recording.id, .unit = recording.id, .index = i};
        for (const auto& [key, value] : recording.groups)
            if (key == "recording" && !value.empty()) known.unit = value;
        if (recording.uri.empty()) {
            known.content = sha256_hex(context.item->build + canonical(params) + recording.id);
        } else {
            const Inventory::Entry entry = inventory.look(recording.uri);
            if (entry.problem.empty() && recording.channel >= entry.channels) {
                context.skipped.push_back({recording.uri, fmt::format("found {} channels, expected channel {}",
                                                                      entry.channels, recording.channel)});
                continue;
            }
            if (!entry.problem.empty()) {
                context.skipped.push_back({recording.uri, entry.problem});
                continue;
            }
            known.content = entry.sha256;
            recording.seconds = entry.seconds;
            recording.sample_rate = entry.rate;
        }
        seconds[i] = recording.seconds;
        total_seconds += recording.seconds;
        known.source = std::move(recording);
        place[i] = set.recordings.size();
        set.recordings.push_back(std::move(known));
        context.progress->update(static_cast<double>(i + 1), static_cast<double>(described.recordings.size()),
                                 "recordings");
    }
    inventory.save();

    const std::map<std::string, std::string> renames = renames_for(rename_labels, described.regions);
    std::map<Stretch, std::string> written;
    size_t unlabelled = 0, renamed_in_vain = 0;
    bool source_has_splits = false;
    std::string without_split;  // the last recording with a clip that the source gives no split
    for (const Region& region : described.regions) {
        const size_t at = place[region.recording];
        if (at == SIZE_MAX) continue;
        const Label* label = label_of(region);
        if (label == nullptr) {
            ++unlabelled;
            continue;
        }
        const double end =
            std::isnan(region.end_s) ? seconds[region.recording] : std::min(region.end_s, seconds[region.recording]);
        const double start = std::max(0.0, region.start_s);
        if (!(end > start)) {
            context.skipped.push_back(
                {set.recordings[at].id, fmt::format("the clip from {} s to {} s lies outside of the recording's {} s",
                                                    region.start_s, region.end_s, seconds[region.recording])});
            continue;
        }
        Clip clip{.recording = at, .start_s = start, .end_s = end, .label = label->name};
        const auto renamed = renames.find(label->name);
        if (renamed != renames.end()) clip.label = renamed->second;
        if (std::string taxon = by_taxon ? taxon_of(region) : std::string(); !taxon.empty()) {
            clip.label = std::move(taxon);
            renamed_in_vain += renamed != renames.end() ? 1 : 0;
        }
        if (clip.label != label->name) written.emplace(stretch_of(clip), label->name);
        const std::string& word = region.split.empty() ? described.recordings[region.recording].split : region.split;
        if (!word.empty()) {
            clip.split = split_from(word);
            source_has_splits = true;
        }
        if (word.empty()) without_split = set.recordings[at].id;
        set.clips.push_back(std::move(clip));
    }
    if (unlabelled > 0)
        context.note(fmt::format("{} regions without a present primary label were left out", unlabelled));
    if (renamed_in_vain > 0)
        context.note(
            fmt::format("{} clips have a taxon id, which stays their class whatever \"rename_labels\" makes of "
                        "their label; \"classes\": \"label\" leaves taxon ids aside",
                        renamed_in_vain));
    if (set.clips.empty())
        throw Error(Code::kRunFailed, fmt::format("no clip can be used: {} recordings described, {} files left out{}",
                                                  described.recordings.size(), context.skipped.size(),
                                                  context.skipped.empty() ? ""
                                                                          : "; the first: " + context.skipped[0].file +
                                                                                " " + context.skipped[0].reason));

    std::stable_sort(set.clips.begin(), set.clips.end(), [](const Clip& a, const Clip& b) {
        return std::tie(a.recording, a.start_s, a.end_s) < std::tie(b.recording, b.start_s, b.end_s);
    });
    settle_equal_places(set, context);
    if (set.clips.empty()) throw Error(Code::kRunFailed, "every clip has several labels, expected one each");
    if (const size_t joined = join_equal_recordings(set); joined > 0)
        context.note(
            fmt::format("{} recordings are byte for byte another one; each stays in the other's split", joined));
    if (const LeftOut rare = drop_rare_labels(set, minimum_recordings); rare.labels > 0) {
        context.note(fmt::format("{} labels with fewer than {} recordings were left out, with their {} clips",
                                 rare.labels, minimum_recordings, rare.clips));
        if (set.clips.empty())
            throw Error(Code::kRunFailed,
                        fmt::format("no label has {} recordings, as \"minimum_recordings\" asks", minimum_recordings));
    }
    name_classes(set, written, context);
    if (band_limit_hz > 0) {
        std::set<size_t> low;
        for (const Clip& clip : set.clips)
            if (set.recordings[clip.recording].source.sample_rate <= 2 * band_limit_hz) low.insert(clip.recording);
        if (!low.empty())
            context.note(
                fmt::format("{} recordings have no sound up to {} Hz or end there by themselves (sample rate {} "
                            "Hz or less): the band limit doesn't make them like the others",
                            low.size(), band_limit_hz, 2 * band_limit_hz));
    }

    const std::string by = split.at("by");
    if (by == "source" || (by == "auto" && source_has_splits)) {
        if (!without_split.empty())
            throw Error(Code::kRunFailed,
                        fmt::format("the source gives no split for a clip of '{}', expected train, valid or test for "
                                    "every clip; or use \"split\": {{\"by\": \"recording\"}}",
                                    without_split));
    } else if (by == "folds") {
        split_by_fold(set, split.at("folds"), split.at("fold"), split.at("seed"));
    } else {
        std::array<double, 3> fractions{};
        for (size_t i = 0; i < 3; ++i) fractions[i] = split.at("fractions").at(i);
        split_by_unit(set, fractions, split.at("seed"));
    }
    refuse_leaks(set);

    set.save(context.out, context.skipped);
    std::array<size_t, 3> counts{};
    for (const Clip& clip : set.clips) ++counts[static_cast<size_t>(clip.split)];
    context.headline = fmt::format("{} clips ({} train, {} valid, {} test) of {} labels in {} recordings, {:.1f} min",
                                   set.clips.size(), counts[0], counts[1], counts[2], set.labels().size(),
                                   set.recordings.size(), total_seconds / 60);
}

void describe_dataset(Describing& describing) {
    const std::string group = describing.node.params.value("group_name", "");
    describing.out.groups = {group.empty() ? group_of(describing.node.id) : group};
    describing.out.holds = "one recording";
    if (describing.result.empty()) return;
    auto set = std::make_shared<ClipSet>(ClipSet::load(describing.result));
    describing.out.groups = {set->group};
    describing.out.labels = set->labels();
    describing.out.clips = std::move(set);
}

}  // namespace

NodeType dataset_type() {
    return {
        .name = "dataset",
        .summary = "recordings and labels, described by a data-set plugin",
        .output = std::string(port::kDataset),
        .parameters = Json::parse(R"({
            "type": "object",
            "properties": {
                "split": {
                    "type": "object", "default": {},
                    "description": "how clips come into train, valid and test; whole recordings always stay together",
                    "properties": {
                        "by": {"enum": ["auto", "source", "recording", "folds"], "default": "auto",
                               "description": "the source's own split, one by recording, or one fold of several; auto: the source's where it has one"},
                        "fractions": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 3, "maxItems": 3,
                                      "default": [0.6, 0.2, 0.2], "description": "of train, valid and test, per label; for splits by recording"},
                        "folds": {"type": "integer", "minimum": 3, "maximum": 1000, "description": "with \"by\": \"folds\": how many"},
                        "fold": {"type": "integer", "minimum": 0,
                                 "description": "with \"by\": \"folds\": the test split, from 0; the next one is valid, the others train"},
                        "seed": {"type": "integer", "minimum": 0, "default": 0}
                    }
                },
                "group_name": {"type": "string", "default": "",
                               "description": "the group's name in tables; empty = the node's axis value, else its name"},
                "classes": {"enum": ["taxon", "label"], "default": "taxon",
                            "description": "what one class is: the taxon id that the source gives beside a label (GBIF, eBird, iNaturalist, else the scientific name), so that sets with other names for a species share it, and the label where there is none; or always the label"},
                "rename_labels": {"type": "object", "default": {}, "additionalProperties": {"type": "string", "minLength": 1},
                                  "description": "the source's label → another one; all at once, so that two can be swapped, and before classes are told"},
                "minimum_recordings": {"type": "integer", "minimum": 1, "maximum": 1000000, "default": 1,
                                       "description": "labels with fewer recordings are left out"},
                "band_limit_hz": {"type": "number", "minimum": 0, "default": 0,
                                  "description": "all sound passes one low-pass first, so that recordings of different rates can't be told apart by their bandwidth; 0 = none"}
            }
        })"),
        .volatile_source = true,
        .sources = sources::k_dataset,
        .run = run_dataset,
        .check = check_dataset,
        .describe = describe_dataset,
    };
}

}  // namespace biophony
