// Has the same item as good.cpp.
#include "zoo.hpp"

ZOO_DATASET("zoo-good")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-good"))
