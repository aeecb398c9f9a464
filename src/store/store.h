/* store: the narrow waist. Compute asks for units and never knows which tier they come from. Owners: store.c, load.c,
 * hold.c, pass.c, control.c, rows.c, tables.c, prefetch.c, usage.c, pieces.c.
 *
 * The store owns the memory of all weights. store_load reads the units that the plan pins, once. The others stream
 * through one pool of slots, read by direct I/O (io_uring, or threads that call pread). The store decides what to
 * evict, puts demand reads before prefetches, retries short reads, and counts everything. A slice is read together with
 * the aligned range of the file around it and is not copied, so its address has no particular alignment.
 *
 * The streamed tensors of a dense model, or pieces of them, are used in a known order. The store keeps a ring of them
 * in memory, ahead of the last one that was requested, across layers and tokens, without being told. Experts are wanted
 * one by one. After the load, while no pass runs on any store of the process, the store fills the free slots of the
 * expert cache. So a model that was opened some time before its first prompt starts with a full cache. What is still
 * being read then gives way to demands.
 *
 * The plan may put units on a device, where they are computed; see store/device.h.
 *
 * A pool of one slot is enough. Wants without room wait in a queue, and the unit for which store_get is called is read
 * next. Only a caller that holds units and leaves no room for the next one gets an error.
 *
 * Threads: the thread that runs the forward pass may call every function; any thread may call store_cancel,
 * store_statistics, store_resize, and what says so.
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

/* Whether store_prefetch reads. AUTO: while it pays. */
enum store_prefetching { STORE_PREFETCH_AUTO, STORE_PREFETCH_OFF, STORE_PREFETCH_ON };

struct store_options {
    enum store_reader reader;
    bool allow_buffered;      /* without direct I/O, read through the page cache and drop the pages; else fail */
    uint32_t block_bytes;     /* of one read; 0: the hardware's */
    uint32_t depth;           /* reads in flight; 0: the hardware's */
    const char *cache_policy; /* for experts, by name (policy.h); NULL: the default */
    enum store_prefetching prefetching;
    bool fill;                          /* fill free slots of the expert cache between passes */
    bool load_behind;                   /* store_load does not wait for pinned units; their first user does */
    const char *usage_path;             /* the file that keeps which experts were used, from run to run; NULL: none */
    const struct hardware *hardware;    /* or NULL; not kept */
    const struct drives *drives;        /* of the files, and their copies; NULL: one drive. Not kept */
    const struct hardware_nodes *nodes; /* nodes of memory for the weights; NULL: one. Not kept */
    struct gpu *const *gpus; /* see store/device.h; in the order of the plan's parts. They outlive the store */
    uint32_t gpu_count;
};

struct store;

/* The file that keeps a model's usage: $XDG_STATE_HOME/hypura/usage/..., else under ~/.local/state. false: neither is
 * known, or the path does not fit. The folder is created when something is saved. */
bool store_usage_path(const struct model *model, char *path, size_t room);

/* How often earlier runs used each expert, [model_unit_count], as relative numbers; NULL: not known. Free it with
 * memory_free. curve (may be NULL) gets the hit rate of caches of any size, if known. */
uint64_t *store_usage_read(const struct model *model, const char *path, struct plan_hit_curve *curve);

/* Finds the drives of a model's files and of their mirrors (files or folders), and makes them the hardware's storage.
 * A mirror that cannot replace the model is left out with a warning. */
hypura_status store_find_drives(struct hardware *hardware, const struct model *model, const char *const *mirrors,
                                size_t mirror_count, hypura_error *error);

/* Opens the model's files and reserves address space. The model and the plan must outlive the store. */
hypura_status store_open(struct store **out, const struct model *model, const struct plan *plan,
                         const struct store_options *options, hypura_error *error);
void store_close(struct store *store); /* waits for reads in flight */

/* For a program that is about to exit: saves what store_close would save, and does not wait for reads. The memory stays
 * valid, because reads may still arrive. */
void store_leave(struct store *store);

/* Reads all pinned units. progress (may be NULL) is called with the bytes done and their total, and returns false to
 * stop. With load_behind, unless something else must be loaded first, this only starts the reads, in the order of the
 * first pass. store_get then waits for a unit and calls progress meanwhile, until the first pass ends (false ends the
 * pass). A read error reaches the caller of store_get, and the next call reads again. */
typedef bool (*store_progress)(void *context, uint64_t done, uint64_t total);
hypura_status store_load(struct store *store, store_progress progress, void *context, hypura_error *error);

/* ---- what the forward pass calls --------------------------------------------------------------------------------- */

/* The addresses of a unit's slices, in the order of model_unit(unit)->slices; NULL for a slice on a device. Valid while
 * the unit is held. */
struct store_view {
    const uint8_t *slices[UNIT_MAX_SLICES];
};

/* If some tensors stream, large ones are split into pieces: units with consecutive numbers, each of whole rows, in the
 * tensor's order. Get and put the pieces, never such a tensor. Any other unit is its own single piece. */
struct store_pieces {
    unit_number first;
    uint32_t count;
    uint64_t bytes; /* of each piece but the last */
};
struct store_pieces store_pieces(const struct store *store, unit_number unit);

/* Announces units that are needed now. Misses are submitted in this order, as one batch. Each wanted unit must be got
 * and put once; until then it is not evicted. Wants that the pool has no room for wait in a queue. */
hypura_status store_want(struct store *store, const unit_number *units, size_t count, hypura_error *error);

/* Whether store_get would return at once. */
bool store_ready(struct store *store, unit_number unit);

/* Waits until one of these wanted units is in memory, or its read has failed, and returns its index; store_get then
 * returns the unit or the error. With slices > 0, an expert whose first so many slices have arrived counts too;
 * store_peek then returns them. */
hypura_status store_wait_any(struct store *store, const unit_number *units, size_t count, uint32_t slices,
                             size_t *index, hypura_error *error);

/* The first so many slices of a wanted expert while others are still being read. false: they have not arrived, or all
 * have. Valid until the expert is got or forgotten. Only store_get tells whether the read succeeded. */
bool store_peek(struct store *store, unit_number unit, uint32_t slices, struct store_view *view);

/* Waits for a unit, holds it and returns its addresses. A unit that was not wanted is wanted first, and forgotten after
 * an error. If it was wanted, HYPURA_ERROR_IO uses up the want, and the next get reads again; after other errors the
 * want stays until store_forget. */
hypura_status store_get(struct store *store, unit_number unit, struct store_view *view, hypura_error *error);
void store_put(struct store *store, unit_number unit);

/* The same for a tensor if it is in memory; false: it is not. */
bool store_get_ready(struct store *store, unit_number unit, struct store_view *view);

/* Drops wants that will not be got (after an error or a cancel). */
void store_forget(struct store *store, const unit_number *units, size_t count);

/* Requests all rows of a table (plan->tables) that a pass needs, as soon as its tokens are known; a table is never
 * loaded whole. Row rows[i] is read to out + i * the bytes of a row. Both arrays must stay until store_get_rows, which
 * waits for all rows, or until the pass ends. A new request for the same table replaces the earlier one. */
struct store_rows {
    const uint32_t *rows;
    size_t count;
    uint8_t *out;
};
hypura_status store_want_rows(struct store *store, unit_number unit, const struct store_rows *rows,
                              hypura_error *error);
hypura_status store_get_rows(struct store *store, unit_number unit, hypura_error *error);

/* Reads a part of one tensor, in memory or not, directly from the drive. */
hypura_status store_read(struct store *store, unit_number unit, uint64_t offset, uint64_t bytes, void *out,
                         hypura_error *error);

/* Offers experts of one later layer, of this pass or the next, with the probabilities that they will be needed (from 0
 * to 1, the likeliest first). The store reads them while it has no demand reads, the next layer's first, into the slots
 * that it would evict next. It gives them up when their layer has wanted others, or when a new offer for the layer
 * omits them. Until then it keeps those that are in memory. */
void store_prefetch(struct store *store, const unit_number *units, const float *probabilities, size_t count);

/* Announces experts of a later layer of this pass that will certainly be needed. Missing ones are read as demands at
 * once, in at most half of the slots, and kept like prefetched ones. Each must still be wanted. */
void store_demand(struct store *store, const unit_number *units, size_t count);

/* Whether computing an offer for so many layers ahead is worth its time. It is if prefetching is on and experts were
 * missing lately. Beyond the next layer, the drive must also be idle; for the layer after the next, it is enough that
 * the forward pass had to wait since the last call. It never pays farther ahead than a few reads take. */
bool store_wants_prefetch(struct store *store, uint32_t ahead);

/* Tells which experts of a layer the tokens of a batch use, before they are wanted: experts[tokens][used], counted from
 * the layer's first expert. Without it, the batch counts as one use of each. */
void store_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used);

/* Begins a pass, which store_advance or, after an error, store_abandon ends. In between, resident units stay in memory.
 */
void store_begin(struct store *store);
void store_abandon(struct store *store);

/* Ends a pass (one token, or one chunk): earlier uses count less from now on, and experts may change sides.
 * HYPURA_ERROR_DEVICE: a device does not know where experts are now, so no further pass may run on it. HYPURA_ERROR_IO:
 * a file was written to since it was opened; the results of this pass are worthless, and later passes fail too. */
hypura_status store_advance(struct store *store, hypura_error *error);

/* ---- from any thread --------------------------------------------------------------------------------------------- */

/* With true, every waiting and later call fails with HYPURA_ERROR_CANCELLED; async-signal-safe. With false, calls work
 * again, and reads between passes continue. */
void store_cancel(struct store *store, bool cancel);

#define STORE_MOST_DRIVES 8
struct store_drive {
    char name[128];          /* its device, else its file system */
    uint64_t bytes_read;     /* since store_load */
    double bytes_per_second; /* lately measured, or from its profile */
    uint32_t copies_left;    /* copies on it that are no longer read, because they failed */
};

struct store_statistics {
    uint64_t bytes_read;       /* all reads from storage since store_load */
    uint64_t bytes_loaded;     /* by store_load */
    uint64_t bytes_demanded;   /* for units that were wanted */
    uint64_t bytes_prefetched; /* before they were wanted */
    uint64_t bytes_filled;     /* into free slots, between passes */
    uint64_t bytes_wasted;     /* prefetched and evicted unused */
    uint64_t expert_hits, expert_misses;
    uint64_t rows_wanted, rows_cached;    /* of tables; found in the cache of rows */
    uint64_t prefetches, prefetches_used; /* precision: used / all; recall: used / (used + expert_misses) */
    uint64_t expert_moves;                /* experts moved to a device while running */
    uint64_t stall_nanoseconds;           /* spent waiting in store_get and store_wait_any */
    uint64_t read_nanoseconds;            /* with at least one read in flight */
    uint64_t pool_bytes, pool_bytes_used; /* now */
    uint64_t pool_least_bytes;            /* the least that store_resize accepts */
    uint64_t resident_bytes;
    bool prefetching;   /* now: it pays, or is being tried */
    const char *reader; /* "io_uring" or "threads" */
    bool direct;
    uint32_t drive_count;
    struct store_drive drives[STORE_MOST_DRIVES];
};
void store_statistics(struct store *store, struct store_statistics *out);

/* Bytes read for demands or for useful prefetches; excludes fills, wasted prefetches and those still undecided. */
uint64_t store_bytes_used(struct store *store);

/* The node of memory, by its index in store_options.nodes, that holds an expert's weights. -1: they are a tensor's,
 * which is spread over all nodes, or nothing was placed. From any thread. */
int store_node_of(const struct store *store, const void *weights);

/* Where a unit or piece is now. */
enum unit_state { UNIT_ON_STORAGE, UNIT_IN_FLIGHT, UNIT_CACHED, UNIT_PINNED, UNIT_ON_GPU, UNIT_STATES };
enum unit_state store_unit_state(struct store *store, unit_number unit);

/* Adds a unit's bytes to those of its state, or of the state of each of its pieces. */
void store_count_bytes(struct store *store, unit_number unit, uint64_t bytes[UNIT_STATES]);

/* Changes the size of the pool while running. Units in use stay until they are put. If tensors are in pieces and the
 * new size, which may be negative, is smaller than planned, resident pieces make room: as many as needed, spread
 * evenly, are released at once, or at the end of the current pass, and stream from then on. Until then the ring shrinks
 * instead, down to the least that works. A larger pool keeps them again, like everything that streams. */
hypura_status store_resize(struct store *store, int64_t pool_bytes, hypura_error *error);

/* Lends the expert cache this much memory in addition to the pool; 0 takes it back. pool_bytes does not count it. */
void store_lend(struct store *store, uint64_t bytes);

#endif
