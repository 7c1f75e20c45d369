// Ends the process while it is loaded.
#include <cstdio>
#include <cstdlib>

#include "zoo.hpp"

ZOO_DATASET("zoo-exits")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-exits"))
__attribute__((constructor)) static void at_load() {
    std::puts("{\"ok\": true}");  // what is printed isn't taken for the answer
    std::fflush(stdout);
    std::_Exit(7);
}
