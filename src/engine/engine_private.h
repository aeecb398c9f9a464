/* Shared by the files of the forward pass only.
 *
 *   open.c         opening with a smaller model
 *   engine.c       queries and statistics
 *   opening.c      opening and closing
 *   planning.c     requests to the planner
 *   forward.c      checks of a batch, the loop over the layers
 *   narrow.c       drops rows of a batch that need not go on
 *   cpu/           executes steps with compute
 *   gpu/           the layers that are computed on the GPU
 *   cluster/       experts that other hosts compute
 *   weights.c      holds units of the store while they are used
 *   adapter.c      what LoRA adapters add to the products with weights
 *   scratch.c      every buffer of the pass, sized from the steps and the chunk
 *   kv_cache.c     keys and values of all sequences, and their lengths
 *   kv_share.c     blocks of positions that sequences share, and the room for all
 *   kv_state.c     reads and writes what a sequence keeps;  state_digest.c  a digest of what it depends on
 *   rope_table.c   angles of the batch's positions
 *   embed.c        embeddings of texts
 *   prefetch.c     which experts the next layers may choose
 *   draft_model.c  the smaller model that drafts tokens
 *   predict.c      the model's own prediction block
 *   draft_states.c what a batch keeps so that states can go back
 *   budget.c       the budget while the process runs
 *   prefixes.c     opens the store of prefixes
 *   hosts.c        plans for several hosts;  nodes.c  NUMA nodes
 */
#ifndef HYPURA_ENGINE_PRIVATE_H
#define HYPURA_ENGINE_PRIVATE_H

#include "compute/compute.h"
#include "engine/engine.h"
#include "steps/steps.h"
#include "store/trace.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- geometry: the basis of all byte counts ------------------------------------------------------------------------
 */

/* Rows of logits per product with the output matrix; a batch that wants more gets them in several products. */
#define LOGITS_ROWS 8u

/* Positions that a window's ring holds beyond the window; also the most tokens per batch in such a model. */
#define WINDOW_SLACK 512u

/* The most rows of a batch with drafted tokens. */
#define DRAFT_ROWS LOGITS_ROWS

/* MLA's queries are as wide as the cache's rows; this many heads are computed at a time. */
#define LATENT_HEADS 4096u

struct geometry {
    const struct model *model;
    const struct steps *steps;
    const uint8_t *on_gpu;           /* [layers] the layer's keys and values are in device memory; NULL: none are */
    const struct adapters *adapters; /* NULL: none */
    size_t threads;
    uint32_t sequences;
    uint32_t logits_rows;
    const struct step *look_up; /* the step that reads a table; NULL: none */
    bool windows;               /* some layer has a sliding window */
    bool plain_rows;         /* each row of the KV cache belongs to one position; not those of the prediction block */
    bool halves;             /* a GPU multiplies prompts as halves, and needs room for them */
    bool panels;             /* the same for panels */
    uint64_t panels_room;    /* the most bytes for panels of experts and their inputs */
    bool foreign;            /* a GPU can compute no layer */
    bool experts_only;       /* of all steps, only those that compute chosen experts run here */
    uint64_t largest_buffer; /* of a GPU; 0: no GPU */
    bool visible;            /* the host can map all memory of all GPUs */
    /* The most floats per token over all steps: in each buffer, in inputs of products, in inner rows of feed forwards,
     * and in small tensors that must be converted. */
    size_t widths[BUFFER_COUNT], input, inner, vector;
    /* MLA: rows at a time, and what their heads need. */
    uint32_t latent_rows;
    size_t latent_query, latent_attended, heads, latent_head;
    uint32_t groups; /* the most groups of a product; 0: no product has groups */
    size_t group_columns;
    uint32_t index_sets; /* the most sets of positions that a row chooses; 0: no indexer */
    bool drafts;         /* tokens may be drafted, so states must be able to go back */
    size_t state_inputs; /* floats per token of the inputs of all steps with a state */
};

/* A request to the planner: positions per sequence and tokens per batch (0: automatic), type of the cache. */
struct asked {
    uint32_t positions, chunk;
    enum tensor_type kv_type;
};
void engine_ask(struct asked *out, const struct geometry *geometry, const struct engine_options *options);

/* The positions in the plan of a host that computes only experts. It holds none, but takes no longer batches than
 * this. */
#define EXPERT_POSITIONS 512u

/* experts_only: as in struct engine_options. */
void geometry_make(struct geometry *out, const struct model *model, const struct steps *steps, size_t threads,
                   uint32_t sequences, bool experts_only);

/* ---- prefetches ----------------------------------------------------------------------------------------------------
 */

/* Larger batches do not prefetch token by token. */
#define PREFETCH_ROWS 8u
#define PREFETCH_MAX_RANKS 64u

/* The most layers ahead. Even on the residual stream of several layers before, routers predict most of their choice,
 * and reading a large expert takes as long as computing several layers. */
#define PREFETCH_LAYERS 8u

/* Classes of prefetches, by their distance from the border between chosen and not chosen. */
#define PREFETCH_MARGINS 16u

/* A device evaluates the routers of this many layers ahead. */
#define PREFETCH_ASKED 2u

struct look {
    uint32_t layer, rows; /* 0 rows: unused */
};

struct prefetcher {
    uint32_t ranks; /* experts prefetched per token: as many as it uses, and as many runners-up */
    struct look looks[PREFETCH_LAYERS][PREFETCH_LAYERS]; /* by layers ahead minus one, by layer */
    const float *said[PREFETCH_ASKED]; /* logits of routers on a device, by layers ahead minus one; NULL: none */
    uint32_t made[PREFETCH_LAYERS][PREFETCH_MARGINS], right[PREFETCH_LAYERS][PREFETCH_MARGINS];
};

struct likely {
    uint32_t expert;
    float probability;
};

/* ---- scratch -------------------------------------------------------------------------------------------------------
 */

struct span {
    uint32_t sequence;
    uint32_t first_row, rows;
};

/* Input rows of products, of one buffer at a time: inputs[0] has [C] rows, inputs[1] [expert_rows or C] inner rows. */
struct input {
    struct activation *activation;
    enum step_buffer buffer; /* BUFFER_NONE: nothing to reuse */
    size_t columns, stride, offset;
};

/* Sizes in elements: C tokens per batch, E embedding width, K experts per token. */
struct scratch {
    void *memory;
    size_t bytes;
    uint32_t chunk;
    float *buffers[BUFFER_COUNT]; /* [C][width]; gate and up also [expert_rows][inner width of an expert] */
    size_t output_rows;           /* rows of logits that fit from "branch" on, after the layers */
    float *rope[2];               /* [C][rotary] for the usual base, for the local one */
    float *vectors[5];            /* small tensors that are not F32, as floats */
    float *logits;                /* [logits_rows][vocabulary] */
    uint8_t *embedding_row;       /* as in the file */
    uint32_t *table_rows;         /* [C][rows per token] numbers of rows of the table */
    uint8_t *looked_up;           /* these rows, as in the file */
    float *state_inputs;          /* [DRAFT_ROWS] inputs of steps with a state, if drafts may have to go back */
    size_t *state_inputs_of;      /* [layers] offset of each layer's inputs in a row */
    /* MLA: queries against the cache's rows, and their results, for latent_rows rows */
    float *latent_query, *latent_attended;
    uint32_t *head_rows; /* [heads][latent_rows] the rows of a head among rows x heads */
    struct activation *latent_input;
    struct activation *group_input; /* products with groups: the input, one row per group */
    uint32_t *group_rows;           /* [groups][C] */
    float *index_scores;            /* of an indexer */
    size_t index_score_floats;
    float *unpassed;                       /* [PREDICTION_ROWS][E] for a prediction block (predict.c) */
    int32_t *unpassed_tokens;              /* [C] */
    uint32_t *positions;                   /* [C] */
    uint32_t *wanted;                      /* [C] rows whose logits are wanted */
    uint32_t *left;                        /* [C] rows that stay to the end of the pass (struct narrowing) */
    int32_t *left_tokens;                  /* [C] */
    struct span *spans, *all_spans;        /* [sequences]; all_spans: of all rows, if some were dropped */
    struct attention_sequence *attention;  /* [sequences] */
    struct gpu_sequence *device_sequences; /* [sequences] */
    /* experts */
    uint32_t expert_rows;  /* rows of gate and up at a time */
    float *router;         /* [C][experts] logits, then probabilities */
    float *selection;      /* [C][experts] scores for the choice */
    uint32_t *chosen;      /* [C][K] in the router's order */
    float *chosen_weights; /* [C][K] */
    float *chunk_weights;  /* [C][K] of experts that groups share, before they are divided by their sum */
    float *expert_out;     /* [C][K][E] */
    /* prefetches, of PREFETCH_ROWS rows at most */
    uint32_t *prefetched;    /* [PREFETCH_LAYERS][PREFETCH_LAYERS][rows][ranks] */
    uint8_t *margins;        /* their classes */
    float *prefetch_weights; /* [rows][ranks] */
    struct likely *likely;   /* [experts] */
    unit_number *prefetch_units;
    float *prefetch_probabilities;
    struct activation *prefetch_input;
    uint32_t *expert_first;    /* [experts + 1] into rows, by expert */
    uint32_t *expert_token;    /* [C * K] the token of each row of each expert */
    uint32_t *expert_slot;     /* [C * K] the row of expert_out for it */
    uint32_t *identity;        /* [expert_rows] 0, 1, 2 ... */
    unit_number *expert_units; /* [experts]; the first "waiting" have not arrived */
    uint32_t waiting;
    struct matmul *jobs; /* [2 x experts] */
    struct input inputs[2];
};

hypura_status scratch_create(struct scratch *out, const struct geometry *geometry, uint32_t chunk, uint32_t positions,
                             hypura_error *error);
void scratch_destroy(struct scratch *scratch);
uint64_t scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);

/* Batches of up to this many rows, or one for each sequence, are short: they leave most of the buffers untouched. */
#define SHORT_ROWS 32u
uint32_t scratch_short_rows(const struct geometry *geometry);
bool scratch_is_short(const struct geometry *geometry, size_t rows);
uint64_t scratch_spare_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);

/* Returns to the system what short batches leave untouched. The rows of the last batch are lost. */
void scratch_release(struct scratch *scratch, const struct geometry *geometry, uint32_t positions);

/* The limits for the kernels that follow from a chunk. */
struct compute_limits compute_limits_of(const struct geometry *geometry, uint32_t chunk);

/* ---- KV cache ------------------------------------------------------------------------------------------------------
 */

/* Further rows of a layer besides keys and values: one per "every" positions. */
struct kv_plane {
    uint32_t every;
    size_t width;     /* floats of a row */
    size_t row_bytes; /* as stored */
    uint64_t rows;    /* per sequence */
    uint64_t offset;  /* of sequence 0 in the cache */
};

#define KV_PLANES 3

struct kv_layer {
    uint32_t heads;
    size_t key_size, value_size;
    size_t capacity; /* rows per sequence, a multiple of ATTENTION_BLOCK; 0: the layer has no cache */
    size_t ring;     /* of these, rows for single positions; the others are compressed */
    uint32_t every;  /* positions per compressed row */
    size_t key_head_bytes, value_head_bytes;
    size_t key_position_bytes, value_position_bytes;
    uint64_t keys, values; /* offsets of sequence 0 in the cache */
    bool on_gpu;           /* its memory is a separate buffer on a GPU, where offsets start at 0 */
    bool pooled;           /* there, all sequences have one region, of capacity rows in blocks (kv_pool) */
    uint32_t window;
    bool values_in_keys;               /* MLA: values are the first elements of the keys */
    struct kv_plane planes[KV_PLANES]; /* planes 1, 2, ...; width 0: unused */
    /* A recurrent layer has two states of this many floats: the present one, and the next one. */
    size_t state_floats;
    uint64_t states;
};

/* The blocks of PLAN_KV_BLOCK positions that layers on devices have room for, the same in each layer. A block that was
 * written is in one of them, whatever sequences share it. */
struct kv_pool {
    uint32_t blocks; /* 0: no layer has a pool */
    uint32_t *at;    /* [sequences][blocks of one]: where the block in a place is */
    uint32_t *free;  /* [blocks] the first free_count are unused */
    uint32_t free_count;
    uint64_t changes; /* grows when a sequence's block may be elsewhere */
};

/* A copy of the first rows of a block in a pool; rows 0: none. */
struct kv_copy {
    uint32_t from, to, rows;
};

struct kv_cache {
    enum tensor_type type;
    uint32_t sequences;
    uint32_t layer_count;
    uint32_t capacity; /* positions per sequence */
    struct kv_layer *layers;
    uint8_t *memory;
    uint64_t bytes;
    bool keeps_tokens; /* [sequences][capacity] at the end of the memory */
    uint64_t tokens;
    uint32_t *held;    /* [sequences] positions that the sequence holds */
    uint8_t *state;    /* [sequences] which of the two states is the present one */
    uint32_t *there;   /* [sequences] positions that have rows, held or not */
    uint32_t *reached; /* [sequences] the most positions written since the sequence was empty */
    uint32_t *resumed; /* [sequences] where it was resumed: windows hold nothing from before. 0: it was not */
    uint64_t room;     /* positions for all sequences, in whole blocks; UINT64_MAX: no common limit */
    uint8_t *touched;  /* [sequences][blocks] whether the memory was written and not released */
    uint32_t blocks;   /* of PLAN_KV_BLOCK positions per sequence */
    uint16_t *places;  /* [sequences][blocks] the sequence whose region holds the block */
    uint32_t *claimed; /* [sequences] up to where the current batch writes; 0: it does not */
    bool *parted;      /* [sequences] some block is in another sequence's region */
    uint32_t *counted; /* [sequences] for counting places: the block at which each was last counted, plus 1 */
    bool can_share;    /* all rows are keys and values, so blocks may be shared */
    struct kv_pool pool;
};

/* room: the positions that all sequences have together. */
hypura_status kv_cache_create(struct kv_cache *out, const struct geometry *geometry, uint32_t positions, uint64_t room,
                              enum tensor_type type, hypura_error *error);
/* The same for the prediction block alone. */
hypura_status kv_cache_create_predicting(struct kv_cache *out, const struct geometry *geometry, uint32_t positions,
                                         uint64_t room, enum tensor_type type, hypura_error *error);
void kv_cache_destroy(struct kv_cache *cache);
uint64_t kv_cache_bytes(const struct geometry *geometry, uint32_t positions, uint32_t sequences, enum tensor_type type);
/* The same if sequences share room for kv_positions. */
uint64_t kv_cache_shared_bytes(const struct geometry *geometry, uint32_t positions, uint32_t sequences,
                               uint64_t kv_positions, enum tensor_type type);

/* The bytes of a layer on a device, if all sequences together have room for kv_positions; UINT64_MAX: too many. */
uint64_t kv_device_bytes(const struct geometry *geometry, uint32_t layer, uint32_t positions, uint32_t sequences,
                         uint64_t kv_positions, enum tensor_type type);

/* Sums up what layers keep per sequence, by kind. */
void kv_cache_kinds(struct engine_kept *out, const struct geometry *geometry, uint32_t positions,
                    enum tensor_type type);

/* Writes rows of keys and values ([row][heads][size]) of one sequence from a position on. */
void kv_cache_write(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t position, uint32_t rows,
                    const float *keys, const float *values);

/* Writes compressed rows, which follow the ring. */
void kv_cache_write_compressed(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t first, uint32_t rows,
                               const float *keys);

/* kv_cache_write_plane writes rows first to first + rows of a sequence in a further plane, where rows are contiguous.
 * kv_cache_plane: the address of the sequence's row 0 there. */
void kv_cache_write_plane(struct kv_cache *cache, uint32_t layer, uint32_t plane, uint32_t sequence, uint32_t first,
                          uint32_t rows, const float *values);
uint8_t *kv_cache_plane(const struct kv_cache *cache, uint32_t layer, uint32_t plane, uint32_t sequence);

/* The type of rows in further planes. Quantised keys would order positions differently. */
enum tensor_type kv_plane_type(enum tensor_type cache_type);

/* kv_cache_attention: the layout of a layer's keys and values; the caller sets the other fields. kv_cache_sequence: the
 * part for a sequence with the batch's rows from first on. */
struct attention kv_cache_attention(const struct kv_cache *cache, uint32_t layer);
struct attention_sequence kv_cache_sequence(const struct kv_cache *cache, uint32_t layer, uint32_t sequence,
                                            uint32_t first, uint32_t rows);

/* A step's part of the present state, or of the next one, which kv_cache_commit makes the present one. */
float *kv_cache_state(const struct kv_cache *cache, const struct step *step, uint32_t sequence, bool next);

/* The tokens of a sequence, by position; NULL: the model never looks back at them. */
int32_t *kv_cache_tokens(const struct kv_cache *cache, uint32_t sequence);

/* Whether blocks of positions are at least whole pages, so that sequences can release them for others. */
bool kv_cache_can_share(const struct geometry *geometry, enum tensor_type type);

/* Before a batch: takes room for its positions, if necessary from rows that sequences no longer hold. false: there is
 * too little. */
bool kv_cache_take_room(struct kv_cache *cache, const struct span *spans, uint32_t count);

/* The room that sequences take if they hold positions[sequences]; full blocks that they share count once. */
uint64_t kv_cache_room_of(const struct kv_cache *cache, const uint32_t *positions);

/* Before kv_cache_take_room, with the sequence's claim set: gives it its own copy of shared blocks of positions first
 * to end, with the rows before first. Other sequences keep the shared ones. *copy: what is left to do on devices.
 * false: there is too little room. */
bool kv_cache_own(struct kv_cache *cache, uint32_t sequence, uint32_t first, uint32_t end, struct kv_copy *copy);

/* Makes the first positions of a sequence, in whole blocks, share the rows of another one. */
void kv_cache_share(struct kv_cache *cache, uint32_t sequence, uint32_t from, uint32_t positions);

/* Where a head's keys (or values) from an index on are: rows from run.index on of the region at an offset, as many of
 * these as are contiguous. */
struct kv_run {
    uint64_t region;
    size_t index, rows;
};
struct kv_run kv_cache_run(const struct kv_cache *cache, uint32_t layer, uint32_t sequence, bool values, size_t head,
                           size_t index, size_t rows);

/* The block of the pool that holds a sequence's block. */
uint32_t kv_cache_block(const struct kv_cache *cache, uint32_t sequence, uint32_t block);

/* Undoes a sequence's last batch, of this many rows; the state from before it is the present one again. */
void kv_cache_undo(struct kv_cache *cache, uint32_t sequence, uint32_t rows);

/* A batch is done: the sequence holds this many more positions. */
void kv_cache_commit(struct kv_cache *cache, uint32_t sequence, uint32_t rows);

/* Before a batch writes: forgets rows beyond those that the sequence holds. */
void kv_cache_begin(struct kv_cache *cache, uint32_t sequence, uint32_t rows);

/* Forgets all from a position on, as engine_truncate. */
bool kv_cache_truncate(struct kv_cache *cache, uint32_t sequence, uint32_t positions);

/* Whether a layer keeps only the last positions: its window and some more. */
bool kv_cache_is_ring(const struct kv_cache *cache, uint32_t layer);

/* ---- rope ----------------------------------------------------------------------------------------------------------
 */

struct rope_table {
    uint32_t half; /* rotary / 2 */
    double *frequency;
    double magnitude; /* of cosine and sine */
};

/* factors: a divisor per frequency, or NULL. local: the base of layers with a window, mostly without scaling. */
hypura_status rope_table_create(struct rope_table *out, const struct model_parameters *parameters, bool local,
                                const float *factors, hypura_error *error);
void rope_table_destroy(struct rope_table *table);
/* Rows of cosines and sines for the positions. */
void rope_table_fill(const struct rope_table *table, struct thread_pool *pool, float *out, const uint32_t *positions,
                     size_t rows);

/* The factor of queries in layers that sharpen attention in long contexts; it grows with the logarithm of the position.
 */
float query_sharpness(const struct model_parameters *parameters, uint32_t position);

/* ---- the engine ----------------------------------------------------------------------------------------------------
 */

/* Devices that compute, in the order of their layers. */
struct devices {
    uint32_t count;
    bool listed; /* the caller asked for these and no others */
    struct gpu *gpus[HARDWARE_MAX_GPUS];
    struct hardware_gpu infos[HARDWARE_MAX_GPUS];
    uint32_t order[HARDWARE_MAX_GPUS]; /* the index of each among the requested ones */
    uint64_t still_to_take;            /* host memory that their drivers will take beyond what they hold */
};

/* The opened model: what is read, created and decided at opening, in this order. It does not change until it is closed,
 * except inside the store. Owner: opening.c. */
struct opened {
    struct model *model;
    struct steps *steps;
    struct vocabulary *vocabulary; /* NULL: vocabulary_error says why */
    hypura_error vocabulary_error;
    struct adapters *adapters; /* NULL: none */
    struct hardware hardware;
    struct hardware_nodes nodes;
    struct devices devices;
    struct plan_request request;
    struct plan *plan;
    struct geometry geometry;
    struct store *store;
    struct rope_table rope, rope_local;
    enum engine_drafting drafting;
    bool wait_for_all;
    double load_seconds;
};

/* nodes.c: finds NUMA nodes before the store is opened, and uses them afterwards. */
void nodes_find(struct opened *open, const struct engine_options *options);
hypura_status nodes_use(struct opened *open, struct compute *compute, hypura_error *error);

/* Counters since opening; any thread may read them. */
struct counters {
    atomic_bool *used;                       /* [layers][experts] since engine_take_used */
    _Atomic uint64_t budget, largest_budget; /* now; so far */
    _Atomic uint64_t prompt_tokens, generated_tokens, prompt_nanoseconds, decode_nanoseconds, decode_bytes_read;
    _Atomic uint64_t decode_passes, drafted_tokens, accepted_tokens;
    _Atomic uint32_t pool_blocks; /* in use, of those on devices */
};

/* Rows whose logits are not wanted leave the batch after the last step whose result later tokens need. */
#define NO_LAYER UINT32_MAX
struct narrowing {
    uint32_t layer; /* in which they leave; NO_LAYER: in none */
    bool done;
    size_t rows; /* of the whole batch, like the next two */
    uint32_t span_count;
    const struct engine_batch *asked;
    struct engine_batch fewer; /* the request for the rows that stay */
};

/* The running batch: its rows, their sequences, and all buffers. The executors see this and, through it, the opened
 * model; they update only counters that no other code can. Owner: forward.c; one thread at a time, except for the
 * flags. */
struct batch {
    const struct opened *open;
    struct counters *counters;
    struct compute *compute;
    struct scratch scratch;
    struct kv_cache kv;
    struct prefetcher prefetcher;
    struct gpu_pass *pass;                      /* the current or last one; NULL: no layer is on a GPU */
    struct gpu_pass *passes[HARDWARE_MAX_GPUS]; /* by device; NULL: unused */
    void *handed_rows;                          /* memory in which devices hand rows on; NULL: each has its own */
    size_t handed_bytes;
    struct trace_writer *trace;
    struct share *share;              /* experts on other hosts (cluster/share.h); NULL: none */
    const struct engine_watch *watch; /* NULL: none */

    const struct engine_batch *asked;
    size_t rows;
    uint32_t span_count;
    size_t wanted;
    bool whole; /* all rows pass all layers */
    struct narrowing narrowing;
    const struct step *then; /* the next products after the CPU's current step; NULL: not known */
    uint32_t drafted;        /* until engine_accept */
    bool lends;              /* memory of buffers to the expert cache (budget_lend_buffers) */

    atomic_bool cancelled, stopped; /* engine_cancel, engine_stop */
    atomic_bool lost;               /* a GPU */
};

/* Whether the batch wants more logits than there is a buffer for; they are then in the buffers of the layers. */
static inline bool gives_many_logits(const struct batch *batch)
{
    return batch->asked->on_logits && batch->wanted > batch->open->geometry.logits_rows;
}

/* kv_cache_own for the layers' cache, also on devices. */
hypura_status batch_own_rows(struct batch *batch, uint32_t sequence, uint32_t first, uint32_t end, hypura_error *error);

struct engine {
    struct opened open;
    struct batch batch;
    struct counters counters;
    struct engine *draft_model;  /* NULL: none */
    struct predictor *predictor; /* NULL: none */
    pthread_mutex_t budget_mutex;
    uint64_t lent;                 /* bytes of the budget lent to prefixes; under the mutex */
    struct prefix_store *prefixes; /* NULL: none are kept */
};

/* ---- the budget ----------------------------------------------------------------------------------------------------
 */

/* The part of the budget that only the pool uses. */
uint64_t budget_spare(const struct engine *engine);

/* Before a batch of this many rows, and between batches (0): the expert cache has the memory of the buffers that a
 * short batch leaves untouched, and gives it back for a long one. */
void budget_lend_buffers(struct batch *batch, size_t rows);

/* Lends prefixes this many bytes of it in all; the pool shrinks accordingly. false: impossible, nothing changed. */
bool budget_lend(struct engine *engine, uint64_t bytes);

/* ---- kept prefixes -------------------------------------------------------------------------------------------------
 */

hypura_status prefixes_open(struct engine *engine, const struct engine_options *options, hypura_error *error);

/* Whether the current pass was cancelled. */
static inline bool batch_is_to_end(const struct batch *batch)
{
    return atomic_load(&batch->cancelled) || atomic_load(&batch->stopped);
}

/* The number of experts in all layers: [layers][experts]. */
static inline size_t expert_places(const struct opened *open)
{
    const struct model_parameters *p = model_parameters(open->model);
    return (size_t)p->layers * p->experts;
}

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

/* The longest context and the largest batch; they keep byte counts far below 64 bits. */
#define MAX_POSITIONS (1u << 24)
#define MAX_CHUNK 16384u

/* The two halves of engine_open: the model, and then caches and buffers. After an error of the second, call
 * engine_close.
 */
hypura_status engine_open_model(struct engine **out, const char *path, const struct engine_options *options,
                                hypura_error *error);
hypura_status engine_open_places(struct engine *engine, const struct engine_options *options, hypura_error *error);

/* Replaces engine_open_model on a rank that computes only experts. predicting: with the prediction block. */
hypura_status engine_open_part(struct engine **out, const char *path, bool predicting,
                               const struct engine_options *options, hypura_error *error);

/* The input of a plan: a model, and what it will run on. */
struct planned {
    const struct model *model;
    const struct steps *steps;
    const struct adapters *adapters;
    const struct hardware *hardware;
    const struct devices *devices; /* may have no GPU */
    const struct engine_options *options;
    bool quiet; /* no warning if devices compute nothing */
};

/* Also returns the request and the geometry from which the plan was made. */
hypura_status make_plan(struct plan **out, struct plan_request *request, struct geometry *geometry,
                        const struct planned *planned, hypura_error *error);

/* ---- narrowing: dropping rows whose logits are not wanted ----------------------------------------------------------
 */

/* narrow_begin finds the layer for the batch; narrow_end restores what narrow_rows changed. */
void narrow_begin(struct batch *batch);
void narrow_end(struct batch *batch);

/* The number of rows that reach the experts of a layer. */
size_t narrow_rows_in(const struct batch *batch, uint32_t layer);

/* The buffers, with the widths of their rows, that were written before and are still read: by a router (NULL: none),
 * the rest of the layer, later layers, or the output. */
size_t narrow_buffers(const struct batch *batch, const struct step *route, struct step_list rest, uint32_t layer,
                      struct step_touch out[BUFFER_COUNT]);

/* Keeps the first count rows of scratch.left. Moves everything that belongs to a row, except buffers. */
void narrow_rows(struct batch *batch, size_t count);

/* ---- weights -------------------------------------------------------------------------------------------------------
 */

#define HELD_MAX 16

/* The units of one step, released together. Initialise with zeros. */
struct held {
    unit_number units[HELD_MAX];
    uint32_t count;
    uint32_t vectors;
};

/* The matrix of a tensor with two dimensions (or one, as a single row) that is never in pieces. */
hypura_status hold_matrix(struct batch *batch, struct held *held, unit_number unit, struct matrix *out,
                          hypura_error *error);

/* Whether a small tensor can be used as floats in place: units have the file's layout within pages. */
bool are_floats(const struct unit_slice *slice);
size_t vector_elements(const struct gguf_tensor *tensor);

/* A small tensor as floats; NULL for NO_UNIT. Valid until release. */
hypura_status hold_vector(struct batch *batch, struct held *held, unit_number unit, const float **out,
                          hypura_error *error);
void release(struct batch *batch, struct held *held);

/* A tensor's shape, with rows at data. */
struct matrix unit_matrix(const struct batch *batch, unit_number unit, const uint8_t *data);

/* Rows first to first + rows of a matrix. */
struct matrix matrix_rows(const struct matrix *matrix, size_t first, size_t rows);

/* A matrix that starts at data, of columns x rows. */
struct matrix matrix_at(const uint8_t *data, enum tensor_type type, size_t columns, size_t rows);

/* ---- products ------------------------------------------------------------------------------------------------------
 */

/* The product with rows of a tensor, which may stream in pieces. */
struct product {
    unit_number unit;
    enum tensor_role role; /* for adapters */
    size_t first, rows;    /* of the tensor; rows 0: all */
    struct matmul job;     /* without weights; output_stride 0: the product's rows */
    const float *scale;    /* of the matrix; NULL: none */
};

/* Computes products, including adapters. Tensors are used as they arrive, in the order of the products. Sets the shape
 * of the weights in jobs. layer -1: of the whole model. */
hypura_status multiply(struct batch *batch, int32_t layer, struct product *products, size_t count, hypura_error *error);

/* Multiplies the rows of a job, which was computed without a bias, by the scale, and adds the bias (or NULL). */
void scale_job(struct batch *batch, const struct matmul *job, float scale, const float *bias);

/* ---- adapters ------------------------------------------------------------------------------------------------------
 */

struct adapters;

/* The LoRA A and B of one adapter for one matrix; for experts, one after another. */
struct thin_pair {
    struct thin_pair *next; /* another adapter's for the same matrix */
    const struct gguf_tensor *a, *b;
    uint8_t *data_a, *data_b;
    float scale;
    uint32_t number; /* among all pairs */
};

/* The first pair for a matrix, or NULL. layer -1: of the whole model. */
const struct thin_pair *adapters_find(const struct adapters *adapters, int32_t layer, enum tensor_role role);
uint32_t adapters_pairs(const struct adapters *adapters);
uint32_t adapters_rank(const struct adapters *adapters); /* the greatest */

/* *out is NULL without adapters. Close them even after an error. */
hypura_status adapters_open(struct adapters **out, const struct model *model, const struct steps *steps,
                            const struct engine_adapter *options, size_t count, hypura_error *error);
void adapters_close(struct adapters *adapters);

/* After compute_matmul: adds the adapters' products for a role's matrix (or its expert) to a job's output. first: the
 * row of the matrix at which the job began. layer -1: of the whole model. */
void adapt(struct batch *batch, const struct matmul *job, int32_t layer, enum tensor_role role, uint32_t expert,
           size_t first);

/* ---- the smaller model that drafts tokens --------------------------------------------------------------------------
 */

/* Whether the model can use the draft model of the options. */
bool draft_model_wanted(const struct model *model, const struct engine_options *options);

/* Opens it as engine->draft_model, and reserves the memory that it has yet to touch. */
hypura_status draft_model_open(struct engine *engine, struct engine_options *options, hypura_error *error);

/* The parts of a draft model that are open before weights are loaded; the process's memory includes them. */
struct planned_draft {
    struct model *model;
    struct vocabulary *vocabulary;
};

/* Opens them, and reserves what the draft model would take in addition. Close *out even after an error. */
hypura_status draft_model_plan(struct planned_draft *out, const struct model *model, const struct hardware *hardware,
                               struct engine_options *options, hypura_error *error);
void planned_draft_close(struct planned_draft *draft);

/* The rest of engine_plan_only: the vocabulary is open, and memory for a draft model, if any, is reserved. */
hypura_status engine_plan_beside(struct plan **out, const struct model *model, const struct hardware *hardware,
                                 const struct engine_options *options, hypura_error *error);

/* ---- the block that predicts further tokens -----------------------------------------------------------------------
 */

/* The most last rows that wait for the block. */
#define PREDICTION_ROWS 64u

/* Whether the model generates text (is not an encoder), so that tokens can be drafted. */
bool model_writes_text(const struct model *model);

/* *out is NULL if the model was opened without a prediction block. */
hypura_status predictor_create(struct predictor **out, struct batch *batch, hypura_error *error);
void predictor_destroy(struct predictor *predictor);

/* A pass calls these when its tokens are known, and when it is done and its positions are held. A failure only costs
 * drafts. predictor_truncate: a sequence now has fewer positions. */
void predictor_before(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked);
void predictor_after(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked,
                     const float *hidden);
bool predictor_wants(const struct predictor *predictor,
                     const struct engine_batch *asked); /* whether it needs all rows after the last layer */
void predictor_truncate(struct predictor *predictor, uint32_t sequence, uint32_t positions, uint32_t removed);

/* Logits of the token after "token", which follows what the sequence holds (further: which follows the token of the
 * previous call). */
hypura_status predictor_ask(struct predictor *predictor, struct batch *batch, uint32_t sequence, int32_t token,
                            bool further, hypura_error *error);

/* The rows of the last pass, if they had to move; else NULL. */
const float *predictor_moved(const struct predictor *predictor, const struct batch *batch);

/* ---- drafts in models with states ----------------------------------------------------------------------------------
 *
 * A state cannot go back to where a draft was wrong. So a batch with drafts keeps the inputs of steps with a state.
 * These steps run again, from the state before the batch, for the accepted rows. */

/* The buffers that a step reads, with the widths of their rows; returns the sum of widths. */
struct state_input {
    enum step_buffer buffer;
    size_t width;
};
size_t state_inputs(const struct step *step, uint32_t embedding, struct state_input out[STEP_TOUCHES], size_t *count);

/* The offset of a step's inputs in a row: the floats of all earlier steps with a state. */
size_t state_inputs_before(const struct batch *batch, const struct step *step);

/* Whether the current batch must keep them. */
bool keeps_state_inputs(const struct batch *batch);

/* ---- logits --------------------------------------------------------------------------------------------------------
 */

/* Applies the steps for a pooled row, [embedding], in place; scores are its first elements. */
hypura_status engine_pass_row(struct engine *engine, float *row, hypura_error *error);

/* Passes on logits, from number "first" of the wanted ones on. */
hypura_status give_logits(struct batch *batch, const struct engine_batch *asked, size_t first, size_t count,
                          const float *logits, hypura_error *error);

/* ---- experts -------------------------------------------------------------------------------------------------------
 */

/* Starts the reads of the experts in scratch.chosen, except those that are computed elsewhere ([experts] of the layer;
 * NULL: none). Call forget_experts after an error. */
hypura_status want_chosen(struct batch *batch, uint32_t layer, unit_number first_expert, const bool *elsewhere,
                          hypura_error *error);
void forget_experts(struct batch *batch);

/* Waits for the rows of the table that were requested when the pass began; converts them to floats. */
hypura_status look_up_rows(struct batch *batch, const struct step *step, float *out, hypura_error *error);

/* want_chosen, then computes these experts for the rows of the step's input, into scratch.expert_out. */
hypura_status run_chosen_experts(struct batch *batch, const struct step *experts, const bool *elsewhere,
                                 hypura_error *error);

/* Marks these buffers (bits) as written, so that products convert them again. */
void forget_inputs(struct batch *batch, uint32_t written);

/* Gets what each device has and did; returns the number of devices. Any thread may call it. */
uint32_t gpu_pass_statistics(const struct batch *batch, struct engine_device *out);

/* What the process holds already, of a budget for memory. */
uint64_t engine_held_bytes(const struct engine_options *options, uint64_t budget);

/* Device memory for batches of this many tokens, without weights and caches. If experts borrow what only long batches
 * use: gpu_pass_lasting_bytes of buffers that stay, and gpu_pass_lent_bytes of the others. UINT64_MAX: the device
 * allows no such buffer. */
uint64_t gpu_pass_scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);
uint64_t gpu_pass_lasting_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);
uint64_t gpu_pass_lent_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);

/* ---- prefetches of experts -----------------------------------------------------------------------------------------
 */

/* After a layer of a small batch: offers the store the probable choice of the next layer and, while the drive is idle,
 * of later layers. */
hypura_status prefetch_ahead(struct batch *batch, uint32_t number, hypura_error *error);
hypura_status prefetch_start(struct batch *batch, hypura_error *error); /* the same before the first layer */
/* In a layer of a long batch, after its own experts were wanted: offers all experts of the next layer. */
void prefetch_prompt(struct batch *batch, uint32_t number);
void prefetch_check(struct batch *batch, uint32_t number); /* counts which offers were right */

/* For layers on a device. prefetch_may_ask: whether the device should run a layer's router ahead. prefetch_asked:
 * offers the experts that such routers (prefetcher.said) would choose. */
bool prefetch_may_ask(const struct batch *batch, uint32_t number);
hypura_status prefetch_asked(struct batch *batch, uint32_t number, hypura_error *error);
uint32_t prefetch_ranks(const struct model_parameters *parameters);

/* Chooses experts for rows of logits [rows][experts], which become probabilities. selection_bias may be NULL. */
void router_choose(struct compute *compute, const struct router_rule *rule, float *logits, float *selection,
                   const float *selection_bias, size_t rows, uint32_t *chosen, float *weights);

/* The weights of experts that were chosen by other means. */
void router_weigh(struct compute *compute, const struct router_rule *rule, float *logits, size_t rows, uint32_t *chosen,
                  float *weights);

#endif
