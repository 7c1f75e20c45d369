#include "beats.hpp"

BIOPHONY_TORCH_PLUGIN()
BIOPHONY_PLUGIN(biophony::sdk::encoder<biophony::beats::BeatsFactory>("beats"))
