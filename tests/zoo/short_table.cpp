// Its data set's table is shorter than the interface asks for.
#include "zoo.hpp"

ZOO_DATASET("zoo-short-table")
static constexpr bph_dataset_v0 kShort = {8, 0, nullptr, nullptr, nullptr, nullptr};
BIOPHONY_PLUGIN({"zoo-short-table", BPH_DATASET_V0, &kShort})
