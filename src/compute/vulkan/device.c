#include "compute/vulkan/gpu_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEVICES 64
#define MAX_FAMILIES 32

/* Opens the loader if all kernels were built. */
static hypura_status open_loader(struct vk *vk, bool validate, _Atomic uint64_t *messages, hypura_error *error)
{
    const char *missing = kernel_without_code(false);
    *vk = (struct vk){0};
    if (missing)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "this hypura was built without a GPU tier: its compiler of shaders (glslc) failed for %s",
                         missing);
    return vk_open(vk, validate, messages, error);
}

hypura_status gpu_list(struct gpu_info *out, size_t capacity, size_t *count, char *why, hypura_error *error)
{
    struct vk vk;
    hypura_error reason = {0};
    *count = 0;
    if (why)
        *why = '\0';
    if (open_loader(&vk, false, NULL, &reason)) {
        if (why)
            memcpy(why, reason.message, sizeof reason.message);
        return HYPURA_OK;
    }
    VkPhysicalDevice devices[MAX_DEVICES];
    uint32_t found;
    hypura_status status = gpu_enumerate(&vk, devices, MAX_DEVICES, &found, error);
    for (uint32_t i = 0; i < found && i < capacity && !status; i++)
        gpu_describe(&vk, devices[i], &out[i]);
    if (!status && found == 0 && why)
        snprintf(why, sizeof reason.message, "Vulkan finds no device on this machine");
    *count = found;
    vk_close(&vk);
    return status;
}

/* The compute queue is of the first family that computes. The transfer queue is of a family that only transfers, which
 * is a card's copy engine; else a second queue of the compute family; else the compute queue. */
static hypura_status choose_queues(struct gpu *gpu, VkDeviceQueueCreateInfo *queues, uint32_t *count,
                                   uint32_t *transfer_index, hypura_error *error)
{
    static const float priorities[2] = {1, 1};
    VkQueueFamilyProperties families[MAX_FAMILIES];
    uint32_t found = MAX_FAMILIES;
    gpu->vk.vkGetPhysicalDeviceQueueFamilyProperties(gpu->physical, &found, families);
    uint32_t compute = UINT32_MAX, transfer = UINT32_MAX;
    for (uint32_t i = 0; i < found; i++) {
        VkQueueFlags flags = families[i].queueFlags;
        if (flags & VK_QUEUE_COMPUTE_BIT && compute == UINT32_MAX)
            compute = i;
        if (flags & VK_QUEUE_TRANSFER_BIT && !(flags & (VK_QUEUE_COMPUTE_BIT | VK_QUEUE_GRAPHICS_BIT)) &&
            transfer == UINT32_MAX)
            transfer = i;
    }
    if (compute == UINT32_MAX)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "GPU: %s has no compute queue", gpu->info.name);
    *transfer_index = 0;
    queues[0] = (VkDeviceQueueCreateInfo){.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                          .queueFamilyIndex = compute,
                                          .queueCount = 1,
                                          .pQueuePriorities = priorities};
    *count = 1;
    if (transfer != UINT32_MAX) {
        queues[1] = queues[0];
        queues[(*count)++].queueFamilyIndex = transfer;
    } else {
        transfer = compute;
        if (families[compute].queueCount > 1)
            queues[0].queueCount = 2, *transfer_index = 1;
    }
    gpu->families[0] = compute;
    gpu->families[1] = transfer;
    uint32_t bits = families[compute].timestampValidBits;
    VkPhysicalDeviceProperties properties;
    gpu->vk.vkGetPhysicalDeviceProperties(gpu->physical, &properties);
    gpu->timestamp_mask = bits >= 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
    gpu->timestamp_seconds = bits ? (double)properties.limits.timestampPeriod * 1e-9 : 0;
    return HYPURA_OK;
}

static hypura_status create_device(struct gpu *gpu, bool *panels, hypura_error *error)
{
    VkDeviceQueueCreateInfo queues[2];
    uint32_t queue_count = 0, transfer_index = 0;
    hypura_status status = choose_queues(gpu, queues, &queue_count, &transfer_index, error);
    if (status)
        return status;
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .bufferDeviceAddress = VK_TRUE,
                                            .timelineSemaphore = VK_TRUE,
                                            .storageBuffer8BitAccess = VK_TRUE,
                                            .shaderInt8 = VK_TRUE,
                                            .shaderFloat16 = gpu->info.fp16};
    VkPhysicalDeviceVulkan11Features v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
                                            .pNext = &v12,
                                            .storageBuffer16BitAccess = VK_TRUE};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                          .pNext = &v11,
                                          .features = {.shaderInt64 = VK_TRUE, .shaderInt16 = VK_TRUE}};
    VkPhysicalDeviceCooperativeMatrixFeaturesNV matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_NV, .cooperativeMatrix = VK_TRUE};
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR khr_matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR, .cooperativeMatrix = VK_TRUE};
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES,
        .shaderIntegerDotProduct = VK_TRUE};
    const char *extensions[8];
    uint32_t count = 0;
    if (gpu_device_has(&gpu->vk, gpu->physical, "VK_KHR_portability_subset"))
        extensions[count++] = "VK_KHR_portability_subset";
    gpu->memory_budget = gpu_device_has(&gpu->vk, gpu->physical, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    if (gpu->memory_budget)
        extensions[count++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    if (gpu->info.host_import)
        extensions[count++] = VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME;
    *panels = *panels && panels_possible(gpu);
    if (*panels)
        extensions[count++] = PANELS_EXTENSION;
    if (gpu->info.khr_matrix) {
        extensions[count++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
        khr_matrices.pNext = v12.pNext;
        v12.pNext = &khr_matrices;
        v12.vulkanMemoryModel = VK_TRUE;
    } else if (gpu->info.cooperative_matrix) {
        extensions[count++] = VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME;
        matrices.pNext = v12.pNext;
        v12.pNext = &matrices;
        v12.vulkanMemoryModel = VK_TRUE;
    }
    if (gpu->info.int8_dot) {
        extensions[count++] = VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME;
        dot.pNext = v12.pNext;
        v12.pNext = &dot;
    }
    const VkDeviceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                       .pNext = &features,
                                       .queueCreateInfoCount = queue_count,
                                       .pQueueCreateInfos = queues,
                                       .enabledExtensionCount = count,
                                       .ppEnabledExtensionNames = extensions};
    status =
        gpu_check(gpu, gpu->vk.vkCreateDevice(gpu->physical, &create, NULL, &gpu->device), "opening the device", error);
    if (!status)
        status = vk_load_device(&gpu->vk, gpu->device, error);
    if (status)
        return status;
    gpu->vk.vkGetDeviceQueue(gpu->device, gpu->families[0], 0, &gpu->compute_queue);
    gpu->vk.vkGetDeviceQueue(gpu->device, gpu->families[1], transfer_index, &gpu->transfer_queue);
    return HYPURA_OK;
}

static hypura_status choose_device(struct gpu *gpu, const struct gpu_options *options, hypura_error *error)
{
    VkPhysicalDevice devices[MAX_DEVICES];
    uint32_t count;
    hypura_status status = gpu_enumerate(&gpu->vk, devices, MAX_DEVICES, &count, error);
    if (status)
        return status;
    if (options->index >= count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there is no GPU %u: Vulkan finds %u", options->index, count);
    gpu->physical = devices[options->index];
    gpu_describe(&gpu->vk, gpu->physical, &gpu->info);
    if (gpu->info.lacks[0])
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "GPU: %s cannot be used, because its driver lacks %s",
                         gpu->info.name, gpu->info.lacks);
    if (options->separate)
        gpu->info.unified = false;
    if (options->floats)
        gpu->info.int8_dot = false;
    const char *chains = getenv("HYPURA_GPU_CHAINS");
    if (chains)
        gpu->info.chains = strcmp(chains, "1") == 0;
    const char *events = getenv("HYPURA_GPU_EVENTS");
    if (events)
        gpu->info.events = strcmp(events, "1") == 0;
    const char *awake = getenv("HYPURA_GPU_AWAKE");
    if (awake)
        gpu->info.watches = strcmp(awake, "1") == 0;
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
    gpu->vk.vkGetPhysicalDeviceMemoryProperties2(gpu->physical, &memory);
    gpu->memory = memory.memoryProperties;
    return HYPURA_OK;
}

static hypura_status make_gpu(struct gpu **out, hypura_error *error)
{
    TRY(ALLOCATE(out, 1, "GPU", error));
    pthread_mutex_init(&(*out)->queue_lock, NULL);
    pthread_mutex_init(&(*out)->host_lock, NULL);
    pthread_mutex_init(&(*out)->upload_lock, NULL);
    return HYPURA_OK;
}

static void free_gpu(struct gpu *gpu)
{
    pthread_mutex_destroy(&gpu->queue_lock);
    pthread_mutex_destroy(&gpu->host_lock);
    pthread_mutex_destroy(&gpu->upload_lock);
    memory_free(gpu);
}

/* *panels: whether to try them; becomes whether they were tried. */
static hypura_status open_device(struct gpu **out, const struct gpu_options *options, bool *panels, hypura_error *error)
{
    struct gpu *gpu;
    TRY(make_gpu(&gpu, error));
    const char *validate = getenv("HYPURA_GPU_VALIDATE");
    hypura_status status =
        open_loader(&gpu->vk, options->validate || (validate && strcmp(validate, "1") == 0), &gpu->messages, error);
    if (!status)
        status = choose_device(gpu, options, error);
    if (!status)
        status = create_device(gpu, panels, error);
    if (!status) {
        gpu->patience_seconds = gpu->info.kind == GPU_CPU ? 300 : 10;
        fault_install(gpu);
        status = timelines_create(gpu, error);
    }
    if (!status)
        status = commands_create(gpu, error);
    if (!status)
        status = pipelines_create(gpu, options->pipeline_cache, error);
    if (!status)
        status = times_create(gpu, error);
    if (!status)
        status = codebooks_create(gpu, error);
    if (!status && *panels)
        status = panels_create(gpu, error);
    if (!status)
        status = watch_create(gpu, error);
    /* A driver that is loaded and unloaded repeatedly may run out of room: NVIDIA's after some thirty times, for
     * thread-local variables. So it stays loaded. Drivers on the CPU are large, and reload without harm. */
    if (!status && gpu->info.kind != GPU_CPU)
        vk_keep_drivers();
    if (status)
        gpu_close(gpu);
    else
        *out = gpu;
    return status;
}

hypura_status gpu_open(struct gpu **out, const struct gpu_options *options, hypura_error *error)
{
    bool panels = true;
    hypura_status status = open_device(out, options, &panels, error);
    if (status != HYPURA_ERROR_DEVICE || !panels)
        return status;
    panels = false;
    return open_device(out, options, &panels, error);
}

hypura_status gpu_imagine(struct gpu **out, const struct gpu_info *info, hypura_error *error)
{
    struct gpu *gpu;
    TRY(make_gpu(&gpu, error));
    gpu->info = *info;
    *out = gpu;
    return HYPURA_OK;
}

/* Devices that hang. Their memory cannot be freed before the process ends. */
static struct gpu *_Atomic abandoned;

void gpu_close(struct gpu *gpu)
{
    if (!gpu)
        return;
    if (gpu->device)
        timelines_drain(gpu);
    if (atomic_load(&gpu->hung)) {
        log_write(LOG_WARNING, "%s hangs: its memory is released only when this process ends", gpu->info.name);
        gpu->abandoned = atomic_exchange(&abandoned, gpu);
        return;
    }
    if (gpu->device && gpu->vk.vkDestroyDevice) {
        if (gpu->vk.vkDeviceWaitIdle)
            gpu->vk.vkDeviceWaitIdle(gpu->device);
        watch_destroy(gpu);
        times_destroy(gpu);
        panels_destroy(gpu);
        codebooks_destroy(gpu);
        uploads_destroy(gpu);
        pipelines_destroy(gpu);
        commands_destroy(gpu);
        timelines_destroy(gpu);
        gpu->vk.vkDestroyDevice(gpu->device, NULL);
    }
    vk_close(&gpu->vk);
    free_gpu(gpu);
}

bool gpu_is_lost(const struct gpu *gpu)
{
    return atomic_load(&gpu->lost);
}

const struct gpu_info *gpu_get_info(const struct gpu *gpu)
{
    return &gpu->info;
}

uint64_t gpu_free_bytes(struct gpu *gpu)
{
    struct gpu_info info;
    if (!gpu->physical) /* imagined */
        return gpu->info.free_bytes;
    gpu_describe(&gpu->vk, gpu->physical, &info);
    return info.free_bytes;
}

uint64_t gpu_validation_messages(const struct gpu *gpu)
{
    return atomic_load(&gpu->messages);
}
