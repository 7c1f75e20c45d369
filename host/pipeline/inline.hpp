// Pipelines of a pipeline: the nodes of each entry of "pipelines", put in the place of the nodes that use it.
//
// After this the definition is one of plain nodes; where each value was written is kept.
#pragma once

#include "pipeline/expand.hpp"

namespace biophony {

/// Reads the entries of "pipelines" (and their files), checks them, puts their nodes in the place of the nodes of
/// `expansion` that use them, and takes "pipelines" away. Returns false where there was nothing to put in, so that
/// `expansion` still holds.
bool inline_pipelines(Definition& definition, const Expansion& expansion);

/// Puts the files of "pipelines" in the place of their names. Called before anything looks into them.
void read_pipelines(Definition& definition);

}  // namespace biophony
