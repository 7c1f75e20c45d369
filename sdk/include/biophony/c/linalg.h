/* biophony host service: dense linear algebra in float64, lent to plugins. Interface id "biophony.linalg/0".
 *
 * Matrices are row-major and dense. A call works on the calling thread alone, so that its result doesn't depend on how
 * many others run; it returns BPH_OK, or BPH_INTERNAL after bph_call.set_error where a decomposition doesn't converge.
 * All functions: [any]. Outputs never alias inputs.
 */
#ifndef BIOPHONY_C_LINALG_H
#define BIOPHONY_C_LINALG_H

#include "biophony/c/spine.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BPH_LINALG_V0 "biophony.linalg/0"

typedef struct bph_linalg_v0 {
    uint32_t struct_size;
    uint32_t reserved;
    /* Thin singular value decomposition a (m, n) = u (m, r) · diag(s) · vt (r, n), r = min(m, n), s descending. */
    bph_status (*svd)(const bph_call* call, uint64_t m, uint64_t n, const double* a, double* u, double* s, double* vt);
    /* Eigenvalues, ascending, and eigenvectors, in the columns of `vectors` (n, n), of a symmetric matrix a (n, n). */
    bph_status (*eigh)(const bph_call* call, uint64_t n, const double* a, double* values, double* vectors);
    /* c (m, n) = op(a) · op(b) with op(a) (m, k), op(b) (k, n); a flag that isn't 0 means that the matrix is stored
     * transposed. */
    bph_status (*gemm)(const bph_call* call, uint64_t m, uint64_t n, uint64_t k, const double* a, int32_t a_transposed,
                       const double* b, int32_t b_transposed, double* c);
} bph_linalg_v0;

#ifdef __cplusplus
}
#endif

#endif /* BIOPHONY_C_LINALG_H */
