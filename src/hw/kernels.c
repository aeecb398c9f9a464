/* Measures how fast the kernels process weights. Also runs the memory load of decoding next to other measurements. */
#include "compute/compute.h"
#include "hw/hw_private.h"

#include <pthread.h>
#include <string.h>

#define MOST_ROUNDS 50

/* A time that can be expected again: a quarter of the runs were faster. On a machine that shares its memory with
 * others, the best run is luck, and the median depends on the others' load. Sorts the times. */
static double usual_seconds(double *seconds, size_t count)
{
    hw_sort(seconds, count);
    return MAX(seconds[count / 4], 1e-9);
}

#define KERNEL_COLUMNS 4096

/* Rows of a prompt's matrix per core: as many as in a typical layer. A product with fewer rows ends before all cores
 * have started, and its time says nothing about the kernels. */
#define PROMPT_ROWS_A_CORE 256
#define LEAST_PROMPT_ROWS 1024

struct kernel_test {
    struct compute *compute;
    struct activation *activation;
    void *weights;
    size_t weight_bytes;
    float *input, *output;
    size_t output_floats, prompt_rows;
};

static double time_matmul(const struct kernel_test *test, enum tensor_type type, size_t rows, size_t row_bytes,
                          size_t tokens)
{
    struct matmul job = {.weights = {test->weights, type, rows, KERNEL_COLUMNS, row_bytes},
                         .input = test->activation,
                         .tokens = tokens,
                         .output = test->output,
                         .output_stride = rows};
    activation_set(test->activation, test->input, tokens, KERNEL_COLUMNS, KERNEL_COLUMNS);
    uint64_t start = clock_nanoseconds();
    compute_matmul(test->compute, &job, 1);
    return clock_seconds_since(start);
}

static size_t rows_of(const struct kernel_test *test, uint64_t row_bytes)
{
    return MIN(test->weight_bytes / (size_t)row_bytes, test->output_floats);
}

static const enum tensor_type timed_types[] = {TENSOR_Q4_K,  TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_Q8_0, TENSOR_Q4_0,
                                               TENSOR_MXFP4, TENSOR_F16,  TENSOR_BF16, TENSOR_F32};
#define TIMED_TYPES COUNT_OF(timed_types)

/* The times of one product: a type, with one token, a few or many. */
struct timing {
    enum tensor_type type;
    size_t rows, row_bytes, tokens, rounds;
    double seconds[MOST_ROUNDS];
};

/* Times all products in turn. A shared machine may be slow for some tenths of a second, which must not affect a single
 * kernel only. */
static void time_in_turns(const struct kernel_test *test, struct timing *timings, size_t count)
{
    uint64_t started = clock_nanoseconds();
    for (size_t round = 0; round < MOST_ROUNDS; round++) {
        double seconds = clock_seconds_since(started);
        /* With large caches and few cores, one round takes long enough. */
        if (round > 0 && seconds > (round < 3 ? 4 : 2))
            return;
        for (size_t i = 0; i < count; i++) {
            struct timing *timing = &timings[i];
            timing->seconds[timing->rounds++] =
                time_matmul(test, timing->type, timing->rows, timing->row_bytes, timing->tokens);
        }
    }
}

static void take_timing(struct hardware *out, struct timing *timing)
{
    double seconds = usual_seconds(timing->seconds, timing->rounds);
    double products = (double)timing->rows * KERNEL_COLUMNS * (double)timing->tokens / seconds;
    if (timing->tokens == 1) {
        double speed = (double)timing->rows * (double)timing->row_bytes / seconds;
        /* If a kernel prefetches better than the plain sum does, its speed is the better measure of the memory. */
        out->memory_bytes_per_second = MAX(out->memory_bytes_per_second, speed);
        out->kernels[out->kernel_count++] = (struct kernel_speed){.type = timing->type, .bytes_per_second = speed};
    } else if (timing->tokens == KERNEL_FEW) {
        out->kernels[out->kernel_count - 1].few_per_second = products;
    } else {
        out->kernels[out->kernel_count - 1].many_per_second = products;
        if (timing->type == TENSOR_Q4_K)
            out->multiply_adds_per_second = products;
    }
}

static hypura_status time_kernels(const struct kernel_test *test, struct hardware *out, hypura_error *error)
{
    static const size_t tokens[] = {1, KERNEL_FEW, KERNEL_MANY};
    struct timing *timings;
    size_t count = 0;
    hypura_status status = ALLOCATE(&timings, TIMED_TYPES * COUNT_OF(tokens), "kernel timings", error);
    if (status != HYPURA_OK)
        return status;
    for (size_t i = 0; i < TIMED_TYPES; i++) {
        uint64_t row_bytes;
        if (!compute_supports(timed_types[i]) || !tensor_row_bytes(timed_types[i], KERNEL_COLUMNS, &row_bytes))
            continue;
        const size_t most = rows_of(test, row_bytes);
        for (size_t t = 0; t < COUNT_OF(tokens); t++)
            timings[count++] = (struct timing){.type = timed_types[i],
                                               .rows = tokens[t] > 1 ? MIN(test->prompt_rows, most) : most,
                                               .row_bytes = (size_t)row_bytes,
                                               .tokens = tokens[t]};
    }
    time_in_turns(test, timings, count);
    out->kernel_count = 0;
    for (size_t i = 0; i < count; i++)
        take_timing(out, &timings[i]);
    memory_free(timings);
    /* For types that were not timed: the slower of the two usual types. */
    out->compute_bytes_per_second =
        MIN(hardware_kernel_speed(out, TENSOR_Q4_K), hardware_kernel_speed(out, TENSOR_Q6_K));
    return HYPURA_OK;
}

static void close_test(struct kernel_test *test)
{
    memory_free(test->output);
    memory_free(test->input);
    if (test->activation)
        activation_destroy(test->activation);
    if (test->compute)
        compute_destroy(test->compute);
    memory_unmap(test->weights, test->weight_bytes);
}

static hypura_status open_test(struct kernel_test *test, const struct hardware *hardware, hypura_error *error)
{
    *test = (struct kernel_test){.weight_bytes = hw_test_bytes(hardware)};
    test->prompt_rows = MAX(PROMPT_ROWS_A_CORE * MIN(hardware->cores, (size_t)64), (size_t)LEAST_PROMPT_ROWS);
    test->output_floats = MAX(test->prompt_rows * KERNEL_MANY, test->weight_bytes / 1024);
    hypura_status status = memory_map(&test->weights, test->weight_bytes, true, "kernel test", error);
    if (status == HYPURA_OK)
        status = compute_create(&test->compute, MIN(hardware->cores, (size_t)256), compute_best_instructions(), error);
    if (status == HYPURA_OK)
        status = activation_create(&test->activation, KERNEL_MANY, KERNEL_COLUMNS, error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&test->input, (size_t)KERNEL_MANY * KERNEL_COLUMNS, "kernel test", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&test->output, test->output_floats, "kernel test", error);
    if (status != HYPURA_OK) {
        close_test(test);
        return status;
    }
    /* 0x2a2a is a small normal number in every float format, so no kernel meets infinities or denormals. */
    memset(test->weights, 0x2a, test->weight_bytes);
    for (size_t i = 0; i < (size_t)KERNEL_MANY * KERNEL_COLUMNS; i++)
        test->input[i] = (float)(i % 17) - 8;
    return HYPURA_OK;
}

hypura_status hw_measure_kernels(struct hardware *out, hypura_error *error)
{
    struct kernel_test test;
    hypura_status status = open_test(&test, out, error);
    if (status == HYPURA_OK) {
        status = time_kernels(&test, out, error);
        close_test(&test);
    }
    return status;
}

double hardware_kernel_speed(const struct hardware *hardware, enum tensor_type type)
{
    for (size_t i = 0; i < hardware->kernel_count; i++) {
        if (hardware->kernels[i].type == type)
            return hardware->kernels[i].bytes_per_second;
    }
    return hardware->compute_bytes_per_second;
}

struct product_cost hardware_product_cost(const struct hardware *hardware, enum tensor_type type, double bytes,
                                          double elements)
{
    const struct kernel_speed *kernel = NULL;
    for (size_t i = 0; i < hardware->kernel_count && !kernel; i++)
        kernel = hardware->kernels[i].type == type ? &hardware->kernels[i] : NULL;
    if (!kernel || kernel->few_per_second <= 0 || kernel->many_per_second <= 0)
        return (struct product_cost){bytes / hardware_kernel_speed(hardware, type),
                                     elements / hardware->multiply_adds_per_second};
    /* The line through both measurements: a constant for unpacking, and a slope per token. */
    double few = KERNEL_FEW / kernel->few_per_second, many = KERNEL_MANY / kernel->many_per_second;
    double each = MAX((many - few) / (KERNEL_MANY - KERNEL_FEW), 0);
    return (struct product_cost){elements * MAX(few - KERNEL_FEW * each, 0), elements * MIN(each, many / KERNEL_MANY)};
}

/* ---- the memory load of decoding --------------------------------------------------------------------------------- */

struct hw_decoding {
    struct kernel_test test;
    struct matmul job;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool wanted, at_work, ends;
    double bytes, seconds; /* since the last start */
};

static void *decode(void *context)
{
    struct hw_decoding *decoding = context;
    pthread_mutex_lock(&decoding->mutex);
    while (!decoding->ends) {
        if (!decoding->at_work) {
            pthread_cond_wait(&decoding->changed, &decoding->mutex);
            continue;
        }
        pthread_mutex_unlock(&decoding->mutex);
        uint64_t start = clock_nanoseconds();
        compute_matmul(decoding->test.compute, &decoding->job, 1);
        double seconds = clock_seconds_since(start);
        pthread_mutex_lock(&decoding->mutex);
        decoding->seconds += seconds;
        decoding->bytes += (double)decoding->job.weights.rows * (double)decoding->job.weights.row_bytes;
        if (!decoding->wanted) {
            decoding->at_work = false;
            pthread_cond_broadcast(&decoding->changed);
        }
    }
    pthread_mutex_unlock(&decoding->mutex);
    return NULL;
}

hypura_status hw_decoding_open(struct hw_decoding **out, const struct hardware *hardware, hypura_error *error)
{
    struct hw_decoding *decoding;
    hypura_status status = ALLOCATE(&decoding, 1, "decoding test", error);
    if (status != HYPURA_OK)
        return status;
    struct hardware now = *hardware; /* less memory may be free now */
    hw_detect_memory(&now, "");
    status = open_test(&decoding->test, &now, error);
    if (status != HYPURA_OK) {
        memory_free(decoding);
        return status;
    }
    struct kernel_test *test = &decoding->test;
    uint64_t row_bytes = 0;
    tensor_row_bytes(TENSOR_Q4_K, KERNEL_COLUMNS, &row_bytes);
    size_t rows = rows_of(test, row_bytes);
    activation_set(test->activation, test->input, 1, KERNEL_COLUMNS, KERNEL_COLUMNS);
    decoding->job = (struct matmul){.weights = {test->weights, TENSOR_Q4_K, rows, KERNEL_COLUMNS, (size_t)row_bytes},
                                    .input = test->activation,
                                    .tokens = 1,
                                    .output = test->output,
                                    .output_stride = rows};
    pthread_mutex_init(&decoding->mutex, NULL);
    pthread_cond_init(&decoding->changed, NULL);
    int problem = pthread_create(&decoding->thread, NULL, decode, decoding);
    if (problem) {
        pthread_cond_destroy(&decoding->changed);
        pthread_mutex_destroy(&decoding->mutex);
        close_test(test);
        memory_free(decoding);
        return error_set_errno(error, problem, "cannot start a thread for computing");
    }
    *out = decoding;
    return HYPURA_OK;
}

void hw_decoding_start(struct hw_decoding *decoding)
{
    pthread_mutex_lock(&decoding->mutex);
    decoding->bytes = decoding->seconds = 0;
    decoding->wanted = decoding->at_work = true;
    pthread_cond_broadcast(&decoding->changed);
    pthread_mutex_unlock(&decoding->mutex);
}

double hw_decoding_stop(struct hw_decoding *decoding)
{
    pthread_mutex_lock(&decoding->mutex);
    decoding->wanted = false;
    while (decoding->at_work)
        pthread_cond_wait(&decoding->changed, &decoding->mutex);
    double speed = decoding->bytes / MAX(decoding->seconds, 1e-9);
    pthread_mutex_unlock(&decoding->mutex);
    return speed;
}

void hw_decoding_close(struct hw_decoding *decoding)
{
    if (!decoding)
        return;
    pthread_mutex_lock(&decoding->mutex);
    decoding->ends = true;
    pthread_cond_broadcast(&decoding->changed);
    pthread_mutex_unlock(&decoding->mutex);
    pthread_join(decoding->thread, NULL);
    pthread_cond_destroy(&decoding->changed);
    pthread_mutex_destroy(&decoding->mutex);
    close_test(&decoding->test);
    memory_free(decoding);
}

void hardware_share(struct hardware *hardware, uint32_t sharers)
{
    const double part = (double)MAX(hardware->sharers, 1u) / MAX(sharers, 1u);
    hardware->sharers = MAX(sharers, 1u);
    hardware->memory_bytes_per_second *= part;
    hardware->compute_bytes_per_second *= part;
    hardware->multiply_adds_per_second *= part;
    for (size_t i = 0; i < hardware->kernel_count; i++)
        hardware->kernels[i].bytes_per_second *= part;
    hardware->storage.bytes_per_second *= part;
    for (size_t i = 0; i < hardware->storage.sample_count; i++)
        hardware->storage.samples[i].bytes_per_second *= part;
}
