// Any CSV or TSV file with a row per labelled clip, read through a map of its columns.
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "biophony/dataset.hpp"
#include "csv.hpp"

namespace {

namespace fs = std::filesystem;
using namespace biophony::sdk;
using biophony_table::parse_table;
using biophony_table::Row;
using biophony_table::Table;

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
}

std::string in_quotes(const std::string& text) {
    return "'" + text + "'";
}

template <class Names>
std::string joined(const Names& names, size_t most = 30) {
    std::string out;
    size_t count = 0;
    for (const auto& name : names) {
        if (count++ == most) return out + ", …";
        out += (out.empty() ? "" : ", ") + name;
    }
    return out;
}

/// Levenshtein's distance, letter case ignored.
size_t distance(const std::string& a, const std::string& b) {
    const std::string x = lower(a), y = lower(b);
    std::vector<size_t> row(y.size() + 1);
    for (size_t j = 0; j <= y.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= x.size(); ++i) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= y.size(); ++j) {
            const size_t up = row[j];
            row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (x[i - 1] == y[j - 1] ? 0 : 1)});
            diagonal = up;
        }
    }
    return row[y.size()];
}

/// "; did you mean 'x'?" where one is near, else nothing; then all there are.
template <class Names>
std::string hint(const std::string& wanted, const Names& names) {
    const std::string* best = nullptr;
    size_t least = std::max<size_t>(3, wanted.size() / 2 + 1);
    for (const std::string& name : names)
        if (wanted.size() < 200 && name.size() < 200 && distance(wanted, name) < least) {
            least = distance(wanted, name);
            best = &name;
        }
    return (best == nullptr ? std::string() : "; did you mean " + in_quotes(*best) + "?") +
           "; there are: " + joined(names);
}

/// What a table may call its columns where the map says nothing.
const std::map<std::string, std::string> kDefaultColumns = {
    {"path", "path"},   {"label", "label"},     {"start", "start_s"}, {"end", "end_s"}, {"recording", "recording_id"},
    {"split", "split"}, {"licence", "licence"},
};

class TableDataset : public Dataset {
public:
    explicit TableDataset(const Params& params)
        : file_(params.at("file").get<std::string>()),
          root_(params.contains("root") ? fs::path(params.at("root").get<std::string>()) : file_.parent_path()),
          columns_(params.at("columns")),
          where_(params.at("where")),
          exclude_(params.at("exclude_labels").get<std::set<std::string>>()),
          label_columns_(params.at("label_columns").get<std::vector<std::string>>()) {
        const std::string delimiter = params.at("delimiter");
        delimiter_ = delimiter == "auto" ? '\0' : delimiter[0];
        if (columns_.contains("end") && columns_.contains("duration"))
            throw Error("found both \"end\" and \"duration\", expected one of them", BPH_INVALID_ARGUMENT, "columns");
        if (columns_.contains("label") && !label_columns_.empty())
            throw Error("found both \"label\" in \"columns\" and \"label_columns\", expected one of them",
                        BPH_INVALID_ARGUMENT, "label_columns");
    }

    void describe(const Call& call, DatasetSink& sink) override {
        read();
        for (const char* name :
             {"path",       "label",     "start",      "end",       "duration",   "recording", "split",      "licence",
              "scientific", "channel",   "low_hz",     "high_hz",   "start_time", "latitude",  "longitude",  "site",
              "recorder",   "recordist", "individual", "annotator", "gbif",       "ebird",     "inaturalist"})
            at_[name] = place_of(name);
        for (const std::string& header : label_columns_)
            label_places_.push_back(require_column(header, "label_columns", " for \"label_columns\""));
        const std::vector<const Row*> rows = chosen_rows(call);

        // One recording per path and channel, in the order in which they first appear.
        std::map<std::string, size_t> index_of;
        std::vector<Recording> recordings;
        std::vector<size_t> first_line;
        std::vector<bool> mixed_splits;
        std::vector<size_t> recording_of;
        for (const Row* row : rows) {
            Recording recording = recording_from(*row);
            const auto [found, added] = index_of.emplace(recording.id, recordings.size());
            recording_of.push_back(found->second);
            if (added) {
                recordings.push_back(std::move(recording));
                first_line.push_back(row->line);
                mixed_splits.push_back(false);
                continue;
            }
            Recording& known = recordings[found->second];
            if (group_of(known, "recording") != group_of(recording, "recording"))
                fail(*row, "column " + in_quotes(table_.header[*at_.at("recording")]) + ": found " +
                               in_quotes(group_of(recording, "recording")) + ", expected " +
                               in_quotes(group_of(known, "recording")) + " as in line " +
                               std::to_string(first_line[found->second]) + ", which names the same file");
            // What else the rows of a file disagree on, such as the individual, doesn't hold for the file.
            std::erase_if(known.groups,
                          [&](const auto& group) { return group_of(recording, group.first) != group.second; });
            if (known.split != recording.split) mixed_splits[found->second] = true;
        }
        for (size_t i = 0; i < recordings.size(); ++i) {
            if (mixed_splits[i]) recordings[i].split.clear();
            sink.add(recordings[i]);
        }
        for (size_t i = 0; i < rows.size(); ++i) {
            if (i % 4096 == 0) call.check_cancelled();
            Region region = region_from(*rows[i]);
            region.recording = recording_of[i];
            if (mixed_splits[recording_of[i]]) region.split = split_of(*rows[i]);
            sink.add(region);
        }
    }

private:
    [[noreturn]] void fail(const Row& row, const std::string& message) const {
        throw Error(file_.string() + ":" + std::to_string(row.line) + ": " + message, BPH_INVALID_ARGUMENT, "file");
    }
    [[noreturn]] void fail(const Row& row, const char* name, const std::string& found,
                           const std::string& expected) const {
        fail(row, "column " + in_quotes(table_.header[*at_.at(name)]) + ": found " + in_quotes(found) + ", expected " +
                      expected);
    }

    static std::string group_of(const Recording& recording, std::string_view key) {
        for (const auto& [name, value] : recording.groups)
            if (name == key) return value;
        return {};
    }

    void read() {
        std::ifstream in(file_, std::ios::binary);
        if (!in || fs::is_directory(file_))
            throw Error("can't read the table " + in_quotes(file_.string()) + ": " +
                            (fs::is_directory(file_) ? "it is a folder" : std::strerror(errno)),
                        BPH_IO, "file");
        const std::string text((std::istreambuf_iterator<char>(in)), {});
        try {
            table_ = parse_table(text, delimiter_);
        } catch (const std::runtime_error& error) {
            throw Error(file_.string() + ": " + error.what(), BPH_INVALID_ARGUMENT, "file");
        }
        if (table_.rows.empty())
            throw Error(file_.string() + ": the table has a header and no rows", BPH_INVALID_ARGUMENT, "file");
    }

    size_t require_column(const std::string& header, const char* parameter, const std::string& purpose) const {
        const auto count = std::count(table_.header.begin(), table_.header.end(), header);
        if (count == 0)
            throw Error(file_.string() + " has no column " + in_quotes(header) + purpose + hint(header, table_.header),
                        BPH_NOT_FOUND, parameter);
        if (count > 1)
            throw Error(file_.string() + " has " + std::to_string(count) + " columns " + in_quotes(header) + purpose +
                            ", expected one",
                        BPH_INVALID_ARGUMENT, parameter);
        return static_cast<size_t>(std::find(table_.header.begin(), table_.header.end(), header) -
                                   table_.header.begin());
    }

    /// A path put together from columns, "{site}/{file}.wav": what stands before a column, and the column.
    struct Piece {
        std::string text;
        std::optional<size_t> column;  // none behind the last one
    };

    static bool is_pattern(const std::string& path) { return path.find('{') != std::string::npos; }

    std::vector<Piece> pieces_of(const std::string& pattern) const {
        std::vector<Piece> pieces;
        for (size_t at = 0;;) {
            const size_t open = pattern.find('{', at);
            if (open == std::string::npos) {
                pieces.push_back({pattern.substr(at), {}});
                return pieces;
            }
            const size_t close = pattern.find('}', open);
            if (close == std::string::npos)
                throw Error("found the path " + in_quotes(pattern) + " with a '{' and no '}' behind it, expected " +
                                "columns between braces: {site}/{file}",
                            BPH_INVALID_ARGUMENT, "columns");
            const std::string header = pattern.substr(open + 1, close - open - 1);
            pieces.push_back({pattern.substr(at, open - at),
                              require_column(header, "columns", " for the path " + in_quotes(pattern))});
            at = close + 1;
        }
    }

    /// The sound file's path; an empty field in it is an error.
    std::string path_of(const Row& row) const {
        if (path_.empty()) {
            if (value(row, "path").empty()) fail(row, "path", "", "the path of a sound file");
            return value(row, "path");
        }
        std::string path;
        for (const Piece& piece : path_) {
            path += piece.text;
            if (!piece.column) continue;
            const std::string& field = row.fields[*piece.column];
            if (field.empty())
                fail(row,
                     "column " + in_quotes(table_.header[*piece.column]) + ": found '', expected its part of the path");
            path += field;
        }
        return path;
    }

    /// How many labels a row has, and its first one.
    std::pair<size_t, std::string> label_of(const Row& row) const {
        if (label_columns_.empty()) {
            const std::string& label = value(row, "label");
            return {label.empty() ? 0 : 1, label};
        }
        std::pair<size_t, std::string> found;
        for (size_t i = 0; i < label_places_.size(); ++i) {
            const std::string& field = row.fields[label_places_[i]];
            if (field == "1" && found.first++ == 0) found.second = label_columns_[i];
            if (field != "1" && field != "0" && !field.empty())
                fail(row, "column " + in_quotes(label_columns_[i]) + ": found " + in_quotes(field) +
                              ", expected 1 where the label holds and 0 where it doesn't");
        }
        return found;
    }

    std::optional<size_t> place_of(const std::string& name) {
        const std::string purpose = " for the " + name;
        if (name == "label" && !label_columns_.empty()) return {};
        if (name == "path" && columns_.contains(name) && is_pattern(columns_.at(name))) {
            path_ = pieces_of(columns_.at(name));
            return {};
        }
        if (columns_.contains(name)) return require_column(columns_.at(name), "columns", purpose);
        const auto known = kDefaultColumns.find(name);
        if (known == kDefaultColumns.end()) return {};
        if (name == "end" && columns_.contains("duration")) return {};
        const bool needed = name == "path" || name == "label";
        const bool there = std::find(table_.header.begin(), table_.header.end(), known->second) != table_.header.end();
        if (!there && !needed) return {};
        return require_column(known->second, "columns", purpose + " (the default name; \"columns\" can name another)");
    }

    /// The rows that "where" asks for, with a label that isn't excluded.
    std::vector<const Row*> chosen_rows(const Call& call) const {
        struct Condition {
            size_t column;
            std::set<std::string> values;
        };
        std::vector<Condition> conditions;
        for (const auto& [header, wanted] : where_.items()) {
            Condition condition{require_column(header, "where", " for \"where\""), {}};
            const auto text = [](const Params& value) {
                return value.is_string() ? value.get<std::string>() : value.dump();
            };
            if (wanted.is_array())
                for (const auto& value : wanted) condition.values.insert(text(value));
            else
                condition.values.insert(text(wanted));
            std::set<std::string> there;
            for (const Row& row : table_.rows) there.insert(row.fields[condition.column]);
            for (const std::string& value : condition.values)
                if (!there.contains(value))
                    throw Error(file_.string() + ": no row has " + in_quotes(header) + " = " + in_quotes(value) +
                                    hint(value, there),
                                BPH_NOT_FOUND, "where");
            conditions.push_back(std::move(condition));
        }

        std::vector<const Row*> rows;
        std::set<std::string> excluded;
        size_t asked_for = 0, without_label = 0, first_without = 0, with_several = 0, first_with_several = 0;
        for (const Row& row : table_.rows) {
            if (!std::all_of(conditions.begin(), conditions.end(),
                             [&](const Condition& c) { return c.values.contains(row.fields[c.column]); }))
                continue;
            ++asked_for;
            const auto [count, label] = label_of(row);
            if (count == 0) {
                if (without_label++ == 0) first_without = row.line;
                continue;
            }
            if (count > 1) {
                if (with_several++ == 0) first_with_several = row.line;
                continue;
            }
            if (exclude_.contains(label)) {
                excluded.insert(label);
                continue;
            }
            path_of(row);
            rows.push_back(&row);
        }
        if (rows.empty())
            throw Error(file_.string() + ": no row is left: " + std::to_string(table_.rows.size()) + " rows, " +
                            std::to_string(asked_for) + " fit \"where\", " + std::to_string(without_label) +
                            " of them have no label, " + std::to_string(with_several) +
                            " have several, and the labels of the others are excluded",
                        BPH_INVALID_ARGUMENT, "where");
        if (without_label > 0)
            call.log(std::to_string(without_label) + " rows have no label and are left out; the first is " +
                         file_.string() + ":" + std::to_string(first_without),
                     BPH_LOG_WARNING);
        if (with_several > 0)
            call.log(std::to_string(with_several) + " rows have several labels and are left out; the first is " +
                         file_.string() + ":" + std::to_string(first_with_several),
                     BPH_LOG_WARNING);
        for (const std::string& label : exclude_)
            if (!excluded.contains(label))
                call.log("no chosen row has the label " + in_quotes(label) + " of \"exclude_labels\"", BPH_LOG_WARNING);
        return rows;
    }

    bool has(const char* name) const { return at_.at(name).has_value(); }
    /// The field of a mapped column; empty where the table has none.
    const std::string& value(const Row& row, const char* name) const {
        static const std::string kNone;
        const auto& place = at_.at(name);
        return place ? row.fields[*place] : kNone;
    }

    /// Locale-free; kUnknown where the column or the field is missing.
    double number(const Row& row, const char* name) const {
        const std::string& found = value(row, name);
        const size_t first = found.find_first_not_of(" \t");
        if (first == std::string::npos) return kUnknown;
        const char* begin = found.data() + first + (found[first] == '+' ? 1 : 0);
        const char* end = found.data() + found.find_last_not_of(" \t") + 1;
        double out = 0;
        const auto [stop, error] = std::from_chars(begin, end, out);
        if (error != std::errc() || stop != end || !std::isfinite(out)) {
            if (found.find(',') != std::string::npos)
                fail(row, name, found, "a number with a decimal point, not a comma");
            fail(row, name, found, "a number, with a decimal point");
        }
        return out;
    }

    std::string split_of(const Row& row) const {
        static const std::map<std::string, std::string> kWords = {
            {"", ""},         {"train", "train"},      {"training", "train"}, {"valid", "valid"},  {"val", "valid"},
            {"dev", "valid"}, {"validation", "valid"}, {"test", "test"},      {"testing", "test"},
        };
        const std::string& found = value(row, "split");
        const auto known = kWords.find(lower(found));
        if (known == kWords.end())
            fail(row, "split", found,
                 "train (training), valid (val, validation, dev) or test (testing); for folds use \"where\"");
        return known->second;
    }

    Recording recording_from(const Row& row) const {
        const std::string path = path_of(row);
        Recording recording;
        recording.id = path;
        recording.uri = fs::absolute(root_ / path).lexically_normal().string();
        if (const double channel = number(row, "channel"); !std::isnan(channel)) {
            if (channel < 1 || channel > 1024 || channel != std::floor(channel))
                fail(row, "channel", value(row, "channel"), "a whole number, 1 for the first channel");
            recording.channel = static_cast<int>(channel) - 1;
            recording.id += "#" + std::to_string(static_cast<int>(channel));
        }
        recording.start_time = value(row, "start_time");
        recording.latitude = number(row, "latitude");
        recording.longitude = number(row, "longitude");
        if (std::abs(recording.latitude) > 90) fail(row, "latitude", value(row, "latitude"), "-90 to 90 degrees");
        if (std::abs(recording.longitude) > 180) fail(row, "longitude", value(row, "longitude"), "-180 to 180 degrees");
        recording.licence = value(row, "licence");
        recording.split = split_of(row);
        for (const char* key : {"recording", "site", "recorder", "recordist", "individual"})
            if (!value(row, key).empty()) recording.groups.emplace_back(key, value(row, key));
        return recording;
    }

    Region region_from(const Row& row) const {
        Region region;
        if (const double start = number(row, "start"); !std::isnan(start)) region.start_s = start;
        if (region.start_s < 0) fail(row, "start", value(row, "start"), "0 or more seconds");
        const char* until = has("duration") ? "duration" : "end";
        region.end_s = number(row, until);
        if (has("duration")) region.end_s += region.start_s;
        if (region.end_s <= region.start_s)
            fail(row, until, value(row, until),
                 has("duration") ? "more than 0 seconds" : "a time after the start at " + value(row, "start") + " s");
        region.low_hz = number(row, "low_hz");
        region.high_hz = number(row, "high_hz");
        if (region.low_hz < 0) fail(row, "low_hz", value(row, "low_hz"), "0 Hz or more");
        if (region.high_hz < 0 || region.high_hz < region.low_hz)
            fail(row, "high_hz", value(row, "high_hz"), "a frequency above the lower edge");
        region.labels.push_back({label_of(row).second});
        for (const char* taxon : {"scientific", "gbif", "ebird", "inaturalist"})
            if (!value(row, taxon).empty()) region.labels.push_back({value(row, taxon), taxon});
        region.annotator = value(row, "annotator");
        return region;
    }

    fs::path file_, root_;
    Params columns_, where_;
    std::set<std::string> exclude_;
    std::vector<std::string> label_columns_;
    char delimiter_ = '\0';
    Table table_;
    std::map<std::string, std::optional<size_t>> at_;  // what → place in a row
    std::vector<size_t> label_places_;
    std::vector<Piece> path_;  // empty where the path is one column
};

}  // namespace

BIOPHONY_PLUGIN(dataset<TableDataset>("table"))
