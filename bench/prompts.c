/* Where the time of a prompt goes on many threads: times each part of a layer (Llama 8B's, Q4_K) for each number of
 * threads, so that the parts that do not scale stand out. Rounds take the weights of several layers in turn, more than
 * the caches hold. "alone" is the speed of threads that share nothing: each computes a small product in its own caches.
 * It is the most that the processor gives to that many threads. */
#include "compute/compute.h"
#include "compute/cpu/kernels.h"
#include "format/format.h"
#include "median.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH ((size_t)4096)
#define INNER ((size_t)14336)
#define HEAD ((size_t)128)
#define HEADS (WIDTH / HEAD)
#define KV_HEADS ((size_t)8)
#define KV_WIDTH (KV_HEADS * HEAD)
#define LAYERS 3
#define ROUNDS 9
#define ALONE_ROWS ((size_t)128)

enum part { NORM, PREPARE, QKV, ROPE, ATTENTION, PROJECT, GATE_UP, GLU, PREPARE_INNER, DOWN, ADD, PARTS };

static const char *const names[PARTS] = {"norm",    "prepare", "qkv",           "rope", "attention", "project",
                                         "gate_up", "glu",     "prepare_inner", "down", "add"};

struct layer {
    struct compute *compute;
    size_t tokens;
    uint8_t *weights; /* LAYERS layers, one after another */
    struct activation *wide, *inner;
    float *hidden, *branch, *gate, *up, *query, *keys, *values, *out, *table;
    uint32_t *positions;
    uint16_t *cache;
    size_t round;
};

static size_t row_bytes(size_t columns)
{
    uint64_t bytes;
    return tensor_row_bytes(TENSOR_Q4_K, columns, &bytes) ? (size_t)bytes : 0;
}

static size_t layer_bytes(void)
{
    return (2 * WIDTH + 2 * KV_WIDTH + 2 * INNER) * row_bytes(WIDTH) + WIDTH * row_bytes(INNER);
}

static void multiply(struct layer *l, struct activation *input, size_t columns, size_t offset, size_t count,
                     const size_t *rows, float *const *outputs)
{
    struct matmul jobs[3];
    const uint8_t *data = l->weights + l->round % LAYERS * layer_bytes() + offset;
    for (size_t i = 0; i < count; i++) {
        jobs[i] = (struct matmul){.weights = {data, TENSOR_Q4_K, rows[i], columns, row_bytes(columns)},
                                  .input = input,
                                  .tokens = l->tokens,
                                  .output = outputs[i],
                                  .output_stride = rows[i]};
        data += rows[i] * row_bytes(columns);
    }
    compute_matmul(l->compute, jobs, count);
}

/* Makes the copy of the input that products read. The product itself is small, so it hardly adds to the time. */
static void prepare(struct layer *l, struct activation *activation, const float *from, size_t columns)
{
    activation_set(activation, from, l->tokens, columns, columns);
    struct matmul job = {.weights = {l->weights, TENSOR_Q4_K, 16, columns, row_bytes(columns)},
                         .input = activation,
                         .tokens = 1,
                         .output = l->out,
                         .output_stride = 16};
    compute_matmul(l->compute, &job, 1);
}

static void attend(struct layer *l)
{
    size_t row = HEAD * sizeof *l->cache, head = l->tokens * row;
    struct attention_sequence sequence = {.rows = l->tokens,
                                          .keys = (const uint8_t *)l->cache,
                                          .values = (const uint8_t *)l->cache + KV_HEADS * head,
                                          .capacity = l->tokens};
    struct attention attention = {.query = l->query,
                                  .output = l->out,
                                  .positions = l->positions,
                                  .heads = HEADS,
                                  .kv_heads = KV_HEADS,
                                  .key_size = HEAD,
                                  .value_size = HEAD,
                                  .key_type = TENSOR_F16,
                                  .value_type = TENSOR_F16,
                                  .key_position_bytes = row,
                                  .key_head_bytes = head,
                                  .value_position_bytes = row,
                                  .value_head_bytes = head,
                                  .scale = 1.0f / sqrtf((float)HEAD),
                                  .sequences = &sequence,
                                  .sequence_count = 1};
    compute_attention(l->compute, &attention);
}

static void run_part(struct layer *l, enum part part)
{
    static const size_t qkv[] = {WIDTH, KV_WIDTH, KV_WIDTH}, width[] = {WIDTH}, inner[] = {INNER, INNER};
    const size_t wide = row_bytes(WIDTH);
    switch (part) {
    case NORM:
        compute_rms_norm(l->compute, l->branch, l->hidden, l->table, l->tokens, WIDTH, 1e-5f);
        break;
    case PREPARE:
        prepare(l, l->wide, l->branch, WIDTH);
        break;
    case QKV:
        multiply(l, l->wide, WIDTH, 0, 3, qkv, (float *const[]){l->query, l->keys, l->values});
        break;
    case ROPE:
        compute_rope(l->compute, ROPE_NORMAL, l->query, l->tokens, WIDTH, HEADS, HEAD, HEAD, l->table);
        break;
    case ATTENTION:
        attend(l);
        break;
    case PROJECT:
        multiply(l, l->wide, WIDTH, (WIDTH + 2 * KV_WIDTH) * wide, 1, width, (float *const[]){l->out});
        break;
    case GATE_UP:
        multiply(l, l->wide, WIDTH, (2 * WIDTH + 2 * KV_WIDTH) * wide, 2, inner, (float *const[]){l->gate, l->up});
        break;
    case GLU:
        compute_glu(l->compute, GLU_SILU, l->gate, INNER, l->gate, INNER, l->up, INNER, l->tokens, INNER, 0, 0);
        break;
    case PREPARE_INNER:
        prepare(l, l->inner, l->gate, INNER);
        break;
    case DOWN:
        multiply(l, l->inner, INNER, (2 * WIDTH + 2 * KV_WIDTH + 2 * INNER) * wide, 1, width, (float *const[]){l->out});
        break;
    default:
        compute_add(l->compute, l->branch, l->hidden, l->out, l->tokens * WIDTH);
        break;
    }
}

static double operations(const struct layer *l, enum part part)
{
    const double all = 2.0 * (double)l->tokens * (double)WIDTH;
    return part == QKV         ? all * (double)(WIDTH + 2 * KV_WIDTH)
           : part == PROJECT   ? all * (double)WIDTH
           : part == GATE_UP   ? all * 2 * (double)INNER
           : part == DOWN      ? all * (double)INNER
           : part == ATTENTION ? all * (double)(l->tokens + 1)
                               : 0;
}

/* ---- threads that share nothing ---------------------------------------------------------------------------------- */

static void multiply_alone(void *context, size_t index, size_t worker)
{
    struct layer *l = context;
    struct matmul job = {.weights = {l->weights, TENSOR_Q4_K, ALONE_ROWS, WIDTH, row_bytes(WIDTH)},
                         .input = l->wide,
                         .tokens = l->tokens,
                         .output = l->gate + index * ALONE_ROWS,
                         .output_stride = INNER};
    l->compute->kernels->types[TENSOR_Q4_K].gemm(&job, 0, ALONE_ROWS, 0, l->tokens,
                                                 l->compute->scratch + worker * l->compute->scratch_bytes);
}

static double alone(struct layer *l)
{
    double best = 0;
    size_t threads = thread_pool_threads(compute_pool(l->compute)), tasks = MIN(threads, INNER / ALONE_ROWS);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = clock_nanoseconds();
        thread_pool_run(compute_pool(l->compute), multiply_alone, l, tasks);
        double speed = 2.0 * (double)(tasks * l->tokens * ALONE_ROWS * WIDTH) / clock_seconds_since(start);
        best = speed > best ? speed : best;
    }
    return best * 1e-9;
}

static void measure(struct layer *l, size_t threads)
{
    static double seconds[PARTS][ROUNDS];
    double all = 0;
    for (int round = -1; round < ROUNDS; round++) {
        l->round++;
        for (enum part part = 0; part < PARTS; part++) {
            uint64_t start = clock_nanoseconds();
            run_part(l, part);
            if (round >= 0)
                seconds[part][round] = clock_seconds_since(start);
        }
    }
    printf("{\"threads\": %zu, \"tokens\": %zu, \"milliseconds\": {", threads, l->tokens);
    for (enum part part = 0; part < PARTS; part++) {
        all += median(seconds[part], ROUNDS);
        printf("%s\"%s\": %.3f", part ? ", " : "", names[part], seconds[part][ROUNDS / 2] * 1e3);
    }
    printf("}, \"layer\": %.3f, \"gop_per_second\": {", all * 1e3);
    for (enum part part = 0, first = 1; part < PARTS; part++)
        if (operations(l, part) > 0) {
            printf("%s\"%s\": %.0f", first ? "" : ", ", names[part],
                   operations(l, part) / seconds[part][ROUNDS / 2] * 1e-9);
            first = 0;
        }
    printf(", \"alone\": %.0f}}\n", alone(l));
    fflush(stdout);
}

static hypura_status make(struct layer *l, size_t tokens, hypura_error *error)
{
    void *weights;
    l->tokens = tokens;
    const struct {
        float **out;
        size_t columns;
    } floats[] = {{&l->hidden, WIDTH},    {&l->branch, WIDTH}, {&l->gate, INNER},
                  {&l->up, INNER},        {&l->query, WIDTH},  {&l->keys, KV_WIDTH},
                  {&l->values, KV_WIDTH}, {&l->out, WIDTH},    {&l->table, WIDTH}};
    hypura_status status = memory_map(&weights, LAYERS * layer_bytes(), true, "weights", error);
    if (status)
        return status;
    l->weights = weights;
    memset(weights, 0x11, LAYERS * layer_bytes()); /* scales and quants of ordinary magnitude */
    for (size_t i = 0; i < COUNT_OF(floats) && !status; i++) {
        status = ALLOCATE(floats[i].out, tokens * floats[i].columns, "rows", error);
        for (size_t j = 0; j < tokens * floats[i].columns && !status; j++)
            (*floats[i].out)[j] = (float)(j % 97) * 0.01f - 0.5f;
    }
    if (!status)
        status = ALLOCATE(&l->cache, tokens * 2 * KV_WIDTH, "cache", error);
    if (!status)
        status = ALLOCATE(&l->positions, tokens, "positions", error);
    for (size_t i = 0; i < tokens && !status; i++)
        l->positions[i] = (uint32_t)i;
    if (!status)
        status = activation_create(&l->wide, tokens, WIDTH, error);
    return status ? status : activation_create(&l->inner, tokens, INNER, error);
}

int main(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "--help") == 0) {
        puts("Usage: prompts TOKENS THREADS...\nPrints one JSON object per number of threads.");
        return argc < 3 ? 2 : 0;
    }
    hypura_error error;
    static struct layer layer; /* freed only by the end of the process */
    hypura_status status = make(&layer, MAX(strtoul(argv[1], NULL, 10), 1ul), &error);
    for (int i = 2; i < argc && !status; i++) {
        size_t threads = strtoul(argv[i], NULL, 10);
        status = compute_create(&layer.compute, threads, compute_best_instructions(), &error);
        if (!status)
            measure(&layer, threads);
        compute_destroy(status ? NULL : layer.compute);
    }
    if (status)
        fprintf(stderr, "prompts: %s\n", error.message);
    return status != 0;
}
