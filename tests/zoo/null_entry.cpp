// Says that it can't work with any host.
#include "zoo.hpp"

ZOO_DATASET("zoo-null-entry")
extern "C" __attribute__((visibility("default"))) const bph_plugin* biophony_plugin_entry(const bph_host*) {
    return nullptr;
}
