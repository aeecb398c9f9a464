/* Batches that wait for the host: with a semaphore, or at an event.
 *
 * A driver sends a batch with a semaphore after the signal. A batch at an event is already on the device, which watches
 * a word in memory. On an H100, it begins 8 us sooner, and the signal takes 1 us of the host's time instead of 10
 * to 25.
 *
 * Vulkan forbids to set an event for which a batch on the device waits (VUID-vkSetEvent-event-09543), since a driver
 * may not expect it, or may reset a device that waits for long. So this is only done with NVIDIA's driver, which was
 * seen to start such a batch, and to wait for a stopped process. */
#include "compute/vulkan/gpu_private.h"

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
    if (!given && !status)
        batch->awaited = value;
    pthread_mutex_unlock(&gpu->host_lock);
    if (status)
        gpu->recording.status = status;
    else if (!given && gpu->info.events)
        record_wait(gpu, batch);
}

hypura_status gpu_signal_host(struct gpu *gpu, uint64_t value, hypura_error *error)
{
    VkResult result = VK_SUCCESS;
    pthread_mutex_lock(&gpu->host_lock);
    gpu->host_given = MAX(gpu->host_given, value);
    for (size_t i = 0; i < GPU_BATCHES; i++) {
        struct gpu_batch *batch = &gpu->batches[i];
        if (!batch->awaited || batch->awaited > value)
            continue;
        if (gpu->info.events && !result)
            result = gpu->vk.vkSetEvent(gpu->device, batch->event);
        batch->awaited = batch->waiting = 0;
        atomic_store(&batch->sent, clock_nanoseconds());
    }
    pthread_mutex_unlock(&gpu->host_lock);
    const VkSemaphoreSignalInfo signal = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .semaphore = gpu->host_timeline, .value = value};
    if (!gpu->info.events)
        result = gpu->vk.vkSignalSemaphore(gpu->device, &signal);
    return gpu_check(gpu, result, "letting a batch start", error);
}

bool host_awaited(struct gpu *gpu, struct gpu_batch *batch, gpu_ticket ticket, uint64_t *value)
{
    pthread_mutex_lock(&gpu->host_lock);
    *value = batch->awaited;
    batch->waiting = batch->awaited ? ticket : 0;
    pthread_mutex_unlock(&gpu->host_lock);
    return *value && !gpu->info.events;
}

void host_forget(struct gpu *gpu, struct gpu_batch *batch)
{
    pthread_mutex_lock(&gpu->host_lock);
    batch->awaited = batch->waiting = 0;
    pthread_mutex_unlock(&gpu->host_lock);
}

uint64_t host_progress(struct gpu *gpu, gpu_ticket *first)
{
    *first = 0;
    pthread_mutex_lock(&gpu->host_lock);
    const uint64_t given = gpu->host_given;
    for (size_t i = 0; i < GPU_BATCHES; i++) {
        const gpu_ticket waiting = gpu->batches[i].waiting;
        if (waiting && (!*first || waiting < *first))
            *first = waiting;
    }
    pthread_mutex_unlock(&gpu->host_lock);
    return given;
}

void gpu_release(struct gpu *gpu)
{
    uint64_t last = 0;
    host_has_work(gpu);
    pthread_mutex_lock(&gpu->host_lock);
    for (size_t i = 0; i < GPU_BATCHES; i++)
        last = MAX(last, gpu->batches[i].awaited);
    pthread_mutex_unlock(&gpu->host_lock);
    if (last)
        gpu_signal_host(gpu, last, NULL);
}

void host_has_work(struct gpu *gpu)
{
    if (atomic_exchange(&gpu->awake.watching, false))
        atomic_store(awake_word(gpu), 1); /* this also empties the processor's buffers for writes to a card */
}
