// A merger of scope "matrix" without the function for matrices.
#include "biophony/merger.hpp"
#include "zoo.hpp"

ZOO_ITEMS(
    "{\"kind\": \"merger\", \"id\": \"zoo-no-matrix\", \"interface\": \"biophony.merger/0\", \"tier\": \"S\", "
    "\"merger\": {\"stage\": \"combine\", \"scope\": \"matrix\", \"space\": \"delta\"}, "
    "\"parameters\": {\"type\": \"object\"}}")
static constexpr bph_merger_v0 kTable = {
    .struct_size = sizeof(bph_merger_v0),
    .create = [](const bph_call*, bph_str, void**) -> bph_status { return BPH_OK; },
    .destroy = [](void*) {},
    .element = [](const bph_call*, const void*, const bph_merge_tile*) -> bph_status { return BPH_OK; }};
BIOPHONY_PLUGIN({"zoo-no-matrix", BPH_MERGER_V0, &kTable})
