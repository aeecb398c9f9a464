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

/* ends: the kernel is to end at once. */
static hypura_status watch(struct gpu *gpu, bool ends, gpu_ticket *ticket, hypura_error *error)
{
    const uint64_t word = gpu->awake.word->address;
    const uint32_t polls = POLLS;
    atomic_store(awake_word(gpu), ends);
    gpu_begin(gpu);
    if (gpu->open)
        gpu->open->idle = true;
    gpu_launch(gpu, KERNEL_awake, &polls, 1, &word, sizeof word, 1, 1, 1);
    TRY(gpu_submit(gpu, ticket, 0, error));
    atomic_store(&gpu->awake.watching, !ends);
    return HYPURA_OK;
}

/* Whether the kernel sees what the host writes while it runs: then it ends soon after. A first run does not count, since
 * a driver may compile the kernel then. */
#define TRIED_SECONDS 1e-3
#define LATE_SECONDS 10e-3

static hypura_status try_it(struct gpu *gpu, hypura_error *error)
{
    const struct timespec a_while = {.tv_nsec = (long)(TRIED_SECONDS * 1e9)};
    gpu_ticket ticket = 0;
    TRY(gpu_buffer_create(gpu, &gpu->awake.word, sizeof(uint32_t), GPU_UPLOAD, error));
    TRY(watch(gpu, true, &ticket, error));
    TRY(gpu_wait(gpu, ticket, error));
    const uint64_t start = clock_nanoseconds();
    TRY(watch(gpu, false, &ticket, error));
    nanosleep(&a_while, NULL);
    host_has_work(gpu);
    const double written = clock_seconds_since(start);
    TRY(gpu_wait(gpu, ticket, error));
    const double seconds = gpu_batch_seconds(gpu, ticket);
    gpu->info.awake = seconds > 0 && seconds < written + LATE_SECONDS;
    return HYPURA_OK;
}

void gpu_stay_awake(struct gpu *gpu)
{
    if (!gpu->info.awake || gpu->open || atomic_load(&gpu->awake.watching))
        return;
    /* After an error, the next batch fails, too, and says why. */
    if (!gpu->awake.word && try_it(gpu, NULL))
        gpu->info.awake = false;
    if (gpu->info.awake && watch(gpu, false, NULL, NULL))
        gpu->info.awake = false;
}

void awake_destroy(struct gpu *gpu)
{
    gpu_buffer_destroy(gpu, gpu->awake.word);
}
