#include "report/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "base/csv.hpp"

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
    bool has_union = true;  ///< false for specialists, which know their own group only
};

Scored outcomes_of(const TableRow& row, size_t all_groups) {
    Scored out;
    std::set<std::string> known;
    for (const Predictions& part : row.parts) {
        known.insert(part.model_groups.begin(), part.model_groups.end());
        if (part.model_groups.size() < all_groups) out.has_union = false;
        for (const ClipPrediction& clip : part.clips) {
            const std::string& group = part.groups[static_cast<size_t>(clip.group)].name;
            const auto [at, added] = out.clips.emplace(
                ClipKey{group, clip.file, clip.start_s, clip.end_s},
                Outcome{group, clip.recording, clip.predicted_within == clip.truth, clip.predicted == clip.truth});
            if (!added)
                throw Error(Code::kRunFailed,
                            fmt::format("the row '{}' has two predictions for one clip of '{}'", row.row, clip.file));
        }
    }
    return out;
}

struct Gap {
    double mean = 0;
    Interval interval;
    size_t clips = 0;
};

/// joint − row over the clips that both have.
std::optional<Gap> gap_of(const Scored& joint, const Scored& row, bool within, int resamples, uint64_t seed) {
    std::vector<double> differences;
    std::vector<int> recordings, groups;
    std::map<std::string, int> recording_codes, group_codes;
    for (const auto& [key, outcome] : row.clips) {
        const auto other = joint.clips.find(key);
        if (other == joint.clips.end()) continue;
        const auto value = [within](const Outcome& o) {
            return within ? (o.within ? 1.0 : 0.0) : (o.everywhere ? 1.0 : 0.0);
        };
        differences.push_back(value(other->second) - value(outcome));
        recordings.push_back(
            recording_codes.emplace(outcome.group + "\n" + outcome.recording, static_cast<int>(recording_codes.size()))
                .first->second);
        groups.push_back(group_codes.emplace(outcome.group, static_cast<int>(group_codes.size())).first->second);
    }
    if (differences.empty()) return std::nullopt;
    Gap gap;
    for (const double d : differences) gap.mean += d;
    gap.mean /= static_cast<double>(differences.size());
    gap.clips = differences.size();
    gap.interval = bootstrap_mean(differences, recordings, groups, 0.95, resamples, seed);
    return gap;
}

size_t display_width(std::string_view text) {
    size_t width = 0;
    for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
    return width;
}

std::string percent(double share) {
    return std::isfinite(share) ? fmt::format("{:.1f}", 100 * share) : std::string("–");
}

std::string gap_text(const std::optional<Gap>& gap) {
    if (!gap) return "–";
    return fmt::format("{:+.1f} [{:+.1f}, {:+.1f}]", 100 * gap->mean, 100 * gap->interval.low,
                       100 * gap->interval.high);
}

Json gap_json(const std::optional<Gap>& gap) {
    if (!gap) return nullptr;
    return {{"mean", gap->mean}, {"low", gap->interval.low}, {"high", gap->interval.high}, {"clips", gap->clips}};
}

}  // namespace

Table make_table(std::vector<TableRow> rows, const TableReference& reference, int resamples, uint64_t seed) {
    std::vector<std::string> groups;
    for (const TableRow& row : rows)
        for (const Predictions& part : row.parts)
            for (const PredictionGroup& group : part.groups)
                if (std::find(groups.begin(), groups.end(), group.name) == groups.end()) groups.push_back(group.name);
    std::sort(groups.begin(), groups.end());

    auto rank = [&](const TableRow& row) {
        if (row.row == reference.joint) return row.head == "own" ? 0 : 1;
        if (row.row == "specialists") return 2;
        return row.row == reference.base ? 4 : 3;
    };
    std::stable_sort(rows.begin(), rows.end(), [&](const TableRow& a, const TableRow& b) {
        return std::tuple(rank(a), a.row, a.head) < std::tuple(rank(b), b.row, b.head);
    });

    std::vector<Scored> scored;
    for (const TableRow& row : rows) scored.push_back(outcomes_of(row, groups.size()));
    auto find = [&](const std::string& name, const std::string& head) -> const Scored* {
        for (size_t i = 0; i < rows.size(); ++i)
            if (!name.empty() && rows[i].row == name && rows[i].head == head) return &scored[i];
        return nullptr;
    };

    Table table;
    table.header = {"model", "head", "clips pooled"};
    for (const std::string& group : groups) table.header.push_back(group + " within");
    for (const std::string& group : groups) table.header.push_back(group + " union");
    for (const char* name : {"all union", "macro-F1", "gap within", "gap union", "gain on base"})
        table.header.emplace_back(name);

    table.narrow_header = {{"", "model"}, {"", "head"}, {"clips", "pooled"}};
    for (const std::string& group : groups) table.narrow_header.emplace_back(group, "within / union");
    for (const char* name : {"all", "macro-F1"}) table.narrow_header.emplace_back("", name);
    table.narrow_header.emplace_back("gap to joint,", "union");
    table.narrow_header.emplace_back("gain on base,", "union");

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
        if (scored[i].has_union && clips > 0 && row.parts.size() == 1) {
            all = union_sum / static_cast<double>(clips);
            std::vector<int> truth, predicted;
            for (const ClipPrediction& clip : row.parts[0].clips) {
                truth.push_back(clip.truth);
                predicted.push_back(clip.predicted);
            }
            f1 = macro_f1(truth, predicted);
            if (!row.pooled_data && all > best_system) {
                best_system = all;
                best_index = i;
            }
        }
        const bool is_joint = row.row == reference.joint;
        const bool is_base = row.row == reference.base;
        // The gap compares equal heads; specialists' own heads are compared with the joint model's own.
        const Scored* joint = is_joint ? nullptr : find(reference.joint, row.head);
        const Scored* base = is_base || is_joint ? nullptr : find(reference.base, row.head);
        const auto gap_within = joint == nullptr ? std::nullopt : gap_of(*joint, scored[i], true, resamples, seed);
        const auto gap_union =
            joint == nullptr || !scored[i].has_union ? std::nullopt : gap_of(*joint, scored[i], false, resamples, seed);
        // The gain is row − base: the same difference with the sides exchanged.
        const auto gain =
            base == nullptr || !scored[i].has_union ? std::nullopt : gap_of(scored[i], *base, false, resamples, seed);

        std::vector<std::string> narrow = {row.row, row.head, row.pooled_data ? "yes" : "no"};
        for (size_t g = 0; g < groups.size(); ++g)
            narrow.push_back(scored[i].has_union ? within_cells[g] + " / " + union_cells[g]
                                                 : within_cells[g] + " /    –");
        narrow.push_back(percent(all));
        narrow.push_back(percent(f1));
        narrow.push_back(gap_union || !gap_within ? gap_text(gap_union) : "within " + gap_text(gap_within));
        narrow.push_back(gap_text(gain));
        table.narrow_cells.push_back(std::move(narrow));

        std::vector<std::string> cells = {row.row, row.head, row.pooled_data ? "yes" : "no"};
        cells.insert(cells.end(), within_cells.begin(), within_cells.end());
        cells.insert(cells.end(), union_cells.begin(), union_cells.end());
        cells.push_back(percent(all));
        cells.push_back(percent(f1));
        cells.push_back(gap_text(gap_within));
        cells.push_back(gap_text(gap_union));
        cells.push_back(gap_text(gain));
        table.cells.push_back(std::move(cells));
        json["clips"] = clips;
        json["union_accuracy"] = std::isfinite(all) ? Json(all) : Json(nullptr);
        json["macro_f1"] = std::isfinite(f1) ? Json(f1) : Json(nullptr);
        json["gap_within"] = gap_json(gap_within);
        json["gap_union"] = gap_json(gap_union);
        json["gain_on_base"] = gap_json(gain);
        rows_json.push_back(std::move(json));
    }

    Json system = nullptr;
    size_t clips = 0;
    for (const Scored& s : scored) clips = std::max(clips, s.clips.size());
    table.notes.push_back(
        fmt::format("{} held-out clips. Figures in percent. within = best class of the clip's own group; union = best "
                    "of all classes.",
                    clips));
    table.notes.push_back(
        fmt::format("gap = joint − row and gain = row − base, with the same head and on the same clips, in points; 95 "
                    "% interval of a paired bootstrap over "
                    "recordings ({} rounds, stratified by group).",
                    resamples));
    if (const Scored* own = find(reference.joint, "own"); own != nullptr && best_system >= 0) {
        const auto gap = gap_of(*own, scored[best_index], false, resamples, seed);
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
    for (const TableRow& row : rows)
        for (const Predictions& part : row.parts)
            for (const auto& [label, n] : part.unseen) unseen[label] = std::max(unseen[label], n);
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
    table.json = {{"format", "biophony-table/0"}, {"groups", groups}, {"rows", rows_json}, {"system_gap", system},
                  {"resamples", resamples},       {"seed", seed},     {"unseen", unseen},  {"notes", table.notes}};
    return table;
}

std::string Table::to_text() const {
    std::vector<size_t> widths;
    for (const auto& [upper, lower] : narrow_header)
        widths.push_back(std::max(display_width(upper), display_width(lower)));
    for (const auto& row : narrow_cells)
        for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], display_width(row[c]));
    auto line = [&](const auto& cell) {
        std::string out;
        for (size_t c = 0; c < widths.size(); ++c) {
            const std::string text = cell(c), pad(widths[c] - display_width(text), ' ');
            out += (c == 0 ? "" : "  ") + (c < 3 ? text + pad : pad + text);
        }
        while (!out.empty() && out.back() == ' ') out.pop_back();
        return out + "\n";
    };
    std::string out = line([&](size_t c) { return narrow_header[c].first; }) +
                      line([&](size_t c) { return narrow_header[c].second; });
    size_t total = 2 * (widths.size() - 1);
    for (const size_t width : widths) total += width;
    for (size_t i = 0; i < total; ++i) out += "─";
    out += "\n";
    for (const auto& row : narrow_cells) out += line([&](size_t c) { return row[c]; });
    for (const std::string& note : notes) out += "  " + note + "\n";
    return out;
}

std::string Table::to_csv() const {
    std::string out;
    auto line = [&](const std::vector<std::string>& row) {
        for (size_t c = 0; c < row.size(); ++c) out += (c == 0 ? "" : ",") + csv_field(row[c]);
        out += "\n";
    };
    line(header);
    for (const auto& row : cells) line(row);
    return out;
}

std::string Table::to_markdown() const {
    auto escaped = [](std::string text) {
        for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
        return text;
    };
    std::string out = "|";
    for (const std::string& name : header) out += " " + escaped(name) + " |";
    out += "\n|";
    for (size_t c = 0; c < header.size(); ++c) out += c < 3 ? " --- |" : " ---: |";
    out += "\n";
    for (const auto& row : cells) {
        out += "|";
        for (const std::string& cell : row) out += " " + escaped(cell) + " |";
        out += "\n";
    }
    out += "\n";
    for (const std::string& note : notes) out += "- " + note + "\n";
    return out;
}

}  // namespace biophony
