// Nothing is wrong with this one.
#include "zoo.hpp"

ZOO_DATASET("zoo-good")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-good"))
