/* biophony plugin interface: merge stages, tier S, draft. Interface id "biophony.merger/0".
 *
 * A merger is exactly one stage of a merge: `transform` (one expert's delta → delta), `combine` (N → 1) or `post`
 * (1 → 1). The manifest says which, in its item's object "merger":
 *   {"stage": "combine", "scope": "element", "space": "delta", "random": false, "permutation_invariant": true}
 * The host reads and writes files, orders experts, widens numbers to float, keeps the threads, and calls the stage
 * tile by tile. A stage keeps no state between calls: instances are constant after create.
 *
 * This draft carries scope `element` alone: the value at one place depends on the experts' values at that place, so
 * that tiles can have any size. Tables for tensors, matrices and global statistics are appended to the struct.
 */
#ifndef BIOPHONY_C_MERGER_H
#define BIOPHONY_C_MERGER_H

#include "biophony/c/spine.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BPH_MERGER_V0 "biophony.merger/0"

/* A run of consecutive elements of one tensor. */
typedef struct bph_merge_tile {
    uint32_t struct_size;
    uint32_t expert_count; /* N; 1 for transform and post */
    bph_str tensor;        /* name of the tensor */
    bph_str role;          /* "matrix", "convolution", "norm", "bias", "embedding", … as the encoder says */
    int32_t block;         /* 0-based block of the encoder, or -1 */
    uint32_t expert_index; /* for transform: which expert; else 0 */
    uint64_t offset;       /* row-major index of the first element */
    uint64_t count;        /* how many elements */
    const float* const*
        experts;       /* N pointers to `count` values: deltas, or weights where the manifest's space says so */
    const float* base; /* `count` base weights, or null where the stage doesn't ask for them */
    float* out;        /* `count` values to be written; never aliases an input */
} bph_merge_tile;

typedef struct bph_merger_v0 {
    uint32_t struct_size;
    uint32_t reserved;
    /* params_json: an object that fits the manifest's schema, defaults filled in. [worker] */
    bph_status (*create)(const bph_call* call, bph_str params_json, void** self);
    void (*destroy)(void* self); /* [worker] */
    /* Scope `element`. Several threads call it at once for one instance. Accumulate in float, in the order of the
     * experts; a result must not depend on offset or count. [any] */
    bph_status (*element)(const bph_call* call, const void* self, const bph_merge_tile* tile);
} bph_merger_v0;

#ifdef __cplusplus
}
#endif

#endif /* BIOPHONY_C_MERGER_H */
