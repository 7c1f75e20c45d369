#include "tasks/torch_runtime.hpp"

#include <cpuid.h>
#include <dlfcn.h>

#include <filesystem>

namespace biophony {

const TorchRuntime& torch_runtime() {
    // Opened for the life of the process: LibTorch can't be unloaded.
    static const TorchRuntime* const runtime = [] {
        if (libtorch_version() == "none") throw Error(Code::kInternal, "this build has no LibTorch");
        Dl_info here{};
        ::dladdr(reinterpret_cast<const void*>(&torch_runtime), &here);
        const auto path = std::filesystem::absolute(here.dli_fname).parent_path() / "libbiophony-torch.so";
        void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr)
            throw Error(Code::kInternal, std::string("can't load the torch library: ") + ::dlerror());
        using Function = const TorchRuntime* (*)();
        const auto entry = reinterpret_cast<Function>(::dlsym(handle, "biophony_torch_runtime"));
        if (entry == nullptr) throw Error(Code::kInternal, "no entry in " + path.string());
        return entry();
    }();
    return *runtime;
}

std::string_view libtorch_version() {
    return BPH_LIBTORCH_VERSION;
}

std::string_view cpu_class() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        // Leaf 7, EDX bit 22: AMX-BF16.
        const bool amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1u << 22)) != 0;
        return amx ? "avx512+amx" : "avx512";
    }
    return __builtin_cpu_supports("avx2") ? "avx2" : "baseline";
}

}  // namespace biophony
