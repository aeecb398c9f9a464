/* Options for opening a model.
 *
 *     hypura_options options = {.struct_size = sizeof options};
 *     options.memory_bytes = (uint64_t)8 << 30;
 *
 * Zero is the default of every option. What options point to must stay valid until the call returns; load_behind needs
 * on_load_context for longer.
 */
#ifndef HYPURA_API_OPTIONS_H
#define HYPURA_API_OPTIONS_H

#include <hypura/export.h>

HYPURA_BEGIN

/* A LoRA adapter in a GGUF file, made for this model. */
typedef struct hypura_adapter {
    const char *path;
    float scale; /* 1: as trained; 0: no effect */
} hypura_adapter;

/* HYPURA_AUTO lets the library decide by measuring. */
typedef enum hypura_switch { HYPURA_AUTO = 0, HYPURA_ON, HYPURA_OFF } hypura_switch;

typedef struct hypura_options {
    size_t struct_size;

    /* ---- resources ---- */
    uint64_t memory_bytes;     /* limit for the whole process; 0: the free memory, less some headroom */
    const char *gpu;           /* "auto" (all GPUs), "none", or numbers from "hypura profile", such as "0,2"; NULL:
                                * $HYPURA_GPU if set, else "auto" */
    uint64_t gpu_memory_bytes; /* limit for each GPU; 0: its free memory, less some headroom */
    uint32_t threads;          /* compute threads; 0: one per core that this process may use */

    /* ---- capacity ---- */
    uint32_t context_tokens; /* the most tokens of a prompt with its answer; 0: automatic, up to 4096 */
    uint32_t sessions;       /* the most answers computed at the same time; others wait. 0: 4, or fewer if memory is
                              * short */
    uint32_t chunk_tokens;   /* the most prompt tokens per pass; 0: automatic */
    const char *kv_type;     /* type of the KV cache: "f32", "f16", "bf16", "q8_0", "q4_0"; NULL: "f16" */
    bool text_only;          /* open only what hypura/text.h needs: no weights, no sessions */

    /* ---- LoRA ---- */
    const hypura_adapter *adapters; /* [adapter_count], applied in this order */
    size_t adapter_count;

    /* ---- speculative decoding: the same text, sooner ---- */
    hypura_switch drafting;
    const char *draft_path; /* a smaller model with the same vocabulary, which drafts tokens; NULL: none */

    /* ---- prefixes: computed data kept for texts that begin the same ---- */
    bool forget_prefixes;         /* keep none */
    uint64_t prefix_memory_bytes; /* limit, counted in memory_bytes; 0: a sixteenth of it */
    const char *prefix_folder;    /* keep prefixes in this folder too, for later runs; NULL: in memory only */
    uint64_t prefix_folder_bytes; /* limit for the folder; 0: 16 GiB */

    /* ---- loading ---- */
    /* Called on the opening thread while weights are read, with the bytes read so far and in all. Return false to end
     * the call with HYPURA_ERROR_CANCELLED. If NULL, opening does not wait for the weights: they are read in the order
     * in which the first request needs them, and that request fails if a read fails. */
    bool (*on_load)(void *context, uint64_t done_bytes, uint64_t all_bytes);
    void *on_load_context;

    /* ---- rarely needed ---- */
    bool forget_usage;        /* do not read or write the record of used experts in the user's state folder. By default,
                               * the experts used most in earlier runs are in memory from the start */
    bool gpu_fixed;           /* do not move experts between memory and GPUs after opening */
    const char *reader;       /* how weights are read: "auto", "io_uring", "threads"; NULL: "auto" */
    uint32_t reads_in_flight; /* per drive; 0: as measured */
    hypura_switch prefetch;   /* read experts that are likely to be needed soon */
    const char *cache_policy; /* for streamed experts: "cycle", "lru", "lfu", "s3fifo"; NULL: "cycle" */
    bool no_fill;             /* do not read experts into free memory between answers */
    bool no_overlap;          /* compute a layer's experts only once all are in memory; for comparison */
    const char *trace_path;   /* record the chosen experts in this file, for "hypura replay"; NULL: do not */
    const char *const *mirror_paths; /* [mirror_count] copies of the model on other drives, as files or folders. Each
                                      * read goes to the drive that will finish it first */
    size_t mirror_count;

    /* ---- several GPUs: a limit for each, in the order of gpu; an entry of 0 means gpu_memory_bytes ---- */
    const uint64_t *gpus_memory_bytes; /* [gpu_count] */
    size_t gpu_count;

    /* ---- with on_load ---- */
    bool load_behind; /* do not wait for the weights, although on_load is set. on_load is then called on other threads
                       * until all weights are loaded, and on_load_context must stay valid until then */
} hypura_options;

HYPURA_END
#endif
