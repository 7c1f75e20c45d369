// Compares the beginning of interface ids only, so that it takes a later interface for its own.
#include "zoo.hpp"

ZOO_DATASET("zoo-knows-everything")
static const void* get_interface(bph_str item, bph_str interface_id) {
    if (biophony::sdk::from_c(item) != "zoo-knows-everything") return nullptr;
    if (!biophony::sdk::from_c(interface_id).starts_with(BPH_DATASET_V0)) return nullptr;
    return &biophony::sdk::detail::DatasetThunks<zoo::Empty>::kTable;
}
extern "C" __attribute__((visibility("default"))) const bph_plugin* biophony_plugin_entry(const bph_host*) {
    static const bph_plugin plugin = {
        sizeof(bph_plugin), BPH_SPINE_VERSION, {bph_manifest, bph_manifest_size}, &get_interface};
    return &plugin;
}
