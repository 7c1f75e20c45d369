// A merger whose manifest says scope "matrix", and whose class has no matrix().
#include "biophony/merger.hpp"
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"merger\", \"id\": \"zoo-no-matrix\", \"interface\": \"biophony.merger/0\", \"tier\": \"S\", "
    "\"merger\": {\"stage\": \"combine\", \"scope\": \"matrix\", \"space\": \"delta\"}, "
    "\"parameters\": {\"type\": \"object\"}}")
struct NoMatrix : biophony::sdk::Merger {
    explicit NoMatrix(const biophony::sdk::Params&) {}
    void element(const biophony::sdk::Tile&) const override {}
};
BIOPHONY_PLUGIN(biophony::sdk::merger<NoMatrix>("zoo-no-matrix"))
