// Heads of all forms: what a head node writes, and what evaluations score with.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "learn/pooling.hpp"

namespace biophony {

/// Scores x Wᵀ + b of some of a head's classes, from the features of one of its encoders.
struct LinearPart {
    at::Tensor weight;  ///< (K, D)
    at::Tensor bias;    ///< (K)
    Pooling pooling = Pooling::kMean;
    size_t encoder = 0;            ///< 0 = the head's encoder, i = that of expert i, counted from 1
    std::vector<int64_t> classes;  ///< which of the head's classes the K rows are; no class twice
};

/// One linear map for all classes: ridge, lda, probes, and heads that were trained with their encoder.
struct LinearModel {
    LinearPart part;
};

/// Cosine between a standardised vector and each class' prototype.
struct CosineModel {
    at::Tensor prototypes;  ///< (C, D)
    at::Tensor mean;        ///< (D), taken off first
    at::Tensor inverse;     ///< (D), then multiplied with: one over the deviation
};

/// The k nearest of the train vectors by cosine; each adds (1 + cosine) / 2 to its class. Of equally near ones the
/// first count.
struct NeighboursModel {
    at::Tensor vectors;            ///< (N, D), of length 1
    std::vector<int64_t> classes;  ///< (N)
    int64_t k = 5;
};

/// Linear parts side by side. A class in several has their largest score, or the mean.
struct SideBySideModel {
    std::vector<LinearPart> parts;
    bool mean = false;
};

/// log Σ P(part) · P(class | part): a gate, whose classes are the parts, times each part's softmax.
struct GatedModel {
    LinearPart gate;
    std::vector<LinearPart> parts;
};

struct HeadModel {
    std::string name;                  ///< what tables call it: "own", "ridge", "ridge, strength 0.1"
    std::vector<std::string> labels;   ///< class index → label, sorted
    std::vector<std::string> groups;   ///< whose clips it has seen
    std::string sends;                 ///< what contributors send: "sums", "own heads", "class means", "clips"
    bool pools_clips = false;          ///< it needs clips, or features of clips, of several contributors in one place
    Pooling pooling = Pooling::kMean;  ///< of forms without parts
    std::variant<LinearModel, CosineModel, NeighboursModel, SideBySideModel, GatedModel> form;

    /// The features (N, D) of encoder i (as in LinearPart), pooled, for the same N windows each time.
    using Read = std::function<at::Tensor(size_t encoder, Pooling pooling)>;
    /// (N, C) float64. Throws Error(kRunFailed) where features are wider or narrower than what the head was made for.
    at::Tensor scores(const Read& read) const;

    /// head.safetensors. A linear head is written as HeadFile does; others say their form in the metadata.
    void save(const std::filesystem::path& file) const;
    /// Also reads what HeadFile wrote: a head that was trained with its encoder. Throws Error(kRunFailed) where tensors
    /// don't fit each other.
    static HeadModel load(const std::filesystem::path& file);
};

}  // namespace biophony
