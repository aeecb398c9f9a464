/* The forward pass on GPUs, for the layers that the plan put there. Only the files of this folder and those of
 * the engine that start a batch, plan, open and close include it.
 *
 * Each line's files call those above it only:
 *
 *   operands.c      what commands read and write, and where it is
 *   lists.c         the lists of layers, rewritten for a device
 *   commands.c      batches of commands
 *   adapt.c         products, and what LoRA adapters add
 *   multiply.c      products with matrices, and the gate that may follow
 *   slots.c         experts in slots;  share.c  the CPU's share of them at the same time
 *   visit.c         experts from RAM that come to the GPU for one long batch
 *   in_place.c      experts in memory that both sides see, computed on the GPU from where they are
 *   states.c        what a sequence keeps, short convolutions and scans over it
 *   look_up.c       rows of a table that stays on the drive
 *   streams.c, sides.c  residual streams;  compress.c  blocks of positions that become rows of the cache
 *   choose.c        the search for positions worth attention, and attention to those only
 *   chunks.c        experts that chunks of the others share
 *   experts.c       mixtures of experts;  attend.c  heads, attention, its latent kind;  delta_net.c  gated delta nets
 *   record.c        what each kind of step is in commands, and when one waits for another
 *   buffers.c       what stands where in the buffers of a pass
 *   ability.c       which layers it can compute, and how much device memory it wants
 *   narrow.c        rows that nobody wants leave the batch
 *   ask.c           what later routers say of the residual stream, for experts to be read ahead
 *   layers.c        the way of the residual stream through the layers, and from one side to the other
 *   output.c        norm and logits
 *   ahead.c         the next token's commands, recorded while the device computes this one
 *   batch.c         a batch from its begin to its logits
 *   pipeline.c      prompts in parts, through several devices at the same time
 *   caches.c        bytes of caches, to the host and back
 *   trial.c         one row before anybody asks
 *   open.c          which devices, and what the planner puts there
 *   pass.c          opening and closing
 *   none.c          in place of them where the build has no GPU
 *
 * It walks the same list of steps as the CPU (steps/steps.h), rewritten for a device: one list for batches of few rows,
 * one for many. Commands are recorded layer by layer and sent a few layers at a time, so that the device works while
 * the CPU records. A layer whose experts are partly in RAM is sent in two batches: one up to the router's choice, whose
 * results the CPU reads, and one with the experts that are there. The next batch (the weighted sum, and what follows)
 * is sent at once and waits for the CPU's signal that its own experts' rows are ready.
 */
#ifndef HYPURA_ENGINE_GPU_PASS_H
#define HYPURA_ENGINE_GPU_PASS_H

#include "compute/vulkan/gpu.h"
#include "engine/engine_private.h"
#include "store/device.h"

/* A part of a buffer that both sides see. */
struct shared_part {
    struct gpu_range range;
    void *host;
};

/* Room for a group of experts that come for one batch only. */
struct visit {
    struct gpu_buffer *buffers[UNIT_MAX_SLICES];
    uint64_t strides[UNIT_MAX_SLICES];
    struct shared_part table; /* [UNIT_MAX_SLICES][experts] slots; all the same where experts were copied */
    gpu_ticket used;          /* by this batch */
    unit_number *held;        /* [experts] that it reads in place, until it is done */
    uint32_t held_count;
};

/* Rows by which a part of a batch may pass latent.rows: a few before a piece of a prompt, and a few that are left. */
#define LATENT_MORE_ROWS (2 * GPU_VECTOR_TOKENS)

/* A token's commands that were recorded before it is known. */
struct ahead {
    bool possible;  /* with this model and plan */
    bool recording; /* what is mapped is filled later */
    bool ready;     /* recorded, and not sent */
    bool expected;  /* the batch at hand is the one that was expected */
    bool used;      /* and runs with the commands that were recorded */
    double seconds; /* that the last such batch took */
    uint64_t begun; /* nanoseconds */
    uint32_t rows;  /* of the batch that is expected next, a sequence each; 0: none */
    uint32_t sequences[GPU_VECTOR_TOKENS], positions[GPU_VECTOR_TOKENS];
};

/* Where the thin matrices of an adapter are. */
struct thin_ranges {
    struct gpu_range a, b;
};

/* A product that adapters may add to: of the matrix of a role, or of its rows from the first one on. */
struct pass_product {
    struct gpu_matmul job;  /* without the bias if there is a scale */
    struct gpu_range scale; /* of the matrix, and what is added to what it scaled; or none */
    struct gpu_range scaled_bias;
    enum tensor_role role;
    uint32_t first;
};
#define PASS_PRODUCTS 4 /* at most, at a time */

/* What one layer leaves for the next ones: it goes with the work from one side to the other. */
#define PASS_CARRIED 5
extern const enum step_buffer pass_carried[PASS_CARRIED];

/* Kinds of blocks of positions that become one row of a cache. */
#define PASS_BLOCKS 4

/* What one device computes, and with what. A batch passes one after the other; those that have nothing of the model are
 * not there. */
struct gpu_pass {
    struct gpu *gpu;
    uint32_t number; /* of the device, and of its part of the plan */
    const struct hardware_gpu *device;
    const struct plan_gpu *plan; /* that part */
    bool halves;                 /* it multiplies halves */
    struct gpu_range *units;    /* [unit_count] where each is; experts have slots instead */
    struct store_slots *slots;  /* [layers] */
    bool *there;                /* [experts] of a layer that is being computed: which the device has */
    float **host_vectors;       /* [unit_count] copies of small tensors that experts in RAM need too */
    struct gpu_buffer **caches; /* [layers] keys and values */
    struct gpu_buffer *scratch, *upload, *readback;
    struct thin_ranges *thin;         /* [adapters_pairs] */
    struct gpu_buffer **thin_buffers; /* [1 + layers] */
    struct visit visits[2];
    uint32_t visit_turn;

    /* The lists of the layers that are there, and of what comes after them: for few rows, for many. */
    struct device_list {
        struct step **runs; /* [run_count] neighbouring layers */
        uint32_t run_count;
        struct step_list *layers; /* [layers] */
        struct step_list after;
    } lists[2];

    /* In device memory, as struct scratch has them. C tokens a batch, E embedding, K experts used. */
    struct gpu_range rows[BUFFER_COUNT], attention;
    enum { ROWS_FLOATS, ROWS_BOTH, ROWS_HALVES } state[BUFFER_COUNT]; /* also, or only, as halves */
    uint32_t pending_reads, pending_writes;                           /* since the last barrier, bits by buffer */
    uint64_t attention_bytes;
    struct gpu_range state_inputs;                          /* as in struct scratch */
    struct gpu_range normed_halves, inner_halves, unpacked; /* where the device multiplies halves, else empty */
    uint64_t unpacked_bytes;
    struct gpu_range router, chosen, weights, groups, expert_out;
    struct {
        uint32_t experts, width; /* 0: there are none */
        struct gpu_range ids, weights, groups;
        struct gpu_range slots;      /* uint32 [experts], the number of each */
    } chunks;                        /* experts that chunks of the chosen ones share */
    struct gpu_range picked, logits; /* rows whose logits are wanted */
    struct gpu_range low;            /* [PASS_PRODUCTS] of low_floats: what the first thin matrices give */
    uint64_t low_floats;
    struct gpu_range tokens, rope[2], scales;
    struct gpu_range block_rope[PASS_BLOCKS]; /* angles where blocks of each kind begin */
    struct {
        uint32_t rows; /* of a batch that are worked on at once, and LATENT_MORE_ROWS; 0: no layer is on latents */
        struct gpu_range query, attended; /* [rows][heads][kv_rank + rotary], [rows][heads][kv_rank] */
        struct gpu_range heads;           /* uint32 [rows][heads], the number of each */
        struct gpu_range groups;          /* that gpu_expert_group made of them, for so many rows: */
        uint32_t grouped;
    } latent;
    struct {
        struct gpu_range rows[BUFFER_COUNT]; /* that steps of routers write, of PREFETCH_ROWS */
        struct gpu_range logits;
        struct shared_part back[PREFETCH_ASKED];
        uint32_t made; /* of the layer at work, bits by layers ahead less one */
    } asked;
    struct gpu_range scores; /* of the search for positions */
    uint64_t score_bytes;
    struct {
        struct shared_part carried[PASS_CARRIED], looked_up, tokens, rope[2], block_rope[PASS_BLOCKS], scales,
            expert_rows;
    } up_parts;
    struct {
        struct shared_part carried[PASS_CARRIED], hidden, normed, chosen, weights, logits;
    } back_parts;

    /* The batch that is running. */
    bool open;              /* commands are being recorded */
    uint32_t recorded;      /* layers in the open batch */
    uint32_t sent;          /* batches of these tokens */
    uint32_t first_row;     /* of the batch, of the part at work */
    uint32_t parts;         /* of the last batch that went through devices in parts, those that were sent */
    double layer_work;      /* multiplications and additions that a layer takes for a row, at most */
    bool again;             /* steps with a state run once more */
    bool on_device;         /* the residual stream is there, else in scratch.hidden */
    bool inputs_sent;       /* positions' tables are there */
    uint64_t wait_value;    /* that the open batch must wait for */
    gpu_ticket wait_upload; /* likewise */
    gpu_ticket last;        /* batch */
    uint64_t signals;       /* values given to batches so far */
    /* Of the layer at work. */
    struct mixture {
        bool divided, visits, in_place; /* how experts that the device does not have are computed; none: it has all */
        gpu_ticket routed;              /* what was handed over is there; 0: nothing was */
        uint32_t layer;
    } mixture;
    struct {
        bool waiting;
        const struct step *experts;
        gpu_ticket routed; /* what the CPU reads is there */
        uint64_t value;    /* to signal when its rows are */
        uint32_t said;  /* asked.made of its layer */
    } host_share;
    bool hidden_on_device; /* of the last batch: engine_hidden */
    struct {
        uint8_t *out;
        uint64_t bytes; /* of a cache that are on their way there; 0: none */
    } reading;
    bool copying; /* from sequence to sequence */
    struct ahead ahead;
};

/* ---- what forward.c and engine.c call ---------------------------------------------------------------------------- */

/* No device is no error: count is 0, everything is then computed here, and whoever asked for one hears why. One that
 * cannot be opened is left out. */
hypura_status gpu_pass_open_devices(struct devices *out, const struct hardware *hardware,
                                    const struct engine_options *options, hypura_error *error);
void gpu_pass_close_devices(struct devices *devices);

/* What goes to the devices, before the rest is planned; *out stays NULL when nothing does. */
hypura_status gpu_pass_plan(struct plan_gpu **out, struct geometry *geometry, const struct devices *devices,
                            const struct hardware *hardware, const struct engine_options *options, hypura_error *error);

/* Fills what the planner wants to know, for all devices. abilities: [layers], the caller's. */
void gpu_pass_request(struct plan_gpu_request *out, uint8_t *abilities, const struct geometry *geometry,
                      const struct devices *devices, enum tensor_type kv_type);

/* After store_load. */
hypura_status gpu_pass_open(struct batch *batch, hypura_error *error);
void gpu_pass_close(struct batch *batch);

/* After an error of a device while a model was opened: which one it was. */
bool gpu_pass_failed(const struct batch *batch, uint32_t *number);

/* Whether a layer is computed on a device. */
bool gpu_pass_has(const struct batch *batch, uint32_t layer);

/* Start and end of a batch; an error in between needs gpu_pass_abandon. */
void gpu_pass_begin(struct batch *batch);
void gpu_pass_abandon(struct batch *batch);

/* Embeds tokens where the embedding is on the GPU; *done says whether it was. Rows that the GPU cannot read are read
 * from the file. */
hypura_status gpu_pass_embed(struct batch *batch, const int32_t *tokens, bool *done, hypura_error *error);
hypura_status gpu_pass_layer(struct batch *batch, uint32_t layer, hypura_error *error);

/* Whether rows that nobody wants can leave the batch in a layer that is there, so that it is the last one. */
bool gpu_pass_can_narrow(const struct batch *batch, uint32_t layer);

/* Between batches: logits of a row that the block which drafts gives, where the output matrix is on a device; *done says
 * whether it is. Those of the last batch are gone then. */
hypura_status gpu_pass_predict(struct batch *batch, const struct step_output *output, const float *row, float *logits,
                               bool *done, hypura_error *error);

/* The end of a batch of which no row goes on. */
hypura_status gpu_pass_end(struct batch *batch, hypura_error *error);

/* Whether a batch goes through several devices in parts, which work at the same time, and whether rows are embedded there
 * too; if so this takes the place of embedding (which else comes before it), layers and output. */
bool gpu_pass_pipelines(const struct batch *batch, bool *embeds);
hypura_status gpu_pass_pipeline(struct batch *batch, hypura_error *error);

/* Brings the residual stream to scratch.hidden, if it is not there. */
hypura_status gpu_pass_to_host(struct batch *batch, hypura_error *error);

/* Norm and logits, where the output matrix is on a device; *done says whether it was. */
hypura_status gpu_pass_output(struct batch *batch, const struct engine_batch *asked, bool *done, hypura_error *error);

/* Logits and hidden states of the last batch where the GPU made them, else NULL. */
const float *gpu_pass_logits(const struct batch *batch);
const float *gpu_pass_hidden(const struct batch *batch);

/* A small tensor of a unit on the GPU that the CPU needs too, as floats. */
const float *gpu_pass_host_vector(const struct batch *batch, unit_number unit);

/* After a batch with drafts: the steps of a layer that have a state, for the batch's first rows, and their end. */
hypura_status gpu_pass_again(struct batch *batch, uint32_t layer, hypura_error *error);
hypura_status gpu_pass_end_again(struct batch *batch, hypura_error *error);

/* Bytes of a layer's cache that is there, between batches: to the host, from there, and to another place of it. What is
 * read has come, and what is written has arrived, after gpu_pass_settle_caches. */
hypura_status gpu_pass_read_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes, uint8_t *out,
                                  hypura_error *error);
hypura_status gpu_pass_write_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes,
                                   const uint8_t *in, hypura_error *error);
void gpu_pass_copy_cache(struct batch *batch, uint32_t layer, uint64_t from, uint64_t to, uint64_t bytes);
hypura_status gpu_pass_settle_caches(struct batch *batch, hypura_error *error);

/* ---- shared by the files of this folder -------------------------------------------------------------------------- */

hypura_status pass_make_buffers(struct batch *batch, hypura_error *error);

/* The device that a layer, or the output, belongs to is at work from now on; NULL: none has the output. */
void pass_choose(struct batch *batch, uint32_t layer);
struct gpu_pass *pass_with_output(const struct batch *batch);

/* A layer of the device at work. */
hypura_status pass_run_layer(struct batch *batch, uint32_t layer, hypura_error *error);

/* What it left for the next layer, to where the host sees it, as commands; where that is when they are done
 * (pass_carried's number); and to the scratch. */
void pass_record_leaving(struct batch *batch);
const void *pass_left(const struct batch *batch, size_t number);
void pass_take_leaving(struct batch *batch);

/* Opens a batch of commands if none is. */
void pass_record(struct gpu_pass *pass);
hypura_status pass_send(struct gpu_pass *pass, hypura_error *error);
void pass_drop_ahead(struct gpu_pass *pass); /* what was recorded ahead, before other commands are recorded */
hypura_status pass_finish(struct batch *batch, hypura_error *error); /* sends, and waits until all is done */

/* Norm, logits of rows first to first + count of those that are wanted, and their way back, as commands. */
hypura_status pass_record_output(struct batch *batch, size_t first, size_t count, hypura_error *error);

/* Logits of rows that stand one after another, and their way back. */
void pass_record_logits(struct batch *batch, const struct step_output *output, struct gpu_range rows, size_t count);

/* Whether the next token's commands can be recorded ahead at all, since devices do all of it; whether those that were
 * fit the batch that begins; and recording those of the device at work, if that is worth while. */
bool pass_devices_do_all(const struct batch *batch);
void pass_expect(struct batch *batch);
void pass_record_ahead(struct batch *batch);

struct gpu_range range_at(struct gpu_range range, uint64_t floats);
struct gpu_matrix pass_matrix(const struct batch *batch, unit_number unit);
struct gpu_range pass_vector(const struct batch *batch, unit_number unit); /* without a buffer for NO_UNIT */

/* Where the sequences of the batch are in a layer's cache, and in a further plane of it; up to the next call. */
const struct gpu_sequence *pass_find_sequences(const struct batch *batch, uint32_t layer);
const struct gpu_sequence *pass_find_plane(const struct batch *batch, uint32_t layer, uint32_t plane);

/* One row through what the device computes: HYPURA_ERROR_DEVICE where it fails. */
hypura_status pass_try(struct batch *batch, hypura_error *error);

/* The residual stream, and what depends on the positions of the batch, where they are not there yet. */
void pass_to_device(struct batch *batch);

/* The steps of a layer that is there, and of what comes after the layers, rewritten for the batch at hand. */
struct step_list pass_steps(const struct batch *batch, uint32_t layer);
struct step_list pass_steps_after(const struct batch *batch);
hypura_status pass_make_lists(struct batch *batch, hypura_error *error);
void pass_free_lists(struct gpu_pass *pass);

/* The layer in which rows leave the batch. */
hypura_status pass_record_narrowing(struct batch *batch, struct step_list list, hypura_error *error);

/* What routers of the layers after this one, which is at its own router, say; and bits of the buffers that their steps
 * write. */
hypura_status pass_ask_routers(struct batch *batch, uint32_t layer, hypura_error *error);
uint32_t pass_asked_buffers(const struct geometry *geometry);

/* Tells the prefetcher what came back of them. */
void pass_tell_asked(struct batch *batch, uint32_t made);

/* Records steps, each waiting for what it reads. pass_settle: whatever comes next waits for all of them. */
hypura_status pass_record_steps(struct batch *batch, struct step_list list, hypura_error *error);
void pass_settle(struct gpu_pass *pass);
void pass_move_inputs(struct batch *batch, const struct step *step, bool back); /* as keep_inputs, bring_inputs */
bool pass_records(enum step_kind kind);                                         /* whether there are commands for it */

typedef hypura_status record_function(struct batch *batch, const struct step *step, hypura_error *error);
record_function pass_record_multiply, pass_record_index, pass_record_compress, pass_record_pool;
record_function pass_record_gather, pass_record_scatter, pass_record_gather_gated, pass_record_agree;
record_function pass_record_predict, pass_record_correct, pass_record_sparse, pass_record_match;
record_function pass_record_look_up, pass_record_chunk_experts;
record_function pass_record_heads, pass_record_spread, pass_record_attend, pass_record_attend_latent;
record_function pass_record_convolve, pass_record_scan;
record_function pass_record_delta_net, pass_record_route, pass_record_experts;

/* A buffer's rows as they are in this batch: as floats, as halves, or without a buffer where they are not so. */
struct gpu_range pass_floats(const struct gpu_pass *pass, enum step_buffer buffer);
struct gpu_range pass_halves(const struct gpu_pass *pass, enum step_buffer buffer);
bool pass_takes_halves(const struct batch *batch); /* whether products of this batch may read halves */

/* Whether the next step is the only reader of what this one gives, and would rather have halves. */
bool pass_may_give_halves(const struct batch *batch, const struct step *step, enum step_buffer buffer);

/* The gated product of the gate's and up's rows; as halves where may_halve and the reader takes those: whether it is.
 */
bool pass_glu(struct batch *batch, const struct gpu_glu_kind *glu, const struct gpu_matrix *reader,
              uint64_t slot_stride, uint32_t rows, uint32_t inner, bool may_halve);

struct gpu_mix pass_mix(const struct batch *batch, const struct step_mix *mix);

/* The step that reads a table in a layer that is there; NULL: none. And its rows, waited for, to where the device reads
 * them. */
const struct step *pass_table_there(const struct batch *batch);
hypura_status pass_fill_table(struct batch *batch, hypura_error *error);

/* How many positions blocks have, each number once: how many there are, which may be more than have room. And the
 * angles where those blocks begin that end in this batch, adjacent (NULL: none): how many. */
uint32_t pass_find_blocks(const struct geometry *geometry, uint32_t out[PASS_BLOCKS]);
uint32_t pass_fill_blocks(struct batch *batch, uint32_t every, float *angles);

/* Attention to the last positions and to what stands compressed behind them. */
void pass_attend_compressed(struct batch *batch, const struct step_attend *attend,
                            const struct gpu_attention *attention);

/* Attention of rows from first_row of the batch on to what they chose; false, and nothing done, where they see all. */
bool pass_attend_chosen(struct batch *batch, const struct step_choice *chosen, uint32_t first_row,
                        const struct gpu_attention *attention);

/* Room for the scores of a search. */
uint64_t pass_score_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);

/* Of latent attention: rows worked on at once, scratch of the attention itself, and what is filled when all buffers are
 * there. */
uint32_t pass_latent_rows(const struct geometry *geometry, uint32_t chunk);
uint64_t pass_latent_attention_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions);
hypura_status pass_open_latent(struct batch *batch, hypura_error *error);

/* The experts of a layer that stand in slots, for the rows of the batch. */
void pass_run_experts(struct batch *batch, const struct step *experts, const struct store_slots *slots);

/* The layer's other experts, brought there for this batch: whether that is quicker, and doing it. */
bool pass_should_visit(const struct batch *batch, uint32_t layer);
hypura_status pass_visit(struct batch *batch, const struct step *experts, hypura_error *error);
hypura_status pass_make_visits(struct batch *batch, hypura_error *error);

/* The layer's experts from where they stand in memory, between the router's choice and the sum; whether that can be. */
bool pass_reads_in_place(const struct batch *batch, uint32_t layer);
hypura_status pass_in_place(struct batch *batch, const struct step *experts, hypura_error *error);
hypura_status pass_let_go(struct batch *batch, hypura_error *error); /* waits for the batches that read so */
bool pass_can_read_in_place(struct gpu *gpu, const struct model *model);
hypura_status pass_make_holds(struct batch *batch, hypura_error *error);
void pass_free_holds(struct batch *batch);

/* The choices of a layer that the CPU waited for, in scratch.chosen and chosen_weights; counted, and written to a
 * trace.
 */
hypura_status pass_take_choices(struct batch *batch, const struct step *experts, hypura_error *error);

/* Of experts that chunks of others share: how many, and how wide they are; and what is filled when all buffers are
 * there.
 */
void pass_find_chunks(struct gpu_pass *pass, const struct geometry *geometry);
hypura_status pass_open_chunks(struct batch *batch, hypura_error *error);

/* What the CPU has to do before the batches that were sent can run. */
hypura_status pass_host_share(struct batch *batch, hypura_error *error);

/* Products, and what adapters add to each. layer -1: of the whole model. */
void pass_multiply(struct batch *batch, int32_t layer, const struct pass_product *products, size_t count);

/* Of products that were recorded: times their scales. */
void pass_scale(struct batch *batch, const struct pass_product *products, size_t count);
bool pass_is_adapted(const struct batch *batch, int32_t layer, enum tensor_role role);

/* What adapters of a layer (-1: of the whole model) take on the device. */
uint64_t pass_adapter_bytes(const struct adapters *adapters, int32_t layer);
hypura_status pass_open_adapters(struct batch *batch, hypura_error *error);
void pass_close_adapters(struct gpu_pass *pass);

/* Where a step's part of the states of the batch's sequences is: of each there are two in turn. A token that is
 * recorded ahead follows one that is not counted yet, and has left its state in the other. */
void pass_find_states(const struct batch *batch, const struct step *step, struct gpu_state_sequence *out);

#endif
