/* What a model has done so far, and where its weights are now. Any thread may call these functions at any time. */
#ifndef HYPURA_API_STATISTICS_H
#define HYPURA_API_STATISTICS_H

#include <hypura/model.h>

HYPURA_BEGIN

/* Totals since the model was opened, unless the comment says otherwise. Units are in the names. */
typedef struct hypura_statistics {
    size_t struct_size;

    double load_seconds;
    uint64_t prompt_tokens, answer_tokens; /* computed */
    double prompt_seconds, answer_seconds;
    uint64_t answer_passes; /* passes over the weights for answers; fewer than tokens if sessions share passes */
    uint64_t drafted_tokens, accepted_tokens; /* drafts, and those that the model accepted */

    uint64_t read_bytes;        /* all reads of weights from storage */
    uint64_t loaded_bytes;      /* read by opening the model */
    uint64_t demanded_bytes;    /* read when weights were needed */
    uint64_t prefetched_bytes;  /* read before they were needed */
    uint64_t filled_bytes;      /* read into free memory between passes */
    uint64_t wasted_bytes;      /* prefetched and dropped without use */
    uint64_t answer_read_bytes; /* read while answers were written; excludes wasted prefetches */
    uint64_t expert_hits, expert_misses;
    uint64_t expert_moves; /* experts moved to a GPU while running */
    uint64_t prefetches, prefetches_used;
    uint64_t rows_wanted, rows_cached; /* rows of tables and embeddings: needed, and of these found in memory */
    double stall_seconds;              /* spent waiting for storage */

    uint64_t memory_bytes;                        /* the budget now */
    uint64_t largest_memory_bytes;                /* the largest budget so far */
    uint64_t peak_bytes;                          /* the most memory that the process has held */
    uint64_t code_bytes_on_top;                   /* code and libraries, if a small budget does not include them */
    uint64_t gpu_bytes, ram_bytes, storage_bytes; /* weights by place now; storage: on no GPU and not in RAM */

    uint64_t prefix_bytes;                            /* kept prefixes in memory now */
    uint64_t prefix_tokens;                           /* tokens restored from prefixes */
    uint64_t prefix_read_bytes, prefix_written_bytes; /* from and to options.prefix_folder */

    const char *bound;             /* what limited answers: "compute", "memory", "disk", "gpu". A constant */
    double share_of_limit;         /* how close answers came to the speed that the profile allows: the time that the
                                    * drive or the kernels need, whichever is longer, divided by the time taken. At most
                                    * 1; below 0: unknown */
    double share_of_both_limits;   /* the same, if the drive and the kernels slow each other down as measured */
    double over_profile;           /* share_of_limit, but not capped: above 1 if the machine was faster than measured */
    double drive_bytes_per_second; /* the drive's speed, measured or estimated */
} hypura_statistics;

/* Set out->struct_size first. */
HYPURA_API void hypura_get_statistics(hypura_model *model, hypura_statistics *out);

/* The same and more as one JSON object. Later versions may add keys but do not change any. The caller frees *text with
 * hypura_free. */
HYPURA_API hypura_status hypura_statistics_json(hypura_model *model, char **text, hypura_error *error);

/* Bytes of one layer's weights by place. */
typedef struct hypura_places {
    uint64_t gpu_bytes, ram_bytes;
    uint64_t cached_bytes; /* in memory now, but can be evicted */
    uint64_t storage_bytes;
} hypura_places;

/* Where the weights are now: one row per layer, then one for the weights outside layers. Fills at most room rows and
 * returns layers + 1, or 0 with options.text_only. */
HYPURA_API size_t hypura_get_places(hypura_model *model, hypura_places *rows, size_t room);

/* Which experts were used since the last call: used[layer * experts + expert]. Fills at most room of them and returns
 * layers * experts, or 0 if there are none or memory is short. */
HYPURA_API size_t hypura_take_used_experts(hypura_model *model, bool *used, size_t room);

HYPURA_END
#endif
