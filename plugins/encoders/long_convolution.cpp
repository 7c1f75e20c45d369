#include "long_convolution.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <ATen/ops/matmul.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

namespace biophony::encoders {

namespace {

using WithoutAutocast = c10::impl::ExcludeDispatchKeyGuard;

/// Points of a block's transform: each gives n - taps + 1 steps of the result.
int64_t points_for(int64_t taps) {
    return 2 * static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(taps, 8))));
}

/// Cosines, then sines, of 2π f k / n: (2F, taps) float32. The last one is kept, for each thread.
at::Tensor waves(int64_t n, int64_t taps, at::Device device) {
    struct Kept {
        int64_t n = 0, taps = 0;
        at::Tensor values;
    };
    thread_local Kept kept;
    if (kept.n == n && kept.taps == taps && kept.values.device() == device) return kept.values;
    const c10::InferenceMode ordinary(false);
    const int64_t frequencies = n / 2 + 1;
    at::Tensor out = at::empty({2 * frequencies, taps}, at::kFloat);
    float* to = out.mutable_data_ptr<float>();
    for (int64_t f = 0; f < frequencies; ++f)
        for (int64_t k = 0; k < taps; ++k) {
            const double angle = 2 * std::numbers::pi * static_cast<double>(f * k % n) / static_cast<double>(n);
            to[f * taps + k] = static_cast<float>(std::cos(angle));
            to[(frequencies + f) * taps + k] = static_cast<float>(std::sin(angle));
        }
    kept = {n, taps, out.to(device)};
    return kept.values;
}

}  // namespace

at::Tensor kernel_spectrum(const at::Tensor& kernel, int64_t groups) {
    const WithoutAutocast float32(c10::autocast_dispatch_keyset);
    const int64_t channels = kernel.size(1), taps = kernel.size(2), n = points_for(taps), frequencies = n / 2 + 1;
    const at::Tensor by_tap =
        kernel.to(at::kFloat).reshape({groups, channels, channels, taps}).permute({3, 0, 2, 1}).reshape({taps, -1});
    // A matrix product rather than a transform: it leaves the frequencies outermost, where bmm wants them. A
    // correlation needs the spectrum's conjugate, hence +sin.
    const at::Tensor parts = at::matmul(waves(n, taps, kernel.device()), by_tap);
    return at::complex(parts.narrow(0, 0, frequencies), parts.narrow(0, frequencies, frequencies))
        .reshape({frequencies * groups, channels, channels});
}

at::Tensor long_convolution(const at::Tensor& x, const at::Tensor& spectrum, int64_t groups, int64_t taps) {
    const WithoutAutocast float32(c10::autocast_dispatch_keyset);
    const int64_t batch = x.size(0), width = x.size(1), steps = x.size(2), channels = width / groups;
    const int64_t n = points_for(taps), frequencies = n / 2 + 1, hop = n - taps + 1, blocks = (steps + hop - 1) / hop;
    const int64_t before = taps / 2, after = blocks * hop + taps - 1 - before - steps;
    const at::Tensor padded = at::constant_pad_nd(x.to(at::kFloat), {before, after});
    const at::Tensor heard = at::fft_rfft(padded.unfold(2, n, hop), n, -1)  // (B, D, blocks, F)
                                 .reshape({batch, groups, channels, blocks, frequencies})
                                 .permute({4, 1, 0, 3, 2})
                                 .reshape({frequencies * groups, batch * blocks, channels});
    const at::Tensor answer = at::bmm(heard, spectrum)
                                  .reshape({frequencies, groups, batch, blocks, channels})
                                  .permute({2, 1, 4, 3, 0});  // (B, groups, channels, blocks, F)
    return at::fft_irfft(answer, n, -1).narrow(4, 0, hop).reshape({batch, width, blocks * hop}).narrow(2, 0, steps);
}

}  // namespace biophony::encoders
