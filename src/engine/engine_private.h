/* Shared by the files of the forward pass; nobody else includes it.
 *
 *   open.c         opening with a smaller model
 *   engine.c       looking in, statistics
 *   opening.c      opening and closing
 *   planning.c     what the planner is asked
 *   forward.c      batch checks, the walk over the layers
 *   narrow.c       which rows of a batch need not go on, and leaving them behind
 *   cpu/           the executor that carries steps out with compute
 *   gpu/           the layers that are computed on the GPU
 *   cluster/       experts that other hosts compute
 *   weights.c      holding units of the store while they are used
 *   adapter.c      what LoRA adapters add to the products with weights
 *   scratch.c      every buffer of the pass, sized from the steps and the chunk
 *   kv_cache.c     keys and values of all sequences, and how far each reaches
 *   kv_share.c     blocks of positions that sequences share, and the room for all
 *   kv_state.c     what a sequence knows, read out and written back;  state_digest.c  what it depends on
 *   rope_table.c   angles of the batch's positions
 *   embed.c        embeddings of texts
 *   prefetch.c     which experts the next layers may choose
 *   draft_model.c  the smaller model that drafts tokens
 *   predict.c      the model's own block that drafts tokens
 *   draft_states.c what is kept of a batch so that states can go back
 *   budget.c       what the process may hold, while it runs
 *   prefixes.c     opening the store of what was computed of texts
 */
#ifndef HYPURA_ENGINE_PRIVATE_H
#define HYPURA_ENGINE_PRIVATE_H

#include "compute/compute.h"
#include "engine/engine.h"
#include "steps/steps.h"
#include "store/trace.h"

#include <pthread.h>
#include <stdatomic.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        hypura_status try_status = (call);                                                                             \
        if (try_status)                                                                                                \
            return try_status;                                                                                         \
    } while (0)

/* ---- geometry: what all byte counts follow from -------------------------------------------------------------------
 */

/* Rows of logits that one product with the output matrix gives; a batch that wants more gets them in turns. */
#define LOGITS_ROWS 8u

/* Positions that a sliding window's ring holds beyond the window: the most tokens of a batch in such a model. */
#define WINDOW_SLACK 512u

/* Rows of a batch with drafted tokens at most. */
#define DRAFT_ROWS LOGITS_ROWS

/* Queries of latent attention are as wide as the cache's rows; this many heads are worked on at once. */
#define LATENT_HEADS 4096u

struct geometry {
    const struct model *model;
    const struct steps *steps;
    const uint8_t *on_gpu;           /* [layers] keys and values of the layer are in device memory; NULL: of none */
    const struct adapters *adapters; /* NULL: none */
    size_t threads;
    uint32_t sequences;
    uint32_t logits_rows;
    const struct step *look_up; /* one that reads a table; NULL: there is none */
    bool windows;               /* some layer has a sliding window */
    bool halves;                /* prompts are multiplied as halves by a GPU, so it needs room for those */
    bool foreign;               /* no layer is of a kind that a GPU was found to compute */
    uint64_t largest_buffer;    /* that a GPU has; 0: none */
    /* Floats per token, the greatest over the steps: of each buffer, of what products read, of feed forwards' inner
     * rows, of small tensors that have to be converted. */
    size_t widths[BUFFER_COUNT], input, inner, vector;
    /* Attention on latents: rows worked on at once, and what their heads need. */
    uint32_t latent_rows;
    size_t latent_query, latent_attended, heads, latent_head;
    uint32_t groups; /* of products by groups, the most; 0: there are none */
    size_t group_columns;
    uint32_t index_sets; /* the most sets of positions that a row chooses; 0: none does */
    bool drafts;         /* tokens may be drafted, so that states have to go back */
    size_t state_inputs; /* floats per token that all steps with a state read */
};

/* What a plan is asked for: positions of a sequence and tokens of a batch (0: as many as are good), type of the cache.
 */
struct asked {
    uint32_t positions, chunk;
    enum tensor_type kv_type;
};
void engine_ask(struct asked *out, const struct geometry *geometry, const struct engine_options *options);

void geometry_make(struct geometry *out, const struct model *model, const struct steps *steps, size_t threads,
                   uint32_t sequences);

/* ---- prefetches ----------------------------------------------------------------------------------------------------
 */

/* For batches of more tokens nothing is prefetched token by token. */
#define PREFETCH_ROWS 8u
#define PREFETCH_MAX_RANKS 64u

/* How far ahead at most. Routers on a state of several layers before still find most of what they will choose; a read
 * of a large expert takes as long as several layers' computation. */
#define PREFETCH_LAYERS 8u

/* Prefetches are told apart by how far they are from the border between what is chosen and what is not. */
#define PREFETCH_MARGINS 16u

/* Layers after the one at work whose routers a device asks. */
#define PREFETCH_ASKED 2u

struct look {
    uint32_t layer, rows; /* no rows: there is none */
};

struct prefetcher {
    uint32_t ranks; /* experts that are prefetched for a token: its own number, and as many that nearly made it */
    struct look looks[PREFETCH_LAYERS][PREFETCH_LAYERS]; /* by layers ahead less one, by layer that is looked at */
    const float *said[PREFETCH_ASKED]; /* what routers gave on a device, by layers ahead less one; NULL: nothing */
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

/* Rows that matrices read, of one buffer at a time: the first of [C], the second of [expert_rows or C] inner rows. */
struct input {
    struct activation *activation;
    enum step_buffer buffer; /* BUFFER_NONE: nothing that may be read again */
    size_t columns, stride, offset;
};

/* Sizes in elements: C tokens a batch, E embedding, K experts used. */
struct scratch {
    void *memory;
    size_t bytes;
    uint32_t chunk;
    float *buffers[BUFFER_COUNT]; /* [C][width]; gate and up also [expert_rows][inner width of an expert] */
    size_t output_rows;           /* rows of logits that have room where "branch" begins, after the layers */
    float *rope[2];               /* [C][rotary] of the usual base, of the local one */
    float *vectors[5];            /* small tensors that are not F32, as floats */
    float *logits;                /* [logits_rows][vocabulary] */
    uint8_t *embedding_row;       /* as in the file */
    uint32_t *table_rows;         /* [C][rows of a token] of the table */
    uint8_t *looked_up;           /* the same as in the file */
    float *state_inputs;          /* [DRAFT_ROWS] what each step with a state read, where drafts may have to go back */
    size_t *state_inputs_of;      /* [layers] floats of one row before each layer's */
    /* latent attention: the queries against the cache's rows, and what came back, of latent_rows rows */
    float *latent_query, *latent_attended;
    uint32_t *head_rows; /* [heads][latent_rows] rows of a head among rows x heads */
    struct activation *latent_input;
    struct activation *group_input; /* products by groups: the input, a row a group */
    uint32_t *group_rows;           /* [groups][C] */
    float *index_scores;            /* of the search for positions */
    size_t index_score_floats;
    float *unpassed;                       /* [PREDICTION_ROWS][E] of a prediction block (predict.c) */
    int32_t *unpassed_tokens;              /* [C] */
    uint32_t *positions;                   /* [C] */
    uint32_t *wanted;                      /* [C] rows whose logits were asked for */
    uint32_t *left;                        /* [C] rows that go on to the end of a pass (struct narrowing) */
    int32_t *left_tokens;                  /* [C] */
    struct span *spans, *all_spans;        /* [sequences]; of all rows, where not all of them go on */
    struct attention_sequence *attention;  /* [sequences] */
    struct gpu_sequence *device_sequences; /* [sequences] */
    /* experts */
    uint32_t expert_rows;  /* that gate and up hold at once */
    float *router;         /* [C][experts] logits, then probabilities */
    float *selection;      /* [C][experts] what the choice is made on */
    uint32_t *chosen;      /* [C][K] in the router's order */
    float *chosen_weights; /* [C][K] */
    float *chunk_weights;  /* [C][K] of the experts that groups of them share, before their sum divides them */
    float *expert_out;     /* [C][K][E] */
    /* prefetches, of PREFETCH_ROWS rows at most */
    uint32_t *prefetched;    /* [PREFETCH_LAYERS][PREFETCH_LAYERS][rows][ranks] */
    uint8_t *margins;        /* of each */
    float *prefetch_weights; /* [rows][ranks] */
    struct likely *likely;   /* [experts] */
    unit_number *prefetch_units;
    float *prefetch_probabilities;
    struct activation *prefetch_input;
    uint32_t *expert_first;    /* [experts + 1] into rows, by expert */
    uint32_t *expert_token;    /* [C * K] rows of each expert: the token ... */
    uint32_t *expert_slot;     /* [C * K] ... and the row of expert_out */
    uint32_t *identity;        /* [expert_rows] 0, 1, 2 ... */
    unit_number *expert_units; /* [experts] of which the first "waiting" are still to come */
    uint32_t waiting;
    struct matmul *jobs; /* [2 x experts] */
    struct input inputs[2];
};

hypura_status scratch_create(struct scratch *out, const struct geometry *geometry, uint32_t chunk, uint32_t positions,
                             hypura_error *error);
void scratch_destroy(struct scratch *scratch);
uint64_t scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);
/* What batches of a chunk ask of the kernels. */
struct compute_limits compute_limits_of(const struct geometry *geometry, uint32_t chunk);

/* ---- KV cache ------------------------------------------------------------------------------------------------------
 */

/* Further rows of a layer next to its keys and values: one per this many positions. */
struct kv_plane {
    uint32_t every;
    size_t width;     /* floats of a row */
    size_t row_bytes; /* as it is stored */
    uint64_t rows;    /* of a sequence */
    uint64_t offset;  /* of sequence 0 in the cache */
};

#define KV_PLANES 3

struct kv_layer {
    uint32_t heads;
    size_t key_size, value_size;
    size_t capacity; /* rows of a sequence, a multiple of ATTENTION_BLOCK; 0: the layer has no cache */
    size_t ring;     /* of these, for positions; the rest is for what is compressed */
    uint32_t every;  /* positions of each of the rest */
    size_t key_head_bytes, value_head_bytes;
    size_t key_position_bytes, value_position_bytes;
    uint64_t keys, values; /* offsets of sequence 0 in the cache */
    bool on_gpu;           /* its memory is there, and of its own: offsets count from its start */
    uint32_t window;
    bool values_in_keys;               /* MLA: values are the first elements of the keys */
    struct kv_plane planes[KV_PLANES]; /* of number 1 and so on; those without width are not there */
    /* A recurrent layer has two states of so many floats, instead or besides: the one that holds, and the one being
     * made. */
    size_t state_floats;
    uint64_t states;
};

struct kv_cache {
    enum tensor_type type;
    uint32_t sequences;
    uint32_t layer_count;
    uint32_t capacity; /* positions of a sequence */
    struct kv_layer *layers;
    uint8_t *memory;
    uint64_t bytes;
    bool keeps_tokens; /* [sequences][capacity] at the end of the memory */
    uint64_t tokens;
    uint32_t *held;    /* [sequences] positions that are there */
    uint8_t *state;    /* [sequences] which of the two states holds */
    uint32_t *there;   /* [sequences] positions whose rows are there, held or not */
    uint32_t *reached; /* [sequences] the most positions that were ever written since the sequence was empty */
    uint32_t *resumed; /* [sequences] where it was resumed: windows have nothing from before. 0: it was not */
    uint64_t room;     /* positions of all sequences, in whole blocks; UINT64_MAX: as many as there are */
    uint8_t *touched;  /* [sequences][blocks] whether memory was written and not given back */
    uint32_t blocks;   /* of PLAN_KV_BLOCK positions of a sequence */
    uint16_t *places;  /* [sequences][blocks] in whose region a block of a sequence lies, as its own or as theirs */
    uint32_t *claimed; /* [sequences] up to where the batch at hand writes; 0: it does not */
    bool *parted;      /* [sequences] some block lies in the region of another one */
    uint32_t *counted; /* [sequences] of places: the block at which one was last counted, and one more */
    bool can_share;    /* all rows are keys and values in host memory, so that blocks may be shared */
};

hypura_status kv_cache_create(struct kv_cache *out, const struct geometry *geometry, uint32_t positions,
                              enum tensor_type type, hypura_error *error);
/* The same of the prediction block alone. */
hypura_status kv_cache_create_predicting(struct kv_cache *out, const struct geometry *geometry, uint32_t positions,
                                         enum tensor_type type, hypura_error *error);
void kv_cache_destroy(struct kv_cache *cache);
uint64_t kv_cache_bytes(const struct geometry *geometry, uint32_t positions, uint32_t sequences, enum tensor_type type);
/* Where sequences have room for so many positions together. */
uint64_t kv_cache_shared_bytes(const struct geometry *geometry, uint32_t positions, uint32_t sequences,
                               uint64_t kv_positions, enum tensor_type type);

/* What a layer takes where it has memory of its own; UINT64_MAX when that cannot be said in 64 bits. */
uint64_t kv_layer_bytes(const struct geometry *geometry, uint32_t layer, uint32_t positions, uint32_t sequences,
                        enum tensor_type type);

/* Adds up what layers keep of a sequence. */
void kv_cache_kinds(struct engine_kept *out, const struct geometry *geometry, uint32_t positions,
                    enum tensor_type type);

/* Writes rows of keys and values ([row][heads][size]) of one sequence from a position on. */
void kv_cache_write(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t position, uint32_t rows,
                    const float *keys, const float *values);

/* Rows behind the ring, each for as many positions as the layer compresses into one. */
void kv_cache_write_compressed(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t first, uint32_t rows,
                               const float *keys);

/* The same of a further plane, whose rows are adjacent: rows first to first + rows of a sequence, each for "every"
 * positions. And where its row 0 is. */
void kv_cache_write_plane(struct kv_cache *cache, uint32_t layer, uint32_t plane, uint32_t sequence, uint32_t first,
                          uint32_t rows, const float *values);
uint8_t *kv_cache_plane(const struct kv_cache *cache, uint32_t layer, uint32_t plane, uint32_t sequence);

/* What rows of further planes are stored as: numbers that order positions are not worth saving bits on. */
enum tensor_type kv_plane_type(enum tensor_type cache_type);

/* How a layer's keys and values lie, for attention over them: the rest of it is the caller's. And those of a sequence,
 * for its rows from first on. */
struct attention kv_cache_attention(const struct kv_cache *cache, uint32_t layer);
struct attention_sequence kv_cache_sequence(const struct kv_cache *cache, uint32_t layer, uint32_t sequence,
                                            uint32_t first, uint32_t rows);

/* A step's part of the state that holds, and of the one to write; kv_cache_commit makes the written ones hold. */
float *kv_cache_state(const struct kv_cache *cache, const struct step *step, uint32_t sequence, bool next);

/* The tokens of a sequence, by position; NULL where nobody looks back at them. */
int32_t *kv_cache_tokens(const struct kv_cache *cache, uint32_t sequence);

/* Whether blocks of positions are whole pages or more, so that sequences can give theirs back to others. */
bool kv_cache_can_share(const struct geometry *geometry, enum tensor_type type);

/* Before a batch: takes room for its positions, from what sequences do not hold any more if need be. False: there is
 * too little. */
bool kv_cache_take_room(struct kv_cache *cache, const struct span *spans, uint32_t count);

/* Positions of the room that sequences take with so many each: positions [sequences]. Whole blocks that several have in
 * one place count once. */
uint64_t kv_cache_room_of(const struct kv_cache *cache, const uint32_t *positions);

/* Before that: the blocks of positions first to end become the sequence's alone, with the rows before first; others
 * that share them keep theirs. */
void kv_cache_own(struct kv_cache *cache, uint32_t sequence, uint32_t first, uint32_t end);

/* The first positions of a sequence, whole blocks of which another one has the rows, are those of that one. */
void kv_cache_share(struct kv_cache *cache, uint32_t sequence, uint32_t from, uint32_t positions);

/* Where rows of keys (or values) of a head from an index on are, and how many of "rows" are adjacent there. */
uint64_t kv_cache_rows_at(const struct kv_cache *cache, uint32_t layer, uint32_t sequence, bool values, size_t head,
                          size_t index, size_t *rows);

/* Undoes what a sequence did with its last batch, of this many rows: the state from before holds again. */
void kv_cache_undo(struct kv_cache *cache, uint32_t sequence, uint32_t rows);

/* A batch is done: the sequence holds this many more positions. */
void kv_cache_commit(struct kv_cache *cache, uint32_t sequence, uint32_t rows);

/* Before a batch writes: of a sequence what it holds is there, and no more. */
void kv_cache_begin(struct kv_cache *cache, uint32_t sequence, uint32_t rows);

/* Forgets all from a position on, as engine_truncate. */
bool kv_cache_truncate(struct kv_cache *cache, uint32_t sequence, uint32_t positions);

/* Whether a layer keeps the last positions only: those that its window needs, and some more. */
bool kv_cache_is_ring(const struct kv_cache *cache, uint32_t layer);

/* ---- rope ----------------------------------------------------------------------------------------------------------
 */

struct rope_table {
    uint32_t half; /* rotary / 2 */
    double *frequency;
    double magnitude; /* of cosine and sine */
};

/* factors: one a frequency, that divides it, or NULL. local: the base of sliding layers, mostly without scaling. */
hypura_status rope_table_create(struct rope_table *out, const struct model_parameters *parameters, bool local,
                                const float *factors, hypura_error *error);
void rope_table_destroy(struct rope_table *table);
/* Rows of cosines and sines for the positions. */
void rope_table_fill(const struct rope_table *table, struct thread_pool *pool, float *out, const uint32_t *positions,
                     size_t rows);

/* Longer contexts get sharper attention: in some layers queries grow by this factor, with the logarithm of their
 * position. */
float query_sharpness(const struct model_parameters *parameters, uint32_t position);

/* ---- the engine ----------------------------------------------------------------------------------------------------
 */

/* Devices that compute, in the order in which layers pass them. */
struct devices {
    uint32_t count; /* 0: everything is computed here */
    bool listed;    /* by the caller: these and no others */
    struct gpu *gpus[HARDWARE_MAX_GPUS];
    struct hardware_gpu infos[HARDWARE_MAX_GPUS];
    uint32_t order[HARDWARE_MAX_GPUS]; /* which each is of those that were asked for */
};

/* The opened model: what is read, made and decided when it is opened, in this order. Nothing of it changes until it is
 * closed; what moves behind the store's functions is the store's. Owner: opening.c. */
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

/* nodes.c: which nodes of memory there are, before the store is opened; and their use, after. */
void nodes_find(struct opened *open, const struct engine_options *options);
hypura_status nodes_use(struct opened *open, struct compute *compute, hypura_error *error);

/* What is counted since it was opened; any thread may read it. */
struct counters {
    atomic_bool *used;                       /* [layers][experts] since somebody asked */
    _Atomic uint64_t budget, largest_budget; /* now; so far */
    _Atomic uint64_t prompt_tokens, generated_tokens, prompt_nanoseconds, decode_nanoseconds, decode_bytes_read;
    _Atomic uint64_t decode_passes, drafted_tokens, accepted_tokens;
};

/* What only a row's own logits need is not computed for rows whose logits nobody wants: behind the last step that
 * leaves something for later tokens, they leave the batch. */
#define NO_LAYER UINT32_MAX
struct narrowing {
    uint32_t layer; /* in which they do; NO_LAYER: in none */
    bool done;
    size_t rows; /* all of them, and what else was known of them */
    uint32_t span_count;
    const struct engine_batch *asked;
    struct engine_batch fewer; /* what is asked of those that go on */
};

/* The batch that is running: its rows, the sequences that they belong to, and the room that they pass through. The
 * executors see this and, by way of it, the opened model; of the counters they count what they alone know. Owner:
 * forward.c; one thread at a time, but for the flags. */
struct batch {
    const struct opened *open;
    struct counters *counters;
    struct compute *compute;
    struct scratch scratch;
    struct kv_cache kv;
    struct prefetcher prefetcher;
    struct gpu_pass *pass;                      /* at work, or the last that was; NULL: no layer is computed on a GPU */
    struct gpu_pass *passes[HARDWARE_MAX_GPUS]; /* by device; NULL: nothing is there */
    struct trace_writer *trace;
    struct share *share;              /* experts on other hosts (cluster/share.h); NULL: there are none */
    const struct engine_watch *watch; /* NULL: nobody */

    const struct engine_batch *asked;
    size_t rows;
    uint32_t span_count;
    size_t wanted;
    bool whole; /* all rows pass all layers */
    struct narrowing narrowing;
    uint32_t drafted; /* until engine_accept */

    atomic_bool cancelled, stopped; /* engine_cancel, engine_stop */
    atomic_bool lost;               /* a GPU */
};

struct engine {
    struct opened open;
    struct batch batch;
    struct counters counters;
    struct engine *draft_model;  /* NULL: none */
    struct predictor *predictor; /* NULL: none */
    pthread_mutex_t budget_mutex;
    uint64_t lent;                 /* under it: of the budget, to prefixes */
    struct prefix_store *prefixes; /* NULL: none are kept */
};

/* ---- the budget ----------------------------------------------------------------------------------------------------
 */

/* Of the budget what nothing has a claim to but the pool. */
uint64_t budget_spare(const struct engine *engine);

/* Lends so much of it in all to what is kept of texts: the pool is smaller by that. False: it cannot be; as before. */
bool budget_lend(struct engine *engine, uint64_t bytes);

/* ---- kept prefixes -------------------------------------------------------------------------------------------------
 */

hypura_status prefixes_open(struct engine *engine, const struct engine_options *options, hypura_error *error);

/* Whether the pass at hand is not wanted any more. */
static inline bool batch_is_to_end(const struct batch *batch)
{
    return atomic_load(&batch->cancelled) || atomic_load(&batch->stopped);
}

/* Which experts there may be: [layers][experts]. */
static inline size_t expert_places(const struct opened *open)
{
    const struct model_parameters *p = model_parameters(open->model);
    return (size_t)p->layers * p->experts;
}

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

/* The longest context anybody asks for, and the largest batch: byte counts stay far from 64 bits. */
#define MAX_POSITIONS (1u << 24)
#define MAX_CHUNK 16384u

/* What an engine is, without room to run in; and that, after which it runs. engine_close after an error of the latter.
 */
hypura_status engine_open_model(struct engine **out, const char *path, const struct engine_options *options,
                                hypura_error *error);
hypura_status engine_open_places(struct engine *engine, const struct engine_options *options, hypura_error *error);

/* Instead of the former, where only experts are to be computed. predicting: with the block that drafts. */
hypura_status engine_open_part(struct engine **out, const char *path, bool predicting,
                               const struct engine_options *options, hypura_error *error);

/* The plan for a model, where the GPUs (or none) are known; request and geometry are what it was made from. */
hypura_status make_plan(struct plan **out, struct plan_request *request, struct geometry *geometry,
                        const struct model *model, const struct steps *steps, const struct adapters *adapters,
                        const struct hardware *hardware, const struct devices *devices,
                        const struct engine_options *options, hypura_error *error);

/* ---- rows that nobody wants ---------------------------------------------------------------------------------------
 */

/* Finds the layer for the batch that begins, and takes back what narrow_rows did when it ends. */
void narrow_begin(struct batch *batch);
void narrow_end(struct batch *batch);

/* How many rows see the experts of a layer. */
size_t narrow_rows_in(const struct batch *batch, uint32_t layer);

/* Behind how many steps of a layer's list its rows need each other no more; all: they always do. late_route: a router
 * before that, which can be asked behind it; NULL: there is none. */
size_t narrow_split(struct step_list list, const struct step **late_route);

/* Each buffer that a router (NULL: none), the rest of a layer, the layers after it or the output read from what was
 * written before, with the width of its rows. */
size_t narrow_buffers(const struct batch *batch, const struct step *route, struct step_list rest, uint32_t layer,
                      struct step_touch out[BUFFER_COUNT]);

/* So many rows go on, scratch.left: all that is known of a row but the buffers moves. */
void narrow_rows(struct batch *batch, size_t count);

/* ---- weights -------------------------------------------------------------------------------------------------------
 */

#define HELD_MAX 16

/* The units of one step, released together. Zero-initialised. */
struct held {
    unit_number units[HELD_MAX];
    uint32_t count;
    uint32_t vectors;
};

/* The matrix of a tensor with two dimensions (or one, as one row), which is never in pieces. */
hypura_status hold_matrix(struct batch *batch, struct held *held, unit_number unit, struct matrix *out,
                          hypura_error *error);

/* Whether a small tensor is floats as it is read: units lie in memory as in the file, by the page. */
bool are_floats(const struct unit_slice *slice);
size_t vector_elements(const struct gguf_tensor *tensor);

/* A small tensor as floats; NULL for NO_UNIT. */
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

/* The product with some rows of a tensor, which may stream in pieces. */
struct product {
    unit_number unit;
    enum tensor_role role; /* that adapters know it by */
    size_t first, rows;    /* of the tensor's rows; rows 0: all */
    struct matmul job;     /* without weights; output_stride 0: the product's rows */
};

/* All of them, with what adapters add. Tensors are computed as they come, in the order of the products. Of jobs the
 * shape of the weights is left. layer -1: of the whole model. */
hypura_status multiply(struct batch *batch, int32_t layer, struct product *products, size_t count, hypura_error *error);

/* ---- adapters ------------------------------------------------------------------------------------------------------
 */

struct adapters;

/* What one adapter has for one matrix; of experts one after another. */
struct thin_pair {
    struct thin_pair *next; /* of another adapter for the same matrix */
    const struct gguf_tensor *a, *b;
    uint8_t *data_a, *data_b;
    float scale;
    uint32_t number; /* of all pairs */
};

/* The first pair for a matrix, or NULL. layer -1: of the whole model. */
const struct thin_pair *adapters_find(const struct adapters *adapters, int32_t layer, enum tensor_role role);
uint32_t adapters_pairs(const struct adapters *adapters);
uint32_t adapters_rank(const struct adapters *adapters); /* the greatest */

/* NULL for none. The caller closes them, after an error too. */
hypura_status adapters_open(struct adapters **out, const struct model *model, const struct steps *steps,
                            const struct engine_adapter *options, size_t count, hypura_error *error);
void adapters_close(struct adapters *adapters);

/* After compute_matmul: adds to a job's output what adapters have for the matrix of a role (of an expert of it) whose
 * row "first" was the job's first. layer -1: of the whole model. */
void adapt(struct batch *batch, const struct matmul *job, int32_t layer, enum tensor_role role, uint32_t expert,
           size_t first);

/* ---- the smaller model that drafts tokens --------------------------------------------------------------------------
 */

/* Whether a model can use the one of the options. */
bool draft_model_wanted(const struct model *model, const struct engine_options *options);

/* Opens it as engine->draft_model, and reserves what it has yet to touch. */
hypura_status draft_model_open(struct engine *engine, struct engine_options *options, hypura_error *error);

/* What it holds before any weights are loaded, next to the other model; it counts among what the process holds. */
struct planned_draft {
    struct model *model;
    struct vocabulary *vocabulary;
};

/* Reserves what it would take besides; to be closed after an error too. */
hypura_status draft_model_plan(struct planned_draft *out, const struct model *model, const struct hardware *hardware,
                               struct engine_options *options, hypura_error *error);
void planned_draft_close(struct planned_draft *draft);

/* engine_plan_only, where the vocabulary is there already, and no smaller model is wanted or it is reserved for. */
hypura_status engine_plan_beside(struct plan **out, const struct model *model, const struct hardware *hardware,
                                 const struct engine_options *options, hypura_error *error);

/* ---- the block that predicts further tokens -----------------------------------------------------------------------
 */

/* Last rows that wait to pass the block, at most. */
#define PREDICTION_ROWS 64u

/* Whether it is no encoder, so that tokens can be drafted. */
bool model_writes_text(const struct model *model);

/* NULL where the model was opened without such a block. */
hypura_status predictor_create(struct predictor **out, struct batch *batch, hypura_error *error);
void predictor_destroy(struct predictor *predictor);

/* What a pass tells it, when its tokens are known, and when it is done, its positions held; a failure costs drafts
 * only. A sequence now ends so much earlier. */
void predictor_before(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked);
void predictor_after(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked,
                     const float *hidden);
void predictor_truncate(struct predictor *predictor, uint32_t sequence, uint32_t positions, uint32_t removed);

/* Logits of the token behind this one, which follows what the sequence holds (further: behind the token that was asked
 * for before). */
hypura_status predictor_ask(struct predictor *predictor, struct batch *batch, uint32_t sequence, int32_t token,
                            bool further, hypura_error *error);

/* The rows of the last pass, where they had to move; NULL: they did not. */
const float *predictor_moved(const struct predictor *predictor, const struct batch *batch);

/* ---- drafts in models with states ----------------------------------------------------------------------------------
 *
 * A state does not go back to where a draft was wrong. So what steps with a state read is kept of a batch with drafts,
 * and they are carried out anew, from the state before the batch, for the rows that came true. */

/* The buffers that a step reads and how wide their rows are; returns the sum of widths. */
struct state_input {
    enum step_buffer buffer;
    size_t width;
};
size_t state_inputs(const struct step *step, uint32_t embedding, struct state_input out[STEP_TOUCHES], size_t *count);

/* Floats of all steps with a state before this one, for one row: where its inputs begin. */
size_t state_inputs_before(const struct batch *batch, const struct step *step);

/* Whether the batch at hand has to keep them. */
bool keeps_state_inputs(const struct batch *batch);

/* ---- logits --------------------------------------------------------------------------------------------------------
 */

/* Hands logits on as they come, beginning with number "first" of the wanted ones. */
/* A pooled row, [embedding], as the steps for it leave it: in place, of scores the first few. */
hypura_status engine_pass_row(struct engine *engine, float *row, hypura_error *error);

hypura_status give_logits(struct batch *batch, const struct engine_batch *asked, size_t first, size_t count,
                          const float *logits, hypura_error *error);

/* ---- experts -------------------------------------------------------------------------------------------------------
 */

/* Begins the reads of the experts in scratch.chosen but those that are computed elsewhere ([experts] of the layer;
 * NULL: none); forget_experts after an error. */
hypura_status want_chosen(struct batch *batch, uint32_t layer, unit_number first_expert, const bool *elsewhere,
                          hypura_error *error);
void forget_experts(struct batch *batch);

/* The rows of the table that were asked for when the pass began, waited for, as floats. */
hypura_status look_up_rows(struct batch *batch, const struct step *step, float *out, hypura_error *error);

/* The same and their work, for the rows of the step's input, into scratch.expert_out. */
hypura_status run_chosen_experts(struct batch *batch, const struct step *experts, const bool *elsewhere,
                                 hypura_error *error);

/* Buffers, as bits, were written: products make their copies of them anew. */
void forget_inputs(struct batch *batch, uint32_t written);

/* What each device has and did, from any thread; how many there are. */
uint32_t gpu_pass_statistics(const struct batch *batch, struct engine_device *out);

/* Device memory for batches of this many tokens, besides weights and caches. */
uint64_t gpu_pass_scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);

/* ---- prefetches of experts -----------------------------------------------------------------------------------------
 */

/* After a layer of single tokens: offers the store what the next layer will probably choose, and while the drive has
 * nothing to do of those after it. */
hypura_status prefetch_ahead(struct batch *batch, uint32_t number, hypura_error *error);
hypura_status prefetch_start(struct batch *batch, hypura_error *error); /* the same before the first layer */
/* In a layer of a long batch, once its own experts were wanted: the next one will use all. */
void prefetch_prompt(struct batch *batch, uint32_t number);
void prefetch_check(struct batch *batch, uint32_t number); /* counts which offers came true */

/* Where layers are on a device: whether it is to ask a layer's router ahead, and offers by what such routers said next
 * to the choice of the layer with this number (prefetcher.said). */
bool prefetch_may_ask(const struct batch *batch, uint32_t number);
hypura_status prefetch_asked(struct batch *batch, uint32_t number, hypura_error *error);
uint32_t prefetch_ranks(const struct model_parameters *parameters);

/* Chooses experts for rows of logits [rows][experts], which become probabilities. bias may be NULL. */
void router_choose(struct compute *compute, const struct router_rule *rule, float *logits, float *selection,
                   const float *selection_bias, size_t rows, uint32_t *chosen, float *weights);

/* Weights of experts that were chosen by something else. */
void router_weigh(struct compute *compute, const struct router_rule *rule, float *logits, size_t rows, uint32_t *chosen,
                  float *weights);

#endif
