// Data sets that fail when they are used: each in its own way.
#include "zoo.hpp"

namespace {

using namespace biophony::sdk;

class ThrowsInCreate : public zoo::Empty {
public:
    explicit ThrowsInCreate(const Params& params) : Empty(params) {
        throw Error("found 'moon', expected a folder", BPH_INVALID_ARGUMENT, "root");
    }
};

class ThrowsInt : public zoo::Empty {
public:
    using Empty::Empty;
    void describe(const Call&, DatasetSink&) override { throw 42; }
};

class WaitsForCancel : public zoo::Empty {
public:
    using Empty::Empty;
    void describe(const Call& call, DatasetSink&) override {
        call.log("waiting", BPH_LOG_WARNING);
        call.progress(1, 3, "turns");
        call.check_cancelled();
    }
};

class Crashes : public zoo::Empty {
public:
    using Empty::Empty;
    void describe(const Call&, DatasetSink&) override { __builtin_trap(); }
};

constexpr bph_dataset_v0 kFailsSilently = {
    sizeof(bph_dataset_v0),
    0,
    [](const bph_call*, bph_str, void**) -> bph_status { return BPH_IO; },
    [](void*) {},
    [](const bph_call*, void*, const bph_dataset_sink*) -> bph_status { return BPH_IO; },
    nullptr};

}  // namespace

ZOO_ITEMS(ZOO_ITEM("zoo-throws-in-create") ", " ZOO_ITEM("zoo-throws-int") ", " ZOO_ITEM("zoo-waits") ", " ZOO_ITEM(
    "zoo-crashes") ", " ZOO_ITEM("zoo-fails-silently"))
BIOPHONY_PLUGIN(dataset<ThrowsInCreate>("zoo-throws-in-create"), dataset<ThrowsInt>("zoo-throws-int"),
                dataset<WaitsForCancel>("zoo-waits"), dataset<Crashes>("zoo-crashes"),
                {"zoo-fails-silently", BPH_DATASET_V0, &kFailsSilently})
