#include "learn/model_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/files.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

void HeadFile::save(const std::filesystem::path& file) const {
    const bool wide = weight.scalar_type() == at::kDouble;
    const DType dtype = wide ? DType::kF64 : DType::kF32;
    SafetensorsWriter writer(
        file, {{"weight", dtype, weight.sizes().vec()}, {"bias", dtype, bias.sizes().vec()}},
        {{"biophony.format", "head/0"},
         {"biophony.head",
          canonical({{"kind", kind}, {"labels", labels}, {"groups", groups}, {"pooling", to_string(pooling)}})}});
    for (const auto& [name, tensor] : {std::pair("weight", weight.contiguous()), std::pair("bias", bias.contiguous())})
        writer.write(name, 0, {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()});
    writer.finish();
}

std::vector<std::vector<std::string>> identities(const ClipSet& set, const ClipRecording& recording) {
    std::vector<std::vector<std::string>> out = {{recording.content}};
    if (const std::string table = set.params.value("file", ""); !table.empty())
        out.push_back({set.item, table, recording.unit});
    return out;
}

std::vector<ClipSet> load_sets(const std::vector<InputArtefact>& data) {
    std::vector<ClipSet> sets;
    std::set<std::string> groups;
    struct Heard {
        Split split;
        std::string group, node, recording;
    };
    std::map<std::vector<std::string>, Heard> heard;  // by content, and by unit of one table
    for (const InputArtefact& artefact : data) {
        sets.push_back(ClipSet::load(artefact.folder));
        const ClipSet& set = sets.back();
        if (!groups.insert(set.group).second)
            throw Error(Code::kRunFailed,
                        fmt::format("two data sets are called '{}' (the second is {}); give one a \"group_name\"",
                                    set.group, artefact.node));
        for (const Clip& clip : set.clips) {
            const ClipRecording& recording = set.recordings[clip.recording];
            auto check = [&](std::vector<std::string> key) {
                const auto [found, added] =
                    heard.try_emplace(std::move(key), Heard{clip.split, set.group, artefact.node, recording.id});
                const Heard& other = found->second;
                if (!added && other.split != clip.split)
                    throw Error(
                        Code::kRunFailed,
                        fmt::format("one recording is in the split {} of '{}' ({}, '{}') and in the split {} of '{}' "
                                    "({}, '{}'), so a model would be tested on what it was trained on; give both data "
                                    "sets the source's own splits; with folds, recordings that several groups share "
                                    "must be in one data set, or be left out of one",
                                    to_string(other.split), other.group, other.node, other.recording,
                                    to_string(clip.split), set.group, artefact.node, recording.id));
            };
            for (auto& identity : identities(set, recording)) check(std::move(identity));
        }
    }
    return sets;
}

std::vector<std::string> trained_labels(const std::vector<ClipSet>& sets) {
    std::set<std::string> labels;
    for (const ClipSet& set : sets)
        for (const Clip& clip : set.clips)
            if (clip.split == Split::kTrain) labels.insert(clip.label);
    if (labels.size() < 2)
        throw Error(Code::kRunFailed,
                    fmt::format("found {} labels with train clips, expected at least 2", labels.size()));
    return {labels.begin(), labels.end()};
}

int64_t class_of(const std::vector<std::string>& labels, const std::string& label) {
    const auto at = std::lower_bound(labels.begin(), labels.end(), label);
    return at != labels.end() && *at == label ? at - labels.begin() : -1;
}

void hand_on_encoder(const InputArtefact& from, const std::filesystem::path& out, const std::string& name) {
    const fs::path source = from.folder / "encoder.safetensors", target = out / name;
    std::error_code problem;
    fs::create_hard_link(source, target, problem);
    if (problem) fs::copy_file(source, target);
}

}  // namespace biophony
