/* Errors of a device, and of what is recorded for it. */
#include "compute/vulkan/gpu_private.h"

#include <stdarg.h>
#include <stdio.h>

hypura_status gpu_lost_error(const struct gpu *gpu, hypura_error *error)
{
    if (atomic_load(&gpu->hung))
        return error_set(error, HYPURA_ERROR_DEVICE, "GPU: the device hangs: no answer in %u seconds",
                         gpu->patience_seconds);
    return error_set(error, HYPURA_ERROR_DEVICE, "GPU: the device was lost; its driver reset it or it was removed");
}

hypura_status gpu_check(struct gpu *gpu, VkResult result, const char *doing, hypura_error *error)
{
    if (result == VK_SUCCESS)
        return HYPURA_OK;
    if (result == VK_ERROR_DEVICE_LOST) {
        atomic_store(&gpu->lost, true);
        return gpu_lost_error(gpu, error);
    }
    return vk_error(error, result, doing);
}

void gpu_record_error(struct gpu *gpu, hypura_status status, const char *format, ...)
{
    if (gpu->recording.status)
        return;
    va_list arguments;
    va_start(arguments, format);
    gpu->recording.status = status;
    vsnprintf(gpu->recording.message, sizeof gpu->recording.message, format, arguments);
    va_end(arguments);
}
