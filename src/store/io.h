/* store/io: transfers from files into memory. Owner: io.c.
 *
 * A transfer reads one unit: up to three ranges of files, each to its own place. One I/O thread cuts transfers into
 * blocks, keeps a number of blocks in flight, retries short reads, and reports each transfer once, when none of its
 * blocks is in flight. Blocks of transfers with higher priority always go first.
 *
 * If files are on several drives, or have copies, each block goes to the drive that will finish it first (spread.h). A
 * copy that fails, or was written to, is no longer used if another one can replace it, and its blocks are read there.
 *
 * One mutex guards the whole store. The I/O thread holds it except while it calls the system. Functions that say
 * "locked" require it.
 */
#ifndef HYPURA_STORE_IO_H
#define HYPURA_STORE_IO_H

#include "model/model.h"
#include "store/file.h"
#include "store/spread.h"
#include "store/store.h"

#include <pthread.h>
#include <stdatomic.h>

struct segment {
    uint32_t file;
    uint64_t offset; /* aligned */
    uint64_t bytes;  /* aligned; may reach past the end of the file */
    uint64_t needed; /* bytes up to the end of the last slice in it, which must arrive */
    uint8_t *memory; /* aligned */
};

enum priority {
    PRIORITY_DEMAND, /* needed now */
    PRIORITY_AHEAD,  /* will certainly be needed */
    PRIORITY_PREFETCH,
    PRIORITY_FILL, /* only because there is room; in small blocks */
    PRIORITY_COUNT
};

enum transfer_state { TRANSFER_IDLE, TRANSFER_QUEUED, TRANSFER_SENT /* all blocks handed out */ };

struct failure {
    enum { FAILURE_NONE, FAILURE_SYSTEM, FAILURE_TRUNCATED, FAILURE_CHANGED } kind;
    int number; /* errno */
    uint32_t file;
    uint64_t offset, expected, found;
};

struct transfer {
    unit_number unit; /* for the callback; not used here */
    struct segment segments[UNIT_MAX_SLICES];
    uint32_t segment_count;
    enum priority priority;
    enum transfer_state state;
    bool abandoned;
    uint32_t next_segment; /* the segment of the next block, and the position in it */
    uint64_t next_position;
    uint32_t in_flight, in_flight_of[UNIT_MAX_SLICES]; /* blocks, and those of each segment */
    uint64_t bytes_read;
    uint64_t left; /* bytes of blocks that are not handed out */
    struct failure failure;
    struct transfer *next, *previous; /* in its queue */
};

/* For tests: called before a read is submitted (file: its number in io_options.files). It may lower *bytes (a short
 * read; 0 means the end of the file), or return an errno instead of reading. */
struct io_fault {
    int (*inject)(void *context, uint32_t file, uint64_t offset, uint32_t *bytes);
    void *context;
};

struct io_counters {
    uint64_t bytes[PRIORITY_COUNT]; /* read, by priority */
    uint64_t busy_nanoseconds;
    uint64_t wanted_nanoseconds; /* with more than prefetches unfinished */
};

struct io_options {
    enum store_reader reader;
    const struct spread *spread; /* the drives; copied */
    struct store_file *files;    /* [copy_count][file_count]; outlive the io, which sets "left" */
    uint32_t file_count, copy_count;
    const struct io_fault *fault; /* or NULL; copied */
    /* Locked, on the I/O thread: no block is in flight any more. transfer->abandoned and transfer->failure tell the
     * result. The transfer is idle and may be started again. */
    void (*finished)(void *context, struct transfer *transfer);
    void (*arrived)(void *context); /* the same: one segment has arrived, others of its transfer have not */
    void *context;
};

struct io;

hypura_status io_create(struct io **out, const struct io_options *options, hypura_error *error);

/* Waits for blocks in flight. Queued transfers are dropped without a report. */
void io_destroy(struct io *io);

pthread_mutex_t *io_mutex(struct io *io);
const char *io_reader_name(const struct io *io);

/* While set, no new block is read. Async-signal-safe. After it is cleared, reading continues with the next io_wake,
 * io_start or io_promote. */
void io_hold(struct io *io, bool hold);
void io_wake(struct io *io); /* locked */

/* Locked. Queues an idle transfer, whose segments and priority are set. */
void io_start(struct io *io, struct transfer *transfer);

/* Locked. Starts and ends a transfer whose bytes do not come from a drive. there false: the bytes could not be
 * obtained, and the transfer is reported as abandoned. */
void io_start_elsewhere(struct io *io, struct transfer *transfer);
void io_end_elsewhere(struct io *io, struct transfer *transfer, bool there);

/* Locked. Moves a running transfer to the end of another priority's queue. */
void io_promote(struct io *io, struct transfer *transfer, enum priority priority);

/* Locked. Sends no more blocks of a transfer. true: it is idle now, and is not reported. false: it is reported as
 * abandoned when its blocks in flight are back. */
bool io_abandon(struct io *io, struct transfer *transfer);

/* Locked. Whether the first "segments" segments of a running transfer have arrived. */
bool io_has_arrived(const struct transfer *transfer, uint32_t segments);

/* Locked. Sets whether transfers with PRIORITY_FILL are read. */
void io_fill(struct io *io, bool fill);

/* Locked. Whether any transfer with PRIORITY_DEMAND or PRIORITY_AHEAD is queued or in flight, so the drive is not idle.
 */
bool io_busy(const struct io *io);

/* The most bytes of prefetches that may be in flight when a demand comes. */
uint64_t io_most_prefetched(const struct io *io);
uint32_t io_unfinished(const struct io *io, enum priority priority); /* locked: queued or in flight */
void io_counters(const struct io *io, struct io_counters *out);
const struct spread *io_spread(const struct io *io); /* locked */

/* Fills an error with the failure of a transfer. Returns its status. */
hypura_status failure_error(const struct failure *failure, const struct store_file *files, hypura_error *error);

#endif
