/* estimate: what a model would do on a machine, this one or another, by its header alone.
 *
 * The planner that plans real runs is asked for each size of memory. How experts are used is what a recorded trace shows,
 * played against the cache's own policy at the size that the plan gives it (replay.h), or else what is usual.
 */
#ifndef HYPURA_ESTIMATE_H
#define HYPURA_ESTIMATE_H

#include "engine/engine.h"
#include "tools/replay.h"

#define ESTIMATE_SHORT_PROMPT 500u
#define ESTIMATE_LONG_PROMPT 20000u

struct estimate_request {
    const struct model *model;
    const struct hardware *hardware;
    const struct engine_options *options; /* budget and routing aside */
    const struct trace *trace;            /* of this model; NULL: none */
};

struct estimate {
    bool possible;
    uint64_t memory;         /* asked for */
    uint64_t least;          /* that works; 0: not known */
    char why_not[512];
    enum plan_mode mode;
    enum plan_bound bound;
    uint32_t context;
    double least_tokens_per_second, tokens_per_second; /* all experts used alike, and as is usual; equal where known */
    double prompt_tokens_per_second;                   /* of the short prompt */
    double short_seconds, long_seconds;                /* until the first token; 0: no such context */
    double bytes_from_gpu, bytes_from_memory, bytes_from_storage; /* per token */
    double hit_rate;                                              /* of the expert cache; 1: none streams */
    double load_seconds;                                          /* before all is in memory */
    double optimize_brings;                                       /* tokens/s more with each expert in one place (optimize.h) */
    uint64_t bytes_gpu, bytes_memory;                             /* of weights there */
};

/* A memory that is too small is no error: then possible is false. */
hypura_status estimate_make(struct estimate *out, const struct estimate_request *request, uint64_t memory,
                            hypura_error *error);

/* Whether a trace is of such a model. */
hypura_status estimate_check_trace(const struct trace *trace, const struct model *model, hypura_error *error);

/* Sizes of memory worth asking about, rising; the last is all that the machine gives by default, or enough for the whole
 * model. */
#define ESTIMATE_SIZES 8
size_t estimate_sizes(uint64_t sizes[ESTIMATE_SIZES], const struct model *model, const struct hardware *hardware);

/* ---- quantisations ------------------------------------------------------------------------------------------------- */

/* What a mixture of llama-quantize costs of quality, as published of one model. */
struct quality {
    const char *name;
    double divergence; /* mean Kullback-Leibler, from F16 */
    double perplexity; /* added to F16's 6.23 */
    bool importance;   /* made with an importance matrix */
};

/* Rising in divergence. */
size_t quality_count(void);
const struct quality *quality_at(size_t index);
extern const char quality_source[];

/* The header of the same model in another quantisation, as synth_header gives that of a preset. */
hypura_status estimate_header(int *descriptor, char *path, size_t room, const struct model *model, const char *quantisation,
                              hypura_error *error);

#endif
