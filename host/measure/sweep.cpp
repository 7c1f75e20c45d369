#include "measure/sweep.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/csv.hpp"

namespace biophony {

namespace {

double mean_of(const std::map<std::string, double>& values) {
    double sum = 0;
    for (const auto& [name, value] : values) sum += value;
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double size_of(const SweepPoint& point) {
    double sum = 0;
    for (const auto& [name, value] : point.coefficients) sum += std::abs(value);
    return sum;
}

std::string mark_of(const SweepPoint& point) {
    if (point.chosen) return "chosen";
    return point.rejected.empty() ? (point.front ? "front" : "") : point.rejected;
}

}  // namespace

void judge_sweep(Sweep& sweep) {
    const SweepPoint& base = sweep.points.front();
    if (!base.problem.empty())
        throw Error(Code::kRunFailed, fmt::format("the base could not be scored: {}", base.problem));
    const double sign = sweep.goal == "forget" ? -1 : 1;
    for (SweepPoint& point : sweep.points) {
        point.rejected = point.problem;
        if (!point.problem.empty()) continue;
        point.target = mean_of(point.targets);
        point.control = mean_of(point.controls);
        if (&point == &base) continue;
        for (const auto& [group, accuracy] : point.controls) {
            const double before = base.controls.at(group);
            // The product is rounded: what is equal on paper must count as equal.
            if (accuracy >= sweep.floor * before * (1 - 1e-12)) continue;
            point.rejected += fmt::format("{}{} {:.3f} < {} × {:.3f}", point.rejected.empty() ? "" : ", ", group,
                                          accuracy, sweep.floor, before);
        }
    }
    SweepPoint* best = nullptr;
    for (SweepPoint& point : sweep.points) {
        if (!point.rejected.empty()) continue;
        point.front = std::none_of(sweep.points.begin(), sweep.points.end(), [&](const SweepPoint& other) {
            bool better = false;
            for (const auto& [group, accuracy] : point.targets) {
                if (!other.rejected.empty() || sign * other.targets.at(group) < sign * accuracy) return false;
                better |= sign * other.targets.at(group) > sign * accuracy;
            }
            return better;
        });
        const bool better = best == nullptr || sign * point.target > sign * best->target ||
                            (sign * point.target == sign * best->target && size_of(point) < size_of(*best));
        if (better) best = &point;
    }
    best->chosen = true;
}

const SweepPoint& Sweep::chosen() const {
    return *std::find_if(points.begin(), points.end(), [](const SweepPoint& point) { return point.chosen; });
}

std::vector<std::string> Sweep::at_edge() const {
    std::vector<std::string> out;
    for (const auto& [name, value] : chosen().coefficients) {
        std::set<double> grid;
        for (size_t p = 1; p < points.size(); ++p) grid.insert(points[p].coefficients.at(name));
        if (!points.front().chosen && grid.size() > 1 && (value == *grid.begin() || value == *grid.rbegin()))
            out.push_back(name);
    }
    return out;
}

Json Sweep::to_json() const {
    Json list = Json::array();
    for (const SweepPoint& point : points) {
        Json entry = {{"coefficients", point.coefficients}, {"targets", point.targets}, {"controls", point.controls},
                      {"allowed", point.rejected.empty()},  {"front", point.front},     {"chosen", point.chosen}};
        if (point.problem.empty()) entry["target"] = point.target;
        if (!point.controls.empty()) entry["control"] = point.control;
        if (!point.rejected.empty()) entry["why"] = point.rejected;
        list.push_back(std::move(entry));
    }
    return {{"format", "biophony-sweep/0"},
            {"expression", expression},
            {"goal", goal},
            {"judge", judge},
            {"figure", figure},
            {"floor", points.front().controls.empty() ? Json(nullptr) : Json(floor)},
            {"split", "valid"},
            {"chosen", chosen().coefficients},
            {"at_edge", at_edge()},
            {"points", std::move(list)}};
}

std::string Sweep::to_csv() const {
    const SweepPoint& base = points.front();
    std::string out;
    for (const auto& [name, value] : base.coefficients) out += csv_field(name) + ",";
    for (const auto& [group, value] : base.targets) out += csv_field("target " + group) + ",";
    for (const auto& [group, value] : base.controls) out += csv_field("control " + group) + ",";
    out += "target_mean,control_mean,allowed,front,chosen,why\n";
    for (const SweepPoint& point : points) {
        for (const auto& [name, value] : point.coefficients) out += fmt::format("{},", value);
        auto numbers = [&](const std::map<std::string, double>& values, size_t count) {
            for (const auto& [group, value] : values) out += fmt::format("{},", value);
            if (values.empty()) out += std::string(count, ',');
        };
        numbers(point.targets, base.targets.size());
        numbers(point.controls, base.controls.size());
        out += point.problem.empty() ? fmt::format("{},", point.target) : std::string(",");
        out += point.controls.empty() ? std::string(",") : fmt::format("{},", point.control);
        out += fmt::format("{},{},{},{}\n", point.rejected.empty() ? 1 : 0, point.front ? 1 : 0, point.chosen ? 1 : 0,
                           csv_field(point.rejected));
    }
    return out;
}

std::string Sweep::to_text() const {
    const SweepPoint& base = points.front();
    std::string out = fmt::format("base + {}: to {}, {} accuracy on the valid clips", expression, goal, figure);
    if (!base.controls.empty()) out += fmt::format(", each control at least {} of the base's", floor);
    out += fmt::format("; head: {}\n\n", judge == "fixed" ? "as given" : judge + ", fitted at each point");

    std::vector<std::vector<std::string>> cells(1);
    for (const auto& [name, value] : base.coefficients) cells[0].push_back(name);
    for (const auto& [group, value] : base.targets) cells[0].push_back("target " + group);
    for (const auto& [group, value] : base.controls) cells[0].push_back("control " + group);
    for (const SweepPoint& point : points) {
        std::vector<std::string>& line = cells.emplace_back();
        for (const auto& [name, value] : point.coefficients) line.push_back(fmt::format("{:.6g}", value));
        for (const auto* part : {&base.targets, &base.controls})
            for (const auto& [group, value] : *part) {
                const auto& own = part == &base.targets ? point.targets : point.controls;
                line.push_back(own.empty() ? "–" : fmt::format("{:.3f}", own.at(group)));
            }
        line.push_back((&point == &base ? (point.chosen ? "base, " : "base") : "") + mark_of(point));
    }
    std::vector<size_t> widths(cells[0].size(), 0);
    for (const auto& line : cells)
        for (size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], line[c].size());
    for (const auto& line : cells) {
        for (size_t c = 0; c < widths.size(); ++c) out += fmt::format("  {:>{}}", line[c], widths[c]);
        if (line.size() > widths.size() && !line.back().empty()) out += "  " + line.back();
        out += '\n';
    }

    // Two coefficients: the targets' mean as a map, what may not be taken in brackets.
    if (base.coefficients.size() == 2) {
        const std::string rows = base.coefficients.begin()->first, columns = base.coefficients.rbegin()->first;
        std::set<double> down, across;
        std::map<std::pair<double, double>, const SweepPoint*> at;
        for (size_t p = 1; p < points.size(); ++p) {
            const double y = points[p].coefficients.at(rows), x = points[p].coefficients.at(columns);
            down.insert(y);
            across.insert(x);
            at[{y, x}] = &points[p];
        }
        out += fmt::format(
            "\nmean of the targets; {} down, {} across; * is chosen, what stands in brackets is not "
            "allowed\n\n{:8}",
            rows, columns, "");
        for (const double x : across) out += fmt::format("{:>8.4g}", x);
        out += '\n';
        for (const double y : down) {
            out += fmt::format("{:>8.4g}", y);
            for (const double x : across) {
                const auto found = at.find({y, x});
                std::string cell = found == at.end() || !found->second->problem.empty()
                                       ? "–"
                                       : fmt::format("{:.3f}", found->second->target);
                if (found != at.end() && found->second->chosen) cell += "*";
                if (found != at.end() && !found->second->rejected.empty()) cell = "(" + cell + ")";
                out += fmt::format("{:>8}", cell);
            }
            out += '\n';
        }
    }
    if (base.chosen) out += "\n  No point that is allowed does better than the base, so the result is the base.\n";
    for (const std::string& name : at_edge())
        out += fmt::format("\n  The chosen {} lies at an end of its grid.\n", name);
    return out;
}

std::vector<std::map<std::string, double>> grid_points(const std::map<std::string, std::vector<double>>& grids) {
    std::vector<std::map<std::string, double>> out = {{}};
    for (const auto& [name, values] : grids) {
        std::vector<std::map<std::string, double>> next;
        for (const auto& point : out)
            for (const double value : values) {
                next.push_back(point);
                next.back()[name] = value;
            }
        out = std::move(next);
    }
    return out;
}

}  // namespace biophony
