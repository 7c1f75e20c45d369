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
/// minimum + step · code of each 8-bit code, product and sum rounded one after the other.
void widen_codes(const std::byte* raw, float minimum, float step, float* out, size_t count);
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

/// Σ a b and Σ |a b| of `count` values, a multiple of kLanes: in kLanes sums each, place k into sum k % kLanes, which
/// are then added two by two, neighbours first.
struct Products {
    double sum, absolute;
};
constexpr size_t kLanes = 16;
Products products(const double* a, const double* b, size_t count);
/// Bit k % 64 of word k / 64: whether values[k] has the sign bit, and whether it isn't 0. Words are written whole.
void signs(const float* values, size_t count, uint64_t* negative, uint64_t* set);
/// Places where neither of two vectors is 0, and those among them of equal sign, by their signs().
struct Agreement {
    uint64_t both, agree;
};
Agreement agreement(const uint64_t* negative_a, const uint64_t* set_a, const uint64_t* negative_b,
                    const uint64_t* set_b, size_t words);
/// lanes[(first + k) % kLanes] += values[k]², in float64.
void add_squares(const float* values, size_t count, uint64_t first, double* lanes);
/// The sum of kLanes numbers, as products() does it.
double sum_of_lanes(const double* lanes);

}  // namespace biophony::kernels
