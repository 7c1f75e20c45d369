/* biophony plugin interface: the spine.
 *
 * What every plugin library shares, whatever kind of item it carries: one exported function, a manifest that can be
 * read without running anything, and the context that the host hands to each call. Plain C11, nothing but stdint and
 * stddef, so that a library built with another compiler, C++ library or language loads as well.
 *
 * Status: draft (`/0`). Until a kind is frozen as `/1` its table may change between releases; afterwards structs only
 * grow at their end, and a changed meaning is a new interface id.
 *
 * Rules that hold everywhere
 *   - Each struct begins with `struct_size`, set by whoever fills it. A reader tests the size before it touches a field
 *     that a later revision added. A zeroed field means "absent".
 *   - Strings are UTF-8, pointer and length, not terminated, and live until the call that received them returns.
 *   - Whoever makes an object destroys it, through the table that made it. Nothing is freed across the boundary.
 *   - No exception, longjmp or signal crosses the boundary. A function that fails sets an error, then returns its code.
 *   - The host never unloads a library.
 *   - [main] means the host's main thread, [worker] any one thread at a time for this object, [any] any thread at any
 * time.
 *
 * Trust: a plugin runs with the user's rights. Reading the manifest and probing in a child process protect against
 * accidents, not against malice.
 */
#ifndef BIOPHONY_C_SPINE_H
#define BIOPHONY_C_SPINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BPH_SPINE_VERSION 0u

/* The name of the exported entry point, and of the ELF sections with the manifest and (tier T) the ABI block. */
#define BPH_ENTRY_NAME "biophony_plugin_entry"
#define BPH_MANIFEST_SECTION "bph_meta"
#define BPH_ABI_SECTION "bph_abi"

/* A borrowed piece of UTF-8 text. `data` may be null when `size` is 0. */
typedef struct bph_str {
    const char* data;
    size_t size;
} bph_str;

/* What a call returns. 0 is success; anything else must have been announced through bph_call.set_error. */
typedef int32_t bph_status;
enum {
    BPH_OK = 0,
    BPH_INVALID_ARGUMENT = 1, /* a parameter or input is wrong; detail_json may carry {"parameter": "name"} */
    BPH_NOT_FOUND = 2,        /* a file, column, class … that was asked for is not there */
    BPH_IO = 3,               /* reading or writing failed */
    BPH_UNSUPPORTED = 4,      /* well-formed, but this plugin can't do it */
    BPH_OUT_OF_MEMORY = 5,
    BPH_CANCELLED = 6, /* bph_call.cancelled answered yes */
    BPH_INTERNAL = 7,  /* a bug in the plugin */
    BPH_INCOMPATIBLE = 8
};

enum { BPH_LOG_DEBUG = 0, BPH_LOG_INFO = 1, BPH_LOG_WARNING = 2, BPH_LOG_ERROR = 3 };

/* The context of one call, owned by the host and valid until the call returns. All functions: [any]. */
typedef struct bph_call {
    uint32_t struct_size;
    uint32_t threads; /* how many threads the call may use, itself included; 1 or more */
    uint64_t seed;    /* the only source of randomness that a plugin may use */
    void* host;       /* for the host's functions below */
    /* The host copies message and detail at once. The last error set wins. detail_json is an object or empty. */
    void (*set_error)(const struct bph_call* call, bph_status code, bph_str message, bph_str detail_json);
    void (*log)(const struct bph_call* call, int32_t level, bph_str message);
    /* `done` of `total` in `unit` ("clips"); total 0 = unknown. */
    void (*progress)(const struct bph_call* call, double done, double total, bph_str unit);
    /* Not 0 once the user wants to stop; long calls ask often and return BPH_CANCELLED. */
    int32_t (*cancelled)(const struct bph_call* call);
} bph_call;

/* What the host offers a library, for the life of the process. */
typedef struct bph_host {
    uint32_t struct_size;
    uint32_t spine_version;
    bph_str version; /* of the host, for messages only */
    /* A table of host services by versioned id, or null where the host doesn't know it. [any] */
    const void* (*get_interface)(const struct bph_host* host, bph_str interface_id);
} bph_host;

/* What a library offers. Static, constant, and valid for the life of the process. */
typedef struct bph_plugin {
    uint32_t struct_size;
    uint32_t spine_version;
    bph_str manifest; /* JSON; the same bytes as in the section BPH_MANIFEST_SECTION */
    /* The table of one item ("beats") for one versioned interface ("biophony.torch.encoder/0"), or null where the
     * item or the interface isn't known. Names must match whole. [any] */
    const void* (*get_interface)(bph_str item_id, bph_str interface_id);
} bph_plugin;

/* The one exported function. Cheap: it opens no file and starts no thread. May be called more than once. [main]
 * Null means that the library can't work with this host (spine_version); the host then says so and goes on. */
typedef const bph_plugin* (*bph_entry_function)(const bph_host* host);

#ifdef __cplusplus
}
#endif

#endif /* BIOPHONY_C_SPINE_H */
