// The table: one row per model, figures within groups and over the union, gaps to joint training with intervals.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "measure/predictions.hpp"

namespace biophony {

/// What one row of the table is made from: a model's predictions on all groups, or several specialists' on one each.
struct TableRow {
    std::string row;  ///< "joint", "base", "merger:average, ridge", "specialists"
    std::string head;
    bool pooled_data = false;  ///< needs recordings of several contributors in one place
    std::vector<Predictions> parts;
};

/// The rows that gaps refer to, by name.
struct TableReference {
    std::string joint;  ///< row name of joint training; empty = there is none
    std::string base;   ///< row name of the untouched base; empty = there is none
};

/// The finished table.
struct Table {
    std::vector<std::string> header;
    std::vector<std::vector<std::string>> cells;
    /// The same, narrower, for terminals: headings on two lines, within and union in one column.
    std::vector<std::pair<std::string, std::string>> narrow_header;
    std::vector<std::vector<std::string>> narrow_cells;
    std::vector<std::string> notes;  ///< what a reader must know: definitions, system gap, clips left out
    Json json;                       ///< the same figures as numbers

    std::string to_text() const;  ///< aligned columns, for a terminal
    std::string to_csv() const;
    std::string to_markdown() const;
};

/// Figures per group (within / union), pooled accuracy, macro-F1, and the gap joint − row with the same head and the
/// same figure: a paired bootstrap over recordings, stratified by group, 95 %, `resamples` rounds. Rows are sorted:
/// references first, then by name; a note tells where a row was scored on fewer clips. Throws Error(kRunFailed) where a
/// row has two predictions for one clip.
Table make_table(std::vector<TableRow> rows, const TableReference& reference, int resamples, uint64_t seed);

}  // namespace biophony
