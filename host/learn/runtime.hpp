// The work of the torch nodes; the torch library's table points here. Each sets LibTorch up as the context says.
#pragma once

#include "pipeline/node_type.hpp"
#include "tasks/embed.hpp"

namespace biophony {

void run_encoder(TaskContext& context);
void run_pretrain(TaskContext& context);
void run_fine_tune(TaskContext& context);
void run_features(TaskContext& context);
void run_head(TaskContext& context);
void run_evaluate(TaskContext& context);
void run_sweep(TaskContext& context);
EmbedResult run_embed(const EmbedOptions& options, const Registry& registry, Progress& progress, const Cancel& cancel);

}  // namespace biophony
