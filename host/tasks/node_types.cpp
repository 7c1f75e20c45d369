#include "tasks/node_types.hpp"

namespace biophony {

const NodeTypes& node_types() {
    static const NodeTypes types = [] {
        NodeTypes all;
        all.add(dataset_type());
        all.add(background_type());
        all.add(encoder_type());
        all.add(pretrain_type());
        all.add(fine_tune_type());
        all.add(task_vector_type());
        all.add(compose_type());
        all.add(arithmetic_type());
        all.add(sweep_type());
        all.add(geometry_type());
        all.add(features_type());
        all.add(head_type());
        all.add(keep_head_type());
        all.add(evaluate_type());
        all.add(table_type());
        return all;
    }();
    return types;
}

}  // namespace biophony
