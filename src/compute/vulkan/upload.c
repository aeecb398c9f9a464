/* Copies from the host to memory that is not mapped, through the parts of a staging buffer in turn. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>
#include <unistd.h>

/* With upload_lock held from here on. */

/* One thread fills the staging ring at a third of the speed of a card's bus, so several do if there are cores. */
#define COPY_THREADS 4
#define COPY_BYTES ((size_t)512 << 10) /* per task */

static hypura_status prepare(struct gpu *gpu, hypura_error *error)
{
    if (gpu->staging_memory)
        return HYPURA_OK;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    hypura_status status =
        cores >= 2 * COPY_THREADS && !gpu->copiers ? thread_pool_create(&gpu->copiers, COPY_THREADS, error) : HYPURA_OK;
    return status ? status : gpu_buffer_create_staging(gpu, &gpu->staging_memory, STAGING_PARTS * STAGING_BYTES, error);
}

/* Waits for the copy that last used the next part, and takes that part. */
static hypura_status take_part(struct gpu *gpu, struct staging **part, uint64_t *offset, hypura_error *error)
{
    size_t index = gpu->staging_next++ % STAGING_PARTS;
    *part = &gpu->staging[index];
    *offset = index * STAGING_BYTES;
    hypura_status status = HYPURA_OK;
    if (!(*part)->commands)
        status = command_buffer_create(gpu, gpu->families[1], &(*part)->pool, &(*part)->commands, error);
    if (!status)
        status = timeline_wait(gpu, gpu->upload_timeline, (*part)->ticket, error);
    return status ? status : command_buffer_begin(gpu, (*part)->pool, (*part)->commands, error);
}

static hypura_status send(struct gpu *gpu, struct staging *part, struct gpu_range to, struct gpu_range from,
                          uint64_t bytes, hypura_error *error)
{
    const VkBufferCopy copy = {from.offset, to.offset, bytes};
    const VkMemoryBarrier seen = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                  .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                                  .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    gpu->vk.vkCmdCopyBuffer(part->commands, from.buffer->buffer, to.buffer->buffer, 1, &copy);
    if (to.buffer->mapped)
        gpu->vk.vkCmdPipelineBarrier(part->commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1,
                                     &seen, 0, NULL, 0, NULL);
    hypura_status status =
        gpu_check(gpu, gpu->vk.vkEndCommandBuffer(part->commands), "closing a command buffer", error);
    if (status)
        return status;
    uint64_t next = gpu->uploaded + 1;
    const VkTimelineSemaphoreSubmitInfo timeline = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                                    .signalSemaphoreValueCount = 1,
                                                    .pSignalSemaphoreValues = &next};
    const VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                                 .pNext = &timeline,
                                 .commandBufferCount = 1,
                                 .pCommandBuffers = &part->commands,
                                 .signalSemaphoreCount = 1,
                                 .pSignalSemaphores = &gpu->upload_timeline};
    if (gpu->transfer_queue == gpu->compute_queue)
        host_has_work(gpu);
    pthread_mutex_lock(&gpu->queue_lock);
    VkResult result = gpu->vk.vkQueueSubmit(gpu->transfer_queue, 1, &submit, VK_NULL_HANDLE);
    pthread_mutex_unlock(&gpu->queue_lock);
    status = gpu_check(gpu, result, "sending a copy", error);
    if (!status)
        gpu->uploaded = part->ticket = next;
    return status;
}

static hypura_status upload_part(struct gpu *gpu, struct gpu_range to, const void *host, uint64_t bytes,
                                 hypura_error *error)
{
    struct staging *part;
    uint64_t offset;
    hypura_status status = take_part(gpu, &part, &offset, error);
    if (status)
        return status;
    thread_pool_copy(gpu->copiers, (uint8_t *)gpu->staging_memory->mapped + offset, host, bytes, COPY_BYTES);
    return send(gpu, part, to, (struct gpu_range){gpu->staging_memory, offset}, bytes, error);
}

/* ---- the functions of gpu.h -------------------------------------------------------------------------------------- */

hypura_status gpu_upload(struct gpu *gpu, struct gpu_range to, const void *host, uint64_t bytes, gpu_ticket *ticket,
                         hypura_error *error)
{
    if (atomic_load(&gpu->lost))
        return gpu_lost_error(gpu, error);
    if (bytes > to.buffer->bytes || to.offset > to.buffer->bytes - bytes)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "GPU: an upload exceeds its buffer");
    if (to.buffer->mapped) {
        memcpy((uint8_t *)to.buffer->mapped + to.offset, host, bytes);
        *ticket = 0;
        return HYPURA_OK;
    }
    pthread_mutex_lock(&gpu->upload_lock);
    hypura_status status = prepare(gpu, error);
    for (uint64_t done = 0; done < bytes && !status; done += STAGING_BYTES)
        status = upload_part(gpu, (struct gpu_range){to.buffer, to.offset + done}, (const uint8_t *)host + done,
                             MIN(bytes - done, STAGING_BYTES), error);
    *ticket = gpu->uploaded;
    pthread_mutex_unlock(&gpu->upload_lock);
    return status;
}

hypura_status gpu_upload_wait(struct gpu *gpu, gpu_ticket ticket, hypura_error *error)
{
    return timeline_wait(gpu, gpu->upload_timeline, ticket, error);
}

/* Waits without the lock, because uploads that a batch waits for may need it. */
static hypura_status download_part(struct gpu *gpu, void *host, struct gpu_range from, uint64_t bytes,
                                   hypura_error *error)
{
    struct staging *part = &gpu->download;
    hypura_status status = command_buffer_begin(gpu, part->pool, part->commands, error);
    if (status)
        return status;
    pthread_mutex_lock(&gpu->upload_lock);
    status = send(gpu, part, (struct gpu_range){gpu->download_memory, 0}, from, bytes, error);
    pthread_mutex_unlock(&gpu->upload_lock);
    if (!status)
        status = timeline_wait(gpu, gpu->upload_timeline, part->ticket, error);
    if (!status)
        memcpy(host, gpu->download_memory->mapped, bytes);
    return status;
}

hypura_status gpu_download(struct gpu *gpu, void *host, struct gpu_range from, uint64_t bytes, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    if (atomic_load(&gpu->lost))
        return gpu_lost_error(gpu, error);
    if (bytes > from.buffer->bytes || from.offset > from.buffer->bytes - bytes)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "GPU: a download exceeds its buffer");
    if (from.buffer->mapped) {
        memcpy(host, (const uint8_t *)from.buffer->mapped + from.offset, bytes);
        return HYPURA_OK;
    }
    if (!gpu->download_memory)
        status = gpu_buffer_create_staging(gpu, &gpu->download_memory, STAGING_BYTES, error);
    if (!status && !gpu->download.commands)
        status = command_buffer_create(gpu, gpu->families[1], &gpu->download.pool, &gpu->download.commands, error);
    for (uint64_t done = 0; done < bytes && !status; done += STAGING_BYTES)
        status = download_part(gpu, (uint8_t *)host + done, (struct gpu_range){from.buffer, from.offset + done},
                               MIN(bytes - done, STAGING_BYTES), error);
    return status;
}

void uploads_destroy(struct gpu *gpu)
{
    if (gpu->download.pool)
        gpu->vk.vkDestroyCommandPool(gpu->device, gpu->download.pool, NULL);
    if (gpu->download_memory)
        gpu_buffer_destroy(gpu, gpu->download_memory);
    for (size_t i = 0; i < STAGING_PARTS; i++)
        if (gpu->staging[i].pool)
            gpu->vk.vkDestroyCommandPool(gpu->device, gpu->staging[i].pool, NULL);
    gpu_buffer_destroy(gpu, gpu->staging_memory);
    thread_pool_destroy(gpu->copiers);
}
