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

struct Near {
    std::string one;                   ///< empty where there is none, or several
    std::vector<std::string> several;  ///< names that have the word as a part, where they are few
};
/// The candidate nearest to a word: at most a third of the word's length away, at least 2 steps allowed, letter case
/// ignored; of equally near ones the first. Where none is within one step, names of which the word is a whole part, as
/// "median" of "coordinate-median", come before it. The first thousand count.
Near near_names(std::string_view word, std::span<const std::string> candidates);
inline std::string nearest(std::string_view word, std::span<const std::string> candidates) {
    return near_names(word, candidates).one;
}

/// `message` with "; did you mean 'NEAR'?", where there is one.
Message suggesting(Message message, std::string near);
/// `message` about a name that isn't one of `names`, with the nearest: "; did you mean 'x'?", "; did you mean one of x,
/// y?" or, where none is near and there are few, "; there are: x, y, z", or, of none at all, `none`.
Message with_nearest(Message message, std::string_view word, std::span<const std::string> names,
                     std::string_view none = {});
/// What with_nearest() adds, to stand within a text.
std::string did_you_mean(std::string_view word, std::span<const std::string> names);

}  // namespace biophony
