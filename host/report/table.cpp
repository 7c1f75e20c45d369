#include "report/table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

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

/// One clip's outcome under a row: 1 = right, 0 = wrong, between them where it is a mean over repeats.
struct Outcome {
    std::string group, recording;
    double within = 0, everywhere = 0;
    double top_5 = 0;  ///< NaN where ranks aren't known
};
using Outcomes = std::map<ClipKey, Outcome>;

/// One training of a row's model: its folds together.
struct Repeat {
    std::vector<const Predictions*> folds;
    Outcomes clips;
    std::vector<int> truth, predicted;  ///< codes of label texts, the same in all rows
};

struct Scored {
    std::map<std::string, Repeat> repeats;
    Outcomes clips;                   ///< means over the repeats that have the clip
    std::map<ClipKey, double> times;  ///< how many repeats have the clip
    std::set<std::string> groups;     ///< of its clips
    std::set<std::string> unheard;    ///< those of them that one of its models doesn't know
    bool has_union = false;           ///< false for specialists, which know their own group only
    bool pools = false;               ///< needs clips of several contributors in one place
    std::string sends;                ///< what contributors send
    size_t folds = 0;                 ///< of the repeat that has most

    /// Repeat r, or the mean where there is none.
    const Outcomes& of(const std::string& repeat) const {
        const auto found = repeats.find(repeat);
        return found == repeats.end() ? clips : found->second.clips;
    }
    double mean_over_repeats(const auto& figure) const {
        double sum = 0;
        for (const auto& [name, repeat] : repeats) sum += figure(repeat);
        return sum / static_cast<double>(repeats.size());
    }
};

ClipKey key_of(const Predictions& part, const ClipPrediction& clip) {
    return {part.groups.at(static_cast<size_t>(clip.group)).name, clip.file, clip.start_s, clip.end_s};
}

Scored scored_of(const TableRow& row, std::map<std::string, int>& label_codes) {
    Scored out{.pools = row.pooled_data};
    for (const Predictions& part : row.parts)
        for (const PredictionGroup& group : part.groups) out.groups.insert(group.name);
    std::map<std::pair<std::string, ClipKey>, const Predictions*> from;
    for (const Predictions& part : row.parts) {
        if (part.split != row.parts.front().split)
            throw Error(Code::kRunFailed,
                        fmt::format("the row '{} · {}' has predictions of the splits {} and {}, expected one split",
                                    row.row, row.head, row.parts.front().split, part.split));
        for (const std::string& group : out.groups)
            if (std::find(part.model_groups.begin(), part.model_groups.end(), group) == part.model_groups.end())
                out.unheard.insert(group);
        out.pools |= part.pools_clips;
        if (out.sends.empty()) out.sends = part.sends;
        auto code = [&](int label) {
            return label_codes.emplace(part.labels.at(static_cast<size_t>(label)), static_cast<int>(label_codes.size()))
                .first->second;
        };
        Repeat& repeat = out.repeats[part.repeat];
        repeat.folds.push_back(&part);
        out.folds = std::max(out.folds, repeat.folds.size());
        for (const ClipPrediction& clip : part.clips) {
            const ClipKey key = key_of(part, clip);
            const std::string& group = std::get<0>(key);
            const auto [at, added] = from.emplace(std::pair(part.repeat, key), &part);
            if (!added && at->second == &part)
                throw Error(Code::kRunFailed,
                            fmt::format("the row '{}' has two predictions for one clip of '{}'", row.row, clip.file));
            if (!added)
                throw Error(Code::kRunFailed,
                            fmt::format("two models are called '{}' with the head '{}'{}, and both have the clip of "
                                        "'{}' from {} s to {} s, so they are no folds of one; give their evaluate "
                                        "nodes a \"row\", or a \"repeat\" if they are one model trained again; the "
                                        "same clips in two forms go into two tables",
                                        row.row, row.head,
                                        part.repeat.empty() ? std::string() : " and the repeat '" + part.repeat + "'",
                                        clip.file, clip.start_s, clip.end_s));
            repeat.clips[key] = {group, clip.recording, clip.predicted_within == clip.truth ? 1.0 : 0.0,
                                 clip.predicted == clip.truth ? 1.0 : 0.0,
                                 clip.rank < 1    ? NAN
                                 : clip.rank <= 5 ? 1.0
                                                  : 0.0};
            repeat.truth.push_back(code(clip.truth));
            repeat.predicted.push_back(code(clip.predicted));
        }
    }
    for (const auto& [name, repeat] : out.repeats)
        for (const auto& [key, outcome] : repeat.clips) {
            Outcome& sum = out.clips.emplace(key, Outcome{outcome.group, outcome.recording}).first->second;
            sum.within += outcome.within;
            sum.everywhere += outcome.everywhere;
            sum.top_5 += outcome.top_5;
            ++out.times[key];
        }
    for (auto& [key, outcome] : out.clips)
        for (double* value : {&outcome.within, &outcome.everywhere, &outcome.top_5}) *value /= out.times.at(key);
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
    std::map<std::string, double> repeats;  ///< of single repeats; empty where each side has one

    bool excludes_zero() const { return interval.low > 0 || interval.high < 0; }
};

/// What a table's differences have in common.
struct Bootstrap {
    int resamples = 0;
    uint64_t seed = 0;
};

/// The outcomes of a − b on the clips that both have, of one group or (empty) of all.
struct Paired {
    std::vector<double> differences;
    std::vector<int> recordings, groups;
    size_t units = 0;

    double mean() const {
        double sum = 0;
        for (const double d : differences) sum += d;
        return sum / static_cast<double>(differences.size());
    }
};

Paired paired_of(const Outcomes& a, const Outcomes& b, bool within, const std::string& group) {
    Paired out;
    std::map<std::string, int> recording_codes, group_codes;
    const auto value = [within](const Outcome& o) { return within ? o.within : o.everywhere; };
    for (const auto& [key, outcome] : b) {
        const auto other = a.find(key);
        if (other == a.end() || (!group.empty() && outcome.group != group)) continue;
        out.differences.push_back(value(other->second) - value(outcome));
        out.recordings.push_back(
            recording_codes.emplace(outcome.group + "\n" + outcome.recording, static_cast<int>(recording_codes.size()))
                .first->second);
        out.groups.push_back(group_codes.emplace(outcome.group, static_cast<int>(group_codes.size())).first->second);
    }
    out.units = recording_codes.size();
    return out;
}

std::optional<Difference> difference_of(const Scored& a, const Scored& b, bool within, const Bootstrap& bootstrap,
                                        const std::string& group = {}) {
    const Paired paired = paired_of(a.clips, b.clips, within, group);
    if (paired.differences.empty()) return std::nullopt;
    Difference out{.mean = paired.mean(), .clips = paired.differences.size(), .recordings = paired.units};
    out.interval =
        bootstrap_mean(paired.differences, paired.recordings, paired.groups, 0.95, bootstrap.resamples, bootstrap.seed);
    // A side with one training has no spread of its own; its name for it, often none, says nothing of the other's.
    std::set<std::string> names;
    for (const Scored* side : {&a, &b})
        if (side->repeats.size() > 1)
            for (const auto& [name, repeat] : side->repeats) names.insert(name);
    for (const std::string& name : names)
        if (const Paired one = paired_of(a.of(name), b.of(name), within, group); !one.differences.empty())
            out.repeats[name] = one.mean();
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

Json number(double value) {
    return std::isfinite(value) ? Json(value) : Json(nullptr);
}

std::string gap_text(const std::optional<Difference>& gap) {
    if (!gap) return "–";
    return fmt::format("{:+.1f} [{:+.1f}, {:+.1f}]", 100 * gap->mean, 100 * gap->interval.low,
                       100 * gap->interval.high);
}

/// "-1.2 … +0.8": the differences of single repeats.
std::string range_text(const std::optional<Difference>& gap) {
    if (!gap || gap->repeats.empty()) return "–";
    double low = INFINITY, high = -INFINITY;
    for (const auto& [name, value] : gap->repeats) {
        low = std::min(low, value);
        high = std::max(high, value);
    }
    return fmt::format("{:+.1f} … {:+.1f}", 100 * low, 100 * high);
}

Json gap_json(const std::optional<Difference>& gap) {
    if (!gap) return nullptr;
    Json out = {{"mean", gap->mean},
                {"low", gap->interval.low},
                {"high", gap->interval.high},
                {"clips", gap->clips},
                {"recordings", gap->recordings}};
    if (!gap->repeats.empty()) out["repeats"] = gap->repeats;
    return out;
}

/// A row's figures and its differences from the references.
struct Figures {
    std::map<std::string, std::pair<double, double>> groups;  ///< within, union
    std::map<std::string, size_t> clips;
    double within = NAN, everywhere = NAN, top_5 = NAN, f1 = NAN, balanced = NAN;
    std::optional<Difference> gap_within, gap_union, gain_within, gain_union;
};

Figures figures_of(const Scored& scored) {
    Figures out;
    double within = 0, everywhere = 0, top_5 = 0;
    for (const auto& [key, outcome] : scored.clips) {
        auto& [of_within, of_union] = out.groups[outcome.group];
        of_within += outcome.within;
        of_union += outcome.everywhere;
        ++out.clips[outcome.group];
        within += outcome.within;
        everywhere += outcome.everywhere;
        top_5 += outcome.top_5;
    }
    for (auto& [group, sums] : out.groups) {
        const auto n = static_cast<double>(out.clips.at(group));
        sums = {sums.first / n, scored.has_union ? sums.second / n : NAN};
    }
    if (scored.clips.empty()) return out;
    const auto n = static_cast<double>(scored.clips.size());
    out.within = within / n;
    if (!scored.has_union) return out;
    out.everywhere = everywhere / n;
    out.top_5 = top_5 / n;
    out.f1 = scored.mean_over_repeats([](const Repeat& r) { return macro_f1(r.truth, r.predicted); });
    out.balanced = scored.mean_over_repeats([](const Repeat& r) { return balanced_accuracy(r.truth, r.predicted); });
    return out;
}

void add_csv(const std::vector<std::string>& line, std::string& out) {
    for (size_t c = 0; c < line.size(); ++c) out += (c == 0 ? "" : ",") + csv_field(line[c]);
    out += "\n";
}

/// Numbers for CSV, four decimals; empty where there is none.
std::string decimal(double value) {
    return std::isfinite(value) ? fmt::format("{:.4f}", value) : std::string();
}

void add_species(const TableRow& row, const Scored& scored, std::string& out) {
    std::vector<const Predictions*> parts;
    for (const Predictions& part : row.parts) parts.push_back(&part);
    const auto weight = [&](const Predictions& part, const ClipPrediction& clip) {
        return 1 / scored.times.at(key_of(part, clip));
    };
    for (const auto& [group, of_group] : species_of(parts, weight))
        for (const auto& [label, one] : of_group) {
            auto of_union = [&](double figure) { return scored.has_union ? decimal(figure) : std::string(); };
            add_csv({row.row, row.head, group, label, std::to_string(one.clips), std::to_string(one.recordings),
                     decimal(one.recall_within), of_union(one.recall_union), of_union(one.precision), of_union(one.f1)},
                    out);
        }
}

void add_confusion(const TableRow& row, const Scored& scored, std::string& out) {
    std::map<std::pair<std::string, std::string>, double> counts;
    for (const Predictions& part : row.parts)
        for (const ClipPrediction& clip : part.clips)
            counts[{part.labels.at(static_cast<size_t>(clip.truth)),
                    part.labels.at(static_cast<size_t>(clip.predicted))}] += 1 / scored.times.at(key_of(part, clip));
    for (const auto& [pair, n] : counts)
        add_csv({row.row, row.head, pair.first, pair.second,
                 std::abs(n - std::round(n)) < 1e-6 ? fmt::format("{:.0f}", n) : decimal(n)},
                out);
}

/// Held-out clips of labels that no training clip had: label → clips, of the row that left out most.
std::map<std::string, int> unseen_of(const std::vector<Scored>& scored) {
    std::map<std::string, int> unseen;
    for (const Scored& row : scored)
        for (const auto& [name, repeat] : row.repeats) {
            std::map<std::string, int> of_repeat;  // folds leave out different clips
            for (const Predictions* fold : repeat.folds)
                for (const auto& [label, n] : fold->unseen) of_repeat[label] += n;
            for (const auto& [label, n] : of_repeat) unseen[label] = std::max(unseen[label], n);
        }
    return unseen;
}

/// The rows of a table in their order, with what is known of each.
class Maker {
public:
    Maker(std::vector<TableRow> rows, const TableReference& reference, const Bootstrap& bootstrap)
        : rows_(std::move(rows)), reference_(reference), bootstrap_(bootstrap) {
        std::set<std::string> names;
        for (const TableRow& row : rows_)
            for (const Predictions& part : row.parts)
                for (const PredictionGroup& group : part.groups) names.insert(group.name);
        groups_.assign(names.begin(), names.end());
        for (const TableRow& row : rows_) {
            const bool pools = std::any_of(row.parts.begin(), row.parts.end(),
                                           [](const Predictions& part) { return part.pools_clips; });
            if (pools && row.row != reference_.joint) pooling_heads_.insert(row.head);
        }
        std::stable_sort(rows_.begin(), rows_.end(), [&](const TableRow& a, const TableRow& b) {
            return std::tuple(head_rank(a.head), a.head, rank(a), a.row) <
                   std::tuple(head_rank(b.head), b.head, rank(b), b.row);
        });
        std::map<std::string, int> label_codes;
        for (const TableRow& row : rows_) scored_.push_back(scored_of(row, label_codes));
        for (size_t i = 0; i < rows_.size(); ++i) {
            if (rows_[i].row == reference_.joint) scored_[i].sends = "clips";
            if (rows_[i].row != kSpecialistsRow) union_.insert(scored_[i].groups.begin(), scored_[i].groups.end());
        }
        for (size_t i = 0; i < rows_.size(); ++i)
            scored_[i].has_union =
                rows_[i].row != kSpecialistsRow && scored_[i].unheard.empty() && scored_[i].groups == union_;
        const bool any =
            std::any_of(scored_.begin(), scored_.end(), [](const Scored& scored) { return scored.has_union; });
        for (const Scored& scored : scored_) {
            repeats_ = std::max(repeats_, scored.repeats.size());
            // Specialists may have clips of their own beside those of all.
            if (any && !scored.has_union) continue;
            clips_ = std::max(clips_, scored.clips.size());
            recordings_ = std::max(recordings_, recordings_of(scored));
            folds_ = std::max(folds_, scored.folds);
        }
        for (const Scored& scored : scored_) figures_.push_back(figures_of(scored));
        find_differences();
    }

    Table make(const std::vector<Comparison>& comparisons) {
        find_best();
        add_rows();
        add_heads();
        add_notes();
        add_comparisons(comparisons);
        const Json unseen = unseen_of(scored_);
        table_.species_csv = "row,head,group,species,clips,recordings,recall_within,recall_union,precision,f1\n";
        table_.confusion_csv = "row,head,truth,predicted,clips\n";
        for (size_t i = 0; i < rows_.size(); ++i) {
            add_species(rows_[i], scored_[i], table_.species_csv);
            add_confusion(rows_[i], scored_[i], table_.confusion_csv);
        }
        table_.json["format"] = "biophony-table/0";
        table_.json["groups"] = groups_;
        table_.json["clips"] = clips_;
        table_.json["recordings"] = recordings_;
        table_.json["folds"] = folds_;
        table_.json["repeats"] = repeats_;
        table_.json["resamples"] = bootstrap_.resamples;
        table_.json["seed"] = bootstrap_.seed;
        table_.json["unseen"] = unseen;
        table_.json["notes"] = table_.notes;
        return std::move(table_);
    }

private:
    bool is_control(size_t i) const { return is_control(rows_[i]); }
    bool is_control(const TableRow& row) const {
        return std::find(reference_.controls.begin(), reference_.controls.end(), row.row) != reference_.controls.end();
    }
    bool is_joint(size_t i) const { return !reference_.joint.empty() && rows_[i].row == reference_.joint; }
    bool is_base(size_t i) const { return !reference_.base.empty() && rows_[i].row == reference_.base; }
    bool is_merge(size_t i) const {
        return !is_joint(i) && !is_base(i) && !is_control(i) && rows_[i].row != kSpecialistsRow &&
               rows_[i].row != kEnsembleRow;
    }
    int rank(const TableRow& row) const {
        if (!reference_.joint.empty() && row.row == reference_.joint) return 0;
        if (row.row == kSpecialistsRow) return 1;
        if (row.row == kEnsembleRow) return 2;
        if (is_control(row)) return 5;
        return !reference_.base.empty() && row.row == reference_.base ? 4 : 3;
    }
    int head_rank(const std::string& head) const { return head == "own" ? 0 : pooling_heads_.contains(head) ? 2 : 1; }
    std::string name(size_t i) const { return rows_[i].row + " · " + rows_[i].head; }
    /// The row's index, or none.
    std::optional<size_t> find(const std::string& row, const std::string& head) const {
        for (size_t i = 0; i < rows_.size(); ++i)
            if (!row.empty() && rows_[i].row == row && rows_[i].head == head) return i;
        return std::nullopt;
    }
    /// Heads in the order of the rows, without the models' own.
    std::vector<std::string> heads() const {
        std::vector<std::string> out;
        for (const TableRow& row : rows_)
            if (row.head != "own" && (out.empty() || out.back() != row.head)) out.push_back(row.head);
        return out;
    }

    void find_differences() {
        // Nobody shares the specialists' heads: they are compared with the base under another.
        for (size_t i = 0; i < rows_.size(); ++i)
            if (is_base(i) && (!base_of_specialists_ ||
                               (scored_[*base_of_specialists_].sends != "sums" && scored_[i].sends == "sums")))
                base_of_specialists_ = i;
        for (size_t i = 0; i < rows_.size(); ++i) {
            auto difference = [&](std::optional<size_t> a, std::optional<size_t> b,
                                  bool within) -> std::optional<Difference> {
                if (!a || !b || (!within && !(scored_[*a].has_union && scored_[*b].has_union))) return std::nullopt;
                return difference_of(scored_[*a], scored_[*b], within, bootstrap_);
            };
            // The gap compares equal heads; specialists' own heads are compared with the joint model's own.
            const auto joint = is_joint(i) ? std::nullopt : find(reference_.joint, rows_[i].head);
            auto base = is_base(i) || is_joint(i) ? std::nullopt : find(reference_.base, rows_[i].head);
            if (rows_[i].row == kSpecialistsRow && !base && base_of_specialists_) {
                base = base_of_specialists_;
                specialists_gain_ = true;
            }
            Figures& figures = figures_[i];
            figures.gap_within = difference(joint, i, true);
            figures.gap_union = difference(joint, i, false);
            figures.gain_within = difference(i, base, true);
            figures.gain_union = difference(i, base, false);
        }
    }

    void find_best() {
        for (size_t i = 0; i < rows_.size(); ++i)
            if (!scored_[i].pools && !is_control(i) && std::isfinite(figures_[i].everywhere) &&
                (!best_ || figures_[i].everywhere > figures_[*best_].everywhere))
                best_ = i;
    }

    void add_rows() {
        table_.header = {"model", "head", "clips pooled", "contributors send"};
        for (const std::string& group : groups_) table_.header.push_back(group + " within");
        for (const std::string& group : groups_) table_.header.push_back(group + " union");
        for (const char* name :
             {"all within", "all union", "top-5", "macro-F1", "gap within", "gap union", "gain within", "gain union"})
            table_.header.emplace_back(name);
        table_.narrow_header = {{"", "model"}};
        for (const std::string& group : groups_) table_.narrow_header.emplace_back(group, "within / union");
        table_.narrow_header.emplace_back("all", "union");
        table_.narrow_header.emplace_back("macro", "F1");
        table_.narrow_header.emplace_back("gap to joint,", "union");
        if (repeats_ > 1) table_.narrow_header.emplace_back("gap of the", "repeats");
        table_.narrow_header.emplace_back("gain on base,", "union");
        if (repeats_ > 1)
            for (const char* name : {"repeats", "gap union of the repeats", "gain union of the repeats"})
                table_.header.emplace_back(name);

        Json rows = Json::array();
        for (size_t i = 0; i < rows_.size(); ++i) {
            const TableRow& row = rows_[i];
            const Scored& scored = scored_[i];
            const Figures& figures = figures_[i];
            if (i == 0 || rows_[i - 1].head != row.head) table_.narrow_groups.emplace_back(i, heading(row.head));
            Json json = {{"model", row.row},
                         {"head", row.head},
                         {"pools_clips", scored.pools},
                         {"sends", scored.sends},
                         {"repeats", scored.repeats.size()},
                         {"clips", scored.clips.size()},
                         {"within_accuracy", number(figures.within)},
                         {"union_accuracy", number(figures.everywhere)},
                         {"top_5", number(figures.top_5)},
                         {"macro_f1", number(figures.f1)},
                         {"balanced_accuracy", number(figures.balanced)},
                         {"gap_within", gap_json(figures.gap_within)},
                         {"gap_union", gap_json(figures.gap_union)},
                         {"gain_within", gap_json(figures.gain_within)},
                         {"gain_on_base", gap_json(figures.gain_union)},
                         {"groups", Json::object()}};
            const std::string pooled = scored.pools ? "yes" : "no";
            std::vector<std::string> narrow = {row.row}, within, everywhere;
            for (const std::string& group : groups_) {
                const auto found = figures.groups.find(group);
                const auto [in, all] =
                    found == figures.groups.end() ? std::pair(double{NAN}, double{NAN}) : found->second;
                within.push_back(percent(in));
                everywhere.push_back(percent(all));
                narrow.push_back(within.back() + " / " + (std::isfinite(all) ? everywhere.back() : "   –"));
                json["groups"][group] = {{"clips", found == figures.groups.end() ? size_t{0} : figures.clips.at(group)},
                                         {"within_accuracy", number(in)},
                                         {"union_accuracy", number(all)}};
            }
            rows.push_back(std::move(json));

            std::vector<std::string> cells = {row.row, row.head, pooled, scored.sends};
            cells.insert(cells.end(), within.begin(), within.end());
            cells.insert(cells.end(), everywhere.begin(), everywhere.end());
            for (const double figure : {figures.within, figures.everywhere, figures.top_5, figures.f1})
                cells.push_back(percent(figure));
            for (const auto& gap : {figures.gap_within, figures.gap_union, figures.gain_within, figures.gain_union})
                cells.push_back(gap_text(gap));
            if (repeats_ > 1) {
                cells.push_back(std::to_string(scored.repeats.size()));
                cells.push_back(range_text(figures.gap_union));
                cells.push_back(range_text(figures.gain_union));
            }
            table_.cells.push_back(std::move(cells));

            narrow.push_back(percent(figures.everywhere));
            narrow.push_back(percent(figures.f1));
            auto add_gap = [&](const std::optional<Difference>& of_union, const std::optional<Difference>& of_within,
                               bool range) {
                const bool only_within = !of_union && of_within;
                narrow.push_back(only_within ? "within " + gap_text(of_within) : gap_text(of_union));
                if (range) narrow.push_back(range_text(only_within ? of_within : of_union));
            };
            add_gap(figures.gap_union, figures.gap_within, repeats_ > 1);
            add_gap(figures.gain_union, figures.gain_within, false);
            table_.narrow_cells.push_back(std::move(narrow));
        }
        table_.json["rows"] = std::move(rows);
    }

    /// "ridge; contributors send sums".
    std::string heading(const std::string& head) const {
        if (head == "own") return "the models' own heads";
        for (size_t i = 0; i < rows_.size(); ++i)
            if (rows_[i].head == head && !is_joint(i) && !scored_[i].sends.empty())
                return fmt::format("{}; contributors send {}", head, scored_[i].sends);
        return head;
    }

    void add_heads() {
        const std::vector<std::string> heads = this->heads();
        Json matrix = Json::array(), list = Json::array();
        std::vector<std::string> columns = heads;
        if (std::any_of(rows_.begin(), rows_.end(), [](const TableRow& row) { return row.head == "own"; }))
            columns.insert(columns.begin(), "own");
        std::vector<std::pair<int, std::string>> models;
        for (size_t i = 0; i < rows_.size(); ++i)
            if (scored_[i].has_union) models.emplace_back(rank(rows_[i]), rows_[i].row);
        std::sort(models.begin(), models.end());
        models.erase(std::unique(models.begin(), models.end()), models.end());
        table_.matrix_header = {"model"};
        table_.matrix_header.insert(table_.matrix_header.end(), columns.begin(), columns.end());
        for (const auto& [order, model] : models) {
            std::vector<std::string> cells = {model};
            Json values = Json::object();
            for (const std::string& head : columns) {
                const auto at = find(model, head);
                cells.push_back(at ? percent(figures_[*at].everywhere) : "–");
                values[head] = at ? number(figures_[*at].everywhere) : Json(nullptr);
            }
            matrix.push_back({{"model", model}, {"union_accuracy", values}});
            table_.matrix_cells.push_back(std::move(cells));
        }

        table_.heads_header = {"head", "contributors send", "best merge", "union", "base", "joint", "gap", "gain"};
        for (const std::string& head : heads) {
            std::optional<size_t> best;
            std::string sends;
            for (size_t i = 0; i < rows_.size(); ++i) {
                if (rows_[i].head != head) continue;
                if (!is_joint(i) && sends.empty()) sends = scored_[i].sends;
                if (is_merge(i) && std::isfinite(figures_[i].everywhere) &&
                    (!best || figures_[i].everywhere > figures_[*best].everywhere))
                    best = i;
            }
            auto figure = [&](const std::string& row) {
                const auto at = find(row, head);
                return at ? figures_[*at].everywhere : NAN;
            };
            const Figures none;
            const Figures& of_best = best ? figures_[*best] : none;
            table_.heads_cells.push_back({head, sends.empty() ? "–" : sends, best ? rows_[*best].row : "–",
                                          percent(of_best.everywhere), percent(figure(reference_.base)),
                                          percent(figure(reference_.joint)), gap_text(of_best.gap_union),
                                          gap_text(of_best.gain_union)});
            list.push_back({{"head", head},
                            {"sends", sends},
                            {"joint", number(figure(reference_.joint))},
                            {"base", number(figure(reference_.base))},
                            {"best_merge", best ? Json(rows_[*best].row) : Json(nullptr)},
                            {"union_accuracy", number(of_best.everywhere)},
                            {"gap", gap_json(of_best.gap_union)},
                            {"gain", gap_json(of_best.gain_union)}});
        }
        if (heads.size() < 2) {
            table_.matrix_header.clear();
            table_.matrix_cells.clear();
            table_.heads_header.clear();
            table_.heads_cells.clear();
        }
        table_.json["matrix"] = std::move(matrix);
        table_.json["heads"] = std::move(list);
    }

    void add_notes() {
        auto note = [&](std::string text) { table_.notes.push_back(std::move(text)); };
        note(fmt::format(
            "{} held-out clips of {} recordings{}. Figures in percent. within = best class of the clip's "
            "own group; union = best of all classes.",
            clips_, recordings_, folds_ > 1 ? fmt::format(", pooled over {} folds", folds_) : std::string()));
        if (!reference_.joint.empty() || !reference_.base.empty())
            note(
                fmt::format("gap = joint − row, where joint is trained on pooled clips, and gain = row − base, with "
                            "the same head and on the same clips, in points; 95 % interval of a paired bootstrap over "
                            "recordings ({} rounds, stratified by group).",
                            bootstrap_.resamples));
        if (repeats_ > 1)
            note(
                fmt::format("means of up to {} repeats{}. The interval is that of recordings and knows nothing of "
                            "training again; … is from the least to the largest difference of single repeats.",
                            repeats_, fewer_repeats()));
        add_significance();
        const bool specialists =
            std::any_of(rows_.begin(), rows_.end(), [](const TableRow& row) { return row.row == kSpecialistsRow; });
        if (specialists)
            note("specialists within = each clip goes to its own group's specialist, as if somebody knew the group" +
                 (specialists_gain_
                      ? fmt::format("; the specialists' gain is within groups, their own heads against {}",
                                    name(*base_of_specialists_))
                      : std::string()));
        if (std::any_of(rows_.begin(), rows_.end(), [](const TableRow& row) { return row.row == kEnsembleRow; }))
            note("ensemble = each clip goes through every specialist's encoder, which costs as much as all of them");
        add_system_gap();
        for (size_t i = 0; i < rows_.size(); ++i) {
            if (!scored_[i].has_union && rows_[i].row != kSpecialistsRow)
                note(fmt::format(
                    "{} has no figures over the union: {}", name(i),
                    scored_[i].unheard.empty()
                        ? fmt::format("it was scored on {}, other rows on {}", fmt::join(scored_[i].groups, ", "),
                                      fmt::join(union_, ", "))
                        : fmt::format("its model has no clips of {}", fmt::join(scored_[i].unheard, ", "))));
            if (scored_[i].clips.size() != clips_ && scored_[i].has_union)
                note(fmt::format("{} was scored on {} of these clips; its gaps are over the clips that both rows have",
                                 name(i), scored_[i].clips.size()));
            for (const auto& [repeat, one] : scored_[i].repeats)
                if (one.clips.size() != scored_[i].clips.size())
                    note(fmt::format("repeat '{}' of {} was scored on {} of its {} clips", repeat, name(i),
                                     one.clips.size(), scored_[i].clips.size()));
        }
        for (const std::string& missing : reference_.missing) note(missing);
        if (const std::map<std::string, int> unseen = unseen_of(scored_); !unseen.empty()) {
            int total = 0;
            std::vector<std::string> names;
            for (const auto& [label, n] : unseen) {
                total += n;
                names.push_back(label);
            }
            note(fmt::format("{} held-out clips of labels without a training clip are left out: {}", total,
                             fmt::join(names, ", ")));
        }
    }

    /// ", 1 of base, 2 of joint · own": the rows with fewer repeats than others, by model where that is enough.
    std::string fewer_repeats() const {
        std::map<std::string, std::set<size_t>> counts;
        for (size_t i = 0; i < rows_.size(); ++i) counts[rows_[i].row].insert(scored_[i].repeats.size());
        std::vector<std::string> texts;
        for (size_t i = 0; i < rows_.size(); ++i) {
            const size_t count = scored_[i].repeats.size();
            const std::string who = counts[rows_[i].row].size() == 1 ? rows_[i].row : name(i);
            std::string text = fmt::format(", {} of {}", count, who);
            if (count < repeats_ && std::find(texts.begin(), texts.end(), text) == texts.end())
                texts.push_back(std::move(text));
        }
        return fmt::format("{}", fmt::join(texts, ""));
    }

    /// How many intervals leave out zero; nothing else here speaks of significance.
    void add_significance() {
        struct Count {
            size_t all = 0, above = 0, below = 0;
            void add(const std::optional<Difference>& difference) {
                if (!difference) return;
                ++all;
                above += difference->excludes_zero() && difference->mean > 0 ? 1 : 0;
                below += difference->excludes_zero() && difference->mean < 0 ? 1 : 0;
            }
            Json json() const { return {{"of", all}, {"above_zero", above}, {"below_zero", below}}; }
        };
        Count gaps, gains;
        for (size_t i = 0; i < rows_.size(); ++i) {
            if (is_control(i)) continue;
            gaps.add(figures_[i].gap_union);
            gains.add(figures_[i].gain_union);
        }
        table_.json["intervals_without_zero"] = {{"gaps", gaps.json()}, {"gains", gains.json()}};
        std::vector<std::string> texts;
        for (const auto& [name, count] : {std::pair("gaps", &gaps), std::pair("gains", &gains)})
            if (count->all > 0)
                texts.push_back(fmt::format("{} of {} {} ({} above, {} below)", count->above + count->below, count->all,
                                            name, count->above, count->below));
        if (!texts.empty())
            table_.notes.push_back(
                fmt::format("the interval leaves out zero for {}, over the union, controls not counted; where nothing "
                            "differs, one in twenty would.",
                            fmt::join(texts, " and ")));
    }

    void add_system_gap() {
        Json system = nullptr;
        const auto own = find(reference_.joint, "own");
        if (best_) {
            std::string text = fmt::format("best on these clips without pooled clips: {} with {}", name(*best_),
                                           percent(figures_[*best_].everywhere));
            if (own) {
                const auto gap = difference_of(scored_[*own], scored_[*best_], false, bootstrap_);
                system = {{"row", rows_[*best_].row}, {"head", rows_[*best_].head}, {"gap", gap_json(gap)}};
                text += fmt::format("; system gap, joint with its own head against this row: {}{}", gap_text(gap),
                                    gap && !gap->repeats.empty() ? ", repeats " + range_text(gap) : std::string());
            }
            table_.notes.push_back(text);
        }
        table_.json["best_without_pooled_clips"] = best_ ? Json{{"row", rows_[*best_].row},
                                                                {"head", rows_[*best_].head},
                                                                {"union_accuracy", figures_[*best_].everywhere}}
                                                         : Json(nullptr);
        table_.json["system_gap"] = std::move(system);
    }

    size_t compared(const std::string& row, bool within) const {
        std::vector<std::string> names;
        for (size_t i = 0; i < rows_.size(); ++i) names.push_back(name(i));
        const auto at = static_cast<size_t>(std::find(names.begin(), names.end(), row) - names.begin());
        if (at == names.size())
            throw Error(Code::kInvalid, with_nearest(fmt::format("compare: there is no row '{}'", row), row, names));
        if (!within && !scored_[at].has_union)
            throw Error(
                Code::kInvalid,
                fmt::format("compare: the row '{}' knows no union of groups, expected \"figure\": \"within\"", row));
        return at;
    }

    void add_comparisons(const std::vector<Comparison>& comparisons) {
        table_.compare_header = {"a", "b", "figure", "clips", "all"};
        table_.compare_header.insert(table_.compare_header.end(), groups_.begin(), groups_.end());
        if (repeats_ > 1) table_.compare_header.emplace_back("all, repeats");
        Json list = Json::array();
        for (const Comparison& comparison : comparisons) {
            const Scored& a = scored_[compared(comparison.a, comparison.within)];
            const Scored& b = scored_[compared(comparison.b, comparison.within)];
            const auto all = difference_of(a, b, comparison.within, bootstrap_);
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
            for (const std::string& group : groups_) {
                const auto one = difference_of(a, b, comparison.within, bootstrap_, group);
                json["groups"][group] = gap_json(one);
                cells.push_back(gap_text(one));
            }
            if (repeats_ > 1) cells.push_back(range_text(all));
            list.push_back(std::move(json));
            table_.compare_cells.push_back(std::move(cells));
        }
        table_.json["compare"] = std::move(list);
    }

    std::vector<TableRow> rows_;
    const TableReference& reference_;
    const Bootstrap bootstrap_;
    std::set<std::string> pooling_heads_;
    std::vector<std::string> groups_;
    std::set<std::string> union_;  ///< the groups of all rows but the specialists'
    std::vector<Scored> scored_;
    std::vector<Figures> figures_;
    size_t clips_ = 0, recordings_ = 0, folds_ = 0, repeats_ = 0;
    std::optional<size_t> base_of_specialists_;
    bool specialists_gain_ = false;
    std::optional<size_t> best_;  ///< over the union, of the rows without pooled clips
    Table table_;
};

}  // namespace

Table make_table(std::vector<TableRow> rows, const TableReference& reference, int resamples, uint64_t seed,
                 const std::vector<Comparison>& comparisons) {
    return Maker(std::move(rows), reference, {resamples, seed}).make(comparisons);
}

namespace {

using Cells = std::vector<std::vector<std::string>>;

constexpr const char* kCompareNote =
    "a − b in points on the clips that both have, of all groups and of each, with the interval of the bootstrap above.";
constexpr const char* kMatrixTitle = "Union accuracy over all groups, by model and head";
constexpr const char* kHeadsTitle = "What merging keeps, by head: the merge that is best on these clips";

/// Columns of equal width, the first `left` flush left; a rule under the first `headings` lines. Above the line
/// `groups[i].first`, counted without the headings, stands a line of its own, and an empty one.
std::string aligned(const Cells& lines, size_t headings, size_t left,
                    const std::vector<std::pair<size_t, std::string>>& groups = {}) {
    std::vector<size_t> widths(lines.front().size(), 0);
    for (const auto& line : lines)
        for (size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], display_width(line[c]));
    std::string out, rule;
    size_t total = 2 * (widths.size() - 1);
    for (const size_t width : widths) total += width;
    for (size_t i = 0; i < total; ++i) rule += "─";
    for (size_t l = 0; l < lines.size(); ++l) {
        for (const auto& [first, text] : groups)
            if (l == first + headings) out += (first == 0 ? "" : "\n") + text + "\n";
        std::string line = groups.empty() || l < headings ? "" : "  ";
        for (size_t c = 0; c < widths.size(); ++c) {
            const std::string &text = lines[l][c], pad(widths[c] - display_width(text), ' ');
            line += (c == 0 ? "" : "  ") + (c < left ? text + pad : pad + text);
            if (c == 0 && !groups.empty() && l < headings) line += "  ";
        }
        while (!line.empty() && line.back() == ' ') line.pop_back();
        out += line + "\n";
        if (l + 1 == headings) out += rule + (groups.empty() ? "\n" : "──\n");
    }
    return out;
}

Cells under(const std::vector<std::string>& header, const Cells& cells) {
    Cells out = {header};
    out.insert(out.end(), cells.begin(), cells.end());
    return out;
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
    std::string out;
    if (!matrix_cells.empty()) {
        out += std::string(kMatrixTitle) + "\n" + aligned(under(matrix_header, matrix_cells), 1, 1) + "\n";
        out += std::string(kHeadsTitle) + "\n" + aligned(under(heads_header, heads_cells), 1, 3) + "\n";
    }
    Cells lines(2);
    for (const auto& [upper, lower] : narrow_header) {
        lines[0].push_back(upper);
        lines[1].push_back(lower);
    }
    lines.insert(lines.end(), narrow_cells.begin(), narrow_cells.end());
    out += aligned(lines, 2, 1, narrow_groups);
    if (!notes.empty()) out += "\n";
    for (const std::string& note : notes) out += "  " + note + "\n";
    if (compare_cells.empty()) return out;
    return out + "\n" + aligned(under(compare_header, compare_cells), 1, 3) + "  " + kCompareNote + "\n";
}

std::string Table::to_csv() const {
    std::string out;
    add_csv(header, out);
    for (const auto& row : cells) add_csv(row, out);
    return out;
}

std::string Table::to_compare_csv() const {
    std::string out = "a,b,figure,group,clips,recordings,difference,low,high,repeats_low,repeats_high\n";
    for (const Json& comparison : json.at("compare")) {
        auto line = [&](const std::string& group, const Json& d) {
            if (d.is_null()) return;
            auto in_points = [](double value) {
                return std::isfinite(value) ? fmt::format("{:.2f}", 100 * value) : std::string();
            };
            auto points = [&](const char* name) {
                return in_points(d.at(name).is_null() ? NAN : d.at(name).get<double>());
            };
            double least = NAN, largest = NAN;
            if (d.contains("repeats"))
                for (const auto& [name, value] : d.at("repeats").items()) {
                    least = std::fmin(least, value.get<double>());
                    largest = std::fmax(largest, value.get<double>());
                }
            add_csv({comparison.at("a"), comparison.at("b"), comparison.at("figure"), group, d.at("clips").dump(),
                     d.at("recordings").dump(), points("mean"), points("low"), points("high"), in_points(least),
                     in_points(largest)},
                    out);
        };
        line("all", comparison.at("all"));
        for (const auto& [group, d] : comparison.at("groups").items()) line(group, d);
    }
    return out;
}

std::string Table::to_markdown() const {
    std::string out;
    if (!matrix_cells.empty()) {
        out += fmt::format("{}\n\n{}\n", kMatrixTitle, markdown(matrix_header, matrix_cells, 1));
        out += fmt::format("{}\n\n{}\n", kHeadsTitle, markdown(heads_header, heads_cells, 3));
    }
    out += markdown(header, cells, 4) + "\n";
    for (const std::string& note : notes) out += "- " + note + "\n";
    if (!compare_cells.empty()) out += "\n" + markdown(compare_header, compare_cells, 3) + "\n- " + kCompareNote + "\n";
    return out;
}

}  // namespace biophony
