/* The forward pass on GPUs, for the layers that the plan put there. Only the files of this folder, and files of the
 * engine that plan, open, close or start a batch, include this.
 *
 * The files of each line call only those above it:
 *
 *   operands.c      operands of commands: where units, buffers and caches are
 *   lists.c         the layers' lists of steps, rewritten for a device
 *   commands.c      batches of commands
 *   adapt.c         products, and what LoRA adapters add
 *   multiply.c      products with matrices, and the gate that may follow
 *   slots.c         experts in slots;  share.c  the CPU's share of a layer's experts, computed at the same time
 *   visit.c         experts in RAM, copied to the GPU for one long batch
 *   in_place.c      experts in memory that both sides see, which the GPU reads there
 *   states.c        states of sequences, short convolutions and scans
 *   look_up.c       rows of a table that stays on the drive
 *   streams.c, sides.c  residual streams;  compress.c  blocks of positions, compressed to rows of the cache
 *   choose.c        the search for positions worth attention, and attention to only those
 *   chunks.c        experts that groups of experts share
 *   experts.c       mixtures of experts;  attend.c  heads and attention;  delta_net.c  gated delta nets
 *   record.c        the commands of each kind of step, and the barriers between steps
 *   buffers.c       the layout of a pass's buffers, some of which are lent to experts
 *   ability.c       which layers a device can compute, and how much memory they need there
 *   narrow.c        drops unwanted rows of a batch
 *   ask.c           runs the routers of later layers, so that their experts can be read ahead
 *   layers.c        runs layers, and moves the residual stream between host and device
 *   output.c        norm and logits
 *   output_rows.c   the device's rows of an output matrix that several devices divide
 *   ahead.c         commands of a later run of layers, recorded while a device computes this one
 *   carry.c         rows on their way between host and devices
 *   handed.c        memory in which devices hand rows on
 *   finish.c        waits for a device
 *   keep.c          unpacked weights that stay
 *   divided.c       logits of which several devices compute some each
 *   batch.c         a batch from its beginning to its logits
 *   pipeline.c      prompts in parts, on several devices at the same time
 *   caches.c        copies parts of caches to the host and back, and tells devices where blocks are
 *   trial.c         one row, to test a device while the model is opened
 *   serve.c         on a rank other than 0: its experts, for rows that rank 0 sent
 *   open.c          opens devices, and makes the planner's request for them
 *   pass.c          opening and closing
 *   none.c          replaces all of these in a build without a GPU
 *
 * The pass walks the same list of steps as the CPU (steps/steps.h), rewritten for a device: one list for batches of few
 * rows, one for many. Commands are recorded layer by layer and sent a few layers at a time, so that the device works
 * while the CPU records. A layer whose experts are partly in RAM is sent in two batches: one up to the router's choice,
 * which the CPU reads, and one with the device's experts. The next batch (the weighted sum, and what follows) is sent
 * at once; it waits for the CPU's signal that its experts' rows are ready. */
#ifndef HYPURA_ENGINE_GPU_PASS_H
#define HYPURA_ENGINE_GPU_PASS_H

#include "compute/vulkan/gpu.h"
#include "engine/engine_private.h"
#include "store/device.h"

/* A part of a buffer that host and device see. */
struct shared_part {
    struct gpu_range range;
    void *host;
};

/* Room for a group of experts that the device has for one batch only. */
struct visit {
    struct gpu_range slices[UNIT_MAX_SLICES];
    uint64_t strides[UNIT_MAX_SLICES];
    struct shared_part table; /* [UNIT_MAX_SLICES][experts] slots; for copied experts, the first serves all slices */
    gpu_ticket used;          /* the batch that uses it */
    unit_number *held;        /* [experts] units that this batch reads in place; held until it is done */
    uint32_t held_count;
};

/* The most rows by which a part of a batch may exceed latent.rows: a few before a piece of a prompt, and a few that are
 * left. */
#define LATENT_MORE_ROWS (2 * GPU_VECTOR_TOKENS)

/* Commands of a run of layers that are recorded before it can begin. */
struct ahead {
    bool possible;  /* with this model and plan */
    bool recording; /* mapped memory is filled later */
    bool next;      /* for the next token, one position later */
    bool ready;     /* recorded, but not sent */
    bool expected;  /* the current batch is the expected one */
    bool used;      /* the current run of layers was recorded ahead */
    bool sent;      /* and sent; it waits for its rows */
    uint64_t value; /* of gpu_signal_host, which these commands await; 0: none */
    double seconds; /* time of the last batch */
    uint64_t begun; /* nanoseconds */
    uint32_t rows;  /* of the batch expected next, one per sequence; 0: none */
    uint32_t sequences[GPU_VECTOR_TOKENS], positions[GPU_VECTOR_TOKENS];
};

/* The thin matrices of an adapter on the device. */
struct thin_ranges {
    struct gpu_range a, b;
};

/* A product that adapters may add to: with the matrix of a role, or with its rows from "first" on. */
struct pass_product {
    struct gpu_matmul job;  /* without the bias if there is a scale */
    struct gpu_range scale; /* of the matrix, and the bias that follows it; or none */
    struct gpu_range scaled_bias;
    enum tensor_role role;
    uint32_t first;
};
#define PASS_PRODUCTS 4 /* at most, at a time */

/* The buffers that a layer leaves for later ones. They move between host and device together with the work. */
#define PASS_CARRIED 5
extern const enum step_buffer pass_carried[PASS_CARRIED];

/* The most kinds of blocks (by their number of positions) that are compressed to rows of a cache. */
#define PASS_BLOCKS 4

/* The pass on one device. A batch passes the devices one after the other, and comes back if they have several runs of
 * layers in turn. A device that holds nothing of the model has none. */
struct gpu_pass {
    struct gpu *gpu;
    uint32_t number; /* of the device, and of its part of the plan */
    const struct hardware_gpu *device;
    const struct plan_gpu *plan;                   /* that part */
    bool halves;                                   /* the device multiplies halves */
    struct gpu_range *units;                       /* [unit_count] the place of each; experts have slots instead */
    struct store_slots *slots;                     /* [layers] */
    bool *there;                                   /* [experts] of the current layer: whether the device has it */
    float **host_vectors;                          /* [unit_count] copies of small tensors that the CPU needs, too */
    struct gpu_buffer **caches;                    /* [layers] keys and values */
    uint64_t cache_bytes, pool_bytes, block_bytes; /* of all of them; of their pools; of a block in all pools */
    struct gpu_buffer *scratch, *upload, *readback;
    struct gpu_buffer *lent;          /* the store's: of experts or, for a long batch, of its buffers; or NULL */
    uint64_t taken;                   /* bytes of it that experts do not have */
    bool is_short;                    /* buffers are for a short batch */
    struct keeper *keeper;            /* of unpacked matrices; NULL: none are kept */
    struct gpu_buffer *handed_rows;   /* batch->handed_rows; NULL: rows are copied from device to device */
    struct gpu_buffer *output_copy;   /* of the output matrix, the rows that plan->output_rows counts; or NULL */
    struct thin_ranges *thin;         /* [adapters_pairs] */
    struct gpu_buffer **thin_buffers; /* [1 + layers] */
    struct visit visits[2];
    uint32_t visit_turn;

    /* The lists of the device's layers, and of the steps after them: [0] for many rows, [1] for few. */
    struct device_list {
        struct step **runs; /* [run_count] neighbouring layers */
        uint32_t run_count;
        struct step_list *layers; /* [layers] */
        struct step_list after;
    } lists[2];

    /* In device memory, as in struct scratch. */
    struct gpu_range rows[BUFFER_COUNT], attention; /* attention: also of gated delta nets, which other layers have */
    enum { ROWS_FLOATS, ROWS_BOTH, ROWS_HALVES } state[BUFFER_COUNT]; /* whether rows are also, or only, halves */
    uint32_t pending_reads, pending_writes;                           /* since the last barrier, bits by buffer */
    uint64_t attention_bytes, delta_net_bytes;
    struct gpu_range state_inputs;                          /* as in struct scratch */
    struct gpu_range normed_halves, inner_halves, unpacked; /* empty unless the device multiplies halves */
    uint64_t unpacked_bytes;
    struct gpu_range router, chosen, weights, groups, expert_out;
    struct {
        uint32_t experts, width; /* 0: none */
        struct gpu_range ids, weights, groups;
        struct gpu_range slots;      /* uint32 [experts] 0, 1, 2 ... */
    } chunks;                        /* experts that groups share */
    struct gpu_range picked, logits; /* rows whose logits are wanted */
    struct gpu_range low;            /* [PASS_PRODUCTS][low_floats] results of the first thin matrices */
    uint64_t low_floats;
    struct gpu_range tokens, rope[2], scales;
    struct gpu_range block_rope[PASS_BLOCKS]; /* angles of the first positions of blocks, by kind */
    struct {
        uint32_t rows;                    /* at a time; buffers have LATENT_MORE_ROWS more. 0: no latent attention */
        struct gpu_range query, attended; /* [rows][heads][kv_rank + rotary], [rows][heads][kv_rank] */
        struct gpu_range heads;           /* uint32 [rows][heads] the head's number */
        struct gpu_range groups;          /* made of them by gpu_expert_group, for this many rows: */
        uint32_t grouped;
    } latent;
    struct {
        struct gpu_range rows[BUFFER_COUNT]; /* that routers' steps write, of PREFETCH_ROWS rows */
        struct gpu_range logits;
        struct shared_part back[PREFETCH_ASKED];
        uint32_t made; /* for the current layer: bits by layers ahead minus one */
    } asked;
    struct gpu_range scores; /* of the search for positions */
    uint64_t score_bytes;
    struct gpu_range blocks; /* uint32 [sequences][blocks of one]: where each is in the pools; empty: there are none */
    uint32_t *known_blocks;  /* the same as the device has it */
    uint64_t block_changes;  /* kv_pool.changes of that time */
    struct {
        struct shared_part carried[PASS_CARRIED], looked_up, tokens, rope[2], block_rope[PASS_BLOCKS], scales,
            expert_rows;
    } up_parts;
    struct {
        struct shared_part carried[PASS_CARRIED], hidden, normed, chosen, weights, logits;
    } back_parts;
    struct {
        struct shared_part rows, logits; /* of a few rows: normed ones, and logits of which devices compute some each */
    } divided;
    struct {
        struct shared_part rows, chosen, weights; /* to the device */
        struct shared_part expert_rows;           /* and back */
    } served;                                     /* on a rank that computes only experts */

    /* The current batch. */
    bool open;              /* commands are being recorded */
    uint32_t recorded;      /* layers in the open batch */
    uint32_t sent;          /* batches of commands for it */
    uint32_t first_row;     /* of the current part of the batch */
    uint32_t parts;         /* of the last batch that devices computed in parts, sent in all runs of layers */
    double layer_work;      /* the most multiply-adds of a layer per row */
    bool again;             /* steps with a state run again */
    bool on_device;         /* the residual stream is on the device; else in the scratch's buffers, or: */
    bool handed_on;         /* another device hands it on, perhaps after commands are recorded */
    bool inputs_sent;       /* what depends on positions is on the device */
    gpu_ticket wait_upload; /* the upload for which it must wait */
    gpu_ticket last;        /* the last batch of commands */
    uint64_t signals;       /* the last value for which a batch was told to wait */
    /* The current layer. */
    struct mixture {
        bool divided, visits, in_place; /* how experts that the device does not have are computed; none: it has all */
        gpu_ticket routed;              /* done when the host can read the choice; 0: it was not handed over */
        uint32_t layer;
    } mixture;
    struct {
        bool waiting;
        const struct step *experts;
        gpu_ticket routed; /* done when the CPU can read the choice */
        uint64_t value;    /* to signal when the CPU's rows are ready */
        uint32_t said;     /* asked.made of its layer */
    } host_share;
    const float *logits_at, *hidden_at; /* of the last batch, for the host; NULL: the device did not compute them */
    struct {
        uint8_t *out;
        uint64_t bytes; /* of a cache, on their way to out; 0: none */
    } reading;
    bool copying; /* from sequence to sequence */
    struct ahead ahead;
};

/* ---- what forward.c and engine.c call ---------------------------------------------------------------------------- */

/* Opens devices, and leaves out those that fail. Having none is no error: count is 0, the CPU computes everything, and
 * if a device was requested, the log says why. */
hypura_status gpu_pass_open_devices(struct devices *out, const struct hardware *hardware,
                                    const struct engine_options *options, hypura_error *error);
void gpu_pass_close_devices(struct devices *devices);

/* Notes in the options how much memory each device may use now: later, other ranks on this host will have taken some of
 * theirs. */
void gpu_pass_keep_budgets(struct engine_options *options, const struct devices *devices,
                           const struct hardware *hardware);

/* Plans what goes to the devices, before the rest is planned. *out stays NULL if nothing does. longest: of the batches
 * that the planner chooses; 0: any. */
hypura_status gpu_pass_plan(struct plan_gpu **out, struct geometry *geometry, const struct devices *devices,
                            const struct hardware *hardware, const struct engine_options *options, uint32_t longest,
                            hypura_error *error);

/* Fills in the request to the planner, for all devices. abilities: [layers], the caller's. */
void gpu_pass_request(struct plan_gpu_request *out, uint8_t *abilities, const struct geometry *geometry,
                      const struct devices *devices, enum tensor_type kv_type);

/* Call it after store_load. */
hypura_status gpu_pass_open(struct batch *batch, hypura_error *error);
void gpu_pass_close(struct batch *batch);

/* After an error while a model was opened: finds the device that failed. false: unknown. */
bool gpu_pass_failed(const struct batch *batch, uint32_t *number);

/* Whether a device computes a layer. */
bool gpu_pass_has(const struct batch *batch, uint32_t layer);

/* Before a batch: takes lent memory from experts if the batch is long, and returns it if it is not the first short one.
 */
hypura_status gpu_pass_lend(struct batch *batch, hypura_error *error);

/* Begins a batch. After an error before its end, call gpu_pass_abandon. */
void gpu_pass_begin(struct batch *batch);
void gpu_pass_abandon(struct batch *batch);

/* Embeds tokens if the embedding is on the GPU, in a type that it can read; *done: whether it did. */
hypura_status gpu_pass_embed(struct batch *batch, const int32_t *tokens, bool *done, hypura_error *error);
/* Computes a layer that a device has. */
hypura_status gpu_pass_layer(struct batch *batch, uint32_t layer, hypura_error *error);

/* Whether unwanted rows can leave the batch in a layer that a device has, which then is the last one. */
bool gpu_pass_can_narrow(const struct batch *batch, uint32_t layer);

/* Between batches: computes the logits of a row of the prediction block, if the output matrix is on a device; *done:
 * whether it is. They replace the logits of the last batch. */
hypura_status gpu_pass_predict(struct batch *batch, const struct step_output *output, const float *row, float *logits,
                               bool *done, hypura_error *error);

/* On a rank that computes only experts: computes a layer's chosen experts (scratch.chosen) for the rows of the step's
 * input, into scratch.expert_out. The device computes those that it holds, and the CPU the others meanwhile. *there:
 * the number of choices that the device computed. Only for a layer that a device has. */
hypura_status gpu_pass_experts(struct batch *batch, const struct step *experts, uint64_t *there, hypura_error *error);

/* Ends a batch of which no row is left. */
hypura_status gpu_pass_end(struct batch *batch, hypura_error *error);

/* Whether a batch passes several devices in parts, which work at the same time, and whether they also embed its rows.
 * If so, gpu_pass_pipeline replaces the layers and the output, and the embedding, too, if *embeds. */
bool gpu_pass_pipelines(const struct batch *batch, bool *embeds);
hypura_status gpu_pass_pipeline(struct batch *batch, hypura_error *error);

/* Brings the residual stream to the scratch's buffers if it is on a device. */
hypura_status gpu_pass_to_host(struct batch *batch, hypura_error *error);

/* Computes norm and logits if the output matrix is on a device; *done: whether it is. */
hypura_status gpu_pass_output(struct batch *batch, const struct engine_batch *asked, bool *done, hypura_error *error);

/* Logits and hidden states of the last batch if the GPU computed them; else NULL. */
const float *gpu_pass_logits(const struct batch *batch);
const float *gpu_pass_hidden(const struct batch *batch);

/* A small tensor on the GPU that the CPU needs, too, as floats. */
const float *gpu_pass_host_vector(const struct batch *batch, unit_number unit);

/* After a batch with drafts: runs a layer's steps with a state again, for the batch's first rows. gpu_pass_end_again
 * waits for them. */
hypura_status gpu_pass_again(struct batch *batch, uint32_t layer, hypura_error *error);
hypura_status gpu_pass_end_again(struct batch *batch, hypura_error *error);

/* Between batches: copies bytes of a layer's cache on a device to the host, from the host, or within the cache. The
 * copies are complete after gpu_pass_settle_caches. */
hypura_status gpu_pass_read_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes, uint8_t *out,
                                  hypura_error *error);
hypura_status gpu_pass_write_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes,
                                   const uint8_t *in, hypura_error *error);
void gpu_pass_copy_cache(struct batch *batch, uint32_t layer, uint64_t from, uint64_t to, uint64_t bytes);
hypura_status gpu_pass_settle_caches(struct batch *batch, hypura_error *error);

/* Before a batch: tells devices which blocks of their pools the sequences' blocks are. */
hypura_status gpu_pass_place_blocks(struct batch *batch, hypura_error *error);

/* ---- shared by the files of this folder -------------------------------------------------------------------------- */

hypura_status pass_make_buffers(struct batch *batch, hypura_error *error);

/* pass_choose makes the device of a layer the current one. pass_with_output: the device with the output matrix; NULL:
 * none. */
void pass_choose(struct batch *batch, uint32_t layer);
struct gpu_pass *pass_with_output(const struct batch *batch);

/* Whether prompts of a model can pass several devices in parts: a part hands nothing but the residual stream to the
 * next device, and nothing but keys and values to the next part. */
bool pass_can_part(const struct geometry *geometry);

/* Forgets what a device holds of earlier rows, before a batch, or a part of one that begins with this row. */
void pass_begin_rows(struct gpu_pass *pass, uint32_t first_row);

/* Computes a layer of the current device. */
hypura_status pass_run_layer(struct batch *batch, uint32_t layer, hypura_error *error);

/* pass_record_leaving records copies of what the device leaves for the next layer to memory that the host sees. When
 * they are done, pass_hand_on puts them where the current device reads them. */
void pass_record_leaving(struct batch *batch);
void pass_hand_on(const struct batch *batch, const struct gpu_pass *from);

/* Memory in which all devices write and read the rows that they hand on, so that the host need not copy them. Before
 * passes are opened; for the current pass, before its buffers are laid out; and after passes are closed. Without that
 * memory, or on a device that refuses it, rows are copied. */
void pass_share_rows(struct batch *batch);
void pass_import_rows(struct batch *batch);
void pass_unshare_rows(struct batch *batch);
uint64_t pass_handed_bytes(const struct geometry *geometry, uint32_t chunk);

/* Unpacked weights that stay on a device with panels. pass_keep: where those of a product are or go; NULL: nowhere, or
 * not yet. pass_keep_experts: the same for a product with experts (0: gate, 1: up, 2: down) in slots that do
 * not change. */
#define PASS_EXPERT_PRODUCTS 3
hypura_status pass_open_kept(struct batch *batch, hypura_error *error);
struct gpu_panels *pass_keep(const struct gpu_pass *pass, unit_number unit, const struct gpu_matmul *job);
struct gpu_panels *pass_keep_experts(const struct gpu_pass *pass, uint32_t layer, uint32_t product,
                                     const struct gpu_expert_matmul *job);
void pass_close_kept(struct batch *batch);

/* Opens a batch of commands unless one is open. */
void pass_record(struct gpu_pass *pass);
hypura_status pass_send(struct gpu_pass *pass, hypura_error *error);
void pass_drop_ahead(struct gpu_pass *pass); /* drops commands recorded ahead; call it before others are recorded */
hypura_status pass_finish(struct batch *batch, hypura_error *error); /* sends, and waits until all is done */

/* The step that makes logits. */
const struct step_output *pass_output_step(const struct batch *batch);

/* Records the norm, and a copy of the rows to memory that the host sees. */
hypura_status pass_record_normed(struct batch *batch, struct gpu_range to, hypura_error *error);

/* Records the norm, the logits of wanted rows first to first + count, and their copies to the host. */
hypura_status pass_record_output(struct batch *batch, size_t first, size_t count, hypura_error *error);

/* Records products of contiguous rows with some rows of the output matrix, from "first" on, and copies of these logits
 * to their places in divided.logits. */
void pass_record_some_logits(struct batch *batch, const struct gpu_matrix *matrix, uint32_t first,
                             struct gpu_range rows, size_t count);

/* The current device's rows of an output matrix that devices divide. pass_copy_output brings copies to it, if the plan
 * wants that. pass_divides_output: whether devices divide the logits of the batch. */
hypura_status pass_copy_output(struct batch *batch, hypura_error *error);
struct gpu_matrix pass_output_rows(const struct batch *batch);
bool pass_divides_output(const struct batch *batch);

/* Ends a batch whose logits devices divide, on the last one. */
hypura_status pass_end_divided(struct batch *batch, hypura_error *error);

/* Records the logits of contiguous rows and their copies to the host. */
void pass_record_logits(struct batch *batch, const struct step_output *output, struct gpu_range rows, size_t count);

/* pass_devices_do_all: whether devices do everything, so that commands can be recorded ahead. pass_expect finds out
 * whether the recorded ones fit the batch that begins. pass_record_ahead is called while a device computes a run of
 * layers, after which comes this layer (0: the next token). If worthwhile, it records a later run. */
bool pass_devices_do_all(const struct batch *batch);
void pass_expect(struct batch *batch);
void pass_record_ahead(struct batch *batch, uint32_t layer);

/* Sends the commands of the run of layers that comes next if they were recorded ahead on another device. They wait for
 * the rows there, so that the run begins sooner once these arrive. */
hypura_status pass_send_early(struct batch *batch, uint32_t layer, hypura_error *error);

/* Whether the current run's commands were recorded ahead, so that only what they read must be filled in. */
bool pass_runs_ahead(const struct gpu_pass *pass);

/* Copies what the rows of the batch need to memory that both sides see (NULL: it will be there), and records a copy
 * from there. pass_send_inputs: what depends on positions and tokens. */
void pass_send_part(const struct batch *batch, struct gpu_range to, const struct shared_part *part, const void *bytes,
                    size_t row_bytes);
void pass_send_inputs(struct batch *batch);

struct gpu_range range_at(struct gpu_range range, uint64_t floats);
struct gpu_matrix pass_matrix(const struct batch *batch, unit_number unit);
struct gpu_range pass_vector(const struct batch *batch, unit_number unit); /* without a buffer for NO_UNIT */

/* Where the batch's sequences are in a layer's cache, and in a further plane of it. Valid until the next call. */
const struct gpu_sequence *pass_find_sequences(const struct batch *batch, uint32_t layer);
const struct gpu_sequence *pass_find_plane(const struct batch *batch, uint32_t layer, uint32_t plane);

/* Passes one row through all that the device computes. HYPURA_ERROR_DEVICE: the device failed. */
hypura_status pass_try(struct batch *batch, hypura_error *error);
hypura_status pass_try_experts(struct batch *batch, hypura_error *error); /* the same for gpu_pass_experts */

/* Brings the residual stream, and what depends on the batch's positions, to the device if they are not there. */
void pass_to_device(struct batch *batch);

/* The steps of a layer on the device, and those after the layers, rewritten for the current batch. */
struct step_list pass_steps(const struct batch *batch, uint32_t layer);
struct step_list pass_steps_after(const struct batch *batch);
hypura_status pass_make_lists(struct batch *batch, hypura_error *error);
void pass_free_lists(struct gpu_pass *pass);

/* Records the layer in which rows leave the batch. */
hypura_status pass_record_narrowing(struct batch *batch, struct step_list list, hypura_error *error);

/* Runs routers of the layers after this one, which is at its own router. pass_asked_buffers: bits of the buffers that
 * their steps write. */
hypura_status pass_ask_routers(struct batch *batch, uint32_t layer, hypura_error *error);
uint32_t pass_asked_buffers(const struct geometry *geometry);

/* Passes their results to the prefetcher. */
void pass_tell_asked(struct batch *batch, uint32_t made);

/* Records steps, with barriers where one waits for another. pass_settle: what is recorded next waits for all of
 * them. */
hypura_status pass_record_steps(struct batch *batch, struct step_list list, hypura_error *error);
void pass_settle(struct gpu_pass *pass);
void pass_move_inputs(struct batch *batch, const struct step *step, bool back); /* as keep_inputs, bring_inputs */
bool pass_records(enum step_kind kind);                                         /* whether it has commands */

typedef hypura_status record_function(struct batch *batch, const struct step *step, hypura_error *error);
record_function pass_record_multiply, pass_record_index, pass_record_compress, pass_record_pool;
record_function pass_record_gather, pass_record_scatter, pass_record_gather_gated, pass_record_agree;
record_function pass_record_predict, pass_record_correct, pass_record_sparse, pass_record_match;
record_function pass_record_look_up, pass_record_chunk_experts;
record_function pass_record_heads, pass_record_spread, pass_record_attend, pass_record_attend_latent;
record_function pass_record_convolve, pass_record_scan;
record_function pass_record_delta_net, pass_record_route, pass_record_experts;

/* Whether the attention of a few rows can make the heads of the step before it, which saves a launch. Then *attention
 * is to be recorded instead of both; it refers to *made. */
bool pass_join_heads(const struct batch *batch, const struct step *heads, const struct step *attend,
                     struct gpu_heads *made, struct gpu_attention *attention);

/* A buffer's rows in this batch, as floats or as halves; no buffer: they do not exist as such. */
struct gpu_range pass_floats(const struct gpu_pass *pass, enum step_buffer buffer);
struct gpu_range pass_halves(const struct gpu_pass *pass, enum step_buffer buffer);
bool pass_takes_halves(const struct batch *batch); /* whether products of this batch may read halves */

/* Whether the next step is the only reader of this one's result, and takes halves. */
bool pass_may_give_halves(const struct batch *batch, const struct step *step, enum step_buffer buffer);

/* Records the gated product of the gate's and up's rows. Returns whether it gives halves, as it does if may_halve is
 * set and the reader takes them. */
bool pass_glu(struct batch *batch, const struct gpu_glu_kind *glu, const struct gpu_matrix *reader,
              uint64_t slot_stride, uint32_t rows, uint32_t inner, bool may_halve);

struct gpu_mix pass_mix(const struct batch *batch, const struct step_mix *mix);

/* If a step of these layers reads a table, waits for the table's rows, and puts them where the device reads them. */
hypura_status pass_fill_table(struct batch *batch, uint32_t first, uint32_t end, hypura_error *error);

/* pass_find_blocks finds the numbers of positions that blocks have, each once. Returns how many there are, even if that
 * exceeds PASS_BLOCKS. pass_fill_blocks fills in the angles of the first positions of blocks that end in this batch,
 * contiguously (NULL: only counts). Returns the number of blocks. */
uint32_t pass_find_blocks(const struct geometry *geometry, uint32_t out[PASS_BLOCKS]);
uint32_t pass_fill_blocks(struct batch *batch, uint32_t every, float *angles);

/* Attention to the window, and to the compressed rows before it. */
void pass_attend_compressed(struct batch *batch, const struct step_attend *attend,
                            const struct gpu_attention *attention);

/* Attention of rows from first_row of the batch on to the positions that they chose. false: they see all, and nothing
 * was done. */
bool pass_attend_chosen(struct batch *batch, const struct step_choice *chosen, uint32_t first_row,
                        const struct gpu_attention *attention);

/* Bytes for the scores of a search. */
uint64_t pass_score_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);

/* Latent attention: rows at a time; bytes of scratch; and filling in the tables once all buffers exist. */
uint32_t pass_latent_rows(const struct geometry *geometry, uint32_t chunk);
uint64_t pass_latent_attention_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);
hypura_status pass_open_latent(struct batch *batch, hypura_error *error);

/* The experts of a layer that the current device has in this batch. */
uint32_t pass_experts_there(const struct batch *batch, uint32_t layer);

/* Records the experts of a layer that are in slots, for the rows of the batch. */
void pass_run_experts(struct batch *batch, const struct step *experts, const struct store_slots *slots);

/* pass_should_visit: whether to copy the layer's other experts to the device for this batch, because that is faster.
 * pass_visit does it. */
bool pass_should_visit(const struct batch *batch, uint32_t layer);
hypura_status pass_visit(struct batch *batch, const struct step *experts, hypura_error *error);
hypura_status pass_make_visits(struct batch *batch, hypura_error *error);

/* pass_reads_in_place: whether the device can read a layer's experts where they are in memory. pass_in_place computes
 * them, between the router's choice and the sum. */
bool pass_reads_in_place(const struct batch *batch, uint32_t layer);
hypura_status pass_in_place(struct batch *batch, const struct step *experts, hypura_error *error);
hypura_status pass_let_go(struct batch *batch, hypura_error *error); /* waits for the batches that read in place */
bool pass_can_read_in_place(struct gpu *gpu, const struct model *model);
hypura_status pass_make_holds(struct batch *batch, hypura_error *error);
void pass_free_holds(struct batch *batch);

/* Copies a layer's choices, for which the CPU has waited, to scratch.chosen and chosen_weights. Counts them, and writes
 * them to the trace. */
hypura_status pass_take_choices(struct batch *batch, const struct step *experts, hypura_error *error);

/* Counts the uses of the experts in scratch.chosen, those of other hosts excepted. */
void pass_note_uses(struct batch *batch, unit_number first_expert, size_t choices);

/* Experts that groups of experts share: finds their number and width; and fills in their table once all buffers
 * exist. */
void pass_find_chunks(struct gpu_pass *pass, const struct geometry *geometry);
hypura_status pass_open_chunks(struct batch *batch, hypura_error *error);

/* Has the CPU's threads wait awake for the device, since they share a layer; does nothing if the drive is read. */
void pass_stay_awake(struct batch *batch);

/* Does what the CPU has to do before the batches that were sent can run. */
hypura_status pass_host_share(struct batch *batch, hypura_error *error);

/* Records products, and what adapters add to each. layer -1: of the whole model. */
void pass_multiply(struct batch *batch, int32_t layer, const struct pass_product *products, size_t count);

/* Multiplies recorded products by their scales. */
void pass_scale(struct batch *batch, const struct pass_product *products, size_t count);
bool pass_is_adapted(const struct batch *batch, int32_t layer, enum tensor_role role);

/* Device memory for the adapters of a layer (-1: of the whole model). */
uint64_t pass_adapter_bytes(const struct adapters *adapters, int32_t layer);
hypura_status pass_open_adapters(struct batch *batch, hypura_error *error);
void pass_close_adapters(struct gpu_pass *pass);

/* Finds a step's part of the states of the batch's sequences, of which each has two in turn. A token that is recorded
 * ahead follows one that is not counted yet, and that has left its state in the other one. */
void pass_find_states(const struct batch *batch, const struct step *step, struct gpu_state_sequence *out);

#endif
