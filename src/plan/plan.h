/* plan: which weights live where, and how much of the memory budget each use gets.
 *
 * The planner is handed a model, what the machine was measured to do (hw) and a budget; it answers with a tier for
 * every unit, the pool for units that stream, KV and batch sizes, the speed that it expects and what binds it. The four
 * modes are names for answers, not separate engines. It allocates no weights and reads none. Everything here is a
 * function of its arguments; a struct plan is read-only once made and may be used from any thread.
 *
 * What goes where. Reading less per token is all that counts. A dense tensor is used by every token, so a byte of it
 * in memory saves a byte read; a byte of an expert saves at most as much, and on the average the share of experts
 * that a token uses. So dense tensors are pinned first, experts share what is left through a cache. Among dense tensors
 * all bytes are worth the same, hence whole kinds are kept in an order that keeps reads large and regular: norms,
 * biases and everything tiny (always), routers, attention, then shared experts, output matrix and dense feed forward
 * together. Of the last kind that fits in part as much stays as fits to within a piece (whole tensors: exactly the
 * subset with the most bytes, see pack.c), and what streams of it is spread evenly over the depth. Experts are pinned
 * only when all fit: a cache that is as large keeps at least as many hits and follows the text.
 *
 * Pieces. Large matrices are cut into pieces of whole rows. Some pieces of a tensor stay in memory while others stream,
 * in even shares, so that reading and computing alternate in small steps all through a pass, and nothing need be held
 * whole: with too little memory for anything, everything streams, the output matrix too. A tensor that is not cut is
 * one piece.
 *
 * The ring. What streams passes through a ring of ring_bytes in order of use. The forward pass holds one streamed piece
 * at a time, or those of one group (struct plan). The ring has room for the largest group and the largest single piece
 * beside it, so that the next one is on its way while one is computed; and for any tensor of a group when those before
 * it lie where they like. The expert cache has room for at least two experts: the forward pass puts an expert before it
 * waits for the next.
 */
#ifndef HYPURA_PLAN_H
#define HYPURA_PLAN_H

#include "core/core.h"
#include "hw/hw.h"
#include "steps/steps.h"

enum tier {
    TIER_GPU,    /* in device memory, computed there */
    TIER_RAM,    /* pinned in memory */
    TIER_STORAGE /* read when needed: through the ring (plan_in_ring), the expert cache, or by rows */
};

/* What streams: nothing; experts only; feed forward, shared experts or the output matrix as well (or, in a model
 * without experts, alone); attention too. */
enum plan_mode { PLAN_FULL_RESIDENT, PLAN_EXPERT_STREAMING, PLAN_DENSE_STREAMING, PLAN_FULL_STREAMING };
const char *plan_mode_name(enum plan_mode mode); /* "full-resident", "expert-streaming", "dense-ffn-streaming", ... */

enum plan_bound { BOUND_COMPUTE, BOUND_MEMORY, BOUND_DISK, BOUND_GPU };
const char *plan_bound_name(enum plan_bound bound); /* "compute", "memory", "disk", "gpu" */

/* What the engine will hold besides weights: it knows, the planner asks. chunk: tokens a batch. Both grow with their
 * arguments. Either may be NULL: nothing. */
struct plan_working_set {
    uint64_t (*kv_bytes)(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type kv_type);
    uint64_t (*scratch_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    const void *context;
    /* Where sequences share the room for positions, with so many of all together; NULL: each has its own. */
    uint64_t (*shared_kv_bytes)(const void *context, uint32_t positions, uint32_t sequences, uint64_t kv_positions,
                                enum tensor_type kv_type);
};

/* ---- the GPU -------------------------------------------------------------------------------------------------------
 *
 * What is in device memory is computed by the GPU; what is not, by the CPU. It is chosen first, and the rest is planned
 * as if the model were that much smaller. Every byte that all tokens use is worth the same there, so whole layers are
 * taken (their attention with its keys and values; norms, router, shared experts, dense feed forward), as many as fit,
 * from the last one down: neighbours, so that the residual stream changes sides once. The output matrix comes first,
 * since it follows the last layer. What is left is for the experts of those layers that were used most in earlier runs.
 * Before all that come the buffers of a batch: of the longest that takes an eighth, or, where not all experts fit, of a
 * longer one when a prompt of 2048 tokens gains more by it than an answer of 256 loses. Where experts change sides
 * while the model runs, those in memory stand in the cache, however large it is. A device that reads the host's memory
 * in place needs none of its own for them, unless all fit there.
 *
 * Several devices are places in a row: the first has the first layers that are on any, the last the last ones and the
 * output matrix, so that what a layer leaves goes from one to the next once. Where all weights fit, each takes a share
 * by how long it takes for a usual request, as far as it has room; where they do not, each takes what its room is of
 * all. A model that one device holds is not spread by itself when the way between two would be felt in every token.
 */

/* What the pass on the GPU can compute of a layer. */
enum gpu_ability { GPU_CANNOT, GPU_CAN_BUT_EXPERTS, GPU_CAN };

struct plan_gpu_request {
    uint32_t device_count;               /* 1 to HARDWARE_MAX_GPUS */
    uint64_t budgets[HARDWARE_MAX_GPUS]; /* of each one's memory */
    uint64_t max_allocation;             /* of one buffer */
    bool spread;                         /* a model that one device holds goes to all of them too */
    const uint8_t *layers;               /* [layers] enum gpu_ability */
    bool output;                         /* the output matrix can be there */
    bool embedding;                      /* rows of the token embedding can be made there */
    bool moves;                          /* experts change sides by use while the model runs */
    bool in_place;                       /* the device reads experts where they are in memory */
    uint32_t positions;                  /* as in struct plan_request */
    uint32_t sequences, chunk;
    uint32_t longest_chunk; /* that may be chosen; 0: any */
    bool whole_chunk;       /* no shorter one than was asked for will do: a text passes an encoder at once */
    enum tensor_type kv_type;
    const uint64_t *uses;
    /* By which longer batches are weighed where experts are on both sides; NULL: they are not. */
    const struct hardware *hardware;
    const struct hardware_gpu *devices; /* [device_count]; NULL: they are not known, and count as equal */
    uint64_t memory;                    /* for what is not on a device */
    /* What the pass holds besides weights: keys and values of a layer, and buffers for batches of this many tokens. */
    uint64_t (*kv_bytes)(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences,
                         enum tensor_type kv_type);
    uint64_t (*scratch_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    const void *context;
};

/* What is on all devices together, and as parts on each one alone. */
struct plan_gpu {
    uint32_t part_count;    /* devices; of a part 0 */
    struct plan_gpu *parts; /* [part_count]; what a device has of a layer that is another one's is as if on none */
    uint8_t *devices;       /* [layer_count]: the part that a layer belongs to */
    uint32_t layer_count, unit_count;
    uint8_t *layers;      /* [layer_count] enum gpu_ability: computed on the GPU, but experts that are not there */
    uint32_t *slots;      /* [layer_count]: experts of the layer there */
    uint8_t *units;       /* [unit_count]: 0, or 1 + the part in whose memory it is; of a part 1 */
    uint32_t taken;       /* layers */
    bool output;          /* the output matrix too, and what comes with it */
    bool moves;           /* some layer has experts on both sides, and they change sides by use */
    bool in_place;        /* experts stand in memory's cache, and the device computes them from there */
    uint32_t chunk;       /* that the scratch has room for */
    uint32_t visit_slots; /* experts that can come for one long batch; twice that many have room */
    uint64_t budget, resident_bytes, expert_bytes, kv_bytes, scratch_bytes;
    uint64_t host_bytes; /* of memory: what the CPU needs a copy of, for the experts that are not there */
    char reason[300];
};

/* *out is NULL when not one layer fits. */
hypura_status plan_gpu_make(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request, hypura_error *error);
void plan_gpu_free(struct plan_gpu *plan);

/* All of device memory that it takes, or that a part does; NULL: nothing. */
uint64_t plan_gpu_bytes(const struct plan_gpu *plan);

/* What a batch of so many tokens takes for the experts of a layer that the device lacks (one of them is given): to
 * bring all of them there, or to compute its choices here. many: it uses nearly all of them, so that bringing all is no
 * waste. */
struct plan_visit {
    double upload_seconds, here_seconds;
    bool many;
};
struct plan_visit plan_gpu_visit(const struct model *model, unit_number expert, uint32_t missing, uint64_t tokens,
                                 const struct hardware *hardware, const struct hardware_gpu *device);

/* In device memory every slice of a unit is at a multiple of this. */
#define PLAN_GPU_ALIGNMENT 256u

/* Below this budget code and libraries come on top of it; from here on they are part of it. */
#define PLAN_SMALL_BUDGET ((uint64_t)256 << 20)

/* Sequences that share room take it in blocks of this many positions. */
#define PLAN_KV_BLOCK 64u

#define PLAN_CURVE_POINTS 64u

/* Of experts' uses the part that a cache with room for i + 1 of PLAN_CURVE_POINTS parts of all experts serves: rising,
 * up to 1. Without room it serves none. */
struct plan_hit_curve {
    bool known;
    float hits[PLAN_CURVE_POINTS];
};

struct plan_request {
    uint64_t budget;   /* bytes for everything that the process holds; 0: what is free, less a head-room */
    uint64_t overhead; /* bytes that the process holds already and keeps: code, libraries, metadata, vocabulary */
    uint64_t code;     /* of these, code and libraries (hardware_code_bytes) */
    uint64_t wobble;   /* by which they may differ from run to run: the smallest budget that is told has room for it */
    uint32_t
        positions; /* context length asked for; 0: the model's own up to 4096, or less when the budget wants that */
    uint32_t sequences;       /* parallel sequences; 0: 1 */
    uint32_t chunk;           /* tokens a batch; 0: chosen */
    enum tensor_type kv_type; /* kept as asked: a smaller one changes the answer */
    const uint64_t *uses;     /* [model_unit_count] how often each expert was used in earlier runs; NULL: not known */
    struct plan_hit_curve hit_curve; /* as earlier runs showed */
    struct plan_working_set working_set;
    const struct plan_gpu *gpu;         /* what is on a GPU, and so not in memory; NULL: nothing. Not kept */
    const struct hardware_gpu *devices; /* which they are, one for each part */
    const uint8_t *elsewhere; /* [model_unit_count] units that another host computes with, or that this one has no part
                               * in: they are neither held nor counted; NULL: there are none. Not kept */
};

/* A tensor of which rows are read when a token wants them, and nothing else: the token embedding where it has no room,
 * and tables, which never have. */
#define PLAN_TABLES 2
struct plan_rows {
    unit_number unit;
    uint64_t row_bytes;
    uint64_t cache_bytes; /* for rows that come again */
};

/* A tensor in pieces. */
struct plan_cut {
    uint32_t first, count; /* in plan->streams; count is 1 for what is not cut */
    uint64_t bytes;        /* of a piece: whole rows; the last one has the rest */
};

struct plan {
    enum plan_mode mode;
    enum plan_bound bound;
    uint32_t unit_count;
    uint8_t *tiers;        /* [unit_count]: enum tier; TIER_STORAGE when a piece of it streams */
    uint8_t *in_ring;      /* [unit_count]: see plan_in_ring */
    struct plan_cut *cuts; /* [unit_count] */
    /* [unit_count]: tensors of one layer and group may be held together (the key and value matrices of latent
     * attention); the number has no other meaning. The forward pass puts one group's streamed tensors before it gets
     * anything else. 0: it is held alone. */
    uint8_t *groups;
    uint8_t *streams;   /* of each unit's pieces whether it passes through the ring; the others of the unit stay */
    uint8_t *elsewhere; /* [unit_count] of TIER_STORAGE, and never read: another host has it; NULL: there are none */
    uint32_t positions, sequences, chunk;
    uint64_t kv_positions; /* of all sequences together that there is room for, in blocks of PLAN_KV_BLOCK */
    enum tensor_type kv_type;
    bool embedding_rows; /* the token embedding is not held: single rows are read when a token needs them */
    struct plan_rows tables[PLAN_TABLES];
    uint32_t table_count;

    /* overhead + reserve + resident + pool + tables + KV + scratch is at most the budget. */
    uint64_t budget;         /* total, as asked or chosen */
    uint64_t overhead_bytes; /* what the request said, without code when that comes on top */
    uint64_t code_on_top;    /* code and libraries that are not part of a budget below PLAN_SMALL_BUDGET */
    uint64_t reserve_bytes;  /* page tables and allocator's slack, from PLAN_SMALL_BUDGET on */
    uint64_t resident_bytes; /* what is pinned, as it lies in memory (page padding included) */
    uint64_t pool_bytes;     /* for streamed units: ring_bytes + expert_cache_bytes */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t smallest_budget; /* the least that this model runs with, at the context asked for */

    uint64_t ring_bytes;         /* 0: no tensor streams */
    uint64_t table_bytes;        /* what the store remembers of pieces, and the cache of rows */
    uint64_t row_cache_bytes;    /* of these */
    uint64_t expert_cache_bytes; /* 0: no expert streams */
    uint64_t expert_bytes;       /* of all experts, as they lie in memory */
    uint64_t expert_cycle_bytes; /* what one token touches of streamed experts: a cache under it is under the cliff */

    double predicted_tokens_per_second; /* of an answer, one sequence; with experts that are used as is usual, where
                                         * earlier runs did not show how */
    double even_tokens_per_second;      /* with all of them used alike, which is the worst; the same where it is known,
                                         * or nothing follows from it */
    double predicted_bytes_per_token;   /* from storage */
    double predicted_compute_seconds;   /* of a token, all weights in memory */
    double predicted_hit_rate;          /* of the expert cache; 1 when no expert streams */
    char reason[400];                   /* why this mode, in a sentence or two */
    struct plan_gpu *gpu;               /* what is on GPUs; NULL: nothing. Freed with the plan */
};

/* An error of HYPURA_ERROR_MEMORY says the smallest budget that works. */
hypura_status plan_make(struct plan **out, const struct model *model, const struct steps *steps,
                        const struct hardware *hardware, const struct plan_request *request, hypura_error *error);
void plan_free(struct plan *plan);

/* What prompts of so many tokens take until the first token of the answer, with everything loaded: seconds[count]. The
 * request is the plan's. */
hypura_status plan_prompt_seconds(double *seconds, const uint32_t *prompts, size_t count, const struct plan *plan,
                                  const struct model *model, const struct steps *steps, const struct hardware *hardware,
                                  const struct plan_request *request, hypura_error *error);

/* The expected tokens per second with so many decimals: "1.82", or "0.95 to 1.82" while nobody knows how experts are
 * used. */
#define PLAN_SPEED_TEXT 64
void plan_speed_text(const struct plan *plan, int decimals, char text[PLAN_SPEED_TEXT]);

/* Logs a warning when the plan takes more memory than is free: for a plan that is carried out, or shown. */
void plan_warn_of_too_much(const struct plan *plan, const struct hardware *hardware);

/* Whether a unit of TIER_STORAGE is a tensor that every token reads whole, in order of unit numbers, or of which some
 * pieces are so read. The others are experts, tensors that no forward pass uses, and a token embedding that is read by
 * rows only. */
bool plan_in_ring(const struct plan *plan, unit_number unit);

/* Whether the expert cache, if any, has room for every expert that could be in it: then none streams. */
bool plan_holds_experts(const struct plan *plan);

/* Of a unit of this many bytes, those that are neither in memory nor on the GPU; of an expert in a cache, all. */
uint64_t plan_bytes_on_storage(const struct plan *plan, unit_number unit, uint64_t bytes);

/* Bytes that a unit takes in memory when it was read by direct I/O: each slice with the aligned range that encloses it.
 */
uint64_t plan_unit_footprint(const struct unit *unit);

/* The expected speed with this much more (or less) memory; for "one more GB would bring". */
hypura_status plan_tokens_per_second_with(const struct model *model, const struct steps *steps,
                                          const struct hardware *hardware, const struct plan_request *request,
                                          int64_t more_bytes, double *out, hypura_error *error);

#endif
