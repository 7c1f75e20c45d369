// Loading a library in a child process, so that what it does there can't hurt this one.
#pragma once

#include "plugins/registry.hpp"

namespace biophony {

/// Sets state and reason of `file` to what its probe says; leaves them where it is good. Good results are kept in the
/// cache folder for this content and this host for good, a time-out for an hour; anything else is tried again each
/// time, because what was missing may be there now.
void probe(PluginFile& file);

}  // namespace biophony
