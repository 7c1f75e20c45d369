#include "mel_statistics.hpp"

BIOPHONY_TORCH_PLUGIN()
BIOPHONY_PLUGIN(biophony::sdk::encoder<biophony::mel_statistics::Factory>("mel-statistics"))
