// clang-format off: the comment is a table
/* biophony plugin interface: merge stages, tier S, draft. Interface id "biophony.merger/0".
 *
 * A merger is exactly one stage of a merge: `transform` (delta → delta), `combine` (N → 1) or `post` (1 → 1). The
 * manifest says which, in its item's object "merger":
 *
 *   {"stage": "combine", "scope": "element", "space": "delta", "random": false, "permutation_invariant": true}
 *
 *   stage   "transform", "combine" or "post"
 *   experts "one" (default) or "all": a transform that sees all experts at once and writes as many; for a combine a
 *           number, where it takes exactly so many
 *   most_experts  how many experts are merged at most; any number where it isn't there
 *   scope   what the stage must see to give one value:
 *             "element"  the experts' values at that place: tiles of any size go to `element`
 *             "tensor"   the whole tensor: `element` gets it as one tile
 *             "matrix"   tensors whose role is in "roles" go whole to `matrix`, as rows × columns; all others go to
 *                        `element` in tiles, which is the method's rule for them
 *             "global"   all tensors: they are shown to `observe` first; then tiles go to `element`
 *   roles   for "matrix": the roles that are matrices, ["matrix"] by default. A tensor of more than two dimensions is
 *           seen as (first dimension) × (all others)
 *   observe for "global": how many times all tensors are shown, 1 by default
 *   join    for "global": "ordered" (default), or "exact" where states join to the same whichever tensors each of them
 *           has seen: counts, sums of integers, extremes. Then there is one state a thread, and nobody waits for
 *           another; otherwise there is one for each 4 194 304 elements, joined in order
 *   space   "delta" or "weight": what the stage takes and gives
 *   needs   ["base"]: the base's weights beside the experts' values; ["linalg"]: the host's linear algebra;
 *           ["experts"], for a post stage: the experts' deltas as they were read, before any stage, beside the merged
 *           one; ["norms"], for the others: the lengths of the experts' deltas as they were read, over all tensors,
 *           which cost no pass where the host knows them from another merge; ["blocks"]: tensors that are in blocks
 *           of an encoder, at least one
 *   random  whether it draws random numbers
 *   preset  instead of all these: a list of stages, {"use": "merger:…", "with": {…}}, for which the item stands. It has
 *           no code. {"parameter": "density"} as a value is the item's own parameter of that name; each is used so.
 *
 * A parameter whose schema has "x-per-expert": true is an array with one entry per expert, one with
 * "x-at-most-experts": true a number that isn't above theirs, one with "x-per-block": true an array with one entry per
 * block of the encoder. None may be a file ("format": "path"), not known yet.
 *
 * All this the host checks before it writes a byte. What a stage finds wrong with a tile later ends the merge.
 *
 * The host reads and writes files, orders experts, widens numbers to float, keeps the threads, and calls the stage. A
 * stage keeps no state between calls: instances are constant after create.
 */
// clang-format on
#ifndef BIOPHONY_C_MERGER_H
#define BIOPHONY_C_MERGER_H

#include "biophony/c/linalg.h"
#include "biophony/c/spine.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BPH_MERGER_V0 "biophony.merger/0"

/* A run of consecutive elements of one tensor, or the whole of it. */
typedef struct bph_merge_tile {
    uint32_t struct_size;
    uint32_t expert_count; /* N; 1 for post and for a transform that sees one expert */
    bph_str tensor;        /* name of the tensor */
    bph_str role;          /* "matrix", "convolution", "norm", "bias", "embedding", … as the encoder says */
    int32_t block;         /* 0-based block of the encoder, or -1 */
    uint32_t expert_index; /* for a transform that sees one expert: which; else 0 */
    uint64_t offset;       /* row-major index of the first element */
    uint64_t count;        /* how many elements */
    const float* const*
        experts;          /* N pointers to `count` values: deltas, or weights where the manifest's space says so */
    const float* base;    /* `count` base weights, or null where the stage doesn't ask for them */
    float* out;           /* `count` values to be written, never aliasing an input; null in `observe` and with `outs` */
    float* const* outs;   /* "experts": "all": N pointers to `count` values to be written; else null */
    const uint64_t* keys; /* random stages: N keys. The random numbers of expert i at element e depend on keys[i] and e
                           * alone, so not on tiles; else null */
    const uint64_t* shape; /* of the whole tensor, `rank` numbers; for `matrix` two: rows, columns */
    uint32_t rank;
    uint32_t reserved;
    const void* observed; /* "global": what observe_end left in the last pass; else null, and null in `observe` */
    const bph_linalg_v0* linalg; /* for stages that need it; else null */
    const float* const* sources; /* for post stages that need the experts: `source_count` pointers to `count` deltas;
                                  * else null. Also in `observe` */
    uint32_t source_count;       /* how many experts are merged, where `sources` are there; else 0 */
    uint32_t block_count;        /* how many blocks the encoder has: one more than the last one that a tensor is in */
    const double* norms;         /* for stages that need them: expert_count numbers; else null. Also in `observe` */
} bph_merge_tile;

typedef struct bph_merger_v0 {
    uint32_t struct_size;
    uint32_t reserved;
    /* params_json: an object that fits the manifest's schema, defaults filled in. [worker] */
    bph_status (*create)(const bph_call* call, bph_str params_json, void** self);
    void (*destroy)(void* self); /* [worker] */
    /* Several threads call it at once for one instance. Accumulate in float, in the order of the experts; a result must
     * not depend on offset or count. [any] */
    bph_status (*element)(const bph_call* call, const void* self, const bph_merge_tile* tile);
    /* Scope "matrix", else null. As `element`; offset 0, all elements, shape (rows, columns). [any] */
    bph_status (*matrix)(const bph_call* call, const void* self, const bph_merge_tile* tile);
    /* Scope "global", else null. In pass 0, 1, … the host makes states, shows each some tiles in ascending order, joins
     * them in ascending order of what they have seen, and ends the one that is left. Which state sees what depends on
     * the sizes of tensors only, unless the manifest says "join": "exact". `earlier` is the ended state of the pass
     * before, null in pass 0; states live until the merge is over. Tiles are as in `element`, without places to write
     * to. [any], one thread a state */
    bph_status (*observe_begin)(const bph_call* call, const void* self, uint32_t pass, uint32_t expert_count,
                                const void* earlier, void** state);
    bph_status (*observe)(const bph_call* call, const void* self, void* state, const bph_merge_tile* tile);
    bph_status (*observe_join)(const bph_call* call, const void* self, void* state, const void* other);
    bph_status (*observe_end)(const bph_call* call, const void* self, void* state);
    void (*observe_destroy)(void* state);
    /* How many bytes a state takes at most in this pass, so that the host makes no more of them than fit into memory;
     * an ended state should keep little. May be null or answer 0: little; or UINT64_MAX: it can't tell, as something
     * failed, and the merge ends before it begins. [any] */
    uint64_t (*observe_bytes)(const void* self, uint32_t pass, uint32_t expert_count);
} bph_merger_v0;

#ifdef __cplusplus
}
#endif

#endif /* BIOPHONY_C_MERGER_H */
