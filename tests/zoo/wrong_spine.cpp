// Built for a spine to come.
#include "zoo.hpp"

ZOO_DATASET("zoo-wrong-spine")
static const void* get_interface(bph_str, bph_str) {
    return nullptr;
}
extern "C" __attribute__((visibility("default"))) const bph_plugin* biophony_plugin_entry(const bph_host*) {
    static const bph_plugin plugin = {sizeof(bph_plugin), 7, {bph_manifest, bph_manifest_size}, &get_interface};
    return &plugin;
}
