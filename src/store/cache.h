/* store/cache: slots for streamed experts. Owners: cache_classes.c, which sizes of slots there are and how many of
 * each; cache.c, what is in them. */
#ifndef HYPURA_STORE_CACHE_H
#define HYPURA_STORE_CACHE_H

#include "store/io.h"
#include "store/policy.h"
#include "store/waiting.h"

struct store;

struct slot {
    unit_number unit;   /* NO_UNIT: empty */
    bool online;        /* within the budget */
    uint64_t populated; /* bytes that have memory behind them, or are about to be read into */
    uint32_t next;      /* in the list of free or of offline slots */
    struct transfer transfer;
};

#define NO_SLOT UINT32_MAX

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

struct cache {
    struct slot_class classes[MAX_CLASSES];
    uint32_t class_count;
    uint64_t alignment; /* of slots and their sizes */
    bool unpinned;      /* experts that fit stand here all the same */
    bool grows_at_rest; /* between passes only, by cache_grow */
    bool slots_changed; /* some were given back since cache_grow was called, or others are to be had */
    uint64_t used;      /* bytes of units in slots */
    uint64_t unused;    /* prefetched bytes that are there and were not needed yet */
};

/* ---- cache_classes.c --------------------------------------------------------------------------------------------- */

hypura_status cache_classes_prepare(struct store *store, uint64_t bytes, const char *policy, hypura_error *error);
void cache_free(struct store *store);
uint64_t cache_total(const struct store *store); /* bytes that hold every expert */
/* Slots of each class for this many bytes; false when there is not enough for one each. */
bool cache_share_out(const struct store *store, uint64_t bytes, uint32_t targets[MAX_CLASSES]);
uint64_t cache_least(const struct store *store); /* bytes with which it can work: cache_set_capacity wants them */
/* Where it holds all, and experts move, so that they are not pinned: bytes that are read before the first pass. */
uint64_t cache_load_bytes(const struct store *store);

/* ---- cache.c: as the functions of ring.h
 * ----------------------------------------------------------------------------- */

/* Reading cache_load_bytes, and how much of it is there; more is on the way. */
void cache_fill(struct store *store);
uint64_t cache_filled(const struct store *store, bool *more);
hypura_status cache_prepare(struct store *store, uint64_t bytes, const char *policy,
                            hypura_error *error); /* after moves_prepare */
void cache_advance(struct store *store);          /* a pass is done */
void cache_want(struct store *store, unit_number unit);
/* Begins the read of what is missing, as a demand, though nobody wants it yet; false: there is no slot for it. */
bool cache_demand(struct store *store, unit_number number);

/* Prefetches an absent expert, when there is a slot for it: a free one, or that of the expert which the policy
 * would give up next, unless that is used too often; for what is all but certain, of any that is not in use. */
#define CERTAIN 0.95f
bool cache_prefetch(struct store *store, unit_number unit, float probability);
float cache_rate(const struct store *store, unit_number unit); /* uses a token, by the policy's memory; 0: none */
void cache_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used);
void cache_set_rate(struct store *store, unit_number unit, float uses_a_pass);
void cache_bring(struct store *store, unit_number unit, enum priority priority); /* absent, into a free slot */
void cache_hasten(struct store *store, unit_number unit); /* what fills a slot is prefetched now */
void cache_pump(struct store *store, struct slot_class *slot_class);
void cache_released(struct store *store, unit_number unit); /* no longer held or wanted */
void cache_taken(struct store *store, unit_number unit);    /* got, or not wanted any more */
void cache_unwanted(struct store *store, unit_number unit); /* while it is read */
void cache_finished(struct store *store, unit_number unit);
bool cache_force(struct store *store, unit_number unit);
void cache_drop(struct store *store, unit_number unit); /* nobody wants it here any more */
void cache_set_capacity(struct store *store, uint64_t bytes);
void cache_grow(struct store *store); /* brings the slots into use that cache_set_capacity wants */
/* Puts memory behind a part of a free slot, while the caller has nothing else to do: clearing fresh pages would keep
 * the I/O thread from the drive. Lets the lock go meanwhile. False: nothing is left to do. */
bool cache_populate(struct store *store);

#endif
