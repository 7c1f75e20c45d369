// The table: one row per model, figures within groups and over the union, gaps to joint training with intervals.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "measure/predictions.hpp"

namespace biophony {

/// What one row of the table is made from: a model's predictions on all groups, those of its folds, or several
/// specialists' on one group each. Parts may number their labels and groups each in its own way.
struct TableRow {
    std::string row;  ///< "joint", "base", "merger:average, ridge", "specialists"
    std::string head;
    bool pooled_data = false;  ///< needs recordings of several contributors in one place
    std::vector<Predictions> parts;
};

/// The rows that gaps refer to, by name.
struct TableReference {
    std::string joint;                  ///< row name of joint training; empty = there is none
    std::string base;                   ///< row name of the untouched base; empty = there is none
    std::vector<std::string> controls;  ///< rows that are only there to be compared with; they stand last
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
    /// The same, narrower, for terminals: headings on two lines, within and union in one column.
    std::vector<std::pair<std::string, std::string>> narrow_header;
    std::vector<std::vector<std::string>> narrow_cells;
    std::vector<std::string> notes;  ///< what a reader must know: definitions, system gap, clips left out
    std::vector<std::string> compare_header;
    std::vector<std::vector<std::string>> compare_cells;  ///< one line a comparison; none where none is asked for
    Json json;                                            ///< the same figures as numbers

    std::string to_text() const;  ///< aligned columns, for a terminal
    std::string to_csv() const;
    /// One line per comparison and group (and "all"): a,b,figure,group,clips,recordings,difference,low,high in points.
    std::string to_compare_csv() const;
    std::string to_markdown() const;
};

/// Figures per group (within / union), pooled accuracy, macro-F1, and the gap joint − row with the same head and the
/// same figure: a paired bootstrap over recordings, stratified by group, 95 %, `resamples` rounds; so are the gain
/// row − base and the comparisons. Specialists, whose heads nobody shares, gain on the base's first head. Rows are
/// sorted: references first, then by name; a note tells where a row was scored on fewer clips. Throws
/// Error(kRunFailed) where a row has two predictions for one clip or mixes splits, and Error(kInvalid) for a comparison
/// of rows that aren't there, that have no clip in common, or over a union that one of them doesn't have.
Table make_table(std::vector<TableRow> rows, const TableReference& reference, int resamples, uint64_t seed,
                 const std::vector<Comparison>& comparisons = {});

}  // namespace biophony
