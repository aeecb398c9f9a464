/* What the library would do with a model on this machine, or does with an open one: what stays in memory, what is read
 * when it is needed, and how fast that should be. */
#ifndef HYPURA_API_PLAN_H
#define HYPURA_API_PLAN_H

#include <hypura/error.h>
#include <hypura/options.h>

HYPURA_BEGIN

/* The library makes and owns these structs, and adds fields at their end. */
typedef struct hypura_plan {
    const char *mode;   /* "full-resident", "expert-streaming", "dense-ffn-streaming", "full-streaming" */
    const char *reason; /* why, in a sentence or two */
    const char *bound;  /* what limits the speed: "compute", "memory", "disk", "gpu" */

    double tokens_per_second;                   /* expected of one answer */
    double tokens_per_second_with_one_more_gib; /* of memory; the same when nothing is gained, or when it is not known:
                                                 * only hypura_plan_file computes it */
    double bytes_read_per_token;                /* from storage */
    bool measured;                              /* the machine was measured ("hypura profile"); else estimated */

    uint64_t memory_bytes;                        /* the budget */
    uint64_t smallest_memory_bytes;               /* the least that this model runs with, with this context */
    uint64_t gpu_bytes, ram_bytes, storage_bytes; /* weights by place; each byte counts once */
    uint64_t kv_bytes;                            /* keys and values, in memory */
    uint64_t cache_bytes;                         /* for experts that stream */

    uint32_t context_tokens; /* of each session */
    uint32_t sessions;       /* at once */
    uint32_t chunk_tokens;   /* of prompts, at once */

    double even_tokens_per_second; /* as tokens_per_second, if no expert were used more than others; the same where that
                                    * says nothing: after a first run, and without experts that stream */
} hypura_plan;

/* Plans without opening: reads the file's header and no weights. options may be NULL. *out is the caller's:
 * hypura_plan_free. When the budget is too small the error (HYPURA_ERROR_MEMORY) names the smallest that works. From
 * any thread. */
HYPURA_API hypura_status hypura_plan_file(hypura_plan **out, const char *path, const hypura_options *options,
                                          hypura_error *error);
HYPURA_API void hypura_plan_free(hypura_plan *plan); /* NULL is fine */

HYPURA_END
#endif
