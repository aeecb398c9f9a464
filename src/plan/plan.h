/* plan: which weights live where, and how much of the memory budget each use gets.
 *
 * The planner is handed a model, what the machine was measured to do (hw) and a budget; it answers with a tier for
 * every unit, the pool for units that stream, KV and batch sizes, the speed that it expects and what binds it. The four
 * modes are names for answers, not separate engines. It allocates no weights and reads none.
 */
#ifndef HYPURA_PLAN_H
#define HYPURA_PLAN_H

#include "core/core.h"
#include "hw/hw.h"
#include "model/model.h"

enum tier {
    TIER_GPU,    /* pinned in device memory */
    TIER_RAM,    /* pinned in memory */
    TIER_STORAGE /* read into the pool when needed */
};

enum plan_mode { PLAN_FULL_RESIDENT, PLAN_EXPERT_STREAMING, PLAN_DENSE_STREAMING, PLAN_FULL_STREAMING };
const char *plan_mode_name(enum plan_mode mode); /* "full-resident", ... */

enum plan_bound { BOUND_COMPUTE, BOUND_MEMORY, BOUND_DISK };
const char *plan_bound_name(enum plan_bound bound);

/* What the engine will hold besides weights: it knows, the planner asks. chunk: tokens a batch. */
struct plan_working_set {
    uint64_t (*kv_bytes)(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type kv_type);
    uint64_t (*scratch_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    const void *context;
};

struct plan_request {
    uint64_t budget;    /* bytes for everything that the process holds; 0: what is free, less a head-room */
    uint64_t overhead;  /* bytes that the process holds already and keeps: code, libraries, metadata, vocabulary */
    uint32_t positions; /* context length asked for; 0: the model's own, or less when the budget wants that */
    uint32_t sequences; /* parallel sequences, at least 1 */
    uint32_t chunk;     /* tokens a batch; 0: chosen */
    enum tensor_type kv_type; /* F16 unless asked otherwise */
    struct plan_working_set working_set;
};

struct plan {
    enum plan_mode mode;
    enum plan_bound bound;
    uint8_t *tiers; /* [model_unit_count]: enum tier */
    uint32_t positions, sequences, chunk;
    enum tensor_type kv_type;
    bool embedding_rows; /* the token embedding is not held: single rows are read when a token needs them */

    uint64_t budget;         /* total, as asked or chosen */
    uint64_t overhead_bytes; /* code, libraries, metadata */
    uint64_t resident_bytes; /* pinned units, as they lie in memory (page padding included) */
    uint64_t pool_bytes;     /* for streamed units; every slot is slot_bytes */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t smallest_budget; /* the least that this model runs with, at this context */

    /* The pool: ring slots first (streamed tensors, in order of use), the rest is the expert cache. */
    uint32_t ring_units; /* most streamed tensors in memory at once */
    uint64_t ring_bytes;
    uint64_t expert_cache_bytes;
    uint64_t expert_cycle_bytes; /* what one token touches of streamed experts: a cache under it is under the cliff */

    double predicted_tokens_per_second;
    double predicted_bytes_per_token; /* from storage */
    char reason[400];                 /* why this mode, in a sentence or two */
};

/* An error of HYPURA_ERROR_MEMORY says the smallest budget that works. */
hypura_status plan_make(struct plan **out, const struct model *model, const struct hardware *hardware,
                        const struct plan_request *request, hypura_error *error);
void plan_free(struct plan *plan);

/* Bytes that a unit takes in memory when it was read by direct I/O: each slice with the aligned range that encloses it.
 */
uint64_t plan_unit_footprint(const struct unit *unit);

/* The expected speed with this much more (or less) memory; for "one more GB would bring". */
hypura_status plan_tokens_per_second_with(const struct model *model, const struct hardware *hardware,
                                          const struct plan_request *request, int64_t more_bytes, double *out,
                                          hypura_error *error);

#endif
