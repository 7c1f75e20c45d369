// The geometry of task vectors: norms, angles, signs and overlap, against what chance would give. What premises of
// merge methods rest on, seen before or while merging.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/progress.hpp"

namespace biophony {

struct GeometryTensor {
    std::string name, role;
    int32_t block = -1;
    uint64_t elements = 0;
};

/// Sums over elements of tensors, float64. Elements are seen in pieces; as long as these are the same, so are the sums
/// to the last bit, whatever the processor.
class GeometrySums {
public:
    /// Elements of one piece at most: the sums within it have a fixed order.
    static constexpr size_t kPiece = 4096;
    /// Elements that are summed up apart, before they are added to those before them.
    static constexpr size_t kBlock = 1 << 18;

    explicit GeometrySums(size_t vectors) : vectors_(vectors) {}
    /// `count` elements (at most kPiece) of each vector.
    void see(size_t tensor, std::span<const float* const> vectors, size_t count);
    /// Of tensors that come later, or of later elements of the last one.
    void join(const GeometrySums& later);
    /// Bytes at most where so many tensors are seen.
    static uint64_t bytes(size_t vectors, size_t tensors);

private:
    friend class Geometry;
    struct Pair {
        double dot = 0, magnitude = 0;  ///< Σ ab, Σ |ab|
        uint64_t agree = 0, both = 0;   ///< elements of equal sign, elements where neither is 0
    };
    struct Tensor {
        std::vector<double> squares, absolute;  ///< by vector: Σ a², Σ |a|
        std::vector<Pair> pairs;                ///< (0, 1), (0, 2), …, (1, 2), …
    };
    size_t vectors_;
    std::map<size_t, Tensor> tensors_;
};

/// What is known of two vectors in some tensors.
struct PairGeometry {
    /// Cosine of the angle, and its standard deviation for vectors of random direction with the same norms in each
    /// tensor (its mean is 0): √(Σ_t ‖a_t‖²‖b_t‖²/n_t) / (‖a‖‖b‖).
    double cosine = 0, null_deviation = 0;
    /// Share of equal signs where neither is 0, and what jointly Gaussian elements with the tensors' own cosines ρ_t
    /// would have: the mean of ½ + asin(ρ_t)/π. What is above it, the cosine doesn't say already.
    double sign_agreement = 0, sign_expected = 0;
    /// The same share, each element weighted with |ab|.
    double weighted_agreement = 0;
    /// Σ |ab| over what it would be if magnitudes were independent within each tensor: above 1, the same elements move.
    double overlap = 0;
};

/// Of many vectors there are many pairs: above kTensorPairs vectors those of single tensors are left out, above
/// kPartPairs those of roles and blocks as well. Norms, and the pairs of whole vectors, are always there.
class Geometry {
public:
    static constexpr size_t kTensorPairs = 32, kPartPairs = 128;

    /// Of tensors that take() gives it.
    Geometry(std::vector<std::string> names, std::vector<GeometryTensor> tensors);
    /// All tensors of `sums` have a place in `tensors`.
    Geometry(std::vector<std::string> names, std::vector<GeometryTensor> tensors, GeometrySums sums);

    /// Takes the tensors before `end` out of the sums, and adds them. In ascending order.
    void take(GeometrySums& sums, size_t end);
    /// Bytes at most of what is kept, when all tensors are in.
    uint64_t bytes() const;

    struct Part {
        uint64_t elements = 0;
        std::vector<double> norms;        ///< by vector
        std::vector<PairGeometry> pairs;  ///< (0, 1), (0, 2), …, (1, 2), …; NaN where a vector is 0; or none
    };
    const std::vector<std::string>& names() const { return names_; }
    Part whole() const { return whole_.part(); }
    std::map<std::string, Part> roles() const;
    std::map<int32_t, Part> blocks() const;  ///< −1: what belongs to none

    double norm_balance() const;  ///< greatest norm over the smallest; infinite where one is 0
    /// Over the pairs that have such a figure; NaN where there are none.
    double mean_cosine() const;
    double mean_sign_agreement() const;

    /// Premises that don't hold, of the methods whose stages these are ("elect", "model-stock", …), or of any method
    /// where there are none. Vectors that are 0 here are told, and left out of everything else; where this is a sample,
    /// `moves` says by vector whether it is anything but 0 elsewhere.
    std::vector<std::string> warnings(const std::vector<std::string>& stages = {},
                                      const std::vector<bool>& moves = {}) const;

    Json to_json(const std::vector<std::string>& warnings) const;
    std::string to_csv() const;  ///< a line for each pair in all tensors, each role, each block and each tensor
    std::string to_text(const std::vector<std::string>& warnings) const;

private:
    /// Sums over tensors.
    struct Sums {
        struct Pair {
            double dot = 0, variance = 0, magnitude = 0, independent = 0, agree = 0, both = 0, expected = 0;
        };
        uint64_t elements = 0;
        std::vector<double> squares;
        std::vector<Pair> pairs;

        void add(const GeometrySums::Tensor& tensor, uint64_t elements);
        PairGeometry pair(size_t at, size_t i, size_t j) const;
        Part part() const;
    };
    double mean_over_pairs(double PairGeometry::*figure) const;
    Sums empty(size_t most) const;  ///< with pairs, where there are no more vectors than this

    std::vector<std::string> names_;
    std::vector<GeometryTensor> known_;
    Sums whole_;
    std::map<std::string, Sums> roles_;
    std::map<int32_t, Sums> blocks_;
    std::vector<std::pair<std::string, Part>> tensors_;
};

/// Reads the base and the vectors once. Throws Error(kRunFailed) where a vector is of another base.
Geometry geometry_of(const std::filesystem::path& base, const std::vector<std::filesystem::path>& vectors,
                     const std::vector<std::string>& names, unsigned threads, Progress* progress = nullptr,
                     const Cancel* cancel = nullptr);

}  // namespace biophony
