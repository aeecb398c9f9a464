/* The order of a batch's kernels: barriers, or chains that need none. */
#include "compute/vulkan/gpu_private.h"

void barrier_between(struct gpu *gpu, VkPipelineStageFlags from, VkAccessFlags written, VkPipelineStageFlags to,
                     VkAccessFlags used)
{
    const VkMemoryBarrier barrier = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = written, .dstAccessMask = used};
    gpu->vk.vkCmdPipelineBarrier(gpu->open->commands, from, to, 0, 1, &barrier, 0, NULL, 0, NULL);
}

static void true_barrier(struct gpu *gpu)
{
    gpu->barrier_due = gpu->unchained = false;
    gpu->chained_before = gpu->chained_barred = gpu->chained;
    barrier_between(gpu, DEVICE_STAGES, DEVICE_WRITES, DEVICE_STAGES, DEVICE_READS | DEVICE_WRITES);
}

/* A kernel outside a chain cannot itself wait for the chained kernels before the last gpu_barrier, even if a chained
 * kernel came in between. */
void barrier_before_unchained(struct gpu *gpu)
{
    if (gpu->barrier_due || gpu->chained_before != gpu->chained_barred)
        true_barrier(gpu);
    gpu->unchained = true;
}

/* The next kernel decides whether a true barrier is needed. */
void gpu_barrier(struct gpu *gpu)
{
    gpu->barrier_due = gpu->open != NULL;
    if (gpu->times && gpu->open)
        true_barrier(gpu);
}

struct chain_link gpu_chain(struct gpu *gpu)
{
    if (!gpu->info.chains || !gpu->open)
        return (struct chain_link){0};
    if (gpu->barrier_due && gpu->unchained)
        true_barrier(gpu);
    if (gpu->barrier_due)
        gpu->chained_before = gpu->chained;
    gpu->barrier_due = false;
    return (struct chain_link){gpu->counters->address + GPU_PROGRESS_AT, gpu->chained_before};
}
