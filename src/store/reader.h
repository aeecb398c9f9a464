/* store/reader: several reads in flight. Owners: reader_uring.c, by io_uring; reader_threads.c, by threads that call
 * pread.
 *
 * One thread, the I/O thread of the store, creates and uses a reader; only reader_wake may be called from others. A
 * reader knows nothing of units, retries or errors: it gives back what the system said.
 */
#ifndef HYPURA_STORE_READER_H
#define HYPURA_STORE_READER_H

#include "core/core.h"

struct reader_read {
    int descriptor;
    uint32_t bytes;
    uint64_t offset;
    void *memory;
    void *tag; /* given back with the result; not NULL */
};

struct reader_result {
    void *tag;
    int32_t result; /* bytes read, or -errno */
};

struct reader;

struct reader_operations {
    const char *name; /* for statistics: "io_uring", "threads" */

    /* Takes reads; at most depth may be in flight. They are on their way at the latest when wait is called. */
    void (*submit)(struct reader *reader, const struct reader_read *reads, size_t count);

    /* Waits until a result is there or reader_wake was called; gives at most room results, perhaps none. *broken
     * becomes an errno when the reader can read no more: what it took and has not given back is lost, nothing writes to
     * its memory any more, and only wake and destroy may follow. */
    size_t (*wait)(struct reader *reader, struct reader_result *results, size_t room, int *broken);

    void (*wake)(struct reader *reader);

    /* No read may be in flight, unless the reader is broken. */
    void (*destroy)(struct reader *reader);
};

struct reader {
    const struct reader_operations *operations;
};

/* HYPURA_ERROR_UNSUPPORTED when the kernel has no io_uring, refuses it, or is too old for what is used. */
hypura_status reader_uring_create(struct reader **out, uint32_t depth, hypura_error *error);
hypura_status reader_threads_create(struct reader **out, uint32_t depth, hypura_error *error);

#endif
