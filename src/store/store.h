/* store: the narrow waist. Compute asks for units and never knows which tier they come from. Owners: store.c, load.c,
 * hold.c, pass.c, control.c, rows.c, tables.c, prefetch.c, usage.c, pieces.c.
 *
 * The store owns the memory of all weights: units that the plan pins are loaded once, at store_load; the others stream
 * through one pool, read by direct I/O (io_uring, or a pool of pread threads) into slots. It decides what to evict,
 * keeps demand reads ahead of prefetches, retries short reads, counts everything. A slice lands in its slot with the
 * aligned range of the file that encloses it; nothing is copied, so a slice's address has no alignment of its own.
 *
 * The streamed tensors of a dense model, or pieces of them, have a known order of use: the store keeps a ring of them
 * in memory ahead of the last one that was asked for, across layer and token boundaries, without being told. Experts
 * are wanted by name. Slots of the expert cache that are free after the load are filled while no pass runs over any
 * store of the process, so that a model that is opened before it is asked something has read what has room.
 *
 * Units that the plan puts on a device are computed there: store/device.h is for whoever does that, and for nobody
 * else.
 *
 * A pool of one slot is enough: wants that find no room wait in a queue, and whichever unit store_get is called for is
 * read next. Only a caller that holds units and leaves no room for the next gets an error.
 *
 * Threads: all functions may be called from the thread that runs the forward pass; store_cancel, store_statistics and
 * store_resize from any.
 */
#ifndef HYPURA_STORE_H
#define HYPURA_STORE_H

#include "core/core.h"
#include "model/model.h"

struct drives;
struct gpu;
struct hardware;
struct hardware_nodes;
struct plan;
struct plan_hit_curve;

enum store_reader { STORE_READER_AUTO, STORE_READER_URING, STORE_READER_THREADS };

/* Of experts that may be needed (store_prefetch). AUTO: as long as at least half of the bytes that it read were needed.
 */
enum store_prefetching { STORE_PREFETCH_AUTO, STORE_PREFETCH_OFF, STORE_PREFETCH_ON };

struct store_options {
    enum store_reader reader;
    bool allow_buffered;  /* file systems without direct I/O: read through the page cache and drop it behind; else an
                             error */
    uint32_t block_bytes; /* of one read; 0: the hardware's */
    uint32_t depth;       /* reads in flight; 0: the hardware's */
    const char *cache_policy; /* for experts, by name (policy.h); NULL: the default */
    enum store_prefetching prefetching;
    bool fill;                       /* free slots of the expert cache get what is not there between passes */
    bool load_behind;                /* store_load does not wait for what is pinned: who needs it does */
    const char *usage_path;          /* file that remembers which experts were used, from run to run; NULL: none */
    const struct hardware *hardware; /* or NULL; not kept */
    const struct drives *drives;     /* of the files, and their copies; NULL: one drive. Not kept */
    const struct hardware_nodes *nodes; /* of memory, on which weights are placed; NULL: one. Not kept */
    struct gpu *const *gpus;         /* the devices of store/device.h, by the plan's parts. They outlive the store */
    uint32_t gpu_count;              /* 0: there are none */
};

struct store;

/* Where a model's usage is remembered: $XDG_STATE_HOME/hypura/usage/..., else under ~/.local/state. False when neither
 * is known or the path does not fit. The folder is made when something is saved. */
bool store_usage_path(const struct model *model, char *path, size_t room);

/* How often each expert was used in earlier runs, [model_unit_count], in units without a meaning; NULL when that is not
 * known. Freed with memory_free. curve (may be NULL): what a cache of any size would have served, where that is known.
 */
uint64_t *store_usage_read(const struct model *model, const char *path, struct plan_hit_curve *curve);

/* The drives of a model's files and of copies of them (mirrors, files or folders), which become the hardware's storage.
 * What cannot stand for the model is left out with a warning. */
hypura_status store_find_drives(struct hardware *hardware, const struct model *model, const char *const *mirrors,
                                size_t mirror_count, hypura_error *error);

/* Opens the model's files and reserves address space. The model and the plan must outlive the store. */
hypura_status store_open(struct store **out, const struct model *model, const struct plan *plan,
                         const struct store_options *options, hypura_error *error);
void store_close(struct store *store); /* waits for reads in flight */

/* For a program that ends: keeps what store_close would keep for later runs, and waits for no read. The store stays as
 * it is, since reads may still arrive. */
void store_leave(struct store *store);

/* Reads all pinned units; progress (may be NULL) is called with bytes done and of how many, and may return false to
 * stop. With load_behind, where nothing else has to be there first, they are only on their way afterwards, in the order
 * of the first pass: who gets one waits for it, and progress is called while somebody waits, up to the end of the first
 * pass (false then ends that one). A failure is that of who gets the unit, and it is read again for the next. */
typedef bool (*store_progress)(void *context, uint64_t done, uint64_t total);
hypura_status store_load(struct store *store, store_progress progress, void *context, hypura_error *error);

/* ---- what the forward pass calls -----------------------------------------------------------------------------------
 */

/* Where a unit's slices are, in the order of model_unit(unit)->slices; NULL of what a device has. Valid while the unit
 * is held. */
struct store_view {
    const uint8_t *slices[UNIT_MAX_SLICES];
};

/* Where some tensors stream, large ones are in pieces: units of their own, numbered one after another, of whole rows in
 * the tensor's order. Each is got and put by itself, never the tensor. Others are one piece, themselves. */
struct store_pieces {
    unit_number first;
    uint32_t count;
    uint64_t bytes; /* of each but the last */
};
struct store_pieces store_pieces(const struct store *store, unit_number unit);

/* Will be needed now: misses are submitted in this order, as one batch. Each wanted unit must be got and put once;
 * wanting a unit that is there protects it from eviction until then. Wants beyond what the pool holds wait in a queue.
 */
hypura_status store_want(struct store *store, const unit_number *units, size_t count, hypura_error *error);

/* True when store_get would not block. */
bool store_ready(struct store *store, unit_number unit);

/* Waits until one of these wanted units is there, or its read has failed, and gives its index; store_get then shows the
 * unit or says what went wrong. Of experts on their way the first so many slices will do (0: none), if these are of
 * use: store_peek then shows them. */
hypura_status store_wait_any(struct store *store, const unit_number *units, size_t count, uint32_t slices,
                             size_t *index, hypura_error *error);

/* The first so many slices of a wanted expert, of which others are still on their way; false: they are not there, or
 * all are. Valid until the expert is got or forgotten; whether they are good store_get says. */
bool store_peek(struct store *store, unit_number unit, uint32_t slices, struct store_view *view);

/* Waits for the unit, holds it and shows where it is. Without a want before, wants it first, and no longer after an
 * error. A want from before is used up by an error of HYPURA_ERROR_IO, and the next get reads again; after others it
 * stands until store_forget. */
hypura_status store_get(struct store *store, unit_number unit, struct store_view *view, hypura_error *error);
void store_put(struct store *store, unit_number unit);

/* The same for a tensor that is there; false: it is not. */
bool store_get_ready(struct store *store, unit_number unit, struct store_view *view);

/* Drops wants that will not be got (after an error or a cancel). */
void store_forget(struct store *store, const unit_number *units, size_t count);

/* Rows of a table (plan->tables), which is never held whole: all that a pass will want of it, asked for as soon as its
 * tokens are known. Row rows[i] comes to out + i * the bytes of a row; both arrays stay until store_get_rows, which
 * waits for all of them, or until the pass ends. What was asked for before of the same table is forgotten. */
struct store_rows {
    const uint32_t *rows;
    size_t count;
    uint8_t *out;
};
hypura_status store_want_rows(struct store *store, unit_number unit, const struct store_rows *rows,
                              hypura_error *error);
hypura_status store_get_rows(struct store *store, unit_number unit, hypura_error *error);

/* Part of one tensor, which may be one that is never held: a direct read of its own. */
hypura_status store_read(struct store *store, unit_number unit, uint64_t offset, uint64_t bytes, void *out,
                         hypura_error *error);

/* These experts of one layer, yet to come in this pass or the next, may be needed, with these probabilities
 * (from 0 to 1; the likeliest first). They are read while nothing else is, those of the next layer first, into slots
 * whose experts would go next, and given up when their layer has wanted others or another offer for the
 * same layer leaves them out. Those that are there already are kept until then. */
void store_prefetch(struct store *store, const unit_number *units, const float *probabilities, size_t count);

/* These experts of one layer, yet to come in this pass, will be needed for certain, though not yet: what is missing is
 * read as a demand at once, as far as half of the slots go, and they are kept until then like what is prefetched. Each
 * is still to be wanted. */
void store_demand(struct store *store, const unit_number *units, size_t count);

/* Whether an offer so many layers ahead is worth its making: prefetching is on, and something was missing lately;
 * beyond the next layer when the drive has nothing to do, or, for the layer after it, when the forward pass had to wait
 * since it was asked last, and then no farther than some reads take. */
bool store_wants_prefetch(struct store *store, uint32_t ahead);

/* How a batch of tokens uses the experts of a layer that it wants next: experts[tokens][used], counted from the first
 * expert of the layer. Without it the batch counts as one use of each. */
void store_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used);

/* A pass begins, after which store_advance or, where it failed, store_abandon follows: in between, what stays in memory
 * is not given up. */
void store_begin(struct store *store);
void store_abandon(struct store *store);

/* A pass (one token, or one chunk) is done: what was used before it counts less, and experts may change sides.
 * HYPURA_ERROR_DEVICE: a device did not take what is where since, so no pass may run on it any more. HYPURA_ERROR_IO: a
 * file that is read from was written to since it was opened, so what the pass computed is worth nothing, and the next
 * ones will fail too. */
hypura_status store_advance(struct store *store, hypura_error *error);

/* ---- from any thread ------------------------------------------------------------------------------------------------
 */

/* Makes every waiting and later call fail with HYPURA_ERROR_CANCELLED until it is called with false, which goes on with
 * what was being read between passes. Async-signal-safe with true. */
void store_cancel(struct store *store, bool cancel);

#define STORE_MOST_DRIVES 8
struct store_drive {
    char name[128];          /* its device, else its file system */
    uint64_t bytes_read;     /* since store_load */
    double bytes_per_second; /* as it is seen lately, or by its profile */
    uint32_t copies_left;    /* files there that are not read any more, for what they did */
};

struct store_statistics {
    uint64_t bytes_read;       /* from storage since store_load, everything */
    uint64_t bytes_loaded;     /* by store_load */
    uint64_t bytes_demanded;   /* because a unit was needed */
    uint64_t bytes_prefetched; /* before they were wanted */
    uint64_t bytes_filled;     /* into free slots, between passes */
    uint64_t bytes_wasted;     /* prefetched and evicted unused */
    uint64_t expert_hits, expert_misses;
    uint64_t rows_wanted, rows_cached;    /* of tables; those that the cache of rows had */
    uint64_t prefetches, prefetches_used; /* precision: used of all; recall: used of used and expert_misses */
    uint64_t expert_moves;                /* experts that came to a device while running */
    uint64_t stall_nanoseconds;           /* spent waiting in store_get and store_wait_any */
    uint64_t read_nanoseconds;            /* with at least one read in flight */
    uint64_t pool_bytes, pool_bytes_used; /* now */
    uint64_t pool_least_bytes;            /* that store_resize takes */
    uint64_t resident_bytes;
    bool prefetching;   /* now: it pays, or that is being found out */
    const char *reader; /* "io_uring" or "threads" */
    bool direct;
    uint32_t drive_count;
    struct store_drive drives[STORE_MOST_DRIVES];
};
void store_statistics(struct store *store, struct store_statistics *out);

/* bytes_read less bytes_filled and bytes_wasted and what may yet be, without the rest. */
uint64_t store_bytes_used(struct store *store);

/* The node of memory, by its place among store_options.nodes, on which an expert's weights lie; -1: a tensor's, of which
 * each node has a part, or nothing was placed. From any thread. */
int store_node_of(const struct store *store, const void *weights);

/* Where a unit, which may be a piece, is now. */
enum unit_state { UNIT_ON_STORAGE, UNIT_IN_FLIGHT, UNIT_CACHED, UNIT_PINNED, UNIT_ON_GPU, UNIT_STATES };
enum unit_state store_unit_state(struct store *store, unit_number unit);

/* Adds a unit's bytes to those of the state that it, or each of its pieces, is in. */
void store_count_bytes(struct store *store, unit_number unit, uint64_t bytes[UNIT_STATES]);

/* Changes the size of the pool while running; units in use stay until they are put. Where tensors are in pieces, those
 * that stay make room for a pool of less than it was planned with, or than nothing: they are given up at once, or when
 * the pass that runs is done (so many bytes as needed, spread evenly), and stream from then on; until then the ring
 * does without as much, down to the least that works. More room again keeps them as it does all that streams. */
hypura_status store_resize(struct store *store, int64_t pool_bytes, hypura_error *error);

#endif
