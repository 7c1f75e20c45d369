/* biophony plugin interface: data sets, tier S, draft. Interface id "biophony.dataset/0".
 *
 * A data-set plugin describes recordings and what is known of them; the host decodes, resamples, cuts windows, makes
 * splits and batches. Life of an instance: create → describe (any number of times, same answer) → read_samples (where
 * offered, any number of times) → destroy.
 */
#ifndef BIOPHONY_C_DATASET_H
#define BIOPHONY_C_DATASET_H

#include "biophony/c/spine.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BPH_DATASET_V0 "biophony.dataset/0"

/* How much of a recording an annotator looked at: without this, a missing label says nothing. */
enum { BPH_REVIEWED_NONE = 0, BPH_REVIEWED_WHOLE = 1, BPH_REVIEWED_CLASSES = 2 };
/* What a label claims. */
enum { BPH_PRESENT = 0, BPH_ABSENT = 1, BPH_UNCERTAIN = 2 };
enum { BPH_PRIMARY = 0, BPH_SECONDARY = 1 };

typedef struct bph_key_value {
    bph_str key;
    bph_str value;
} bph_key_value;

/* One sound file or stream. */
typedef struct bph_recording {
    uint32_t struct_size;
    int32_t channel;    /* 0-based; -1 = the mean of all channels */
    bph_str id;         /* unique in this data set, stable between runs */
    bph_str uri;        /* absolute path of an audio file; empty where read_samples serves the sound */
    double seconds;     /* length, or 0 where the host should find out */
    double sample_rate; /* Hz, or 0 where the host should find out; needed where read_samples serves the sound */
    bph_str start_time; /* ISO 8601, or empty */
    double latitude;    /* degrees; NaN = unknown */
    double longitude;   /* degrees; NaN = unknown */
    bph_str licence;    /* as the source says it, or empty */
    const bph_key_value* groups; /* what clips may share: "recording", "recorder", "site", "recordist", "individual" */
    size_t group_count;
    int32_t reviewed; /* BPH_REVIEWED_… */
    const bph_str* reviewed_classes;
    size_t reviewed_class_count;
    bph_str split; /* "train", "valid" or "test" where the source defines one, else empty */
} bph_recording;

typedef struct bph_label {
    bph_str name;            /* as the source writes it */
    bph_str label_namespace; /* "" = the source's own; "scientific", "gbif", "ebird", "inaturalist" */
    int32_t state;           /* BPH_PRESENT … */
    int32_t rank;            /* BPH_PRIMARY … */
} bph_label;

/* A stretch of one recording with its labels. */
typedef struct bph_region {
    uint32_t struct_size;
    uint32_t label_count;
    uint64_t recording; /* index: the number of recordings pushed before it */
    double start_s;     /* seconds from the start of the recording */
    double end_s;       /* NaN = to the end of the recording */
    double low_hz;      /* NaN = unknown */
    double high_hz;     /* NaN = unknown */
    const bph_label* labels;
    bph_str annotator;
    bph_str split; /* overrides the recording's; else empty */
} bph_region;

/* The host's side of describe. Both copy what they are given and return BPH_OK, or a code to be handed on at once. */
typedef struct bph_dataset_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void* host;
    bph_status (*recording)(const struct bph_dataset_sink* sink, const bph_recording* recording);
    bph_status (*region)(const struct bph_dataset_sink* sink, const bph_region* region);
} bph_dataset_sink;

typedef struct bph_dataset_v0 {
    uint32_t struct_size;
    uint32_t reserved;
    /* params_json: an object that fits the manifest's schema, defaults filled in, paths absolute. [worker] */
    bph_status (*create)(const bph_call* call, bph_str params_json, void** self);
    void (*destroy)(void* self); /* [worker] */
    /* Pushes every recording and region, in an order that is the same each time. Reads tables, not audio. [worker] */
    bph_status (*describe)(const bph_call* call, void* self, const bph_dataset_sink* sink);
    /* Optional (null = the host decodes `uri`). Writes up to `frames` mono samples in [-1, 1] at the recording's rate,
     * from frame `first` on, and says in `got` how many there were: fewer only at the end. [worker] */
    bph_status (*read_samples)(const bph_call* call, void* self, uint64_t recording, uint64_t first, uint64_t frames,
                               float* out, uint64_t* got);
} bph_dataset_v0;

#ifdef __cplusplus
}
#endif

#endif /* BIOPHONY_C_DATASET_H */
