/* Uploads: the speed at which slices of experts reach a GPU, as for a prompt that lacks experts there (src/engine/gpu/
 * visit.c). Slices of several sizes lie apart in more memory than caches hold. They are uploaded in groups of 128 MiB
 * to two buffers in turn: each group with one call, and each slice with a call of its own. Next to it, what the profile
 * measures, and, if the GPU can import host memory, how long that takes and how fast kernels then read it. Each figure
 * is the median of several rounds. */
#include "compute/vulkan/gpu.h"
#include "hw/hw.h"
#include "median.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define GROUP_BYTES (128 * MIB)
#define BETWEEN 4128u /* bytes between slices: as in a file, they begin at no page */

enum { MOST_ROUNDS = 64, MOST_SLICES = 1024 };

struct bench {
    struct gpu *gpu;
    uint8_t *host;
    uint64_t bytes; /* of host memory */
    uint32_t rounds;
    struct gpu_buffer *there[2];
};

static hypura_status upload_group(const struct bench *bench, const struct gpu_piece *pieces, size_t count,
                                  bool together, gpu_ticket *ticket, hypura_error *error)
{
    hypura_status status = together ? gpu_upload_many(bench->gpu, pieces, count, ticket, error) : HYPURA_OK;
    for (size_t i = 0; i < count && !together && !status; i++)
        status = gpu_upload(bench->gpu, pieces[i].to, pieces[i].host, pieces[i].bytes, ticket, error);
    return status;
}

/* Uploads all slices of this size once, and returns the bytes per second. */
static hypura_status upload_all(const struct bench *bench, uint64_t slice, bool together, double *speed,
                                hypura_error *error)
{
    const uint64_t stride = align_up(slice, GPU_ALIGNMENT);
    const size_t most = (size_t)MIN(MAX(GROUP_BYTES / stride, (uint64_t)1), (uint64_t)MOST_SLICES);
    struct gpu_piece pieces[MOST_SLICES];
    uint64_t from = 0, done = 0;
    gpu_ticket ticket = 0;
    hypura_status status = HYPURA_OK;
    const uint64_t start = clock_nanoseconds();
    for (size_t group = 0; from + slice <= bench->bytes && !status; group++) {
        size_t count = 0;
        for (; count < most && from + slice <= bench->bytes; count++, from += slice + BETWEEN, done += slice)
            pieces[count] = (struct gpu_piece){{bench->there[group % 2], count * stride}, bench->host + from, slice};
        status = upload_group(bench, pieces, count, together, &ticket, error);
    }
    if (!status)
        status = gpu_upload_wait(bench->gpu, ticket, error);
    *speed = (double)done / clock_seconds_since(start);
    return status;
}

static hypura_status bench_slices(const struct bench *bench, hypura_error *error)
{
    static const double sizes[] = {0.25, 0.9, 4, 32}; /* MiB */
    printf("%-12s %16s %16s\n", "slice, MiB", "together, GB/s", "one by one, GB/s");
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        double speeds[2];
        for (int alone = 0; alone < 2; alone++) {
            double rounds[MOST_ROUNDS];
            for (uint32_t round = 0; round <= bench->rounds; round++) { /* the first one does not count */
                double *speed = &rounds[round ? round - 1 : 0];
                hypura_status status = upload_all(bench, (uint64_t)(sizes[i] * (double)MIB), !alone, speed, error);
                if (status)
                    return status;
            }
            speeds[alone] = median(rounds, bench->rounds);
        }
        printf("%-12g %16.1f %16.1f\n", sizes[i], speeds[0] * 1e-9, speeds[1] * 1e-9);
        fflush(stdout);
    }
    return HYPURA_OK;
}

static hypura_status read_imported(const struct bench *bench, struct gpu_buffer *from, double *seconds,
                                   hypura_error *error)
{
    gpu_ticket ticket;
    gpu_begin(bench->gpu);
    for (uint64_t at = 0; at + GROUP_BYTES <= bench->bytes; at += GROUP_BYTES)
        gpu_copy(bench->gpu, (struct gpu_range){bench->there[at / GROUP_BYTES % 2], 0}, (struct gpu_range){from, at},
                 GROUP_BYTES);
    hypura_status status = gpu_submit(bench->gpu, &ticket, 0, error);
    if (!status)
        status = gpu_wait(bench->gpu, ticket, error);
    if (!status)
        *seconds = gpu_batch_seconds(bench->gpu, ticket);
    return status;
}

static hypura_status bench_import(const struct bench *bench, hypura_error *error)
{
    double imports[MOST_ROUNDS], speeds[MOST_ROUNDS], seconds = 0;
    const double gib = (double)bench->bytes / (double)(1024 * MIB);
    for (uint32_t round = 0; round < bench->rounds; round++) {
        struct gpu_buffer *from = NULL;
        const uint64_t start = clock_nanoseconds();
        hypura_status status = gpu_buffer_import(bench->gpu, &from, bench->host, bench->bytes, error);
        imports[round] = clock_seconds_since(start);
        if (!status)
            status = read_imported(bench, from, &seconds, error);
        gpu_buffer_destroy(bench->gpu, from);
        if (status)
            return status;
        speeds[round] = (double)(bench->bytes / GROUP_BYTES * GROUP_BYTES) / seconds;
    }
    printf("imported host memory: %.0f ms per GiB, kernels read %.1f GB/s\n",
           median(imports, bench->rounds) / gib * 1e3, median(speeds, bench->rounds) * 1e-9);
    return HYPURA_OK;
}

static hypura_status run(struct bench *bench, hypura_error *error)
{
    const struct gpu_info *info = gpu_get_info(bench->gpu);
    void *host;
    hypura_status status = memory_map(&host, bench->bytes, true, "slices", error);
    if (status)
        return status;
    bench->host = host;
    memset(host, 0x2a, bench->bytes);
    for (size_t b = 0; b < COUNT_OF(bench->there) && !status; b++)
        status = gpu_buffer_create(bench->gpu, &bench->there[b], GROUP_BYTES + MIB, GPU_DEVICE, error);
    if (!status)
        status = bench_slices(bench, error);
    if (!status && info->host_import)
        status = bench_import(bench, error);
    for (size_t b = 0; b < COUNT_OF(bench->there); b++)
        gpu_buffer_destroy(bench->gpu, bench->there[b]);
    memory_unmap(host, bench->bytes);
    return status;
}

static hypura_status print_profile(const char *device, struct hardware_gpu *gpu, hypura_error *error)
{
    struct hardware_choice choice;
    char why[512];
    hypura_status status = hardware_choose_gpus(device, &choice, why, sizeof why, error);
    if (status)
        return status;
    if (choice.count == 0)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s", why);
    *gpu = choice.gpus[0];
    status = hardware_measure_gpu(gpu, error);
    if (!status)
        printf("%s, %s: the profile measures uploads of %.1f GB/s\n", gpu->info.name, gpu->info.driver,
               gpu->upload_bytes_per_second * 1e-9);
    return status;
}

static const char usage[] = "Usage: gpu_uploads [OPTION]...\n"
                            "Measures uploads of slices to a GPU, next to what the profile measures.\n\n"
                            "  --device N      default 0\n"
                            "  --size BYTES    host memory (default 1G)\n"
                            "  --rounds N      1 to 63 (default 5)\n";

int main(int argc, char **argv)
{
    static const struct option names[] = {{"device", required_argument, NULL, 'd'},
                                          {"size", required_argument, NULL, 's'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    struct bench bench = {.bytes = 1024 * MIB, .rounds = 5};
    struct hardware_gpu measured;
    const char *device = "0";
    hypura_error error;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'd':
            device = optarg;
            break;
        case 's':
            if (parse_bytes(optarg, &bench.bytes, &error)) {
                fprintf(stderr, "gpu_uploads: %s\n", error.message);
                return 1;
            }
            break;
        case 'r':
            bench.rounds = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    bench.bytes = align_down(bench.bytes, GROUP_BYTES);
    if (bench.rounds < 1 || bench.rounds >= MOST_ROUNDS || bench.bytes == 0) {
        fputs(usage, stderr);
        return 2;
    }
    hypura_status status = print_profile(device, &measured, &error);
    if (!status)
        status = gpu_open(&bench.gpu, &(struct gpu_options){.index = measured.index}, &error);
    if (!status) {
        status = run(&bench, &error);
        gpu_close(bench.gpu);
    }
    if (status)
        fprintf(stderr, "gpu_uploads: %s\n", error.message);
    return status ? 1 : 0;
}
