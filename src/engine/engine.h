/* engine: the forward pass, KV caches, states, budgets, drafting and generation.
 *
 * One forward pass serves every architecture, resident or streamed, one token or a thousand. It executes the model's
 * steps (steps/), asks the store for units, and calls compute. An engine owns the model, the plan, the store, the
 * threads of compute and the caches of all sequences.
 *
 * Determinism: logits depend on the file and on the tokens up to a position. Budget, tier, order of arrival, number of
 * threads and the way tokens were cut into batches change no bit.
 *
 * Ownership: the caller of engine_open calls engine_close or engine_leave. The engine owns what these functions return
 * pointers to, except plans, which the caller frees with plan_free.
 *
 * Threads: one thread at a time uses an engine. Meanwhile, any thread may call engine_cancel, engine_stop, engine_lost,
 * engine_statistics, engine_set_budget, engine_ranks and engine_take_used. */
#ifndef HYPURA_ENGINE_H
#define HYPURA_ENGINE_H

#include "core/core.h"
#include "model/model.h"
#include "plan/plan.h"
#include "prefix/prefix.h"
#include "store/store.h"
#include "tokenizer/vocabulary.h"

struct engine;

/* A LoRA adapter in a GGUF file. Products use W + scale * (alpha / rank) B A; the matrix W itself stays as it is. */
struct engine_adapter {
    const char *path;
    float scale; /* 1: as trained */
};

/* Whether a generator drafts tokens (draft.h): AUTO while it pays, ON always as many as possible, OFF never. */
enum engine_drafting { DRAFTING_AUTO, DRAFTING_ON, DRAFTING_OFF };

struct engine_options {
    uint64_t budget;          /* bytes for the whole process; 0: automatic */
    int64_t reserved;         /* of these, what other parts of the process will still allocate; negative: what they will
                               * release */
    uint32_t context;         /* positions per sequence; 0: automatic */
    uint32_t sequences;       /* 0: 1 */
    uint32_t chunk;           /* the most tokens per batch; 0: automatic */
    size_t threads;           /* 0: the cores that this process may use */
    bool shared_context;      /* sequences share the room for positions (engine_room) when memory is short */
    enum tensor_type kv_type; /* TENSOR_F32 is 0: set by engine_default_options to F16 */
    enum store_reader reader;
    enum store_prefetching prefetching;
    bool fill;                             /* fill free slots of the expert cache between passes (store/store.h) */
    const char *cache_policy;              /* for streamed experts, by name (store/policy.h); NULL: the default */
    const struct engine_adapter *adapters; /* added in this order; not kept */
    size_t adapter_count;
    const char *const
        *mirrors; /* copies of the model on other drives, files or folders (store_find_drives); not kept */
    size_t mirror_count;
    uint32_t depth;    /* reads in flight per drive; 0: as measured */
    bool wait_for_all; /* compute a layer's experts only once all have arrived; for comparison */
    enum engine_drafting drafting;
    const char *draft_path;     /* a smaller model that drafts tokens, or NULL */
    bool draft_optional;        /* if it cannot be used, warn and run without it; else fail */
    bool keep_prefixes;         /* keep computed prefixes for other texts that begin alike (prefix/prefix.h) */
    uint64_t prefix_bytes;      /* the most memory that they take, lent by the budget; 0: automatic */
    const char *prefix_path;    /* a folder to which they are written, or NULL */
    uint64_t prefix_path_bytes; /* the most bytes there; 0: PREFIX_FOLDER_BYTES */
    bool remember_usage;        /* keep from run to run which experts were used, in the user's state folder */
    const char *trace_path;     /* a file that records the routing, or NULL */
    bool begin_early;           /* start the first pass while weights are still being loaded (load_behind) */
    store_progress progress;    /* called while weights are loaded, with begin_early in the first pass too */
    const char *gpu;        /* "auto", "none", or a device by its number in "hypura profile"; NULL: $HYPURA_GPU, auto */
    uint64_t gpu_budget;    /* bytes of each device's memory; 0: what is free there, less some headroom */
    uint32_t gpus_left_out; /* devices that failed, as bits in the order of gpu */
    uint64_t gpu_budgets[HARDWARE_MAX_GPUS]; /* per device, in the order of gpu; 0: gpu_budget */
    bool gpu_fixed;                          /* experts stay where they were when the model was opened */
    void *progress_context;
    const struct hardware_nodes *nodes;   /* NUMA nodes; NULL: the machine's. For tests */
    const struct plan_hit_curve *routing; /* the use of experts, instead of what earlier runs showed; or NULL */
    const uint64_t *uses;                 /* [units] of each expert, likewise; or NULL */
    bool alone;                           /* compute nothing on other hosts, even under mpirun */
    const uint8_t *elsewhere;             /* [units] 1: another host holds it; set while the engine is opened */
    bool experts_only;                    /* this rank computes experts for another one */
};

void engine_default_options(struct engine_options *options);

/* Opens a model as engine_open does: with its prediction block (model_open_predicting) if that will draft. It will if
 * drafting is on, no smaller model drafts, no routing is recorded, the CPU can keep up with the GPUs, and the memory of
 * the block costs hardly any speed or context; with DRAFTING_ON, the last two do not matter. Otherwise why[ENGINE_WHY]
 * (may be NULL) says why not; it is empty if the file has no such block. The hardware gets the model's drives, which
 * hardware_drop_drives frees. */
#define ENGINE_WHY 512
hypura_status engine_open_file(struct model **out, const char *path, struct hardware *hardware,
                               const struct engine_options *options, char *why, hypura_error *error);

hypura_status engine_open(struct engine **out, const char *path, const struct engine_options *options,
                          hypura_error *error);
void engine_close(struct engine *engine);

/* Runs a rank other than 0 under mpirun (cluster/cluster.h): it holds and computes its share of the models that rank 0
 * opens, until rank 0 ends. */
hypura_status engine_serve(const struct engine_options *options, hypura_error *error);

/* Replaces engine_close in a program that is about to exit: saves what must outlast the process, and does not wait for
 * reads in flight, which may take long on a slow drive. The engine must not be used or closed afterwards. */
void engine_leave(struct engine *engine);

const struct model *engine_model(const struct engine *engine);
const struct plan *engine_plan(const struct engine *engine);
const struct hardware *engine_hardware(const struct engine *engine);

/* The devices that compute parts of the model, by number; engine_gpu is the first. NULL: no such device. */
const struct gpu_info *engine_gpu(const struct engine *engine);
const struct gpu_info *engine_gpu_at(const struct engine *engine, uint32_t number);
const struct hardware_gpu *engine_device_at(const struct engine *engine, uint32_t number); /* as measured */

/* Whether a device was lost. Then every forward pass fails with HYPURA_ERROR_DEVICE until the model is opened again,
 * with that device if it is back, else with the others. Any thread may call it. */
bool engine_lost(const struct engine *engine);
struct store *engine_store(struct engine *engine);

/* The model's vocabulary, which the engine owns because it counts against the budget. A model with an unsupported
 * vocabulary still runs on token ids; this function then fails with the reason. */
hypura_status engine_vocabulary(const struct vocabulary **out, const struct engine *engine, hypura_error *error);
size_t engine_threads(const struct engine *engine);

/* Plans what engine_open would do on this machine, without loading. Free the plan with plan_free. */
hypura_status engine_plan_only(struct plan **out, const struct model *model, const struct hardware *hardware,
                               const struct engine_options *options, hypura_error *error);

/* The description of a host, for plans over hosts that need not exist. */
struct engine_host {
    char name[64];
    uint64_t memory;                            /* bytes that the process may hold */
    double link_bytes_per_second, link_seconds; /* as in struct plan_host */
    const struct hardware *hardware;
};

/* Plans what these hosts would do together on their CPUs, the first of them as rank 0 (src/plan/hosts.h). *first is the
 * plan for that host alone; free it with plan_free. Options that describe this machine are ignored. */
struct plan_hosts;
hypura_status engine_plan_hosts(struct plan_hosts *out, struct plan **first, const struct model *model,
                                const struct engine_host *hosts, uint32_t count, const struct engine_options *options,
                                hypura_error *error);

/* The units that a host of the plan serves, [model_unit_count]: its experts, and what their computation needs. */
hypura_status engine_hosts_part(uint8_t *units, const struct model *model, const struct plan_hosts *plan, uint32_t host,
                                hypura_error *error);

/* A digest of a model's header and of samples of its weights. */
hypura_status engine_weights_digest(uint64_t *out, const struct model *model, hypura_error *error);

/* What a sequence of this many positions keeps, by kind: bytes per position (double), or bytes in all (uint64_t). */
struct engine_kept {
    double keys;       /* keys and values, or latent vectors */
    double compressed; /* rows that stand for several positions each */
    double index;      /* the short keys of an indexer */
    uint64_t windows;  /* layers that see only the last positions */
    uint64_t states;   /* recurrences, and what is not yet compressed */
};
hypura_status engine_kept_of(struct engine_kept *out, const struct model *model, uint32_t positions,
                             enum tensor_type type, hypura_error *error);

/* Plans like engine_plan_only, and forecasts the time to the first token of the answer for prompts of these lengths,
 * with the weights loaded: seconds[count]. A prompt longer than the plan's context is forecast as if it fitted. The
 * caller holds the model's vocabulary meanwhile, because the budget of a run includes it. */
hypura_status engine_forecast(struct plan **out, double *seconds, const uint32_t *prompts, size_t count,
                              const struct model *model, const struct hardware *hardware,
                              const struct engine_options *options, hypura_error *error);

/* The speed that a plan with this many more (or fewer) bytes would expect. */
hypura_status engine_speed_with(double *tokens_per_second, const struct model *model, const struct hardware *hardware,
                                const struct engine_options *options, int64_t more_bytes, hypura_error *error);

/* Tokens of one or more sequences that share one pass over the weights. */
struct engine_batch {
    size_t count; /* 1 to engine_plan()->chunk */
    const int32_t *tokens;
    const uint32_t *positions; /* consecutive within a sequence, from the number of positions held */
    const uint32_t *sequences; /* below plan->sequences; tokens of a sequence are adjacent. NULL: all 0 */
    const bool *want_logits;   /* NULL: of the last token only */
    bool want_hidden;          /* fill engine_hidden: all tokens pass all layers, whichever want logits */
    uint32_t drafted; /* this many last tokens of the only sequence are drafts, at most engine_drafts; engine_accept
                         says which of them were right */

    /* Called for each token that wants logits, in order; false stops with HYPURA_ERROR_CANCELLED. If NULL, at most
     * engine_logits_rows tokens may want logits, and engine_logits returns them afterwards. */
    bool (*on_logits)(void *context, size_t index, const float *logits);
    void *on_logits_context;
};

/* Runs a batch. Token ids and positions are checked. After an error (HYPURA_ERROR_CANCELLED included) the sequences
 * hold the same positions as before. If a file that was read from has been written to since it was opened, this batch
 * and all later ones fail with HYPURA_ERROR_IO. */
hypura_status engine_forward(struct engine *engine, const struct engine_batch *batch, hypura_error *error);

enum engine_drafting engine_drafting(const struct engine *engine);

/* The smaller model that drafts tokens; NULL: none. */
struct engine *engine_draft_model(const struct engine *engine);

/* The most drafted tokens per batch. 0 for an encoder, while routing is recorded, and with DRAFTING_OFF if the model
 * has states. */
uint32_t engine_drafts(const struct engine *engine);

/* After a batch with drafted tokens: keeps the first "accepted" of them, and makes the sequence forget the others. The
 * steps with a state compute it again from the state before the batch. After an error, the sequence is empty. */
hypura_status engine_accept(struct engine *engine, uint32_t accepted, hypura_error *error);

/* Watches what the CPU multiplies the matrices of layers by: "see" gets each input row, in no particular order, on the
 * thread that runs the batch. matrix: the number of the expert or head within the tensor, or 0. While a watch is set,
 * all rows pass all layers. NULL removes it. */
struct engine_watch {
    void (*see)(void *context, const struct gguf_tensor *tensor, uint32_t matrix, const float *row, size_t columns);
    void *context;
};
void engine_watch_inputs(struct engine *engine, const struct engine_watch *watch);

/* Whether the model was opened with its prediction block. */
bool engine_predicts(const struct engine *engine);

/* The prediction block's logits for the token after "token", which itself follows what the sequence holds. With
 * "further", "token" follows the one of the previous call instead. Valid until the next forward; invalidates
 * engine_logits. An error means that the block did not see the previous pass and cannot predict. */
hypura_status engine_predict(struct engine *engine, uint32_t sequence, int32_t token, bool further,
                             const float **logits, hypura_error *error);

/* Logits [vocabulary] of the index-th of those tokens of the batch that wanted them; valid until the next forward. */
const float *engine_logits(const struct engine *engine, size_t index);

/* The prefixes kept beyond the sequences; NULL: none. For the thread that uses the engine. */
struct prefix_store *engine_prefixes(const struct engine *engine);

/* Runs tasks on the threads that compute, between two batches. */
void engine_run(struct engine *engine, thread_task task, void *context, size_t count);

/* How many rows of logits engine_logits holds: at least one per sequence. */
size_t engine_logits_rows(const struct engine *engine);

/* Final hidden states of all tokens of a batch with want_hidden, normed: [count][embedding]. */
const float *engine_hidden(const struct engine *engine);

/* The embedding of a text, pooled and scaled to length 1: out[embedding]. Clears sequence 0 before and after. Without
 * tokens it is zero. In an encoder the text must fit one batch, and thus the context. */
hypura_status engine_embed(struct engine *engine, const int32_t *tokens, size_t count, float *out, hypura_error *error);

/* engine_judges: whether the model is a re-ranker (pooling_type 4). engine_judge: the score of a text, which is the
 * first output of the classifier; for a decoder, that output's share of all outputs. The rest is as for
 * engine_embed. */
bool engine_judges(const struct engine *engine);
hypura_status engine_judge(struct engine *engine, const int32_t *tokens, size_t count, float *score,
                           hypura_error *error);

/* engine_positions: how many positions a sequence holds. engine_truncate: forgets all from a position on. Layers with a
 * state cannot go back, and layers with a window not far. If a layer cannot, engine_truncate clears the sequence and
 * returns false. */
uint32_t engine_positions(const struct engine *engine, uint32_t sequence);
bool engine_truncate(struct engine *engine, uint32_t sequence, uint32_t positions);

/* ---- a sequence's data ---------------------------------------------------------------------------------------------
 *
 * Between batches, the data that layers keep of a sequence can be read, and written to any sequence of an engine with
 * the same engine_state_digest, in this process or a later one. What is computed from it has the same bits. It has two
 * parts:
 *
 *   rows        what layers keep per position: keys, values, latent rows, keys of an indexer, rows that represent
 *               several positions. The rows of positions first to end depend only on the tokens before end, and never
 *               change. If a range is cut at multiples of PLAN_KV_BLOCK, its bytes are those of its parts, one after
 *               another. So blocks can be read together, kept separately, and written together.
 *   checkpoint  what exists for one position only: the states of recurrent layers, what is not yet compressed, and the
 *               last positions of layers with a window. Models without these need no checkpoint.
 *
 * Rows up to a position, and a checkpoint that was read there, bring a sequence to that position. If engine_truncate
 * cannot go back, the rows stay, and a checkpoint alone brings the sequence to an earlier position. */

/* The bytes of the rows of positions first to end, 0 if first is not below end; the most bytes of a checkpoint, 0 if
 * the model needs none. */
uint64_t engine_rows_bytes(const struct engine *engine, uint32_t first, uint32_t end);
uint64_t engine_checkpoint_bytes(const struct engine *engine);

/* The bytes of a checkpoint at this position: fewer while a window is not full. */
uint64_t engine_checkpoint_bytes_at(const struct engine *engine, uint32_t position);

/* How many positions have rows in a sequence: those that it holds, those written after them, and those up to a position
 * that engine_truncate could not go back to. Rows beyond the held positions are forgotten with the sequence's next
 * batch, or when other sequences take the room (engine_room). */
uint32_t engine_rows_there(const struct engine *engine, uint32_t sequence);

/* Reads rows that exist (engine_rows_there). */
hypura_status engine_read_rows(struct engine *engine, uint32_t sequence, uint32_t first, uint32_t end, void *out,
                               hypura_error *error);

/* Writes rows from first on, which is at most engine_rows_there. The sequence forgets what it holds from first on, as
 * with engine_truncate, and has rows up to end. They take room as a batch does. */
hypura_status engine_write_rows(struct engine *engine, uint32_t sequence, uint32_t first, uint32_t end, const void *in,
                                hypura_error *error);

/* Clears a sequence and gives it the rows of the first positions of another one, at most as many as that has, in whole
 * blocks of PLAN_KV_BLOCK. Both share the memory until one of them writes there; that one then gets its own copy. On
 * devices, which have room for all rows of each sequence, the rows are copied. HYPURA_ERROR_UNSUPPORTED: some rows are
 * not keys and values of single positions. */
hypura_status engine_share_rows(struct engine *engine, uint32_t sequence, uint32_t from, uint32_t positions,
                                hypura_error *error);

/* Reads the checkpoint of the position that the sequence holds: engine_checkpoint_bytes_at bytes. */
hypura_status engine_read_checkpoint(struct engine *engine, uint32_t sequence, void *out, hypura_error *error);

/* Makes a sequence hold this many positions, whose rows must exist. tokens: [position], their tokens. in: the
 * checkpoint of that position; NULL if the model needs none. */
hypura_status engine_write_checkpoint(struct engine *engine, uint32_t sequence, uint32_t position,
                                      const int32_t *tokens, const void *in, hypura_error *error);

/* A digest of everything that this data depends on: the model's header and samples of its weights, adapters, the type
 * of the cache, and where and how layers are computed. Reads from the model's files. */
hypura_status engine_state_digest(uint64_t *out, const struct engine *engine, hypura_error *error);

/* Whether layers have states, so that engine_truncate cannot go back at all. */
bool engine_has_states(const struct engine *engine);

/* If sequences share room: the most positions that they hold together, counted in whole blocks of PLAN_KV_BLOCK, shared
 * blocks once. A batch that needs more fails with HYPURA_ERROR_MEMORY. UINT64_MAX: every sequence has room for its
 * context. */
uint64_t engine_room(const struct engine *engine);

/* How much of the room the sequences take if they hold positions[sequences]; shared blocks count once. */
uint64_t engine_room_of(const struct engine *engine, const uint32_t *positions);

/* Whether engine_share_rows works for this model. */
bool engine_can_share(const struct engine *engine);

/* With true, a running forward returns HYPURA_ERROR_CANCELLED within milliseconds, and later ones at once, until this
 * is called with false. Async-signal-safe with true. */
void engine_cancel(struct engine *engine, bool cancel);

/* The same for a single forward, independent of engine_cancel: call it with true from any thread, and with false
 * between two forwards. Does not stop a draft model. */
void engine_stop(struct engine *engine, bool stop);

/* Completes the file of trace_path, between batches; an error says what was lost. Does nothing without a trace. */
hypura_status engine_end_trace(struct engine *engine, hypura_error *error);

/* Changes the budget of the whole process while running; the pool and resident pieces follow (store_resize). An error
 * says what is missing. */
hypura_status engine_set_budget(struct engine *engine, uint64_t bytes, hypura_error *error);

/* A device that computes a part of the model. */
struct engine_device {
    const char *name;
    uint32_t layers;
    uint64_t bytes;         /* weights */
    uint64_t kv_bytes;      /* keys, values and states */
    uint64_t kv_used_bytes; /* of these, those that no other sequence can take; shared ones count once */
    double busy_seconds;    /* time computing, or waiting for the CPU's share; 0: unknown */
};

struct engine_statistics {
    double load_seconds;
    uint64_t prompt_tokens, generated_tokens; /* tokens of batches with several known tokens per sequence; tokens of
                                                 batches with one, and accepted drafts */
    uint64_t decode_passes;                   /* batches that generated tokens */
    uint64_t drafted_tokens, accepted_tokens; /* drafts in those passes, and those that were right */
    double prompt_seconds, decode_seconds;
    uint64_t decode_bytes_read; /* from storage while decoding, without wasted prefetches */
    uint64_t peak_rss_bytes;
    uint64_t budget_bytes, largest_budget_bytes;  /* now; the largest so far, which bounds the peak */
    uint64_t bytes_gpu, bytes_ram, bytes_storage; /* weights by tier, now; storage: in no memory */
    struct store_statistics store;
    struct prefix_statistics prefix;
    struct engine_device devices[HARDWARE_MAX_GPUS];
    uint32_t device_count;
};
void engine_statistics(struct engine *engine, struct engine_statistics *out);

/* What each rank did, rank 0 first. Returns the number of ranks, 0 without other hosts. Any thread may call it. */
struct engine_rank {
    uint32_t rank;
    const char *name;              /* valid until the engine is closed */
    uint32_t layers;               /* whose matrices it has, in a model without experts */
    uint64_t experts_computed;     /* counted per token */
    uint64_t gpu_experts_computed; /* of these, on GPUs of ranks other than 0 */
    uint64_t expert_hits, expert_misses, bytes_read;
    uint64_t bytes_sent, bytes_received;        /* to and from it */
    double busy_seconds, wait_seconds;          /* while it computed; while rank 0 waited for it */
    double link_seconds, link_bytes_per_second; /* as measured at the start; zeros for rank 0 */
};
uint32_t engine_ranks(struct engine *engine, struct engine_rank *out, uint32_t most);

/* The tokens per second that the plan for these ranks expects; 0: there is no such plan. */
double engine_ranks_expect(const struct engine *engine);

/* Gets the experts that were used since the last call, as used[layer * experts + expert]. Any thread may call it. */
void engine_take_used(struct engine *engine, bool *used);

#endif
