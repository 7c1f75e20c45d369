#include <ATen/core/grad_mode.h>
#include <ATen/ops/matmul.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/files.hpp"
#include "learn/encoder.hpp"
#include "learn/model_files.hpp"
#include "learn/runtime.hpp"
#include "learn/trainer.hpp"
#include "measure/predictions.hpp"
#include "plugins/call.hpp"

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

}  // namespace

void run_evaluate(TaskContext& context) {
    const at::NoGradGuard no_grad;
    const Split split = split_from(context.params.at("split").get<std::string>());
    const std::vector<ClipSet> sets = load_sets(context.input_list("data"));
    const auto folder = context.input("model").folder;
    const HeadFile head = HeadFile::load(folder / "head.safetensors");
    LoadedEncoder encoder = load_encoder(folder / "encoder.safetensors", *context.registry);
    const CrashContext crash(encoder.card.encoder, context.node);
    const auto begin = std::chrono::steady_clock::now();

    WindowFeatures windows(sets, split, *context.registry, *encoder.module, *context.progress, *context.cancel);
    const at::Tensor features =
        embed(*encoder.module, windows, context.params.at("batch"), *context.progress, *context.cancel, head.pooling);
    const at::Tensor scores =
        (at::matmul(features.to(at::kDouble), head.weight.to(at::kDouble).t()) + head.bias.to(at::kDouble))
            .contiguous();

    Predictions predictions;
    predictions.labels = head.labels;
    const std::string given = context.params.at("row");
    predictions.row = given.empty() ? row_of(context.node) : given;
    predictions.head = head.kind;
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
    for (size_t w = 0; w < windows.windows().size();) {
        // The windows of one clip stand next to each other; their scores are averaged.
        const Window first = windows.windows()[w];
        std::vector<double> mean(head.labels.size(), 0.0);
        size_t count = 0;
        for (; w < windows.windows().size() && windows.windows()[w].set == first.set &&
               windows.windows()[w].clip == first.clip;
             ++w, ++count)
            for (int64_t c = 0; c < columns; ++c)
                mean[static_cast<size_t>(c)] += values[static_cast<int64_t>(w) * columns + c];
        for (double& value : mean) value /= static_cast<double>(count);
        const ClipSet& set = sets[first.set];
        const Clip& clip = set.clips[first.clip];
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
    }
    for (const auto& [label, n] : predictions.unseen)
        context.note(fmt::format("{} clips of '{}' were left out: the model has never seen this label", n, label));
    if (predictions.clips.empty())
        throw Error(Code::kRunFailed,
                    fmt::format("no clip of the {} split has a label that the model knows", to_string(split)));
    write_file_atomically(context.out / "predictions.csv", predictions.to_csv());
    write_json(context.out / "predictions.json", predictions.to_json());
    write_file_atomically(context.out / "confusion.csv", confusion_csv(predictions));
    const Json figures = metrics_of(predictions);
    write_json(context.out / "metrics.json", figures);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    context.headline = fmt::format("{} clips, accuracy {:.3f}, {:.0f} clips/s", predictions.clips.size(),
                                   figures.at("all").at("union").at("accuracy").get<double>(),
                                   static_cast<double>(predictions.clips.size()) / std::max(seconds, 1e-9));
}

}  // namespace biophony
