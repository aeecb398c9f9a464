/* Measures how fast the cores read memory. */
#include "hw/hw_private.h"

#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

size_t hw_test_bytes(const struct hardware *hardware)
{
    uint64_t wanted = MAX(64 * MIB, 4 * MIN(hardware->cache_l3, (uint64_t)1 << 40));
    return MAX((size_t)MIN(wanted, hw_memory_room(hardware) / 8), 8 * MIB);
}

static int smaller_first(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

void hw_sort(double *values, size_t count)
{
    qsort(values, count, sizeof *values, smaller_first);
}

struct summing {
    const uint64_t *words;
    size_t piece; /* words per task */
    uint64_t *sums;
};

/* Keeps eight sums, so that the processor waits for memory rather than for its own additions. */
uint64_t hw_sum(const uint64_t *words, size_t count)
{
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < count; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += words[i + j];
    for (size_t j = 1; j < 8; j++)
        sums[0] += sums[j];
    return sums[0];
}

static void sum_piece(void *context, size_t index, size_t worker)
{
    const struct summing *summing = context;
    /* Each worker has its own cache line. The store keeps the compiler from removing the sums. */
    summing->sums[worker * 8] += hw_sum(summing->words + index * summing->piece, summing->piece);
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
    struct hardware now = *hardware; /* less memory may be free now */
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
    /* Wakes the threads. */
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
