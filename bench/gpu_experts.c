/* Experts on a GPU while decoding: bytes of chosen experts' weights per second, each expert counted once per launch,
 * for gate and up with their activation, for down, and microseconds for a layer's router, gate and up, and down. Every
 * layer has its own router, and its own experts as far as --size allows, more than caches hold. Each figure is the
 * median of several rounds. */
#include "gpu_weights.h"
#include "median.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_ROUNDS = 64, LAYERS = 32, TOKENS = GPU_VECTOR_TOKENS };

struct bench {
    struct gpu *gpu;
    const char *types; /* comma-separated names, or NULL */
    uint32_t columns, width, experts, used, rounds;
    uint64_t bytes; /* of weights */
    struct gpu_buffer *weights, *routers, *in, *inner, *out, *logits, *slots, *ids, *shares;
    uint32_t *chosen; /* [LAYERS][TOKENS][used] */
};

/* The experts of one layer: slots with gate, up and down. */
struct layers {
    enum tensor_type type;
    uint64_t row_bytes, down_row_bytes, slot_bytes;
    uint32_t count, tokens;
};

enum part { ROUTER = 1, GATE_UP = 2, DOWN = 4 };

static void record_router(const struct bench *bench, uint32_t layer, uint32_t tokens)
{
    const uint64_t row_bytes = bench->columns * sizeof(float), first_row = (uint64_t)layer * TOKENS;
    const struct gpu_range logits = {bench->logits, first_row * bench->experts * sizeof(float)};
    gpu_route(bench->gpu,
              &(struct gpu_matmul){.weights = {{bench->routers, layer * bench->experts * row_bytes},
                                               TENSOR_F32,
                                               bench->experts,
                                               bench->columns,
                                               row_bytes},
                                   .in = {bench->in, 0},
                                   .out = logits,
                                   .tokens = tokens,
                                   .in_stride = bench->columns,
                                   .out_stride = bench->experts},
              &(struct gpu_router){.logits = logits,
                                   .ids = {bench->ids, first_row * bench->used * sizeof(uint32_t)},
                                   .weights = {bench->shares, 0},
                                   .rows = tokens,
                                   .experts = bench->experts,
                                   .used = bench->used,
                                   .normalise = true,
                                   .scale = 1});
    gpu_barrier(bench->gpu);
}

static void record_layer(const struct bench *bench, const struct layers *layers, uint32_t layer, unsigned parts)
{
    const uint64_t begin = layer % layers->count * bench->experts * layers->slot_bytes;
    const uint64_t matrix = layers->row_bytes * bench->width;
    struct gpu_expert_matmul jobs[3];
    for (uint32_t i = 0; i < COUNT_OF(jobs); i++)
        jobs[i] =
            (struct gpu_expert_matmul){.weights = {{bench->weights, begin + i * matrix},
                                                   layers->type,
                                                   i == 2 ? bench->columns : bench->width,
                                                   i == 2 ? bench->width : bench->columns,
                                                   i == 2 ? layers->down_row_bytes : layers->row_bytes},
                                       .slot_stride = layers->slot_bytes,
                                       .slots = {bench->slots, 0},
                                       .ids = {bench->ids, (uint64_t)layer * TOKENS * bench->used * sizeof(uint32_t)},
                                       .in = {i == 2 ? bench->inner : bench->in, 0},
                                       .out = {i == 2 ? bench->out : bench->inner, 0},
                                       .experts = bench->experts,
                                       .used = bench->used,
                                       .tokens = layers->tokens,
                                       .per_choice = i == 2,
                                       .routed = true};
    if (parts & ROUTER)
        record_router(bench, layer, layers->tokens);
    if (parts & GATE_UP) {
        gpu_expert_matmul_glu(bench->gpu, jobs, &(struct gpu_glu_kind){.kind = GLU_SILU});
        gpu_barrier(bench->gpu);
    }
    if (parts & DOWN) {
        gpu_expert_matmul(bench->gpu, &jobs[2], 1);
        gpu_barrier(bench->gpu);
    }
}

/* The median time of these parts of a layer. */
static hypura_status measure(const struct bench *bench, const struct layers *layers, unsigned parts, double *seconds,
                             hypura_error *error)
{
    double times[MOST_ROUNDS];
    uint64_t compiled = 0; /* the device gets a tenth of a second to wake up if it slept during compilation */
    for (uint32_t i = 0; i < bench->rounds;) {
        double total = 0;
        gpu_begin(bench->gpu);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            record_layer(bench, layers, layer, parts);
        hypura_status status = run(bench->gpu, &total, error);
        if (status)
            return status;
        if (compiled == 0)
            compiled = clock_nanoseconds();
        else if (clock_seconds_since(compiled) > 0.1)
            times[i++] = total / LAYERS;
    }
    *seconds = median(times, bench->rounds);
    return HYPURA_OK;
}

/* The average number of different experts that so many tokens of a layer chose. */
static double different(const struct bench *bench, uint32_t tokens)
{
    uint32_t count = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const uint32_t *chosen = bench->chosen + (size_t)layer * TOKENS * bench->used;
        for (uint32_t i = 0; i < tokens * bench->used; i++) {
            uint32_t before = 0;
            while (before < i && chosen[before] != chosen[i])
                before++;
            count += before == i;
        }
    }
    return (double)count / LAYERS;
}

static hypura_status bench_type(const struct bench *bench, enum tensor_type type, hypura_error *error)
{
    const char *name = tensor_type_info(type)->name;
    struct layers layers = {.type = type};
    if (!tensor_row_bytes(type, bench->columns, &layers.row_bytes) ||
        !tensor_row_bytes(type, bench->width, &layers.down_row_bytes))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "rows of %u and %u weights are not whole blocks of %s",
                         bench->columns, bench->width, name);
    const uint64_t matrix = layers.row_bytes * bench->width;
    layers.slot_bytes = align_up(3 * matrix, GPU_ALIGNMENT);
    layers.count = (uint32_t)(bench->bytes / (layers.slot_bytes * bench->experts));
    if (layers.count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a layer's experts are larger than --size");
    for (layers.tokens = 1; layers.tokens <= TOKENS; layers.tokens *= TOKENS) {
        double gate_up, down, layer, bytes = different(bench, layers.tokens) * (double)matrix;
        hypura_status status = measure(bench, &layers, GATE_UP, &gate_up, error);
        if (!status)
            status = measure(bench, &layers, DOWN, &down, error);
        if (!status)
            status = measure(bench, &layers, ROUTER | GATE_UP | DOWN, &layer, error);
        if (status)
            return status;
        printf("%-8s %6u %10.2f %8.1f %10.2f %8.1f %10.2f\n", name, layers.tokens, gate_up * 1e6,
               2 * bytes / gate_up * 1e-9, down * 1e6, bytes / down * 1e-9, layer * 1e6);
        fflush(stdout);
    }
    return HYPURA_OK;
}

/* Fills tables: all experts have a slot, and every layer has a router, and a choice for each token. */
static hypura_status choose(const struct bench *bench, hypura_error *error)
{
    const uint32_t rows = LAYERS * TOKENS;
    const size_t count = (size_t)LAYERS * bench->experts * bench->columns;
    uint32_t *slots = NULL;
    float *routers;
    double seconds;
    gpu_ticket ticket = 0;
    struct random random;
    random_seed(&random, 1);
    hypura_status status = ALLOCATE(&routers, count, "routers", error);
    if (!status)
        status = ALLOCATE(&slots, bench->experts, "slots", error);
    for (size_t i = 0; i < count && !status; i++)
        routers[i] = (float)random_normal(&random);
    for (uint32_t i = 0; i < bench->experts && !status; i++)
        slots[i] = i;
    if (!status)
        status = gpu_upload(bench->gpu, (struct gpu_range){bench->routers, 0}, routers, count * sizeof *routers,
                            &ticket, error);
    if (!status)
        status = gpu_upload(bench->gpu, (struct gpu_range){bench->slots, 0}, slots, bench->experts * sizeof *slots,
                            &ticket, error);
    if (!status)
        status = gpu_upload_wait(bench->gpu, ticket, error);
    memory_free(routers);
    memory_free(slots);
    if (status)
        return status;
    gpu_begin(bench->gpu);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        record_router(bench, layer, TOKENS);
    status = run(bench->gpu, &seconds, error);
    return status ? status
                  : gpu_download(bench->gpu, bench->chosen, (struct gpu_range){bench->ids, 0},
                                 (uint64_t)rows * bench->used * sizeof *bench->chosen, error);
}

static hypura_status bench_experts(struct bench *bench, hypura_error *error)
{
    const uint64_t rows = LAYERS * TOKENS, choices = rows * bench->used;
    const uint64_t in_bytes = (uint64_t)TOKENS * bench->columns * sizeof(float);
    const struct {
        struct gpu_buffer **buffer;
        uint64_t bytes;
    } buffers[] = {{&bench->weights, bench->bytes},
                   {&bench->routers, (uint64_t)LAYERS * bench->experts * bench->columns * sizeof(float)},
                   {&bench->in, in_bytes},
                   {&bench->inner, (uint64_t)TOKENS * bench->used * bench->width * sizeof(float)},
                   {&bench->out, (uint64_t)TOKENS * bench->used * bench->columns * sizeof(float)},
                   {&bench->logits, rows * bench->experts * sizeof(float)},
                   {&bench->slots, bench->experts * sizeof(uint32_t)},
                   {&bench->ids, choices * sizeof(uint32_t)},
                   {&bench->shares, choices * sizeof(float)}};
    double router = 0;
    hypura_status status = ALLOCATE(&bench->chosen, choices, "choices", error);
    for (size_t i = 0; i < COUNT_OF(buffers) && !status; i++)
        status = gpu_buffer_create(bench->gpu, buffers[i].buffer, buffers[i].bytes, GPU_DEVICE, error);
    if (!status)
        status = fill(bench->gpu, bench->weights, bench->bytes, error);
    if (!status)
        status = fill(bench->gpu, bench->in, in_bytes, error);
    if (!status)
        status = choose(bench, error);
    if (!status)
        status = measure(bench, &(struct layers){.count = 1, .tokens = 1}, ROUTER, &router, error);
    if (!status) {
        printf("%s, %s\n", gpu_get_info(bench->gpu)->name, gpu_get_info(bench->gpu)->driver);
        printf("%u of %u experts: gate and up %u x %u, down %u x %u; 8 tokens choose %.1f; the router alone takes "
               "%.2f us\n",
               bench->used, bench->experts, bench->width, bench->columns, bench->columns, bench->width,
               different(bench, TOKENS), router * 1e6);
        printf("%-8s %6s %10s %8s %10s %8s %10s\n", "", "", "gate, up", "", "down", "", "layer");
        printf("%-8s %6s %10s %8s %10s %8s %10s\n", "type", "tokens", "us", "GB/s", "us", "GB/s", "us");
    }
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT && !status; type++)
        if (gpu_supports(bench->gpu, type) && listed(bench->types, tensor_type_info(type)->name))
            status = bench_type(bench, type, error);
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        gpu_buffer_destroy(bench->gpu, *buffers[i].buffer);
    memory_free(bench->chosen);
    return status;
}

static const char usage[] = "Usage: gpu_experts [OPTION]...\n"
                            "Measures the experts of a mixture on a GPU while decoding.\n\n"
                            "  --device N      default 0\n"
                            "  --types LIST    default Q4_K,Q6_K,Q8_0,MXFP4\n"
                            "  --columns N     of a row of the residual stream (default 2048)\n"
                            "  --width N       rows of gate and up (default 768)\n"
                            "  --experts N     of a layer (default 128)\n"
                            "  --used N        experts of a token (default 8)\n"
                            "  --size BYTES    weights of all layers (default 2G)\n"
                            "  --rounds N      1 to 63 (default 9)\n";

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"device", required_argument, NULL, 'd'},  {"types", required_argument, NULL, 't'},
        {"columns", required_argument, NULL, 'c'}, {"width", required_argument, NULL, 'w'},
        {"experts", required_argument, NULL, 'e'}, {"used", required_argument, NULL, 'u'},
        {"size", required_argument, NULL, 's'},    {"rounds", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},          {0}};
    struct bench bench = {.types = "Q4_K,Q6_K,Q8_0,MXFP4",
                          .columns = 2048,
                          .width = 768,
                          .experts = 128,
                          .used = 8,
                          .bytes = (uint64_t)2 << 30,
                          .rounds = 9};
    uint32_t device = 0;
    hypura_error error;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        uint32_t number = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 'd':
            device = number;
            break;
        case 't':
            bench.types = optarg;
            break;
        case 'c':
            bench.columns = number;
            break;
        case 'w':
            bench.width = number;
            break;
        case 'e':
            bench.experts = number;
            break;
        case 'u':
            bench.used = number;
            break;
        case 's':
            if (parse_bytes(optarg, &bench.bytes, &error)) {
                fprintf(stderr, "gpu_experts: %s\n", error.message);
                return 1;
            }
            break;
        case 'r':
            bench.rounds = number;
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (bench.rounds < 1 || bench.rounds >= MOST_ROUNDS || !bench.columns || !bench.width || !bench.used ||
        bench.used > bench.experts) {
        fputs(usage, stderr);
        return 2;
    }
    hypura_status status = gpu_open(&bench.gpu, &(struct gpu_options){.index = device}, &error);
    if (!status) {
        status = bench_experts(&bench, &error);
        gpu_close(bench.gpu);
    }
    if (status)
        fprintf(stderr, "gpu_experts: %s\n", error.message);
    return status ? 1 : 0;
}
