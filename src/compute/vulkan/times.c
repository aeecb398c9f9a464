/* Times per kind of kernel. With HYPURA_GPU_TIMES=1 in the environment, kernels run one after the other, each followed
 * by a timestamp, and gpu_close logs the sums. */
#include "compute/vulkan/gpu_private.h"

#include <stdlib.h>
#include <string.h>

/* The most timed kernels per batch; later ones count with the last. */
#define MOST_TIMED 2048u

struct gpu_times {
    struct {
        VkQueryPool queries;
        uint32_t count;
        enum gpu_kernel kernels[MOST_TIMED];
    } batches[GPU_BATCHES];
    double seconds[KERNEL_COUNT];
    uint64_t launches[KERNEL_COUNT];
};

hypura_status times_create(struct gpu *gpu, hypura_error *error)
{
    const char *wanted = getenv("HYPURA_GPU_TIMES");
    if (!wanted || strcmp(wanted, "1") != 0 || gpu->timestamp_seconds <= 0)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&gpu->times, 1, "times of kernels", error);
    const VkQueryPoolCreateInfo create = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                          .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                          .queryCount = MOST_TIMED + 1};
    for (size_t i = 0; i < GPU_BATCHES && !status; i++)
        status = gpu_check(gpu, gpu->vk.vkCreateQueryPool(gpu->device, &create, NULL, &gpu->times->batches[i].queries),
                           "making a query pool", error);
    return status;
}

/* Adds the times of a finished batch. */
static void collect(struct gpu *gpu, size_t batch)
{
    struct gpu_times *times = gpu->times;
    uint64_t ticks[MOST_TIMED + 1];
    uint32_t count = times->batches[batch].count;
    times->batches[batch].count = 0;
    if (count == 0 || gpu->vk.vkGetQueryPoolResults(gpu->device, times->batches[batch].queries, 0, count + 1,
                                                    sizeof ticks, ticks, sizeof *ticks, VK_QUERY_RESULT_64_BIT))
        return;
    for (uint32_t i = 0; i < count; i++) {
        enum gpu_kernel kernel = times->batches[batch].kernels[i];
        times->seconds[kernel] += (double)((ticks[i + 1] - ticks[i]) & gpu->timestamp_mask) * gpu->timestamp_seconds;
        times->launches[kernel]++;
    }
}

static void take_time(struct gpu *gpu, size_t batch)
{
    gpu_barrier(gpu);
    gpu->vk.vkCmdWriteTimestamp(gpu->open->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
                                gpu->times->batches[batch].queries, gpu->times->batches[batch].count);
}

void times_begin_batch(struct gpu *gpu)
{
    if (gpu->open->queries)
        gpu->vk.vkCmdWriteTimestamp(gpu->open->commands, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, gpu->open->queries, 0);
}

void times_begin(struct gpu *gpu)
{
    if (!gpu->times)
        return;
    size_t batch = (size_t)(gpu->open - gpu->batches);
    collect(gpu, batch);
    gpu->vk.vkCmdResetQueryPool(gpu->open->commands, gpu->times->batches[batch].queries, 0, MOST_TIMED + 1);
    take_time(gpu, batch);
}

void times_add(struct gpu *gpu, enum gpu_kernel kernel)
{
    size_t batch = gpu->times ? (size_t)(gpu->open - gpu->batches) : 0;
    if (!gpu->times || gpu->times->batches[batch].count == MOST_TIMED)
        return;
    gpu->times->batches[batch].kernels[gpu->times->batches[batch].count++] = kernel;
    take_time(gpu, batch);
}

void times_destroy(struct gpu *gpu)
{
#define KERNEL(name) #name,
    static const char *const names[KERNEL_COUNT] = {GPU_KERNELS(KERNEL)};
#undef KERNEL
    if (!gpu->times)
        return;
    for (size_t i = 0; i < GPU_BATCHES; i++) {
        collect(gpu, i);
        if (gpu->times->batches[i].queries)
            gpu->vk.vkDestroyQueryPool(gpu->device, gpu->times->batches[i].queries, NULL);
    }
    for (size_t k = 0; k < KERNEL_COUNT; k++)
        if (gpu->times->launches[k])
            log_write(LOG_WARNING, "GPU: %10.3f ms in %6llu of %s", gpu->times->seconds[k] * 1e3,
                      (unsigned long long)gpu->times->launches[k], names[k]);
    memory_free(gpu->times);
}
