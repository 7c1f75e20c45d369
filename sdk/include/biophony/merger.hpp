// Writing a merge stage: derive from Merger, write the formula in element(), add the macro line.
//
//     class Average : public biophony::sdk::Merger {
//     public:
//         explicit Average(const biophony::sdk::Params&) {}
//         void element(const Tile& tile) const override { … }
//     };
//     BIOPHONY_PLUGIN(biophony::sdk::merger<Average>("average"))
//
// The manifest's "merger" object says stage, scope and space; see biophony/c/merger.h. A stage of scope "matrix" also
// overrides matrix(), one of scope "global" begin().
#pragma once

#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "biophony/c/merger.h"
#include "biophony/philox.hpp"
#include "biophony/plugin.hpp"

/// Before a free function whose loops take a merge's time: it is compiled for AVX2 too, and the processor decides when
/// the plugin is loaded. Sums and products keep their order and their rounding, so that both give the same bits.
#if defined(__x86_64__) && defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 14)
#define BIOPHONY_WIDE [[gnu::target_clones("avx2", "default")]]
#else
#define BIOPHONY_WIDE
#endif

namespace biophony::sdk {

/// What a global stage has seen of all tensors. One thread at a time.
class Observation {
public:
    virtual ~Observation() = default;
    /// Tiles come in ascending order; tile.out() is empty.
    virtual void see(const class Tile& tile) = 0;
    /// Adds what another one, of the same class, has seen of later tensors.
    virtual void join(const Observation& later) = 0;
    /// Nothing more will come.
    virtual void end() {}
};

/// A matrix in float64, row-major.
struct Matrix {
    size_t rows = 0, columns = 0;
    std::vector<double> values;

    Matrix() = default;
    Matrix(size_t r, size_t c) : rows(r), columns(c), values(r * c, 0.0) {}
    double& at(size_t r, size_t c) { return values[r * columns + c]; }
    double at(size_t r, size_t c) const { return values[r * columns + c]; }
};

namespace detail {

/// A failure that the host has told already: it goes back as its status alone, so that the host's words stand.
class ToldByHost : public Error {
public:
    explicit ToldByHost(bph_status status) : Error("the host's linear algebra failed", status) {}
};

}  // namespace detail

/// The host's linear algebra, for stages whose manifest says "needs": ["linalg"]. Throws Error where a decomposition
/// doesn't converge (left alone, it reaches the user in the host's words), and where shapes don't fit.
class Linalg {
public:
    Linalg(const bph_linalg_v0* table, const bph_call* call) : table_(table), call_(call) {
        if (table_->struct_size < sizeof(bph_linalg_v0))
            throw Error("the host's linear algebra has " + std::to_string(table_->struct_size) +
                            " bytes, expected at least " + std::to_string(sizeof(bph_linalg_v0)),
                        BPH_INCOMPATIBLE);
    }

    struct Svd {
        Matrix u;               ///< (m, r)
        std::vector<double> s;  ///< r = min(m, n), descending
        Matrix vt;              ///< (r, n)
    };
    Svd svd(const Matrix& a) const {
        const size_t r = a.rows < a.columns ? a.rows : a.columns;
        Svd out{Matrix(a.rows, r), std::vector<double>(r), Matrix(r, a.columns)};
        check(table_->svd(call_, a.rows, a.columns, a.values.data(), out.u.values.data(), out.s.data(),
                          out.vt.values.data()));
        return out;
    }
    struct Eigh {
        std::vector<double> values;  ///< ascending
        Matrix vectors;              ///< in columns
    };
    Eigh eigh(const Matrix& symmetric) const {
        if (symmetric.rows != symmetric.columns)
            throw Error("eigh: found a matrix of " + shape(symmetric) + ", expected a square one", BPH_INTERNAL);
        Eigh out{std::vector<double>(symmetric.rows), Matrix(symmetric.rows, symmetric.rows)};
        check(
            table_->eigh(call_, symmetric.rows, symmetric.values.data(), out.values.data(), out.vectors.values.data()));
        return out;
    }
    /// op(a) · op(b), op being the transpose where the flag is set.
    Matrix multiply(const Matrix& a, const Matrix& b, bool transpose_a = false, bool transpose_b = false) const {
        const size_t inner = transpose_a ? a.rows : a.columns;
        if (inner != (transpose_b ? b.columns : b.rows))
            throw Error("multiply: found " + shape(a) + (transpose_a ? " transposed" : "") + " and " + shape(b) +
                            (transpose_b ? " transposed" : "") +
                            ", expected as many columns on the left as rows on the right",
                        BPH_INTERNAL);
        Matrix out(transpose_a ? a.columns : a.rows, transpose_b ? b.rows : b.columns);
        check(table_->gemm(call_, out.rows, out.columns, inner, a.values.data(), transpose_a ? 1 : 0, b.values.data(),
                           transpose_b ? 1 : 0, out.values.data()));
        return out;
    }

private:
    static std::string shape(const Matrix& a) { return std::to_string(a.rows) + " x " + std::to_string(a.columns); }
    static void check(bph_status status) {
        if (status != BPH_OK) throw detail::ToldByHost(status);
    }
    const bph_linalg_v0* table_;
    const bph_call* call_;
};

/// A run of consecutive elements of one tensor, or the whole of it; all spans have the same length. What the manifest
/// doesn't ask for isn't there: asking the tile for it throws Error, with the key that is missing.
class Tile {
public:
    Tile(const bph_merge_tile* tile, const bph_call* call) : tile_(tile), call_(call) {
        if (tile_->struct_size < sizeof(bph_merge_tile))
            throw Error("the host's tile has " + std::to_string(tile_->struct_size) + " bytes, expected at least " +
                            std::to_string(sizeof(bph_merge_tile)),
                        BPH_INCOMPATIBLE);
    }
    size_t size() const { return static_cast<size_t>(tile_->count); }
    size_t experts() const { return tile_->expert_count; }
    /// Values of expert i: deltas, or weights where the manifest says `"space": "weight"`.
    std::span<const float> expert(size_t i) const { return {tile_->experts[i], size()}; }
    /// The base's weights; empty where the manifest doesn't ask for them.
    std::span<const float> base() const {
        return tile_->base == nullptr ? std::span<const float>() : std::span<const float>(tile_->base, size());
    }
    std::span<float> out() const { return {tile_->out, tile_->out == nullptr ? 0 : size()}; }
    /// Of expert i, for a transform with `"experts": "all"`.
    std::span<float> out(size_t i) const {
        promised(tile_->outs, "out(i)", "\"experts\": \"all\"");
        return {tile_->outs[i], size()};
    }
    std::string_view tensor() const { return from_c(tile_->tensor); }
    std::string_view role() const { return from_c(tile_->role); }
    int block() const { return tile_->block; }
    /// How many blocks the encoder has; 0 where no tensor is in one.
    size_t blocks() const { return tile_->block_count; }
    /// For a post stage with `"needs": ["experts"]`: how many experts were merged,
    size_t sources() const {
        promised(tile_->sources, "sources()", "\"needs\": [\"experts\"]");
        return tile_->source_count;
    }
    /// and the delta of expert i as it was read.
    std::span<const float> source(size_t i) const {
        promised(tile_->sources, "source(i)", "\"needs\": [\"experts\"]");
        return {tile_->sources[i], size()};
    }
    /// With `"needs": ["norms"]`: the length of expert i's delta over all tensors, as it was read.
    double norm(size_t i) const {
        promised(tile_->norms, "norm(i)", "\"needs\": [\"norms\"]");
        return tile_->norms[i];
    }
    /// Which expert, for a transform that sees one.
    uint32_t expert_index() const { return tile_->expert_index; }
    /// Row-major index of the first element.
    uint64_t offset() const { return tile_->offset; }
    /// Of the whole tensor; for matrix() rows and columns.
    std::span<const uint64_t> shape() const { return {tile_->shape, tile_->rank}; }
    /// Random numbers of expert i, to be asked by the element's index in the tensor: offset() + k.
    Philox random(size_t i = 0) const {
        promised(tile_->keys, "random()", "\"random\": true");
        return Philox(tile_->keys[i]);
    }
    /// What the last pass of a global stage has seen, in element().
    template <class T>
    const T& observed() const {
        promised(tile_->observed, "observed()", "\"scope\": \"global\"");
        return static_cast<const T&>(*static_cast<const Observation*>(tile_->observed));
    }
    /// Expert i as a matrix, in matrix().
    Matrix matrix(size_t i) const {
        if (tile_->rank != 2 || tile_->shape[0] * tile_->shape[1] != tile_->count)
            throw Error("matrix(i) is for Merger::matrix(), which has the whole tensor as rows and columns",
                        BPH_INTERNAL);
        Matrix out(static_cast<size_t>(tile_->shape[0]), static_cast<size_t>(tile_->shape[1]));
        const auto from = expert(i);
        out.values.assign(from.begin(), from.end());
        return out;
    }
    Linalg linalg() const {
        promised(tile_->linalg, "linalg()", "\"needs\": [\"linalg\"]");
        return {tile_->linalg, call_};
    }
    Call call() const { return Call(call_); }

private:
    static void promised(const void* there, const char* what, const char* key) {
        if (there == nullptr)
            throw Error(std::string("Tile::") + what + " is there where the manifest's object \"merger\" has " + key +
                            ", and not while tensors are observed",
                        BPH_INTERNAL);
    }
    const bph_merge_tile* tile_;
    const bph_call* call_;
};

class Merger {
public:
    virtual ~Merger() = default;
    /// Writes tile.out(). Several threads call it at once; the result may not depend on the tile's offset or size.
    virtual void element(const Tile& tile) const = 0;
    /// Scope "matrix": the tensors whose role is a matrix; element() has the others.
    virtual void matrix(const Tile&) const { throw Error("matrix() is missing", BPH_INTERNAL); }
    /// Scope "global": what is to see all tensors in this pass (from 0); `earlier` is the last pass's, null in the
    /// first.
    virtual std::unique_ptr<Observation> begin(uint32_t pass, size_t experts, const Observation* earlier) const {
        (void)pass, (void)experts, (void)earlier;
        throw Error("begin() is missing", BPH_INTERNAL);
    }
    /// Scope "global": bytes that an observation of this pass takes at most, where that is more than a little.
    virtual uint64_t observed_bytes(uint32_t pass, size_t experts) const {
        (void)pass, (void)experts;
        return 0;
    }
};

namespace detail {

template <class M>
struct MergerThunks {
    /// guarded(), but for what the host has told.
    template <class Body>
    static bph_status told(const bph_call* call, Body&& body) noexcept {
        bph_status by_host = BPH_OK;
        const bph_status status = guarded(call, [&] {
            try {
                body();
            } catch (const ToldByHost& error) {
                by_host = error.status();
            }
        });
        return status != BPH_OK ? status : by_host;
    }
    static bph_status create(const bph_call* call, bph_str params, void** self) {
        return told(call, [&] {
            auto instance = std::make_unique<M>(Params::parse(from_c(params)));
            *self = static_cast<Merger*>(instance.release());
        });
    }
    static void destroy(void* self) { delete static_cast<Merger*>(self); }
    static bph_status element(const bph_call* call, const void* self, const bph_merge_tile* tile) {
        return told(call, [&] { static_cast<const Merger*>(self)->element(Tile(tile, call)); });
    }
    static bph_status matrix(const bph_call* call, const void* self, const bph_merge_tile* tile) {
        return told(call, [&] { static_cast<const Merger*>(self)->matrix(Tile(tile, call)); });
    }
    static bph_status observe_begin(const bph_call* call, const void* self, uint32_t pass, uint32_t experts,
                                    const void* earlier, void** state) {
        return told(call, [&] {
            *state = static_cast<const Merger*>(self)
                         ->begin(pass, experts, static_cast<const Observation*>(earlier))
                         .release();
        });
    }
    static bph_status observe(const bph_call* call, const void*, void* state, const bph_merge_tile* tile) {
        return told(call, [&] { static_cast<Observation*>(state)->see(Tile(tile, call)); });
    }
    static bph_status observe_join(const bph_call* call, const void*, void* state, const void* other) {
        return told(call, [&] { static_cast<Observation*>(state)->join(*static_cast<const Observation*>(other)); });
    }
    static bph_status observe_end(const bph_call* call, const void*, void* state) {
        return told(call, [&] { static_cast<Observation*>(state)->end(); });
    }
    static void observe_destroy(void* state) { delete static_cast<Observation*>(state); }
    static uint64_t observe_bytes(const void* self, uint32_t pass, uint32_t experts) noexcept {
        try {
            return static_cast<const Merger*>(self)->observed_bytes(pass, experts);
        } catch (...) {
            return UINT64_MAX;  // there is no call to tell it by
        }
    }
    /// Whether M, or what it derives from, has its own. One that can't be named from here (private, overloaded) is.
    static constexpr bool kMatrix = !requires {
        requires std::is_same_v<decltype(&M::matrix), decltype(&Merger::matrix)>;
    };
    static constexpr bool kGlobal = !requires {
        requires std::is_same_v<decltype(&M::begin), decltype(&Merger::begin)>;
    };
    /// Without what the class lacks, so that a host that is promised it by the manifest sees so at once.
    static constexpr bph_merger_v0 kTable = {sizeof(bph_merger_v0),
                                             0,
                                             &create,
                                             &destroy,
                                             &element,
                                             kMatrix ? &matrix : nullptr,
                                             kGlobal ? &observe_begin : nullptr,
                                             kGlobal ? &observe : nullptr,
                                             kGlobal ? &observe_join : nullptr,
                                             kGlobal ? &observe_end : nullptr,
                                             kGlobal ? &observe_destroy : nullptr,
                                             kGlobal ? &observe_bytes : nullptr};
};

}  // namespace detail

/// The list entry of a merge stage for BIOPHONY_PLUGIN. M is built from Params.
template <class M>
constexpr detail::Item merger(std::string_view id) {
    return {id, BPH_MERGER_V0, &detail::MergerThunks<M>::kTable};
}

}  // namespace biophony::sdk
