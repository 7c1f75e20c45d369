// Has the item of good.cpp, and one of its own.
#include "zoo.hpp"

ZOO_ITEMS(ZOO_ITEM("zoo-good") ", " ZOO_ITEM("zoo-half-good"))
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-good"), biophony::sdk::dataset<zoo::Empty>("zoo-half-good"))
