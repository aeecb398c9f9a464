/* The GPU benchmark: the speed of matrix times vector and of matrix times matrix, for every tensor type that the GPU
 * supports. Matrix times vector is given in bytes per second, next to what a copy within the device moves in the same
 * run (bytes read plus bytes written). Matrix times matrix is given in operations per second, two per weight and token;
 * as in a model, the inputs exist as halves and there is room to unpack weights. No cache holds all of the matrices,
 * and a barrier separates them, as in a model. Each figure is the median of several rounds. */
#include "gpu_weights.h"
#include "median.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

struct options {
    uint32_t device;
    const char *types; /* comma-separated names, or NULL */
    uint32_t rows, columns, tokens, prompt, rounds;
    uint64_t bytes, room; /* room: for unpacked weights, at most */
};

/* Bytes per second that a copy within the device reads and writes, and bytes per second of uploads. */
static hypura_status measure_copies(struct gpu *gpu, const struct options *options, struct gpu_buffer *from,
                                    struct gpu_buffer *to, double *copy, double *upload, hypura_error *error)
{
    double times[64], seconds = 0;
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < options->rounds && !status; i++) {
        gpu_begin(gpu);
        for (int repeat = 0; repeat < 4; repeat++) {
            gpu_copy(gpu, (struct gpu_range){to, 0}, (struct gpu_range){from, 0}, options->bytes);
            gpu_barrier(gpu);
        }
        status = run(gpu, &seconds, error);
        times[i] = 8.0 * (double)options->bytes / seconds;
    }
    *copy = status ? 0 : median(times, options->rounds);
    void *host;
    const uint64_t part = MIN(options->bytes, (uint64_t)256 << 20);
    if (!status)
        status = memory_map(&host, part, true, "upload", error);
    if (status)
        return status;
    memset(host, 1, part);
    for (uint32_t i = 0; i < options->rounds && !status; i++) {
        gpu_ticket ticket = 0;
        uint64_t start = clock_nanoseconds();
        status = gpu_upload(gpu, (struct gpu_range){to, 0}, host, part, &ticket, error);
        if (!status)
            status = gpu_upload_wait(gpu, ticket, error);
        times[i] = (double)part / clock_seconds_since(start);
    }
    *upload = status ? 0 : median(times, options->rounds);
    memory_unmap(host, part);
    return status;
}

/* The median time to multiply one rows x columns matrix by the tokens, over count matrices. */
static hypura_status measure(struct gpu *gpu, const struct options *options, enum tensor_type type, uint32_t tokens,
                             uint32_t count, uint64_t matrix_bytes, uint64_t row_bytes, struct gpu_buffer *weights,
                             struct gpu_buffer *in, struct gpu_buffer *out, struct gpu_buffer *unpacked,
                             double *seconds, hypura_error *error)
{
    double times[64];
    hypura_status status = HYPURA_OK;
    uint64_t compiled = 0; /* the device gets a tenth of a second to wake up if it slept during compilation */
    for (uint32_t i = 0; i < options->rounds && !status;) {
        gpu_begin(gpu);
        for (uint32_t m = 0; m < count; m++) {
            const struct gpu_matmul job = {
                .weights = {{weights, m * matrix_bytes}, type, options->rows, options->columns, row_bytes},
                .in = {in, 0},
                .in_halves = {in, 0}, /* their values make no difference here */
                .out = {out, 0},
                .unpacked = {unpacked, 0},
                .unpacked_bytes = options->room,
                .tokens = tokens,
                .in_stride = options->columns,
                .out_stride = options->rows};
            gpu_matmul(gpu, &job, 1);
            gpu_barrier(gpu);
        }
        double total = 0;
        status = run(gpu, &total, error);
        if (compiled == 0)
            compiled = clock_nanoseconds();
        else if (clock_seconds_since(compiled) > 0.1)
            times[i++] = total / count;
    }
    if (!status)
        *seconds = median(times, options->rounds);
    return status;
}

static hypura_status bench_type(struct gpu *gpu, const struct options *options, enum tensor_type type,
                                struct gpu_buffer *weights, struct gpu_buffer *in, struct gpu_buffer *out,
                                struct gpu_buffer *unpacked, double copy, hypura_error *error)
{
    uint64_t row_bytes;
    if (!tensor_row_bytes(type, options->columns, &row_bytes))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "rows of %u weights are not whole blocks of the type",
                         options->columns);
    uint64_t matrix_bytes = align_up(row_bytes * options->rows, GPU_ALIGNMENT);
    uint32_t count = (uint32_t)(options->bytes / matrix_bytes);
    if (count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a matrix is larger than --size");
    double decode = 0, few = 0, prompt = 0;
    hypura_status status =
        measure(gpu, options, type, 1, count, matrix_bytes, row_bytes, weights, in, out, unpacked, &decode, error);
    if (!status && options->tokens)
        status = measure(gpu, options, type, options->tokens, count, matrix_bytes, row_bytes, weights, in, out,
                         unpacked, &few, error);
    if (!status && options->prompt)
        status = measure(gpu, options, type, options->prompt, MIN(count, 8), matrix_bytes, row_bytes, weights, in, out,
                         unpacked, &prompt, error);
    if (status)
        return status;
    double bytes = (double)(row_bytes * options->rows), operations = 2.0 * options->rows * options->columns;
    printf("%-8s %9.1f %7.2f %9.1f %9.2f\n", tensor_type_info(type)->name, bytes / decode * 1e-9, bytes / decode / copy,
           few > 0 ? bytes / few * 1e-9 : 0, prompt > 0 ? operations * options->prompt / prompt * 1e-12 : 0);
    fflush(stdout);
    return HYPURA_OK;
}

static hypura_status bench(struct gpu *gpu, struct options *options, hypura_error *error)
{
    const struct gpu_info *info = gpu_get_info(gpu);
    struct gpu_buffer *weights = NULL, *other = NULL, *in = NULL, *out = NULL, *unpacked = NULL;
    uint32_t tokens = MAX(MAX(options->tokens, options->prompt), 1);
    uint64_t in_bytes = (uint64_t)tokens * options->columns * sizeof(float);
    uint64_t out_bytes = (uint64_t)tokens * options->rows * sizeof(float);
    const uint64_t unpacked_bytes =
        gpu_unpacked_bytes(TENSOR_F16, options->rows, options->columns, options->prompt, info->panels);
    double copy = 0, upload = 0;
    options->room = MAX(unpacked_bytes, GPU_UNPACKED_BYTES);
    hypura_status status = gpu_buffer_create(gpu, &weights, options->bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(gpu, &other, options->bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(gpu, &in, in_bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(gpu, &out, out_bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(gpu, &unpacked, options->room, GPU_DEVICE, error);
    if (!status)
        status = fill(gpu, weights, options->bytes, error);
    if (!status)
        status = fill(gpu, in, in_bytes, error);
    if (!status)
        status = measure_copies(gpu, options, weights, other, &copy, &upload, error);
    if (!status) {
        printf("%s, %s\n", info->name, info->driver);
        printf("copy within the device %.1f GB/s (read and written), upload %.1f GB/s\n", copy * 1e-9, upload * 1e-9);
        printf("matrices of %u x %u, %u tokens, prompts of %u tokens\n", options->rows, options->columns,
               options->tokens, options->prompt);
        printf("%-8s %9s %7s %9s %9s\n", "type", "1 token", "of copy", "tokens", "prompt");
        printf("%-8s %9s %7s %9s %9s\n", "", "GB/s", "", "GB/s", "TFLOP/s");
    }
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT && !status; type++)
        if (gpu_supports(gpu, type) && listed(options->types, tensor_type_info(type)->name))
            status = bench_type(gpu, options, type, weights, in, out, unpacked, copy, error);
    struct gpu_buffer *buffers[] = {weights, other, in, out, unpacked};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        gpu_buffer_destroy(gpu, buffers[i]);
    return status;
}

static const char usage[] = "Usage: gpu [OPTION]...\n"
                            "Measures matrix times vector and matrix times matrix on a GPU for every tensor type.\n\n"
                            "  --device N      default 0\n"
                            "  --types LIST    only these types, for example Q4_K,Q8_0\n"
                            "  --rows N        rows of a matrix (default 14336)\n"
                            "  --columns N     columns of a matrix (default 4096)\n"
                            "  --size BYTES    weights read per round (default 1G)\n"
                            "  --rounds N      1 to 63 (default 5)\n"
                            "  --tokens N      tokens of a small batch (default 8; 0 skips it)\n"
                            "  --prompt N      tokens of a prompt (default 2048; 0 skips it)\n";

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"device", required_argument, NULL, 'd'}, {"types", required_argument, NULL, 't'},
        {"rows", required_argument, NULL, 'w'},   {"columns", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},   {"rounds", required_argument, NULL, 'r'},
        {"tokens", required_argument, NULL, 'k'}, {"prompt", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},         {0}};
    struct options options = {
        .rows = 14336, .columns = 4096, .bytes = (uint64_t)1 << 30, .rounds = 5, .tokens = 8, .prompt = 2048};
    hypura_error error;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        uint32_t number = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 'd':
            options.device = number;
            break;
        case 't':
            options.types = optarg;
            break;
        case 'w':
            options.rows = number;
            break;
        case 'c':
            options.columns = number;
            break;
        case 's':
            if (parse_bytes(optarg, &options.bytes, &error)) {
                fprintf(stderr, "gpu: %s\n", error.message);
                return 1;
            }
            break;
        case 'r':
            options.rounds = number;
            break;
        case 'k':
            options.tokens = number;
            break;
        case 'p':
            options.prompt = number;
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (options.rounds < 1 || options.rounds > 63 || options.columns == 0 || options.rows == 0) {
        fputs(usage, stderr);
        return 2;
    }
    struct gpu *gpu;
    hypura_status status = gpu_open(&gpu, &(struct gpu_options){.index = options.device}, &error);
    if (!status) {
        status = bench(gpu, &options, &error);
        gpu_close(gpu);
    }
    if (status)
        fprintf(stderr, "gpu: %s\n", error.message);
    return status ? 1 : 0;
}
