// Tier T for another LibTorch. None of its code may run.
#include <cstdlib>

#include "zoo.hpp"

ZOO_ENCODER("zoo-wrong-abi", "libtorch 9.9.9")
BIOPHONY_PLUGIN({"zoo-wrong-abi", "biophony.torch.encoder/0", zoo_abi})
__attribute__((constructor)) static void at_load() {
    std::abort();
}
