/* store (private): the store as its files see it. Owner: store.c, which assembles it.
 *
 * A file calls those in lines below its own (tests/test_structure.py reads this):
 *
 *   store_model   load   device_none
 *   store   pass
 *   usage
 *   moves
 *   hold   control   peers
 *   prefetch   device
 *   fill   in_place   pinned   tables
 *   cache   ring   rows
 *   cache_classes   units   pieces   trace_model
 *   classes   layout   waiting   policy   distances   trace
 *   io   policy_cycle   policy_lfu   policy_lru   policy_s3fifo
 *   file   mirrors   places   spread   reader_uring   reader_no_uring   reader_threads   heap   item_list
 *
 * io_mutex guards everything in struct store. Functions require it to be held unless they say otherwise.
 */
#ifndef HYPURA_STORE_PRIVATE_H
#define HYPURA_STORE_PRIVATE_H

#include "plan/plan.h"
#include "store/cache.h"
#include "store/fill.h"
#include "store/io.h"
#include "store/layout.h"
#include "store/moves.h"
#include "store/pass.h"
#include "store/pinned.h"
#include "store/places.h"
#include "store/prefetch.h"
#include "store/ring.h"
#include "store/store.h"
#include "store/tables.h"
#include "store/units.h"
#include "store/usage.h"
#include "store/waiting.h"

struct store {
    const void *model;
    const struct unit *(*unit)(const void *model, unit_number unit);
    uint32_t model_units; /* without pieces */
    uint32_t unit_count;  /* with pieces */
    uint32_t layers;      /* of the model, at least 1 */
    struct unit *pieces;  /* [unit_count - model_units] */
    struct stored_unit *units;
    struct store_file *files; /* [copy_count][file_count], first the files themselves; copies may be missing */
    uint32_t file_count, copy_count;
    char (*drive_names)[128];
    struct io *io;
    pthread_mutex_t *mutex;
    pthread_cond_t changed; /* a unit became ready or failed, or there is room for one */
    uint32_t waiters;
    bool parts_will_do; /* the waiting thread can use parts of units */
    bool loaded, load_behind;
    atomic_bool cancelled;

    struct places places;
    struct pinned pinned;
    struct ring ring;
    struct cache cache;
    struct prefetch prefetch;
    struct fill fill;
    struct usage usage;
    struct device *devices; /* [device_count]: the units on each GPU */
    uint32_t device_count;
    struct in_place *in_place; /* NULL: the GPU does not read the cache */
    struct moves moves;
    struct tables tables;
    uint64_t pool_bytes;
    uint64_t lent; /* to the cache in addition */

    bool passing;  /* from store_begin on */
    bool resting;  /* a pass runs over this store or over another one of the process */
    uint32_t pass; /* from FIRST_PASS on */
    uint64_t tick; /* pass * layers + the layer last wanted */

    uint8_t *bounce;                    /* for store_read, followed by room for rows in flight */
    struct io_counters loaded_counters; /* when the load was done */
    uint64_t loaded_of[STORE_MOST_DRIVES];
    uint64_t rows_read;
    uint64_t bytes_checked;         /* read when the files were last checked */
    struct store_statistics counts; /* fields that are counted directly */
    struct store *next_peer;        /* guarded by the mutex in peers.c */
};

/* The description of a store; store_open fills it in from a model, tests from plain files. */
struct store_source {
    const void *model;
    const struct unit *(*unit)(const void *model, unit_number unit);
    uint32_t unit_count;
    const uint8_t *tiers;
    const uint8_t *in_ring;      /* which tensors of TIER_STORAGE are ever held */
    const struct plan_cut *cuts; /* [unit_count]; NULL: all are whole */
    const uint8_t *streams;      /* of pieces, by cuts */
    const uint8_t *groups;       /* [unit_count] as in struct plan; NULL: none is held with others */
    const uint8_t *elsewhere;    /* [unit_count] never held here; NULL: none is */
    const char *const *paths;
    uint32_t file_count;
    uint64_t ring_bytes, expert_cache_bytes;
    uint32_t layers;  /* per pass; units of later layers are wanted between passes. 0: all layers of units */
    uint32_t experts; /* per layer; 0 if none is on a GPU */
    uint32_t experts_used;
    const uint8_t *devices; /* [unit_count] for units of TIER_GPU: 1 + the device */
    const uint32_t *lent;   /* [layers] not 0: slots are in lent memory (store_lent); NULL: none are */
    uint32_t moves;         /* experts of layers that have some on the GPU that change sides at a time */
    bool in_place;          /* the GPU reads experts in place in the cache */
    const struct plan_rows *tables;
    uint32_t table_count;
};

hypura_status store_open_source(struct store **out, const struct store_source *source,
                                const struct store_options *options, const struct io_fault *fault, hypura_error *error);

#define BOUNCE_BYTES ((size_t)256 << 10) /* for small reads */

/* A unit of the model, or a piece. */
static inline const struct unit *store_unit(const struct store *store, unit_number unit)
{
    return unit < store->model_units ? store->unit(store->model, unit) : &store->pieces[unit - store->model_units];
}

/* rows.c: copies bytes that are in a pinned tensor, or in one pinned piece of it. false: they are not. */
bool rows_copy_pinned(const struct store *store, unit_number number, uint64_t offset, uint64_t bytes, void *out);

/* pieces.c; not locked, before anything else runs. */
hypura_status pieces_prepare(struct store *store, const struct store_source *source, hypura_error *error);

#endif
