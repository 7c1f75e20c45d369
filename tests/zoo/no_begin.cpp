// A merger whose manifest says scope "global", and whose class has no begin().
#include "biophony/merger.hpp"
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"merger\", \"id\": \"zoo-no-begin\", \"interface\": \"biophony.merger/0\", \"tier\": \"S\", "
    "\"merger\": {\"stage\": \"transform\", \"scope\": \"global\", \"space\": \"delta\"}, "
    "\"parameters\": {\"type\": \"object\"}}")
struct NoBegin : biophony::sdk::Merger {
    explicit NoBegin(const biophony::sdk::Params&) {}
    void element(const biophony::sdk::Tile&) const override {}
};
BIOPHONY_PLUGIN(biophony::sdk::merger<NoBegin>("zoo-no-begin"))
