/* A device that waits for the host, but is not idle.
 *
 * Some devices lower their clock when they have nothing to do, and raise it again only after tenths of a second. If an
 * H100 computes half of a model's layers, and then waits 20 ms for the CPU to compute the others, it stays at a clock
 * at which its layers take 5.9 ms instead of 1.6. So one invocation is kept running meanwhile, which uses no bandwidth.
 * It watches a word in the device's memory, which the host writes before it sends a batch. It also ends by itself: a
 * device that waits for longer has little to gain.
 *
 * Nothing depends on this kernel but the clock. */
#include "compute/vulkan/gpu_private.h"

#include <time.h>

/* A poll takes some 0.7 us at the full clock. */
#define POLLS 65536u

static void watch(struct gpu *gpu, uint32_t awaited)
{
    const struct {
        uint64_t word;
        uint32_t awaited;
    } push = {gpu->awake.word->address, awaited};
    const uint32_t polls = POLLS;
    gpu_begin(gpu);
    if (gpu->open)
        gpu->open->idle = true;
    gpu_launch(gpu, KERNEL_awake, &polls, 1, &push, sizeof push, 1, 1, 1);
}

void gpu_stay_awake(struct gpu *gpu)
{
    const uint32_t number = atomic_load(&gpu->awake.begun) + 1;
    if (!gpu->info.awake || gpu->open || number != atomic_load(&gpu->awake.ended) + 1)
        return;
    watch(gpu, number);
    if (gpu_submit(gpu, NULL, 0, NULL)) /* the next batch fails, too, and says why */
        gpu->info.awake = false;
    else
        atomic_store(&gpu->awake.begun, number);
}

/* Whether the kernel sees what the host writes while it runs: then it ends soon after. */
#define TRIED_SECONDS 1e-3
#define LATE_SECONDS 10e-3

static hypura_status try_it(struct gpu *gpu, hypura_error *error)
{
    const struct timespec a_while = {.tv_nsec = (long)(TRIED_SECONDS * 1e9)};
    const uint64_t start = clock_nanoseconds();
    gpu_ticket ticket = 0;
    watch(gpu, 1);
    TRY(gpu_submit(gpu, &ticket, 0, error));
    nanosleep(&a_while, NULL);
    host_end_watch(gpu, 1);
    const double written = clock_seconds_since(start);
    TRY(gpu_wait(gpu, ticket, error));
    host_end_watch(gpu, 0);
    const double seconds = gpu_batch_seconds(gpu, ticket);
    gpu->info.awake = seconds > 0 && seconds < written + LATE_SECONDS;
    return HYPURA_OK;
}

hypura_status awake_create(struct gpu *gpu, hypura_error *error)
{
    if (!gpu->info.awake)
        return HYPURA_OK;
    gpu->info.awake = false;
    TRY(gpu_buffer_create(gpu, &gpu->awake.word, sizeof(uint32_t), GPU_UPLOAD, error));
    host_end_watch(gpu, 0);
    return try_it(gpu, error);
}

void awake_destroy(struct gpu *gpu)
{
    gpu_buffer_destroy(gpu, gpu->awake.word);
}
