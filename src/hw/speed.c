/* How fast the cores read memory, and weights through the kernels. */
#include "compute/compute.h"
#include "hw/hw_private.h"

#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

size_t hw_test_bytes(const struct hardware *hardware)
{
    uint64_t wanted = MAX(64 * MIB, 4 * MIN(hardware->cache_l3, (uint64_t)1 << 40));
    return MAX((size_t)MIN(wanted, hw_memory_room(hardware) / 8), 8 * MIB);
}

/* What may be hoped for again: the time that a quarter of the runs kept under. The best of all is luck on a machine
 * that shares its memory with others, and the middle one is what the others left. Times are sorted. */
#define MOST_ROUNDS 50

static int shorter_first(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double usual_seconds(double *seconds, size_t count)
{
    qsort(seconds, count, sizeof *seconds, shorter_first);
    return MAX(seconds[count / 4], 1e-9);
}

struct summing {
    const uint64_t *words;
    size_t piece; /* words a task */
    uint64_t *sums;
};

/* Eight sums, so that a processor waits for memory and not for its own additions. */
static void sum_piece(void *context, size_t index, size_t worker)
{
    const struct summing *summing = context;
    const uint64_t *words = summing->words + index * summing->piece;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < summing->piece; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += words[i + j];
    for (size_t j = 1; j < 8; j++)
        sums[0] += sums[j];
    /* A line of its own for each worker, and a store that keeps the sum from being thought away. */
    summing->sums[worker * 8] += sums[0];
}

struct memory_meter {
    struct thread_pool *pool;
    void *memory;
    size_t bytes;
    struct summing summing;
};

hypura_status memory_meter_open(struct memory_meter **out, const struct hardware *hardware, size_t threads,
                                hypura_error *error)
{
    struct memory_meter *meter;
    threads = MIN(threads, (size_t)256);
    hypura_status status = ALLOCATE(&meter, 1, "memory test", error);
    if (status)
        return status;
    struct hardware now = *hardware; /* much may have been taken since that was found */
    hw_detect_memory(&now, "");
    meter->bytes = hw_test_bytes(&now) / MIB * MIB;
    status = thread_pool_create(&meter->pool, threads, error);
    if (status == HYPURA_OK)
        status = memory_map(&meter->memory, meter->bytes, true, "memory test", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&meter->summing.sums, threads * 8, "memory test", error);
    if (status) {
        memory_meter_close(meter);
        return status;
    }
    memset(meter->memory, 1, meter->bytes);
    meter->summing.words = meter->memory;
    meter->summing.piece = MIB / sizeof(uint64_t);
    *out = meter;
    return HYPURA_OK;
}

void memory_meter_close(struct memory_meter *meter)
{
    if (!meter)
        return;
    memory_unmap(meter->memory, meter->bytes);
    memory_free(meter->summing.sums);
    thread_pool_destroy(meter->pool);
    memory_free(meter);
}

double memory_meter_read(struct memory_meter *meter)
{
    /* So that the threads are awake. */
    thread_pool_run(meter->pool, sum_piece, &meter->summing, MIN(meter->bytes / MIB, (size_t)8));
    uint64_t start = clock_nanoseconds();
    thread_pool_run(meter->pool, sum_piece, &meter->summing, meter->bytes / MIB);
    return (double)meter->bytes / clock_seconds_since(start);
}

hypura_status hardware_measure_memory(const struct hardware *hardware, size_t threads, double *bytes_per_second,
                                      hypura_error *error)
{
    struct memory_meter *meter;
    hypura_status status = memory_meter_open(&meter, hardware, threads, error);
    if (status)
        return status;
    double best = 0;
    uint64_t started = clock_nanoseconds();
    for (int round = 0; round < 3 || (round < 30 && clock_seconds_since(started) < 0.4); round++)
        best = MAX(best, memory_meter_read(meter));
    *bytes_per_second = best;
    memory_meter_close(meter);
    return HYPURA_OK;
}

#define KERNEL_COLUMNS 4096
#define PROMPT_TOKENS 128
#define PROMPT_ROWS 1024

struct kernel_test {
    struct compute *compute;
    struct activation *activation;
    uint8_t *weights;
    size_t weight_bytes;
    float *input, *output;
    size_t output_floats;
};

static double time_matmul(const struct kernel_test *test, enum tensor_type type, size_t rows, size_t row_bytes,
                          size_t tokens)
{
    struct matmul job = {.weights = {test->weights, type, rows, KERNEL_COLUMNS, row_bytes},
                         .input = test->activation,
                         .tokens = tokens,
                         .output = test->output,
                         .output_stride = rows};
    double seconds[MOST_ROUNDS];
    size_t rounds = 0;
    uint64_t started = clock_nanoseconds();
    /* Where the caches are large and the cores few, once is long enough. */
    while (rounds == 0 || (rounds < 3 && clock_seconds_since(started) < 0.5) ||
           (rounds < MOST_ROUNDS && clock_seconds_since(started) < 0.2)) {
        activation_set(test->activation, test->input, tokens, KERNEL_COLUMNS, KERNEL_COLUMNS);
        uint64_t start = clock_nanoseconds();
        compute_matmul(test->compute, &job, 1);
        seconds[rounds++] = clock_seconds_since(start);
    }
    return usual_seconds(seconds, rounds);
}

static void time_kernels(const struct kernel_test *test, struct hardware *out)
{
    static const enum tensor_type types[] = {TENSOR_Q4_K,  TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_Q8_0, TENSOR_Q4_0,
                                             TENSOR_MXFP4, TENSOR_F16,  TENSOR_BF16, TENSOR_F32};
    double slowest = 0;
    out->kernel_count = 0;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        uint64_t row_bytes;
        if (!compute_supports(types[i]) || !tensor_row_bytes(types[i], KERNEL_COLUMNS, &row_bytes))
            continue;
        size_t rows = MIN(test->weight_bytes / (size_t)row_bytes, test->output_floats);
        double speed = (double)rows * (double)row_bytes / time_matmul(test, types[i], rows, (size_t)row_bytes, 1);
        /* Where a kernel fetches ahead better than a plain sum it is the better measure of the memory. */
        out->memory_bytes_per_second = MAX(out->memory_bytes_per_second, speed);
        out->kernels[out->kernel_count++] = (struct kernel_speed){types[i], speed};
        /* The plan of a model of unknown mixture counts with the slowest of the usual ones. */
        if (types[i] == TENSOR_Q4_K || types[i] == TENSOR_Q6_K)
            slowest = slowest > 0 ? MIN(slowest, speed) : speed;
        if (types[i] == TENSOR_Q4_K)
            out->multiply_adds_per_second = (double)PROMPT_ROWS * KERNEL_COLUMNS * PROMPT_TOKENS /
                                            time_matmul(test, types[i], PROMPT_ROWS, (size_t)row_bytes, PROMPT_TOKENS);
    }
    if (slowest > 0)
        out->compute_bytes_per_second = slowest;
}

hypura_status hw_measure_kernels(struct hardware *out, hypura_error *error)
{
    struct kernel_test test = {.weight_bytes = hw_test_bytes(out)};
    test.output_floats = MAX((size_t)PROMPT_ROWS * PROMPT_TOKENS, test.weight_bytes / 1024);
    void *weights = NULL;
    hypura_status status = memory_map(&weights, test.weight_bytes, true, "kernel test", error);
    if (status == HYPURA_OK)
        status = compute_create(&test.compute, MIN(out->cores, (size_t)256), compute_best_instructions(), error);
    if (status == HYPURA_OK)
        status = activation_create(&test.activation, PROMPT_TOKENS, KERNEL_COLUMNS, error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&test.input, (size_t)PROMPT_TOKENS * KERNEL_COLUMNS, "kernel test", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&test.output, test.output_floats, "kernel test", error);
    if (status == HYPURA_OK) {
        /* 0x2a2a is a small normal number in every float format, so no kernel meets infinities or denormals. */
        memset(weights, 0x2a, test.weight_bytes);
        test.weights = weights;
        for (size_t i = 0; i < (size_t)PROMPT_TOKENS * KERNEL_COLUMNS; i++)
            test.input[i] = (float)(i % 17) - 8;
        time_kernels(&test, out);
    }
    memory_free(test.output);
    memory_free(test.input);
    if (test.activation)
        activation_destroy(test.activation);
    if (test.compute)
        compute_destroy(test.compute);
    memory_unmap(weights, test.weight_bytes);
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
