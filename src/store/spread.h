/* store/spread: which of several drives a read goes to, and how much of it. Owner: spread.c.
 *
 * A drive is a queue: it is done with one more read when it has read what is in flight there and that one. How fast a
 * drive is, is what it was seen to do lately (bytes in flight when a read was sent, by what the read took), at first
 * what its profile says. Nothing here reads; functions want the store's mutex held.
 */
#ifndef HYPURA_STORE_SPREAD_H
#define HYPURA_STORE_SPREAD_H

#include "core/core.h"
#include "hw/hw.h"

/* Less than this is not worth a read of its own. */
#define SPREAD_LEAST ((uint64_t)128 << 10)

struct spread_drive {
    uint32_t depth, block_bytes; /* reads in flight at most, and bytes of each */
    double expected;             /* bytes per second by its profile */
    double latency;              /* seconds of the smallest read */
    uint32_t in_flight;
    uint64_t bytes_in_flight;
    double seen_bytes, seen_seconds; /* lately */
    uint64_t heard;                  /* when a read came back last */
    uint64_t bytes;                  /* read so far */
};

struct spread {
    uint32_t count;
    struct spread_drive drives[HARDWARE_MAX_DRIVES];
};

/* storages: [count], or NULL where nothing is known. block_bytes, depth: of every drive; 0: as its profile says. */
void spread_prepare(struct spread *spread, const struct storage *storages, uint32_t count, uint32_t block_bytes,
                    uint32_t depth);

/* All reads that may be in flight. */
uint32_t spread_depth(const struct spread *spread);

/* Bytes a second. */
double spread_speed(const struct spread_drive *drive);

/* What wants to be read: bytes of one segment, and behind that others that wait for the same drives. */
struct spread_wish {
    const uint8_t *drives; /* that have it, each once */
    uint32_t drive_count;
    uint64_t bytes, behind;
    uint32_t most; /* bytes of one read; 0: the drive's own */
};

/* The drive that is done first, of those with room, and how much it should read: all of the wish where that ends as
 * soon as sharing it. False: a drive without room would be done sooner than those that have some. */
bool spread_choose(const struct spread *spread, const struct spread_wish *wish, uint8_t *drive, uint64_t *bytes);

/* A read was sent, and came back. The first gives the bytes in flight with it, which the other wants. now: 0
 * where nothing is to be learned from it. */
uint64_t spread_sent(struct spread *spread, uint8_t drive, uint64_t bytes);
void spread_came(struct spread *spread, uint8_t drive, uint64_t bytes, uint64_t ahead, uint64_t sent, uint64_t now);

#endif
