/* store/cache: slots for streamed experts. Owners: cache_classes.c, which sizes of slots there are and how many of
 * each; cache.c, what is in them. */
#ifndef HYPURA_STORE_CACHE_H
#define HYPURA_STORE_CACHE_H

#include "store/classes.h"
#include "store/io.h"
#include "store/policy.h"
#include "store/waiting.h"

struct store;

struct slot {
    unit_number unit;   /* NO_UNIT: empty */
    bool online;        /* within the budget */
    uint64_t populated; /* bytes that have memory, or are about to be read into */
    uint32_t next;      /* in the list of free or of offline slots */
    struct transfer transfer;
};

#define NO_SLOT UINT32_MAX

struct slot_class {
    const struct size_class *size; /* moves do not change it */
    unit_number *units;            /* by item */
    struct slot *slots;            /* [size->unit_count]: more could not be used */
    uint8_t *memory;
    uint32_t online, target; /* slots; online is above target while a shrink is under way */
    uint32_t free, offline;  /* lists */
    uint32_t granted;        /* units that got room and have not been taken yet */
    struct cache_policy *policy;
    struct waiting_list waiting;
};

struct cache {
    struct size_class sizes[MAX_CLASSES];
    struct slot_class classes[MAX_CLASSES];
    uint32_t class_count;
    uint64_t alignment; /* of slots and their sizes */
    bool unpinned;      /* experts are here even if all fit */
    bool grows_at_rest; /* grows only between passes, by cache_grow */
    bool slots_changed; /* slots were released since cache_grow was called, or can be added */
    uint64_t used;      /* bytes of units in slots */
    uint64_t unused;    /* prefetched bytes that have not been needed yet */
};

/* ---- cache_classes.c --------------------------------------------------------------------------------------------- */

hypura_status cache_classes_prepare(struct store *store, uint64_t bytes, const char *policy, hypura_error *error);
void cache_free(struct store *store);
uint64_t cache_total(const struct store *store); /* bytes with which it holds every expert */
/* Divides this many bytes into slots of each class; false: too few for one slot each. */
bool cache_share_out(const struct store *store, uint64_t bytes, uint32_t targets[MAX_CLASSES]);
uint64_t cache_least(const struct store *store); /* the least bytes that cache_set_capacity accepts */
/* Bytes to read before the first pass, if the cache holds all experts because they move and are not pinned; else 0. */
uint64_t cache_load_bytes(const struct store *store);

/* ---- cache.c: as the functions of ring.h
 * ----------------------------------------------------------------------------- */

/* Starts reading cache_load_bytes; and how much of it has arrived. */
void cache_fill(struct store *store);
uint64_t cache_filled(const struct store *store, bool *more);
hypura_status cache_prepare(struct store *store, uint64_t bytes, const char *policy,
                            hypura_error *error); /* after moves_prepare */
void cache_advance(struct store *store);          /* ends a pass */
void cache_want(struct store *store, unit_number unit);
/* Starts to read a missing expert as a demand before it is wanted; false: there is no slot for it. */
bool cache_demand(struct store *store, unit_number number);

/* Prefetches a missing expert if there is a slot: a free one, or that of the policy's next victim unless that is used
 * too often. For one that is almost certain, the slot of any expert that is not in use. */
#define CERTAIN 0.95f
bool cache_prefetch(struct store *store, unit_number unit, float probability);
float cache_rate(const struct store *store, unit_number unit); /* uses per token, as the policy remembers; 0: none */
void cache_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used);
void cache_set_rate(struct store *store, unit_number unit, float uses_a_pass);
void cache_bring(struct store *store, unit_number unit,
                 enum priority priority); /* reads a missing expert into a free slot */
/* A free slot for a missing expert that comes from elsewhere than the drive (false: there is none), and how that ended.
 */
bool cache_receive(struct store *store, unit_number unit);
void cache_received(struct store *store, unit_number unit, bool there);
void cache_hasten(struct store *store, unit_number unit); /* turns a fill into a prefetch */
void cache_pump(struct store *store, struct slot_class *slot_class);
void cache_released(struct store *store, unit_number unit); /* no longer held or wanted */
void cache_taken(struct store *store, unit_number unit);    /* got, or no longer wanted */
void cache_unwanted(struct store *store, unit_number unit); /* no longer wanted while it is being read */
void cache_finished(struct store *store, unit_number unit);
bool cache_force(struct store *store, unit_number unit);
void cache_drop(struct store *store, unit_number unit); /* discards it */
void cache_set_capacity(struct store *store, uint64_t bytes);
void cache_grow(struct store *store); /* adds the slots that cache_set_capacity asked for */
/* Populates a part of a free slot with memory while the caller is idle, because clearing fresh pages would delay the
 * I/O thread. Releases the lock meanwhile. false: nothing is left to do. */
bool cache_populate(struct store *store);

#endif
