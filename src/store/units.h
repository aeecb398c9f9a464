/* store/units: what is known of each unit, and what is the same wherever it is held. Owner: units.c.
 *
 * A unit is pinned (in the arena, loaded once), on the GPU (likewise), in the ring (a streamed tensor), in the cache (a
 * streamed expert), in pieces, or never held. Pieces are units too, numbered after those of the model.
 */
#ifndef HYPURA_STORE_UNITS_H
#define HYPURA_STORE_UNITS_H

#include "store/io.h"
#include "store/store.h"

struct store;

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
    uint8_t device;                    /* of PLACE_GPU: which */
    uint8_t skips;                     /* of a ring unit: passes in a row that did not ask for it, at most SKIPS */
    bool granted;                      /* room was made for a demand, and it was not taken yet */
    bool prefetched;                   /* and not needed since */
    bool kept;                         /* of an expert: when it was wanted last, there before it could be prefetched */
    bool moves;                        /* an expert that may change sides */
    uint32_t item;                     /* pinned: first slice in pinned.slices; ring and cache: index there */
    uint32_t slot;                     /* of the cache */
    struct store_pieces pieces;        /* in pieces: which */
    uint32_t device_item, device_slot; /* on the GPU: first slice; of an expert its slot */
    uint32_t wants, holds;
    unit_number next_waiting;
    uint32_t last_pass;  /* that needed it */
    uint32_t noted_pass; /* whose tokens' uses the policy knows */
    uint64_t due;        /* tick for which it is expected: until then it goes only when nothing else may */
    uint8_t *memory;
    struct failure *failure; /* when failed; NULL: there was no memory for it */
};

/* Pinned or on the GPU: it never moves. */
static inline bool is_fixed(const struct stored_unit *unit)
{
    return unit->place == PLACE_PINNED || unit->place == PLACE_GPU;
}

hypura_status store_cancelled_error(hypura_error *error);
/* Whether there is such a unit, and it may be asked for. */
hypura_status store_check_unit(const struct store *store, unit_number unit, hypura_error *error);

uint64_t unit_footprint(const struct store *store, unit_number unit);

/* Where a unit is that is there; nothing of what a device has. */
void unit_show(const struct store *store, unit_number unit, struct store_view *view);

/* A unit's transfer ended without bringing it; wants go back to the queue, or fail. True: it waits again. */
bool unit_not_brought(struct store *store, unit_number unit, struct transfer *transfer);

#endif
