/* store/spread: which of several drives a read goes to, and how much of it. Owner: spread.c.
 *
 * A drive is a queue: it finishes another read after everything in flight there. Its speed is measured from recent
 * reads (bytes in flight when a read was sent, divided by the read's time); at first it is that of its profile. Nothing
 * here reads. Functions require the store's mutex.
 */
#ifndef HYPURA_STORE_SPREAD_H
#define HYPURA_STORE_SPREAD_H

#include "core/core.h"
#include "hw/hw.h"

/* A smaller part is not worth a separate read. */
#define SPREAD_LEAST ((uint64_t)128 << 10)

struct spread_drive {
    uint32_t depth, block_bytes; /* reads in flight at most, and bytes of each */
    uint64_t prefetch_bytes;     /* of prefetches in flight at most */
    double expected;             /* bytes per second by its profile */
    double latency;              /* seconds of the smallest read */
    uint32_t in_flight;
    uint64_t bytes_in_flight;
    double seen_bytes, seen_seconds; /* lately */
    uint64_t heard;                  /* when the last read came back */
    uint64_t bytes;                  /* read so far */
};

struct spread {
    uint32_t count;
    struct spread_drive drives[HARDWARE_MAX_DRIVES];
};

/* storages: [count], or NULL if nothing is known. block_bytes, depth: for every drive; 0: as in its profile. */
void spread_prepare(struct spread *spread, const struct storage *storages, uint32_t count, uint32_t block_bytes,
                    uint32_t depth);

/* The reads that may be in flight on all drives, and the bytes of prefetches among them. */
uint32_t spread_depth(const struct spread *spread);
uint64_t spread_prefetch_bytes(const struct spread *spread);

/* Bytes per second. */
double spread_speed(const struct spread_drive *drive);

/* A request: bytes of one segment, and the bytes of others that wait for the same drives after it. */
struct spread_wish {
    const uint8_t *drives; /* the drives that have it, each once */
    uint32_t drive_count;
    uint64_t bytes, behind;
    uint32_t most; /* bytes of one read; 0: the drive's own */
};

/* Chooses, among drives with room, the one that finishes first, and how much it should read: the whole wish, if sharing
 * it would not end sooner. false: a drive without room would finish sooner than these. */
bool spread_choose(const struct spread *spread, const struct spread_wish *wish, uint8_t *drive, uint64_t *bytes);

/* Tell that a read was sent, and that it came back. spread_sent returns the bytes in flight with it, which spread_came
 * needs. now: 0 if its time should be ignored. */
uint64_t spread_sent(struct spread *spread, uint8_t drive, uint64_t bytes);
void spread_came(struct spread *spread, uint8_t drive, uint64_t bytes, uint64_t ahead, uint64_t sent, uint64_t now);

#endif
