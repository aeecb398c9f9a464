/* core: the base of every other folder. It has no knowledge of models.
 *
 * Errors, checked sizes, memory (heap and mapped), byte buffers, the log, clocks, random numbers, hashes, texts and the
 * thread pool. Nothing here prints, exits or aborts. Unless a function says otherwise, any thread may call it, but
 * calls on the same object must not overlap.
 */
#ifndef HYPURA_CORE_H
#define HYPURA_CORE_H

#include <hypura/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_LIKE(text, arguments) __attribute__((format(printf, text, arguments), nonnull(text)))

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Fills the error (which may be NULL) and returns the status, so that "return error_set(error, ...)" is one statement.
 * A message that does not fit is cut between UTF-8 characters, and cleaned (text_clean). */
hypura_status error_set(hypura_error *error, hypura_status status, const char *format, ...) PRINTF_LIKE(3, 4);

/* As error_set with HYPURA_ERROR_IO, with the text of an errno value at the end: "FORMAT...: No such file". */
hypura_status error_set_errno(hypura_error *error, int number, const char *format, ...) PRINTF_LIKE(3, 4);

/* Puts a context before the present message: "CONTEXT: message". Returns the error's status. */
hypura_status error_prefix(hypura_error *error, const char *format, ...) PRINTF_LIKE(2, 3);

/* Returns from the caller with the status of a call that failed. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        hypura_status try_status = (call);                                                                             \
        if (try_status)                                                                                                \
            return try_status;                                                                                         \
    } while (0)

/* ---- checked sizes ----------------------------------------------------------------------------------------------- */

/* false, with *out unchanged: the result does not fit. */
static inline bool size_add(size_t *out, size_t a, size_t b)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

static inline bool size_multiply(size_t *out, size_t a, size_t b)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* alignment is a power of two; value + alignment must not overflow. */
static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return align_down(value + alignment - 1, alignment);
}

static inline uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Zeroed heap memory for count elements. If count is 0, *out is NULL and the status OK. After an error, *out is NULL.
 * "what" is the noun in the error.
 */
hypura_status memory_allocate(void **out, size_t count, size_t size, const char *what, hypura_error *error);

/* Changes the size of an array from old_count to count elements; new ones are zeroed. *array may be NULL. */
hypura_status memory_resize(void **array, size_t old_count, size_t count, size_t size, const char *what,
                            hypura_error *error);

void memory_free(void *memory);

/* Typed allocation: ALLOCATE(&layers, count, "layer table", error). */
#define ALLOCATE(pointer, count, what, error)                                                                          \
    memory_allocate((void **)(pointer), (count), sizeof(**(pointer)), (what), (error))

/* A copy of a string; NULL in gives NULL out. */
hypura_status string_copy(char **out, const char *text, hypura_error *error);

/* Reserves address space. Pages take memory on first touch and are zero. Aligned to 2 MiB, so that huge pages are
 * possible; with huge, they are requested. Never swapped in ahead. Free it with memory_unmap. */
hypura_status memory_map(void **out, size_t bytes, bool huge, const char *what, hypura_error *error);
void memory_unmap(void *address, size_t bytes);

/* Returns the memory of whole pages inside [address, address + bytes) to the system at once. They read as zero
 * afterwards. */
void memory_decommit(void *address, size_t bytes);

/* The bytes of these whole pages, for an address that may also be an offset in mapped memory. */
uint64_t memory_whole_pages(uint64_t address, uint64_t bytes);

/* Requests huge pages, or small ones, for whole pages of mapped memory. With small ones, memory next to a used range
 * stays untouched. */
void memory_set_huge(void *address, size_t bytes, bool huge);

/* A hint: takes the memory of whole pages in the range now instead of on first touch. */
void memory_populate(void *address, size_t bytes);

size_t memory_page_size(void);

/* The bytes of this process in memory, now and at most so far. 0: the system does not say. */
uint64_t memory_resident_bytes(void);
uint64_t memory_peak_resident_bytes(void);

/* Returns freed memory to the system that the C library would keep. */
void memory_give_back(void);

/* Makes the C library keep little freed memory from now on. glibc would otherwise keep more with each large block that
 * is freed, up to 64 MiB per thread, and memory_give_back does not reach the end of a thread's heap. For the start of a
 * program, before it has threads. */
void memory_keep_little(void);

/* ---- failed allocations ------------------------------------------------------------------------------------------ */

/* How many allocations of this thread failed without an error being filled: in buffers, in functions here that were
 * given no error, and in JSON values. Code that builds a result of many parts compares the number
 * before and after. If it differs, the result is incomplete and must not be shown or kept. */
uint64_t memory_failures(void);
void memory_note_failure(void);

/* HYPURA_ERROR_MEMORY, with a sentence, if memory_failures() is no longer this number. "what" is the noun in the error.
 */
hypura_status memory_check(uint64_t failures_before, const char *what, hypura_error *error);

/* ---- growing bytes ----------------------------------------------------------------------------------------------- */

/* A byte string that grows. An append that finds no memory, or would exceed the limit, sets failed. Later appends do
 * nothing, so a caller checks once at the end. data, unless NULL, is NUL-terminated. Initialise with zeros; free when
 * done. */
struct buffer {
    char *data;
    size_t size;
    size_t capacity;
    size_t limit; /* 0: none */
    bool failed;
};

void buffer_append(struct buffer *buffer, const void *bytes, size_t size);
void buffer_append_string(struct buffer *buffer, const char *text);
void buffer_append_char(struct buffer *buffer, char c);
void buffer_append_format(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
void buffer_clear(struct buffer *buffer); /* keeps the memory */
void buffer_free(struct buffer *buffer);

/* ---- log --------------------------------------------------------------------------------------------------------- */

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* Where log lines go; none by default. Set once at start. The sink may be called from any thread. */
typedef void (*log_sink)(void *context, enum log_level level, const char *message);
void log_set_sink(log_sink sink, void *context);
void log_write(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

/* ---- long work --------------------------------------------------------------------------------------------------- */

/* For work that may take much time or memory, and may be cancelled. Both are called on the working thread. */
struct work_watch {
    bool (*go_on)(void *context);              /* called often; false ends the work with HYPURA_ERROR_CANCELLED */
    bool (*lend)(void *context, size_t bytes); /* before an allocation; false: HYPURA_ERROR_MEMORY. May be NULL */
    void *context;
};

/* watch may be NULL. */
static inline bool work_goes_on(const struct work_watch *watch)
{
    return !watch || watch->go_on(watch->context);
}

static inline bool work_may_take(const struct work_watch *watch, size_t bytes)
{
    return !watch || !watch->lend || watch->lend(watch->context, bytes);
}

/* ---- clock ------------------------------------------------------------------------------------------------------- */

uint64_t clock_nanoseconds(void); /* monotonic */
static inline double clock_seconds_since(uint64_t start_nanoseconds)
{
    return (double)(clock_nanoseconds() - start_nanoseconds) * 1e-9;
}

/* ---- random numbers ---------------------------------------------------------------------------------------------- */

/* xoshiro256++ (Blackman and Vigna, 2019), seeded through splitmix64: the same seed gives the same numbers everywhere.
 */
struct random {
    uint64_t state[4];
};

void random_seed(struct random *random, uint64_t seed);
uint64_t random_next(struct random *random);
double random_uniform(struct random *random); /* [0, 1) with 53 bits */
double random_normal(struct random *random);  /* mean 0, deviation 1 */

/* ---- hashes ------------------------------------------------------------------------------------------------------ */

/* FNV-1a. hash is that of the preceding bytes, FNV1A_START at first. Data that outlive a run depend on it (names of
 * files, digests of lines). It is not cryptographic: chosen bytes can cause collisions. */
#define FNV1A_START UINT64_C(0xcbf29ce484222325)
uint64_t fnv1a(uint64_t hash, const void *bytes, size_t size);

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Bytes start .. end - 1 of a text. */
struct text_range {
    size_t start, end;
};

/* Makes a text that may quote a file or a request safe for terminals and JSON: control characters become spaces, and
 * bytes that are not UTF-8 become question marks. Its length stays. */
void text_clean(char *text);

/* Whether a text ends with the ending and has something before it. */
bool text_has_ending(const char *text, const char *ending);

/* "12.3 GiB" into text; returns text. Room for 32 bytes is enough. */
char *format_bytes(char *text, size_t room, double bytes);

/* "0.95 to 1.82" into text, or one number if both read the same with this many decimals; returns text. */
char *format_range(char *text, size_t room, int decimals, double low, double high);

/* Parses "4G", "512MiB", "1.5g", "1000000" (binary multiples; K M G T, optionally followed by "B" or "iB"). */
hypura_status parse_bytes(const char *text, uint64_t *bytes, hypura_error *error);

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* A pool of workers for short parallel sections. The calling thread is worker 0 and takes its share.
 *
 * A section is a number of independent tasks, which workers claim in order from a counter. So a worker that lost its
 * core delays only its current task. A task's result must depend only on its index, never on the worker, which makes
 * outputs equal for every number of threads.
 *
 * Between sections, workers spin for some microseconds and then sleep, so that a pool costs nothing while it waits for
 * the drive. One thread at a time may call thread_pool_run on a pool; a task must not call it. */
struct thread_pool;

typedef void (*thread_task)(void *context, size_t index, size_t worker);

/* threads: 1 to 256, including the caller. */
hypura_status thread_pool_create(struct thread_pool **out, size_t threads, hypura_error *error);
void thread_pool_destroy(struct thread_pool *pool);
size_t thread_pool_threads(const struct thread_pool *pool);

/* How long workers spin for the next section before they sleep. */
void thread_pool_spin(struct thread_pool *pool, uint64_t nanoseconds);

/* Runs task(context, 0 .. count - 1, worker), and returns when all have returned. worker is below thread_pool_threads.
 */
void thread_pool_run(struct thread_pool *pool, thread_task task, void *context, size_t count);

/* The same for tasks whose neighbours belong together. Worker w gets the w-th part of 0 .. count - 1 and takes ranges
 * from its front; a worker that has finished takes ranges from the ends of other parts. range(context, first, count,
 * worker) is called for ranges that together cover everything. count is below 2^24. */
typedef void (*thread_range)(void *context, size_t first, size_t count, size_t worker);
void thread_pool_run_shares(struct thread_pool *pool, thread_range range, void *context, size_t count);

/* Tells what workers read in the section after the next one. In the next one, a worker that has no task left calls
 * expectation(context, worker), and then, while it waits, has that memory brought to its core's caches. That goes on
 * between the sections after it, until another expectation takes its place. NULL: nothing. It changes no result, and
 * the memory need not stay. */
struct thread_memory {
    const uint8_t *start;
    size_t bytes;
};
typedef struct thread_memory (*thread_expectation)(void *context, size_t worker);
void thread_pool_expect(struct thread_pool *pool, thread_expectation expectation, void *context);

/* Copies bytes in pieces of this size, each by one of the pool's threads; at most one piece, or without a pool (NULL),
 * by the caller alone. The ranges must not overlap. The pieces are tasks, as in thread_pool_run. */
void thread_pool_copy(struct thread_pool *pool, void *to, const void *from, size_t bytes, size_t piece);

/* Restricts a worker other than the caller (0) to these processors (words of 64 bits). Between sections. */
void thread_pool_pin(struct thread_pool *pool, size_t worker, const uint64_t *cpus, size_t words);

/* While set, tasks that have not begun are skipped, so that a section ends soon. Async-signal-safe. */
void thread_pool_skip(struct thread_pool *pool, bool skip);

/* Whether a task was skipped since the last call. If so, the results of the sections in between are worthless. */
bool thread_pool_skipped(struct thread_pool *pool);

/* The cores that this process may run on, by its affinity mask; at least 1. For limits of control groups, see hw.
 */
size_t thread_usable_cores(void);

/* Asks the system to run the calling thread soon after it wakes, even if every core computes. For threads that work
 * only briefly. false: the system cannot (before Linux 6.12), or does not let this process ask. */
bool thread_wakes_soon(void);

#endif
