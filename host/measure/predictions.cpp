#include "measure/predictions.hpp"

#include <fmt/format.h>

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
            {"sends", sends},
            {"pools_clips", pools_clips},
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
    out.repeat = json.at("repeat");
    out.sends = json.at("sends");
    out.pools_clips = json.at("pools_clips");
    out.labels = json.at("labels").get<std::vector<std::string>>();
    out.model_groups = json.at("model_groups").get<std::vector<std::string>>();
    out.unseen = json.at("unseen").get<std::map<std::string, int>>();
    for (const Json& group : json.at("groups"))
        out.groups.push_back({group.at("name"), group.at("classes").get<std::vector<int>>()});
    for (const Json& clip : json.at("clips"))
        out.clips.push_back({clip.at(0), clip.at(1), clip.at(2), clip.at(3), clip.at(4), clip.at(5), clip.at(6),
                             clip.at(7), clip.at(8), clip.at(9), clip.at(10)});
    return out;
}

Json metrics_of(const Predictions& predictions) {
    auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
    auto figures = [&](int group) {
        std::vector<int> truth, within, everywhere;
        std::set<std::string> recordings;
        std::set<int> labels;
        for (const ClipPrediction& clip : predictions.clips) {
            if (group >= 0 && clip.group != group) continue;
            truth.push_back(clip.truth);
            within.push_back(clip.predicted_within);
            everywhere.push_back(clip.predicted);
            recordings.insert(clip.recording);
            labels.insert(clip.truth);
        }
        return Json{
            {"clips", truth.size()},
            {"recordings", recordings.size()},
            {"labels", labels.size()},
            {"within", {{"accuracy", number(accuracy(truth, within))}, {"macro_f1", number(macro_f1(truth, within))}}},
            {"union",
             {{"accuracy", number(accuracy(truth, everywhere))}, {"macro_f1", number(macro_f1(truth, everywhere))}}}};
    };
    Json groups = Json::object();
    for (size_t g = 0; g < predictions.groups.size(); ++g)
        groups[predictions.groups[g].name] = figures(static_cast<int>(g));
    return {{"format", "biophony-metrics/0"},
            {"row", predictions.row},
            {"head", predictions.head},
            {"split", predictions.split},
            {"classes", predictions.labels.size()},
            {"model_groups", predictions.model_groups},
            {"groups", groups},
            {"all", figures(-1)},
            {"unseen", predictions.unseen}};
}

}  // namespace biophony
