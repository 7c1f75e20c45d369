// The table: one row per model and head, figures within groups and over the union, gaps to joint training with
// intervals.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "measure/predictions.hpp"

namespace biophony {

inline constexpr const char* kSpecialistsRow = "specialists";  ///< each with its own head on its own group
inline constexpr const char* kEnsembleRow = "ensemble";        ///< all specialists, each clip through every one

/// What one row of the table is made from: a model's predictions on all groups, those of its folds, or several
/// specialists' on one group each; of parts with the same `repeat` together, a clip is in one. Parts may number their
/// labels and groups each in its own way.
struct TableRow {
    std::string row;  ///< "joint", "base", "merger:average, ridge", "specialists"
    std::string head;
    bool pooled_data = false;  ///< needs clips of several contributors in one place, whatever the parts say
    std::vector<Predictions> parts;
};

/// The rows that gaps refer to, by name.
struct TableReference {
    std::string joint;                  ///< row name of joint training; empty = there is none
    std::string base;                   ///< row name of the untouched base; empty = there is none
    std::vector<std::string> controls;  ///< rows that are only there to be compared with; they stand last
    std::vector<std::string> missing;   ///< rows that every table should have and this one can't, with reasons: notes
};

/// A difference that is asked for: a − b, rows written as "row · head".
struct Comparison {
    std::string a, b;
    bool within = false;  ///< within groups, else over the union
};

/// The finished table.
struct Table {
    std::vector<std::string> header;
    std::vector<std::vector<std::string>> cells;
    /// The same, narrower, for terminals: headings on two lines, within and union in one column, rows of one head
    /// together below a line that says so.
    std::vector<std::pair<std::string, std::string>> narrow_header;
    std::vector<std::vector<std::string>> narrow_cells;
    std::vector<std::pair<size_t, std::string>> narrow_groups;  ///< first row of a head, and the line above it
    /// Union accuracy over all groups, a line a model, a column a head; empty where there are fewer than two heads
    /// beside the models' own.
    std::vector<std::string> matrix_header;
    std::vector<std::vector<std::string>> matrix_cells;
    /// A line a head: joint, base and the best merge; empty where the matrix is.
    std::vector<std::string> heads_header;
    std::vector<std::vector<std::string>> heads_cells;
    std::vector<std::string> notes;  ///< what a reader must know: definitions, system gap, clips left out
    std::vector<std::string> compare_header;
    std::vector<std::vector<std::string>> compare_cells;  ///< one line a comparison; none where none is asked for
    std::string species_csv;    ///< row,head,group,species,clips,recordings,recall_within,recall_union,precision,f1
    std::string confusion_csv;  ///< row,head,truth,predicted,clips
    Json json;                  ///< the same figures as numbers

    std::string to_text() const;  ///< aligned columns, for a terminal
    std::string to_csv() const;
    /// One line per comparison and group (and "all"): a,b,figure,group,clips,recordings,difference,low,high,
    /// repeats_low,repeats_high in points.
    std::string to_compare_csv() const;
    std::string to_markdown() const;
};

/// Figures per group (within / union), pooled accuracy, top-5, macro-F1, and the gap joint − row with the same head and
/// the same figure: a paired bootstrap over recordings, stratified by group, 95 %, `resamples` rounds; so are the gain
/// row − base and the comparisons. Specialists, whose heads nobody shares, gain on the base's first head from sums,
/// else its first. Rows of one head stand together, first the models' own heads, last those that need pooled clips;
/// within, references first, then by name. A note tells where a row was scored on fewer clips.
///
/// Parts of one row with different `repeat` are trainings of one model on the same clips. A clip's figures are means
/// over its repeats, macro-F1, the figures of species and confusions are means of the repeats' own; as intervals over
/// recordings know nothing of training again, the differences of single repeats stand beside: repeat r of one row
/// against repeat r of the other, or against the other's mean where it has no r.
///
/// Throws Error(kRunFailed) where a row has two predictions for one clip and repeat or mixes splits, and
/// Error(kInvalid) for a comparison of rows that aren't there, that have no clip in common, or over a union that one of
/// them doesn't have.
Table make_table(std::vector<TableRow> rows, const TableReference& reference, int resamples, uint64_t seed,
                 const std::vector<Comparison>& comparisons = {});

}  // namespace biophony
