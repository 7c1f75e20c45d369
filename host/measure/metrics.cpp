#include "measure/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "base/error.hpp"
#include "base/random.hpp"

namespace biophony {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void same_size(size_t a, size_t b) {
    if (a != b) throw Error(Code::kInternal, fmt::format("metrics of {} and {} entries, expected equal sizes", a, b));
}

double ratio(uint64_t part, uint64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// Linear between the two nearest order statistics, numpy's default; `sorted` isn't empty.
double quantile(const std::vector<double>& sorted, double q) {
    const double at = q * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<size_t>(at);
    const double above = sorted[std::min(below + 1, sorted.size() - 1)];
    return sorted[below] + (at - static_cast<double>(below)) * (above - sorted[below]);
}

}  // namespace

double accuracy(std::span<const int> truth, std::span<const int> predicted) {
    same_size(truth.size(), predicted.size());
    if (truth.empty()) return kNaN;
    uint64_t equal = 0;
    for (size_t i = 0; i < truth.size(); ++i) equal += truth[i] == predicted[i] ? 1 : 0;
    return ratio(equal, truth.size());
}

Confusion confusion(std::span<const int> truth, std::span<const int> predicted) {
    same_size(truth.size(), predicted.size());
    std::set<int> seen(truth.begin(), truth.end());
    seen.insert(predicted.begin(), predicted.end());
    Confusion out{.labels = {seen.begin(), seen.end()}};
    out.counts.resize(out.labels.size() * out.labels.size());
    auto index = [&](int label) {
        return static_cast<size_t>(std::lower_bound(out.labels.begin(), out.labels.end(), label) - out.labels.begin());
    };
    for (size_t i = 0; i < truth.size(); ++i) ++out.counts[index(truth[i]) * out.labels.size() + index(predicted[i])];
    return out;
}

std::vector<ClassScores> class_scores(std::span<const int> truth, std::span<const int> predicted) {
    same_size(truth.size(), predicted.size());
    struct Counts {
        uint64_t hits = 0, truths = 0, predictions = 0;
    };
    std::map<int, Counts> counts;
    for (size_t i = 0; i < truth.size(); ++i) {
        ++counts[truth[i]].truths;
        ++counts[predicted[i]].predictions;
        if (truth[i] == predicted[i]) ++counts[truth[i]].hits;
    }
    std::vector<ClassScores> out;
    for (const auto& [label, count] : counts)
        out.push_back({.label = label,
                       .precision = ratio(count.hits, count.predictions),
                       .recall = ratio(count.hits, count.truths),
                       .f1 = ratio(2 * count.hits, count.truths + count.predictions),
                       .support = count.truths});
    return out;
}

double macro_f1(std::span<const int> truth, std::span<const int> predicted) {
    const std::vector<ClassScores> classes = class_scores(truth, predicted);
    if (classes.empty()) return kNaN;
    double sum = 0;
    for (const ClassScores& scores : classes) sum += scores.f1;
    return sum / static_cast<double>(classes.size());
}

double balanced_accuracy(std::span<const int> truth, std::span<const int> predicted) {
    double sum = 0;
    int classes = 0;
    for (const ClassScores& scores : class_scores(truth, predicted)) {
        if (scores.support == 0) continue;
        sum += scores.recall;
        ++classes;
    }
    return classes == 0 ? kNaN : sum / classes;
}

int truth_rank(std::span<const double> scores, int truth, std::span<const int> classes) {
    if (std::find(classes.begin(), classes.end(), truth) == classes.end())
        throw Error(Code::kInternal, fmt::format("the rank of class {}, which isn't among the ranked ones", truth));
    const double own = scores[static_cast<size_t>(truth)];
    int rank = 1;
    for (const int c : classes) {
        const double other = scores[static_cast<size_t>(c)];
        rank += other > own || (other == own && c > truth) ? 1 : 0;
    }
    return rank;
}

int truth_rank(std::span<const double> scores, int truth) {
    std::vector<int> all(scores.size());
    std::iota(all.begin(), all.end(), 0);
    return truth_rank(scores, truth, all);
}

double top_k_accuracy(std::span<const int> ranks, int k) {
    if (ranks.empty()) return kNaN;
    uint64_t hits = 0;
    for (const int rank : ranks) {
        if (rank < 1) return kNaN;
        hits += rank <= k ? 1 : 0;
    }
    return ratio(hits, ranks.size());
}

Interval bootstrap_mean(std::span<const double> values, std::span<const int> recording, std::span<const int> group,
                        double level, int resamples, uint64_t seed) {
    same_size(values.size(), recording.size());
    same_size(values.size(), group.size());
    if (!(level > 0 && level < 1))
        throw Error(Code::kInternal, fmt::format("the level {} isn't within 0 and 1", level));
    if (resamples < 1) throw Error(Code::kInternal, fmt::format("{} resamples, expected 1 or more", resamples));
    if (values.empty() || std::any_of(values.begin(), values.end(), [](double v) { return std::isnan(v); }))
        return {kNaN, kNaN};

    // Sums are taken relative to the first value, so that equal values give exactly that value.
    const double origin = values[0];
    struct Cluster {
        double sum = 0;
        uint64_t clips = 0;
    };
    std::map<int, std::map<int, Cluster>> found;
    for (size_t i = 0; i < values.size(); ++i) {
        Cluster& cluster = found[group[i]][recording[i]];
        cluster.sum += values[i] - origin;
        ++cluster.clips;
    }
    std::vector<std::vector<Cluster>> groups;
    for (const auto& [code, recordings] : found) {
        groups.emplace_back();
        for (const auto& [name, cluster] : recordings) groups.back().push_back(cluster);
    }
    std::vector<double> means;
    means.reserve(static_cast<size_t>(resamples));
    for (int round = 0; round < resamples; ++round) {
        Random random(mix(seed, static_cast<uint64_t>(round)));
        Cluster drawn;
        for (const auto& recordings : groups)
            for (size_t i = 0; i < recordings.size(); ++i) {
                const Cluster& one = recordings[random.below(recordings.size())];
                drawn.sum += one.sum;
                drawn.clips += one.clips;
            }
        means.push_back(origin + drawn.sum / static_cast<double>(drawn.clips));
    }
    std::sort(means.begin(), means.end());
    return {quantile(means, (1 - level) / 2), quantile(means, (1 + level) / 2)};
}

}  // namespace biophony
