// A manifest with a wrong kind, a wrong id, a wrong schema and a misspelt key, to be told all at once.
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"datset\", \"id\": \"Zoo Faults\", \"interface\": \"biophony.dataset/0\", \"tier\": \"S\", "
    "\"licens\": \"none\", \"parameters\": {\"type\": \"array\"}}")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("Zoo Faults"))
