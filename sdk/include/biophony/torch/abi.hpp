// The ABI block of tier T: the facts that must be equal before host and plugin may exchange C++ objects and tensors.
// It lies in the ELF section "bph_abi" as plain bytes, so that the host compares it before any code of the plugin runs.
// After PostgreSQL's magic block: own length first, then only what really varies between builds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/version.h>

namespace biophony::torch_tier {

/// Changes with every change of a virtual class in biophony/torch/.
inline constexpr uint32_t kInterfaceNumber = 1;

/// Plain data with a fixed layout. "Hard" fields must be equal; "soft" ones are told, not enforced.
struct AbiBlock {
    char magic[8];         // "bphabi0"
    uint32_t struct_size;  // bytes
    // hard
    uint32_t interface_number;
    uint32_t libtorch_major;
    uint32_t libtorch_minor;
    uint32_t libtorch_patch;
    uint32_t cxx11_string_abi;  // _GLIBCXX_USE_CXX11_ABI
    uint32_t libstdcxx;         // 1 = libstdc++, 0 = another C++ library
    uint32_t debug_containers;  // _GLIBCXX_DEBUG
    uint32_t address_sanitizer;
    uint32_t thread_sanitizer;
    uint32_t sizeof_pointer;
    uint32_t sizeof_tensor;
    uint32_t sizeof_tensor_impl;
    uint32_t sizeof_module;
    uint32_t sizeof_string;
    uint32_t sizeof_vector;
    // soft
    uint32_t compiler_major;
    uint32_t cxx_standard;  // __cplusplus
};
static_assert(sizeof(AbiBlock) == 80);

#if defined(__SANITIZE_ADDRESS__)
#define BPH_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BPH_HAS_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define BPH_HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BPH_HAS_TSAN 1
#endif
#endif

/// The block of the translation unit that asks.
constexpr AbiBlock this_abi() {
    AbiBlock block{};
    constexpr char magic[8] = "bphabi0";
    for (int i = 0; i < 8; ++i) block.magic[i] = magic[i];
    block.struct_size = sizeof(AbiBlock);
    block.interface_number = kInterfaceNumber;
    block.libtorch_major = TORCH_VERSION_MAJOR;
    block.libtorch_minor = TORCH_VERSION_MINOR;
    block.libtorch_patch = TORCH_VERSION_PATCH;
#ifdef __GLIBCXX__
    block.cxx11_string_abi = _GLIBCXX_USE_CXX11_ABI;
    block.libstdcxx = 1;
#endif
#ifdef _GLIBCXX_DEBUG
    block.debug_containers = 1;
#endif
#ifdef BPH_HAS_ASAN
    block.address_sanitizer = 1;
#endif
#ifdef BPH_HAS_TSAN
    block.thread_sanitizer = 1;
#endif
    block.sizeof_pointer = sizeof(void*);
    block.sizeof_tensor = sizeof(at::Tensor);
    block.sizeof_tensor_impl = sizeof(c10::TensorImpl);
    block.sizeof_module = sizeof(torch::nn::Module);
    block.sizeof_string = sizeof(std::string);
    block.sizeof_vector = sizeof(std::vector<int>);
    block.compiler_major = __GNUC__;
    block.cxx_standard = static_cast<uint32_t>(__cplusplus);
    return block;
}

}  // namespace biophony::torch_tier
