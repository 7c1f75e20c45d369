// Throws out of the entry function.
#include "zoo.hpp"

ZOO_DATASET("zoo-throws-in-entry")
extern "C" __attribute__((visibility("default"))) const bph_plugin* biophony_plugin_entry(const bph_host*) {
    throw 1;
}
