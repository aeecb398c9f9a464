/* For tests: HYPURA_GPU_FAULT makes a working device fail.
 *
 *   allocation:N   the N-th allocation of memory and all after it fail
 *   room:N         the device has N MiB in all, and never frees any
 *   submit:N       the N-th submission loses the device
 *   hang:N         the N-th submission and all after it never end
 *   import:N       the N-th import of host memory and all after it fail
 *   copy:N         the same for copies between the host and memory that is not mapped, for lack of memory; the device
 *                  goes on
 *   lacks:WHAT     devices lack something
 *   largest:N      the largest allocation is N MiB
 *
 * Numbers count over all devices of the process, from the last gpu_open on. With "@D" at the end, only the D-th device
 * fails, counted from 0 since the variable was set. */
#include "compute/vulkan/gpu_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Atomic long left;
static bool hangs;
static const struct gpu *copier; /* its copies fail */
static PFN_vkAllocateMemory allocate;
static PFN_vkQueueSubmit submit;
static PFN_vkGetMemoryHostPointerPropertiesEXT import;

static bool is_due(void)
{
    return atomic_fetch_sub(&left, 1) <= 1;
}

static VkResult VKAPI_PTR failing_allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                           const VkAllocationCallbacks *callbacks, VkDeviceMemory *out)
{
    return is_due() ? VK_ERROR_OUT_OF_DEVICE_MEMORY : allocate(device, info, callbacks, out);
}

static VkResult VKAPI_PTR scarce_allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                          const VkAllocationCallbacks *callbacks, VkDeviceMemory *out)
{
    if ((long)info->allocationSize > atomic_load(&left))
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    atomic_fetch_sub(&left, (long)info->allocationSize);
    return allocate(device, info, callbacks, out);
}

static VkResult VKAPI_PTR failing_submit(VkQueue queue, uint32_t count, const VkSubmitInfo *infos, VkFence fence)
{
    if (!is_due())
        return submit(queue, count, infos, fence);
    return hangs ? VK_SUCCESS : VK_ERROR_DEVICE_LOST;
}

static VkResult VKAPI_PTR failing_copy(VkQueue queue, uint32_t count, const VkSubmitInfo *infos, VkFence fence)
{
    bool copies = infos->pSignalSemaphores[0] == copier->upload_timeline;
    return copies && is_due() ? VK_ERROR_OUT_OF_HOST_MEMORY : submit(queue, count, infos, fence);
}

static VkResult VKAPI_PTR failing_import(VkDevice device, VkExternalMemoryHandleTypeFlagBits type, const void *host,
                                         VkMemoryHostPointerPropertiesEXT *properties)
{
    return is_due() ? VK_ERROR_INVALID_EXTERNAL_HANDLE : import(device, type, host, properties);
}

void fault_install(struct gpu *gpu)
{
    const char *fault = getenv("HYPURA_GPU_FAULT"), *colon = fault ? strchr(fault, ':') : NULL;
    static _Atomic long opened; /* since the variable was set */
    const long number = colon ? atomic_fetch_add(&opened, 1) : 0;
    if (!colon)
        atomic_store(&opened, 0);
    const char *at = colon ? strchr(colon, '@') : NULL;
    if (!colon || (at && strtol(at + 1, NULL, 10) != number))
        return;
    atomic_store(&left, strtol(colon + 1, NULL, 10));
    hangs = strncmp(fault, "hang:", 5) == 0;
    if (strncmp(fault, "allocation:", 11) == 0) {
        allocate = gpu->vk.vkAllocateMemory;
        gpu->vk.vkAllocateMemory = failing_allocate;
    } else if (strncmp(fault, "room:", 5) == 0) {
        atomic_store(&left, strtol(colon + 1, NULL, 10) << 20);
        allocate = gpu->vk.vkAllocateMemory;
        gpu->vk.vkAllocateMemory = scarce_allocate;
    } else if (hangs || strncmp(fault, "submit:", 7) == 0) {
        submit = gpu->vk.vkQueueSubmit;
        gpu->vk.vkQueueSubmit = failing_submit;
        gpu->patience_seconds = hangs ? 1 : gpu->patience_seconds;
    } else if (strncmp(fault, "copy:", 5) == 0) {
        copier = gpu;
        submit = gpu->vk.vkQueueSubmit;
        gpu->vk.vkQueueSubmit = failing_copy;
    } else if (strncmp(fault, "import:", 7) == 0) {
        import = gpu->vk.vkGetMemoryHostPointerPropertiesEXT;
        gpu->vk.vkGetMemoryHostPointerPropertiesEXT = import ? failing_import : NULL;
    }
}

void fault_describe(struct gpu_info *info)
{
    const char *fault = getenv("HYPURA_GPU_FAULT");
    if (fault && strncmp(fault, "lacks:", 6) == 0)
        snprintf(info->lacks, sizeof info->lacks, "%s", fault + 6);
    else if (fault && strncmp(fault, "largest:", 8) == 0)
        info->max_allocation = MIN(info->max_allocation, (uint64_t)strtoul(fault + 8, NULL, 10) << 20);
}
