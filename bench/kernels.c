/* The kernel benchmark behind "make bench": the speed of matrix times vector and of matrix times matrix, for every
 * tensor type and instruction set. Matrix times vector is given in bytes per second, next to the memory bandwidth
 * measured in the same run. Matrix times matrix is given in operations per second, two per weight and token, next to
 * the processor's peak. The weights exceed the caches. Each figure is the median of several rounds. The bandwidth is
 * measured again in each round, because it drifts on shared machines. */
#include "compute/cpu/kernels.h"
#include "compute/compute.h"
#include "format/format.h"
#include "median.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct options {
    size_t threads, columns, bytes, rounds, tokens;
    const char *types, *sets;
    bool json;
};

/* ---- memory bandwidth -------------------------------------------------------------------------------------------- */

#define READ_TASK ((size_t)1 << 20)

struct reading {
    const uint8_t *data;
    uint64_t sums[256];
};

static void read_task(void *context, size_t index, size_t worker)
{
    struct reading *reading = context;
    const uint64_t *words = (const void *)(reading->data + index * READ_TASK);
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < READ_TASK / sizeof *words; i += 8) {
        __builtin_prefetch(words + i + 1024);
        a += words[i] ^ words[i + 1];
        b += words[i + 2] ^ words[i + 3];
        c += words[i + 4] ^ words[i + 5];
        d += words[i + 6] ^ words[i + 7];
    }
    reading->sums[worker] += a + b + c + d;
}

static volatile uint64_t sink; /* keeps the compiler from removing the reads */

static double read_bandwidth(struct compute *compute, const uint8_t *data, size_t bytes)
{
    struct reading reading = {.data = data};
    uint64_t start = clock_nanoseconds();
    thread_pool_run(compute_pool(compute), read_task, &reading, bytes / READ_TASK);
    double seconds = clock_seconds_since(start);
    for (size_t i = 0; i < COUNT_OF(reading.sums); i++)
        sink += reading.sums[i];
    return (double)bytes / seconds;
}

/* ---- peak -------------------------------------------------------------------------------------------------------- */

#define PEAK_CALLS 400

static void peak_task(void *context, size_t index, size_t worker)
{
    (void)index, (void)worker;
    uint64_t (*peak)(void) = *(uint64_t(**)(void))context;
    for (int i = 0; i < PEAK_CALLS; i++)
        peak();
}

/* Operations per second of all threads, in the best of 15 rounds; 0 if peak is NULL. */
static double peak_rate(struct compute *compute, uint64_t (*peak)(void))
{
    double best = 0;
    for (int round = 0; peak && round < 15; round++) {
        size_t tasks = thread_pool_threads(compute_pool(compute));
        double operations = (double)(peak() * PEAK_CALLS * tasks);
        uint64_t start = clock_nanoseconds();
        thread_pool_run(compute_pool(compute), peak_task, &peak, tasks);
        best = fmax(best, operations / clock_seconds_since(start));
    }
    return best;
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

#define SAMPLES 64

/* Whether the values are as large as weights are. Sums of subnormal numbers would be slow for no reason. */
static bool is_sane(enum tensor_type type, const uint8_t *block, size_t elements)
{
    float values[256], greatest = 0;
    compute_dequantize(type, block, values, elements);
    for (size_t i = 0; i < elements; i++) {
        if (!(fabsf(values[i]) < 1e4f))
            return false;
        greatest = fmaxf(greatest, fabsf(values[i]));
    }
    return greatest > 1e-4f;
}

static void fill(struct random *random, enum tensor_type type, uint8_t *data, size_t bytes)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    static uint8_t samples[SAMPLES][512];
    for (size_t s = 0; s < SAMPLES; s++)
        do
            for (size_t i = 0; i < info->block_bytes; i++)
                samples[s][i] = (uint8_t)(random_next(random) >> 32);
        while (!is_sane(type, samples[s], info->block_size));
    for (size_t b = 0; b < bytes / info->block_bytes; b++)
        memcpy(data + b * info->block_bytes, samples[random_next(random) >> 32 & (SAMPLES - 1)], info->block_bytes);
}

/* ---- one type ---------------------------------------------------------------------------------------------------- */

struct figures {
    double bandwidth;    /* bytes per second of plain reading in the same rounds */
    double decode;       /* bytes of weights per second */
    double decode_share; /* median of the rounds' ratios of the two */
    double prompt;       /* operations per second, two per weight and token */
};

static double run(struct compute *compute, const struct matmul *job)
{
    uint64_t start = clock_nanoseconds();
    compute_matmul(compute, job, 1);
    return clock_seconds_since(start);
}

static hypura_status measure(const struct options *options, struct compute *compute, enum tensor_type type,
                             uint8_t *data, struct figures *out, hypura_error *error)
{
    uint64_t row_bytes;
    if (!tensor_row_bytes(type, options->columns, &row_bytes))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%zu columns do not fill blocks of %s", options->columns,
                         tensor_type_info(type)->name);
    struct matrix weights = {data, type, options->bytes / row_bytes, options->columns, row_bytes};
    struct random random;
    random_seed(&random, type);
    fill(&random, type, data, weights.rows * row_bytes);

    size_t tokens = MAX(options->tokens, (size_t)1), prompt_rows = MIN(weights.rows, (size_t)4096);
    struct activation *activation;
    hypura_status status = activation_create(&activation, tokens, options->columns, error);
    if (status)
        return status;
    float *input = NULL, *output = NULL;
    status = ALLOCATE(&input, tokens * options->columns, "input", error);
    if (!status)
        status = ALLOCATE(&output, MAX(weights.rows, tokens * prompt_rows), "output", error);
    if (!status) {
        for (size_t i = 0; i < tokens * options->columns; i++)
            input[i] = (float)random_normal(&random);
        struct matmul job = {weights, activation, NULL, 1, output, weights.rows, NULL, NULL};
        double decode[64], bandwidth[64], share[64], prompt[64];
        for (size_t i = 0; i < options->rounds; i++) {
            activation_set(activation, input, 1, options->columns, options->columns);
            bandwidth[i] = read_bandwidth(compute, data, options->bytes);
            decode[i] = (double)(weights.rows * row_bytes) / run(compute, &job);
            share[i] = decode[i] / bandwidth[i];
        }
        *out = (struct figures){.bandwidth = median(bandwidth, options->rounds),
                                .decode = median(decode, options->rounds),
                                .decode_share = median(share, options->rounds)};
        job.weights.rows = prompt_rows;
        job.tokens = tokens;
        job.output_stride = prompt_rows;
        for (size_t i = 0; i < options->rounds && options->tokens; i++) {
            activation_set(activation, input, tokens, options->columns, options->columns);
            prompt[i] = 2.0 * (double)(prompt_rows * options->columns * tokens) / run(compute, &job);
        }
        if (options->tokens)
            out->prompt = median(prompt, options->rounds);
    }
    memory_free(input);
    memory_free(output);
    activation_destroy(activation);
    return status;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static bool listed(const char *list, const char *name)
{
    if (!list)
        return true;
    size_t length = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncasecmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

static hypura_status run_set(const struct options *options, enum instruction_set set, uint8_t *data, bool *first,
                             hypura_error *error)
{
    struct compute *compute;
    hypura_status status = compute_create(&compute, options->threads, set, error);
    if (status)
        return status;
    const struct kernel_table *table = kernel_table_get(set);
    double bytes_peak = peak_rate(compute, table->peak_bytes), floats_peak = peak_rate(compute, table->peak_floats);
    double bfloats_peak = table->peak_bfloats ? peak_rate(compute, table->peak_bfloats) : floats_peak;
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT && !status; type++) {
        const struct tensor_type_info *info = tensor_type_info(type);
        if (!compute_supports(type) || !listed(options->types, info->name))
            continue;
        struct figures figures = {0};
        status = measure(options, compute, type, data, &figures, error);
        if (status)
            break;
        enum activation_kind kind = table->types[type].activation;
        double peak = kind == ACTIVATION_FLOAT ? floats_peak : kind == ACTIVATION_BFLOAT ? bfloats_peak : bytes_peak;
        double prompt_share = peak > 0 ? figures.prompt / peak : 0;
        if (options->json)
            printf("%s\n  {\"instructions\": \"%s\", \"type\": \"%s\", \"threads\": %zu, "
                   "\"decode_bytes_per_second\": %.4g, \"memory_bytes_per_second\": %.4g, \"decode_share\": %.3f, "
                   "\"prompt_operations_per_second\": %.4g, \"peak_operations_per_second\": %.4g, "
                   "\"prompt_share\": %.3f}",
                   *first ? "[" : ",", compute_instructions_name(set), info->name, options->threads, figures.decode,
                   figures.bandwidth, figures.decode_share, figures.prompt, peak, prompt_share);
        else
            printf("%-8s %-8s %10.1f %10.1f %9.2f %12.1f %10.1f %9.2f\n", compute_instructions_name(set), info->name,
                   figures.decode * 1e-9, figures.bandwidth * 1e-9, figures.decode_share, figures.prompt * 1e-9,
                   peak * 1e-9, prompt_share);
        fflush(stdout);
        *first = false;
    }
    compute_destroy(compute);
    return status;
}

static const char usage[] =
    "Usage: kernels [OPTION]...\n"
    "Measures matrix times vector and matrix times matrix for every tensor type and instruction set.\n\n"
    "  --types LIST         only these types, for example Q4_K,Q8_0\n"
    "  --instructions LIST  only these of plain, avx2, avx-vnni, avx512, amx, neon (default: all but\n                 "
    "      plain)\n"
    "  --threads N          default: all cores\n"
    "  --columns N          length of a row (default 4096)\n"
    "  --size BYTES         weights read per round (default 256M)\n"
    "  --rounds N           1 to 64 (default 5)\n"
    "  --tokens N           tokens of a prompt (default 512; 0: decode only)\n"
    "  --json               print one array of objects\n";

static int fail(const hypura_error *error)
{
    fprintf(stderr, "kernels: %s\n", error->message);
    return 1;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"types", required_argument, NULL, 't'},   {"instructions", required_argument, NULL, 'i'},
        {"threads", required_argument, NULL, 'n'}, {"columns", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},    {"rounds", required_argument, NULL, 'r'},
        {"tokens", required_argument, NULL, 'k'},  {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {0}};
    struct options options = {.threads = thread_usable_cores(),
                              .columns = 4096,
                              .bytes = (size_t)256 << 20,
                              .rounds = 5,
                              .tokens = 512,
                              .sets = "avx2,avx-vnni,avx512,amx,neon"};
    hypura_error error;
    uint64_t bytes;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 't':
            options.types = optarg;
            break;
        case 'i':
            options.sets = optarg;
            break;
        case 'n':
            options.threads = strtoul(optarg, NULL, 10);
            break;
        case 'c':
            options.columns = strtoul(optarg, NULL, 10);
            break;
        case 's':
            if (parse_bytes(optarg, &bytes, &error))
                return fail(&error);
            options.bytes = (size_t)bytes;
            break;
        case 'r':
            options.rounds = strtoul(optarg, NULL, 10);
            break;
        case 'k':
            options.tokens = strtoul(optarg, NULL, 10);
            break;
        case 'j':
            options.json = true;
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (options.rounds < 1 || options.rounds > 64 || options.columns == 0 || options.bytes < READ_TASK) {
        fputs(usage, stderr);
        return 2;
    }
    void *data;
    if (memory_map(&data, options.bytes, true, "weights", &error))
        return fail(&error);
    if (!options.json) {
        printf("%zu threads, rows of %zu, %zu MiB of weights, prompts of %zu tokens\n", options.threads,
               options.columns, options.bytes >> 20, options.tokens);
        printf("%-8s %-8s %10s %10s %9s %12s %10s %9s\n", "set", "type", "decode", "memory", "share", "prompt", "peak",
               "share");
        printf("%-8s %-8s %10s %10s %9s %12s %10s\n", "", "", "GB/s", "GB/s", "", "GOP/s", "GOP/s");
    }
    bool first = true;
    for (unsigned set = INSTRUCTIONS_PLAIN; set <= INSTRUCTIONS_NEON; set++) {
        if (!compute_has_instructions(set) || !listed(options.sets, compute_instructions_name(set)))
            continue;
        if (run_set(&options, set, data, &first, &error)) {
            memory_unmap(data, options.bytes);
            return fail(&error);
        }
    }
    if (options.json)
        puts(first ? "[]" : "\n]");
    memory_unmap(data, options.bytes);
    return 0;
}
