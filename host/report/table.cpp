#include "report/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "base/csv.hpp"
#include "base/nearest.hpp"

namespace biophony {

namespace {

using ClipKey = std::tuple<std::string, std::string, double, double>;  // group, file, start, end

/// One clip's outcome under a row.
struct Outcome {
    std::string group, recording;
    bool within = false, everywhere = false;
};

struct Scored {
    std::map<ClipKey, Outcome> clips;
    std::vector<int> truth, predicted;  ///< codes of label texts, the same in all rows
    bool has_union = true;              ///< false for specialists, which know their own group only
};

Scored outcomes_of(const TableRow& row, size_t all_groups, std::map<std::string, int>& label_codes) {
    Scored out;
    std::map<ClipKey, const Predictions*> from;
    for (const Predictions& part : row.parts) {
        if (part.split != row.parts.front().split)
            throw Error(Code::kRunFailed,
                        fmt::format("the row '{} · {}' has predictions of the splits {} and {}, expected one split",
                                    row.row, row.head, row.parts.front().split, part.split));
        if (part.model_groups.size() < all_groups) out.has_union = false;
        auto code = [&](int label) {
            return label_codes.emplace(part.labels.at(static_cast<size_t>(label)), static_cast<int>(label_codes.size()))
                .first->second;
        };
        for (const ClipPrediction& clip : part.clips) {
            const std::string& group = part.groups[static_cast<size_t>(clip.group)].name;
            const ClipKey key{group, clip.file, clip.start_s, clip.end_s};
            const auto [at, added] = from.emplace(key, &part);
            if (!added && at->second == &part)
                throw Error(Code::kRunFailed,
                            fmt::format("the row '{}' has two predictions for one clip of '{}'", row.row, clip.file));
            if (!added)
                throw Error(Code::kRunFailed,
                            fmt::format("two models are called '{}' with the head '{}', and both have the clip of '{}' "
                                        "from {} s to {} s, so they are no folds of one; give their evaluate nodes a "
                                        "\"row\"",
                                        row.row, row.head, clip.file, clip.start_s, clip.end_s));
            out.clips[key] = {group, clip.recording, clip.predicted_within == clip.truth, clip.predicted == clip.truth};
            out.truth.push_back(code(clip.truth));
            out.predicted.push_back(code(clip.predicted));
        }
    }
    return out;
}

size_t recordings_of(const Scored& scored) {
    std::set<std::pair<std::string, std::string>> unique;
    for (const auto& [key, outcome] : scored.clips) unique.emplace(outcome.group, outcome.recording);
    return unique.size();
}

struct Difference {
    double mean = 0;
    Interval interval;
    size_t clips = 0, recordings = 0;
};

/// What a table's differences have in common.
struct Bootstrap {
    int resamples = 0;
    uint64_t seed = 0;
};

/// a − b over the clips that both have, of one group or (empty) of all.
std::optional<Difference> difference_of(const Scored& a, const Scored& b, bool within, const Bootstrap& bootstrap,
                                        const std::string& group = {}) {
    std::vector<double> differences;
    std::vector<int> recordings, groups;
    std::map<std::string, int> recording_codes, group_codes;
    const auto value = [within](const Outcome& o) { return (within ? o.within : o.everywhere) ? 1.0 : 0.0; };
    for (const auto& [key, outcome] : b.clips) {
        const auto other = a.clips.find(key);
        if (other == a.clips.end() || (!group.empty() && outcome.group != group)) continue;
        differences.push_back(value(other->second) - value(outcome));
        recordings.push_back(
            recording_codes.emplace(outcome.group + "\n" + outcome.recording, static_cast<int>(recording_codes.size()))
                .first->second);
        groups.push_back(group_codes.emplace(outcome.group, static_cast<int>(group_codes.size())).first->second);
    }
    if (differences.empty()) return std::nullopt;
    Difference out{.clips = differences.size(), .recordings = recording_codes.size()};
    for (const double d : differences) out.mean += d;
    out.mean /= static_cast<double>(differences.size());
    out.interval = bootstrap_mean(differences, recordings, groups, 0.95, bootstrap.resamples, bootstrap.seed);
    return out;
}

size_t display_width(std::string_view text) {
    size_t width = 0;
    for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
    return width;
}

std::string percent(double share) {
    return std::isfinite(share) ? fmt::format("{:.1f}", 100 * share) : std::string("–");
}

std::string gap_text(const std::optional<Difference>& gap) {
    if (!gap) return "–";
    return fmt::format("{:+.1f} [{:+.1f}, {:+.1f}]", 100 * gap->mean, 100 * gap->interval.low,
                       100 * gap->interval.high);
}

Json gap_json(const std::optional<Difference>& gap) {
    if (!gap) return nullptr;
    return {{"mean", gap->mean},
            {"low", gap->interval.low},
            {"high", gap->interval.high},
            {"clips", gap->clips},
            {"recordings", gap->recordings}};
}

}  // namespace

Table make_table(std::vector<TableRow> rows, const TableReference& reference, int resamples, uint64_t seed,
                 const std::vector<Comparison>& comparisons) {
    const Bootstrap bootstrap{resamples, seed};
    std::vector<std::string> groups;
    for (const TableRow& row : rows)
        for (const Predictions& part : row.parts)
            for (const PredictionGroup& group : part.groups)
                if (std::find(groups.begin(), groups.end(), group.name) == groups.end()) groups.push_back(group.name);
    std::sort(groups.begin(), groups.end());

    auto is_control = [&](const TableRow& row) {
        return std::find(reference.controls.begin(), reference.controls.end(), row.row) != reference.controls.end();
    };
    auto rank = [&](const TableRow& row) {
        if (row.row == reference.joint) return row.head == "own" ? 0 : 1;
        if (row.row == "specialists") return 2;
        if (is_control(row)) return 5;
        return row.row == reference.base ? 4 : 3;
    };
    std::stable_sort(rows.begin(), rows.end(), [&](const TableRow& a, const TableRow& b) {
        return std::tuple(rank(a), a.row, a.head) < std::tuple(rank(b), b.row, b.head);
    });

    std::vector<Scored> scored;
    std::map<std::string, int> label_codes;
    for (const TableRow& row : rows) scored.push_back(outcomes_of(row, groups.size(), label_codes));
    auto find = [&](const std::string& name, const std::string& head) -> const Scored* {
        for (size_t i = 0; i < rows.size(); ++i)
            if (!name.empty() && rows[i].row == name && rows[i].head == head) return &scored[i];
        return nullptr;
    };
    // Nobody shares the specialists' heads: they are compared with the base under the first head that it has.
    size_t first_base = 0;
    while (first_base < rows.size() && (reference.base.empty() || rows[first_base].row != reference.base)) ++first_base;

    Table table;
    table.header = {"model", "head", "clips pooled"};
    for (const std::string& group : groups) table.header.push_back(group + " within");
    for (const std::string& group : groups) table.header.push_back(group + " union");
    for (const char* name : {"all union", "macro-F1", "gap within", "gap union", "gain within", "gain union"})
        table.header.emplace_back(name);

    table.narrow_header = {{"", "model"}, {"", "head"}, {"clips", "pooled"}};
    for (const std::string& group : groups) table.narrow_header.emplace_back(group, "within / union");
    for (const char* name : {"all", "macro-F1"}) table.narrow_header.emplace_back("", name);
    table.narrow_header.emplace_back("gap to joint,", "union");
    table.narrow_header.emplace_back("gain on base,", "union");
    bool specialists_gain = false;

    Json rows_json = Json::array();
    double best_system = -1;
    size_t best_index = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
        const TableRow& row = rows[i];
        Json json = {
            {"model", row.row}, {"head", row.head}, {"pools_clips", row.pooled_data}, {"groups", Json::object()}};
        std::vector<std::string> within_cells, union_cells;
        double union_sum = 0;
        size_t clips = 0;
        for (const std::string& group : groups) {
            double n = 0, within = 0, everywhere = 0;
            for (const auto& [key, outcome] : scored[i].clips)
                if (outcome.group == group) {
                    ++n;
                    within += outcome.within ? 1 : 0;
                    everywhere += outcome.everywhere ? 1 : 0;
                }
            clips += static_cast<size_t>(n);
            union_sum += everywhere;
            within_cells.push_back(percent(n > 0 ? within / n : NAN));
            union_cells.push_back(percent(n > 0 && scored[i].has_union ? everywhere / n : NAN));
            json["groups"][group] = {
                {"clips", n},
                {"within_accuracy", n > 0 ? Json(within / n) : Json(nullptr)},
                {"union_accuracy", n > 0 && scored[i].has_union ? Json(everywhere / n) : Json(nullptr)}};
        }
        double all = NAN, f1 = NAN;
        if (scored[i].has_union && clips > 0) {
            all = union_sum / static_cast<double>(clips);
            f1 = macro_f1(scored[i].truth, scored[i].predicted);
            if (!row.pooled_data && !is_control(row) && all > best_system) {
                best_system = all;
                best_index = i;
            }
        }
        const bool is_joint = row.row == reference.joint;
        const bool is_base = row.row == reference.base;
        const bool is_specialists = row.row == "specialists";
        // The gap compares equal heads; specialists' own heads are compared with the joint model's own.
        const Scored* joint = is_joint ? nullptr : find(reference.joint, row.head);
        const Scored* base = is_base || is_joint ? nullptr : find(reference.base, row.head);
        if (is_specialists && base == nullptr && first_base < rows.size()) {
            base = &scored[first_base];
            specialists_gain = true;
        }
        auto difference = [&](const Scored* a, const Scored* b, bool within) -> std::optional<Difference> {
            if (a == nullptr || b == nullptr || (!within && !(a->has_union && b->has_union))) return std::nullopt;
            return difference_of(*a, *b, within, bootstrap);
        };
        const auto gap_within = difference(joint, &scored[i], true), gap_union = difference(joint, &scored[i], false);
        const auto gain_within = difference(&scored[i], base, true), gain_union = difference(&scored[i], base, false);

        std::vector<std::string> narrow = {row.row, row.head, row.pooled_data ? "yes" : "no"};
        for (size_t g = 0; g < groups.size(); ++g)
            narrow.push_back(scored[i].has_union ? within_cells[g] + " / " + union_cells[g]
                                                 : within_cells[g] + " /    –");
        narrow.push_back(percent(all));
        narrow.push_back(percent(f1));
        narrow.push_back(gap_union || !gap_within ? gap_text(gap_union) : "within " + gap_text(gap_within));
        narrow.push_back(gain_union || !gain_within ? gap_text(gain_union) : "within " + gap_text(gain_within));
        table.narrow_cells.push_back(std::move(narrow));

        std::vector<std::string> cells = {row.row, row.head, row.pooled_data ? "yes" : "no"};
        cells.insert(cells.end(), within_cells.begin(), within_cells.end());
        cells.insert(cells.end(), union_cells.begin(), union_cells.end());
        cells.push_back(percent(all));
        cells.push_back(percent(f1));
        cells.push_back(gap_text(gap_within));
        cells.push_back(gap_text(gap_union));
        cells.push_back(gap_text(gain_within));
        cells.push_back(gap_text(gain_union));
        table.cells.push_back(std::move(cells));
        json["clips"] = clips;
        json["union_accuracy"] = std::isfinite(all) ? Json(all) : Json(nullptr);
        json["macro_f1"] = std::isfinite(f1) ? Json(f1) : Json(nullptr);
        json["gap_within"] = gap_json(gap_within);
        json["gap_union"] = gap_json(gap_union);
        json["gain_within"] = gap_json(gain_within);
        json["gain_on_base"] = gap_json(gain_union);
        rows_json.push_back(std::move(json));
    }

    Json system = nullptr;
    size_t clips = 0, recordings = 0, folds = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
        clips = std::max(clips, scored[i].clips.size());
        recordings = std::max(recordings, recordings_of(scored[i]));
        if (scored[i].has_union) folds = std::max(folds, rows[i].parts.size());
    }
    table.notes.push_back(
        fmt::format("{} held-out clips of {} recordings{}. Figures in percent. within = best class of the clip's own "
                    "group; union = best of all classes.",
                    clips, recordings, folds > 1 ? fmt::format(", pooled over {} folds", folds) : std::string()));
    table.notes.push_back(
        fmt::format("gap = joint − row and gain = row − base, with the same head and on the same clips, in points; 95 "
                    "% interval of a paired bootstrap over "
                    "recordings ({} rounds, stratified by group).",
                    resamples));
    if (specialists_gain)
        table.notes.push_back(fmt::format("the specialists' gain is within groups, their own heads against {} · {}",
                                          rows[first_base].row, rows[first_base].head));
    if (const Scored* own = find(reference.joint, "own"); own != nullptr && best_system >= 0) {
        const auto gap = difference_of(*own, scored[best_index], false, bootstrap);
        system = {{"row", rows[best_index].row}, {"head", rows[best_index].head}, {"gap", gap_json(gap)}};
        table.notes.push_back(
            fmt::format("system gap, joint with its own head against the row without pooled clips that is best on "
                        "these clips ({} · {}): {}",
                        rows[best_index].row, rows[best_index].head, gap_text(gap)));
    }
    for (size_t i = 0; i < rows.size(); ++i)
        if (scored[i].clips.size() != clips && scored[i].has_union)
            table.notes.push_back(
                fmt::format("{} · {} was scored on {} of these clips; its gaps are over the clips that both rows have",
                            rows[i].row, rows[i].head, scored[i].clips.size()));
    std::map<std::string, int> unseen;
    for (const TableRow& row : rows) {
        std::map<std::string, int> of_row;  // folds leave out different clips
        for (const Predictions& part : row.parts)
            for (const auto& [label, n] : part.unseen) of_row[label] += n;
        for (const auto& [label, n] : of_row) unseen[label] = std::max(unseen[label], n);
    }
    if (!unseen.empty()) {
        int total = 0;
        std::vector<std::string> names;
        for (const auto& [label, n] : unseen) {
            total += n;
            names.push_back(label);
        }
        table.notes.push_back(fmt::format("{} held-out clips of labels without a training clip are left out: {}", total,
                                          fmt::join(names, ", ")));
    }

    std::vector<std::string> names;
    for (const TableRow& row : rows) names.push_back(row.row + " · " + row.head);
    auto compared = [&](const std::string& name, bool within) -> const Scored& {
        const auto at = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
        if (at == names.size())
            throw Error(Code::kInvalid,
                        fmt::format("compare: there is no row '{}'{}", name, did_you_mean(name, names)));
        if (!within && !scored[at].has_union)
            throw Error(
                Code::kInvalid,
                fmt::format("compare: the row '{}' knows no union of groups, expected \"figure\": \"within\"", name));
        return scored[at];
    };
    table.compare_header = {"a", "b", "figure", "clips", "all"};
    table.compare_header.insert(table.compare_header.end(), groups.begin(), groups.end());
    Json compare_json = Json::array();
    for (const Comparison& comparison : comparisons) {
        const Scored &a = compared(comparison.a, comparison.within), &b = compared(comparison.b, comparison.within);
        const auto all = difference_of(a, b, comparison.within, bootstrap);
        if (!all)
            throw Error(Code::kInvalid, fmt::format("compare: the rows '{}' and '{}' have no clip in common",
                                                    comparison.a, comparison.b));
        const std::string figure = comparison.within ? "within" : "union";
        Json json = {{"a", comparison.a},
                     {"b", comparison.b},
                     {"figure", figure},
                     {"all", gap_json(all)},
                     {"groups", Json::object()}};
        std::vector<std::string> cells = {comparison.a, comparison.b, figure, std::to_string(all->clips),
                                          gap_text(all)};
        for (const std::string& group : groups) {
            const auto one = difference_of(a, b, comparison.within, bootstrap, group);
            json["groups"][group] = gap_json(one);
            cells.push_back(gap_text(one));
        }
        compare_json.push_back(std::move(json));
        table.compare_cells.push_back(std::move(cells));
    }
    table.json = {{"format", "biophony-table/0"},
                  {"groups", groups},
                  {"clips", clips},
                  {"recordings", recordings},
                  {"folds", folds},
                  {"rows", rows_json},
                  {"compare", compare_json},
                  {"system_gap", system},
                  {"resamples", resamples},
                  {"seed", seed},
                  {"unseen", unseen},
                  {"notes", table.notes}};
    return table;
}

namespace {

using Cells = std::vector<std::vector<std::string>>;

constexpr const char* kCompareNote =
    "a − b in points on the clips that both have, of all groups and of each, with the interval of the bootstrap above.";

/// Columns of equal width, the first `left` flush left; a rule under the first `headings` lines.
std::string aligned(const Cells& lines, size_t headings, size_t left) {
    std::vector<size_t> widths(lines.front().size(), 0);
    for (const auto& line : lines)
        for (size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], display_width(line[c]));
    std::string out, rule;
    size_t total = 2 * (widths.size() - 1);
    for (const size_t width : widths) total += width;
    for (size_t i = 0; i < total; ++i) rule += "─";
    for (size_t l = 0; l < lines.size(); ++l) {
        std::string line;
        for (size_t c = 0; c < widths.size(); ++c) {
            const std::string &text = lines[l][c], pad(widths[c] - display_width(text), ' ');
            line += (c == 0 ? "" : "  ") + (c < left ? text + pad : pad + text);
        }
        while (!line.empty() && line.back() == ' ') line.pop_back();
        out += line + "\n";
        if (l + 1 == headings) out += rule + "\n";
    }
    return out;
}

void add_csv(const std::vector<std::string>& line, std::string& out) {
    for (size_t c = 0; c < line.size(); ++c) out += (c == 0 ? "" : ",") + csv_field(line[c]);
    out += "\n";
}

std::string markdown(const std::vector<std::string>& header, const Cells& cells, size_t left) {
    auto escaped = [](std::string text) {
        for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
        return text;
    };
    std::string out = "|";
    for (const std::string& name : header) out += " " + escaped(name) + " |";
    out += "\n|";
    for (size_t c = 0; c < header.size(); ++c) out += c < left ? " --- |" : " ---: |";
    out += "\n";
    for (const auto& row : cells) {
        out += "|";
        for (const std::string& cell : row) out += " " + escaped(cell) + " |";
        out += "\n";
    }
    return out;
}

}  // namespace

std::string Table::to_text() const {
    Cells lines(2);
    for (const auto& [upper, lower] : narrow_header) {
        lines[0].push_back(upper);
        lines[1].push_back(lower);
    }
    lines.insert(lines.end(), narrow_cells.begin(), narrow_cells.end());
    std::string out = aligned(lines, 2, 3);
    for (const std::string& note : notes) out += "  " + note + "\n";
    if (compare_cells.empty()) return out;
    lines = {compare_header};
    lines.insert(lines.end(), compare_cells.begin(), compare_cells.end());
    return out + "\n" + aligned(lines, 1, 3) + "  " + kCompareNote + "\n";
}

std::string Table::to_csv() const {
    std::string out;
    add_csv(header, out);
    for (const auto& row : cells) add_csv(row, out);
    return out;
}

std::string Table::to_compare_csv() const {
    std::string out = "a,b,figure,group,clips,recordings,difference,low,high\n";
    for (const Json& comparison : json.at("compare")) {
        auto line = [&](const std::string& group, const Json& d) {
            if (d.is_null()) return;
            auto points = [&](const char* name) {
                const double value = d.at(name).is_null() ? NAN : d.at(name).get<double>();
                return std::isfinite(value) ? fmt::format("{:.2f}", 100 * value) : std::string();
            };
            add_csv({comparison.at("a"), comparison.at("b"), comparison.at("figure"), group, d.at("clips").dump(),
                     d.at("recordings").dump(), points("mean"), points("low"), points("high")},
                    out);
        };
        line("all", comparison.at("all"));
        for (const auto& [group, d] : comparison.at("groups").items()) line(group, d);
    }
    return out;
}

std::string Table::to_markdown() const {
    std::string out = markdown(header, cells, 3) + "\n";
    for (const std::string& note : notes) out += "- " + note + "\n";
    if (!compare_cells.empty()) out += "\n" + markdown(compare_header, compare_cells, 3) + "\n- " + kCompareNote + "\n";
    return out;
}

}  // namespace biophony
