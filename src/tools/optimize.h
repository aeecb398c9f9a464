/* optimize: a model's experts in a file of their own, each as one range that begins at a page.
 *
 * In a GGUF file the gate, up and down slices of an expert lie in three tensors, far apart and off pages, and readers other
 * than this one want them so. The file that is written here holds the experts once more (model.h says how); the model stays
 * as it is, and is read for everything else. What that gains is for drives that give few reads a second, and for small
 * experts; optimize_gain says how much.
 */
#ifndef HYPURA_OPTIMIZE_H
#define HYPURA_OPTIMIZE_H

#include "hw/hw.h"
#include "model/model.h"
#include "plan/plan.h"
#include "tools/pieces.h"

#include "store/trace.h"

struct optimize_options {
    const char *trace; /* experts that it uses most come first in their layer; NULL: in their order */
    size_t threads;    /* 0: the cores that this process may use */
};

struct optimize;

hypura_status optimize_open(struct optimize **out, const char *model, const struct optimize_options *options,
                            hypura_error *error);
void optimize_close(struct optimize *optimize);

uint64_t optimize_bytes(const struct optimize *optimize);
uint32_t optimize_experts(const struct optimize *optimize); /* of all layers */
const struct model *optimize_model(const struct optimize *optimize);

hypura_status optimize_write(struct optimize *optimize, const char *path, pieces_progress progress, void *context,
                             hypura_error *error);

/* What reading the experts of one token takes if none is in memory. */
struct optimize_reads {
    uint64_t reads, bytes;
    double seconds;
    double waits; /* more, in its layers, for prefetches that are under way */
};

struct optimize_gain {
    struct optimize_reads before, after; /* in the model's own file, and in one of experts */
    double faster;                       /* tokens a second more: 0.05 is 5 %; below 0: fewer */
};

/* From this on it is worth the room. */
#define OPTIMIZE_WORTH 0.05

/* What it brings for one token: its seconds, and the part of its experts that is not in memory. With 0 seconds reads are
 * all that it takes. False: the model has no experts. */
bool optimize_gain(struct optimize_gain *out, const struct model *model, const struct storage *storage, double token_seconds,
                   double missing);

/* The same where a plan runs the model. False too where no expert is read from the drive, the drive was not measured, or the
 * experts are in one place already. */
bool optimize_gain_of_plan(struct optimize_gain *out, const struct model *model, const struct hardware *hardware,
                           const struct plan *plan);

#endif
