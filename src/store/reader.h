/* store/reader: several reads in flight. Owners: reader_uring.c, by io_uring; reader_threads.c, by threads that call
 * pread.
 *
 * One thread, the I/O thread of the store, creates and uses a reader. Only "wake" may be called from other threads. A
 * reader does not handle units, retries or errors: it returns what the system returned.
 */
#ifndef HYPURA_STORE_READER_H
#define HYPURA_STORE_READER_H

#include "core/core.h"

struct reader_read {
    int descriptor;
    uint32_t bytes;
    uint64_t offset;
    void *memory;
    void *tag; /* returned with the result; not NULL */
};

struct reader_result {
    void *tag;
    int32_t result; /* bytes read, or -errno */
};

struct reader;

struct reader_operations {
    const char *name; /* for statistics: "io_uring", "threads" */

    /* Takes reads. At most "depth" may be in flight. The reads are submitted by the next call of wait at the latest. */
    void (*submit)(struct reader *reader, const struct reader_read *reads, size_t count);

    /* Waits until there is a result or wake was called. Returns at most "room" results, perhaps none. *broken is set to
     * an errno if the reader can read no more: then reads without a result are lost, their memory is no longer written
     * to, and only wake and destroy may follow. */
    size_t (*wait)(struct reader *reader, struct reader_result *results, size_t room, int *broken);

    void (*wake)(struct reader *reader);

    /* No read may be in flight, unless the reader is broken. */
    void (*destroy)(struct reader *reader);
};

struct reader {
    const struct reader_operations *operations;
};

/* HYPURA_ERROR_UNSUPPORTED: the kernel lacks io_uring, refuses it, or is too old for the features used. */
hypura_status reader_uring_create(struct reader **out, uint32_t depth, hypura_error *error);
hypura_status reader_threads_create(struct reader **out, uint32_t depth, hypura_error *error);

#endif
