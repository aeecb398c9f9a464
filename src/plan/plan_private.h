/* The parts of plan, for each other and for their tests. */
#ifndef HYPURA_PLAN_PRIVATE_H
#define HYPURA_PLAN_PRIVATE_H

#include "plan/plan.h"

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        hypura_status try_status = (call);                                                                             \
        if (try_status)                                                                                                \
            return try_status;                                                                                         \
    } while (0)

/* In which order units earn their place in memory. The three of PRIORITY_REST are one group to the packer, which
 * prefers the earlier ones between choices of equal size. */
enum plan_priority {
    PRIORITY_ALWAYS, /* too small to be worth a read */
    PRIORITY_ROUTER,
    PRIORITY_ATTENTION,
    PRIORITY_SHARED,
    PRIORITY_OUTPUT,
    PRIORITY_FEED_FORWARD,
    PRIORITY_EXPERT,
    PRIORITY_ROWS,  /* token embedding that is not the output too: a row a token */
    PRIORITY_TABLE, /* never held: some rows a token */
    PRIORITY_UNUSED,
    PRIORITY_GPU /* in device memory */
};

/* What the planner wants to know of a unit. */
struct plan_unit {
    uint64_t footprint;
    uint32_t slices;        /* read one by one */
    uint64_t elements;      /* multiplications and additions for a token */
    double compute_seconds; /* for one token, from memory */
    double batch_start, batch_each; /* seconds for a batch, and for each token of it (hardware_product_cost) */
    enum plan_priority priority;
    int32_t layer;
    int32_t expert; /* in its layer; -1: a tensor */
    uint32_t file;  /* of the model that it is read from */
    uint8_t group;  /* see struct plan */
    bool cuttable;  /* the forward pass takes it piece by piece */
    struct plan_cut cut;
    uint64_t piece, last_piece; /* footprints of its pieces: all but the last, and the last, which is no larger */
};

/* And of a model. Tests write these by hand. */
struct plan_table {
    struct plan_unit *units; /* by unit number */
    uint32_t count;
    uint32_t piece_count; /* of all units together */
    uint32_t layers;
    uint32_t experts, experts_used; /* of a MoE layer; 0 without experts */
    uint32_t context;               /* trained */
    bool tied_output;
    bool experts_move;       /* between GPU and memory: they are not pinned */
    uint32_t moves;          /* pairs at a time */
    uint32_t embedding_unit; /* NO_UNIT: none */
    uint64_t embedding_row_bytes;
    struct plan_rows rows[PLAN_TABLES]; /* the token embedding, where it is not the output too, and a table */
    uint32_t row_count;
    uint64_t table_bytes_per_token; /* that rows of the latter are read with */
};

/* What a unit of this many bytes is to the planner, by what a step does with it. */
struct plan_traits {
    enum plan_priority priority;
    uint8_t group;
    bool cuttable;
};
struct plan_traits plan_traits_of(enum unit_use use, enum step_part part, uint64_t bytes);

/* Footprint of a unit's piece, and of all of its pieces that stream. */
uint64_t plan_piece_footprint(const struct plan_unit *unit, uint32_t piece);
uint64_t plan_streamed_footprint(const struct plan_unit *unit, const uint8_t *streams);

/* Where everything goes when capacity bytes are there for weights: pinned units, ring and expert cache. */
struct placement {
    enum plan_mode mode;
    uint8_t *tiers, *in_ring; /* [count], the caller's */
    uint8_t *streams;         /* [piece_count], likewise */
    bool embedding_rows;
    uint64_t resident_bytes, ring_bytes, table_bytes, expert_cache_bytes;
    uint64_t dense_bytes_per_token; /* streamed tensors */
};

/* capacity is at least plan_smallest_capacity. lookahead: bytes that the ring should have room for ahead of what is in
 * use, where the capacity allows. */
hypura_status plan_place(const struct plan_table *table, uint64_t capacity, uint64_t lookahead, struct placement *out,
                         hypura_error *error);

/* The least capacity that plan_place accepts, the least with which nothing streams, and that with which only experts
 * do. */
uint64_t plan_smallest_capacity(const struct plan_table *table);
uint64_t plan_resident_capacity(const struct plan_table *table);
uint64_t plan_dense_capacity(const struct plan_table *table);

/* ---- packing ------------------------------------------------------------------------------------------------------
 */

/* A number of units of one size. */
struct pack_class {
    uint64_t size;
    uint32_t count;
    uint32_t taken; /* result */
};

/* Takes the units with the largest sum of sizes that fits in capacity; between equal sums, more of the earlier classes.
 * Returns the sum. Exact, unless the search would pass a limit of steps that no real model comes near (some dozen
 * different sizes with dozens of units each); then at least as good as taking greedily, class by class. */
uint64_t plan_pack(struct pack_class *classes, size_t count, uint64_t capacity);

/* ---- plan ----------------------------------------------------------------------------------------------------------
 */

hypura_status plan_make_units(struct plan **out, const struct plan_table *table, const struct hardware *hardware,
                              const struct plan_request *request, hypura_error *error);

/* Fills the predicted_ fields and what binds. Of the request what is known of the experts' use is read. */
hypura_status plan_predict(struct plan *plan, const struct plan_table *table, const struct hardware *hardware,
                           const struct plan_request *request, hypura_error *error);

/* Whether earlier runs showed how experts are used; and a request as if all were used alike. */
bool plan_knows_routing(const struct plan_table *table, const struct plan_request *request);
void plan_ask_evenly(struct plan_request *request);

/* The same where a part is on the GPU; after plan_predict, whose hit rate of the cache it takes. */
hypura_status plan_gpu_predict(struct plan *plan, const struct plan_table *table, const struct model *model,
                               const struct steps *steps, const struct hardware *hardware,
                               const struct plan_request *request, hypura_error *error);

/* Of a usual request, what depends on the length of batches: experts that come to the GPU for a prompt, and those that
 * an answer computes here. request->hardware is there. */
double plan_gpu_request_seconds(const struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                                const struct plan_gpu_request *request);

/* The usual request. */
#define USUAL_PROMPT 2048u
#define USUAL_ANSWER 256u

/* Which part of so many bytes each device is to have: by its speed, as far as it has room; where all together have too
 * little, by its room. devices NULL: they are equal. */
void plan_gpu_share(uint64_t *out, const uint64_t *rooms, const struct hardware_gpu *devices, uint32_t count,
                    uint64_t bytes);
uint32_t plan_gpu_quickest(const struct hardware_gpu *devices, uint32_t count);

/* Whether handing rows from one device to another would cost a token of a model that is on one a share worth having. */
bool plan_gpu_way_is_felt(const struct plan_gpu *plan, const struct model *model, const struct hardware_gpu *device);

/* The share of expert uses that a cache of this many bytes serves. */
hypura_status plan_hit_rate(double *out, const struct plan_table *table, uint64_t cache_bytes,
                            const struct plan_request *request, hypura_error *error);

/* What a layer takes besides its matrices as fast as their kernels are alone: norms, rope, softmax, and a dozen
 * parallel sections whose workers begin and end apart. */
#define LAYER_SECONDS 150e-6

/* Bytes per second when the misses of one layer are read: this many experts at once, of this many bytes and slices
 * each. */
double plan_expert_speed(const struct storage *storage, double expert_bytes, uint32_t slices, uint32_t experts);

/* Seconds of all that a layer has, and of what belongs to none, the first of them. */
struct plan_layer_cost {
    double compute;        /* of tensors */
    double expert_compute; /* of all experts together */
    double expert_bytes;
    uint32_t slices; /* of an expert */
    uint32_t file;   /* that they are in */
};
void plan_layer_costs(struct plan_layer_cost *layers /* [table->layers + 1], zero */, const struct plan_table *table);

/* The mean time of a layer that uses so many experts, when each of them misses with this probability; tensors: seconds
 * of what is not an expert. */
double plan_layer_seconds(const struct plan_layer_cost *layer, double tensors, const struct plan_table *table,
                          uint32_t experts, const struct storage *storage, double miss);

/* Bytes per second of reading ahead: as many pieces at once as the ring has room for next to the one in use. */
double plan_ring_speed(const struct plan_table *table, const struct plan *plan, const struct storage *storage);

/* Which of the three binds a processor and a drive that were busy for so long out of a time. */
enum plan_bound plan_bound_of(double compute_seconds, double seconds, const struct hardware *hardware);

/* The unit of a layer's first expert; NO_UNIT: it has none. */
unit_number plan_first_expert(const struct steps *steps, uint32_t layer);

/* Reads a model into a table; free with plan_table_free. */
hypura_status plan_table_make(struct plan_table *out, const struct model *model, const struct steps *steps,
                              const struct hardware *hardware, hypura_error *error);
void plan_table_free(struct plan_table *table);

#endif
