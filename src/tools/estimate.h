/* estimate: predicts how a model would run on this machine or another, from its header alone.
 *
 * For each size of memory, the estimate comes from the same planner as real runs. The hit rate of the expert cache
 * comes from a recorded trace, replayed against the cache's policy at the planned size (replay.h), or else from typical
 * use.
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
    const struct engine_options *options; /* without budget and routing */
    const struct trace *trace;            /* a trace of this model, or NULL */
    const struct steps *steps;            /* of the model; used only with a trace */
};

struct estimate {
    bool possible;
    uint64_t memory; /* the size asked for */
    uint64_t least;  /* the smallest size that works; 0: unknown */
    char why_not[512];
    enum plan_mode mode;
    enum plan_bound bound;
    uint32_t context;
    double least_tokens_per_second, tokens_per_second; /* with evenly used experts; with typical or known use */
    double prompt_tokens_per_second;                   /* for the short prompt */
    double short_seconds, long_seconds;                /* until the first token; 0: the context is too small */
    double bytes_from_gpu, bytes_from_memory, bytes_from_storage; /* per token */
    double hit_rate;                                              /* of the expert cache; 1: no expert streams */
    double load_seconds;                                          /* until all resident weights are loaded */
    double optimize_brings;                                       /* relative gain of "hypura optimize" (optimize.h) */
    uint64_t bytes_gpu, bytes_memory;                             /* weights in each */
};

/* Too little memory is not an error: then out->possible is false and out->why_not says why. */
hypura_status estimate_make(struct estimate *out, const struct estimate_request *request, uint64_t memory,
                            hypura_error *error);

/* Checks that a trace fits a model. */
hypura_status estimate_check_trace(const struct trace *trace, const struct model *model, hypura_error *error);

/* Chooses sizes of memory worth estimating, in ascending order, and returns their count. The last is the machine's
 * default budget, or less if that is enough for the whole model. */
#define ESTIMATE_SIZES 8
size_t estimate_sizes(uint64_t sizes[ESTIMATE_SIZES], const struct model *model, const struct hardware *hardware);

/* ---- quantisations ---------------------------------------------------------------------------------------------- */

/* How much quality a mixture of llama-quantize costs, as published for one model. */
struct quality {
    const char *name;
    double divergence; /* mean Kullback-Leibler divergence from F16 */
    double perplexity; /* increase over F16's 6.23 */
    bool importance;   /* made with an importance matrix */
};

/* In ascending order of divergence. */
size_t quality_count(void);
const struct quality *quality_at(size_t index);
extern const char quality_source[];

/* Makes the header of the same model in another quantisation, as synth_header does for a preset. */
hypura_status estimate_header(int *descriptor, char *path, size_t room, const struct model *model,
                              const char *quantisation, hypura_error *error);

#endif
