#include "store/spread.h"

/* Observations fade by this much with every read, so that some tens of reads determine the speed. */
#define FORGET (1.0 / 64)

/* The profile counts like reads of this many seconds. */
#define EXPECTED_SECONDS 0.1

/* A drive that looked slow gets no reads, and would look slow for ever. So after this long, observations count half. */
#define SILENT_NANOSECONDS 1000000000u

#define DEFAULT_BLOCK_BYTES ((uint32_t)1 << 20)
#define DEFAULT_DEPTH 8u
#define MAX_BLOCK_BYTES ((uint32_t)64 << 20)
#define MAX_DEPTH 1024u

void spread_prepare(struct spread *spread, const struct storage *storages, uint32_t count, uint32_t block_bytes,
                    uint32_t depth)
{
    *spread = (struct spread){.count = MIN(count, (uint32_t)HARDWARE_MAX_DRIVES)};
    for (uint32_t i = 0; i < spread->count; i++) {
        const struct storage *storage = storages ? &storages[i] : &(struct storage){0};
        struct spread_drive *drive = &spread->drives[i];
        uint32_t block = block_bytes ? block_bytes : storage->block_bytes;
        block = MIN(block ? block : DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES);
        drive->block_bytes = MAX((uint32_t)align_down(block, STORAGE_ALIGNMENT), STORAGE_ALIGNMENT);
        drive->depth = depth ? depth : storage->depth;
        drive->depth = MIN(drive->depth ? drive->depth : DEFAULT_DEPTH, MAX_DEPTH);
        drive->prefetch_bytes =
            (uint64_t)hardware_prefetch_depth(storage, drive->block_bytes, drive->depth) * drive->block_bytes;
        drive->expected = MAX(storage->bytes_per_second, 1e6);
        drive->latency = MAX(storage->latency_seconds, 0);
        drive->seen_seconds = EXPECTED_SECONDS;
        drive->seen_bytes = EXPECTED_SECONDS * drive->expected;
    }
}

uint32_t spread_depth(const struct spread *spread)
{
    uint32_t depth = 0;
    for (uint32_t i = 0; i < spread->count; i++)
        depth += spread->drives[i].depth;
    return depth;
}

uint64_t spread_prefetch_bytes(const struct spread *spread)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < spread->count; i++)
        bytes += spread->drives[i].prefetch_bytes;
    return bytes;
}

double spread_speed(const struct spread_drive *drive)
{
    return drive->seen_bytes / drive->seen_seconds;
}

/* Seconds until a drive has read what is in flight there. */
static double queued(const struct spread_drive *drive)
{
    return drive->latency + (double)drive->bytes_in_flight / spread_speed(drive);
}

/* When the whole wish would arrive, if it was shared so that all participating drives finish together. */
static double end_of_all(const struct spread *spread, const struct spread_wish *wish)
{
    double all = (double)wish->bytes + (double)wish->behind, end = 0;
    bool out[HARDWARE_MAX_DRIVES] = {false};
    for (bool again = true; again;) {
        double bytes = all, speed = 0;
        again = false;
        for (uint32_t i = 0; i < wish->drive_count; i++) {
            const struct spread_drive *drive = &spread->drives[wish->drives[i]];
            if (out[i])
                continue;
            bytes += queued(drive) * spread_speed(drive);
            speed += spread_speed(drive);
        }
        end = bytes / speed;
        /* Drop the drive with the smallest share first; its share may make another one's large enough. */
        double least = (double)MIN(SPREAD_LEAST, wish->bytes);
        uint32_t worst = wish->drive_count;
        for (uint32_t i = 0; i < wish->drive_count; i++) {
            const struct spread_drive *drive = &spread->drives[wish->drives[i]];
            double share = (end - queued(drive)) * spread_speed(drive);
            if (!out[i] && share < least) {
                least = share;
                worst = i;
            }
        }
        uint32_t left = 0;
        for (uint32_t i = 0; i < wish->drive_count; i++)
            left += !out[i];
        if (worst < wish->drive_count && left > 1) {
            out[worst] = true;
            again = true;
        }
    }
    return end;
}

bool spread_choose(const struct spread *spread, const struct spread_wish *wish, uint8_t *drive, uint64_t *bytes)
{
    double end = end_of_all(spread, wish), best = 0;
    bool found = false;
    for (uint32_t i = 0; i < wish->drive_count; i++) {
        const struct spread_drive *one = &spread->drives[wish->drives[i]];
        if (one->in_flight >= one->depth)
            continue;
        uint64_t most = MIN(wish->bytes, (uint64_t)(wish->most ? MIN(wish->most, one->block_bytes) : one->block_bytes));
        double share = (end - queued(one)) * spread_speed(one);
        /* Rounding must not leave a single drive without a share. */
        if (wish->drive_count > 1 && share * 1.0001 + 1 < (double)MIN(SPREAD_LEAST, wish->bytes))
            continue;
        double done = queued(one) + (double)most / spread_speed(one);
        if (found && done >= best)
            continue;
        found = true;
        best = done;
        *drive = wish->drives[i];
        /* Even shares of the rest, because a short last block takes as long as a whole one. */
        uint64_t blocks = (wish->bytes + most - 1) / most;
        *bytes = align_up((wish->bytes + blocks - 1) / blocks, STORAGE_ALIGNMENT);
        if (wish->drive_count > 1 && share < (double)*bytes)
            *bytes = align_up((uint64_t)MAX(share, (double)SPREAD_LEAST), STORAGE_ALIGNMENT);
        if (wish->bytes < *bytes + SPREAD_LEAST && wish->bytes <= most)
            *bytes = wish->bytes;
        *bytes = MIN(*bytes, wish->bytes);
    }
    return found;
}

uint64_t spread_sent(struct spread *spread, uint8_t drive, uint64_t bytes)
{
    struct spread_drive *one = &spread->drives[drive];
    one->in_flight++;
    one->bytes_in_flight += bytes;
    return one->bytes_in_flight;
}

void spread_came(struct spread *spread, uint8_t drive, uint64_t bytes, uint64_t ahead, uint64_t sent, uint64_t now)
{
    struct spread_drive *one = &spread->drives[drive];
    one->in_flight--;
    one->bytes_in_flight -= bytes;
    if (now == 0)
        return;
    one->heard = now;
    double seconds = (double)(now - MIN(sent, now)) * 1e-9;
    seconds = MAX(seconds - one->latency, seconds / 2);
    one->seen_bytes = one->seen_bytes * (1 - FORGET) + (double)ahead;
    one->seen_seconds = one->seen_seconds * (1 - FORGET) + seconds;
    for (uint32_t i = 0; i < spread->count; i++) {
        struct spread_drive *other = &spread->drives[i];
        if (other->in_flight > 0 || now - MIN(other->heard, now) < SILENT_NANOSECONDS)
            continue;
        other->heard = now;
        other->seen_seconds = other->seen_seconds / 2 + EXPECTED_SECONDS;
        other->seen_bytes = other->seen_bytes / 2 + EXPECTED_SECONDS * other->expected;
    }
}
