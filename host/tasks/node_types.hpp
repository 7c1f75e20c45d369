// All node types of this host.
#pragma once

#include "pipeline/node_type.hpp"

namespace biophony {

NodeType dataset_type();
NodeType background_type();
NodeType encoder_type();
NodeType pretrain_type();
NodeType fine_tune_type();
NodeType task_vector_type();
NodeType compose_type();
NodeType arithmetic_type();
NodeType sweep_type();
NodeType geometry_type();
NodeType features_type();
NodeType head_type();
NodeType keep_head_type();
NodeType evaluate_type();
NodeType table_type();

/// The registry that checker and runner use; built once.
const NodeTypes& node_types();

}  // namespace biophony
