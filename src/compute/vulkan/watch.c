/* How a device waits for the host: with a semaphore, or at an event, and with a kernel that watches a word.
 *
 * A driver sends a batch with a semaphore after the signal. A batch at an event is already on the device, which watches
 * a word in memory. On an H100, it begins 8 us sooner, and the signal takes 1 us of the host's time instead of 10
 * to 25.
 *
 * Vulkan forbids to set an event for which a batch on the device waits (VUID-vkSetEvent-event-09543), since a driver
 * may not expect it, or may reset a device that waits for long. So this is only done with NVIDIA's driver, which was
 * seen to start such a batch, and to wait for a stopped process.
 *
 * A device that waits should not be idle. So one invocation watches a word in the device's memory, which the host
 * writes. It uses no bandwidth, and ends by itself after a while. Nothing depends on it but time.
 *
 * Some devices lower their clock when they have nothing to do, and raise it again only after tenths of a second. If an
 * H100 computes half of a model's layers, and then waits 20 ms for the CPU to compute the others, it stays at a clock
 * at which its layers take 5.9 ms instead of 1.6. gpu_stay_awake keeps it busy meanwhile.
 *
 * A device looks at an event only now and then. If the invocation comes before the event, the device looks only once,
 * when the event is set: 3 us sooner on an H100.
 *
 * Each batch has a word of its own, and gpu_stay_awake another one. */
#include "compute/vulkan/gpu_private.h"

#include <time.h>

/* A poll takes some 0.7 us at the full clock. */
#define POLLS 65536u

static void launch(struct gpu *gpu, size_t number)
{
    const uint64_t word = gpu->watch.words->address + number * sizeof(uint32_t);
    const uint32_t polls = POLLS;
    gpu_launch(gpu, KERNEL_watch, &polls, 1, &word, sizeof word, 1, 1, 1);
}

/* ---- keeping a device busy ---------------------------------------------------------------------------------------
 */

/* ends: the kernel is to end at once. */
static hypura_status stay_awake(struct gpu *gpu, bool ends, gpu_ticket *ticket, hypura_error *error)
{
    host_write_word(gpu, WATCH_AWAKE, ends);
    gpu_begin(gpu);
    if (gpu->open)
        gpu->open->idle = true;
    launch(gpu, WATCH_AWAKE);
    TRY(gpu_submit(gpu, ticket, 0, error));
    atomic_store(&gpu->watch.awake, !ends);
    return HYPURA_OK;
}

void gpu_stay_awake(struct gpu *gpu)
{
    if (gpu->info.watches && !gpu->open && !atomic_load(&gpu->watch.awake) && stay_awake(gpu, false, NULL, NULL))
        gpu->info.watches = false; /* the next batch fails, too, and says why */
}

/* ---- batches that wait ------------------------------------------------------------------------------------------- */

static size_t number_of(const struct gpu *gpu, const struct gpu_batch *batch)
{
    return (size_t)(batch - gpu->batches);
}

static void record_watch(struct gpu *gpu, size_t number)
{
    launch(gpu, number);
    /* Otherwise, the device would look at the event at once. */
    barrier_between(gpu, DEVICE_STAGES, 0, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0);
}

static hypura_status make_event(struct gpu *gpu, struct gpu_batch *batch, hypura_error *error)
{
    const VkEventCreateInfo create = {.sType = VK_STRUCTURE_TYPE_EVENT_CREATE_INFO};
    return gpu_check(gpu,
                     batch->event ? gpu->vk.vkResetEvent(gpu->device, batch->event)
                                  : gpu->vk.vkCreateEvent(gpu->device, &create, NULL, &batch->event),
                     "making an event", error);
}

static void record_wait(struct gpu *gpu, struct gpu_batch *batch)
{
    const VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                     .srcAccessMask = VK_ACCESS_HOST_WRITE_BIT,
                                     .dstAccessMask = DEVICE_READS | DEVICE_WRITES};
    if (gpu->info.watches)
        record_watch(gpu, number_of(gpu, batch));
    gpu->vk.vkCmdWaitEvents(batch->commands, 1, &batch->event, VK_PIPELINE_STAGE_HOST_BIT,
                            VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 1, &barrier, 0, NULL, 0, NULL);
    /* The wait does not count as work. */
    if (batch->queries)
        gpu->vk.vkCmdResetQueryPool(batch->commands, batch->queries, 0, 1);
    times_begin_batch(gpu);
}

void gpu_await_host(struct gpu *gpu, uint64_t value)
{
    struct gpu_batch *batch = gpu->open;
    if (!batch || gpu->recording.status)
        return;
    pthread_mutex_lock(&gpu->host_lock);
    const bool given = gpu->host_given >= value;
    hypura_status status = given || !gpu->info.events ? HYPURA_OK : make_event(gpu, batch, &gpu->recording);
    if (!given && !status && gpu->info.watches)
        host_write_word(gpu, number_of(gpu, batch), 0);
    if (!given && !status)
        batch->awaited = value;
    pthread_mutex_unlock(&gpu->host_lock);
    if (status)
        gpu->recording.status = status;
    else if (!given && gpu->info.events)
        record_wait(gpu, batch);
}

/* ---- whether it works -------------------------------------------------------------------------------------------- */

/* Whether the kernel sees what the host writes while it runs: then it ends soon after. A first run does not count,
 * since a driver may compile the kernel then. */
#define TRIED_SECONDS 1e-3
#define LATE_SECONDS 10e-3

static hypura_status try_it(struct gpu *gpu, hypura_error *error)
{
    const struct timespec a_while = {.tv_nsec = (long)(TRIED_SECONDS * 1e9)};
    gpu_ticket ticket = 0;
    TRY(gpu_buffer_create(gpu, &gpu->watch.words, (GPU_BATCHES + 1) * sizeof(uint32_t), GPU_UPLOAD, error));
    TRY(stay_awake(gpu, true, &ticket, error));
    TRY(gpu_wait(gpu, ticket, error));
    const uint64_t start = clock_nanoseconds();
    TRY(stay_awake(gpu, false, &ticket, error));
    nanosleep(&a_while, NULL);
    host_end_watch(gpu);
    const double written = clock_seconds_since(start);
    TRY(gpu_wait(gpu, ticket, error));
    const double seconds = gpu_batch_seconds(gpu, ticket);
    gpu->info.watches = seconds > 0 && seconds < written + LATE_SECONDS;
    return HYPURA_OK;
}

hypura_status watch_create(struct gpu *gpu, hypura_error *error)
{
    return gpu->info.watches ? try_it(gpu, error) : HYPURA_OK;
}

void watch_destroy(struct gpu *gpu)
{
    gpu_buffer_destroy(gpu, gpu->watch.words);
}
