// What the golden tests share: files as tensors, encoders with their weights, differences.
#pragma once

#include <ATen/ATen.h>

// LibTorch's logging has a macro of the same name, which aborts. So this header comes before Catch's.
#undef CHECK
#include <catch2/catch.hpp>

#include <map>
#include <memory>
#include <string>

#include "../../plugins/encoders/beats/beats.hpp"

namespace golden {

using Tensors = std::map<std::string, at::Tensor>;

struct File {
    Tensors tensors;
    std::string cfg;  ///< the metadata entry of that name, or empty
};

/// A safetensors file of tests/golden/beats, or of another folder beside it.
File read(const std::string& name, const std::string& folder = "beats");

/// An encoder with the weights of a file, in evaluation mode. Tensors go through translate(); every one must be known
/// and every parameter must be filled.
std::shared_ptr<biophony::beats::Beats> encoder(const File& weights, const std::string& params_json = "{}");

/// Largest absolute difference; infinite where shapes differ or something is no number.
double difference(const at::Tensor& found, const at::Tensor& expected);

/// Whether `found` (…, 128) is the filter bank `expected`, both in nats: as near as two float32 transforms are. Each is
/// up to 1.6e-4 from a computation in double within 15 nats of a frame's maximum (4e-6 on average), and up to 0.045 far
/// below it, where a nearly pure tone leaves nothing but rounding.
bool same_filter_bank(const at::Tensor& found, const at::Tensor& expected);

}  // namespace golden
