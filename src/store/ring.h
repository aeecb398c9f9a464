/* store/ring: streamed tensors in their known order. Owner: ring.c. */
#ifndef HYPURA_STORE_RING_H
#define HYPURA_STORE_RING_H

#include "store/io.h"
#include "store/waiting.h"

struct store;

/* A unit that was skipped by this many passes in a row is no longer read ahead, until it is requested again. */
#define SKIPS 2u

struct ring_entry {
    unit_number unit;
    uint64_t position, bytes; /* in the ring's memory, while the unit is there */
    uint32_t lower, higher;   /* neighbours by position */
    struct transfer transfer;
};

struct ring {
    uint32_t count;
    struct ring_entry *entries; /* in the order of use */
    uint8_t *memory;
    uint64_t reserved, capacity; /* bytes of address space; bytes that may be used */
    uint64_t committed;          /* the end of the part that may have memory; above capacity while it shrinks */
    uint64_t share;              /* the plan's ring_bytes */
    uint64_t window;             /* at most this many bytes are read ahead */
    uint64_t largest, total, used;
    uint64_t least;   /* bytes with which it can work */
    uint64_t kept;    /* bytes of resident pieces that could be released */
    uint64_t to_give; /* of these, promised but not yet released: that happens after the current pass */
    uint64_t lent;    /* bytes by which the ring is smaller until then */
    uint64_t given;   /* bytes promised so far */
    uint32_t lowest;  /* the entry with the lowest position */
    uint32_t cursor;  /* the entry that was requested last */
    struct waiting_list waiting;
};

struct store_source;
hypura_status ring_prepare(struct store *store, const struct store_source *source, hypura_error *error);
void ring_free(struct store *store);
void ring_want(struct store *store, unit_number unit);
void ring_ask(struct store *store, unit_number unit);      /* moves the cursor */
void ring_pump(struct store *store);                       /* after any change: starts what can be started */
void ring_released(struct store *store, unit_number unit); /* no longer held or wanted */
void ring_unwanted(struct store *store, unit_number unit); /* no longer wanted while it is being read */
void ring_finished(struct store *store, unit_number unit);
/* Makes room for a unit that is waited for, if necessary at the cost of units that are wanted but not held. false:
 * there can be none until a unit is put. */
bool ring_force(struct store *store, unit_number unit);
void ring_set_capacity(struct store *store, uint64_t bytes);
void ring_give_back(struct store *store); /* between passes: releases the promised resident pieces */

#endif
