#include "store/reader.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* A refused call is tried again this often, with pauses that grow from 50 us to 2 ms: about a quarter of a second in
 * all. A broken ring stays broken. */
#define MAX_REFUSALS 150u

/* How long a broken ring waits for reads in the kernel, in milliseconds. */
#define LAST_READS_WAIT 2000u

struct uring_reader {
    struct reader reader;
    struct io_uring ring;
    uint32_t in_flight; /* reads accepted and not returned */
    uint32_t refusals;  /* in a row, without a completion */
    bool wake_ahead;    /* the read of wake_descriptor may not be submitted yet */
    int wake_descriptor;
    uint64_t wake_count; /* filled by the read of wake_descriptor */
};

/* A read of the eventfd is always in flight, so that a waiting thread can be woken. */
static void arm_wake(struct uring_reader *uring)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&uring->ring);
    io_uring_prep_read(entry, uring->wake_descriptor, &uring->wake_count, sizeof uring->wake_count, 0);
    io_uring_sqe_set_data(entry, NULL);
    uring->wake_ahead = true;
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
    uring->in_flight += (uint32_t)count;
}

static void pause_for(long nanoseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

static size_t take_results(struct uring_reader *uring, struct reader_result *results, size_t room)
{
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
    uring->in_flight -= (uint32_t)count;
    return count;
}

/* Fetches completions that the kernel holds back until it is asked. */
static void ask_for_completions(struct uring_reader *uring)
{
#ifdef IORING_SETUP_DEFER_TASKRUN
    io_uring_get_events(&uring->ring);
#else
    (void)uring;
#endif
}

/* Drops reads that the kernel has not seen, and waits for the others, because they write to their memory in any case.
 */
static size_t give_up(struct uring_reader *uring, struct reader_result *results, size_t room)
{
    size_t count = 0;
    for (uint32_t i = 0; i < LAST_READS_WAIT; i++) {
        ask_for_completions(uring);
        count += take_results(uring, results + count, room - count);
        if (uring->in_flight + uring->wake_ahead <= io_uring_sq_ready(&uring->ring))
            break;
        pause_for(1000000);
    }
    return count;
}

static size_t uring_wait(struct reader *reader, struct reader_result *results, size_t room, int *broken)
{
    struct uring_reader *uring = (struct uring_reader *)reader;
    /* After EINTR or EAGAIN (the kernel is short of request memory until completions are taken) nothing is lost: what
     * was not submitted stays in the ring for the next call. */
    int submitted = io_uring_submit_and_wait(&uring->ring, 1);
    uring->wake_ahead &= io_uring_sq_ready(&uring->ring) > 0;
    size_t count = take_results(uring, results, room);
    if (submitted >= 0 || count > 0) {
        uring->refusals = 0;
    } else if (++uring->refusals < MAX_REFUSALS) {
        pause_for(MIN(50000L * (long)uring->refusals, 2000000L));
    } else {
        *broken = -submitted;
        count = give_up(uring, results, room);
    }
    return count;
}

static void uring_wake(struct reader *reader)
{
    struct uring_reader *uring = (struct uring_reader *)reader;
    const uint64_t one = 1;
    /* Only a full counter refuses a write for good, and then the waiting thread is awake. */
    for (uint32_t i = 0; i < MAX_REFUSALS && write(uring->wake_descriptor, &one, sizeof one) < 0 && errno != EAGAIN;
         i++)
        pause_for(50000);
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
    /* Completion work runs only when this thread asks for it. Older kernels support fewer of these flags. */
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
