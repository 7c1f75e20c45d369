// Grouped convolutions with long kernels, computed block by block in the frequency domain: for the 128 taps of
// positional convolutions an eighth of the operations, and on CPUs several times the speed of at::conv1d, above all on
// the way back. Float32 whatever autocast says; the difference to the direct sum is rounding.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace biophony::encoders {

/// A kernel (D, D/groups, K) as complex numbers (F · groups, D/groups in, D/groups out), for long_convolution(). With
/// gradients where they are on; else worth keeping.
at::Tensor kernel_spectrum(const at::Tensor& kernel, int64_t groups);

/// y[b, o, t] = Σ w[o, c, k] x[b, c', t + k − ⌊K/2⌋] over k and the channels c' of o's group, x = 0 outside of its T
/// steps: (B, D, T) → (B, D, T), float32. `taps` is K.
at::Tensor long_convolution(const at::Tensor& x, const at::Tensor& spectrum, int64_t groups, int64_t taps);

}  // namespace biophony::encoders
