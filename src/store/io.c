#include "store/io.h"

#include "store/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* A read that the system defers, or that returns nothing, is tried again this often, with pauses that grow from 50 us
 * to 2 ms: about a quarter of a second in all. */
#define MAX_ATTEMPTS 150u

/* Fills use small blocks, two in flight, so that a new demand waits only some two hundred microseconds. More are in
 * flight if there was no demand and no end of a pass for a while, as between answers. */
#define FILL_BLOCK_BYTES ((uint32_t)256 << 10)
#define FILL_DEPTH 2u
#define FILL_DEPTH_QUIET 8u
#define QUIET_NANOSECONDS 50000000u

/* One read of some bytes. */
struct block {
    struct transfer *transfer;
    uint32_t segment, attempts;
    uint64_t position;     /* in the segment */
    uint32_t bytes, taken; /* left to read; when it was cut off its transfer */
    uint32_t submitted;    /* bytes requested from the system; less than bytes only if a test wants a short read */
    int32_t result;
    bool sent;                        /* the reader has it */
    bool stale;                       /* the copy was written to, so its data must not be used */
    enum priority priority;           /* when it was sent */
    uint32_t file;                    /* of io_options.files, a copy of the segment's */
    uint8_t drive;                    /* that counts it */
    uint64_t counted, ahead, sent_at; /* bytes, with others in flight there, and when, for spread_came */
    struct block *next;               /* in a list */
};

struct queue {
    struct transfer *first, *last;
};

struct io {
    pthread_mutex_t mutex;
    pthread_cond_t started;
    pthread_t thread;
    bool running; /* the thread has a reader, or could not create one */
    bool stop, sleeping, fill;
    atomic_bool hold;
    hypura_status start_status;
    hypura_error start_error;
    struct io_options options;
    struct io_fault fault;
    struct reader *reader;
    int broken; /* errno: the reader is broken, and threads could not replace it */

    struct queue queues[PRIORITY_COUNT];
    uint32_t unfinished[PRIORITY_COUNT]; /* transfers queued or in flight */
    uint32_t in_flight, prefetches_in_flight, depth;
    uint64_t prefetch_bytes_in_flight;
    struct spread spread;
    uint64_t most_prefetched, largest_block; /* bytes; of all drives */
    bool plain;                              /* one drive and no copies, so no choice */
    uint64_t queued[PRIORITY_COUNT];         /* bytes of queued transfers that were not sent */
    struct block *blocks;                    /* [depth] */
    struct block *free_blocks;
    struct block *again; /* to be submitted again, oldest first */
    struct reader_read *batch;
    struct reader_result *results;
    uint64_t busy_since, wanted_since, demanded; /* when */
    struct io_counters counters;
};

/* ---- queues ------------------------------------------------------------------------------------------------------ */

static void enqueue(struct io *io, struct transfer *transfer)
{
    struct queue *queue = &io->queues[transfer->priority];
    transfer->next = NULL;
    transfer->previous = queue->last;
    if (queue->last)
        queue->last->next = transfer;
    else
        queue->first = transfer;
    queue->last = transfer;
    io->queued[transfer->priority] += transfer->left;
}

static void dequeue(struct io *io, struct transfer *transfer)
{
    struct queue *queue = &io->queues[transfer->priority];
    if (transfer->previous)
        transfer->previous->next = transfer->next;
    else
        queue->first = transfer->next;
    if (transfer->next)
        transfer->next->previous = transfer->previous;
    else
        queue->last = transfer->previous;
    transfer->next = transfer->previous = NULL;
    io->queued[transfer->priority] -= transfer->left;
}

void io_wake(struct io *io)
{
    if (io->sleeping && io->in_flight < io->depth) {
        io->sleeping = false; /* one wake is enough */
        io->reader->operations->wake(io->reader);
    }
}

/* After unfinished[] changed: whether anything but prefetches was wanted before. */
static void note_wanted(struct io *io, bool before)
{
    if (io_busy(io) == before)
        return;
    uint64_t now = clock_nanoseconds();
    if (before)
        io->counters.wanted_nanoseconds += now - io->wanted_since;
    io->wanted_since = now;
}

static void begin(struct io *io, struct transfer *transfer, enum transfer_state state)
{
    transfer->state = state;
    transfer->abandoned = false;
    transfer->next_segment = 0;
    transfer->next_position = 0;
    transfer->in_flight = 0;
    memset(transfer->in_flight_of, 0, sizeof transfer->in_flight_of);
    transfer->bytes_read = 0;
    transfer->failure.kind = FAILURE_NONE;
    transfer->left = 0;
    bool wanted = io_busy(io);
    io->unfinished[transfer->priority]++;
    note_wanted(io, wanted);
}

void io_start(struct io *io, struct transfer *transfer)
{
    begin(io, transfer, TRANSFER_QUEUED);
    for (uint32_t i = 0; i < transfer->segment_count; i++)
        transfer->left += transfer->segments[i].bytes;
    enqueue(io, transfer);
    io_wake(io);
}

void io_promote(struct io *io, struct transfer *transfer, enum priority priority)
{
    if (transfer->state == TRANSFER_IDLE || transfer->priority == priority)
        return;
    if (transfer->state == TRANSFER_QUEUED)
        dequeue(io, transfer);
    bool wanted = io_busy(io);
    io->unfinished[transfer->priority]--;
    io->unfinished[priority]++;
    note_wanted(io, wanted);
    transfer->priority = priority;
    if (transfer->state == TRANSFER_QUEUED)
        enqueue(io, transfer);
    io_wake(io);
}

static void set_idle(struct io *io, struct transfer *transfer)
{
    bool wanted = io_busy(io);
    transfer->state = TRANSFER_IDLE;
    io->unfinished[transfer->priority]--;
    note_wanted(io, wanted);
}

void io_start_elsewhere(struct io *io, struct transfer *transfer)
{
    begin(io, transfer, TRANSFER_SENT);
    transfer->next_segment = transfer->segment_count;
    transfer->in_flight = transfer->in_flight_of[0] = 1;
}

void io_end_elsewhere(struct io *io, struct transfer *transfer, bool there)
{
    transfer->in_flight = transfer->in_flight_of[0] = 0;
    transfer->abandoned = transfer->abandoned || !there;
    set_idle(io, transfer);
    io->options.finished(io->options.context, transfer);
}

bool io_abandon(struct io *io, struct transfer *transfer)
{
    if (transfer->state == TRANSFER_QUEUED) {
        dequeue(io, transfer);
        transfer->state = TRANSFER_SENT;
    }
    transfer->abandoned = true;
    if (transfer->in_flight > 0)
        return false;
    set_idle(io, transfer);
    return true;
}

bool io_has_arrived(const struct transfer *transfer, uint32_t segments)
{
    bool there = transfer->next_segment >= segments && !transfer->abandoned && transfer->failure.kind == FAILURE_NONE;
    for (uint32_t i = 0; i < segments; i++)
        there = there && transfer->in_flight_of[i] == 0;
    return there;
}

void io_fill(struct io *io, bool fill)
{
    if (fill && !io->fill)
        io->demanded = clock_nanoseconds();
    io->fill = fill;
    if (fill && io->queues[PRIORITY_FILL].first)
        io_wake(io);
}

bool io_busy(const struct io *io)
{
    return io->unfinished[PRIORITY_DEMAND] + io->unfinished[PRIORITY_AHEAD] > 0;
}

uint32_t io_unfinished(const struct io *io, enum priority priority)
{
    return io->unfinished[priority];
}

void io_counters(const struct io *io, struct io_counters *out)
{
    *out = io->counters;
    if (io->in_flight > 0)
        out->busy_nanoseconds += clock_nanoseconds() - io->busy_since;
    if (io_busy(io))
        out->wanted_nanoseconds += clock_nanoseconds() - io->wanted_since;
}

const struct spread *io_spread(const struct io *io)
{
    return &io->spread;
}

void io_hold(struct io *io, bool hold)
{
    atomic_store(&io->hold, hold);
}

pthread_mutex_t *io_mutex(struct io *io)
{
    return &io->mutex;
}

const char *io_reader_name(const struct io *io)
{
    return io->reader->operations->name;
}

/* ---- the I/O thread: sending blocks ------------------------------------------------------------------------------ */

/* The next block of a transfer. */
struct choice {
    struct transfer *transfer;
    uint32_t file;
    uint8_t drive;
    uint64_t bytes;
};

/* Looks at no more than this many transfers for one on a drive with room. */
#define MOST_LOOKED_AT 64u

static bool choose(const struct io *io, struct transfer *transfer, struct choice *choice)
{
    const struct segment *segment = &transfer->segments[transfer->next_segment];
    uint8_t drives[HARDWARE_MAX_COPIES];
    uint64_t left = segment->bytes - transfer->next_position;
    struct spread_wish wish = {.drives = drives, .bytes = left};
    if (transfer->priority == PRIORITY_FILL)
        wish.most = FILL_BLOCK_BYTES;
    else
        for (int priority = 0; priority <= (int)transfer->priority; priority++)
            wish.behind += io->queued[priority];
    wish.behind -= MIN(left, wish.behind);
    uint32_t first_of[HARDWARE_MAX_DRIVES];
    uint32_t seen = 0;
    for (uint32_t c = 0; c < io->options.copy_count; c++) {
        uint32_t number = c * io->options.file_count + segment->file;
        const struct store_file *file = &io->options.files[number];
        if (file->left || (seen >> file->drive & 1))
            continue;
        seen |= 1u << file->drive;
        first_of[file->drive] = number;
        drives[wish.drive_count++] = file->drive;
    }
    choice->transfer = transfer;
    if (!spread_choose(&io->spread, &wish, &choice->drive, &choice->bytes))
        return false;
    choice->file = first_of[choice->drive];
    return true;
}

static bool choose_from(const struct io *io, const struct queue *queue, struct choice *choice)
{
    uint32_t looked_at = 0;
    for (struct transfer *transfer = queue->first; transfer && looked_at < MOST_LOOKED_AT; transfer = transfer->next) {
        if (choose(io, transfer, choice))
            return true;
        looked_at++;
        if (io->plain)
            break;
    }
    return false;
}

uint64_t io_most_prefetched(const struct io *io)
{
    return io->most_prefetched;
}

/* Whether another block of the largest size would be within the limits. */
static bool may_prefetch(const struct io *io)
{
    return io->prefetches_in_flight < MAX(io->depth / 4, 2u) &&
           io->prefetch_bytes_in_flight + io->largest_block <= io->most_prefetched;
}

/* Chooses the next block. Prefetches get only as many reads in flight as keep the drive busy, and only while nothing
 * else is wanted, because a new demand waits for blocks in flight. Some drives also report none of the reads in flight
 * before all of them are done. */
static bool next_choice(struct io *io, struct choice *choice)
{
    if (io->stop || atomic_load_explicit(&io->hold, memory_order_relaxed))
        return false;
    if (choose_from(io, &io->queues[PRIORITY_DEMAND], choice) || choose_from(io, &io->queues[PRIORITY_AHEAD], choice))
        return true;
    if (io_busy(io))
        return false;
    if (io->queues[PRIORITY_PREFETCH].first)
        return may_prefetch(io) && choose_from(io, &io->queues[PRIORITY_PREFETCH], choice);
    if (!io->fill || io->unfinished[PRIORITY_PREFETCH] > 0 || !io->queues[PRIORITY_FILL].first)
        return false;
    bool quiet = clock_nanoseconds() - io->demanded > QUIET_NANOSECONDS;
    return io->in_flight < (quiet ? FILL_DEPTH_QUIET : FILL_DEPTH) &&
           choose_from(io, &io->queues[PRIORITY_FILL], choice);
}

static void add_to_batch(struct io *io, struct block *block, size_t *count)
{
    const struct segment *segment = &block->transfer->segments[block->segment];
    block->submitted = block->bytes;
    block->result = 0;
    block->sent = true;
    block->stale = false;
    if (io->fault.inject) {
        int number =
            io->fault.inject(io->fault.context, block->file, segment->offset + block->position, &block->submitted);
        block->result = -number;
    }
    io->batch[(*count)++] = (struct reader_read){.descriptor = io->options.files[block->file].descriptor,
                                                 .bytes = block->submitted,
                                                 .offset = segment->offset + block->position,
                                                 .memory = segment->memory + block->position,
                                                 .tag = block};
}

/* Counts a block as in flight on its drive. */
static void count_sent(struct io *io, struct block *block)
{
    block->counted = block->bytes;
    block->ahead = spread_sent(&io->spread, block->drive, block->bytes);
    block->sent_at = io->plain ? 0 : clock_nanoseconds();
}

static void count_came(struct io *io, const struct block *block)
{
    spread_came(&io->spread, block->drive, block->counted, block->ahead, block->sent_at,
                io->plain ? 0 : clock_nanoseconds());
}

/* Cuts the next block off a transfer. */
static void take_block(struct io *io, const struct choice *choice, struct block *block)
{
    struct transfer *transfer = choice->transfer;
    const struct segment *segment = &transfer->segments[transfer->next_segment];
    block->transfer = transfer;
    block->segment = transfer->next_segment;
    block->position = transfer->next_position;
    block->attempts = 0;
    block->priority = transfer->priority;
    block->file = choice->file;
    block->drive = choice->drive;
    block->bytes = block->taken = (uint32_t)choice->bytes;
    transfer->next_position += block->bytes;
    transfer->left -= block->bytes;
    io->queued[transfer->priority] -= block->bytes;
    transfer->in_flight++;
    transfer->in_flight_of[block->segment]++;
    if (transfer->next_position == segment->bytes) {
        transfer->next_position = 0;
        if (++transfer->next_segment == transfer->segment_count) {
            dequeue(io, transfer);
            transfer->state = TRANSFER_SENT;
        }
    }
    if (io->in_flight++ == 0)
        io->busy_since = clock_nanoseconds();
    if (block->priority == PRIORITY_PREFETCH) {
        io->prefetches_in_flight++;
        io->prefetch_bytes_in_flight += block->bytes;
    }
    count_sent(io, block);
}

static size_t fill_batch(struct io *io)
{
    size_t count = 0;
    for (; io->again; io->again = io->again->next)
        add_to_batch(io, io->again, &count);
    while (io->in_flight < io->depth) {
        struct choice choice;
        if (!next_choice(io, &choice))
            break;
        struct block *block = io->free_blocks;
        io->free_blocks = block->next;
        take_block(io, &choice, block);
        add_to_batch(io, block, &count);
    }
    return count;
}

/* ---- the I/O thread: completions --------------------------------------------------------------------------------- */

static void finish_block(struct io *io, struct block *block)
{
    struct transfer *transfer = block->transfer;
    if (block->priority == PRIORITY_PREFETCH) {
        io->prefetches_in_flight--;
        io->prefetch_bytes_in_flight -= block->taken;
    }
    count_came(io, block);
    if (--io->in_flight == 0)
        io->counters.busy_nanoseconds += clock_nanoseconds() - io->busy_since;
    block->next = io->free_blocks;
    io->free_blocks = block;
    transfer->in_flight_of[block->segment]--;
    if (--transfer->in_flight == 0 && transfer->state == TRANSFER_SENT) {
        if (transfer->priority <= PRIORITY_AHEAD)
            io->demanded = clock_nanoseconds();
        set_idle(io, transfer);
        io->options.finished(io->options.context, transfer);
    } else if (transfer->in_flight_of[block->segment] == 0 && transfer->next_segment > block->segment) {
        io->options.arrived(io->options.context);
    }
}

/* Stops sending this transfer, and keeps the first failure. */
static void fail_block(struct io *io, struct block *block, struct failure failure)
{
    struct transfer *transfer = block->transfer;
    if (transfer->failure.kind == FAILURE_NONE) {
        const struct segment *segment = &transfer->segments[block->segment];
        failure.file = block->file;
        failure.offset = segment->offset + block->position;
        transfer->failure = failure;
    }
    if (transfer->state == TRANSFER_QUEUED) {
        dequeue(io, transfer);
        transfer->state = TRANSFER_SENT;
    }
    finish_block(io, block);
}

static void try_again(struct io *io, struct block *block)
{
    struct block **end = &io->again;
    while (*end)
        end = &(*end)->next;
    block->next = NULL;
    *end = block;
}

/* Another usable copy, on the least busy drive; false: there is none. */
static bool other_copy(const struct io *io, const struct block *block, uint32_t *out)
{
    uint32_t file = block->transfer->segments[block->segment].file;
    bool found = false;
    for (uint32_t c = 0; c < io->options.copy_count; c++) {
        uint32_t number = c * io->options.file_count + file;
        const struct store_file *copy = &io->options.files[number];
        if (number == block->file || copy->left)
            continue;
        if (!found || io->spread.drives[copy->drive].bytes_in_flight <
                          io->spread.drives[io->options.files[*out].drive].bytes_in_flight)
            *out = number;
        found = true;
    }
    return found;
}

/* Stops using the copy of a block, and reads the block from another one; false: there is none. */
static bool go_elsewhere(struct io *io, struct block *block, const struct failure *failure)
{
    uint32_t other = 0;
    struct store_file *file = &io->options.files[block->file];
    if (!other_copy(io, block, &other))
        return false;
    if (!file->left) {
        hypura_error error;
        struct failure shown = *failure;
        const struct segment *segment = &block->transfer->segments[block->segment];
        shown.file = block->file;
        shown.offset = segment->offset + block->position;
        failure_error(&shown, io->options.files, &error);
        log_write(LOG_WARNING, "%s; it is not used any more, and %s is read instead", error.message,
                  io->options.files[other].path);
        file->left = true;
    }
    count_came(io, block);
    block->file = other;
    block->drive = io->options.files[other].drive;
    block->attempts = 0;
    count_sent(io, block);
    try_again(io, block);
    return true;
}

static void fail_or_go_elsewhere(struct io *io, struct block *block, struct failure failure)
{
    if (!go_elsewhere(io, block, &failure))
        fail_block(io, block, failure);
}

static bool retriable(int number)
{
    return number == EINTR || number == EAGAIN || number == EBUSY || number == ENOMEM;
}

/* The present size of a file, which may have changed since it was opened. */
static uint64_t file_bytes_now(const struct store_file *file)
{
    struct stat status;
    return fstat(file->descriptor, &status) == 0 ? (uint64_t)status.st_size : file->bytes;
}

static void take_back(struct io *io, struct block *block, int32_t result)
{
    struct transfer *transfer = block->transfer;
    const struct segment *segment = &transfer->segments[block->segment];
    const struct store_file *file = &io->options.files[block->file];
    uint64_t needed = segment->needed > block->position ? MIN(segment->needed - block->position, block->bytes) : 0;

    block->sent = false;
    if (result > 0) {
        io->counters.bytes[block->priority] += (uint32_t)result;
        transfer->bytes_read += (uint32_t)result;
        io->spread.drives[block->drive].bytes += (uint32_t)result;
    }
    if (transfer->abandoned || transfer->failure.kind != FAILURE_NONE) {
        finish_block(io, block);
    } else if (block->stale) {
        fail_or_go_elsewhere(io, block, (struct failure){.kind = FAILURE_CHANGED});
    } else if (result < 0) {
        if (retriable(-result) && ++block->attempts < MAX_ATTEMPTS)
            try_again(io, block);
        else
            fail_or_go_elsewhere(io, block,
                                 (struct failure){.kind = FAILURE_SYSTEM, .number = -result, .expected = block->bytes});
    } else if ((uint32_t)result >= needed) {
        finish_block(io, block);
    } else {
        /* Short: the file became shorter, or the system stopped early. A direct read continues at a block's start. */
        uint64_t at = segment->offset + block->position, end = file_bytes_now(file);
        if (end < at + needed) {
            fail_or_go_elsewhere(
                io, block,
                (struct failure){.kind = FAILURE_TRUNCATED, .expected = needed, .found = end > at ? end - at : 0});
            return;
        }
        uint32_t whole = (uint32_t)align_down((uint32_t)result, IO_ALIGNMENT);
        block->position += whole;
        block->bytes -= whole;
        block->attempts = whole > 0 ? 0 : block->attempts + 1;
        if (block->attempts < MAX_ATTEMPTS)
            try_again(io, block);
        else
            fail_or_go_elsewhere(io, block,
                                 (struct failure){.kind = FAILURE_SYSTEM, .number = EIO, .expected = block->bytes});
    }
}

/* Without direct I/O, keeps the page cache from becoming a second pool. */
static void drop_behind(const struct io *io, const struct block *block)
{
#ifdef POSIX_FADV_DONTNEED
    const struct segment *segment = &block->transfer->segments[block->segment];
    const struct store_file *file = &io->options.files[block->file];
    if (!file->direct)
        posix_fadvise(file->descriptor, (off_t)(segment->offset + block->position), block->bytes, POSIX_FADV_DONTNEED);
#else
    (void)io;
    (void)block;
#endif
}

/* A write to a file ends the pass that reads it (store_check_files). A write to a copy need not: its data are not used.
 */
static void look_at_copy(const struct io *io, struct block *block)
{
    if (block->file >= io->options.file_count)
        block->stale = store_file_changed(&io->options.files[block->file]);
}

/* Releases the lock meanwhile, so that others do not wait for a drive that defers reads. */
static void pause_before_retry(struct io *io)
{
    uint32_t attempts = 0;
    for (const struct block *block = io->again; block; block = block->next)
        attempts = MAX(attempts, block->attempts);
    if (attempts == 0)
        return;
    struct timespec pause = {.tv_nsec = MIN(50000L * (long)attempts, 2000000L)};
    pthread_mutex_unlock(&io->mutex);
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&io->mutex);
}

/* Completes the reads for which a test wants an error; they never reach the system. */
static size_t pull_injected(struct io *io, size_t count, size_t *results)
{
    size_t kept = 0;
    *results = 0;
    for (size_t i = 0; i < count; i++) {
        struct block *block = io->batch[i].tag;
        if (block->result < 0 || block->submitted == 0)
            io->results[(*results)++] = (struct reader_result){block, block->result};
        else
            io->batch[kept++] = io->batch[i];
    }
    return kept;
}

/* Replaces a broken reader by threads. Its reads are repeated; without threads, they fail, and the next read tries
 * again to create threads. */
static void replace_reader(struct io *io)
{
    struct reader *threads = NULL;
    if (!io->stop) {
        pthread_mutex_unlock(&io->mutex);
        if (reader_threads_create(&threads, io->depth, NULL) == HYPURA_OK)
            log_write(LOG_WARNING, "%s fails: %s; reading with threads instead", io_reader_name(io),
                      strerror(io->broken));
        pthread_mutex_lock(&io->mutex);
    }
    for (uint32_t i = 0; i < io->depth; i++) {
        struct block *block = &io->blocks[i];
        if (!block->sent)
            continue;
        if (!threads)
            block->attempts = MAX_ATTEMPTS; /* even if the error is a temporary one */
        take_back(io, block, threads ? -EINTR : -io->broken);
    }
    if (!threads)
        return;
    io->reader->operations->destroy(io->reader);
    io->reader = threads;
    io->broken = 0;
}

/* Passes a batch to the reader, and waits unless there are results already. */
static size_t read_batch(struct io *io, size_t count, size_t found)
{
    if (io->broken) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* nothing would wake a wait */
        return found;
    }
    io->reader->operations->submit(io->reader, io->batch, count);
    if (found == 0)
        found = io->reader->operations->wait(io->reader, io->results, io->depth, &io->broken);
    return found;
}

static void io_loop(struct io *io)
{
    pthread_mutex_lock(&io->mutex);
    for (;;) {
        pause_before_retry(io);
        size_t count = fill_batch(io);
        if (io->stop && io->in_flight == 0)
            break;
        size_t found;
        count = pull_injected(io, count, &found);
        io->sleeping = true;
        pthread_mutex_unlock(&io->mutex);
        found = read_batch(io, count, found);
        for (size_t i = 0; i < found; i++) {
            drop_behind(io, io->results[i].tag);
            look_at_copy(io, io->results[i].tag);
        }
        pthread_mutex_lock(&io->mutex);
        io->sleeping = false;
        for (size_t i = 0; i < found; i++)
            take_back(io, io->results[i].tag, io->results[i].result);
        if (io->broken && io->in_flight > 0)
            replace_reader(io);
    }
    pthread_mutex_unlock(&io->mutex);
}

static hypura_status create_reader(struct io *io, hypura_error *error)
{
    hypura_status status = HYPURA_ERROR_UNSUPPORTED;
    if (io->options.reader != STORE_READER_THREADS)
        status = reader_uring_create(&io->reader, io->depth, error);
    if (status && io->options.reader == STORE_READER_AUTO) {
        log_write(LOG_INFO, "%s; reading with threads instead", error ? error->message : "the system refuses io_uring");
        status = reader_threads_create(&io->reader, io->depth, error);
    } else if (io->options.reader == STORE_READER_THREADS) {
        status = reader_threads_create(&io->reader, io->depth, error);
    }
    return status;
}

static void *thread_main(void *argument)
{
    struct io *io = argument;
    if (!thread_wakes_soon())
        log_write(LOG_DEBUG, "the system may run the I/O thread late while all cores compute");
    /* The thread that uses the reader creates it, because io_uring is faster with a single known thread. */
    hypura_error error;
    hypura_status status = create_reader(io, &error);
    pthread_mutex_lock(&io->mutex);
    io->start_status = status;
    io->start_error = error;
    io->running = true;
    pthread_cond_signal(&io->started);
    pthread_mutex_unlock(&io->mutex);
    if (status == HYPURA_OK) {
        io_loop(io);
        io->reader->operations->destroy(io->reader);
    }
    return NULL;
}

/* ---- what went wrong --------------------------------------------------------------------------------------------- */

hypura_status failure_error(const struct failure *failure, const struct store_file *files, hypura_error *error)
{
    const char *path = files[failure->file].path;
    if (failure->kind == FAILURE_CHANGED)
        return error_set(error, HYPURA_ERROR_IO, "%s was written to, or touched, while it was in use", path);
    if (failure->kind == FAILURE_TRUNCATED)
        return error_set(error, HYPURA_ERROR_IO,
                         "%s has become shorter: %llu bytes were expected at offset %llu, %llu are there", path,
                         (unsigned long long)failure->expected, (unsigned long long)failure->offset,
                         (unsigned long long)failure->found);
    return error_set_errno(error, failure->number, "cannot read %llu bytes at offset %llu of %s",
                           (unsigned long long)failure->expected, (unsigned long long)failure->offset, path);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void take_spread(struct io *io, const struct spread *spread)
{
    io->spread = *spread;
    io->depth = spread_depth(spread);
    io->most_prefetched = spread_prefetch_bytes(spread);
    for (uint32_t i = 0; i < spread->count; i++)
        io->largest_block = MAX(io->largest_block, spread->drives[i].block_bytes);
}

static void io_free(struct io *io)
{
    pthread_cond_destroy(&io->started);
    pthread_mutex_destroy(&io->mutex);
    memory_free(io->blocks);
    memory_free(io->batch);
    memory_free(io->results);
    memory_free(io);
}

hypura_status io_create(struct io **out, const struct io_options *options, hypura_error *error)
{
    struct io *io;
    hypura_status status = ALLOCATE(&io, 1, "reader", error);
    if (status)
        return status;
    io->options = *options;
    io->options.spread = NULL;
    take_spread(io, options->spread);
    io->plain = io->spread.count == 1 && options->copy_count == 1;
    if (options->fault)
        io->fault = *options->fault;
    pthread_mutex_init(&io->mutex, NULL);
    pthread_cond_init(&io->started, NULL);
    if ((status = ALLOCATE(&io->blocks, io->depth, "reads in flight", error)) ||
        (status = ALLOCATE(&io->batch, io->depth, "reads in flight", error)) ||
        (status = ALLOCATE(&io->results, io->depth, "reads in flight", error))) {
        io_free(io);
        return status;
    }
    for (uint32_t i = 0; i < io->depth; i++) {
        io->blocks[i].next = io->free_blocks;
        io->free_blocks = &io->blocks[i];
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)256 << 10);
    int failed = pthread_create(&io->thread, &attributes, thread_main, io);
    pthread_attr_destroy(&attributes);
    if (failed) {
        io_free(io);
        return error_set_errno(error, failed, "cannot start the I/O thread");
    }
    pthread_mutex_lock(&io->mutex);
    while (!io->running)
        pthread_cond_wait(&io->started, &io->mutex);
    status = io->start_status;
    pthread_mutex_unlock(&io->mutex);
    if (status) {
        if (error)
            *error = io->start_error;
        pthread_join(io->thread, NULL);
        io_free(io);
        return status;
    }
    *out = io;
    return HYPURA_OK;
}

void io_destroy(struct io *io)
{
    if (!io)
        return;
    pthread_mutex_lock(&io->mutex);
    io->stop = true;
    io->reader->operations->wake(io->reader);
    pthread_mutex_unlock(&io->mutex);
    pthread_join(io->thread, NULL);
    io_free(io);
}
