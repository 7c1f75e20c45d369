// Data sets as nodes hand them on: clips with one label each, in splits that share no recording.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "audio/dataset.hpp"
#include "base/file_hashes.hpp"
#include "base/json.hpp"
#include "pipeline/node_type.hpp"

namespace biophony {

enum class Split { kTrain, kValid, kTest };
std::string_view to_string(Split split);
/// Throws Error(kRunFailed) for another word.
Split split_from(std::string_view text);

/// A stretch of a recording with its label.
struct Clip {
    size_t recording = 0;  ///< index into ClipSet::recordings
    double start_s = 0, end_s = 0;
    std::string label;  ///< its class: a canonical taxon id, or the label as the source writes it
    Split split = Split::kTrain;
    double seconds() const { return end_s - start_s; }
};

struct ClipRecording {
    std::string id;       ///< as the data set names it; the same wherever the files lie
    std::string unit;     ///< what may not be torn apart by a split: the group key "recording", else id
    std::string content;  ///< SHA-256 of the file, or of what the samples are made from
    size_t index = 0;     ///< place in the plugin's description
    Recording source;     ///< where it lies on this machine
};

/// The result of a data-set node. dataset.json holds what doesn't depend on where files lie, and is what counts for
/// other nodes' keys; locations.local.json says where they are.
struct ClipSet {
    std::string group;         ///< the node's axis value, else its name: "amphibian"
    std::string item;          ///< "dataset:table"
    Json params;               ///< of the item
    double band_limit_hz = 0;  ///< nothing above it is heard; 0 = no limit
    std::vector<ClipRecording> recordings;
    std::vector<Clip> clips;
    /// Class → the source's labels for it, sorted; only classes that aren't one label of the same name.
    std::map<std::string, std::vector<std::string>> names;
    std::vector<std::string> labels() const;  ///< classes that have clips; sorted, unique

    void save(const std::filesystem::path& folder, const std::vector<SkippedFile>& skipped) const;
    static ClipSet load(const std::filesystem::path& folder);
};

/// What says that two recordings are the same: their content, and their unit in one table (files of one recording, such
/// as cut calls, differ in content).
std::vector<std::vector<std::string>> identities(const ClipSet& set, const ClipRecording& recording);

std::vector<const ClipSet*> pointers_to(const std::vector<ClipSet>& sets);

/// Throws Error(kRunFailed) where two of the sets have the same group name, or where a recording, known by its content,
/// or by its unit where two sets are of one table, is in different splits of two sets. `nodes`: whose results they are.
void require_together(const std::vector<const ClipSet*>& sets, const std::vector<std::string>& nodes);

/// The message for two sets of one group name; `node` made the second.
std::string two_sets_of_one_name(const std::string& group, const std::string& node);

/// Labels that have a train clip, over all sets: sorted, unique. Throws Error(kRunFailed) where there are fewer than
/// two.
std::vector<std::string> trained_labels(const std::vector<const ClipSet*>& sets);

/// Throws Error(kRunFailed) where these are too few to tell apart.
void require_two(const std::vector<std::string>& labels);

/// The place of a label in a sorted list of labels, or −1.
int64_t class_of(const std::vector<std::string>& labels, const std::string& label);

/// Reads the sound of a set's clips. Not thread-safe.
class ClipReader {
public:
    /// `set` must outlive the reader. Opens the plugin where it serves samples itself.
    ClipReader(const ClipSet& set, const Registry& registry);
    ~ClipReader();
    /// Mono samples of the whole clip at `rate` Hz. Where the set has a band limit, the sound first goes through the
    /// rate 2 · limit: what lies above the limit is 80 dB down or more, whatever the recording's own rate, and the
    /// last 9 % below it belong to the filter's slope. Throws Error(kRunFailed) where the recording's file isn't, or
    /// is no longer, the one whose hash the set has, so that nothing is made of other sound than the keys say.
    std::vector<float> read(const Clip& clip, double rate);

private:
    std::vector<float> heard(const Clip& clip, double rate);
    std::vector<float> read(size_t recording, double start_s, double end_s, double rate);
    void require_unchanged(size_t recording);

    const ClipSet& set_;
    std::vector<FileStamp> compared_;  ///< by recording: the file's stamp when it had the hash; empty = not compared
    std::unique_ptr<DatasetSource> source_;
};

}  // namespace biophony
