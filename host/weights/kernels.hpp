// The loops that every weight of a merge goes through: widening, the search for NaN and infinity, the difference to the
// base and the sum with it, rounding. Each runs with the widest instructions that the processor has; results are the
// same to the last bit on all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weights/safetensors.hpp"

namespace biophony::kernels {

/// `count` values of a floating type as float32, at any alignment. F64 is rounded.
void widen(DType dtype, const std::byte* raw, float* out, size_t count);
/// Rounded once, to nearest, ties to even. A finite value that the type can't hold becomes infinite.
void narrow(DType dtype, const float* values, std::byte* raw, size_t count);
/// Whether the narrowed values are finite.
bool narrow_is_finite(DType dtype, const std::byte* raw, size_t count);

/// Whether none is NaN or infinite.
bool finite(const float* values, size_t count);
/// values -= base; whether all are finite after it.
bool subtract(float* values, const float* base, size_t count);
/// values += base; whether all are finite after it.
bool add(float* values, const float* base, size_t count);
/// out = a + b; whether all are finite.
bool sum(const float* a, const float* b, float* out, size_t count);

}  // namespace biophony::kernels
