// A merger with a scope and a need that this host doesn't know.
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"merger\", \"id\": \"zoo-later-scope\", \"interface\": \"biophony.merger/0\", \"tier\": \"S\", "
    "\"merger\": {\"stage\": \"combine\", \"scope\": \"layer\", \"space\": \"delta\", \"needs\": [\"fisher\"]}, "
    "\"parameters\": {\"type\": \"object\"}}")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("none"))
