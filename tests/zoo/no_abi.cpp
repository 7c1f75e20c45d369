// Tier T without an ABI block.
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"encoder\", \"id\": \"zoo-no-abi\", \"interface\": \"biophony.torch.encoder/0\", \"tier\": \"T\", "
    "\"parameters\": {\"type\": \"object\"}}")
BIOPHONY_PLUGIN({"zoo-no-abi", "biophony.torch.encoder/0", bph_manifest})
