#include "store/reader.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct uring_reader {
    struct reader reader;
    struct io_uring ring;
    int wake_descriptor;
    uint64_t wake_count; /* what the read of wake_descriptor fills */
};

/* A read of the eventfd is always in flight, so that a waiting thread can be woken. */
static void arm_wake(struct uring_reader *uring)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&uring->ring);
    io_uring_prep_read(entry, uring->wake_descriptor, &uring->wake_count, sizeof uring->wake_count, 0);
    io_uring_sqe_set_data(entry, NULL);
}

static void uring_submit(struct reader *reader, const struct reader_read *reads, size_t count)
{
    struct uring_reader *uring = (struct uring_reader *)reader;
    for (size_t i = 0; i < count; i++) {
        /* Never NULL: the ring has room for depth reads and the wake. */
        struct io_uring_sqe *entry = io_uring_get_sqe(&uring->ring);
        io_uring_prep_read(entry, reads[i].descriptor, reads[i].memory, reads[i].bytes, reads[i].offset);
        io_uring_sqe_set_data(entry, reads[i].tag);
    }
}

static size_t uring_wait(struct reader *reader, struct reader_result *results, size_t room)
{
    struct uring_reader *uring = (struct uring_reader *)reader;
    /* EINTR and EAGAIN (the kernel is short of request memory until completions are taken) come back here with nothing
     * lost: what was not submitted stays in the ring and goes with the next call. */
    io_uring_submit_and_wait(&uring->ring, 1);
    size_t count = 0;
    struct io_uring_cqe *entry;
    while (count < room && io_uring_peek_cqe(&uring->ring, &entry) == 0) {
        void *tag = io_uring_cqe_get_data(entry);
        int32_t result = entry->res;
        io_uring_cqe_seen(&uring->ring, entry);
        if (tag)
            results[count++] = (struct reader_result){tag, result};
        else
            arm_wake(uring);
    }
    return count;
}

static void uring_wake(struct reader *reader)
{
    struct uring_reader *uring = (struct uring_reader *)reader;
    const uint64_t one = 1;
    while (write(uring->wake_descriptor, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void uring_destroy(struct reader *reader)
{
    struct uring_reader *uring = (struct uring_reader *)reader;
    io_uring_queue_exit(&uring->ring);
    close(uring->wake_descriptor);
    memory_free(uring);
}

static const struct reader_operations uring_operations = {
    .name = "io_uring", .submit = uring_submit, .wait = uring_wait, .wake = uring_wake, .destroy = uring_destroy};

static int open_ring(struct io_uring *ring, uint32_t depth)
{
    /* Completion work runs when this thread asks for it and interrupts nobody. Older kernels know less of this. */
    static const unsigned flags[] = {
#if defined(IORING_SETUP_DEFER_TASKRUN) && defined(IORING_SETUP_SINGLE_ISSUER)
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_COOP_TASKRUN,
#endif
        0
    };
    int result = -EINVAL;
    for (size_t i = 0; i < COUNT_OF(flags) && result == -EINVAL; i++)
        result = io_uring_queue_init(depth + 1, ring, flags[i]);
    return result;
}

hypura_status reader_uring_create(struct reader **out, uint32_t depth, hypura_error *error)
{
    struct uring_reader *uring;
    hypura_status status = ALLOCATE(&uring, 1, "reader", error);
    if (status)
        return status;
    uring->reader.operations = &uring_operations;
    int result = open_ring(&uring->ring, depth);
    if (result < 0) {
        memory_free(uring);
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the system refuses io_uring: %s", strerror(-result));
    }
    struct io_uring_probe *probe = io_uring_get_probe_ring(&uring->ring);
    bool can_read = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
    io_uring_free_probe(probe);
    uring->wake_descriptor = can_read ? eventfd(0, EFD_CLOEXEC) : -1;
    if (uring->wake_descriptor < 0) {
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "cannot use io_uring: %s",
                           can_read ? strerror(errno) : "this kernel is older than 5.6");
        io_uring_queue_exit(&uring->ring);
        memory_free(uring);
        return status;
    }
    arm_wake(uring);
    *out = &uring->reader;
    return HYPURA_OK;
}
