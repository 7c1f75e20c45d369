#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>

#include "base/files.hpp"
#include "learn/features.hpp"
#include "learn/head_model.hpp"
#include "learn/model_files.hpp"
#include "learn/runtime.hpp"
#include "learn/tensors.hpp"
#include "measure/predictions.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

namespace {

/// "score[merger:average,ridge]" → "merger:average, ridge"; "joint" → "joint".
std::string row_of(const std::string& node) {
    const size_t open = node.find('[');
    if (open == std::string::npos || node.back() != ']') return node;
    std::string inner = node.substr(open + 1, node.size() - open - 2), out;
    for (const char c : inner) out += c == ',' ? std::string(", ") : std::string(1, c);
    return out;
}

struct WindowOf {
    size_t set = 0, clip = 0;
};

/// The digests of the encoders that a model reads, by their number in its head; empty where it reads none.
std::vector<std::string> encoders_of(const InputArtefact& model) {
    if (model.type != port::kHead) return {model.digest};
    const Json card = read_json(model.folder / "head.json");
    std::vector<std::string> out;
    for (const Json& digest : card.at("encoders"))
        out.push_back(digest.is_null() ? std::string() : digest.get<std::string>());
    return out;
}

}  // namespace

void run_evaluate(TaskContext& context) {
    const at::NoGradGuard no_grad;
    const auto begin = std::chrono::steady_clock::now();
    const Split split = split_from(context.params.at("split").get<std::string>());
    const std::vector<InputArtefact>& data = context.input_list("data");
    const std::vector<ClipSet> sets = load_sets(data);
    const InputArtefact& input = context.input("model");
    const HeadModel head = HeadModel::load(input.folder / "head.safetensors");
    const std::vector<std::string> encoders = encoders_of(input);

    // The windows of the split, set by set.
    std::vector<WindowOf> windows;
    std::map<std::pair<size_t, Pooling>, at::Tensor> read;
    std::map<size_t, std::vector<FeatureSet>> features;
    for (size_t e = 0; e < encoders.size(); ++e) {
        if (encoders[e].empty()) continue;
        const bool first = features.empty();
        for (size_t s = 0; s < sets.size(); ++s) {
            const std::vector<InputArtefact>& port = context.input_list("features");
            features[e].push_back(find_features(port, encoders[e], data[s].digest, sets[s]));
            const FeatureSet& mine = features[e].back();
            if (!first) {
                const FeatureSet& other = features.begin()->second[s];
                if (mine.clips != other.clips)
                    throw Error(Code::kRunFailed,
                                fmt::format("'{}' and '{}', which '{}' reads side by side, have {} and {} windows of "
                                            "the same clips; expected encoders whose windows are of one length",
                                            other.node, mine.node, input.node, other.clips.size(), mine.clips.size()));
                continue;
            }
            for (const int64_t w : mine.windows_of(sets[s], split))
                windows.push_back({s, static_cast<size_t>(mine.clips[static_cast<size_t>(w)])});
        }
    }
    const at::Tensor scores = head.scores([&](size_t encoder, Pooling pooling) {
        if (!features.contains(encoder))
            throw Error(Code::kRunFailed,
                        fmt::format("the head reads an encoder, number {}, that is not there", encoder));
        at::Tensor& values = read[{encoder, pooling}];
        if (!values.defined()) {
            std::vector<at::Tensor> parts;
            for (size_t s = 0; s < sets.size(); ++s) {
                const FeatureSet& set = features[encoder][s];
                parts.push_back(set.pooled(pooling).index_select(0, tensor_of(set.windows_of(sets[s], split))));
            }
            values = at::cat(parts);
        }
        return values;
    });

    Predictions predictions;
    predictions.labels = head.labels;
    const std::string given = context.params.at("row");
    predictions.row = given.empty() ? row_of(context.node) : given;
    predictions.head = head.name;
    const Json repeat = context.params.value("repeat", Json(""));
    predictions.repeat = repeat.is_string() ? repeat.get<std::string>() : repeat.dump();
    predictions.sends = head.sends;
    predictions.pools_clips = head.pools_clips;
    predictions.split = std::string(to_string(split));
    predictions.model_groups = head.groups;
    for (const ClipSet& set : sets) {
        std::vector<int> classes;
        for (const std::string& label : set.labels())
            if (const auto c = static_cast<int>(class_of(head.labels, label)); c >= 0) classes.push_back(c);
        predictions.groups.push_back({set.group, classes});
    }
    const auto columns = static_cast<int64_t>(head.labels.size());
    const double* values = scores.data_ptr<double>();
    std::vector<float> clip_scores;  // (N, C), in the order of the predictions
    for (size_t w = 0; w < windows.size();) {
        // The windows of one clip stand next to each other; their scores are averaged.
        const WindowOf first = windows[w];
        std::vector<double> mean(head.labels.size(), 0.0);
        size_t count = 0;
        for (; w < windows.size() && windows[w].set == first.set && windows[w].clip == first.clip; ++w, ++count)
            for (int64_t c = 0; c < columns; ++c)
                mean[static_cast<size_t>(c)] += values[static_cast<int64_t>(w) * columns + c];
        for (double& value : mean) value /= static_cast<double>(count);
        const ClipSet& set = sets[first.set];
        const Clip& clip = set.clips[first.clip];
        if (!std::all_of(mean.begin(), mean.end(), [](double score) { return std::isfinite(score); }))
            throw Error(Code::kRunFailed,
                        fmt::format("'{}' gives the clip {:.3f}–{:.3f} s of '{}' ('{}') scores that are infinite or "
                                    "not numbers, though its features are numbers",
                                    input.node, clip.start_s, clip.end_s, set.recordings[clip.recording].id,
                                    data[first.set].node));
        const auto truth = static_cast<int>(class_of(head.labels, clip.label));
        if (truth < 0) {
            ++predictions.unseen[clip.label];
            continue;
        }
        ClipPrediction prediction{.group = static_cast<int>(first.set),
                                  .recording = set.recordings[clip.recording].unit,
                                  .file = set.recordings[clip.recording].id,
                                  .start_s = clip.start_s,
                                  .end_s = clip.end_s,
                                  .truth = truth};
        prediction.predicted = static_cast<int>(std::max_element(mean.begin(), mean.end()) - mean.begin());
        for (const int c : predictions.groups[first.set].classes)
            if (prediction.predicted_within < 0 ||
                mean[static_cast<size_t>(c)] > mean[static_cast<size_t>(prediction.predicted_within)])
                prediction.predicted_within = c;
        prediction.score = mean[static_cast<size_t>(prediction.predicted)];
        prediction.rank = truth_rank(mean, truth);
        prediction.rank_within = truth_rank(mean, truth, predictions.groups[first.set].classes);
        predictions.clips.push_back(std::move(prediction));
        for (const double value : mean) clip_scores.push_back(static_cast<float>(value));
    }
    for (const auto& [label, n] : predictions.unseen)
        context.note(fmt::format("{} clips of '{}' were left out: the model has never seen this label", n, label));
    if (predictions.clips.empty())
        throw Error(Code::kRunFailed,
                    fmt::format("no clip of the {} split has a label that the model knows", to_string(split)));
    write_file_atomically(context.out / "predictions.csv", predictions.to_csv());
    write_json(context.out / "predictions.json", predictions.to_json());
    write_file_atomically(context.out / "confusion.csv", confusion_csv(predictions));
    SafetensorsWriter writer(context.out / "scores.safetensors",
                             {{"scores", DType::kF32, {static_cast<int64_t>(predictions.clips.size()), columns}}},
                             {{"biophony.format", "scores/0"}, {"biophony.labels", canonical(head.labels)}});
    writer.write("scores", 0, std::as_bytes(std::span(clip_scores)));
    writer.finish();
    const Json figures = metrics_of(predictions);
    write_json(context.out / "metrics.json", figures);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    context.headline = fmt::format("{} clips, accuracy {:.3f}, {:.0f} clips/s", predictions.clips.size(),
                                   figures.at("all").at("union").at("accuracy").get<double>(),
                                   static_cast<double>(predictions.clips.size()) / std::max(seconds, 1e-9));
}

}  // namespace biophony
