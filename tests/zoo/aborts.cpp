// Aborts while it is loaded.
#include <cstdio>
#include <cstdlib>

#include "zoo.hpp"

ZOO_DATASET("zoo-aborts")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-aborts"))
__attribute__((constructor)) static void at_load() {
    std::fputs("something else\nzoo: no licence file\n", stderr);
    std::abort();
}
