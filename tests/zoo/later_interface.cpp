// Speaks an interface that this host doesn't know.
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"dataset\", \"id\": \"zoo-later\", \"interface\": \"biophony.dataset/7\", \"tier\": \"S\", "
    "\"parameters\": {\"type\": \"object\"}}")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-later"))
