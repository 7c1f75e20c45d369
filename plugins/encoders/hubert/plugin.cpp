#include "hubert.hpp"

BIOPHONY_TORCH_PLUGIN()
BIOPHONY_PLUGIN(biophony::sdk::encoder<biophony::hubert::HubertFactory>("hubert"))
