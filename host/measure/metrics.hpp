// Metrics of single-label classification: pure functions of truth and prediction, equal to scikit-learn's. Class codes
// are any numbers; inputs of different lengths throw Error(kInternal). Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace biophony {

/// Share of equal entries; NaN where there are none. Sizes must agree.
double accuracy(std::span<const int> truth, std::span<const int> predicted);

/// Unweighted mean of the classes' F1. As sklearn's f1_score(average="macro", zero_division=0): the classes are those
/// that occur in truth or prediction; a class without true positives counts 0. NaN where there are no entries.
double macro_f1(std::span<const int> truth, std::span<const int> predicted);

/// How often each true class was predicted as each class.
struct Confusion {
    std::vector<int> labels;       ///< those that occur in truth or prediction, ascending
    std::vector<uint64_t> counts;  ///< labels × labels, row = truth, column = prediction, row-major
    uint64_t at(size_t truth, size_t predicted) const { return counts[truth * labels.size() + predicted]; }
};
Confusion confusion(std::span<const int> truth, std::span<const int> predicted);

/// One class's figures; a quotient whose denominator is 0 counts 0 (sklearn's zero_division=0).
struct ClassScores {
    int label = 0;
    double precision = 0, recall = 0, f1 = 0;
    uint64_t support = 0;  ///< how often the class is the truth
};
/// Of every class that occurs in truth or prediction, ascending; as sklearn's precision_recall_fscore_support.
std::vector<ClassScores> class_scores(std::span<const int> truth, std::span<const int> predicted);

/// Mean over the classes that occur in truth of their recalls; as sklearn's balanced_accuracy_score. NaN where there
/// are no entries.
double balanced_accuracy(std::span<const int> truth, std::span<const int> predicted);

/// The place of scores[truth] among the scores of `classes`, best first, from 1: one more than the number of classes
/// with a higher score, or an equal score and a higher index, as in sklearn's top_k_accuracy_score. So where scores are
/// equal it needn't agree with the first maximum. Throws Error(kInternal) where truth isn't one of the classes.
int truth_rank(std::span<const double> scores, int truth, std::span<const int> classes);
/// Among all scores.
int truth_rank(std::span<const double> scores, int truth);

/// Share of ranks that are k or better; as sklearn's top_k_accuracy_score. NaN where there are none, or where one is
/// below 1, which stands for unknown.
double top_k_accuracy(std::span<const int> ranks, int k);

struct Interval {
    double low = 0, high = 0;
};

/// Bootstrap over recordings, stratified by group: in each of `resamples` rounds every group's recordings are drawn
/// with replacement, as many as it has, and the statistic is the pooled mean of `values` (one per clip) over the drawn
/// recordings' clips. `recording[i]` and `group[i]` are the codes of clip i; a recording code in two groups is two
/// recordings. Percentile interval of the given level (0.95), with numpy's linear interpolation. For a paired
/// difference, pass the differences as values. Deterministic in `seed`, whatever the codes' values, as long as their
/// order stays. An empty input or a NaN among the values gives NaN. Efron 1979; strata and clusters as in Davison and
/// Hinkley 1997, 3.2 and 3.8. Throws Error(kInternal) for sizes that differ, a level outside (0, 1) or resamples < 1.
Interval bootstrap_mean(std::span<const double> values, std::span<const int> recording, std::span<const int> group,
                        double level, int resamples, uint64_t seed);

}  // namespace biophony
