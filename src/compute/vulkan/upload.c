/* Copies from the host to memory that is not mapped, through the parts of a staging buffer in turn. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>

/* With upload_lock held from here on. */

/* One thread fills the staging ring at a fraction of the speed of a card's bus, so several do if there are cores. */
#define COPY_THREADS 8u
#define LEAST_CORES 8u                   /* half of the cores copy */
#define COPY_BYTES ((uint64_t)256 << 10) /* per task */

static hypura_status prepare(struct gpu *gpu, hypura_error *error)
{
    if (gpu->staging_memory)
        return HYPURA_OK;
    const size_t cores = thread_usable_cores();
    hypura_status status = cores >= LEAST_CORES && !gpu->copiers
                               ? thread_pool_create(&gpu->copiers, MIN(cores / 2, (size_t)COPY_THREADS), error)
                               : HYPURA_OK;
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

static void record_copy(struct gpu *gpu, const struct staging *part, struct gpu_range to, struct gpu_range from,
                        uint64_t bytes)
{
    const VkBufferCopy copy = {from.offset, to.offset, bytes};
    gpu->vk.vkCmdCopyBuffer(part->commands, from.buffer->buffer, to.buffer->buffer, 1, &copy);
}

static hypura_status send(struct gpu *gpu, struct staging *part, hypura_error *error)
{
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
        host_end_watch(gpu);
    pthread_mutex_lock(&gpu->queue_lock);
    VkResult result = gpu->vk.vkQueueSubmit(gpu->transfer_queue, 1, &submit, VK_NULL_HANDLE);
    pthread_mutex_unlock(&gpu->queue_lock);
    status = gpu_check(gpu, result, "sending a copy", error);
    if (!status)
        gpu->uploaded = part->ticket = next;
    return status;
}

/* What is left of some pieces. */
struct rest {
    const struct gpu_piece *pieces;
    size_t count;
    uint64_t done; /* of the first */
};

/* What a part of the ring takes of them. */
#define PART_PIECES 128u
struct load {
    uint8_t *memory;
    uint64_t bytes;
    size_t count;
    struct gpu_piece pieces[PART_PIECES];
    uint64_t offsets[PART_PIECES]; /* in memory */
};

static void fill_part(struct load *load, struct rest *rest)
{
    while (rest->count > 0 && load->count < PART_PIECES && load->bytes < STAGING_BYTES) {
        const struct gpu_piece *piece = rest->pieces;
        const uint64_t bytes = MIN(piece->bytes - rest->done, STAGING_BYTES - load->bytes);
        if (bytes > 0 && !buffer_near(piece->to.buffer)) {
            load->offsets[load->count] = load->bytes;
            load->pieces[load->count++] = (struct gpu_piece){.to = {piece->to.buffer, piece->to.offset + rest->done},
                                                             .host = (const uint8_t *)piece->host + rest->done,
                                                             .bytes = bytes};
            load->bytes += align_up(bytes, GPU_ALIGNMENT); /* STAGING_BYTES is a multiple */
            rest->done += bytes;
        }
        if (buffer_near(piece->to.buffer) || rest->done == piece->bytes)
            *rest = (struct rest){rest->pieces + 1, rest->count - 1, 0};
    }
}

/* A task copies the same number of bytes whatever the sizes of pieces. */
static void copy_block(void *context, size_t index, size_t worker)
{
    const struct load *load = context;
    const uint64_t first = index * COPY_BYTES, end = first + COPY_BYTES;
    (void)worker;
    for (size_t i = 0; i < load->count && load->offsets[i] < end; i++) {
        const struct gpu_piece *piece = &load->pieces[i];
        const uint64_t at = load->offsets[i], from = MAX(at, first), to = MIN(at + piece->bytes, end);
        if (from < to)
            memcpy(load->memory + from, (const uint8_t *)piece->host + (from - at), to - from);
    }
}

static hypura_status upload_part(struct gpu *gpu, struct rest *rest, hypura_error *error)
{
    struct staging *part;
    uint64_t offset;
    struct load load = {0};
    fill_part(&load, rest);
    if (load.count == 0)
        return HYPURA_OK;
    hypura_status status = take_part(gpu, &part, &offset, error);
    if (status)
        return status;
    load.memory = (uint8_t *)gpu->staging_memory->mapped + offset;
    const size_t tasks = (size_t)((load.bytes + COPY_BYTES - 1) / COPY_BYTES);
    if (gpu->copiers)
        thread_pool_run(gpu->copiers, copy_block, &load, tasks);
    for (size_t i = 0; i < tasks && !gpu->copiers; i++)
        copy_block(&load, i, 0);
    for (size_t i = 0; i < load.count; i++)
        record_copy(gpu, part, load.pieces[i].to, (struct gpu_range){gpu->staging_memory, offset + load.offsets[i]},
                    load.pieces[i].bytes);
    return send(gpu, part, error);
}

/* ---- the functions of gpu.h -------------------------------------------------------------------------------------- */

hypura_status gpu_upload_many(struct gpu *gpu, const struct gpu_piece *pieces, size_t count, gpu_ticket *ticket,
                              hypura_error *error)
{
    bool staged = false;
    if (atomic_load(&gpu->lost))
        return gpu_lost_error(gpu, error);
    for (size_t i = 0; i < count; i++) {
        const uint64_t room = pieces[i].to.buffer->bytes;
        if (pieces[i].bytes > room || pieces[i].to.offset > room - pieces[i].bytes)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "GPU: an upload exceeds its buffer");
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t *near = buffer_near(pieces[i].to.buffer);
        staged = staged || !near;
        if (near)
            memcpy(near + pieces[i].to.offset, pieces[i].host, pieces[i].bytes);
    }
    *ticket = 0;
    if (!staged)
        return HYPURA_OK;
    struct rest rest = {pieces, count, 0};
    pthread_mutex_lock(&gpu->upload_lock);
    hypura_status status = prepare(gpu, error);
    while (rest.count > 0 && !status)
        status = upload_part(gpu, &rest, error);
    *ticket = gpu->uploaded;
    pthread_mutex_unlock(&gpu->upload_lock);
    return status;
}

hypura_status gpu_upload(struct gpu *gpu, struct gpu_range to, const void *host, uint64_t bytes, gpu_ticket *ticket,
                         hypura_error *error)
{
    return gpu_upload_many(gpu, &(struct gpu_piece){to, host, bytes}, 1, ticket, error);
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
    const VkMemoryBarrier seen = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                  .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                                  .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    hypura_status status = command_buffer_begin(gpu, part->pool, part->commands, error);
    if (status)
        return status;
    record_copy(gpu, part, (struct gpu_range){gpu->download_memory, 0}, from, bytes);
    gpu->vk.vkCmdPipelineBarrier(part->commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1,
                                 &seen, 0, NULL, 0, NULL);
    pthread_mutex_lock(&gpu->upload_lock);
    status = send(gpu, part, error);
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
    if (buffer_near(from.buffer)) {
        memcpy(host, buffer_near(from.buffer) + from.offset, bytes);
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
