// A manifest of nothing.
#include "zoo.hpp"

ZOO_ITEMS("")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-no-items"))
