// The door to the torch library: opened when the first command needs it, so that everything else answers at once.
#pragma once

#include <string>
#include <string_view>

#include "biophony/c/linalg.h"
#include "pipeline/node_type.hpp"
#include "tasks/embed.hpp"

namespace biophony {

/// What libbiophony-torch.so offers, a table of functions returned by its one C symbol, biophony_torch_runtime. Host
/// and torch library are built together, so C++ types may cross.
struct TorchRuntime {
    std::string (*version)();                               ///< of the LibTorch that is loaded
    std::string (*abi_mismatch)(std::string_view section);  ///< see TorchHooks
    void (*run_encoder)(TaskContext&);
    void (*run_pretrain)(TaskContext&);
    void (*run_fine_tune)(TaskContext&);
    void (*run_features)(TaskContext&);
    void (*run_head)(TaskContext&);
    void (*run_evaluate)(TaskContext&);
    void (*run_sweep)(TaskContext&);
    /// Embeds files. Throws Error; kRunFailed where none could be embedded. [main]
    EmbedResult (*embed)(const EmbedOptions&, const Registry&, Progress&, const Cancel&);
    /// The linear algebra that is lent to merge stages. Sets LibTorch to one thread a call, until the next torch node.
    /// [any thread]
    const bph_linalg_v0* (*linalg)();
};

/// Loads the library beside the core (once) and returns its table. Throws Error(kInternal) with the linker's text.
const TorchRuntime& torch_runtime();

/// LibTorch's version as known at build time; "none" in a build without it. Costs nothing.
std::string_view libtorch_version();

/// The class of this processor, as far as results of torch nodes depend on it: "avx2", "avx512", "avx512+amx",
/// "baseline".
std::string_view cpu_class();

}  // namespace biophony
