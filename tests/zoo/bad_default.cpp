// A parameter whose default its own schema refuses.
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"dataset\", \"id\": \"zoo-bad-default\", \"interface\": \"biophony.dataset/0\", \"tier\": \"S\", "
    "\"parameters\": {\"type\": \"object\", \"properties\": {\"size\": {\"type\": \"integer\", \"default\": "
    "\"big\"}}}}")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-bad-default"))
