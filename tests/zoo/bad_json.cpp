// A manifest that is no JSON: the second line lacks a comma.
#include "zoo.hpp"

ZOO_MANIFEST("{\"biophony_manifest\": 1,\n \"version\": \"1\" \"items\": []}")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-bad-json"))
