// Needs a function that nobody has; biophony_add_plugin() would not have linked it.
#include "zoo.hpp"

extern "C" void zoo_nobody_has_this();

class Needy : public zoo::Empty {
public:
    explicit Needy(const biophony::sdk::Params& params) : Empty(params) { zoo_nobody_has_this(); }
};
ZOO_DATASET("zoo-missing-symbol")
BIOPHONY_PLUGIN(biophony::sdk::dataset<Needy>("zoo-missing-symbol"))
