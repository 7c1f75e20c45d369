#include "learn/runtime.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <malloc.h>

#include <cstring>

#include "biophony/torch/abi.hpp"
#include "biophony/torch/encoder.hpp"
#include "linalg/linalg.hpp"
#include "tasks/torch_runtime.hpp"

// The host's own copies of the vtables; plugins have theirs.
biophony::torch_tier::Encoder::~Encoder() = default;
biophony::torch_tier::EncoderFactory::~EncoderFactory() = default;

namespace biophony {

namespace {

using torch_tier::AbiBlock;

std::string abi_mismatch(std::string_view section) {
    const AbiBlock host = torch_tier::this_abi();
    AbiBlock plugin{};
    if (section.size() < sizeof(AbiBlock))
        return fmt::format("the ABI block has {} bytes, expected {}", section.size(), sizeof(AbiBlock));
    std::memcpy(&plugin, section.data(), sizeof plugin);
    if (std::memcmp(plugin.magic, host.magic, sizeof host.magic) != 0 || plugin.struct_size != host.struct_size)
        return "the ABI block is of another layout; rebuild the plugin with this host's SDK";
    struct Field {
        const char* name;
        uint32_t AbiBlock::*member;
    };
    constexpr Field fields[] = {{"torch-tier interface", &AbiBlock::interface_number},
                                {"LibTorch major", &AbiBlock::libtorch_major},
                                {"LibTorch minor", &AbiBlock::libtorch_minor},
                                {"LibTorch patch", &AbiBlock::libtorch_patch},
                                {"C++11 string ABI", &AbiBlock::cxx11_string_abi},
                                {"libstdc++", &AbiBlock::libstdcxx},
                                {"debug containers", &AbiBlock::debug_containers},
                                {"address sanitizer", &AbiBlock::address_sanitizer},
                                {"thread sanitizer", &AbiBlock::thread_sanitizer},
                                {"sizeof(void*)", &AbiBlock::sizeof_pointer},
                                {"sizeof(at::Tensor)", &AbiBlock::sizeof_tensor},
                                {"sizeof(c10::TensorImpl)", &AbiBlock::sizeof_tensor_impl},
                                {"sizeof(torch::nn::Module)", &AbiBlock::sizeof_module},
                                {"sizeof(std::string)", &AbiBlock::sizeof_string},
                                {"sizeof(std::vector<int>)", &AbiBlock::sizeof_vector}};
    std::string table;
    for (const Field& field : fields)
        if (plugin.*field.member != host.*field.member)
            table += fmt::format("\n    {:<28} found {:<8} expected {}", field.name, plugin.*field.member,
                                 host.*field.member);
    if (table.empty()) return {};
    return "built for another host; the fields that differ:" + table +
           "\n    rebuild the plugin against this host's LibTorch and SDK";
}

/// Training asks for the same large blocks at every step. By default the C library gives each back to the kernel, which
/// clears its pages anew; kept in the heap, they are handed out again as they are. What it costs: it holds from here on
/// for the whole process, and of freed memory only what is beyond 2 GiB at the heap's end goes back to the system.
void keep_large_blocks() {
    static const bool done = [] {
        mallopt(M_MMAP_MAX, 0);
        mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
        mallopt(M_TOP_PAD, 64 << 20);
        return true;
    }();
    static_cast<void>(done);
}

template <void (*work)(TaskContext&)>
void with_threads(TaskContext& context) {
    at::set_num_threads(static_cast<int>(context.threads));
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    work(context);
}

template <void (*work)(TaskContext&)>
void in_steps(TaskContext& context) {
    keep_large_blocks();
    with_threads<work>(context);
}

EmbedResult embed(const EmbedOptions& options, const Registry& registry, Progress& progress, const Cancel& cancel) {
    keep_large_blocks();
    at::set_num_threads(static_cast<int>(options.threads));
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    return run_embed(options, registry, progress, cancel);
}

std::string version() {
    return fmt::format("{}.{}.{}", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH);
}

}  // namespace
}  // namespace biophony

extern "C" __attribute__((visibility("default"))) const biophony::TorchRuntime* biophony_torch_runtime() {
    using namespace biophony;
    static const TorchRuntime runtime = {&version,
                                         &abi_mismatch,
                                         &with_threads<run_encoder>,
                                         &in_steps<run_pretrain>,
                                         &in_steps<run_fine_tune>,
                                         &with_threads<run_features>,
                                         &with_threads<run_head>,
                                         &with_threads<run_evaluate>,
                                         &with_threads<run_sweep>,
                                         &embed,
                                         &lent_linalg};
    return &runtime;
}
