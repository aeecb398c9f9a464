/* Moves: how long a GPU takes to begin a batch that the host sends, or that waits for the host's signal, until the host
 * sees its end. A batch copies a token's row from host memory to the GPU and back, as at each change from one GPU to
 * another (src/engine/gpu/ahead.c). HYPURA_GPU_EVENTS=0 lets batches wait with a semaphore. Medians of many rounds. */
#include "compute/vulkan/gpu.h"
#include "hw/hw.h"
#include "median.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROW_BYTES (8192 * sizeof(float))

enum { MOST_ROUNDS = 1000 };

struct bench {
    struct gpu *gpu;
    struct gpu_range in, row, out;
    uint32_t rounds;
};

static void record_copies(const struct bench *bench)
{
    gpu_copy(bench->gpu, bench->row, bench->in, ROW_BYTES);
    gpu_barrier(bench->gpu);
    gpu_copy(bench->gpu, bench->out, bench->row, ROW_BYTES);
}

static double microseconds_since(uint64_t start)
{
    return clock_seconds_since(start) * 1e6;
}

/* waits: the batch is sent first, and waits for a signal. Otherwise, the time of sending counts. */
static hypura_status run_once(const struct bench *bench, bool waits, uint64_t value, double *call, double *all,
                              hypura_error *error)
{
    static const struct timespec a_while = {.tv_nsec = 100000};
    gpu_ticket ticket = 0;
    gpu_begin(bench->gpu);
    if (waits)
        gpu_await_host(bench->gpu, value);
    record_copies(bench);
    hypura_status status = waits ? gpu_submit(bench->gpu, &ticket, 0, error) : HYPURA_OK;
    nanosleep(&a_while, NULL);
    const uint64_t start = clock_nanoseconds();
    if (!status)
        status = waits ? gpu_signal_host(bench->gpu, value, error) : gpu_submit(bench->gpu, &ticket, 0, error);
    *call = microseconds_since(start);
    while (!status && !gpu_done(bench->gpu, ticket) && microseconds_since(start) < 1e6)
        ;
    *all = microseconds_since(start);
    return status ? status : gpu_wait(bench->gpu, ticket, error);
}

static hypura_status run(const struct bench *bench, bool waits, hypura_error *error)
{
    double calls[MOST_ROUNDS], all[MOST_ROUNDS];
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < bench->rounds + 1 && !status; i++) { /* the first one does not count */
        const uint32_t at = i ? i - 1 : 0;
        status = run_once(bench, waits, i + 1, &calls[at], &all[at], error);
    }
    if (!status)
        printf("%-24s %8.1f %8.1f\n",
               !waits                             ? "sent"
               : gpu_get_info(bench->gpu)->events ? "waits at an event"
                                                  : "waits with a semaphore",
               median(calls, bench->rounds), median(all, bench->rounds));
    return status;
}

static hypura_status make_ranges(struct bench *bench, hypura_error *error)
{
    struct gpu_buffer **buffers[] = {&bench->in.buffer, &bench->row.buffer, &bench->out.buffer};
    static const enum gpu_memory kinds[] = {GPU_UPLOAD, GPU_DEVICE, GPU_READBACK};
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < COUNT_OF(buffers) && !status; i++)
        status = gpu_buffer_create(bench->gpu, buffers[i], ROW_BYTES, kinds[i], error);
    return status;
}

static const char usage[] =
    "Usage: gpu_moves [OPTION]...\n"
    "Measures how soon a GPU begins: microseconds until the call returns, and until its end is seen.\n\n"
    "  --device N      default 0\n"
    "  --rounds N      1 to 1000 (default 200)\n";

int main(int argc, char **argv)
{
    static const struct option names[] = {{"device", required_argument, NULL, 'd'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    struct bench bench = {.rounds = 200};
    struct gpu_options options = {0};
    hypura_error error;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'd':
            options.index = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'r':
            bench.rounds = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        default:
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (bench.rounds < 1 || bench.rounds > MOST_ROUNDS) {
        fputs(usage, stderr);
        return 2;
    }
    hypura_status status = gpu_open(&bench.gpu, &options, &error);
    if (!status)
        status = make_ranges(&bench, &error);
    if (!status) {
        printf("%s\n%-24s %8s %8s\n", gpu_get_info(bench.gpu)->name, "batch", "call", "end, us");
        status = run(&bench, false, &error);
    }
    if (!status)
        status = run(&bench, true, &error);
    if (bench.gpu) {
        gpu_buffer_destroy(bench.gpu, bench.in.buffer);
        gpu_buffer_destroy(bench.gpu, bench.row.buffer);
        gpu_buffer_destroy(bench.gpu, bench.out.buffer);
        gpu_close(bench.gpu);
    }
    if (status)
        fprintf(stderr, "gpu_moves: %s\n", error.message);
    return status ? 1 : 0;
}
