// Takes 64 GiB while it is loaded.
#include "zoo.hpp"

ZOO_DATASET("zoo-takes-memory")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-takes-memory"))
static char* volatile taken;
__attribute__((constructor)) static void at_load() {
    for (int i = 0; i < 64; ++i) taken = new char[size_t{1} << 30];
}
