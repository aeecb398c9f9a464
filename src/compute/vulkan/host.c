/* What the host gives to batches that wait for it: values, and the words that a kernel watches meanwhile (watch.c). */
#include "compute/vulkan/gpu_private.h"

/* The words may be in the device's memory, where an exchange, which is how a processor stores atomically in order,
 * takes 0.2 ms. The fences keep the order, and empty the processor's buffers for writes. */
void host_write_word(struct gpu *gpu, size_t number, uint32_t value)
{
    atomic_uint *words = gpu->watch.words->mapped;
    atomic_thread_fence(memory_order_seq_cst);
    atomic_store_explicit(&words[number], value, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

void host_end_watch(struct gpu *gpu)
{
    if (atomic_exchange(&gpu->watch.awake, false))
        host_write_word(gpu, WATCH_AWAKE, 1);
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
        if (gpu->info.events && gpu->info.watches)
            host_write_word(gpu, i, 1);
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
    host_end_watch(gpu);
    pthread_mutex_lock(&gpu->host_lock);
    for (size_t i = 0; i < GPU_BATCHES; i++)
        last = MAX(last, gpu->batches[i].awaited);
    pthread_mutex_unlock(&gpu->host_lock);
    if (last)
        gpu_signal_host(gpu, last, NULL);
}
