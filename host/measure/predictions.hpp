// Predictions and truth of one model on held-out clips, and the figures, which are pure functions of them.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/json.hpp"
#include "measure/metrics.hpp"

namespace biophony {

struct ClipPrediction {
    int group = 0;          ///< index into Predictions::groups
    std::string recording;  ///< the unit that bootstrap resamples
    std::string file;       ///< the recording's own id
    double start_s = 0, end_s = 0;
    int truth = -1;             ///< class index
    int predicted = -1;         ///< argmax over all classes of the model
    int predicted_within = -1;  ///< argmax over the classes of the clip's group
    double score = 0;           ///< of the predicted class, as the head gives it
    int rank = 0;               ///< of the truth among all classes, truth_rank(); 0 = not known
    int rank_within = 0;        ///< of the truth among the classes of the clip's group; 0 = not known

    /// The same clip in another model's predictions has the same key.
    std::tuple<std::string, double, double> key() const { return {file, start_s, end_s}; }
};

struct PredictionGroup {
    std::string name;
    std::vector<int> classes;  ///< class indices of its labels that the model knows
};

struct Predictions {
    std::string row;           ///< what tables call the model
    std::string head;          ///< "own", "ridge"
    std::string split;         ///< "test"
    std::string repeat;        ///< which of several trainings of the same model; "" = the only one
    bool pools_clips = false;  ///< needs clips of several contributors in one place
    std::string
        sends;  ///< what contributors send for the head: "sums", "own heads", "class means", "clips", "" = nothing
    std::vector<std::string> labels;        ///< class index → label
    std::vector<std::string> model_groups;  ///< whose clips the model's head has seen
    std::vector<PredictionGroup> groups;    ///< of the clips
    std::vector<ClipPrediction> clips;
    std::map<std::string, int> unseen;  ///< clips left out because the model doesn't know their label

    /// One line per clip, RFC 4180.
    std::string to_csv() const;
    Json to_json() const;
    /// Files of earlier versions lack repeat, pools_clips, sends and ranks.
    static Predictions from_json(const Json& json);
};

/// {"row", "head", "split", "repeat", "groups": {name: {"clips", "recordings", "labels", "within": {"accuracy",
/// "balanced_accuracy", "top_5", "macro_f1"}, "union": {…}, "species": {label: {"clips", "recordings", "recall_within",
/// "recall_union", "precision", "f1"}}}}, "all": {…}, "unseen"}. "within" counts argmax over the group's classes,
/// "union" over all classes; "all.within" pools the groups' within predictions. top_5 is the share of clips whose truth
/// is among the five best classes, or among all where there are fewer. Precision and F1 of a species are over the union
/// and the clips of all groups.
Json metrics_of(const Predictions& predictions);

/// One species among the clips of one group. Precision and F1 are over the union, and count the clips of all groups.
struct SpeciesFigures {
    size_t clips = 0, recordings = 0;
    double recall_within = 0, recall_union = 0, precision = 0, f1 = 0;  ///< 0 where the denominator is
};
/// For how many clips one counts: where several repeats have it, a part of one each.
using ClipWeight = std::function<double(const Predictions&, const ClipPrediction&)>;
/// Group → label → figures, of the clips of all folds together; each counts once, or as `weight` says.
std::map<std::string, std::map<std::string, SpeciesFigures>> species_of(std::span<const Predictions* const> folds,
                                                                        const ClipWeight& weight = {});

/// truth,predicted,clips: which label was taken for which over the union, and how often; pairs that occur, by label.
std::string confusion_csv(const Predictions& predictions);

}  // namespace biophony
