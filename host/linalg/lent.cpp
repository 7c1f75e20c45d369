#include <malloc.h>

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <mutex>
#include <string_view>

#include "linalg/linalg.hpp"

namespace biophony {

namespace {

/// LibTorch's own copy of a matrix: aligned as it likes it, whatever the caller's is, since libraries round by
/// alignment.
at::Tensor matrix(const double* values, uint64_t rows, uint64_t columns) {
    return at::from_blob(const_cast<double*>(values), {static_cast<int64_t>(rows), static_cast<int64_t>(columns)},
                         at::kDouble)
        .clone();
}

void copy(const at::Tensor& from, double* to) {
    const at::Tensor dense = from.contiguous();
    std::copy_n(dense.const_data_ptr<double>(), dense.numel(), to);
}

std::mutex threads_mutex;  ///< LibTorch's setting is one for all

/// Runs `body` with one thread and says what LibTorch throws.
template <class Body>
bph_status lend(const bph_call* call, Body&& body) noexcept {
    auto report = [call](std::string_view text) {
        text = text.substr(0, text.find('\n'));  // a stack follows
        call->set_error(call, BPH_INTERNAL, {text.data(), text.size()}, {nullptr, 0});
        return BPH_INTERNAL;
    };
    try {
        // The setting is the process's in part and the thread's in part; a new thread takes it over.
        if (at::get_num_threads() != 1) {
            const std::lock_guard lock(threads_mutex);
            at::set_num_threads(1);
        }
        body();
        return BPH_OK;
    } catch (const std::exception& error) {
        return report(error.what());
    } catch (...) {
        return report("an exception that is no std::exception");
    }
}

bph_status svd(const bph_call* call, uint64_t m, uint64_t n, const double* a, double* u, double* s, double* vt) {
    return lend(call, [&] {
        if (m == 0 || n == 0) return;
        const auto [left, values, right] = at::linalg_svd(matrix(a, m, n), /*full_matrices=*/false);
        copy(left, u);
        copy(values, s);
        copy(right, vt);
    });
}

bph_status eigh(const bph_call* call, uint64_t n, const double* a, double* values, double* vectors) {
    return lend(call, [&] {
        if (n == 0) return;
        const auto [found, columns] = at::linalg_eigh(matrix(a, n, n));
        copy(found, values);
        copy(columns, vectors);
    });
}

bph_status gemm(const bph_call* call, uint64_t m, uint64_t n, uint64_t k, const double* a, int32_t a_transposed,
                const double* b, int32_t b_transposed, double* c) {
    return lend(call, [&] {
        if (k == 0) std::fill_n(c, m * n, 0.0);
        if (m == 0 || n == 0 || k == 0) return;
        const at::Tensor left = a_transposed != 0 ? matrix(a, k, m).t() : matrix(a, m, k);
        const at::Tensor right = b_transposed != 0 ? matrix(b, n, k).t() : matrix(b, k, n);
        copy(at::matmul(left, right), c);
    });
}

}  // namespace

const bph_linalg_v0* lent_linalg() {
    at::set_num_threads(1);
    // Matrices are given back to the system. Without this the C library learns from the first large block that is freed
    // to keep those of its size, and holds twice what is in use at any time. What it costs: it holds from here on for
    // the whole process, so large blocks of other work are cleared anew each time. Training asks for the contrary, and
    // gets it.
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    static constexpr bph_linalg_v0 table = {sizeof(bph_linalg_v0), 0, &svd, &eigh, &gemm};
    return &table;
}

}  // namespace biophony
