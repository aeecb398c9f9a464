#include "compute/vulkan/gpu_private.h"

#include <stdio.h>
#include <string.h>

/* Kernels and copies, on both queues, may use every buffer; for buffers this costs nothing. */
static hypura_status create_buffer(struct gpu *gpu, struct gpu_buffer *buffer, const void *next, hypura_error *error)
{
    const VkBufferCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .pNext = next,
        .size = buffer->bytes,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                 VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT,
        .sharingMode = gpu->families[0] != gpu->families[1] ? VK_SHARING_MODE_CONCURRENT : VK_SHARING_MODE_EXCLUSIVE,
        .queueFamilyIndexCount = 2,
        .pQueueFamilyIndices = gpu->families};
    return gpu_check(gpu, gpu->vk.vkCreateBuffer(gpu->device, &create, NULL, &buffer->buffer), "making a buffer",
                     error);
}

static VkResult allocate(struct gpu *gpu, struct gpu_buffer *buffer, uint64_t bytes, uint32_t type, const void *next)
{
    const VkMemoryAllocateFlagsInfo flags = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                             .pNext = next,
                                             .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT};
    const VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                       .pNext = &flags,
                                       .allocationSize = bytes,
                                       .memoryTypeIndex = type};
    return gpu->vk.vkAllocateMemory(gpu->device, &info, NULL, &buffer->memory);
}

static hypura_status bind(struct gpu *gpu, struct gpu_buffer *buffer, hypura_error *error)
{
    hypura_status status = gpu_check(gpu, gpu->vk.vkBindBufferMemory(gpu->device, buffer->buffer, buffer->memory, 0),
                                     "binding memory", error);
    if (status)
        return status;
    const VkBufferDeviceAddressInfo address = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO,
                                               .buffer = buffer->buffer};
    buffer->address = gpu->vk.vkGetBufferDeviceAddress(gpu->device, &address);
    return HYPURA_OK;
}

#define LOCAL VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define VISIBLE (VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
#define CACHED VK_MEMORY_PROPERTY_HOST_CACHED_BIT

/* Tries each wish in turn: memory types with all wanted and no unwanted properties. Stops at the first type with room.
 * Only coherent memory is mapped, so nothing needs to be flushed. */
static hypura_status allocate_first(struct gpu *gpu, struct gpu_buffer *buffer,
                                    const VkMemoryPropertyFlags (*wishes)[2], size_t count, hypura_error *error)
{
    VkMemoryRequirements requirements;
    gpu->vk.vkGetBufferMemoryRequirements(gpu->device, buffer->buffer, &requirements);
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    for (size_t wish = 0; wish < count && !buffer->memory; wish++) {
        for (uint32_t i = 0; i < gpu->memory.memoryTypeCount && !buffer->memory; i++) {
            VkMemoryPropertyFlags properties = gpu->memory.memoryTypes[i].propertyFlags;
            if (!(requirements.memoryTypeBits & 1u << i) || (properties & wishes[wish][0]) != wishes[wish][0] ||
                (properties & wishes[wish][1]))
                continue;
            result = allocate(gpu, buffer, requirements.size, i, NULL);
            if (!result && (wishes[wish][0] & VISIBLE) == VISIBLE)
                result = gpu->vk.vkMapMemory(gpu->device, buffer->memory, 0, VK_WHOLE_SIZE, 0, &buffer->mapped);
        }
    }
    if (result == VK_SUCCESS)
        return HYPURA_OK;
    char size[32], doing[96];
    snprintf(doing, sizeof doing, "taking %s of memory", format_bytes(size, sizeof size, (double)buffer->bytes));
    return gpu_check(gpu, result, doing, error);
}

static hypura_status create(struct gpu *gpu, struct gpu_buffer **out, uint64_t bytes,
                            const VkMemoryPropertyFlags (*wishes)[2], size_t count, hypura_error *error)
{
    if (bytes == 0 || bytes > gpu->info.max_allocation)
        return error_set(error, HYPURA_ERROR_MEMORY,
                         "GPU: a buffer cannot have %llu bytes; the device allows 1 to %llu", (unsigned long long)bytes,
                         (unsigned long long)gpu->info.max_allocation);
    struct gpu_buffer *buffer;
    hypura_status status = ALLOCATE(&buffer, 1, "GPU buffer", error);
    if (status)
        return status;
    buffer->bytes = bytes;
    status = create_buffer(gpu, buffer, NULL, error);
    if (!status)
        status = allocate_first(gpu, buffer, wishes, count, error);
    if (!status)
        status = bind(gpu, buffer, error);
    if (status)
        gpu_buffer_destroy(gpu, buffer);
    else
        *out = buffer;
    return status;
}

hypura_status gpu_buffer_create(struct gpu *gpu, struct gpu_buffer **out, uint64_t bytes, enum gpu_memory memory,
                                hypura_error *error)
{
    /* Wanted and unwanted properties. The host may see only the smaller part of a card's memory, so device buffers
     * use that part last. */
    static const VkMemoryPropertyFlags unified[][2] = {{LOCAL | VISIBLE, 0}, {VISIBLE, 0}};
    static const VkMemoryPropertyFlags device[][2] = {{LOCAL, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT}, {LOCAL, 0}};
    static const VkMemoryPropertyFlags upload[][2] = {{LOCAL | VISIBLE, 0}, {VISIBLE, CACHED}, {VISIBLE, 0}};
    static const VkMemoryPropertyFlags readback[][2] = {{VISIBLE | CACHED, 0}, {VISIBLE, 0}};
    hypura_status status;
    switch (memory) {
    case GPU_VISIBLE:
        status = create(gpu, out, bytes, upload, 1, error);
        if (!status)
            (*out)->far = !gpu->info.unified;
        return status;
    case GPU_DEVICE:
        return gpu->info.unified ? create(gpu, out, bytes, unified, COUNT_OF(unified), error)
                                 : create(gpu, out, bytes, device, COUNT_OF(device), error);
    case GPU_UPLOAD:
        return create(gpu, out, bytes, upload, COUNT_OF(upload), error);
    default:
        return create(gpu, out, bytes, readback, COUNT_OF(readback), error);
    }
}

hypura_status gpu_buffer_create_staging(struct gpu *gpu, struct gpu_buffer **out, uint64_t bytes, hypura_error *error)
{
    static const VkMemoryPropertyFlags staging[][2] = {{VISIBLE | CACHED, LOCAL}, {VISIBLE, LOCAL}, {VISIBLE, 0}};
    return create(gpu, out, bytes, staging, COUNT_OF(staging), error);
}

hypura_status gpu_buffer_import(struct gpu *gpu, struct gpu_buffer **out, void *host, uint64_t bytes,
                                hypura_error *error)
{
    uint64_t alignment = gpu->info.import_alignment;
    if (!gpu->info.host_import || bytes == 0 || (uintptr_t)host % alignment || bytes % alignment)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "GPU: host memory at %p of %llu bytes cannot be imported", host,
                         (unsigned long long)bytes);
    VkMemoryHostPointerPropertiesEXT properties = {.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    const VkExternalMemoryHandleTypeFlagBits handle = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    hypura_status status =
        gpu_check(gpu, gpu->vk.vkGetMemoryHostPointerPropertiesEXT(gpu->device, handle, host, &properties),
                  "importing host memory", error);
    if (status)
        return status;
    struct gpu_buffer *buffer;
    status = ALLOCATE(&buffer, 1, "GPU buffer", error);
    if (status)
        return status;
    buffer->bytes = bytes;
    const VkExternalMemoryBufferCreateInfo external = {.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                       .handleTypes = handle};
    status = create_buffer(gpu, buffer, &external, error);
    if (!status) {
        VkMemoryRequirements requirements;
        gpu->vk.vkGetBufferMemoryRequirements(gpu->device, buffer->buffer, &requirements);
        const VkImportMemoryHostPointerInfoEXT import = {
            .sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT, .handleType = handle, .pHostPointer = host};
        uint32_t types = requirements.memoryTypeBits & properties.memoryTypeBits;
        VkResult result = VK_ERROR_INVALID_EXTERNAL_HANDLE;
        for (uint32_t i = 0; i < gpu->memory.memoryTypeCount && result; i++)
            if (types & 1u << i)
                result = allocate(gpu, buffer, bytes, i, &import);
        status = gpu_check(gpu, result, "importing host memory", error);
    }
    if (!status)
        status = bind(gpu, buffer, error);
    if (status) {
        gpu_buffer_destroy(gpu, buffer);
        return status;
    }
    buffer->mapped = host;
    *out = buffer;
    return HYPURA_OK;
}

void gpu_buffer_destroy(struct gpu *gpu, struct gpu_buffer *buffer)
{
    if (!buffer)
        return;
    /* A device that refused a batch may still run earlier ones. */
    if (atomic_load(&gpu->lost) && !atomic_exchange(&gpu->drained, true))
        timelines_drain(gpu);
    bool in_use = atomic_load(&gpu->hung); /* perhaps, and forever */
    if (buffer->buffer && !in_use)
        gpu->vk.vkDestroyBuffer(gpu->device, buffer->buffer, NULL);
    if (buffer->memory && !in_use)
        gpu->vk.vkFreeMemory(gpu->device, buffer->memory, NULL); /* unmaps it */
    memory_free(buffer);
}

void *gpu_buffer_mapped(const struct gpu_buffer *buffer)
{
    return buffer->mapped;
}

uint64_t gpu_buffer_address(const struct gpu_buffer *buffer)
{
    return buffer->address;
}

uint64_t gpu_buffer_bytes(const struct gpu_buffer *buffer)
{
    return buffer->bytes;
}
