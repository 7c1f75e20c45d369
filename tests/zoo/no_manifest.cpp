// A plugin but for the section with the manifest.
#include "zoo.hpp"

extern "C" const char bph_manifest[] = "{}";
extern "C" const size_t bph_manifest_size = 2;
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-no-manifest"))
