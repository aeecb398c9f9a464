/* The other half of "make bench": how fast attention reads a KV cache. Decoding is bound by the bytes of the cache, a
 * prompt by arithmetic (four operations per query, position and element). Each figure is the median of several rounds.
 * Rounds take the caches of several layers in turn, so none of them finds its data in the processor's caches. */
#include "compute/compute.h"
#include "median.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    size_t threads, positions, rows, heads, kv_heads, size, layers, rounds;
};

/* Seconds that one layer's attention takes for the last rows of the context. */
static double measure(const struct options *options, struct compute *compute, enum tensor_type type,
                      const uint8_t *cache, float *query, float *output, uint32_t *positions, size_t rows)
{
    size_t row_bytes = attention_row_bytes(type, options->size);
    size_t head_bytes = options->positions * row_bytes, layer_bytes = 2 * options->kv_heads * head_bytes;
    struct attention_sequence sequence = {.rows = rows, .capacity = options->positions};
    struct attention attention = {.query = query,
                                  .output = output,
                                  .positions = positions,
                                  .heads = options->heads,
                                  .kv_heads = options->kv_heads,
                                  .key_size = options->size,
                                  .value_size = options->size,
                                  .key_type = type,
                                  .value_type = type,
                                  .key_position_bytes = row_bytes,
                                  .key_head_bytes = head_bytes,
                                  .value_position_bytes = row_bytes,
                                  .value_head_bytes = head_bytes,
                                  .scale = 1.0f / sqrtf((float)options->size),
                                  .sequences = &sequence,
                                  .sequence_count = 1};
    double seconds[64];
    for (size_t r = 0; r < rows; r++)
        positions[r] = (uint32_t)(options->positions - rows + r);
    for (size_t round = 0; round < options->rounds; round++) {
        sequence.keys = cache + round % options->layers * layer_bytes;
        sequence.values = sequence.keys + layer_bytes / 2;
        uint64_t start = clock_nanoseconds();
        compute_attention(compute, &attention);
        seconds[round] = clock_seconds_since(start);
    }
    return median(seconds, options->rounds);
}

static void fill(const struct options *options, enum tensor_type type, uint8_t *cache, float *values)
{
    struct random random;
    random_seed(&random, 1);
    size_t row_bytes = attention_row_bytes(type, options->size);
    for (size_t i = 0; i < 64 * options->size; i++)
        values[i] = (float)random_uniform(&random) - 0.5f;
    size_t rows = 2 * options->layers * options->kv_heads * options->positions;
    for (size_t row = 0; row < rows; row += 64)
        attention_store(type, values, 64, options->size, options->size, cache + row * row_bytes, row_bytes);
}

static hypura_status run(const struct options *options, hypura_error *error)
{
    static const enum tensor_type types[] = {TENSOR_F16, TENSOR_Q8_0};
    void *cache;
    float *query = NULL, *output = NULL, *values = NULL;
    uint32_t *positions = NULL;
    size_t bytes = 2 * options->layers * options->kv_heads * options->positions * options->size * sizeof(uint16_t);
    hypura_status status = memory_map(&cache, bytes, true, "KV cache", error);
    if (status)
        return status;
    if ((status = ALLOCATE(&query, options->rows * options->heads * options->size, "queries", error)) ||
        (status = ALLOCATE(&output, options->rows * options->heads * options->size, "outputs", error)) ||
        (status = ALLOCATE(&values, 64 * options->size, "values", error)) ||
        (status = ALLOCATE(&positions, options->rows, "positions", error)))
        goto done;
    for (size_t i = 0; i < options->rows * options->heads * options->size; i++)
        query[i] = (float)(i % 97) * 0.01f - 0.5f;
    printf("%zu threads, context of %zu, %zu heads of %zu on %zu of keys and values, prompts of %zu tokens\n",
           options->threads, options->positions, options->heads, options->size, options->kv_heads, options->rows);
    printf("%-8s %-8s %14s %16s\n", "set", "cache", "decode GB/s", "prompt GFLOP/s");
    for (int set = INSTRUCTIONS_AVX2; set <= INSTRUCTIONS_NEON && !status; set++) {
        struct compute *compute;
        if (!compute_has_instructions((enum instruction_set)set))
            continue;
        if ((status = compute_create(&compute, options->threads, (enum instruction_set)set, error)))
            break;
        for (size_t i = 0; i < COUNT_OF(types); i++) {
            fill(options, types[i], cache, values);
            double decode = measure(options, compute, types[i], cache, query, output, positions, 1);
            double prompt = measure(options, compute, types[i], cache, query, output, positions, options->rows);
            double layer = (double)(2 * options->kv_heads * options->positions) *
                           (double)attention_row_bytes(types[i], options->size);
            double seen = (double)options->rows * ((double)options->positions - ((double)options->rows - 1) / 2);
            printf("%-8s %-8s %14.1f %16.1f\n", compute_instructions_name((enum instruction_set)set),
                   tensor_type_info(types[i])->name, layer / decode * 1e-9,
                   4.0 * seen * (double)(options->heads * options->size) / prompt * 1e-9);
            fflush(stdout);
        }
        compute_destroy(compute);
    }
done:
    memory_free(query);
    memory_free(output);
    memory_free(values);
    memory_free(positions);
    memory_unmap(cache, bytes);
    return status;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"threads", required_argument, NULL, 't'}, {"context", required_argument, NULL, 'c'},
        {"tokens", required_argument, NULL, 'k'},  {"rounds", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},          {0}};
    struct options options = {.threads = thread_usable_cores(),
                              .positions = 8192,
                              .rows = 128,
                              .heads = 32,
                              .kv_heads = 8,
                              .size = 128,
                              .layers = 8,
                              .rounds = 9};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        size_t *value = c == 't'   ? &options.threads
                        : c == 'c' ? &options.positions
                        : c == 'k' ? &options.rows
                        : c == 'r' ? &options.rounds
                                   : NULL;
        if (!value) {
            fputs("Usage: attention [--threads N] [--context N] [--tokens N] [--rounds N]\n"
                  "Measures attention while decoding one token, and over the last tokens of a prompt.\n",
                  c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
        *value = strtoul(optarg, NULL, 10);
    }
    options.positions = align_up(MIN(options.positions, (size_t)1 << 20), ATTENTION_BLOCK);
    if (options.positions == 0 || options.rows == 0 || options.rows > options.positions || options.rounds < 1 ||
        options.rounds > 64) {
        fputs("attention: a context of 1 to 1048576, no more tokens than that, and 1 to 64 rounds\n", stderr);
        return 2;
    }
    hypura_error error;
    if (run(&options, &error)) {
        fprintf(stderr, "attention: %s\n", error.message);
        return 1;
    }
    return 0;
}
