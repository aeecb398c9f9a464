/* store/units: the record of each unit, and functions for units of every place. Owner: units.c.
 *
 * A unit is pinned (in the arena, loaded once), on the GPU (loaded once), in the ring (a streamed tensor), in the cache
 * (a streamed expert), in pieces, or never held. Pieces are units too, numbered after those of the model.
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
    PLACE_PIECES, /* each of them is pinned or in the ring */
    PLACE_STORAGE /* only parts are read */
};

enum unit_stage {
    STAGE_ABSENT,
    STAGE_WAITING, /* wanted, in the queue for room */
    STAGE_READING,
    STAGE_READY,
    STAGE_FAILED /* wanted; store_get will return the error */
};

struct stored_unit {
    uint8_t place, stage;
    uint8_t slot_class;
    uint8_t device;                    /* of PLACE_GPU */
    uint8_t skips;                     /* of a ring unit: consecutive passes without it, at most SKIPS */
    bool granted;                      /* has room for a demand, which was not taken yet */
    bool prefetched;                   /* and not needed yet */
    bool kept;                         /* of an expert: at its last want, in memory before it could be prefetched */
    bool moves;                        /* this expert may change sides */
    uint32_t item;                     /* pinned: first slice in pinned.slices; ring and cache: index there */
    uint32_t slot;                     /* of the cache */
    struct store_pieces pieces;        /* if in pieces */
    uint32_t device_item, device_slot; /* on the GPU: first slice; of an expert its slot */
    uint32_t wants, holds;
    unit_number next_waiting;
    uint32_t last_pass;  /* the last that needed it */
    uint32_t noted_pass; /* the last whose uses per token were reported to the policy */
    uint64_t due;        /* tick at which it is expected; until then it is evicted last */
    uint8_t *memory;
    struct failure *failure; /* if failed; NULL: no memory for it */
};

/* Pinned or on the GPU: it never moves. */
static inline bool is_fixed(const struct stored_unit *unit)
{
    return unit->place == PLACE_PINNED || unit->place == PLACE_GPU;
}

hypura_status store_cancelled_error(hypura_error *error);
/* Fails if there is no such unit, or it may not be wanted. */
hypura_status store_check_unit(const struct store *store, unit_number unit, hypura_error *error);

uint64_t unit_footprint(const struct store *store, unit_number unit);

/* Sets the addresses of a unit in memory; NULL if it is on a device. */
void unit_show(const struct store *store, unit_number unit, struct store_view *view);

/* Call it after a unit's transfer failed or was abandoned: its wants return to the queue, or fail. true: it waits
 * again. */
bool unit_not_brought(struct store *store, unit_number unit, struct transfer *transfer);

#endif
