/* The progress of the device: command buffers and timelines. */
#include "compute/vulkan/gpu_private.h"

hypura_status command_buffer_create(struct gpu *gpu, uint32_t family, VkCommandPool *pool, VkCommandBuffer *commands,
                                    hypura_error *error)
{
    const VkCommandPoolCreateInfo create = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                            .flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT,
                                            .queueFamilyIndex = family};
    hypura_status status =
        gpu_check(gpu, gpu->vk.vkCreateCommandPool(gpu->device, &create, NULL, pool), "making a command pool", error);
    if (status)
        return status;
    const VkCommandBufferAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                  .commandPool = *pool,
                                                  .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                  .commandBufferCount = 1};
    status = gpu_check(gpu, gpu->vk.vkAllocateCommandBuffers(gpu->device, &allocate, commands),
                       "making a command buffer", error);
    if (status) {
        gpu->vk.vkDestroyCommandPool(gpu->device, *pool, NULL);
        *pool = VK_NULL_HANDLE;
        *commands = VK_NULL_HANDLE;
    }
    return status;
}

hypura_status command_buffer_begin(struct gpu *gpu, VkCommandPool pool, VkCommandBuffer commands, hypura_error *error)
{
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                            .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    hypura_status status =
        gpu_check(gpu, gpu->vk.vkResetCommandPool(gpu->device, pool, 0), "emptying a command pool", error);
    return status ? status
                  : gpu_check(gpu, gpu->vk.vkBeginCommandBuffer(commands, &begin), "opening a command buffer", error);
}

static hypura_status create_timeline(struct gpu *gpu, VkSemaphore *out, hypura_error *error)
{
    const VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                            .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    const VkSemaphoreCreateInfo create = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    return gpu_check(gpu, gpu->vk.vkCreateSemaphore(gpu->device, &create, NULL, out), "making a semaphore", error);
}

hypura_status timelines_create(struct gpu *gpu, hypura_error *error)
{
    hypura_status status = create_timeline(gpu, &gpu->compute_timeline, error);
    if (!status)
        status = create_timeline(gpu, &gpu->host_timeline, error);
    return status ? status : create_timeline(gpu, &gpu->upload_timeline, error);
}

void timelines_destroy(struct gpu *gpu)
{
    VkSemaphore timelines[] = {gpu->compute_timeline, gpu->host_timeline, gpu->upload_timeline};
    for (size_t i = 0; i < COUNT_OF(timelines); i++)
        if (timelines[i])
            gpu->vk.vkDestroySemaphore(gpu->device, timelines[i], NULL);
}

VkResult timeline_read(struct gpu *gpu, VkSemaphore timeline, uint64_t *value)
{
    return gpu->vk.vkGetSemaphoreCounterValue(gpu->device, timeline, value);
}

/* *sum grows whenever the device ends something or the host signals. *waits_for_host: all work before a batch whose
 * signal was not given is done. With one queue, uploads wait behind that batch. */
static VkResult read_progress(struct gpu *gpu, uint64_t *sum, bool *waits_for_host)
{
    uint64_t computed = 0, uploaded = 0;
    gpu_ticket waiting;
    const uint64_t signalled = host_progress(gpu, &waiting);
    VkResult result = timeline_read(gpu, gpu->compute_timeline, &computed);
    if (!result)
        result = timeline_read(gpu, gpu->upload_timeline, &uploaded);
    *sum = computed + signalled + uploaded;
    *waits_for_host = waiting && computed + 1 >= waiting;
    return result;
}

/* The device's progress is unknown from now on, so nothing that it uses can be reused. */
static hypura_status lose_track(struct gpu *gpu, VkResult result, hypura_error *error)
{
    hypura_error why;
    gpu_check(gpu, result, "waiting for the device", &why);
    atomic_store(&gpu->lost, true);
    return error_set(error, HYPURA_ERROR_DEVICE, "%s", why.message);
}

static hypura_status wait_even_if_lost(struct gpu *gpu, VkSemaphore timeline, uint64_t value, hypura_error *error)
{
    const VkSemaphoreWaitInfo wait = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                      .semaphoreCount = 1,
                                      .pSemaphores = &timeline,
                                      .pValues = &value};
    /* A slow device may have much to do. It hangs if it ends nothing for this long and does not wait for the host. */
    uint64_t reached = 0, before;
    bool waits_for_host = false;
    VkResult result = read_progress(gpu, &reached, &waits_for_host);
    do {
        before = reached;
        if (!result)
            result = gpu->vk.vkWaitSemaphores(gpu->device, &wait, gpu->patience_seconds * (uint64_t)1000000000);
        if (result == VK_SUCCESS)
            return HYPURA_OK;
        if (result != VK_TIMEOUT)
            return lose_track(gpu, result, error);
        result = read_progress(gpu, &reached, &waits_for_host);
    } while (result || waits_for_host || reached > before);
    atomic_store(&gpu->hung, true);
    atomic_store(&gpu->lost, true);
    return gpu_lost_error(gpu, error);
}

hypura_status timeline_wait(struct gpu *gpu, VkSemaphore timeline, uint64_t value, hypura_error *error)
{
    if (value == 0)
        return HYPURA_OK;
    return atomic_load(&gpu->lost) ? gpu_lost_error(gpu, error) : wait_even_if_lost(gpu, timeline, value, error);
}

void timelines_drain(struct gpu *gpu)
{
    if (!gpu->host_timeline || !gpu->upload_timeline || atomic_load(&gpu->hung))
        return;
    gpu_release(gpu); /* signals that would never come */
    if (gpu->submitted)
        wait_even_if_lost(gpu, gpu->compute_timeline, gpu->submitted, NULL);
    if (gpu->uploaded)
        wait_even_if_lost(gpu, gpu->upload_timeline, gpu->uploaded, NULL);
}

bool timeline_reached(struct gpu *gpu, VkSemaphore timeline, uint64_t value)
{
    uint64_t now = 0;
    return value == 0 || (timeline_read(gpu, timeline, &now) == VK_SUCCESS && now >= value);
}
