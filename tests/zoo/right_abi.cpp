// Tier T, with the ABI block that the tests' host has.
#include "zoo.hpp"

ZOO_ENCODER("zoo-right-abi", ZOO_RIGHT_ABI)
struct Table {
    uint32_t struct_size;
    const void* factory;
};
static constexpr Table kTable = {sizeof(Table), zoo_abi};
BIOPHONY_PLUGIN({"zoo-right-abi", "biophony.torch.encoder/0", &kTable})
