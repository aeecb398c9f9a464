/* store (private): what the files of the store share.
 *
 * A unit is pinned (in the arena, loaded once), on the GPU (likewise), in the ring (a streamed tensor), in the cache (a
 * streamed expert), in pieces, or never held. Pieces are units too, numbered after those of the model. Everything here
 * is guarded by io_mutex; functions want it held unless they say otherwise.
 */
#ifndef HYPURA_STORE_PRIVATE_H
#define HYPURA_STORE_PRIVATE_H

#include "plan/plan.h"
#include "store/device.h"
#include "store/distances.h"
#include "store/io.h"
#include "store/policy.h"
#include "store/store.h"

enum unit_place {
    PLACE_PINNED,
    PLACE_GPU,
    PLACE_RING,
    PLACE_CACHE,
    PLACE_PIECES, /* of which each is pinned or in the ring */
    PLACE_STORAGE /* read in parts only */
};

enum unit_stage {
    STAGE_ABSENT,
    STAGE_WAITING, /* wanted, in the queue for room */
    STAGE_READING,
    STAGE_READY,
    STAGE_FAILED /* wanted, and store_get will say what went wrong */
};

struct stored_unit {
    uint8_t place, stage;
    uint8_t slot_class;
    uint8_t skips;                     /* of a ring unit: passes in a row that did not ask for it, at most SKIPS */
    bool granted;                      /* room was made for a demand, and it was not taken yet */
    bool guessed;                      /* brought by a guess and not needed since */
    bool kept;                         /* of an expert: when it was wanted last, there before anybody guessed */
    uint32_t item;                     /* pinned: first slice in pinned_slices; ring and cache: index there */
    uint32_t slot;                     /* of the cache */
    struct store_pieces pieces;        /* in pieces: which */
    uint32_t device_item, device_slot; /* on the GPU: first slice, and slot of its layer or buffer */
    uint32_t wants, holds;
    unit_number next_waiting;
    uint32_t last_pass;  /* that needed it */
    uint32_t noted_pass; /* whose tokens' uses the policy knows */
    uint64_t due;        /* step for which it is expected: until then it goes only when nothing else may */
    uint8_t *memory;
    struct failure *failure; /* when failed; NULL: there was no memory for it */
};

struct waiting_list {
    unit_number first, last;
};

/* ---- the ring: streamed tensors in their known order ---------------------------------------------------------------
 */

/* A unit that was passed over this often in a row is not read ahead any more until it is asked for. */
#define SKIPS 2u

struct ring_entry {
    unit_number unit;
    uint64_t position, bytes; /* in the ring's memory, while it is there */
    uint32_t lower, higher;   /* neighbours by position */
    struct transfer transfer;
};

struct ring {
    uint32_t count;
    struct ring_entry *entries; /* in the order of use */
    uint8_t *memory;
    uint64_t reserved, capacity; /* bytes of address space, bytes that may be used */
    uint64_t committed;          /* end of what may have memory behind it; above capacity while a shrink is under way */
    uint64_t window;             /* read ahead at most so many bytes */
    uint64_t largest, total, used;
    uint64_t least;   /* bytes with which it can work */
    uint64_t kept;    /* bytes of pieces that stay, as far as they can be given back */
    uint64_t to_give; /* of these, after the pass that runs */
    uint64_t lent;    /* bytes that the ring does without until then */
    uint64_t given;   /* promised so far */
    uint32_t lowest;  /* entry */
    uint32_t cursor;  /* entry that was asked for last */
    struct waiting_list waiting;
};

/* ---- the cache: slots for streamed experts --------------------------------------------------------------------------
 */

struct slot {
    unit_number unit;   /* NO_UNIT: empty */
    bool online;        /* within the budget */
    uint64_t populated; /* bytes that have memory behind them, or are about to be read into */
    uint32_t next;      /* in the list of free or of offline slots */
    struct transfer transfer;
};

/* Units of nearly the same size share slots of the size of the largest of them. */
struct slot_class {
    uint64_t stride;
    uint32_t unit_count; /* those on the GPU that may come here too */
    uint32_t here;       /* not on the GPU: whichever move, so many */
    uint32_t most;       /* slots that can be used: one for each of them, and one for a move */
    unit_number *units;  /* by item */
    uint64_t unit_bytes; /* of those that are not on the GPU */
    struct slot *slots;  /* [unit_count]: more could not be used */
    uint8_t *memory;
    uint32_t online, target; /* slots; online is above target while a shrink is under way */
    uint32_t free, offline;  /* lists */
    uint32_t granted;        /* units that room was made for and that were not taken yet */
    struct cache_policy *policy;
    struct waiting_list waiting;
};

#define MAX_CLASSES 4u
#define NO_SLOT UINT32_MAX

/* ---- guesses ----------------------------------------------------------------------------------------------------- */

struct offer {
    unit_number unit;
    float probability;
    uint64_t due; /* step that may want it */
};

struct guesses {
    enum store_guessing mode;
    uint32_t room;        /* of each list: all experts */
    struct offer *offers; /* not read yet, the step that comes first first, and of that the likeliest */
    unit_number *open;    /* read or being read, not due yet */
    unit_number *warm;    /* used most in earlier runs: from warm_next on, read when there is nothing better */
    uint32_t offer_count, open_count, warm_next, warm_count;
    bool on;
    uint64_t wants, last_wants;     /* in this pass, in the one before */
    double right, wrong;            /* bytes guessed, older ones count less */
    uint32_t last_miss;             /* pass that did not find everything there, guesses aside */
    uint64_t stall_seen;            /* when store_wants_guesses was asked last */
    uint64_t step_time, step_stall; /* when the step began, and what had been waited by then */
    double step_seconds;            /* of late, without waiting; 0: not known */
    uint32_t turn, trial;           /* passes since guessing stopped; passes that it goes on for whatever it shows */
};

/* ---- filling -------------------------------------------------------------------------------------------------------
 */

struct fill {
    bool wanted;
    bool paused;                  /* since a read failed */
    uint32_t failures;            /* so far */
    unit_number first, end, next; /* experts, and which is looked at next */
    uint32_t left;                /* of them to be looked at; 0: all are there, or have no room */
    uint64_t step;                /* for which next was chosen */
};

/* ---- what is remembered of earlier runs ---------------------------------------------------------------------------
 */

struct usage {
    char *path;
    uint64_t fingerprint; /* of the model's layout */
    uint32_t count;       /* experts */
    unit_number first;    /* experts are numbered one after the other */
    uint16_t *rates;      /* uses a pass * 65535, of earlier runs */
    struct plan_hit_curve curve;
    struct distances distances; /* of uses in this run, in passes of few tokens */
    bool full;                  /* the cache, at the end of some pass */
    uint32_t *last;             /* such pass that used each expert last, since the last one of many tokens; 0: none */
    uint32_t *counts;           /* passes that used an expert outside of the cache; NULL: nobody says */
};

/* ---- experts that change sides ----------------------------------------------------------------------------------- */

#define MOST_MOVES 32u

struct move {
    unit_number in, out; /* of one layer: what comes to the GPU, and what leaves it a slot */
    enum { MOVE_WAITS, MOVE_SENDS, MOVE_SENT } state;
};

enum move_phase { MOVES_NONE, MOVES_LEAVING, MOVES_COMING };

struct moves {
    uint32_t *heat;     /* [layers][experts] uses, older ones count less; NULL: nothing moves */
    unit_number *first; /* [layers] expert; NO_UNIT where none can move */
    uint32_t experts, passes, limit, count;
    enum move_phase phase;
    struct move list[MOST_MOVES];
    pthread_t thread;
    pthread_cond_t work;
    bool running, stop, failed;
};

/* ---- the store --------------------------------------------------------------------------------------------------- */

struct store {
    const void *model;
    const struct unit *(*unit)(const void *model, unit_number unit);
    uint32_t model_units; /* those of the model */
    uint32_t unit_count;  /* with pieces */
    struct unit *pieces;  /* [unit_count - model_units] */
    struct stored_unit *units;
    struct store_file *files;
    uint32_t file_count;
    struct io *io;
    pthread_mutex_t *mutex;
    pthread_cond_t changed; /* a unit became ready, failed, or can be had */
    uint32_t waiters;
    bool parts_will_do; /* to the one that waits */
    atomic_bool cancelled;

    uint8_t *arena;
    uint64_t arena_bytes;
    uint8_t **pinned_slices;
    struct transfer *load; /* until it is loaded */
    uint32_t load_count, load_left;
    struct failure load_failure;
    bool loaded, loading;

    struct device *device; /* what is on the GPU; NULL: nothing */
    struct moves moves;
    uint64_t slot_alignment;   /* of slots and their sizes */
    bool unpinned;             /* experts that fit stand in the cache all the same */
    struct in_place *in_place; /* NULL: the GPU does not read the cache */
    bool reads_in_place;       /* all slots that are in use can be read so */
    bool slots_changed;        /* since they were imported: guarded by the mutex */

    struct ring ring;
    struct slot_class classes[MAX_CLASSES];
    uint32_t class_count;
    uint64_t cache_used; /* bytes of units in slots */
    uint32_t layers;     /* of the model, at least 1 */
    bool passing;        /* from store_begin on */
    bool resting;        /* a pass runs over this store or over another one of the process */
    uint32_t pass;       /* from FIRST_PASS on */
    uint64_t step;       /* pass * layers + layer that was wanted last */
    struct guesses guesses;
    struct fill fill;
    struct usage usage;
    uint64_t unused;     /* bytes read on a guess that are there and were not needed yet */
    uint64_t ring_share; /* what the plan gave the ring */
    uint64_t pool_bytes;

    uint8_t *bounce;                    /* for store_read */
    struct io_counters loaded_counters; /* when the load was done */
    uint64_t rows_read;
    uint64_t bytes_checked;         /* that were read when the files were looked at last */
    struct store_statistics counts; /* the fields that are counted as things happen */
    struct store *next_peer;        /* guarded by the mutex in peers.c */
};

/* What a store is made of; store_open fills it from a model, tests from plain files. */
struct store_source {
    const void *model;
    const struct unit *(*unit)(const void *model, unit_number unit);
    uint32_t unit_count;
    const uint8_t *tiers;
    const uint8_t *in_ring;      /* of the tensors of TIER_STORAGE, which ones are held at all */
    const struct plan_cut *cuts; /* [unit_count]; NULL: all are whole */
    const uint8_t *streams;      /* of pieces, by cuts */
    const char *const *paths;
    uint32_t file_count;
    uint64_t ring_bytes, expert_cache_bytes;
    uint32_t experts; /* a layer; 0 where none is on the GPU */
    bool moves;       /* experts of layers that have some on the GPU change sides */
    bool in_place;    /* the GPU reads experts where they are in the cache */
};

hypura_status store_open_source(struct store **out, const struct store_source *source,
                                const struct store_options *options, const struct io_fault *fault, hypura_error *error);

#define BOUNCE_BYTES ((size_t)256 << 10) /* of memory for small reads */

/* Of the model, or a piece. */
static inline const struct unit *store_unit(const struct store *store, unit_number unit)
{
    return unit < store->model_units ? store->unit(store->model, unit) : &store->pieces[unit - store->model_units];
}

/* pieces.c: not locked, before anything else runs. */
hypura_status pieces_prepare(struct store *store, const struct store_source *source, hypura_error *error);

hypura_status store_cancelled_error(hypura_error *error);
/* Whether there is such a unit, and it may be asked for. */
hypura_status store_check_unit(const struct store *store, unit_number unit, hypura_error *error);

/* pass.c: an error when a file was written to since it was opened, and something was read since this was asked. */
hypura_status store_check_files(struct store *store, hypura_error *error);

/* waiting.c */
void waiting_append(struct store *store, struct waiting_list *list, unit_number unit);
void waiting_prepend(struct store *store, struct waiting_list *list, unit_number unit);
void waiting_remove(struct store *store, struct waiting_list *list, unit_number unit);

/* pinned.c: not locked, before anything else runs. */
hypura_status pinned_prepare(struct store *store, hypura_error *error);
void pinned_finished(struct store *store, struct transfer *transfer);

/* Transfers that load what goes to the GPU name this unit; those of pinned ranges NO_UNIT. */
#define DEVICE_UNIT (NO_UNIT - 1)

/* device.c: not locked, before anything else runs, but for device_finished. */
hypura_status device_prepare(struct store *store, struct gpu *gpu, uint32_t experts, hypura_error *error);
void device_free(struct store *store);
hypura_status device_load(struct store *store, store_progress progress, void *context, hypura_error *error);
uint64_t device_bytes(const struct store *store);
uint64_t device_import_alignment(const struct gpu *gpu); /* of memory that the GPU is to read where it is */
void device_finished(struct store *store, struct transfer *transfer);
uint32_t device_slots(const struct store *store, uint32_t layer); /* experts of a layer that can be there */
/* An expert leaves its slot to another of its layer; first the table says that the slot is empty, then whose it is. */
void device_leave(struct store *store, unit_number out);
void device_come(struct store *store, unit_number in, unit_number out);
/* While nothing on the GPU reads it. HYPURA_ERROR_DEVICE: the device may not have it, and must not compute by the one
 * before. */
hypura_status device_send_table(struct store *store, hypura_error *error);
/* Copies an expert in memory to where another one was; from any thread, not locked. */
hypura_status device_bring(struct store *store, unit_number in, unit_number out, const struct store_view *view,
                           hypura_error *error);

/* in_place.c */
hypura_status in_place_prepare(struct store *store, struct gpu *gpu, hypura_error *error); /* after cache_prepare */
void in_place_free(struct store *store);
void in_place_settle(struct store *store); /* locked; nothing on the GPU runs */
struct gpu_range in_place_range(const struct store *store,
                                const uint8_t *memory); /* without a buffer: it is not there */
void cache_grow(struct store *store);                   /* brings the slots into use that cache_set_capacity wants */

/* moves.c */
hypura_status moves_prepare(struct store *store, uint32_t experts, hypura_error *error); /* after device_prepare */
bool moves_has(const struct store *store, unit_number unit); /* an expert that may change sides */
void moves_note(struct store *store, unit_number unit);      /* one use */
void moves_expect(struct store *store, unit_number unit, float uses_a_pass);
hypura_status moves_pass_done(struct store *store, hypura_error *error); /* not locked */
void moves_stop(struct store *store);                                    /* not locked */
void moves_free(struct store *store);

/* Pinned or on the GPU: it never moves. */
static inline bool is_fixed(const struct stored_unit *unit)
{
    return unit->place == PLACE_PINNED || unit->place == PLACE_GPU;
}

void make_condition(pthread_cond_t *condition); /* for store_wait_locked */

/* Where a unit is that is there. */
void store_show(const struct store *store, unit_number unit, struct store_view *view);

/* A transfer for a unit at memory. */
void transfer_for_unit(struct store *store, struct transfer *transfer, unit_number unit, uint8_t *memory,
                       enum priority priority);

uint64_t unit_footprint(const struct store *store, unit_number unit);

/* Waits until something changes, for at most some milliseconds: store_cancel, which a signal handler may call, wakes
 * nobody. */
void store_wait_locked(struct store *store);

/* A unit's transfer ended without bringing it; wants go back to the queue, or fail. True: it waits again. */
bool unit_not_brought(struct store *store, unit_number unit, struct transfer *transfer);

/* ring.c */
hypura_status ring_prepare(struct store *store, uint64_t bytes, hypura_error *error);
void ring_free(struct store *store);
void ring_want(struct store *store, unit_number unit);
void ring_ask(struct store *store, unit_number unit);      /* moves the cursor */
void ring_pump(struct store *store);                       /* something changed: starts what can be started */
void ring_released(struct store *store, unit_number unit); /* no longer held or wanted */
void ring_unwanted(struct store *store, unit_number unit); /* while it is read */
void ring_finished(struct store *store, unit_number unit);
/* Room for a unit that is waited for, at the cost of others that are wanted but not held. False: it cannot be had
 * before something is put. */
bool ring_force(struct store *store, unit_number unit);
void ring_set_capacity(struct store *store, uint64_t bytes);
void ring_give_back(struct store *store); /* between passes: pieces that stay, as many as were promised */

/* cache.c: the same for experts. */
hypura_status cache_prepare(struct store *store, uint64_t bytes, const char *policy, hypura_error *error);
void cache_advance(struct store *store); /* a pass is done */
void cache_free(struct store *store);
uint64_t cache_total(const struct store *store); /* bytes that hold every expert */
/* Slots of each class for so many bytes; false when there is not enough for one each. */
bool cache_share_out(const struct store *store, uint64_t bytes, uint32_t targets[MAX_CLASSES]);
/* Where it holds all, and experts move, so that they are not pinned: what is read before the first pass, reading that,
 * and how much is there; more is on the way. */
uint64_t cache_load_bytes(const struct store *store);
void cache_fill(struct store *store);
uint64_t cache_filled(const struct store *store, bool *more);
uint64_t cache_least(const struct store *store); /* bytes with which it can work: cache_set_capacity wants them */
void cache_want(struct store *store, unit_number unit);
/* Reads an absent expert as a guess, when there is a slot for it: a free one, or that of the expert which the policy
 * would give up next, unless that is used too often; for what is all but certain, of any that is not in use. */
#define CERTAIN 0.95f
bool cache_guess(struct store *store, unit_number unit, float probability);
float cache_rate(const struct store *store, unit_number unit); /* uses a token, by the policy's memory; 0: none */
void cache_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used);
void cache_set_rate(struct store *store, unit_number unit, float uses_a_pass);
void cache_bring(struct store *store, unit_number unit, enum priority priority); /* absent, into a free slot */
void cache_hasten(struct store *store, unit_number unit);                        /* what fills a slot is guessed now */
void cache_pump(struct store *store, struct slot_class *slot_class);
void cache_released(struct store *store, unit_number unit); /* no longer held or wanted */
void cache_taken(struct store *store, unit_number unit);    /* got, or not wanted any more */
void cache_unwanted(struct store *store, unit_number unit); /* while it is read */
void cache_finished(struct store *store, unit_number unit);
bool cache_force(struct store *store, unit_number unit);
void cache_drop(struct store *store, unit_number unit); /* nobody wants it here any more */
void cache_set_capacity(struct store *store, uint64_t bytes);
/* Puts memory behind a piece of a free slot, while the caller has nothing else to do: clearing fresh pages would keep
 * the I/O thread from the drive. Lets the lock go meanwhile. False: nothing is left to do. */
bool cache_populate(struct store *store);

/* guess.c */
#define FIRST_PASS 16u /* so that what was never needed was needed long ago */
hypura_status guess_prepare(struct store *store, hypura_error *error);
void guess_free(struct store *store);
void guess_pump(struct store *store);                     /* the drive may be idle: reads what was offered */
void guess_wanted(struct store *store, unit_number unit); /* before it is wanted */
void guess_expire(struct store *store);                   /* after a batch of wants */
void guess_pass_done(struct store *store);

/* fill.c */
void fill_prepare(struct store *store, bool wanted);              /* not locked; after cache_prepare */
void fill_pump(struct store *store);                              /* no pass runs, and the drive is idle */
void fill_again(struct store *store);                             /* there are more slots */
void fill_failed(struct store *store, enum priority priority);    /* a read of any kind */
void fill_succeeded(struct store *store, enum priority priority); /* likewise */

/* peers.c: no store is locked. */
void peers_join(struct store *store);
void peers_begin(void); /* a pass */
void peers_end(void);
void peers_leave(struct store *store);

/* usage.c: not locked. */
hypura_status usage_prepare(struct store *store, const char *path, hypura_error *error);
void usage_warm(struct store *store); /* locked: what was used most in earlier runs is read while the drive is idle */
void usage_note_pass(struct store *store); /* locked: before guess_pass_done */
void usage_save(struct store *store);
void usage_free(struct store *store);

#endif
