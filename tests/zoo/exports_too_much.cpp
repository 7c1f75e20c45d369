// Can be used, but shows symbols that may be mixed up with those of another library. Linked without the version script.
#include "zoo.hpp"

ZOO_DATASET("zoo-exports")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-exports"))
extern "C" __attribute__((visibility("default"))) int zoo_shown() {
    return 1;
}
