// The table names another manifest than the one in the section.
#include "zoo.hpp"

ZOO_DATASET("zoo-other-manifest")
static const void* get_interface(bph_str, bph_str) {
    return nullptr;
}
extern "C" __attribute__((visibility("default"))) const bph_plugin* biophony_plugin_entry(const bph_host*) {
    static const bph_plugin plugin = {sizeof(bph_plugin), BPH_SPINE_VERSION, {"{}", 2}, &get_interface};
    return &plugin;
}
