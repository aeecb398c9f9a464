/* engine: the forward pass and what stands around it: KV cache, mixture of experts, sampling, generation.
 *
 * One forward pass serves every architecture, resident or streamed, one token or a thousand: it reads the description
 * of the model (model/), asks the store for units, and calls compute. An engine owns the model, the plan, the store,
 * the compute pool and the caches of all sequences.
 *
 * Determinism: logits depend on the file and the tokens before a position, not on the budget, the tier, the arrival
 * order, the thread count or how tokens were cut into batches.
 *
 * Threads: one thread at a time uses an engine; engine_cancel, engine_statistics and engine_set_budget may be called
 * from any thread while it runs.
 */
#ifndef HYPURA_ENGINE_H
#define HYPURA_ENGINE_H

#include "core/core.h"
#include "model/model.h"
#include "plan/plan.h"
#include "prefix/prefix.h"
#include "store/store.h"
#include "tokenizer/vocabulary.h"

struct engine;

/* A LoRA adapter in a GGUF file: the model's matrices become W + scale * (alpha / rank) B A, without being touched. */
struct engine_adapter {
    const char *path;
    float scale; /* 1: as trained */
};

/* Whether a generator drafts tokens (draft.h): while it pays, as many as can be, none. */
enum engine_drafting { DRAFTING_AUTO, DRAFTING_ON, DRAFTING_OFF };

struct engine_options {
    uint64_t budget;          /* bytes for the whole process; 0: chosen */
    int64_t reserved;         /* of these, what others in the process will take beside what they hold now; negative:
                               * what they will have given back */
    uint32_t context;         /* positions a sequence; 0: chosen */
    uint32_t sequences;       /* 0: 1 */
    uint32_t chunk;           /* most tokens a batch; 0: chosen */
    size_t threads;           /* 0: the cores that this process may use */
    bool shared_context;      /* sequences share the room for positions (engine_room) when memory is short */
    enum tensor_type kv_type; /* TENSOR_F32 is 0: set by engine_default_options to F16 */
    enum store_reader reader;
    enum store_prefetching prefetching;
    bool fill;                             /* free slots of the expert cache between passes (store/store.h) */
    const char *cache_policy;              /* for streamed experts, by name (store/policy.h); NULL: the default */
    const struct engine_adapter *adapters; /* added in this order; not kept */
    size_t adapter_count;
    const char *const
        *mirrors; /* copies of the model on other drives, files or folders (store_find_drives); not kept */
    size_t mirror_count;
    uint32_t depth;    /* reads in flight, of each drive; 0: as measured */
    bool wait_for_all; /* compute a layer's experts only when all are there; for comparison */
    enum engine_drafting drafting;
    const char *draft_path;  /* a smaller model that drafts tokens, or NULL */
    bool draft_optional;     /* where it cannot, a warning says so, and the model runs without; else that is an error */
    bool keep_prefixes;      /* what was computed of texts, for others that begin the same (prefix/prefix.h) */
    uint64_t prefix_bytes;   /* of memory, at most: lent by the budget when it is wanted; 0: chosen */
    const char *prefix_path; /* a folder that it is written to, or NULL */
    uint64_t prefix_path_bytes; /* of that, at most; 0: PREFIX_FOLDER_BYTES */
    bool remember_usage;        /* which experts were used, from run to run, in the user's state folder */
    const char *trace_path;     /* records the routing, or NULL */
    bool begin_early;           /* the first pass need not wait for weights that it does not need yet (load_behind) */
    store_progress progress;    /* while weights are loaded; with begin_early in the first pass too */
    const char *gpu;        /* "auto", "none", or a device by its number in "hypura profile"; NULL: $HYPURA_GPU, auto */
    uint64_t gpu_budget;    /* bytes of each device's memory; 0: what is free there, less a head-room */
    uint32_t gpus_left_out; /* bits by the order of gpu: they failed */
    uint64_t gpu_budgets[HARDWARE_MAX_GPUS]; /* of each device in the order of gpu; 0: gpu_budget says */
    bool gpu_fixed;                          /* experts stay on the side where they are when the model is opened */
    void *progress_context;
    const struct hardware_nodes *nodes;   /* of memory; NULL: those that are found. For tests */
    const struct plan_hit_curve *routing; /* how experts are used, instead of what earlier runs showed; or NULL */
    bool alone;                           /* under mpirun too: nothing is computed on other hosts */
    const uint8_t *elsewhere;             /* [units] what other hosts have, once that is known */
    bool experts_only;                    /* a rank that computes experts for another one */
};

void engine_default_options(struct engine_options *options);

/* Opens a model as engine_open does: with the block of it that predicts further tokens (model_open_predicting) where
 * that is to draft. It does where drafting is on, no other model drafts, nothing is computed on a GPU, and the memory
 * that it takes costs hardly any speed (DRAFTING_ON: whatever it costs). Otherwise "why" (may be NULL) says what is
 * against it, [ENGINE_WHY], empty where the file has no such block. The hardware gets the model's drives, which
 * hardware_drop_drives frees. */
#define ENGINE_WHY 512
hypura_status engine_open_file(struct model **out, const char *path, struct hardware *hardware,
                               const struct engine_options *options, char *why, hypura_error *error);

hypura_status engine_open(struct engine **out, const char *path, const struct engine_options *options,
                          hypura_error *error);
void engine_close(struct engine *engine);

/* What a rank other than 0 does under mpirun (cluster/cluster.h): holds and computes its share of the models that rank
 * 0 opens, until that one ends. */
hypura_status engine_serve(const struct engine_options *options, hypura_error *error);

/* Instead of engine_close, for a program that ends at once: keeps what is to be kept, and does not wait for reads in
 * flight, which a slow drive may take long for. Nothing of the engine may be used after it, nor closed. */
void engine_leave(struct engine *engine);

const struct model *engine_model(const struct engine *engine);
const struct plan *engine_plan(const struct engine *engine);
const struct hardware *engine_hardware(const struct engine *engine);

/* The first device that computes a part of the model, and the others by number; NULL: there is none (more). */
const struct gpu_info *engine_gpu(const struct engine *engine);
const struct gpu_info *engine_gpu_at(const struct engine *engine, uint32_t number);
const struct hardware_gpu *engine_device_at(const struct engine *engine, uint32_t number); /* as it was measured */

/* Whether one of them was lost: then every forward pass fails with HYPURA_ERROR_DEVICE, until the model is opened anew,
 * with the device if it is back, else with those that are left. From any thread. */
bool engine_lost(const struct engine *engine);
struct store *engine_store(struct engine *engine);

/* The model's vocabulary, which the engine owns since it is part of the budget. A model without one that is understood
 * still runs on token ids: then this fails with the reason. */
hypura_status engine_vocabulary(const struct vocabulary **out, const struct engine *engine, hypura_error *error);
size_t engine_threads(const struct engine *engine);

/* Plans without loading: what engine_open would do on this machine, for inspect. The result is freed with plan_free. */
hypura_status engine_plan_only(struct plan **out, const struct model *model, const struct hardware *hardware,
                               const struct engine_options *options, hypura_error *error);

/* A host as it is described, for plans over several that need not be there. */
struct engine_host {
    char name[64];
    uint64_t memory;                            /* that the process may hold */
    double link_bytes_per_second, link_seconds; /* as in struct plan_host */
    const struct hardware *hardware;
};

/* What these hosts would do together, the first of them as rank 0 (src/plan/hosts.h), by their processors; *first is
 * what that one would do alone, freed with plan_free. Of the options what is about a machine is not read. */
struct plan_hosts;
hypura_status engine_plan_hosts(struct plan_hosts *out, struct plan **first, const struct model *model,
                                const struct engine_host *hosts, uint32_t count, const struct engine_options *options,
                                hypura_error *error);

/* Which units a host of the plan serves, [model_unit_count]: its experts, and what these are computed with. */
hypura_status engine_hosts_part(uint8_t *units, const struct model *model, const struct plan_hosts *plan, uint32_t host,
                                hypura_error *error);

/* Of a model's header and samples of its weights. */
hypura_status engine_weights_digest(uint64_t *out, const struct model *model, hypura_error *error);

/* What a sequence of this many positions keeps, by kind: bytes per position, and what does not grow with them. */
struct engine_kept {
    double keys;       /* keys and values, or latent vectors */
    double compressed; /* rows that stand for several positions each */
    double index;      /* short keys that are searched */
    uint64_t windows;  /* of layers that see the last positions only */
    uint64_t states;   /* of recurrences, and of what is not yet compressed */
};
hypura_status engine_kept_of(struct engine_kept *out, const struct model *model, uint32_t positions,
                             enum tensor_type type, hypura_error *error);

/* And what prompts of so many tokens take until the first token of the answer, weights loaded: seconds[count]. A prompt
 * that does not fit the plan's context takes what it would if it did. */
hypura_status engine_forecast(struct plan **out, double *seconds, const uint32_t *prompts, size_t count,
                              const struct model *model, const struct hardware *hardware,
                              const struct engine_options *options, hypura_error *error);

/* The speed that a plan with this many more (or fewer) bytes expects. */
hypura_status engine_speed_with(double *tokens_per_second, const struct model *model, const struct hardware *hardware,
                                const struct engine_options *options, int64_t more_bytes, hypura_error *error);

/* Tokens of one or more sequences that pass through the weights together. */
struct engine_batch {
    size_t count; /* 1 to engine_plan()->chunk */
    const int32_t *tokens;
    const uint32_t *positions; /* within a sequence they follow one another, from the number of positions held */
    const uint32_t *sequences; /* below plan->sequences; tokens of a sequence are adjacent. NULL: all 0 */
    const bool *want_logits;   /* NULL: of the last token only */
    bool want_hidden;          /* engine_hidden is wanted: then all tokens pass all layers, whoever wants logits */
    uint32_t drafted;          /* of the tokens of the only sequence, the last so many are drafts: engine_accept
                                * says which of them came true. At most engine_drafts */

    /* Called with each token that wants logits, in order, while the output matrix is held; false stops with
     * HYPURA_ERROR_CANCELLED. Without it at most engine_logits_rows tokens may want them, and engine_logits gives them
     * afterwards. */
    bool (*on_logits)(void *context, size_t index, const float *logits);
    void *on_logits_context;
};

/* Runs a batch. Token ids and positions are checked. After an error (HYPURA_ERROR_CANCELLED included) the sequences
 * hold the positions that they held before. A file of which something was read, and that was written to since it was
 * opened, is an error of HYPURA_ERROR_IO: of this batch and of those to come. */
hypura_status engine_forward(struct engine *engine, const struct engine_batch *batch, hypura_error *error);

enum engine_drafting engine_drafting(const struct engine *engine);

/* The smaller model that drafts tokens; NULL: none. */
struct engine *engine_draft_model(const struct engine *engine);

/* How many drafted tokens a batch may have: none in an encoder, while routing is recorded, and with DRAFTING_OFF where
 * a model has states. */
uint32_t engine_drafts(const struct engine *engine);

/* After a batch with drafted tokens: the first so many of them came true, its sequence forgets the others. States are
 * computed again from those before the batch, without any of the weights but those that they are made with; after an
 * error the sequence holds nothing. */
hypura_status engine_accept(struct engine *engine, uint32_t accepted, hypura_error *error);

/* What the matrices of layers are multiplied by on the CPU: each row, in no order, on the thread that asked for the
 * batch. matrix: which one of the tensor's, an expert or a head; 0 where it has one. All rows pass all layers
 * meanwhile. NULL: nobody watches. */
struct engine_watch {
    void (*see)(void *context, const struct gguf_tensor *tensor, uint32_t matrix, const float *row, size_t columns);
    void *context;
};
void engine_watch_inputs(struct engine *engine, const struct engine_watch *watch);

/* Whether the model has a block that predicts further tokens, opened with it. */
bool engine_predicts(const struct engine *engine);

/* The block's logits of what comes behind a token, which follows what the sequence holds; further: behind the token
 * that it was asked for last, which this one follows. Valid until the next forward; engine_logits is not any more. An
 * error means that it has nothing to say, since it did not see the pass before. */
hypura_status engine_predict(struct engine *engine, uint32_t sequence, int32_t token, bool further,
                             const float **logits, hypura_error *error);

/* Logits [vocabulary] of the batch's index-th token that wanted them, counted among those; valid until the next
 * forward. */
const float *engine_logits(const struct engine *engine, size_t index);

/* What is kept of texts beyond the sequences; NULL: nothing. For the thread that uses the engine. */
struct prefix_store *engine_prefixes(const struct engine *engine);

/* Runs tasks on the threads that compute, between two batches. */
void engine_run(struct engine *engine, thread_task task, void *context, size_t count);

/* Logits that are kept at once: at least one for each sequence. */
size_t engine_logits_rows(const struct engine *engine);

/* Final hidden states of all tokens of a batch with want_hidden, normed: [count][embedding]. */
const float *engine_hidden(const struct engine *engine);

/* The embedding of a text, pooled and brought to length 1: out[embedding]. Empties sequence 0 before and after. No
 * tokens: zeros. A text of an encoder must fit a batch, and so the context. */
hypura_status engine_embed(struct engine *engine, const int32_t *tokens, size_t count, float *out, hypura_error *error);

/* Whether the model judges texts instead (pooling_type 4: re-rankers), and how well one does: the first score of its
 * classifier, of a decoder's its share of all. Otherwise as engine_embed. */
bool engine_judges(const struct engine *engine);
hypura_status engine_judge(struct engine *engine, const int32_t *tokens, size_t count, float *score,
                           hypura_error *error);

/* Positions that a sequence holds, and forgetting all from a position on. Recurrent and windowed layers cannot go back:
 * then the sequence is cleared, and false says so. */
uint32_t engine_positions(const struct engine *engine, uint32_t sequence);
bool engine_truncate(struct engine *engine, uint32_t sequence, uint32_t positions);

/* ---- what a sequence knows, as data --------------------------------------------------------------------------------
 *
 * What layers keep of a sequence can be read out, and written into any sequence of an engine whose engine_state_digest
 * is the same, of this process or of a later one; what is then computed has the bits that it would have had. All of it
 * between batches. It comes in two parts:
 *
 *   rows        what layers keep of each position: keys, values, latent rows, keys of an index, rows that stand for
 *               several positions. Those of positions first to end depend on the tokens before end only, and never
 *               change. The bytes of a range are those of its parts one after another, where it is cut at multiples of
 *               PLAN_KV_BLOCK: so blocks can be read at once, kept one by one, and written at once.
 *   checkpoint  what there is of one position only: the states of recurrent layers, what is not yet compressed, and the
 *               last positions of layers with a window. Models without any of these need none.
 *
 * So a sequence is brought to a position by its rows up to there and a checkpoint that was read at it. Rows stay when
 * engine_truncate cannot go back, and then a checkpoint alone brings the sequence to an earlier position. */

/* Bytes of the rows of positions first to end, 0 where first is not below end; and the most that a checkpoint takes, 0:
 * the model needs none. */
uint64_t engine_rows_bytes(const struct engine *engine, uint32_t first, uint32_t end);
uint64_t engine_checkpoint_bytes(const struct engine *engine);

/* The same of a checkpoint at a position: fewer than a window have come. */
uint64_t engine_checkpoint_bytes_at(const struct engine *engine, uint32_t position);

/* Positions whose rows a sequence has: those that it holds, those that were written behind them, and those before a
 * position that engine_truncate could not go back to. Forgotten with the next batch of the sequence, and when others
 * take the room (engine_room). */
uint32_t engine_rows_there(const struct engine *engine, uint32_t sequence);

/* Rows that are there. */
hypura_status engine_read_rows(struct engine *engine, uint32_t sequence, uint32_t first, uint32_t end, void *out,
                               hypura_error *error);

/* first: at most as many as there are. The sequence forgets what it holds from first on, as with engine_truncate, and
 * has the rows up to end. Takes room as a batch does. */
hypura_status engine_write_rows(struct engine *engine, uint32_t sequence, uint32_t first, uint32_t end, const void *in,
                                hypura_error *error);

/* The sequence forgets what it holds, and has the rows of the first positions of another one (as many as there are
 * there at most, whole blocks of PLAN_KV_BLOCK), in the same memory: who writes there later gets memory of its own.
 * HYPURA_ERROR_UNSUPPORTED where some rows are in device memory, or are not keys and values of one position each. */
hypura_status engine_share_rows(struct engine *engine, uint32_t sequence, uint32_t from, uint32_t positions,
                                hypura_error *error);

/* At the position that the sequence holds: engine_checkpoint_bytes_at so many. */
hypura_status engine_read_checkpoint(struct engine *engine, uint32_t sequence, void *out, hypura_error *error);

/* The sequence then holds so many positions, whose rows must be there. tokens: [position], what they are. in: what was
 * read at that position; NULL where the model needs none. */
hypura_status engine_write_checkpoint(struct engine *engine, uint32_t sequence, uint32_t position,
                                      const int32_t *tokens, const void *in, hypura_error *error);

/* Of all that makes such data mean the same: the model's header and samples of its weights, adapters, the type of the
 * cache, where layers are computed and how. Reads from the model's files. */
hypura_status engine_state_digest(uint64_t *out, const struct engine *engine, hypura_error *error);

/* Whether layers have states, so that engine_truncate cannot go back at all. */
bool engine_has_states(const struct engine *engine);

/* Where sequences share room, all that they hold together, in whole blocks of PLAN_KV_BLOCK of which shared ones count
 * once, is at most this; a batch that needs more fails with HYPURA_ERROR_MEMORY. UINT64_MAX: every sequence has room
 * for its context. */
uint64_t engine_room(const struct engine *engine);

/* What of the room sequences take with so many positions each: positions [sequences]. What they share counts once. */
uint64_t engine_room_of(const struct engine *engine, const uint32_t *positions);

/* Whether engine_share_rows can be. */
bool engine_can_share(const struct engine *engine);

/* Makes a running forward return HYPURA_ERROR_CANCELLED within some milliseconds, and the next ones at once, until
 * called with false. Async-signal-safe with true. */
void engine_cancel(struct engine *engine, bool cancel);

/* The same from any thread, for who is to end one forward only, and not to take back what somebody else cancels: false,
 * between two of them, leaves engine_cancel as it is. Drafts are not ended. */
void engine_stop(struct engine *engine, bool stop);

/* Completes the file of trace_path, between batches; an error says what was lost. Without one nothing is done. */
hypura_status engine_end_trace(struct engine *engine, hypura_error *error);

/* A new budget for the whole process, while running; the pool follows, and pieces of tensors that stay (store_resize).
 * An error says what is missing. */
hypura_status engine_set_budget(struct engine *engine, uint64_t bytes, hypura_error *error);

/* Of a device that computes a part of the model. */
struct engine_device {
    const char *name;
    uint32_t layers;
    uint64_t bytes;      /* of weights */
    double busy_seconds; /* it computed, or waited for the CPU's share of what it computed; 0: it cannot tell */
};

struct engine_statistics {
    double load_seconds;
    uint64_t prompt_tokens, generated_tokens; /* of batches with several known tokens of a sequence, with one; of
                                               * drafts those that came true */
    uint64_t decode_passes;                   /* batches that generated tokens */
    uint64_t drafted_tokens, accepted_tokens; /* drafts that passed with them, and those that came true */
    double prompt_seconds, decode_seconds;
    uint64_t decode_bytes_read; /* from storage, while decoding, without what was prefetched in vain */
    uint64_t peak_rss_bytes;
    uint64_t budget_bytes, largest_budget_bytes;  /* now; so far, which is what the peak was allowed */
    uint64_t bytes_gpu, bytes_ram, bytes_storage; /* of the weights, by tier now: storage is what is in no memory */
    struct store_statistics store;
    struct prefix_statistics prefix;
    struct engine_device devices[HARDWARE_MAX_GPUS];
    uint32_t device_count;
};
void engine_statistics(struct engine *engine, struct engine_statistics *out);

/* What each host did, rank 0 first; the number of them, 0 where there are no others. From any thread. */
struct engine_rank {
    uint32_t rank;
    const char *name;          /* until the engine is closed */
    uint64_t experts_computed; /* for each token anew */
    uint64_t expert_hits, expert_misses, bytes_read;
    uint64_t bytes_sent, bytes_received; /* to and from it */
    double busy_seconds, wait_seconds;   /* it computed, and rank 0 waited for it */
};
uint32_t engine_ranks(struct engine *engine, struct engine_rank *out, uint32_t most);

/* Which experts were used since the last call, as used[layer * experts + expert]; from any thread. */
void engine_take_used(struct engine *engine, bool *used);

#endif
