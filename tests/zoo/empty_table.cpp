// Its data set's table has no functions.
#include "zoo.hpp"

ZOO_DATASET("zoo-empty-table")
static constexpr bph_dataset_v0 kEmpty = {sizeof(bph_dataset_v0), 0, nullptr, nullptr, nullptr, nullptr};
BIOPHONY_PLUGIN({"zoo-empty-table", BPH_DATASET_V0, &kEmpty})
