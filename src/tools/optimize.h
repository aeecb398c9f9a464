/* optimize: writes a model's experts to a separate file, each as one contiguous range that begins at a page.
 *
 * In a GGUF file, the gate, up and down slices of an expert are in three tensors, far apart and not aligned to pages,
 * and other programs expect them there. So the new file is a second copy of the experts (model.h describes its format);
 * the model is unchanged, and everything else is still read from it. This helps on drives with few reads per second,
 * and with small experts; optimize_gain predicts how much.
 */
#ifndef HYPURA_OPTIMIZE_H
#define HYPURA_OPTIMIZE_H

#include "hw/hw.h"
#include "model/model.h"
#include "plan/plan.h"
#include "tools/pieces.h"

#include "store/trace.h"

struct optimize_options {
    const char *trace; /* sorts the experts of each layer by use in this trace; NULL: by number */
    size_t threads;    /* 0: the cores that this process may use */
};

struct optimize;

hypura_status optimize_open(struct optimize **out, const char *model, const struct optimize_options *options,
                            hypura_error *error);
void optimize_close(struct optimize *optimize);

uint64_t optimize_bytes(const struct optimize *optimize);
uint32_t optimize_experts(const struct optimize *optimize); /* in all layers */
const struct model *optimize_model(const struct optimize *optimize);

hypura_status optimize_write(struct optimize *optimize, const char *path, pieces_progress progress, void *context,
                             hypura_error *error);

/* The reads for the experts of one token if none of them is in memory. */
struct optimize_reads {
    uint64_t reads, bytes;
    double seconds;
    double waits; /* seconds spent waiting for prefetches in progress, over all layers */
};

struct optimize_gain {
    struct optimize_reads before, after; /* with the model's own file, and with a file of experts */
    double faster;                       /* relative gain in tokens per second: 0.05 is 5 %; below 0: a loss */
};

/* The gain from which on the file is worth its size. */
#define OPTIMIZE_WORTH 0.05

/* Predicts the gain. token_seconds: the time of a token; 0: it consists of reads only. missing: the share of its
 * experts that is not in memory. Returns false if the model has no experts. */
bool optimize_gain(struct optimize_gain *out, const struct model *model, const struct storage *storage,
                   double token_seconds, double missing);

/* Predicts the gain under a plan. Also returns false if no expert is read from the drive, the drive was not measured,
 * or there is a file of experts already. */
bool optimize_gain_of_plan(struct optimize_gain *out, const struct model *model, const struct hardware *hardware,
                           const struct plan *plan);

#endif
