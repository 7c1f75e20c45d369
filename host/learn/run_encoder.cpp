#include "learn/runtime.hpp"

#include <fmt/format.h>

#include "learn/encoder.hpp"

namespace biophony {

void run_encoder(TaskContext& context) {
    Json params = context.params;
    const std::string checkpoint = params.value("checkpoint", "");
    const std::string config = params.value("config", "");
    params.erase("checkpoint");
    params.erase("config");
    const LoadedEncoder encoder = checkpoint.empty() ? make_encoder(*context.item, params, context.seed)
                                                     : load_checkpoint(*context.item, params, checkpoint, config);
    save_encoder(encoder, context.out / "encoder.safetensors");
    int64_t values = 0;
    for (const at::Tensor& parameter : encoder.module->parameters()) values += parameter.numel();
    const EncoderInfo info = encoder.module->info();
    context.headline = fmt::format("{:.2f} M parameters, {} × {}, {}", static_cast<double>(values) / 1e6, info.depth,
                                   info.width, checkpoint.empty() ? "random" : "from checkpoint");
}

}  // namespace biophony
