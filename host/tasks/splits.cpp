#include "tasks/splits.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "base/sha256.hpp"

namespace biophony {

namespace {

/// A random but fixed order that doesn't depend on what else is in the list.
void shuffle_units(std::vector<std::string>& units, uint64_t seed) {
    std::vector<std::pair<std::string, std::string>> keyed;
    for (std::string& unit : units) keyed.emplace_back(sha256_hex(fmt::format("{}\n{}", seed, unit)), std::move(unit));
    std::sort(keyed.begin(), keyed.end());
    for (size_t i = 0; i < units.size(); ++i) units[i] = std::move(keyed[i].second);
}

std::map<std::string, std::set<std::string>> units_of_labels(const ClipSet& set) {
    std::map<std::string, std::set<std::string>> units;
    for (const Clip& clip : set.clips) units[clip.label].insert(set.recordings[clip.recording].unit);
    return units;
}

}  // namespace

void split_by_unit(ClipSet& set, const std::array<double, 3>& fractions, uint64_t seed) {
    std::map<std::string, std::vector<std::string>> units_of;  // label → units
    std::map<std::string, std::string> label_of;
    for (const Clip& clip : set.clips) {
        const std::string& unit = set.recordings[clip.recording].unit;
        if (label_of.emplace(unit, clip.label).second) units_of[clip.label].push_back(unit);
    }
    std::map<std::string, Split> split_of;
    for (auto& [label, units] : units_of) {
        shuffle_units(units, seed);
        const auto n = static_cast<double>(units.size());
        auto share = [&](double fraction, size_t least) {
            return fraction <= 0 ? size_t{0} : std::max(least, static_cast<size_t>(n * fraction + 0.5));
        };
        const size_t test = units.size() < 2 ? 0 : std::min(share(fractions[2], 1), units.size() - 1);
        const size_t valid = units.size() < 3 ? 0 : std::min(share(fractions[1], 1), units.size() - 1 - test);
        for (size_t i = 0; i < units.size(); ++i)
            split_of[units[i]] = i < test ? Split::kTest : i < test + valid ? Split::kValid : Split::kTrain;
    }
    for (Clip& clip : set.clips) clip.split = split_of.at(set.recordings[clip.recording].unit);
}

void split_by_fold(ClipSet& set, size_t folds, size_t fold, uint64_t seed) {
    if (folds < 3 || fold >= folds)
        throw Error(Code::kInternal, fmt::format("fold {} of {}, expected 3 folds or more", fold, folds));
    std::vector<std::pair<std::string, std::vector<std::string>>> labels;  // the rarest first
    std::map<std::string, std::set<std::string>> labels_of;
    for (const auto& [label, units] : units_of_labels(set)) {
        labels.emplace_back(label, std::vector<std::string>(units.begin(), units.end()));
        shuffle_units(labels.back().second, seed);
        for (const std::string& unit : units) labels_of[unit].insert(label);
    }
    std::stable_sort(labels.begin(), labels.end(),
                     [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });

    std::map<std::string, size_t> fold_of;
    std::map<std::string, std::vector<size_t>> dealt;  // label → its units in each fold
    std::vector<size_t> all(folds, 0);
    for (const auto& [label, units] : labels) dealt[label].resize(folds, 0);
    for (const auto& [label, units] : labels)
        for (const std::string& unit : units) {
            if (fold_of.contains(unit)) continue;
            size_t best = 0;
            for (size_t f = 1; f < folds; ++f)
                if (std::pair(dealt[label][f], all[f]) < std::pair(dealt[label][best], all[best])) best = f;
            fold_of[unit] = best;
            ++all[best];
            for (const std::string& other : labels_of[unit]) ++dealt[other][best];
        }
    for (Clip& clip : set.clips) {
        const size_t own = fold_of.at(set.recordings[clip.recording].unit);
        clip.split = own == fold ? Split::kTest : own == (fold + 1) % folds ? Split::kValid : Split::kTrain;
    }
}

LeftOut drop_rare_labels(ClipSet& set, size_t minimum) {
    std::set<std::string> rare;
    for (const auto& [label, units] : units_of_labels(set))
        if (units.size() < minimum) rare.insert(label);
    const size_t before = set.clips.size();
    std::erase_if(set.clips, [&](const Clip& clip) { return rare.contains(clip.label); });
    return {.labels = rare.size(), .clips = before - set.clips.size()};
}

}  // namespace biophony
