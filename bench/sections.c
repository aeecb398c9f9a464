/* The parts of a decode pass, without a model: for each number of threads, the cost of opening and closing a parallel
 * section, the speed of plain reading, and the speed of products of one token with matrices as large as a layer's or
 * its experts', without and with compute_expect in turn. The data exceeds the caches. */
#include "compute/compute.h"
#include "format/format.h"
#include "median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA_BYTES ((size_t)1 << 30)
#define READ_TASK ((size_t)1 << 20)
#define SECTIONS 1000
#define MOST_TOGETHER 16
#define ROUNDS 15

/* Between two sections, a thread alone norms rows, applies activations and the like. */
#define PAUSE_NANOSECONDS 5000

static void nothing(void *context, size_t first, size_t count, size_t worker)
{
    (void)context, (void)first, (void)count, (void)worker;
}

/* Microseconds that an empty section takes after the caller has worked alone for "pause" nanoseconds. */
static double section_cost(struct thread_pool *pool, uint64_t pause, size_t sections)
{
    uint64_t spent = 0;
    for (size_t i = 0; i < sections; i++) {
        uint64_t start = clock_nanoseconds();
        while (clock_nanoseconds() - start < pause)
            ;
        start = clock_nanoseconds();
        thread_pool_run_shares(pool, nothing, NULL, thread_pool_threads(pool));
        spent += clock_nanoseconds() - start;
    }
    return (double)spent * 1e-3 / (double)sections;
}

struct reading {
    const uint8_t *data;
    uint64_t sums[256][8];
};

static void read_range(void *context, size_t first, size_t count, size_t worker)
{
    struct reading *reading = context;
    const uint64_t *words = (const void *)(reading->data + first * READ_TASK);
    uint64_t sum = 0;
    for (size_t i = 0; i < count * READ_TASK / sizeof *words; i += 8) {
        __builtin_prefetch(words + i + 1024);
        sum += words[i] ^ words[i + 1] ^ words[i + 2] ^ words[i + 3] ^ words[i + 4] ^ words[i + 5] ^ words[i + 6] ^
               words[i + 7];
    }
    reading->sums[worker][0] += sum;
}

static volatile uint64_t sink; /* keeps the compiler from removing the reads */

static double reading_speed(struct thread_pool *pool, const uint8_t *data)
{
    struct reading reading = {.data = data};
    uint64_t start = clock_nanoseconds();
    thread_pool_run_shares(pool, read_range, &reading, DATA_BYTES / READ_TASK);
    double seconds = clock_seconds_since(start);
    for (size_t i = 0; i < COUNT_OF(reading.sums); i++)
        sink += reading.sums[i][0];
    return (double)DATA_BYTES / seconds * 1e-9;
}

struct shape {
    size_t rows, columns, together; /* matrices per section */
};

/* GB/s over all of the data, one matrix after another. */
static double product_speed(struct compute *compute, const uint8_t *data, const struct shape *shape, bool expects,
                            struct activation *activation, const float *input, float *output)
{
    const size_t columns = shape->columns, rows = shape->rows, together = shape->together;
    uint64_t row_bytes;
    if (!tensor_row_bytes(TENSOR_Q4_K, columns, &row_bytes))
        return 0;
    size_t bytes = rows * (size_t)row_bytes, count = DATA_BYTES / bytes / together * together;
    struct matmul jobs[MOST_TOGETHER];
    struct matrix next[MOST_TOGETHER];
    uint64_t start = clock_nanoseconds();
    for (size_t i = 0; i < count; i += together) {
        uint64_t begin = clock_nanoseconds();
        while (clock_nanoseconds() - begin < PAUSE_NANOSECONDS)
            ;
        activation_set(activation, input, 1, columns, columns);
        for (size_t j = 0; j < together; j++) {
            jobs[j] = (struct matmul){.weights = {data + (i + j) * bytes, TENSOR_Q4_K, rows, columns, row_bytes},
                                      .input = activation,
                                      .tokens = 1,
                                      .output = output + j * rows,
                                      .output_stride = rows};
            next[j] = jobs[j].weights;
            next[j].data += together * bytes;
        }
        if (expects && i + together < count)
            compute_expect(compute, next, together, 1);
        compute_matmul(compute, jobs, together);
    }
    return (double)(count * bytes) / clock_seconds_since(start) * 1e-9;
}

static void print_products(struct compute *compute, const uint8_t *data, struct activation *activation,
                           const float *input, float *output)
{
    static const struct shape shapes[] = {{1024, 4096, 1},  {1024, 4096, 4}, {4096, 4096, 1}, {14336, 4096, 2},
                                          {4096, 14336, 1}, {768, 2048, 16}, {2048, 768, 8}};
    printf(", \"products\": {");
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        double speeds[2][ROUNDS];
        for (int round = 0; round < ROUNDS; round++)
            for (int expects = 0; expects < 2; expects++)
                speeds[expects][round] = product_speed(compute, data, &shapes[s], expects, activation, input, output);
        printf("%s\"%zu of %zux%zu\": {\"gb_per_second\": %.1f, \"expected_gb_per_second\": %.1f}", s ? ", " : "",
               shapes[s].together, shapes[s].rows, shapes[s].columns, median(speeds[0], ROUNDS),
               median(speeds[1], ROUNDS));
    }
    printf("}");
}

static hypura_status measure(size_t threads, const uint8_t *data, hypura_error *error)
{
    struct compute *compute;
    struct activation *activation;
    hypura_status status = compute_create(&compute, threads, compute_best_instructions(), error);
    if (status)
        return status;
    status = activation_create(&activation, 1, 14336, error);
    float *floats = NULL;
    if (!status)
        status = ALLOCATE(&floats, 14336 + 2 * 14336, "activations", error);
    if (!status) {
        for (size_t i = 0; i < 14336; i++)
            floats[i] = (float)(i % 7) - 3;
        struct thread_pool *pool = compute_pool(compute);
        section_cost(pool, 0, SECTIONS);
        printf("{\"threads\": %zu, \"section_us\": %.2f, \"section_after_10_us\": %.2f, \"section_after_100_us\": %.2f",
               threads, section_cost(pool, 0, SECTIONS), section_cost(pool, 10000, SECTIONS),
               section_cost(pool, 100000, SECTIONS / 4));
        double best = 0;
        for (int round = 0; round < 5; round++) {
            double speed = reading_speed(pool, data);
            best = speed > best ? speed : best;
        }
        printf(", \"reading_gb_per_second\": %.1f", best);
        print_products(compute, data, activation, floats, floats + 14336);
        puts("}");
        fflush(stdout);
    }
    memory_free(floats);
    activation_destroy(activation);
    compute_destroy(compute);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        puts("Usage: sections THREADS...\nPrints one JSON object per number of threads.");
        return argc < 2 ? 2 : 0;
    }
    hypura_error error;
    void *data;
    if (memory_map(&data, DATA_BYTES, true, "weights", &error)) {
        fprintf(stderr, "sections: %s\n", error.message);
        return 1;
    }
    memset(data, 0x11, DATA_BYTES); /* scales and quants of ordinary magnitude */
    for (int i = 1; i < argc; i++)
        if (measure(strtoul(argv[i], NULL, 10), data, &error)) {
            fprintf(stderr, "sections: %s\n", error.message);
            return 1;
        }
    memory_unmap(data, DATA_BYTES);
    return 0;
}
