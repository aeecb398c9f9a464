/* Finds out which block size and how many reads in flight suit a drive. */
#include "hw/hw_private.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const uint32_t block_sizes[] = {4096, 16384, 65536, 262144, 524288, 1u << 20, 2u << 20, 4u << 20};
static const uint32_t all_depths[] = {1, 2, 4, 8, 16, 32, 64};
static const uint32_t some_depths[] = {1, 4, 16, 64};
static const uint32_t few_depths[] = {1, 16};

/* Memory for reads: more than most caches hold, and as much as a small machine can spare. It uses huge pages, as the
 * pool does: with small ones, the same drive reads at a third of the speed if each page becomes an entry of the
 * request's scatter list (virtio). */
#define READ_MEMORY ((size_t)64 << 20)

/* How the file is read once before the samples. */
#define FIRST_BLOCK ((uint64_t)4 << 20)
#define FIRST_DEPTH 8u

/* Two speeds this close count as equal, because a machine does other things too. Then the one with fewer bytes in
 * flight wins. */
#define AS_GOOD 0.95

/* The reader gets twice as many reads in flight as the drive needs, so that the drive does not idle when the reader
 * submits late. DEEPEST is the upper limit. */
#define DEEPEST 64u

/* The lower limit, because slices of experts are smaller than the block that was best alone. */
#define SHALLOWEST 8u

/* No drive needs more bytes in flight (10 GB/s, and 3 ms per read), and a ring must hold them. If more looked best,
 * that was luck among many samples. */
#define MOST_IN_FLIGHT (32u << 20)

/* Samples with fewer reads in flight are only chosen if there is no other: a few huge reads are as fast in a bench, but
 * only because it has nothing else to do than to submit the next one. */
#define SHALLOW 4u

static double in_flight(const struct storage_sample *sample)
{
    return (double)sample->block_bytes * sample->depth;
}

void hw_choose_reads(struct storage *storage)
{
    double best_direct = 0, best_cached = 0, best = 0;
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *sample = &storage->samples[i];
        double *side = sample->direct ? &best_direct : &best_cached;
        *side = MAX(*side, sample->bytes_per_second);
    }
    storage->direct_pays = storage->direct_supported && best_direct >= AS_GOOD * best_cached;
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *sample = &storage->samples[i];
        if (sample->direct == storage->direct_supported && !sample->sequential)
            best = MAX(best, sample->bytes_per_second);
    }
    const struct storage_sample *chosen = NULL;
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *sample = &storage->samples[i];
        if (sample->direct != storage->direct_supported || sample->sequential)
            continue;
        if (sample->block_bytes == 4096 && sample->depth == 1)
            storage->latency_seconds = 4096 / sample->bytes_per_second;
        if (sample->bytes_per_second < AS_GOOD * best)
            continue;
        bool deep = sample->depth >= SHALLOW;
        bool chosen_deep = chosen && chosen->depth >= SHALLOW;
        if (!chosen || (deep && !chosen_deep) ||
            (deep == chosen_deep && (in_flight(sample) < in_flight(chosen) ||
                                     (in_flight(sample) <= in_flight(chosen) && sample->depth > chosen->depth))))
            chosen = sample;
    }
    if (chosen) {
        storage->block_bytes = chosen->block_bytes;
        uint32_t deepest = MIN(MAX(MOST_IN_FLIGHT / chosen->block_bytes, SHALLOWEST), DEEPEST);
        storage->depth = MIN(MAX(2 * chosen->depth, SHALLOWEST), deepest);
        storage->bytes_per_second = chosen->bytes_per_second;
    }
}

/* ---- speeds of other sizes and depths ---------------------------------------------------------------------------- */

/* The nearest samples around a size and depth: on side 0 not above, on side 1 not below. */
struct neighbours {
    const struct storage_sample *corners[2][2]; /* [depth side][size side] */
};

static bool nearer(const struct storage_sample *sample, const struct storage_sample *best, bool above_depth,
                   bool above_size)
{
    if (!best)
        return true;
    if (sample->depth != best->depth)
        return (sample->depth < best->depth) == above_depth;
    return (sample->block_bytes < best->block_bytes) == above_size;
}

static struct neighbours find_neighbours(const struct storage *storage, double size, double depth)
{
    struct neighbours found = {0};
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *sample = &storage->samples[i];
        if (sample->sequential || sample->direct != storage->direct_supported)
            continue;
        for (int d = 0; d < 2; d++) {
            for (int s = 0; s < 2; s++) {
                bool fits_depth = d ? sample->depth >= depth : sample->depth <= depth;
                bool fits_size = s ? sample->block_bytes >= size : sample->block_bytes <= size;
                if (fits_depth && fits_size && nearer(sample, found.corners[d][s], d, s))
                    found.corners[d][s] = sample;
            }
        }
    }
    return found;
}

/* Interpolates between two points on logarithmic scales. A missing point has y = 0. */
static double between(double x, double x0, double y0, double x1, double y1)
{
    if (y0 <= 0 || y1 <= 0)
        return MAX(y0, y1);
    if (x1 <= x0)
        return y0;
    double share = log(x / x0) / log(x1 / x0);
    return y0 * pow(y1 / y0, MIN(MAX(share, 0.0), 1.0));
}

double hardware_read_speed(const struct storage *storage, uint64_t block_bytes, uint32_t depth)
{
    double size = (double)MAX(block_bytes, (uint64_t)STORAGE_ALIGNMENT), deep = MAX(depth, 1u);
    struct neighbours near = find_neighbours(storage, size, deep);
    double speeds[2] = {0}, depths[2] = {0};
    for (int d = 0; d < 2; d++) {
        const struct storage_sample *low = near.corners[d][0], *high = near.corners[d][1];
        speeds[d] = between(size, low ? low->block_bytes : 0, low ? low->bytes_per_second : 0,
                            high ? high->block_bytes : 0, high ? high->bytes_per_second : 0);
        depths[d] = low ? low->depth : high ? high->depth : 0;
    }
    double speed = between(deep, depths[0], speeds[0], depths[1], speeds[1]);
    if (speed > 0)
        return speed;
    double latency = storage->latency_seconds + size / storage->bytes_per_second;
    return MIN(storage->bytes_per_second, deep * size / latency);
}

/* The share of the full speed that prefetches should reach. */
#define PREFETCH_SPEED 0.75

uint32_t hardware_prefetch_depth(const struct storage *storage, uint64_t block_bytes, uint32_t depth)
{
    const uint32_t most = MAX(depth / 4, 2u);
    uint32_t few = 2;
    if (storage->bytes_per_second <= 0)
        return most; /* nothing is known */
    double enough = PREFETCH_SPEED * hardware_read_speed(storage, block_bytes, depth);
    while (few < most && hardware_read_speed(storage, block_bytes, few) < enough)
        few++;
    return few;
}

double hardware_side_by_side(const struct storage *storage, double compute_seconds, double read_seconds)
{
    double reading = storage->reading_beside > 0 ? storage->reading_beside : 1;
    double computing = storage->computing_beside > 0 ? storage->computing_beside : 1;
    double computed = compute_seconds / computing, read = read_seconds / reading;
    return computed < read ? computed + read_seconds - computed * reading : read + compute_seconds - read * computing;
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

struct bench_state {
    const struct storage_bench *bench;
    int files[2]; /* through the page cache, direct; -1: not possible */
    uint64_t file_bytes;
    void *memory;
    uint64_t started;
    size_t total;
    uint64_t seed;
};

static hypura_status take_sample(struct bench_state *state, struct storage_sample *sample, double seconds,
                                 hypura_error *error)
{
    int file = state->files[sample->direct];
    struct read_run run = {.file = file,
                           .file_bytes = state->file_bytes,
                           .block_bytes = sample->block_bytes,
                           .depth = sample->depth,
                           .sequential = sample->sequential,
                           .once = !sample->direct,
                           .seed = state->seed++ * 7919,
                           .seconds = seconds,
                           .memory = state->memory,
                           .memory_bytes = READ_MEMORY};
#ifdef POSIX_FADV_DONTNEED
    if (!sample->direct)
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
#endif
    return hw_run_reads(&run, &sample->bytes_per_second, error);
}

static bool time_is_up(const struct bench_state *state)
{
    return state->bench->limit_seconds > 0 && clock_seconds_since(state->started) > state->bench->limit_seconds;
}

/* In a profile, samples that do not decide how the reader reads take this part of the usual time. */
#define SHOWN_ONLY_PART 0.7

static hypura_status sample_grid(struct bench_state *state, bool direct, bool sequential, const uint32_t *depths,
                                 size_t depth_count, hypura_error *error)
{
    struct storage *storage = state->bench->storage;
    if (state->files[direct] < 0)
        return HYPURA_OK;
    for (size_t i = 0; i < depth_count; i++) {
        for (size_t j = 0; j < COUNT_OF(block_sizes); j++) {
            if (time_is_up(state) || block_sizes[j] > state->file_bytes || storage->sample_count == STORAGE_MAX_SAMPLES)
                continue;
            struct storage_sample *sample = &storage->samples[storage->sample_count];
            *sample = (struct storage_sample){
                .block_bytes = block_sizes[j], .depth = depths[i], .direct = direct, .sequential = sequential};
            bool shown_only = (direct != (state->files[1] >= 0) || sequential) && !state->bench->thorough;
            double seconds = state->bench->seconds * (shown_only ? SHOWN_ONLY_PART : 1);
            hypura_status status = take_sample(state, sample, seconds, error);
            if (status != HYPURA_OK)
                return status;
            storage->sample_count++;
            if (state->bench->visit &&
                !state->bench->visit(state->bench->context, sample, storage->sample_count, state->total))
                return error_set(error, HYPURA_ERROR_CANCELLED, "the measurement was stopped");
        }
    }
    return HYPURA_OK;
}

/* A short sample may be lucky on a shared machine. So the best ones are taken twice more, and the median of the three
 * counts. */
static hypura_status look_again(struct bench_state *state, hypura_error *error)
{
    struct storage *storage = state->bench->storage;
    bool direct = state->files[1] >= 0;
    double best = 0;
    for (size_t i = 0; i < storage->sample_count; i++) {
        if (storage->samples[i].direct == direct && !storage->samples[i].sequential)
            best = MAX(best, storage->samples[i].bytes_per_second);
    }
    for (size_t i = 0; i < storage->sample_count && !time_is_up(state); i++) {
        struct storage_sample *sample = &storage->samples[i];
        if (sample->direct != direct || sample->sequential || sample->bytes_per_second < 0.9 * best)
            continue;
        struct storage_sample again[2] = {*sample, *sample};
        for (size_t j = 0; j < 2; j++) {
            hypura_status status = take_sample(state, &again[j], state->bench->seconds, error);
            if (status != HYPURA_OK)
                return status;
        }
        double a = sample->bytes_per_second, b = again[0].bytes_per_second, c = again[1].bytes_per_second;
        sample->bytes_per_second = fmax(fmin(a, b), fmin(fmax(a, b), c));
    }
    return HYPURA_OK;
}

/* ---- reading next to computing ------------------------------------------------------------------------------------
 *
 * Data from the drive takes bandwidth of the memory that computing reads. The speed of a shared drive changes from
 * second to second. So each round measures all three: the drive alone, both, and the cores alone. */

#define BESIDE_ROUNDS 8
#define BESIDE_SECONDS 3.5

static double middle(double *values, size_t count)
{
    hw_sort(values, count);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void hw_choose_beside(struct storage *storage, const struct beside_round *rounds, size_t count)
{
    double alone[BESIDE_ROUNDS], reading[BESIDE_ROUNDS], computing[BESIDE_ROUNDS];
    count = MIN(count, (size_t)BESIDE_ROUNDS);
    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        alone[i] = rounds[i].reading_alone;
        reading[i] = rounds[i].reading_beside / rounds[i].reading_alone;
        computing[i] = rounds[i].computing_beside / rounds[i].computing_alone;
    }
    storage->bytes_per_second = middle(alone, count);
    storage->reading_beside = fmin(middle(reading, count), 1);
    storage->computing_beside = fmin(middle(computing, count), 1);
}

static hypura_status take_round(struct bench_state *state, struct hw_decoding *decoding, struct beside_round *round,
                                hypura_error *error)
{
    const struct storage *storage = state->bench->storage;
    struct storage_sample alone = {
        .block_bytes = storage->block_bytes, .depth = MAX(storage->depth, 1u), .direct = state->files[1] >= 0};
    struct storage_sample beside = alone;
    double seconds = 2 * state->bench->seconds;
    hypura_status status = take_sample(state, &alone, seconds, error);
    if (status != HYPURA_OK)
        return status;
    hw_decoding_start(decoding);
    status = take_sample(state, &beside, seconds, error);
    round->computing_beside = hw_decoding_stop(decoding);
    hw_decoding_start(decoding);
    nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
    round->computing_alone = hw_decoding_stop(decoding);
    round->reading_alone = alone.bytes_per_second;
    round->reading_beside = beside.bytes_per_second;
    return status;
}

static hypura_status measure_beside(struct bench_state *state, hypura_error *error)
{
    struct hw_decoding *decoding;
    struct beside_round rounds[BESIDE_ROUNDS];
    hypura_status status = hw_decoding_open(&decoding, state->bench->beside, error);
    if (status != HYPURA_OK)
        return status;
    size_t count = 0;
    uint64_t started = clock_nanoseconds();
    while (status == HYPURA_OK && count < BESIDE_ROUNDS && (count < 3 || clock_seconds_since(started) < BESIDE_SECONDS))
        status = take_round(state, decoding, &rounds[count++], error);
    hw_decoding_close(decoding);
    if (status == HYPURA_OK)
        hw_choose_beside(state->bench->storage, rounds, count);
    return status;
}

/* ---- the whole bench --------------------------------------------------------------------------------------------- */

static hypura_status run_point(struct bench_state *state, hypura_error *error)
{
    struct storage *storage = state->bench->storage;
    struct storage_sample *sample = &storage->samples[0];
    *sample = (struct storage_sample){
        .block_bytes = state->bench->block_bytes, .depth = state->bench->depth, .direct = state->files[1] >= 0};
    hypura_status status = take_sample(state, sample, state->bench->seconds, error);
    storage->sample_count = status == HYPURA_OK;
    return status;
}

/* Reads the file once. The host of a virtual machine may cache it and then be three times as fast. A model is read over
 * and over, so the cached speed is the right one, and it must be the same for all samples. */
static hypura_status read_first(struct bench_state *state, hypura_error *error)
{
    double speed;
    struct read_run run = {.file = state->files[state->files[1] >= 0],
                           .file_bytes = state->file_bytes,
                           .block_bytes = (uint32_t)MIN(FIRST_BLOCK, state->file_bytes),
                           .depth = FIRST_DEPTH,
                           .sequential = true,
                           .once = true,
                           .seconds = state->bench->first_seconds,
                           .memory = state->memory,
                           .memory_bytes = READ_MEMORY};
    return run.seconds > 0 ? hw_run_reads(&run, &speed, error) : HYPURA_OK;
}

static hypura_status run_bench(struct bench_state *state, hypura_error *error)
{
    if (state->bench->depth)
        return run_point(state, error);
    hypura_status first = read_first(state, error);
    if (first != HYPURA_OK)
        return first;
    state->started = clock_nanoseconds();
    const uint32_t *depths = state->bench->thorough ? all_depths : some_depths;
    size_t depth_count = state->bench->thorough ? COUNT_OF(all_depths) : COUNT_OF(some_depths);
    /* The engine does not read in order with many reads in flight, so a profile omits most of these samples. */
    const uint32_t *other_depths = state->bench->thorough ? all_depths : few_depths;
    size_t other_count = state->bench->thorough ? COUNT_OF(all_depths) : COUNT_OF(few_depths);
    size_t count = 2 * other_count;
    if (state->files[1] >= 0)
        count += depth_count + other_count;
    state->total = count * COUNT_OF(block_sizes);
    /* The samples that decide how the reader reads come first, so that there is time for them even on a slow drive. */
    hypura_status status = sample_grid(state, true, false, depths, depth_count, error);
    bool direct = state->files[1] >= 0;
    if (status == HYPURA_OK && direct)
        status = look_again(state, error);
    if (status == HYPURA_OK)
        status = sample_grid(state, true, true, other_depths, other_count, error);
    if (status == HYPURA_OK)
        status = sample_grid(state, false, false, other_depths, other_count, error);
    if (status == HYPURA_OK && !direct)
        status = look_again(state, error);
    if (status == HYPURA_OK)
        status = sample_grid(state, false, true, other_depths, other_count, error);
    if (status == HYPURA_OK)
        hw_choose_reads(state->bench->storage);
    if (status == HYPURA_OK && state->bench->beside)
        status = measure_beside(state, error);
    return status;
}

static int open_again(const struct storage_bench *bench, bool direct)
{
    char name[64];
    const char *path = bench->path;
    if (bench->file >= 0) {
#ifdef __APPLE__
        snprintf(name, sizeof name, "/dev/fd/%d", bench->file);
#else
        snprintf(name, sizeof name, "/proc/self/fd/%d", bench->file);
#endif
        path = name;
    }
#ifdef __APPLE__
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && direct)
        fcntl(file, F_NOCACHE, 1);
    return file;
#else
    return open(path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
#endif
}

hypura_status hw_bench_storage(const struct storage_bench *bench, hypura_error *error)
{
    /* Reads start elsewhere each time: the host of a virtual machine may have cached what the last bench read. */
    struct bench_state state = {
        .bench = bench, .files = {-1, -1}, .started = clock_nanoseconds(), .seed = clock_nanoseconds() % 1000003};
    struct stat info;
    state.files[0] = open_again(bench, false);
    if (state.files[0] < 0)
        return error_set_errno(error, errno, "cannot open %s", bench->path);
    hypura_status status = HYPURA_OK;
    if (fstat(state.files[0], &info)) {
        status = error_set_errno(error, errno, "cannot look at %s", bench->path);
    } else if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size < block_sizes[0]) {
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "%s is not a file of at least %u bytes", bench->path,
                           block_sizes[0]);
    } else {
        state.file_bytes = align_down((uint64_t)info.st_size, STORAGE_ALIGNMENT);
        if (bench->storage->direct_supported)
            state.files[1] = open_again(bench, true);
        status = memory_map(&state.memory, READ_MEMORY, true, "buffers of the storage bench", error);
        /* Touch every page: one that is first touched by a read may be a small page. */
        for (size_t i = 0; status == HYPURA_OK && i < READ_MEMORY; i += STORAGE_ALIGNMENT)
            ((volatile char *)state.memory)[i] = 0;
    }
    bench->storage->sample_count = 0;
    if (status == HYPURA_OK)
        status = run_bench(&state, error);
    if (status != HYPURA_OK && status != HYPURA_ERROR_CANCELLED && state.memory)
        error_prefix(error, "%s", bench->path);
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(state.files[0], 0, 0, POSIX_FADV_DONTNEED);
#endif
    memory_unmap(state.memory, READ_MEMORY);
    close(state.files[0]);
    if (state.files[1] >= 0)
        close(state.files[1]);
    return status;
}

hypura_status hardware_iobench_point(double *bytes_per_second, const char *path, uint32_t block_bytes, uint32_t depth,
                                     double seconds, hypura_error *error)
{
    struct storage storage;
    if (block_bytes < STORAGE_ALIGNMENT || block_bytes % STORAGE_ALIGNMENT || block_bytes > READ_MEMORY || depth == 0)
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "cannot measure reads of %u bytes, %u in flight: expected a multiple of %u bytes up to %zu, and "
            "at least one in flight",
            block_bytes, depth, STORAGE_ALIGNMENT, READ_MEMORY);
    hypura_status status = hardware_detect_storage(&storage, path, error);
    if (status != HYPURA_OK)
        return status;
    struct storage_bench bench = {.storage = &storage,
                                  .path = path,
                                  .file = -1,
                                  .block_bytes = block_bytes,
                                  .depth = depth,
                                  .seconds = seconds > 0 ? seconds : 1};
    status = hw_bench_storage(&bench, error);
    if (status == HYPURA_OK)
        *bytes_per_second = storage.samples[0].bytes_per_second;
    return status;
}

hypura_status hardware_iobench(struct storage *out, const char *path, double seconds, storage_visitor visit,
                               void *context, hypura_error *error)
{
    struct storage storage;
    hypura_status status = hardware_detect_storage(&storage, path, error);
    if (status != HYPURA_OK)
        return status;
    struct storage_bench bench = {.storage = &storage,
                                  .path = path,
                                  .file = -1,
                                  .thorough = true,
                                  .seconds = seconds > 0 ? seconds : 1,
                                  .visit = visit,
                                  .context = context};
    status = hw_bench_storage(&bench, error);
    if (status == HYPURA_OK)
        *out = storage;
    return status;
}
