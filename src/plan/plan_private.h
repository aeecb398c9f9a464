/* Functions that the files of plan share with each other and with their tests. */
#ifndef HYPURA_PLAN_PRIVATE_H
#define HYPURA_PLAN_PRIVATE_H

#include "plan/plan.h"

/* The order in which units get room in memory. Shared experts, output and feed forward are one group to the packer.
 * Among choices of equal size, it prefers those earlier in this list. */
enum plan_priority {
    PRIORITY_ALWAYS, /* too small to be worth a read */
    PRIORITY_ROUTER,
    PRIORITY_ATTENTION,
    PRIORITY_SHARED,
    PRIORITY_OUTPUT,
    PRIORITY_FEED_FORWARD,
    PRIORITY_EXPERT,
    PRIORITY_ROWS,  /* the token embedding, if it is not also the output matrix: one row per token */
    PRIORITY_TABLE, /* never held: some rows per token */
    PRIORITY_UNUSED,
    PRIORITY_GPU /* in device memory */
};

/* A unit as the planner sees it. */
struct plan_unit {
    uint64_t footprint;
    uint32_t slices;                /* read one by one */
    uint64_t elements;              /* multiply-adds per token */
    double compute_seconds;         /* for one token, from memory */
    double batch_start, batch_each; /* seconds per batch, and per token of it (hardware_product_cost) */
    enum plan_priority priority;
    int32_t layer;
    int32_t expert; /* its number in its layer; -1: a tensor */
    uint32_t file;  /* the model's file that it is read from */
    uint8_t group;  /* see struct plan */
    bool cuttable;  /* the forward pass can use it piece by piece */
    struct plan_cut cut;
    uint64_t piece, last_piece; /* footprints of its pieces: all but the last, and the last, which is no larger */
};

/* A model as the planner sees it. Tests write such tables by hand. */
struct plan_table {
    struct plan_unit *units; /* by unit number */
    uint32_t count;
    uint32_t piece_count; /* of all units together */
    uint32_t layers;
    uint32_t experts, experts_used; /* per layer; 0: no experts */
    uint32_t context;               /* the context that the model was trained with */
    bool tied_output;
    bool experts_move;       /* between GPU and memory, or the GPU reads them in place: they are not pinned */
    uint32_t moves;          /* how many pairs change sides at a time */
    uint32_t embedding_unit; /* NO_UNIT: none */
    uint64_t embedding_row_bytes;
    struct plan_rows rows[PLAN_TABLES]; /* the token embedding and a table */
    uint32_t row_count;
    uint64_t table_bytes_per_token; /* read for rows of the table */
};

/* How the planner treats a unit of this many bytes, by what a step does with it. */
struct plan_traits {
    enum plan_priority priority;
    uint8_t group;
    bool cuttable;
};
struct plan_traits plan_traits_of(enum unit_use use, enum step_part part, uint64_t bytes);

/* The footprint of a unit's piece, and of all of its pieces that stream. */
uint64_t plan_piece_footprint(const struct plan_unit *unit, uint32_t piece);
uint64_t plan_streamed_footprint(const struct plan_unit *unit, const uint8_t *streams);

/* Where everything goes if there are capacity bytes for weights. */
struct placement {
    enum plan_mode mode;
    uint8_t *tiers, *in_ring; /* [count], owned by the caller */
    uint8_t *streams;         /* [piece_count], owned by the caller */
    bool embedding_rows;
    uint64_t resident_bytes, ring_bytes, table_bytes, expert_cache_bytes;
    uint64_t dense_bytes_per_token; /* streamed tensors */
};

/* capacity is at least plan_smallest_capacity. lookahead: the ring should have room for this many bytes in addition to
 * those in use, if the capacity allows it. */
hypura_status plan_place(const struct plan_table *table, uint64_t capacity, uint64_t lookahead, struct placement *out,
                         hypura_error *error);

/* The least capacity that plan_place accepts; the least with which nothing streams; the least with which only experts
 * stream. */
uint64_t plan_smallest_capacity(const struct plan_table *table);
uint64_t plan_resident_capacity(const struct plan_table *table);
uint64_t plan_dense_capacity(const struct plan_table *table);

/* ---- packing ----------------------------------------------------------------------------------------------------- */

/* Units of the same size. */
struct pack_class {
    uint64_t size;
    uint32_t count;
    uint32_t taken; /* out: how many fit */
};

/* Takes the units with the largest sum of sizes that fits in capacity; of equal sums, the one with more units of
 * earlier classes. Returns the sum. The result is exact, unless the search exceeds a limit of steps that no real model
 * comes near (a dozen different sizes with dozens of units each). Then it is at least as good as taking greedily, class
 * by class. */
uint64_t plan_pack(struct pack_class *classes, size_t count, uint64_t capacity);

/* ---- plan -------------------------------------------------------------------------------------------------------- */

hypura_status plan_make_units(struct plan **out, const struct plan_table *table, const struct hardware *hardware,
                              const struct plan_request *request, hypura_error *error);

/* Sets the predicted_ fields and the bound. Reads only the use of experts from the request. */
hypura_status plan_predict(struct plan *plan, const struct plan_table *table, const struct hardware *hardware,
                           const struct plan_request *request, hypura_error *error);

/* Whether the request tells how earlier runs used experts. */
bool plan_knows_routing(const struct plan_table *table, const struct plan_request *request);

/* Changes a request as if earlier runs had used all experts equally. */
void plan_ask_evenly(struct plan_request *request);

/* The same for a plan with a GPU. Call it after plan_predict, because it uses that hit rate. */
hypura_status plan_gpu_predict(struct plan *plan, const struct plan_table *table, const struct model *model,
                               const struct steps *steps, const struct hardware *hardware,
                               const struct plan_request *request, hypura_error *error);

/* The share of a layer's expert uses that is not on devices: as in earlier runs or, if these are unknown, as if all
 * were used alike. first: the layer's first expert. */
double plan_gpu_share_here(const struct plan_gpu *plan, const struct model *model,
                           const struct plan_gpu_request *request, uint32_t layer, unit_number first);

/* The part of a usual request's time that depends on the length of batches: uploading experts for the prompt, and
 * computing the answer's experts on the CPU. request->hardware is not NULL. */
double plan_gpu_request_seconds(const struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                                const struct plan_gpu_request *request);

/* gpu_fill.c: fills the memory of the devices whose budget is not 0. *out is NULL if not even one layer fits. Lends
 * buffers if that pays, and if experts need all that is lent. */
struct plan_gpu_way {
    uint64_t kv_positions;       /* of all sequences */
    uint32_t chunk;              /* tokens per batch; 0: the longest whose buffers take at most their share */
    uint32_t groups;             /* of layers; more than one: needs like */
    const struct plan_gpu *like; /* a plan with one group, whose devices get as many layers here; NULL: none */
};
hypura_status plan_gpu_fill(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request, struct plan_gpu_way way, hypura_error *error);

/* The context, and the longest batch, that a request asks for. */
uint32_t plan_gpu_positions(const struct model *model, const struct plan_gpu_request *request);
uint32_t plan_gpu_longest_chunk(const struct plan_gpu_request *request, uint32_t positions);

/* Whether the drive must read weights, and the buffers exceed their share, which leaves even more to read. */
bool plan_gpu_costs_reads(const struct plan_gpu *plan, const struct model *model,
                          const struct plan_gpu_request *request);

/* The first layer whose KV cache another layer reads: from there on, all layers go to one device. layers: no layer
 * reads the cache of another. */
uint32_t plan_gpu_first_shared(const struct steps *steps, uint32_t layers);

/* gpu_output.c: divides the output matrix of a model that devices hold, if the request wants that. Sets the fields
 * output_* and copied_bytes, which are 0 before. */
void plan_gpu_divide_output(struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request);

/* gpu_lend.c. plan_gpu_lend chooses the layers whose experts have the lent memory; false: there are too few experts, or
 * no memory is lent. */
bool plan_gpu_lend(struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                   const struct plan_gpu_request *request);
uint64_t plan_gpu_unit_bytes(const struct unit *unit); /* in device memory */

/* A usual request, in tokens. */
#define USUAL_PROMPT 2048u
#define USUAL_ANSWER 256u

/* Divides bytes among devices: in proportion to their speeds, within their rooms; or, if all rooms together are too
 * small, in proportion to the rooms. out, rooms, devices: [count]. devices may be NULL: they are equally fast. */
void plan_gpu_share(uint64_t *out, const uint64_t *rooms, const struct hardware_gpu *devices, uint32_t count,
                    uint64_t bytes);

/* The number of the device that is fastest for a usual request. */
uint32_t plan_gpu_quickest(const struct hardware_gpu *devices, uint32_t count);

/* Sets how fast prompts pass the devices of a plan. */
void plan_gpu_set_pace(struct plan_gpu *plan, const struct model *model, const struct plan_gpu_request *request);

/* gpu_speed.c: a row's time in a batch of this many rows, relative to a long batch; and multiply-adds per second of
 * products through tiles, and of a dense matrix with this many rows. plan_gpu_experts_seconds: the time for choices
 * that are divided equally among touched experts with so many elements each; average: choices per expert of the layer,
 * which decide on the tile, and on panels. plan_gpu_expert_speed: if this share of experts is kept in panels. */
double plan_gpu_row_cost(enum plan_unpacking unpacking, uint64_t rows);
double plan_gpu_tile_speed(const struct hardware_gpu *device);
double plan_gpu_batch_speed(const struct hardware_gpu *device, double rows);
struct plan_expert_speed plan_gpu_expert_speed(const struct hardware_gpu *device, double kept);
double plan_gpu_experts_seconds(const struct plan_expert_speed *speed, double elements, double choices, double touched,
                                double average);

/* Whether the speeds of all devices with layers are known from a profile. Defaults are too far off for choices between
 * ways to use several devices. */
bool plan_gpu_is_measured(const struct plan_gpu *plan, const struct plan_gpu_request *request);

/* The best number of groups for a plan with one group, whose devices hold the whole model. */
uint32_t plan_gpu_choose_groups(const struct plan_gpu *plan, const struct model *model,
                                const struct plan_gpu_request *request);

/* Whether handing rows to another device would take a noticeable share of a token's time, for a model that is on one.
 */
bool plan_gpu_way_is_felt(const struct plan_gpu *plan, const struct model *model, const struct hardware_gpu *device);

/* The hit rate of an expert cache of this many bytes. */
hypura_status plan_hit_rate(double *out, const struct plan_table *table, uint64_t cache_bytes,
                            const struct plan_request *request, hypura_error *error);

/* The time per layer in addition to its matrices at the kernels' speeds: norms, rope, softmax, and a dozen parallel
 * sections, whose workers do not start and end at the same time. */
#define LAYER_SECONDS 150e-6

/* The time to read this many experts of a layer at once, from the router's choice on, with this many bytes and slices
 * each. experts is a mean, and may be less than 1. */
double plan_expert_seconds(const struct storage *storage, double expert_bytes, uint32_t slices, double experts);

/* The mean of a time over all numbers of misses among a layer's chosen experts, of which each is missing with
 * probability miss. */
double plan_mean_over_misses(uint32_t experts, double miss, double (*seconds)(const void *context, uint32_t misses),
                             const void *context);

/* The cost of a layer. layers[0] is for everything outside the layers; layer l has layers[l + 1]. */
struct plan_layer_cost {
    double compute;        /* seconds, for tensors */
    double expert_compute; /* seconds, for all experts together */
    double expert_bytes;   /* of all experts together */
    uint32_t slices;       /* per expert */
    uint32_t file;         /* with the experts */
};
void plan_layer_costs(struct plan_layer_cost *layers /* [table->layers + 1], zero */, const struct plan_table *table);

/* The mean time of a layer that uses this many experts, each of which misses with probability "miss". tensors: seconds
 * for everything that is not an expert. */
double plan_layer_seconds(const struct plan_layer_cost *layer, double tensors, const struct plan_table *table,
                          uint32_t experts, const struct storage *storage, double miss);

/* Bytes per second for reading ahead: as many pieces at once as the ring has room for in addition to the one in use. */
double plan_ring_speed(const struct plan_table *table, const struct plan *plan, const struct storage *storage);

/* The seconds per token in which the ring is full, so that the drive waits while the cores compute with weights in
 * memory. bytes_per_second: of reading meanwhile. rests: seconds of each layer in addition to its tensors in memory;
 * rests[0] is for everything outside the layers, layer l has rests[l + 1]. 0 if no tensor streams. */
double plan_ring_idle(const struct plan_table *table, const struct plan *plan, double bytes_per_second,
                      const double *rests /* [table->layers + 1] */);

/* plan_ring_speed while the cores compute. */
double plan_ring_speed_beside(const struct plan_table *table, const struct plan *plan, const struct storage *storage);

/* What binds a pass that takes "seconds", of which it computes for compute_seconds. */
enum plan_bound plan_bound_of(double compute_seconds, double seconds, const struct hardware *hardware);

/* The unit of a layer's first expert; NO_UNIT: the layer has no experts. */
unit_number plan_first_expert(const struct steps *steps, uint32_t layer);

/* Converts a model into a table. The caller frees it with plan_table_free. */
hypura_status plan_table_make(struct plan_table *out, const struct model *model, const struct steps *steps,
                              const struct hardware *hardware, hypura_error *error);
void plan_table_free(struct plan_table *table);

#endif
