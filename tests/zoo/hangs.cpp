// Never ends being loaded, and starts a process that would outlive it.
#include <unistd.h>

#include "zoo.hpp"

ZOO_DATASET("zoo-hangs")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-hangs"))
__attribute__((constructor)) static void at_load() {
    if (::fork() == 0) ::alarm(60);
    for (;;) ::pause();
}
