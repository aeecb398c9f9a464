/* How a model is opened.
 *
 * A struct that a program fills begins with struct_size, so that it can grow: set it to the size that the program was
 * compiled with and leave all else zero, which is the default.
 *
 *     hypura_options options = {.struct_size = sizeof options};
 *     options.memory_bytes = (uint64_t)8 << 30;
 *
 * Nothing that an option points to is kept: it is needed until the call returns.
 */
#ifndef HYPURA_API_OPTIONS_H
#define HYPURA_API_OPTIONS_H

#include <hypura/export.h>

HYPURA_BEGIN

/* A LoRA adapter in a GGUF file, made for this model. */
typedef struct hypura_adapter {
    const char *path;
    float scale; /* 1: as it was trained */
} hypura_adapter;

/* A choice that is made by measuring, unless a program forces it. */
typedef enum hypura_switch { HYPURA_AUTO = 0, HYPURA_ON, HYPURA_OFF } hypura_switch;

typedef struct hypura_options {
    size_t struct_size;

    /* ---- what it may take ---- */
    uint64_t memory_bytes;     /* of the whole process; 0: what is free, less a head-room */
    const char *gpu;           /* "auto" (all cards), "none", or numbers of "hypura profile", such as "0,2"; NULL:
                                * $HYPURA_GPU, else auto */
    uint64_t gpu_memory_bytes; /* on each device; 0: what is free there, less a head-room */
    uint32_t threads;          /* that compute; 0: the cores that this process may use */

    /* ---- what it can do ---- */
    uint32_t context_tokens; /* of one text: prompt and answer; 0: chosen, up to 4096 */
    uint32_t sessions;       /* answers that are computed at once, at most; more wait for their turn. 0: 4, or fewer
                              * where the memory is short */
    uint32_t chunk_tokens;   /* of prompts that pass at once, at most; 0: chosen */
    const char *kv_type;     /* of keys and values: "f32", "f16", "bf16", "q8_0", "q4_0"; NULL: "f16" */
    bool text_only;          /* only what hypura/text.h needs is opened: no weights, no sessions */

    /* ---- LoRA ---- */
    const hypura_adapter *adapters; /* [adapter_count], added in this order */
    size_t adapter_count;

    /* ---- drafting: the same text, sooner ---- */
    hypura_switch drafting;
    const char *draft_path; /* a smaller model of the same family, which drafts; NULL: none */

    /* ---- prefixes: what was computed of texts, for others that begin the same ---- */
    bool forget_prefixes;         /* keep none */
    uint64_t prefix_memory_bytes; /* at most, part of memory_bytes; 0: a sixteenth of it */
    const char *prefix_folder;    /* keeps them there too, for later runs; NULL: in memory only */
    uint64_t prefix_folder_bytes; /* at most; 0: 16 GiB */

    /* ---- cancelling while it is opened ---- */
    /* Called on the opening thread while weights are read, with the bytes read and to read; false ends it with
     * HYPURA_ERROR_CANCELLED. NULL: none, and then opening does not wait for the weights: they are read in the order
     * of the first request, which waits for what it needs and fails where that cannot be read. */
    bool (*on_load)(void *context, uint64_t done_bytes, uint64_t all_bytes);
    void *on_load_context;

    /* ---- rarely needed ---- */
    bool forget_usage;        /* neither read nor write which experts were used, in the user's state folder. By default
                               * they are remembered: the ones used most are in memory at the start */
    bool gpu_fixed;           /* experts stay where they were when the model was opened */
    const char *reader;       /* of weights: "auto", "io_uring", "threads"; NULL: "auto" */
    uint32_t reads_in_flight; /* 0: as measured */
    hypura_switch prefetch;   /* read experts that are likely to be chosen */
    const char *cache_policy; /* of streamed experts: "cycle", "lru", "lfu", "s3fifo"; NULL: "cycle" */
    bool no_fill;             /* leave free memory empty between answers */
    bool no_overlap;          /* compute experts only when all of a layer are there: for comparison */
    const char *trace_path;   /* record which experts were chosen, for "hypura replay"; NULL: not */
    const char *const *mirror_paths; /* [mirror_count] copies of the model on other drives, files or folders: each read
                                      * goes to the drive that is done first */
    size_t mirror_count;

    /* ---- several GPUs: a bound for each, in the order of gpu; 0 in it: gpu_memory_bytes ---- */
    const uint64_t *gpus_memory_bytes; /* [gpu_count] */
    size_t gpu_count;

    /* ---- with on_load ---- */
    bool load_behind; /* opening does not wait for the weights, as without on_load; from then on on_load is called on
                       * another thread, until all weights are there: its context must live as long */
} hypura_options;

HYPURA_END
#endif
