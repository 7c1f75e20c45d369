// Its manifest has an item that its table hasn't.
#include "zoo.hpp"

ZOO_DATASET("zoo-no-table")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-misspelt"))
