// A JSON Schema of pipelines, made from the node types and plugins that are there: for completion in an editor, and for
// programs that write pipelines.
#pragma once

#include "base/json.hpp"
#include "pipeline/node_type.hpp"
#include "plugins/registry.hpp"

namespace biophony {

/// JSON Schema, draft 7. Every pipeline that make_graph() takes is valid by it; the checker knows more: names, edges,
/// files, what goes with what. Parameters may stand as {"param": …} and, in texts, as "{axis}" wherever a value may.
Json pipeline_schema(const NodeTypes& types, const Registry& registry);

}  // namespace biophony
