// The tree's plugins, encoders too, for tests that go through the torch library.
#pragma once

#include <filesystem>

#include "plugins/registry.hpp"
#include "tasks/torch_runtime.hpp"

extern "C" const biophony::TorchRuntime* biophony_torch_runtime();

namespace biophony::test {

/// What the build has made, looked at once.
inline const Registry& torch_plugins() {
    static const Registry plugins = [] {
        set_torch_hooks({.open_torch = [] {}, .abi_mismatch = biophony_torch_runtime()->abi_mismatch});
        return Registry({std::filesystem::path(BPH_BUILD_DIR) / "plugins"}, false);
    }();
    return plugins;
}

}  // namespace biophony::test
