// "Did you mean": the nearest name to a misspelt one.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace biophony {

/// Edit distance in which swapping two neighbours counts as one step (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b);

/// The nearest candidate, or empty where none is near: at most a third of the word's length away, at least 2 steps
/// allowed, letter case ignored; a name of which the word is a whole part ("median" of "coordinate-median") is a step
/// away. Of equally near ones the first.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

/// `message` about a name that isn't one of `names`, with the nearest: "; did you mean 'x'?" or, where none is near and
/// there are few, "; there are: a, b, c", or, of none at all, `none`.
Message with_nearest(Message message, std::string_view word, std::span<const std::string> names,
                     std::string_view none = {});
/// What with_nearest() adds, to stand within a text.
std::string did_you_mean(std::string_view word, std::span<const std::string> names);

}  // namespace biophony
