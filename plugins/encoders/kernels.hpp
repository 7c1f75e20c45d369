// Loops of the Transformer encoders that LibTorch has in many passes over memory, here in one: softmax with a gated
// bias and dropout, its gradient, and dropout alone. No LibTorch; values are float32 inside, float32 or bfloat16 in
// memory.
//
// A dropped element is drawn by a hash of a key and the element's index, so a mask is never stored: the way back draws
// it again. Results don't depend on the number of threads; on the processor's class (AVX-512, AVX2, neither) they
// depend in their last bits, as products are added with or without a rounding between. BIOPHONY_VECTORS=avx2 or plain
// in the environment takes the loops of lesser processors.
#pragma once

#include <cstdint>

namespace biophony::encoders {

/// How values lie in memory.
enum class Element { kFloat32, kBFloat16 };

/// Scores of attention and what they become: B clips, H heads, P tokens; rows are (b, h, query), columns keys.
struct SoftmaxRows {
    Element element = Element::kFloat32;
    int64_t clips = 0, heads = 0, tokens = 0;
    const float* bias = nullptr;      ///< (H, P, P), or null
    const float* gate = nullptr;      ///< (B, H, P), or null = 1; factor on the bias
    const uint8_t* padded = nullptr;  ///< (B, P), 1 = key is left out, or null; no clip is padding from end to end
    double dropout = 0;               ///< share of dropped probabilities, below 1
    uint64_t key = 0;                 ///< of the dropout's draws
};

/// `scores` (B, H, P, P) → softmax over keys of scores + gate·bias, in place. With dropout > 0, `dropped` gets the
/// probabilities after it (kept ones divided by 1 − dropout); it is not touched otherwise.
void softmax_forward(const SoftmaxRows& rows, void* scores, void* dropped, int threads);

/// The way back. `probabilities` as softmax_forward left them; `gradient` (B, H, P, P) of what `dropped` (or, without
/// dropout, the probabilities) went into becomes that of the scores, in place. With dropout > 0, `dropped` is filled
/// again. `bias_gradient` (H, P, P) and `gate_gradient` (B, H, P), float32, are overwritten where not null.
void softmax_backward(const SoftmaxRows& rows, const void* probabilities, void* gradient, void* dropped,
                      float* bias_gradient, float* gate_gradient, int threads);

/// to[i] = from[i] / (1 − share), or 0 with probability `share`, for i < count; `from` may be `to`. The same key drops
/// the same elements, so this is its own gradient.
void drop(Element element, const void* from, void* to, int64_t count, double share, uint64_t key, int threads);

}  // namespace biophony::encoders
