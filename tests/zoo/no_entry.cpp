// A manifest, and no entry function.
#include "zoo.hpp"

ZOO_DATASET("zoo-no-entry")
