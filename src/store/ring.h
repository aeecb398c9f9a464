/* store/ring: streamed tensors in their known order. Owner: ring.c. */
#ifndef HYPURA_STORE_RING_H
#define HYPURA_STORE_RING_H

#include "store/io.h"
#include "store/waiting.h"

struct store;

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
    uint64_t share;              /* what the plan gave it */
    uint64_t window;             /* read ahead at most this many bytes */
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

struct store_source;
hypura_status ring_prepare(struct store *store, const struct store_source *source, hypura_error *error);
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

#endif
