// A sweep over coefficients: what each point scored, which are allowed, and which one is taken.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/json.hpp"

namespace biophony {

struct SweepPoint {
    std::map<std::string, double> coefficients;
    std::map<std::string, double> targets, controls;  ///< group → accuracy, from 0 to 1
    std::string problem;                              ///< why it could not be scored; the accuracies are then empty
    // Filled in by judge_sweep():
    double target = 0;     ///< mean over the targets
    double control = 0;    ///< mean over the controls, 0 where there are none
    std::string rejected;  ///< why it may not be taken: "frog 0.500 < 0.95 × 0.600"; empty = it may
    bool front = false;    ///< allowed, and no allowed point is as good for all targets and better for one
    bool chosen = false;
};

/// What a sweep was after, and its points; the first is the base, with all coefficients 0.
struct Sweep {
    std::string expression, goal, judge, figure;
    double floor = 0;
    std::vector<SweepPoint> points;

    const SweepPoint& chosen() const;
    /// The coefficients of the chosen point that lie at an end of their grid, where a grid has more than one value.
    std::vector<std::string> at_edge() const;
    Json to_json() const;
    std::string to_csv() const;   ///< a line a point
    std::string to_text() const;  ///< the curve, and for two coefficients a map
};

/// Chooses: goal "forget" takes the least mean accuracy of the targets, "learn" the greatest, among the points at which
/// each control has at least `floor` times the accuracy that it has at the base. The base itself is allowed always. Of
/// equally good points the one with the smallest sum of |coefficients|, then the first.
void judge_sweep(Sweep& sweep);

/// All combinations of the grids' values, the last name changing quickest; names in the map's order.
std::vector<std::map<std::string, double>> grid_points(const std::map<std::string, std::vector<double>>& grids);

}  // namespace biophony
