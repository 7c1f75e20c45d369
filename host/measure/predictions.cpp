#include "measure/predictions.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <set>

#include "base/csv.hpp"

namespace biophony {

std::string Predictions::to_csv() const {
    std::string out = "group,recording,file,start_s,end_s,truth,predicted,predicted_within,score,rank,rank_within\n";
    for (const ClipPrediction& clip : clips)
        out += fmt::format(
            "{},{},{},{},{},{},{},{},{},{},{}\n", csv_field(groups[static_cast<size_t>(clip.group)].name),
            csv_field(clip.recording), csv_field(clip.file), clip.start_s, clip.end_s,
            csv_field(labels[static_cast<size_t>(clip.truth)]), csv_field(labels[static_cast<size_t>(clip.predicted)]),
            clip.predicted_within < 0 ? std::string() : csv_field(labels[static_cast<size_t>(clip.predicted_within)]),
            clip.score, clip.rank, clip.rank_within);
    return out;
}

Json Predictions::to_json() const {
    Json group_list = Json::array(), clip_list = Json::array();
    for (const PredictionGroup& group : groups)
        group_list.push_back({{"name", group.name}, {"classes", group.classes}});
    for (const ClipPrediction& clip : clips)
        clip_list.push_back({clip.group, clip.recording, clip.file, clip.start_s, clip.end_s, clip.truth,
                             clip.predicted, clip.predicted_within, clip.score, clip.rank, clip.rank_within});
    return {{"format", "biophony-predictions/0"},
            {"row", row},
            {"head", head},
            {"split", split},
            {"repeat", repeat},
            {"pools_clips", pools_clips},
            {"sends", sends},
            {"labels", labels},
            {"model_groups", model_groups},
            {"groups", group_list},
            {"unseen", unseen},
            {"columns",
             {"group", "recording", "file", "start_s", "end_s", "truth", "predicted", "predicted_within", "score",
              "rank", "rank_within"}},
            {"clips", clip_list}};
}

Predictions Predictions::from_json(const Json& json) {
    Predictions out;
    out.row = json.at("row");
    out.head = json.at("head");
    out.split = json.at("split");
    out.repeat = json.value("repeat", "");
    out.pools_clips = json.value("pools_clips", false);
    out.sends = json.value("sends", "");
    out.labels = json.at("labels").get<std::vector<std::string>>();
    out.model_groups = json.at("model_groups").get<std::vector<std::string>>();
    out.unseen = json.at("unseen").get<std::map<std::string, int>>();
    for (const Json& group : json.at("groups"))
        out.groups.push_back({group.at("name"), group.at("classes").get<std::vector<int>>()});
    for (const Json& clip : json.at("clips"))
        out.clips.push_back({clip.at(0), clip.at(1), clip.at(2), clip.at(3), clip.at(4), clip.at(5), clip.at(6),
                             clip.at(7), clip.at(8), clip.size() > 10 ? clip.at(9).get<int>() : 0,
                             clip.size() > 10 ? clip.at(10).get<int>() : 0});
    return out;
}

Json metrics_of(const Predictions& predictions) {
    auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
    auto figures = [&](int group) {
        std::vector<int> truth, within, everywhere, ranks, ranks_within;
        std::set<std::pair<int, std::string>> recordings;
        std::set<int> labels;
        for (const ClipPrediction& clip : predictions.clips) {
            if (group >= 0 && clip.group != group) continue;
            truth.push_back(clip.truth);
            within.push_back(clip.predicted_within);
            everywhere.push_back(clip.predicted);
            ranks.push_back(clip.rank);
            ranks_within.push_back(clip.rank_within);
            recordings.emplace(clip.group, clip.recording);
            labels.insert(clip.truth);
        }
        // A rank is never worse than the number of classes, so that the five best of fewer are all of them.
        auto of = [&](const std::vector<int>& predicted, const std::vector<int>& places) {
            return Json{{"accuracy", number(accuracy(truth, predicted))},
                        {"balanced_accuracy", number(balanced_accuracy(truth, predicted))},
                        {"top_5", number(top_k_accuracy(places, 5))},
                        {"macro_f1", number(macro_f1(truth, predicted))}};
        };
        return Json{{"clips", truth.size()},
                    {"recordings", recordings.size()},
                    {"labels", labels.size()},
                    {"within", of(within, ranks_within)},
                    {"union", of(everywhere, ranks)}};
    };
    Json groups = Json::object();
    for (size_t g = 0; g < predictions.groups.size(); ++g)
        groups[predictions.groups[g].name] = figures(static_cast<int>(g));
    for (const auto& [group, of_group] : species_of(std::array{&predictions})) {
        Json species = Json::object();
        for (const auto& [label, one] : of_group)
            species[label] = {{"clips", one.clips},
                              {"recordings", one.recordings},
                              {"recall_within", one.recall_within},
                              {"recall_union", one.recall_union},
                              {"precision", one.precision},
                              {"f1", one.f1}};
        groups[group]["species"] = species;
    }
    return {{"format", "biophony-metrics/0"},
            {"row", predictions.row},
            {"head", predictions.head},
            {"split", predictions.split},
            {"repeat", predictions.repeat},
            {"pools_clips", predictions.pools_clips},
            {"sends", predictions.sends},
            {"classes", predictions.labels.size()},
            {"model_groups", predictions.model_groups},
            {"groups", groups},
            {"all", figures(-1)},
            {"unseen", predictions.unseen}};
}

std::map<std::string, std::map<std::string, SpeciesFigures>> species_of(std::span<const Predictions* const> folds,
                                                                        const ClipWeight& weight) {
    struct Counts {
        double clips = 0, within = 0, everywhere = 0;
        std::set<std::string> recordings;
    };
    struct Totals {
        double truths = 0, predictions = 0, hits = 0;
    };
    std::map<std::string, std::map<std::string, Counts>> counts;
    std::map<std::string, Totals> totals;  // over the clips of all groups
    for (const Predictions* fold : folds)
        for (const ClipPrediction& clip : fold->clips) {
            const double n = weight ? weight(*fold, clip) : 1;
            const std::string& truth = fold->labels.at(static_cast<size_t>(clip.truth));
            Counts& one = counts[fold->groups.at(static_cast<size_t>(clip.group)).name][truth];
            const double right = clip.predicted == clip.truth ? n : 0;
            one.clips += n;
            one.within += clip.predicted_within == clip.truth ? n : 0;
            one.everywhere += right;
            one.recordings.insert(clip.recording);
            totals[truth].truths += n;
            totals[truth].hits += right;
            totals[fold->labels.at(static_cast<size_t>(clip.predicted))].predictions += n;
        }
    auto ratio = [](double part, double whole) { return whole == 0 ? 0.0 : part / whole; };
    std::map<std::string, std::map<std::string, SpeciesFigures>> out;
    for (const auto& [group, labels] : counts)
        for (const auto& [label, one] : labels) {
            const Totals& all = totals.at(label);
            out[group][label] = {.clips = static_cast<size_t>(std::llround(one.clips)),
                                 .recordings = one.recordings.size(),
                                 .recall_within = ratio(one.within, one.clips),
                                 .recall_union = ratio(one.everywhere, one.clips),
                                 .precision = ratio(all.hits, all.predictions),
                                 .f1 = ratio(2 * all.hits, all.truths + all.predictions)};
        }
    return out;
}

std::string confusion_csv(const Predictions& predictions) {
    std::map<std::pair<std::string, std::string>, size_t> counts;
    for (const ClipPrediction& clip : predictions.clips)
        ++counts[{predictions.labels.at(static_cast<size_t>(clip.truth)),
                  predictions.labels.at(static_cast<size_t>(clip.predicted))}];
    std::string out = "truth,predicted,clips\n";
    for (const auto& [pair, clips] : counts)
        out += fmt::format("{},{},{}\n", csv_field(pair.first), csv_field(pair.second), clips);
    return out;
}

}  // namespace biophony
