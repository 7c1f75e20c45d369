// Clips → train, valid, test. Whole units go to one split, never parts; the same seed gives the same split.
#pragma once

#include <array>
#include <cstdint>

#include "tasks/clips.hpp"

namespace biophony {

/// Within each label the units are put in a random but fixed order and dealt out so that the shares come as near to
/// `fractions` (train, valid, test) as whole units allow; every label that is the first of some unit has a training
/// unit, and from two units on a test unit, from three on a validation unit. A unit with several labels follows its
/// first.
void split_by_unit(ClipSet& set, const std::array<double, 3>& fractions, uint64_t seed);

/// Deals the units into `folds` folds (3 or more), which depend on the seed but not on `fold` (0 … folds − 1); then
/// test = this fold, valid = the next one (after the last, the first), train = the rest. So each clip is in the test
/// split of exactly one fold. Labels with few units are dealt first, each unit to the fold that has the fewest units of
/// the label, then the fewest of all: a label whose units have no other label is spread evenly, and with `folds` units
/// or more it is in every fold. (Sechidis, Tsoumakas and Vlahavas 2011, the greedy stratification for several labels.)
void split_by_fold(ClipSet& set, size_t folds, size_t fold, uint64_t seed);

struct LeftOut {
    size_t labels = 0, clips = 0;
};
/// Drops the clips of labels that occur in fewer than `minimum` units.
LeftOut drop_rare_labels(ClipSet& set, size_t minimum);

}  // namespace biophony
