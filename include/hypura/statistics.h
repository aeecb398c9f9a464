/* What a model has done so far, and where its weights are now. Any thread may ask, even while it computes. */
#ifndef HYPURA_API_STATISTICS_H
#define HYPURA_API_STATISTICS_H

#include <hypura/model.h>

HYPURA_BEGIN

/* Since the model was opened, unless a field says otherwise; the unit is in its name. */
typedef struct hypura_statistics {
    size_t struct_size;

    double load_seconds;
    uint64_t prompt_tokens, answer_tokens; /* computed */
    double prompt_seconds, answer_seconds;
    uint64_t answer_passes;                   /* over the weights; fewer than tokens if sessions share them */
    uint64_t drafted_tokens, accepted_tokens; /* drafts, and those that the model accepted */

    uint64_t read_bytes;        /* everything from storage since it was opened */
    uint64_t loaded_bytes;      /* while it was opened */
    uint64_t demanded_bytes;    /* because a weight was needed */
    uint64_t prefetched_bytes;  /* before it was needed */
    uint64_t filled_bytes;      /* into free memory, between passes */
    uint64_t wasted_bytes;      /* prefetched and dropped unused */
    uint64_t answer_read_bytes; /* while answers were written, without wasted prefetches */
    uint64_t expert_hits, expert_misses, expert_moves; /* uses; and experts that came to the GPU */
    uint64_t prefetches, prefetches_used;
    uint64_t rows_wanted, rows_cached; /* of tables and embeddings that are read by rows */
    double stall_seconds;              /* waited for storage */

    uint64_t memory_bytes;                        /* the budget now */
    uint64_t largest_memory_bytes;                /* the largest so far */
    uint64_t peak_bytes;                          /* the most that the process held */
    uint64_t code_bytes_on_top;                   /* of these, code and libraries that are no part of a small budget */
    uint64_t gpu_bytes, ram_bytes, storage_bytes; /* weights by place now; storage: in no memory */

    uint64_t prefix_bytes;                            /* of kept prefixes in memory now */
    uint64_t prefix_tokens;                           /* that came back from them */
    uint64_t prefix_read_bytes, prefix_written_bytes; /* of options.prefix_folder */

    const char *bound;             /* what limited answers: "compute", "memory", "disk", "gpu". A constant */
    double share_of_limit;         /* the longer of the disk's and the kernels' time over the time taken, 1 at the most;
                                    * below 0: not known */
    double share_of_both_limits;   /* the same with both at once */
    double over_profile;           /* share_of_limit, above 1 if the machine was faster than measured */
    double drive_bytes_per_second; /* that the drive gives, as measured or estimated */
} hypura_statistics;

/* Set out->struct_size first. */
HYPURA_API void hypura_get_statistics(hypura_model *model, hypura_statistics *out);

/* The same and more as one JSON object, whose keys stay. *text is the caller's (hypura_free). */
HYPURA_API hypura_status hypura_statistics_json(hypura_model *model, char **text, hypura_error *error);

/* Weights of one layer by place. */
typedef struct hypura_places {
    uint64_t gpu_bytes, ram_bytes;
    uint64_t cached_bytes; /* in memory now, but may leave it */
    uint64_t storage_bytes;
} hypura_places;

/* Where the weights are now: rows[layers + 1], the last one for weights of no layer. room: how many rows there is
 * room for; no more are filled. Returns layers + 1. */
HYPURA_API size_t hypura_get_places(hypura_model *model, hypura_places *rows, size_t room);

/* Which experts were used since the last call: used[layer * experts + expert]; room as above. Returns layers *
 * experts. */
HYPURA_API size_t hypura_take_used_experts(hypura_model *model, bool *used, size_t room);

HYPURA_END
#endif
