/* The GPU's work between the matrices: attention over long contexts (bytes of the KV cache per second, next to what a
 * copy within the device moves in the same run), attention of prompts (operations per second), gated delta nets (time
 * per row), and the kernels on rows, which for one token take little longer than a launch. Each layer has its own KV
 * cache, so none is left in the device's caches by the layer before. Each figure is the median of several rounds. */
#include "compute/vulkan/gpu.h"
#include "median.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROUNDS = 64 };

struct bench {
    struct gpu *gpu;
    uint32_t heads, kv_heads, size, rounds, layers, prompt;
    const char *only; /* a part of the figures; NULL: all */
    bool shuffled;    /* blocks of positions lie in any order, as if sequences shared them */
    struct gpu_buffer *cache, *query, *out, *scratch, *other, *blocks;
    uint64_t cache_bytes;
    double copy;
};

/* Records a batch with a function, submits it, and returns the median time on the device. */
typedef void (*record_function)(const struct bench *bench, const void *context);

static hypura_status time_of(const struct bench *bench, record_function record, const void *context, double *seconds,
                             hypura_error *error)
{
    double times[MOST_ROUNDS];
    for (uint32_t i = 0; i <= bench->rounds; i++) {
        gpu_ticket ticket;
        gpu_begin(bench->gpu);
        record(bench, context);
        hypura_status status = gpu_submit(bench->gpu, &ticket, 0, error);
        if (!status)
            status = gpu_wait(bench->gpu, ticket, error);
        if (status)
            return status;
        times[i ? i - 1 : 0] = gpu_batch_seconds(bench->gpu, ticket); /* the first round compiles */
    }
    *seconds = median(times, bench->rounds);
    return HYPURA_OK;
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

struct attention_shape {
    enum tensor_type type;
    uint32_t rows, sequences, context;
    uint32_t key_size, value_size; /* 0: those of the options */
    uint32_t latent_heads;         /* of latent attention: they share keys, which begin with the values. 0: not so */
};

static uint32_t key_size(const struct bench *bench, const struct attention_shape *shape)
{
    return shape->key_size ? shape->key_size : bench->size;
}

static uint32_t value_size(const struct bench *bench, const struct attention_shape *shape)
{
    return shape->value_size ? shape->value_size : bench->size;
}

static uint32_t head_count(const struct bench *bench, const struct attention_shape *shape)
{
    return shape->latent_heads ? shape->latent_heads : bench->heads;
}

static uint32_t kv_head_count(const struct bench *bench, const struct attention_shape *shape)
{
    return shape->latent_heads ? 1 : bench->kv_heads;
}

/* Deals the blocks of one region to all sequences, in an order without pattern. */
static hypura_status shuffle_blocks(const struct bench *bench, const struct attention_shape *shape, hypura_error *error)
{
    const uint32_t count = (uint32_t)(align_up(shape->context, ATTENTION_BLOCK) / ATTENTION_BLOCK) * shape->sequences;
    uint32_t *table;
    struct random random;
    gpu_ticket ticket;
    hypura_status status = ALLOCATE(&table, count, "table of blocks", error);
    if (status)
        return status;
    random_seed(&random, 1);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t at = (uint32_t)(random_next(&random) % (i + 1));
        table[i] = table[at];
        table[at] = i;
    }
    status = gpu_upload(bench->gpu, (struct gpu_range){bench->blocks, 0}, table, count * sizeof *table, &ticket, error);
    memory_free(table);
    return status ? status : gpu_upload_wait(bench->gpu, ticket, error);
}

static void record_attention(const struct bench *bench, const void *context)
{
    const struct attention_shape *shape = context;
    struct gpu_sequence sequences[64];
    const bool latent = shape->latent_heads > 0;
    const uint32_t key_bytes = (uint32_t)attention_row_bytes(shape->type, key_size(bench, shape));
    const uint32_t value_bytes =
        latent ? key_bytes : (uint32_t)attention_row_bytes(shape->type, value_size(bench, shape));
    const uint32_t capacity = (uint32_t)align_up(shape->context, ATTENTION_BLOCK);
    const uint64_t keys = (uint64_t)key_bytes * capacity * kv_head_count(bench, shape);
    const uint64_t values = latent ? 0 : keys; /* where they are */
    const uint64_t both = keys + (latent ? 0 : (uint64_t)value_bytes * capacity * bench->kv_heads);
    const uint64_t layer = both * shape->sequences;
    for (uint32_t l = 0; l < bench->layers; l++) {
        for (uint32_t s = 0; s < shape->sequences; s++)
            sequences[s] = (struct gpu_sequence){.first_row = s * shape->rows,
                                                 .rows = shape->rows,
                                                 .first_position = shape->context - shape->rows,
                                                 .capacity = capacity,
                                                 .keys = s * both,
                                                 .values = s * both + values};
        for (uint32_t s = 0; s < shape->sequences && bench->shuffled; s++) {
            sequences[s].capacity = capacity * shape->sequences;
            sequences[s].keys = 0;
            sequences[s].values = values * shape->sequences;
            sequences[s].blocks =
                (struct gpu_range){bench->blocks, (uint64_t)s * capacity / ATTENTION_BLOCK * sizeof(uint32_t)};
        }
        const struct gpu_attention attention = {
            .query = {bench->query, 0},
            .out = {bench->out, 0},
            .cache = {bench->cache, l * layer % (bench->cache_bytes - layer + 1) / 256 * 256},
            .scratch = {bench->scratch, 0},
            .rows = shape->rows * shape->sequences,
            .heads = head_count(bench, shape),
            .kv_heads = kv_head_count(bench, shape),
            .key_size = key_size(bench, shape),
            .value_size = value_size(bench, shape),
            .type = shape->type,
            .key_position_bytes = key_bytes,
            .value_position_bytes = value_bytes,
            .scale = 0.088f,
            .sequences = sequences,
            .sequence_count = shape->sequences};
        gpu_attention(bench->gpu, &attention);
        gpu_barrier(bench->gpu);
    }
}

static hypura_status bench_shapes(const struct bench *bench, const struct attention_shape *shapes, size_t count,
                                  hypura_error *error)
{
    printf("%-6s %6s %6s %6s %6s %6s %8s %10s %9s %8s %9s\n", "cache", "heads", "keys", "values", "rows", "seqs",
           "context", "us a layer", "GB/s", "of copy", "TFLOP/s");
    for (size_t i = 0; i < count; i++) {
        const struct attention_shape *s = &shapes[i];
        const uint32_t key = key_size(bench, s), value = value_size(bench, s), heads = head_count(bench, s);
        const uint64_t position =
            attention_row_bytes(s->type, key) + (s->latent_heads ? 0 : attention_row_bytes(s->type, value));
        const uint64_t bytes = position * kv_head_count(bench, s) * s->context * s->sequences;
        if (bytes > bench->cache_bytes)
            continue;
        double seconds, pairs = (double)s->rows * (s->context - (s->rows - 1) / 2.0) * s->sequences;
        hypura_status status = bench->shuffled ? shuffle_blocks(bench, s, error) : HYPURA_OK;
        if (!status)
            status = time_of(bench, record_attention, s, &seconds, error);
        if (status)
            return status;
        seconds /= bench->layers;
        printf("%-6s %6u %6u %6u %6u %6u %8u %10.1f %9.1f %8.2f %9.2f\n", tensor_type_info(s->type)->name, heads, key,
               value, s->rows, s->sequences, s->context, seconds * 1e6, (double)bytes / seconds * 1e-9,
               (double)bytes / seconds / bench->copy, 2.0 * pairs * heads * (key + value) / seconds * 1e-12);
        fflush(stdout);
    }
    return HYPURA_OK;
}

static hypura_status bench_attention(const struct bench *bench, hypura_error *error)
{
    static const struct attention_shape shapes[] = {
        {TENSOR_F16, 1, 1, 256},     {TENSOR_F16, 1, 1, 4096},     {TENSOR_F16, 1, 1, 32768},
        {TENSOR_F16, 1, 1, 131072},  {TENSOR_F16, 1, 16, 4096},    {TENSOR_F16, 8, 1, 32768},
        {TENSOR_Q8_0, 1, 1, 4096},   {TENSOR_Q8_0, 1, 1, 32768},   {TENSOR_F16, 512, 1, 512},
        {TENSOR_F16, 2048, 1, 2048}, {TENSOR_F16, 2048, 1, 32768}, {TENSOR_Q8_0, 2048, 1, 2048},
    };
    return bench_shapes(bench, shapes, COUNT_OF(shapes), error);
}

/* Queries of latent attention, counted over heads, that a launch gets in a model. */
enum { LATENT_QUERIES = 16384 };

/* Attention of prompts with heads of several sizes, last that on latents. Caches of BF16 have as many bytes as those of
 * F16, and go through the kernels without matrix units. */
static hypura_status bench_prompts(const struct bench *bench, hypura_error *error)
{
    static const struct attention_shape shapes[] = {
        {TENSOR_F16, 2048, 1, 2048, 64, 64},         {TENSOR_F16, 2048, 1, 16384, 64, 64},
        {TENSOR_F16, 2048, 1, 2048, 128, 128},       {TENSOR_F16, 2048, 1, 16384, 128, 128},
        {TENSOR_F16, 2048, 1, 2048, 192, 128},       {TENSOR_F16, 2048, 1, 16384, 192, 128},
        {TENSOR_F16, 2048, 1, 2048, 256, 256},       {TENSOR_F16, 2048, 1, 16384, 256, 256},
        {TENSOR_Q8_0, 2048, 1, 2048, 128, 128},      {TENSOR_Q8_0, 2048, 1, 2048, 256, 256},
        {TENSOR_BF16, 2048, 1, 2048, 128, 128},      {TENSOR_BF16, 2048, 1, 2048, 192, 128},
        {TENSOR_BF16, 2048, 1, 2048, 256, 256},      {TENSOR_F16, 1024, 1, 2048, 576, 512, 16},
        {TENSOR_F16, 1024, 1, 16384, 576, 512, 16},  {TENSOR_F16, 240, 1, 2048, 576, 512, 16},
        {TENSOR_F16, 816, 1, 2048, 576, 512, 20},    {TENSOR_F16, 816, 1, 16384, 576, 512, 20},
        {TENSOR_F16, 240, 1, 2048, 576, 512, 20},    {TENSOR_F16, 128, 1, 2048, 576, 512, 128},
        {TENSOR_F16, 128, 1, 16384, 576, 512, 128},  {TENSOR_Q8_0, 1024, 1, 2048, 576, 512, 16},
        {TENSOR_Q8_0, 816, 1, 2048, 576, 512, 20},   {TENSOR_Q8_0, 128, 1, 2048, 576, 512, 128},
        {TENSOR_Q8_0, 128, 1, 16384, 576, 512, 128}, {TENSOR_BF16, 128, 1, 2048, 576, 512, 128},
    };
    return bench_shapes(bench, shapes, COUNT_OF(shapes), error);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

enum { EMBEDDING = 4096, FEED_FORWARD = 14336, EXPERTS = 128, USED = 8, LAUNCHES = 64 };

struct rows_shape {
    const char *name;
    uint32_t rows;
    void (*record)(const struct bench *bench, uint32_t rows);
};

static struct gpu_range part(const struct bench *bench, uint64_t offset)
{
    return (struct gpu_range){bench->other, offset};
}

/* Regions of the buffer "other", each with room for 2048 rows of FEED_FORWARD floats. */
static const uint64_t region = (uint64_t)2048 * FEED_FORWARD * sizeof(float);

static void record_residual(const struct bench *bench, uint32_t rows)
{
    gpu_residual(bench->gpu, &(struct gpu_residual){.hidden = part(bench, 0),
                                                    .branch = part(bench, region),
                                                    .norm = part(bench, region),
                                                    .out = part(bench, 2 * region),
                                                    .scale = 1,
                                                    .epsilon = 1e-5f,
                                                    .rows = rows,
                                                    .columns = EMBEDDING});
}

static void record_nothing(const struct bench *bench, uint32_t rows)
{
    gpu_scale(bench->gpu, part(bench, 0), part(bench, 0), 1, rows);
}

static void record_glu(const struct bench *bench, uint32_t rows)
{
    gpu_glu(bench->gpu, GLU_SILU, part(bench, 0), part(bench, 0), part(bench, region), rows, FEED_FORWARD, FEED_FORWARD,
            FEED_FORWARD, 0, 0);
}

static void record_heads(const struct bench *bench, uint32_t rows)
{
    const uint32_t position_bytes = (uint32_t)attention_row_bytes(TENSOR_F16, bench->size);
    const struct gpu_sequence sequence = {
        .rows = rows, .capacity = 2048, .values = (uint64_t)2048 * bench->kv_heads * position_bytes};
    gpu_heads(bench->gpu, &(struct gpu_heads){.query = part(bench, 0),
                                              .key = part(bench, region),
                                              .value = part(bench, region),
                                              .query_norm = part(bench, region),
                                              .key_norm = part(bench, region),
                                              .table = part(bench, 2 * region),
                                              .out = part(bench, 0),
                                              .cache = {bench->cache, 0},
                                              .query_stride = bench->heads * bench->size,
                                              .query_head_stride = bench->size,
                                              .key_stride = bench->kv_heads * bench->size,
                                              .value_stride = bench->kv_heads * bench->size,
                                              .epsilon = 1e-5f,
                                              .rotary = bench->size,
                                              .layout = ROPE_NEOX,
                                              .rows = rows,
                                              .heads = bench->heads,
                                              .kv_heads = bench->kv_heads,
                                              .key_size = bench->size,
                                              .value_size = bench->size,
                                              .type = TENSOR_F16,
                                              .key_position_bytes = position_bytes,
                                              .value_position_bytes = position_bytes,
                                              .sequences = &sequence,
                                              .sequence_count = 1});
}

static void record_router(const struct bench *bench, uint32_t rows)
{
    gpu_router(bench->gpu, &(struct gpu_router){.logits = part(bench, 0),
                                                .ids = part(bench, region),
                                                .weights = part(bench, 2 * region),
                                                .rows = rows,
                                                .experts = EXPERTS,
                                                .used = USED,
                                                .normalise = true,
                                                .scale = 1});
}

static void record_mix(const struct bench *bench, uint32_t rows)
{
    gpu_residual(bench->gpu, &(struct gpu_residual){.hidden = part(bench, 2 * region),
                                                    .norm = part(bench, region),
                                                    .out = part(bench, 2 * region + region / 2),
                                                    .scale = 1,
                                                    .epsilon = 1e-5f,
                                                    .rows = rows,
                                                    .columns = EMBEDDING,
                                                    .mix = {.device_rows = part(bench, 0),
                                                            .ids = part(bench, region),
                                                            .weights = part(bench, region),
                                                            .used = USED}});
}

static void record_rows(const struct bench *bench, const void *context)
{
    const struct rows_shape *shape = context;
    for (int i = 0; i < LAUNCHES; i++) {
        shape->record(bench, shape->rows);
        gpu_barrier(bench->gpu);
    }
}

static hypura_status bench_rows(const struct bench *bench, hypura_error *error)
{
    static const struct {
        const char *name;
        void (*record)(const struct bench *bench, uint32_t rows);
    } kernels[] = {{"an empty launch", record_nothing},
                   {"add, norm", record_residual},
                   {"glu", record_glu},
                   {"norms of heads, rope, cache", record_heads},
                   {"router", record_router},
                   {"mix of 8, add, norm", record_mix}};
    printf("%-28s %10s %5u rows\n", "microseconds a launch", "1 row", bench->prompt);
    for (size_t i = 0; i < COUNT_OF(kernels); i++) {
        double seconds[2] = {0};
        for (int n = 0; n < 2; n++) {
            const struct rows_shape shape = {kernels[i].name, n ? bench->prompt : 1, kernels[i].record};
            hypura_status status = time_of(bench, record_rows, &shape, &seconds[n], error);
            if (status)
                return status;
        }
        printf("%-28s %10.1f %10.1f\n", kernels[i].name, seconds[0] / LAUNCHES * 1e6, seconds[1] / LAUNCHES * 1e6);
        fflush(stdout);
    }
    return HYPURA_OK;
}

/* ---- gated delta nets -------------------------------------------------------------------------------------------- */

enum { DELTA_KEY_HEADS = 16, DELTA_VALUE_HEADS = 32, DELTA_SIZE = 128, DELTA_LAYERS = 4 };

struct delta_shape {
    uint32_t rows;
    bool by_channel;
};

/* As in Qwen 3.5, and in Kimi Linear but for the key heads. What the numbers are makes no difference. */
static void record_delta(const struct bench *bench, const void *context)
{
    const struct delta_shape *shape = context;
    const uint32_t keys = DELTA_KEY_HEADS * DELTA_SIZE, values = DELTA_VALUE_HEADS * DELTA_SIZE;
    const uint64_t state =
        (uint64_t)delta_net_state_floats(DELTA_KEY_HEADS, DELTA_VALUE_HEADS, DELTA_SIZE, DELTA_SIZE, 4) * sizeof(float);
    const struct gpu_state_sequence sequence = {.rows = shape->rows, .next = state};
    for (int i = 0; i < DELTA_LAYERS; i++) {
        gpu_delta_net(bench->gpu, &(struct gpu_delta_net){
                                      .convolution = {part(bench, 0), part(bench, keys * 16), part(bench, keys * 32)},
                                      .input = {part(bench, 0), part(bench, keys * 4), part(bench, keys * 8)},
                                      .input_stride = {2 * keys + values, 2 * keys + values, 2 * keys + values},
                                      .convolved = part(bench, region),
                                      .beta = part(bench, 0),
                                      .alpha = part(bench, 0),
                                      .gate_stride = DELTA_VALUE_HEADS,
                                      .by_channel = shape->by_channel,
                                      .step_bias = part(bench, 0),
                                      .decay_rate = part(bench, 0),
                                      .output = part(bench, 2 * region),
                                      .states = part(bench, 2 * region + region / 2),
                                      .scratch = {bench->scratch, 0},
                                      .scratch_bytes = gpu_buffer_bytes(bench->scratch),
                                      .rows = shape->rows,
                                      .heads_k = DELTA_KEY_HEADS,
                                      .heads_v = DELTA_VALUE_HEADS,
                                      .key_size = DELTA_SIZE,
                                      .value_size = DELTA_SIZE,
                                      .taps = 4,
                                      .epsilon = 1e-6f,
                                      .sequences = &sequence,
                                      .sequence_count = 1});
        gpu_barrier(bench->gpu);
    }
}

static hypura_status bench_delta(const struct bench *bench, hypura_error *error)
{
    static const uint32_t rows[] = {1, 8, 15, 16, 32, 64, 256, 512, 2048};
    printf("gated delta net, %d heads over %d, %d x %d: microseconds a row\n", DELTA_VALUE_HEADS, DELTA_KEY_HEADS,
           DELTA_SIZE, DELTA_SIZE);
    printf("%6s %14s %14s\n", "rows", "head's decay", "channel's");
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        double seconds[2] = {0};
        for (int n = 0; n < 2; n++) {
            const struct delta_shape shape = {rows[i], n};
            hypura_status status = time_of(bench, record_delta, &shape, &seconds[n], error);
            if (status)
                return status;
        }
        printf("%6u %14.3f %14.3f\n", rows[i], seconds[0] / DELTA_LAYERS / rows[i] * 1e6,
               seconds[1] / DELTA_LAYERS / rows[i] * 1e6);
        fflush(stdout);
    }
    return HYPURA_OK;
}

/* ---- the program ------------------------------------------------------------------------------------------------- */

static void record_copy(const struct bench *bench, const void *context)
{
    (void)context;
    gpu_copy(bench->gpu, (struct gpu_range){bench->cache, 0}, (struct gpu_range){bench->cache, bench->cache_bytes / 2},
             bench->cache_bytes / 2);
}

static bool wanted(const struct bench *bench, const char *name)
{
    return !bench->only || strcmp(bench->only, name) == 0;
}

static hypura_status run(struct bench *bench, hypura_error *error)
{
    const bool prompts = wanted(bench, "prompts");
    const uint32_t most_rows = 2048, width = bench->heads * MAX(bench->size, prompts ? 256u : 0u);
    const uint64_t queries = MAX((uint64_t)most_rows * width, prompts ? LATENT_QUERIES * 576u : 0u) * sizeof(float);
    const uint64_t delta = gpu_delta_net_scratch_bytes(most_rows, 1, DELTA_VALUE_HEADS, DELTA_SIZE, DELTA_SIZE);
    const uint64_t attention = gpu_attention_scratch_bytes(16, bench->heads, bench->size, 131072);
    hypura_status status = gpu_buffer_create(bench->gpu, &bench->cache, bench->cache_bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(bench->gpu, &bench->query, queries, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(bench->gpu, &bench->out, queries, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(bench->gpu, &bench->scratch, MAX(attention, delta), GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(bench->gpu, &bench->other, 3 * region, GPU_DEVICE, error);
    if (!status && bench->shuffled)
        status = gpu_buffer_create(bench->gpu, &bench->blocks, 131072 / ATTENTION_BLOCK * sizeof(uint32_t), GPU_DEVICE,
                                   error);
    double seconds = 0;
    if (!status)
        status = time_of(bench, record_copy, NULL, &seconds, error);
    if (status)
        return status;
    bench->copy = (double)bench->cache_bytes / seconds;
    printf("%s: a copy within the device moves %.1f GB/s (read and written); %u heads of %u over %u, %u layers\n",
           gpu_get_info(bench->gpu)->name, bench->copy * 1e-9, bench->heads, bench->size, bench->kv_heads,
           bench->layers);
    const struct {
        const char *name;
        hypura_status (*measure)(const struct bench *bench, hypura_error *error);
    } parts[] = {
        {"rows", bench_rows}, {"delta", bench_delta}, {"attention", bench_attention}, {"prompts", bench_prompts}};
    for (size_t i = 0; i < COUNT_OF(parts) && !status; i++)
        if (wanted(bench, parts[i].name))
            status = parts[i].measure(bench, error);
    return status;
}

static const char usage[] = "Usage: gpu_rows [OPTION]...\n"
                            "Measures attention and row kernels on a GPU.\n\n"
                            "  --device N      default 0\n"
                            "  --heads N       default 32\n"
                            "  --kv-heads N    default 8\n"
                            "  --head-size N   default 128\n"
                            "  --prompt N      rows of a prompt, at most 2048 (default 1024)\n"
                            "  --layers N      layers per round (default 8)\n"
                            "  --cache BYTES   KV cache of all layers (default 2G)\n"
                            "  --shuffled      the blocks of the KV cache lie in any order, as sequences share them\n"
                            "  --only PART     rows, delta, attention or prompts\n"
                            "  --rounds N      1 to 63 (default 5)\n";

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"device", required_argument, NULL, 'd'},   {"heads", required_argument, NULL, 'a'},
        {"kv-heads", required_argument, NULL, 'k'}, {"head-size", required_argument, NULL, 's'},
        {"layers", required_argument, NULL, 'l'},   {"prompt", required_argument, NULL, 'p'},
        {"cache", required_argument, NULL, 'c'},    {"rounds", required_argument, NULL, 'r'},
        {"shuffled", no_argument, NULL, 'f'},       {"only", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},           {0}};
    struct bench bench = {.heads = 32,
                          .kv_heads = 8,
                          .size = 128,
                          .rounds = 5,
                          .layers = 8,
                          .prompt = 1024,
                          .cache_bytes = (uint64_t)2 << 30};
    uint32_t device = 0;
    hypura_error error;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        uint32_t number = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 'd':
            device = number;
            break;
        case 'a':
            bench.heads = number;
            break;
        case 'k':
            bench.kv_heads = number;
            break;
        case 's':
            bench.size = number;
            break;
        case 'p':
            bench.prompt = number;
            break;
        case 'l':
            bench.layers = number;
            break;
        case 'c':
            if (parse_bytes(optarg, &bench.cache_bytes, &error)) {
                fprintf(stderr, "gpu_rows: %s\n", error.message);
                return 1;
            }
            break;
        case 'f':
            bench.shuffled = true;
            break;
        case 'o':
            bench.only = optarg;
            break;
        case 'r':
            bench.rounds = number;
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (bench.rounds < 1 || bench.rounds >= MOST_ROUNDS || !bench.heads || !bench.kv_heads || !bench.layers ||
        !bench.prompt || bench.prompt > 2048) {
        fputs(usage, stderr);
        return 2;
    }
    hypura_status status = gpu_open(&bench.gpu, &(struct gpu_options){.index = device}, &error);
    if (!status) {
        status = run(&bench, &error);
        struct gpu_buffer *buffers[] = {bench.cache, bench.query, bench.out, bench.scratch, bench.other, bench.blocks};
        for (size_t i = 0; i < COUNT_OF(buffers); i++)
            gpu_buffer_destroy(bench.gpu, buffers[i]);
        gpu_close(bench.gpu);
    }
    if (status)
        fprintf(stderr, "gpu_rows: %s\n", error.message);
    return status ? 1 : 0;
}
