// What the animals of the zoo share. Each .cpp here becomes one library, most of them bad in exactly one way; the tests
// in tests/plugins say what the host makes of each.
#pragma once

#include "biophony/dataset.hpp"

/// Puts the text into the section "bph_meta", as biophony_add_plugin() does with plugin.json, but without looking at
/// it.
#define ZOO_MANIFEST(text)                                                               \
    __attribute__((used, retain, section("bph_meta"))) const char bph_manifest[] = text; \
    const size_t bph_manifest_size = sizeof(text) - 1;

#define ZOO_ITEM(id)                                               \
    "{\"kind\": \"dataset\", \"id\": \"" id                        \
    "\", \"interface\": \"biophony.dataset/0\", \"tier\": \"S\", " \
    "\"parameters\": {\"type\": \"object\", \"properties\": {}}}"
#define ZOO_ITEMS(items) ZOO_MANIFEST("{\"biophony_manifest\": 1, \"version\": \"1.2\", \"items\": [" items "]}")
/// A good manifest with one data set.
#define ZOO_DATASET(id) ZOO_ITEMS(ZOO_ITEM(id))

/// An item of tier T, whose ABI block is the text `abi`.
#define ZOO_ENCODER(id, abi)                                              \
    ZOO_ITEMS("{\"kind\": \"encoder\", \"id\": \"" id                     \
              "\", \"interface\": \"biophony.torch.encoder/0\", "         \
              "\"tier\": \"T\", \"parameters\": {\"type\": \"object\"}}") \
    extern "C" __attribute__((used, retain, section("bph_abi"), visibility("hidden"))) const char zoo_abi[] = abi;

/// What the tests' stand-in for the torch library takes as its own ABI block.
#define ZOO_RIGHT_ABI "libtorch 1.2.3"

namespace zoo {

/// One silent recording without a file.
class Empty : public biophony::sdk::Dataset {
public:
    explicit Empty(const biophony::sdk::Params&) {}
    void describe(const biophony::sdk::Call&, biophony::sdk::DatasetSink& sink) override {
        sink.add(biophony::sdk::Recording{.id = "nothing", .seconds = 1, .sample_rate = 8000});
    }
};

}  // namespace zoo
