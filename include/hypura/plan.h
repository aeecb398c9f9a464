/* The plan for a model on this machine: which weights stay in memory, which are read when needed, and the expected
 * speed. */
#ifndef HYPURA_API_PLAN_H
#define HYPURA_API_PLAN_H

#include <hypura/error.h>
#include <hypura/options.h>

HYPURA_BEGIN

/* A plan. Belongs to the model that it came from, or to the caller of hypura_plan_file. */
typedef struct hypura_plan {
    const char *mode;   /* "full-resident", "expert-streaming", "dense-ffn-streaming", "full-streaming" */
    const char *reason; /* why this mode, in a sentence or two */
    const char *bound;  /* what limits the speed: "compute", "memory", "disk", "gpu" */

    double tokens_per_second;                   /* expected speed of one answer */
    double tokens_per_second_with_one_more_gib; /* with 1 GiB more memory. Only hypura_plan_file computes it; equals
                                                 * tokens_per_second otherwise, or if more memory gains nothing */
    double bytes_read_per_token;                /* from storage */
    bool measured;                              /* by "hypura profile" on this machine; otherwise estimated */

    uint64_t memory_bytes;                        /* the budget */
    uint64_t smallest_memory_bytes;               /* the smallest budget that works with this context */
    uint64_t gpu_bytes, ram_bytes, storage_bytes; /* weights by place; each byte counts once */
    uint64_t kv_bytes;                            /* the KV cache, in memory */
    uint64_t cache_bytes;                         /* the cache for streamed experts */

    uint32_t context_tokens; /* per session */
    uint32_t sessions;       /* answers at the same time */
    uint32_t chunk_tokens;   /* prompt tokens per pass */

    double even_tokens_per_second; /* expected speed if all experts were used equally often. Equals tokens_per_second
                                    * without streamed experts, and once earlier runs have shown the actual use */
} hypura_plan;

/* Plans without opening the model: reads only the file's header. options may be NULL. The caller frees *out with
 * hypura_plan_free. If the budget is too small, the error is HYPURA_ERROR_MEMORY, and its message names the smallest
 * budget that works. Any thread may call it. */
HYPURA_API hypura_status hypura_plan_file(hypura_plan **out, const char *path, const hypura_options *options,
                                          hypura_error *error);
HYPURA_API void hypura_plan_free(hypura_plan *plan); /* may be NULL */

HYPURA_END
#endif
