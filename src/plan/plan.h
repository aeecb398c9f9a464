/* plan: which weights live where, and how much of the memory budget each use gets.
 *
 * From a model, the measurements of the machine (hw) and a budget, the planner decides the tier of every unit, the pool
 * for units that stream, the sizes of KV caches and batches, the expected speed and what binds it. The four modes are
 * names for results, not separate engines. The planner allocates and reads no weights. All functions depend only on
 * their arguments. A struct plan does not change once made; any thread may use it.
 *
 * What goes where. The aim is to read less per token. Every token uses a dense tensor, so each byte of it in memory
 * saves reading one byte per token. A byte of an expert saves less: on average the share of experts that a token uses.
 * So dense tensors are pinned first, and experts share the rest through a cache. All bytes of dense tensors are worth
 * the same. So the planner keeps whole kinds, in an order that leaves reads large and regular: norms, biases and
 * everything tiny (always), routers, attention, then shared experts, output matrix and dense feed forward together. As
 * much of the last kind stays as fits, to within a piece (for whole tensors: exactly the subset with the most bytes,
 * see pack.c), and the rest is spread evenly over the layers. Experts are pinned only if all fit, because a cache of
 * the same size has at least as many hits and follows the text.
 *
 * Pieces. Large matrices are cut into pieces of whole rows. Some pieces of a tensor stay in memory while others stream,
 * in even shares, so that reading and computing alternate in small steps during a pass. Nothing has to be held whole:
 * if memory is too small for anything, everything streams, the output matrix too. A tensor that is not cut is one
 * piece.
 *
 * The ring. Dense weights stream through a ring of ring_bytes in order of use. The forward pass holds one streamed
 * piece at a time, or those of one group (struct plan). The ring has room for the largest group and another piece of
 * the largest size, so that the next piece is read while one is computed, and for any tensor of a group wherever the
 * earlier ones are. The expert cache has room for at least two experts: the forward pass puts an expert before it waits
 * for the next. */
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

/* What streams: nothing; only experts; also feed forwards, shared experts or the output matrix (in a model without
 * experts, only those); also attention. */
enum plan_mode { PLAN_FULL_RESIDENT, PLAN_EXPERT_STREAMING, PLAN_DENSE_STREAMING, PLAN_FULL_STREAMING };
const char *plan_mode_name(enum plan_mode mode); /* "full-resident", "expert-streaming", "dense-ffn-streaming", ... */

enum plan_bound { BOUND_COMPUTE, BOUND_MEMORY, BOUND_DISK, BOUND_GPU };
const char *plan_bound_name(enum plan_bound bound); /* "compute", "memory", "disk", "gpu" */

/* The engine's functions for the memory that it will hold besides weights. chunk: tokens per batch. Results grow with
 * the arguments. NULL: nothing. */
struct plan_working_set {
    uint64_t (*kv_bytes)(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type kv_type);
    uint64_t (*scratch_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    const void *context;
    /* If sequences share room for kv_positions in all; NULL: each has its own. */
    uint64_t (*shared_kv_bytes)(const void *context, uint32_t positions, uint32_t sequences, uint64_t kv_positions,
                                enum tensor_type kv_type);
    uint64_t (*spare_bytes)(const void *context, uint32_t chunk, uint32_t positions); /* of scratch_bytes, what short
                                                                                       * batches do not use */
};

/* ---- the GPU -------------------------------------------------------------------------------------------------------
 *
 * The GPU computes what is in device memory, the CPU the rest. The planner fills the GPU first, and then plans the rest
 * as if the model were that much smaller. It fills device memory in this order:
 *   - The buffers of a batch: for the longest batch that takes at most an eighth. If not all experts fit, a longer one,
 * if a prompt of 2048 tokens gains more by it than an answer of 256 tokens loses.
 *   - The output matrix, because it follows the last layer.
 *   - Whole layers (attention with keys and values, norms, router, shared experts, dense feed forward), as many as fit,
 *     from the last one down, so that the residual stream changes sides only once.
 *   - The experts of those layers that earlier runs used most.
 * If the drive reads some experts for each token, and experts may move, buffers that only long batches use are lent: at
 * other times, all experts that some layers have on the device are there. A long batch has no experts of these layers
 * on the device.
 *
 * If sequences may share room, they get as much as costs the weights nothing, else at most an eighth of the memory, and
 * always a whole context.
 *
 * If experts change sides while the model runs, those in memory are in the cache, however large it is. A device that
 * reads the host's memory in place needs no memory of its own for experts, unless all of them fit there.
 *
 * Several devices form a row: the first one has the first of the layers on devices, the last one has the last layers
 * and the output matrix. So a layer's output moves from each device to the next once. If all weights fit, each device
 * gets a share by its speed for a usual request, within its room; otherwise a share by its room. A model that fits on
 * one device is not spread automatically if the transfer between two would slow down every token.
 *
 * If devices hold the whole model, each may have several runs of layers instead of one, in turn with the others: the
 * first group has a run of each device, then comes the next group. A prompt in parts then fills the row sooner, and in
 * longer parts, but each token passes between devices more often. The planner takes the number of groups for which a
 * prompt of 2048 tokens and an answer of 256 take the least time, as long as passing on takes little of a token's.
 *
 * For a few rows, these devices also divide the output matrix, if that saves more than passing on a row takes: each
 * multiplies some of its rows. The last device has the whole matrix; others have copies of their rows, in what is left
 * of their memory.
 *
 * Without measured speeds, each device has one run of layers, and the output matrix is not divided.
 *
 * For a host that computes only experts (experts_only), a device holds nothing else: buffers, then the experts of that
 * host, in the same order. Of several devices, each has the experts of some layers.
 */

/* Whether devices divide the output matrix. */
enum plan_division { DIVIDE_IF_QUICKER, DIVIDE_NEVER, DIVIDE_ALWAYS };

/* How much of a layer the GPU can compute. */
enum gpu_ability { GPU_CANNOT, GPU_CAN_BUT_EXPERTS, GPU_CAN };

struct plan_gpu_request {
    uint32_t device_count;               /* 1 to HARDWARE_MAX_GPUS */
    uint64_t budgets[HARDWARE_MAX_GPUS]; /* memory of each */
    uint64_t max_allocation;             /* the largest buffer */
    bool spread;                         /* use all devices, even if one holds the model */
    const uint8_t *layers;               /* [layers] enum gpu_ability */
    bool output;                         /* the output matrix may be there */
    bool embedding;                      /* the token embedding may be there */
    bool experts_only; /* of a layer only its experts, and what these are computed with; its attention is elsewhere */
    bool moves;        /* experts change sides by use while the model runs */
    bool in_place;     /* the device reads experts where they are in memory */
    bool parts;        /* a prompt may pass several devices in parts */
    uint32_t groups;   /* of layers, where several are possible; 0: the planner chooses */
    enum plan_division output_division;
    uint32_t positions; /* as in struct plan_request */
    uint32_t sequences, chunk;
    bool shares_room;       /* sequences may have room for fewer positions in all than each for its own context */
    uint32_t longest_chunk; /* the longest allowed; 0: any */
    bool whole_chunk;       /* no shorter chunk is allowed: an encoder takes a text at once */
    enum tensor_type kv_type;
    const uint64_t *uses;     /* [unit_count] how often earlier runs used each expert; NULL: unknown */
    const uint8_t *elsewhere; /* [unit_count] units of other hosts; NULL: none */
    /* For choosing longer batches if experts are on both sides; NULL: not done. */
    const struct hardware *hardware;
    const struct hardware_gpu *devices; /* [device_count]; NULL: unknown, treated as equal */
    uint64_t memory;                    /* for weights that are not on a device, their caches and buffers */
    /* The memory that the GPU needs in addition to weights: for a layer's keys and values, if all sequences together
     * have room for kv_positions, and for buffers. */
    uint64_t (*kv_bytes)(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences,
                         uint64_t kv_positions, enum tensor_type kv_type);
    uint64_t (*scratch_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    /* The same for a device that lends: buffers that stay, and those that only batches of more than short_rows use.
     * NULL: no device lends. */
    uint64_t (*lasting_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    uint64_t (*lent_bytes)(const void *context, uint32_t chunk, uint32_t positions);
    uint32_t short_rows;
    const void *context;
};

#define MOST_MOVES 32u

/* The most groups of layers on several devices. */
#define PLAN_MOST_GROUPS 16u

/* How long batches read weights: as they are, unpacked to rows or panels by each batch, or from panels that are kept.
 */
enum plan_unpacking { NOT_UNPACKED, UNPACKED_ROWS, UNPACKED_PANELS, KEPT_PANELS };

/* How fast a device multiplies experts in prompts: multiply-adds per second through tiles, and from panels (0: it has
 * none); seconds to unpack a weight, and to read it unpacked. */
struct plan_expert_speed {
    double tiles, panels, unpack, read;
    bool cooperative, keeps;
};

/* How fast prompts pass several devices. */
struct plan_pace {
    double row_seconds;                  /* per row, for all layers of the slowest device, without experts */
    double way_seconds, way_row_seconds; /* to hand a part on: fixed, and per row */
    double unpacked;                     /* the share of weights that are not as matrix units read them */
    bool panels;                         /* all devices have them */
    double kept;                         /* the share of weights that stay in panels, on the device with the least */
    double expert_elements;              /* of one expert of each layer of the slowest device */
    uint32_t experts, used;              /* per layer */
    struct plan_expert_speed expert_speed;
};

/* What all devices hold together. Each part describes one device in the same form. */
struct plan_gpu {
    uint32_t part_count;    /* devices; in a part 0 */
    struct plan_gpu *parts; /* [part_count], one per device; 0 in the entries of other devices' layers */
    uint8_t *devices;       /* [layer_count]: the part of a layer */
    uint32_t groups;        /* runs of neighbouring layers that each device has */
    struct plan_pace pace;
    uint32_t layer_count, unit_count;
    uint8_t *layers;   /* [layer_count] enum gpu_ability: computed on the GPU, except experts that are not there */
    uint32_t *slots;   /* [layer_count]: the layer's experts on devices */
    uint8_t *units;    /* [unit_count]: 0, or 1 + the part that has it; in a part 1 */
    float *used_there; /* [layer_count]: of a layer's uses, those of experts on devices; NULL: unknown, or in a part */
    uint32_t taken;    /* layers */
    bool output;       /* the output matrix is there, with what belongs to it */
    bool output_divided;                /* several parts multiply some of its rows each, for a few rows of a batch: */
    uint32_t output_first, output_rows; /* in a part: these; 0 rows: none */
    uint64_t copied_bytes;              /* of these rows, on other devices than the last */
    double output_saves;                /* seconds per token */
    uint32_t moves;                     /* experts that change sides by use at a time: some layer has them on both */
    bool in_place;                      /* experts are in memory's cache, and the device computes them from there */
    uint32_t chunk;                     /* the longest that the scratch has room for */
    uint32_t visit_slots;  /* experts that may be uploaded at once for a long batch; there is room for twice that */
    uint64_t kv_positions; /* room for all sequences together; 0 in a part */
    uint64_t budget, resident_bytes, expert_bytes, kv_bytes, scratch_bytes;
    uint64_t visit_bytes; /* of scratch_bytes, for visit_slots */
    uint64_t lent_bytes;  /* of scratch_bytes, what the experts of some layers have at other times */
    uint32_t *lent; /* [layer_count]: longer batches than this take the room of the layer's experts; 0: none does */
    uint64_t kept_bytes; /* the most that weights take which stay unpacked; 0 in a part */
    bool keeps;          /* in a part: all that batches unpack has room to stay */
    uint64_t host_bytes; /* in host memory: copies that the CPU needs for experts that are not there */
    char reason[480];
};

/* *out is NULL if not even one layer fits. */
hypura_status plan_gpu_make(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request, hypura_error *error);
void plan_gpu_free(struct plan_gpu *plan);

/* The device memory that a plan, or one of its parts, takes in all; 0 for NULL. */
uint64_t plan_gpu_bytes(const struct plan_gpu *plan);

/* The device memory that a part leaves for unpacked weights: half of what is left, so that other models find room. */
uint64_t plan_gpu_keep_bytes(const struct plan_gpu *part);

/* The experts of a layer that devices have in a batch of this many rows. */
uint32_t plan_gpu_slots(const struct plan_gpu *plan, uint32_t layer, uint64_t rows);

/* The end of the run of neighbouring layers on one device that begins with a layer on a device. */
uint32_t plan_gpu_run_end(const struct plan_gpu *plan, uint32_t layer);

/* How many devices have layers. */
uint32_t plan_gpu_devices(const struct plan_gpu *plan);

/* Whether the work on a token comes back to a device. */
bool plan_gpu_comes_back(const struct plan_gpu *plan);

/* The number of parts in which a batch of this many rows passes the devices of a plan in the least time. */
uint32_t plan_gpu_parts(const struct plan_gpu *plan, uint64_t rows);

/* The time that a batch of this many tokens needs for a layer's experts that the device lacks ("expert" is one of
 * them), if all are uploaded in groups of at most "slots", or if the CPU computes the chosen ones. many: there is room,
 * and the batch uses nearly all of them, so uploading all wastes nothing. */
struct plan_visit {
    double upload_seconds, here_seconds;
    bool many;
};
struct plan_visit plan_gpu_visit(const struct model *model, unit_number expert, uint32_t missing, uint32_t slots,
                                 uint64_t tokens, const struct hardware *hardware, const struct hardware_gpu *device);
uint32_t plan_visit_groups(uint32_t missing, uint32_t slots);

/* The alignment of every slice of a unit in device memory. */
#define PLAN_GPU_ALIGNMENT 256u

/* Smaller budgets exclude code and libraries; larger ones include them. */
#define PLAN_SMALL_BUDGET ((uint64_t)256 << 20)

/* Sequences share room in blocks of this many positions. */
#define PLAN_KV_BLOCK 64u

#define PLAN_CURVE_POINTS 64u

/* hits[i] is the hit rate of a cache with room for (i + 1) / PLAN_CURVE_POINTS of all experts. It rises to 1. What
 * devices hold counts as cached, in layers that they share with the CPU. apart: the curve is for experts on no device
 * only. */
struct plan_hit_curve {
    bool known, apart;
    float hits[PLAN_CURVE_POINTS];
};

struct plan_request {
    uint64_t budget;    /* bytes for everything that the process holds; 0: what is free, less some headroom */
    uint64_t overhead;  /* bytes that the process already holds and keeps: code, libraries, metadata, vocabulary */
    uint64_t code;      /* of these, code and libraries (hardware_code_bytes) */
    uint64_t wobble;    /* by how much these may differ between runs; the smallest budget in messages allows for it */
    uint32_t positions; /* context length; 0: the model's own up to 4096, or less if the budget is small */
    uint32_t sequences; /* parallel sequences; 0: 1 */
    uint32_t chunk;     /* tokens per batch; 0: automatic */
    enum tensor_type kv_type;        /* always kept, because a smaller one would change the answer */
    const uint64_t *uses;            /* [model_unit_count] how often earlier runs used each expert; NULL: unknown */
    struct plan_hit_curve hit_curve; /* as earlier runs showed */
    struct plan_working_set working_set;
    const struct plan_gpu *gpu;         /* what is on GPUs, and so not in memory; NULL: nothing. Not kept */
    const struct hardware_gpu *devices; /* one for each part */
    const uint8_t *elsewhere; /* [model_unit_count] units that other hosts compute with; they are neither held nor
                               * counted here. NULL: none. Not kept */
};

/* A tensor of which only single rows are read, when tokens need them: the token embedding if it has no room, and tables
 * always. */
#define PLAN_TABLES 2
struct plan_rows {
    unit_number unit;
    uint64_t row_bytes;
    uint64_t cache_bytes; /* cache of rows */
};

/* A tensor in pieces. */
struct plan_cut {
    uint32_t first, count; /* in plan->streams; count is 1 if the tensor is not cut */
    uint64_t bytes;        /* of a piece, in whole rows; the last piece has the rest */
};

struct plan {
    enum plan_mode mode;
    enum plan_bound bound;
    uint32_t unit_count;
    uint8_t *tiers;        /* [unit_count]: enum tier; TIER_STORAGE if any piece streams */
    uint8_t *in_ring;      /* [unit_count]: see plan_in_ring */
    struct plan_cut *cuts; /* [unit_count] */
    /* [unit_count]: tensors of one layer with the same number may be held together (the key and value matrices of
     * MLA). The forward pass puts one group's streamed tensors before it gets anything else. 0: held alone. */
    uint8_t *groups;
    uint8_t *streams;   /* for each piece of each unit, whether it streams through the ring; other pieces stay */
    uint8_t *elsewhere; /* [unit_count] TIER_STORAGE, but never read, because another host has it; NULL: none */
    uint32_t positions, sequences, chunk;
    uint64_t kv_positions; /* room for all sequences together, in blocks of PLAN_KV_BLOCK */
    enum tensor_type kv_type;
    bool embedding_rows; /* the token embedding is not held; single rows are read when tokens need them */
    struct plan_rows tables[PLAN_TABLES];
    uint32_t table_count;

    /* overhead + reserve + resident + pool + tables + KV + scratch is at most the budget. */
    uint64_t budget;         /* in all, as requested or chosen */
    uint64_t overhead_bytes; /* of the request, without code if that comes on top */
    uint64_t code_on_top;    /* code and libraries, if the budget is below PLAN_SMALL_BUDGET */
    uint64_t reserve_bytes;  /* page tables and the allocator's slack, from PLAN_SMALL_BUDGET on */
    uint64_t resident_bytes; /* pinned units, including padding to pages */
    uint64_t pool_bytes;     /* for streamed units: ring_bytes + expert_cache_bytes */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t spare_scratch_bytes; /* of these, what only long batches use, and the expert cache at other times */
    uint64_t smallest_budget;     /* the least with which this model runs, at the requested context */

    uint64_t ring_bytes;         /* 0: no tensor streams */
    uint64_t table_bytes;        /* the store's tables of pieces, and the cache of rows */
    uint64_t row_cache_bytes;    /* of these */
    uint64_t expert_cache_bytes; /* 0: no expert streams */
    uint64_t expert_bytes;       /* all experts, including padding */
    uint64_t expert_cycle_bytes; /* streamed experts that one token uses; a smaller cache hits far less */

    double predicted_tokens_per_second; /* of one sequence's answer; with typical use of experts, if earlier runs
                                         * did not show their use */
    double even_tokens_per_second;      /* the same with even use, the worst case; equal to the former if the use is
                                         * known or makes no difference */
    double predicted_bytes_per_token;   /* from storage */
    double predicted_compute_seconds;   /* per token, with all weights in memory */
    double predicted_hit_rate;          /* of the expert cache; 1 if no expert streams */
    char reason[400];                   /* why this mode was chosen, in a sentence or two */
    struct plan_gpu *gpu;               /* what is on GPUs; NULL: nothing. Freed with the plan */
};

/* HYPURA_ERROR_MEMORY names the smallest budget that works. */
hypura_status plan_make(struct plan **out, const struct model *model, const struct steps *steps,
                        const struct hardware *hardware, const struct plan_request *request, hypura_error *error);
void plan_free(struct plan *plan);

/* The times to the first token of the answer for prompts of these lengths, with everything loaded: seconds[count].
 * request: the one from which the plan was made. */
hypura_status plan_prompt_seconds(double *seconds, const uint32_t *prompts, size_t count, const struct plan *plan,
                                  const struct model *model, const struct steps *steps, const struct hardware *hardware,
                                  const struct plan_request *request, hypura_error *error);

/* The first layer of which a prompt's experts are those of the rows whose logits are needed, because its steps, from
 * some point on, leave nothing for later tokens; the number of layers: none is. */
uint32_t plan_late_layer(const struct plan *plan, const struct steps *steps, uint32_t layers);

/* Logs a warning if the plan takes more memory than is free. Call it for plans that are executed or shown. */
void plan_warn_of_too_much(const struct plan *plan, const struct hardware *hardware);

/* Whether a unit of TIER_STORAGE is a tensor of which every token reads all, or some pieces, in order of unit numbers.
 * The others are experts, tensors that no forward pass uses, and tensors that are read by rows. */
bool plan_in_ring(const struct plan *plan, unit_number unit);

/* Whether the expert cache, if any, has room for every expert, so that none streams. */
bool plan_holds_experts(const struct plan *plan);

/* The bytes of a unit that are neither in memory nor on a GPU. An expert in the cache counts as on storage. */
uint64_t plan_bytes_on_storage(const struct plan *plan, unit_number unit, uint64_t bytes);

/* The memory that a unit takes after direct I/O: each slice with the aligned range around it. */
uint64_t plan_unit_footprint(const struct unit *unit);

/* The expected speed with this much more (or less) memory. */
hypura_status plan_tokens_per_second_with(const struct model *model, const struct steps *steps,
                                          const struct hardware *hardware, const struct plan_request *request,
                                          int64_t more_bytes, double *out, hypura_error *error);

#endif
