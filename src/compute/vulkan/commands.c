/* Batches: recorded, sent and waited for. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>

/* Creates the counters. Does not use gpu_upload: its staging ring is for weights, and may never be needed. */
hypura_status commands_create(struct gpu *gpu, hypura_error *error)
{
    gpu_ticket cleared = 0;
    hypura_status status =
        gpu_buffer_create(gpu, &gpu->counters, GPU_TILES_AT + GPU_TILE_COUNTERS * sizeof(uint32_t), GPU_DEVICE, error);
    if (status)
        return status;
    gpu_begin(gpu);
    if (gpu->open)
        gpu->vk.vkCmdFillBuffer(gpu->open->commands, gpu->counters->buffer, 0, VK_WHOLE_SIZE, 0);
    status = gpu_submit(gpu, &cleared, 0, error);
    return status ? status : gpu_wait(gpu, cleared, error);
}

/* Sizes of buffers for tables of sequences; each layer has some. Few batches need the large one. */
static const uint64_t tables_bytes[2] = {(uint64_t)32 << 10, (uint64_t)1 << 20};

void commands_destroy(struct gpu *gpu)
{
    gpu_buffer_destroy(gpu, gpu->counters);
    for (size_t i = 0; i < GPU_BATCHES; i++) {
        for (size_t t = 0; t < COUNT_OF(tables_bytes); t++)
            gpu_buffer_destroy(gpu, gpu->batches[i].tables[t]);
        if (gpu->batches[i].queries)
            gpu->vk.vkDestroyQueryPool(gpu->device, gpu->batches[i].queries, NULL);
        if (gpu->batches[i].event)
            gpu->vk.vkDestroyEvent(gpu->device, gpu->batches[i].event, NULL);
        if (gpu->batches[i].pool)
            gpu->vk.vkDestroyCommandPool(gpu->device, gpu->batches[i].pool, NULL);
    }
}

static hypura_status create_batch(struct gpu *gpu, struct gpu_batch *batch, hypura_error *error)
{
    hypura_status status = command_buffer_create(gpu, gpu->families[0], &batch->pool, &batch->commands, error);
    if (status || gpu->timestamp_seconds <= 0)
        return status;
    const VkQueryPoolCreateInfo queries = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, .queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = 2};
    return gpu_check(gpu, gpu->vk.vkCreateQueryPool(gpu->device, &queries, NULL, &batch->queries),
                     "making a query pool", error);
}

/* Adds up the times of finished batches. One may begin before the last has ended. Not for drivers on a CPU: they return
 * a time only when all that was sent has ended, and some of that waits for the host. */
static void count_busy(struct gpu *gpu)
{
    uint64_t done = 0, times[2];
    if (gpu->info.kind == GPU_CPU || gpu->timestamp_seconds <= 0 || timeline_read(gpu, gpu->compute_timeline, &done))
        return;
    while (gpu->counted < done) {
        const struct gpu_batch *batch = &gpu->batches[++gpu->counted % GPU_BATCHES];
        if (batch->ticket != gpu->counted || batch->idle || !batch->queries ||
            gpu->vk.vkGetQueryPoolResults(gpu->device, batch->queries, 0, 2, sizeof times, times, sizeof times[0],
                                          VK_QUERY_RESULT_64_BIT))
            continue;
        const uint64_t begun = MAX(times[0], gpu->counted_end);
        gpu->counted_end = times[1];
        if (times[1] > begun)
            atomic_fetch_add(&gpu->busy_nanoseconds,
                             (uint64_t)((double)(times[1] - begun) * gpu->timestamp_seconds * 1e9));
    }
}

uint64_t gpu_busy_nanoseconds(const struct gpu *gpu)
{
    return atomic_load(&gpu->busy_nanoseconds);
}

void gpu_begin(struct gpu *gpu)
{
    if (gpu->open)
        return;
    count_busy(gpu);
    gpu->recording = (hypura_error){0};
    hypura_error *error = &gpu->recording;
    struct gpu_batch *batch = &gpu->batches[(gpu->submitted + 1) % GPU_BATCHES];
    hypura_status status = batch->pool ? HYPURA_OK : create_batch(gpu, batch, error);
    if (!status)
        status = timeline_wait(gpu, gpu->compute_timeline, batch->ticket, error);
    if (!status)
        status = command_buffer_begin(gpu, batch->pool, batch->commands, error);
    if (status) {
        gpu->recording.status = status;
        return;
    }
    gpu->open = batch;
    gpu->barrier_due = gpu->unchained = false;
    gpu->chained = gpu->chained_sent; /* recorded work that was not sent never ends */
    gpu->chained_before = gpu->chained_barred = gpu->routed = gpu->chained;
    batch->tables_used = batch->last_table = batch->last_table_bytes = 0;
    batch->tables_at = 0;
    batch->idle = false;
    host_forget(gpu, batch);
    if (batch->queries)
        gpu->vk.vkCmdResetQueryPool(batch->commands, batch->queries, 0, 2);
    times_begin_batch(gpu);
    barrier_between(gpu, DEVICE_STAGES | VK_PIPELINE_STAGE_HOST_BIT, DEVICE_WRITES | VK_ACCESS_HOST_WRITE_BIT,
                    DEVICE_STAGES, DEVICE_READS | DEVICE_WRITES);
    times_begin(gpu);
}

static bool launch(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                   const void *push, size_t bytes, uint32_t x, uint32_t y, uint32_t z)
{
    if (gpu->recording.status || x == 0 || y == 0 || z == 0)
        return false;
    if (!gpu->open) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: a kernel was called outside of a batch");
        return false;
    }
    if (x > GPU_MAX_GROUPS || y > GPU_MAX_GROUPS || z > GPU_MAX_GROUPS || bytes > GPU_PUSH_BYTES) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: a kernel was called with %u x %u x %u work groups", x, y, z);
        return false;
    }
    VkPipeline pipeline;
    hypura_status status = pipeline_get(gpu, kernel, constants, constant_count, &pipeline, &gpu->recording);
    if (status) {
        gpu->recording.status = status;
        return false;
    }
    gpu->vk.vkCmdBindPipeline(gpu->open->commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    gpu->vk.vkCmdPushConstants(gpu->open->commands, gpu->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, (uint32_t)bytes, push);
    gpu->vk.vkCmdDispatch(gpu->open->commands, x, y, z);
    times_add(gpu, kernel);
    return true;
}

void gpu_launch(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                const void *push, size_t bytes, uint32_t x, uint32_t y, uint32_t z)
{
    if (gpu->open)
        barrier_before_unchained(gpu);
    launch(gpu, kernel, constants, constant_count, push, bytes, x, y, z);
}

void gpu_launch_chained(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                        const void *push, size_t bytes, uint32_t x, uint32_t y, uint32_t z)
{
    if (!gpu->info.chains)
        gpu_launch(gpu, kernel, constants, constant_count, push, bytes, x, y, z);
    else if (launch(gpu, kernel, constants, constant_count, push, bytes, x, y, z))
        gpu->chained += x * y * z;
}

/* Returns a buffer with room for this many more bytes; NULL: an error, which is kept. */
static struct gpu_buffer *find_table_room(struct gpu *gpu, struct gpu_batch *batch, size_t bytes)
{
    while (bytes > tables_bytes[batch->tables_at] - batch->tables_used) {
        if (batch->tables_at + 1 == COUNT_OF(tables_bytes)) {
            gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: a batch has too many sequences for its tables");
            return NULL;
        }
        batch->tables_at++;
        batch->tables_used = 0;
    }
    struct gpu_buffer **buffer = &batch->tables[batch->tables_at];
    hypura_status status =
        *buffer ? HYPURA_OK
                : gpu_buffer_create(gpu, buffer, tables_bytes[batch->tables_at], GPU_UPLOAD, &gpu->recording);
    if (status)
        gpu->recording.status = status;
    return *buffer;
}

uint64_t gpu_table(struct gpu *gpu, const void *table, size_t bytes)
{
    struct gpu_batch *batch = gpu->open;
    if (!batch || gpu->recording.status)
        return 0;
    if (bytes == batch->last_table_bytes && bytes <= sizeof batch->last_copy &&
        memcmp(batch->last_copy, table, bytes) == 0)
        return batch->last_table;
    struct gpu_buffer *buffer = find_table_room(gpu, batch, bytes);
    if (!buffer)
        return 0;
    memcpy((uint8_t *)gpu_buffer_mapped(buffer) + batch->tables_used, table, bytes);
    if (bytes <= sizeof batch->last_copy)
        memcpy(batch->last_copy, table, bytes);
    batch->last_table = buffer->address + batch->tables_used;
    batch->last_table_bytes = bytes;
    batch->tables_used += align_up(bytes, 16);
    return batch->last_table;
}

void gpu_copy(struct gpu *gpu, struct gpu_range to, struct gpu_range from, uint64_t bytes)
{
    if (!gpu->open || bytes == 0)
        return;
    const uint64_t together = gpu_address(to) | gpu_address(from) | bytes;
    const uint32_t words = together % 16 != 0, unit = words ? 4 : 16;
    const struct {
        uint64_t to, from;
        uint32_t count;
    } push = {gpu_address(to), gpu_address(from), (uint32_t)(bytes / unit)};
    if (together % unit == 0 && bytes / unit <= UINT32_MAX) {
        gpu_launch(gpu, KERNEL_copy, &words, 1, &push, sizeof push, (uint32_t)MIN((bytes / unit + 255) / 256, 16384), 1,
                   1);
        return;
    }
    barrier_before_unchained(gpu);
    const VkBufferCopy copy = {from.offset, to.offset, bytes};
    gpu->vk.vkCmdCopyBuffer(gpu->open->commands, from.buffer->buffer, to.buffer->buffer, 1, &copy);
}

hypura_status gpu_submit(struct gpu *gpu, gpu_ticket *ticket, gpu_ticket wait_upload, hypura_error *error)
{
    struct gpu_batch *batch = gpu->open;
    if (batch) {
        barrier_between(gpu, DEVICE_STAGES, DEVICE_WRITES, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
        if (batch->queries)
            gpu->vk.vkCmdWriteTimestamp(batch->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, batch->queries, 1);
        hypura_error ending;
        hypura_status status =
            gpu_check(gpu, gpu->vk.vkEndCommandBuffer(batch->commands), "closing a command buffer", &ending);
        if (status)
            gpu_record_error(gpu, status, "%s", ending.message);
    }
    gpu->open = NULL;
    if (gpu->recording.status) /* a device without memory for its work cannot go on */
        return error_set(error,
                         gpu->recording.status == HYPURA_ERROR_MEMORY ? HYPURA_ERROR_DEVICE : gpu->recording.status,
                         "%s", gpu->recording.message);
    if (!batch)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "GPU: there is no open batch to send");
    if (atomic_load(&gpu->lost))
        return gpu_lost_error(gpu, error);

    VkSemaphore waits[2];
    uint64_t values[2], next = gpu->submitted + 1;
    const VkPipelineStageFlags stages[2] = {DEVICE_STAGES, DEVICE_STAGES};
    uint32_t count = 0;
    if (host_awaited(gpu, batch, next, &values[count]))
        waits[count++] = gpu->host_timeline;
    if (wait_upload) {
        waits[count] = gpu->upload_timeline;
        values[count++] = wait_upload;
    }
    const VkTimelineSemaphoreSubmitInfo timeline = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                                    .waitSemaphoreValueCount = count,
                                                    .pWaitSemaphoreValues = values,
                                                    .signalSemaphoreValueCount = 1,
                                                    .pSignalSemaphoreValues = &next};
    const VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                                 .pNext = &timeline,
                                 .waitSemaphoreCount = count,
                                 .pWaitSemaphores = waits,
                                 .pWaitDstStageMask = stages,
                                 .commandBufferCount = 1,
                                 .pCommandBuffers = &batch->commands,
                                 .signalSemaphoreCount = 1,
                                 .pSignalSemaphores = &gpu->compute_timeline};
    host_end_watch(gpu);
    pthread_mutex_lock(&gpu->queue_lock);
    VkResult result = gpu->vk.vkQueueSubmit(gpu->compute_queue, 1, &submit, VK_NULL_HANDLE);
    pthread_mutex_unlock(&gpu->queue_lock);
    hypura_error problem;
    if (gpu_check(gpu, result, "sending a batch", &problem))
        return error_set(error, HYPURA_ERROR_DEVICE, "%s", problem.message);
    gpu->submitted = batch->ticket = next;
    atomic_store(&batch->sent, clock_nanoseconds());
    gpu->chained_sent = gpu->chained;
    if (ticket)
        *ticket = next;
    return HYPURA_OK;
}

hypura_status gpu_recorded(const struct gpu *gpu)
{
    return gpu->recording.status;
}

void gpu_drop(struct gpu *gpu)
{
    if (gpu->open)
        gpu->vk.vkEndCommandBuffer(gpu->open->commands);
    gpu->open = NULL;
    gpu->recording = (hypura_error){0};
}

/* Waking up takes as long as some kernels, so the last part of a wait polls, for at most AWAKE_SECONDS. It begins when
 * the batch before has ended or, with none before, EARLY_SECONDS before the time that the last such batch took. If the
 * device is this CPU, polling would only slow it down. */
#define AWAKE_SECONDS 1e-3
#define EARLY_SECONDS 3e-4

static void wait_awake(struct gpu *gpu, const struct gpu_batch *batch, bool alone)
{
    double rest = gpu->alone_seconds - clock_seconds_since(atomic_load(&batch->sent)) - EARLY_SECONDS;
    const VkSemaphoreWaitInfo wait = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                      .semaphoreCount = 1,
                                      .pSemaphores = &gpu->compute_timeline,
                                      .pValues = &batch->ticket};
    if (!alone && timeline_wait(gpu, gpu->compute_timeline, batch->ticket - 1, NULL))
        return;
    if (alone && rest > 0) /* a timeout is as good as the end */
        gpu->vk.vkWaitSemaphores(gpu->device, &wait, (uint64_t)(MIN(rest, 1.0) * 1e9));
    uint64_t start = clock_nanoseconds();
    while (!timeline_reached(gpu, gpu->compute_timeline, batch->ticket) && clock_seconds_since(start) < AWAKE_SECONDS)
        ;
}

/* Of batches that take turns, such as a device's runs of layers, the shorter ones count: waking up late for those would
 * delay the next device. */
static double usual(double before, double now)
{
    return now < before ? now : (before + now) / 2;
}

/* Whether nothing is computed before a batch. */
static bool is_alone(struct gpu *gpu, gpu_ticket ticket)
{
    const struct gpu_batch *before = &gpu->batches[(ticket - 1) % GPU_BATCHES];
    return (before->ticket == ticket - 1 && before->idle) || timeline_reached(gpu, gpu->compute_timeline, ticket - 1);
}

hypura_status gpu_wait(struct gpu *gpu, gpu_ticket ticket, hypura_error *error)
{
    const struct gpu_batch *batch = &gpu->batches[ticket % GPU_BATCHES];
    if (gpu->info.kind == GPU_CPU || batch->ticket != ticket || atomic_load(&gpu->lost) ||
        timeline_reached(gpu, gpu->compute_timeline, ticket))
        return timeline_wait(gpu, gpu->compute_timeline, ticket, error);
    bool alone = is_alone(gpu, ticket);
    wait_awake(gpu, batch, alone);
    hypura_status status = timeline_wait(gpu, gpu->compute_timeline, ticket, error);
    if (!status && alone)
        gpu->alone_seconds = usual(gpu->alone_seconds, clock_seconds_since(atomic_load(&batch->sent)));
    return status;
}

bool gpu_done(struct gpu *gpu, gpu_ticket ticket)
{
    return timeline_reached(gpu, gpu->compute_timeline, ticket);
}

bool gpu_wait_shortly(struct gpu *gpu, gpu_ticket ticket, double seconds)
{
    const VkSemaphoreWaitInfo wait = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                      .semaphoreCount = 1,
                                      .pSemaphores = &gpu->compute_timeline,
                                      .pValues = &ticket};
    if (atomic_load(&gpu->lost))
        return false;
    const VkResult result = gpu->vk.vkWaitSemaphores(gpu->device, &wait, (uint64_t)(seconds * 1e9));
    return result == VK_SUCCESS || result == VK_TIMEOUT;
}

double gpu_batch_seconds(struct gpu *gpu, gpu_ticket ticket)
{
    struct gpu_batch *batch = &gpu->batches[ticket % GPU_BATCHES];
    uint64_t times[2];
    if (ticket == 0 || batch->ticket != ticket || batch == gpu->open || !batch->queries || !gpu_done(gpu, ticket) ||
        gpu->vk.vkGetQueryPoolResults(gpu->device, batch->queries, 0, 2, sizeof times, times, sizeof times[0],
                                      VK_QUERY_RESULT_64_BIT))
        return 0;
    return (double)((times[1] - times[0]) & gpu->timestamp_mask) * gpu->timestamp_seconds;
}
