/* Properties and abilities of devices. */
#include "compute/vulkan/gpu_private.h"

#include <stdio.h>
#include <string.h>

hypura_status gpu_enumerate(struct vk *vk, VkPhysicalDevice *devices, uint32_t capacity, uint32_t *count,
                            hypura_error *error)
{
    *count = capacity;
    VkResult result = vk->vkEnumeratePhysicalDevices(vk->instance, count, devices);
    if (result && result != VK_INCOMPLETE) {
        *count = 0;
        /* No driver is installed: the machine has no device, which is no failure. */
        return result == VK_ERROR_INITIALIZATION_FAILED ? HYPURA_OK : vk_error(error, result, "listing devices");
    }
    return HYPURA_OK;
}

bool gpu_device_has(const struct vk *vk, VkPhysicalDevice physical, const char *extension)
{
    uint32_t count = 0;
    VkExtensionProperties *list;
    if (vk->vkEnumerateDeviceExtensionProperties(physical, NULL, &count, NULL) || count == 0 ||
        ALLOCATE(&list, count, "Vulkan extensions", NULL))
        return false;
    bool has = vk->vkEnumerateDeviceExtensionProperties(physical, NULL, &count, list) == VK_SUCCESS &&
               vk_has_extension(list, count, extension);
    memory_free(list);
    return has;
}

static void describe_memory(const struct vk *vk, VkPhysicalDevice physical, struct gpu_info *info)
{
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    bool has_budget = gpu_device_has(vk, physical, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                .pNext = has_budget ? &budget : NULL};
    vk->vkGetPhysicalDeviceMemoryProperties2(physical, &memory);
    const VkPhysicalDeviceMemoryProperties *list = &memory.memoryProperties;
    uint32_t greatest = UINT32_MAX;
    for (uint32_t i = 0; i < list->memoryHeapCount; i++) {
        if (list->memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT &&
            list->memoryHeaps[i].size > info->memory_bytes) {
            info->memory_bytes = list->memoryHeaps[i].size;
            greatest = i;
        }
    }
    info->free_bytes = info->memory_bytes;
    if (has_budget && greatest != UINT32_MAX)
        info->free_bytes = budget.heapBudget[greatest] > budget.heapUsage[greatest]
                               ? budget.heapBudget[greatest] - budget.heapUsage[greatest]
                               : 0;
    /* The host may see all memory of a card too, so the device's kind decides. */
    const VkMemoryPropertyFlags both = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                       VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t i = 0; i < list->memoryTypeCount; i++)
        info->visible |=
            list->memoryTypes[i].heapIndex == greatest && (list->memoryTypes[i].propertyFlags & both) == both;
    info->unified = info->visible && (info->kind == GPU_INTEGRATED || info->kind == GPU_CPU);
}

static enum gpu_kind kind_of(VkPhysicalDeviceType type)
{
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return GPU_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return GPU_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return GPU_CPU;
    default:
        return GPU_VIRTUAL;
    }
}

/* Adds the name of a missing feature. */
static void require(struct gpu_info *info, bool has, const char *what)
{
    size_t length = strlen(info->lacks);
    if (!has)
        snprintf(info->lacks + length, sizeof info->lacks - length, "%s%s", length ? ", " : "", what);
}

/* Whether an instruction multiplies and adds four signed bytes. */
static bool has_fast_dot(const struct vk *vk, VkPhysicalDevice physical)
{
    VkPhysicalDeviceShaderIntegerDotProductProperties dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &dot};
    vk->vkGetPhysicalDeviceProperties2(physical, &properties);
    return dot.integerDotProduct4x8BitPackedSignedAccelerated;
}

static void describe_features(const struct vk *vk, VkPhysicalDevice physical, struct gpu_info *info)
{
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
    VkPhysicalDeviceVulkan11Features v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
                                            .pNext = &v12};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v11};
    if (gpu_device_has(vk, physical, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME))
        v12.pNext = &dot;
    vk->vkGetPhysicalDeviceFeatures2(physical, &features);
    require(info, v12.bufferDeviceAddress, "buffer device addresses");
    require(info, v12.timelineSemaphore, "timeline semaphores");
    require(info, v12.storageBuffer8BitAccess, "8-bit storage");
    require(info, v11.storageBuffer16BitAccess, "16-bit storage");
    require(info, info->shared_bytes >= 32768, "32 KiB of shared memory");
    require(info, info->max_group >= 256, "work groups of 256");
    require(info, features.features.shaderInt64, "64-bit integers");
    require(info, features.features.shaderInt16 && v12.shaderInt8, "8- and 16-bit integers");
    info->fp16 = v12.shaderFloat16;
    /* Without such an instruction, floats are as fast. A device that is a CPU uses bytes anyway, to test them. */
    info->int8_dot = dot.shaderIntegerDotProduct && (info->kind == GPU_CPU || has_fast_dot(vk, physical));
}

/* Whether subgroups of 32 multiply matrices of 16 x 16 halves into floats, by KHR's extension or by NVIDIA's. */
static bool has_khr_matrix(const struct vk *vk, VkPhysicalDevice physical)
{
    VkCooperativeMatrixPropertiesKHR list[64];
    uint32_t count = COUNT_OF(list);
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)vk->get_instance_function(
            vk->instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .pNext = &matrices};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v12};
    if (!get || !gpu_device_has(vk, physical, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME))
        return false;
    vk->vkGetPhysicalDeviceFeatures2(physical, &features);
    for (uint32_t i = 0; i < count; i++)
        list[i] = (VkCooperativeMatrixPropertiesKHR){.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
    VkResult result = get(physical, &count, list);
    if ((result != VK_SUCCESS && result != VK_INCOMPLETE) || !matrices.cooperativeMatrix || !v12.vulkanMemoryModel)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (list[i].MSize == 16 && list[i].NSize == 16 && list[i].KSize == 16 &&
            list[i].scope == VK_SCOPE_SUBGROUP_NV && list[i].AType == VK_COMPONENT_TYPE_FLOAT16_NV &&
            list[i].BType == VK_COMPONENT_TYPE_FLOAT16_NV && list[i].CType == VK_COMPONENT_TYPE_FLOAT32_NV &&
            list[i].ResultType == VK_COMPONENT_TYPE_FLOAT32_NV)
            return true;
    return false;
}

static bool has_nv_matrix(const struct vk *vk, VkPhysicalDevice physical)
{
    VkCooperativeMatrixPropertiesNV list[64];
    uint32_t count = COUNT_OF(list);
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesNV get =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesNV)vk->get_instance_function(
            vk->instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesNV");
    if (!get || !gpu_device_has(vk, physical, VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME))
        return false;
    for (uint32_t i = 0; i < count; i++)
        list[i] = (VkCooperativeMatrixPropertiesNV){.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_NV};
    VkResult result = get(physical, &count, list);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (list[i].MSize == 16 && list[i].NSize == 16 && list[i].KSize == 16 &&
            list[i].scope == VK_SCOPE_SUBGROUP_NV && list[i].AType == VK_COMPONENT_TYPE_FLOAT16_NV &&
            list[i].BType == VK_COMPONENT_TYPE_FLOAT16_NV && list[i].CType == VK_COMPONENT_TYPE_FLOAT32_NV &&
            list[i].DType == VK_COMPONENT_TYPE_FLOAT32_NV)
            return true;
    return false;
}

void gpu_describe(const struct vk *vk, VkPhysicalDevice physical, struct gpu_info *info)
{
    *info = (struct gpu_info){0};
    VkPhysicalDeviceSubgroupSizeControlProperties subgroups = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES};
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT external = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT};
    VkPhysicalDeviceShaderSMBuiltinsPropertiesNV multiprocessors = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV};
    VkPhysicalDeviceVulkan11Properties v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES};
    VkPhysicalDeviceVulkan12Properties v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES,
                                              .pNext = &v11};
    VkPhysicalDeviceMaintenance4Properties buffers = {.sType =
                                                          VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    vk->vkGetPhysicalDeviceProperties(physical, &properties.properties);
    const VkPhysicalDeviceProperties *basic = &properties.properties;
    snprintf(info->name, sizeof info->name, "%s", basic->deviceName);
    info->kind = kind_of(basic->deviceType);
    info->driver_version = basic->driverVersion;
    if (basic->apiVersion < VK_API_VERSION_1_2) {
        require(info, false, "Vulkan 1.2");
        return;
    }
    properties.pNext = &v12;
    if (gpu_device_has(vk, physical, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME)) {
        subgroups.pNext = properties.pNext;
        properties.pNext = &subgroups;
    }
    if (gpu_device_has(vk, physical, VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME)) {
        multiprocessors.pNext = properties.pNext;
        properties.pNext = &multiprocessors;
    }
    if (gpu_device_has(vk, physical, VK_KHR_MAINTENANCE_4_EXTENSION_NAME)) {
        buffers.pNext = properties.pNext;
        properties.pNext = &buffers;
    }
    info->host_import = gpu_device_has(vk, physical, VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
    if (info->host_import) {
        external.pNext = properties.pNext;
        properties.pNext = &external;
    }
    vk->vkGetPhysicalDeviceProperties2(physical, &properties);
    snprintf(info->driver, sizeof info->driver, "%.120s %.120s", v12.driverName, v12.driverInfo);
    memcpy(info->uuid, v11.deviceUUID, sizeof info->uuid);
    info->max_allocation = v11.maxMemoryAllocationSize;
    if (buffers.maxBufferSize) /* each buffer has its own allocation */
        info->max_allocation = MIN(info->max_allocation, buffers.maxBufferSize);
    info->max_group = MIN(basic->limits.maxComputeWorkGroupInvocations, basic->limits.maxComputeWorkGroupSize[0]);
    info->shared_bytes = basic->limits.maxComputeSharedMemorySize;
    info->subgroup_min = subgroups.minSubgroupSize ? subgroups.minSubgroupSize : v11.subgroupSize;
    info->subgroup_max = subgroups.maxSubgroupSize ? subgroups.maxSubgroupSize : v11.subgroupSize;
    info->cores = multiprocessors.shaderSMCount;
    info->import_alignment = external.minImportedHostPointerAlignment;
    const bool nvidia = v12.driverID == VK_DRIVER_ID_NVIDIA_PROPRIETARY && info->kind == GPU_DISCRETE;
    info->chains = nvidia && info->cores;
    info->events = info->watches = nvidia;
    require(info,
            v11.subgroupSupportedOperations & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT &&
                v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT,
            "subgroup arithmetic");
    describe_memory(vk, physical, info);
    describe_features(vk, physical, info);
    info->int8_dot &= (v11.subgroupSupportedOperations & VK_SUBGROUP_FEATURE_SHUFFLE_BIT) != 0;
    const VkSubgroupFeatureFlags operations = VK_SUBGROUP_FEATURE_SHUFFLE_BIT | VK_SUBGROUP_FEATURE_VOTE_BIT;
    if (!kernel_without_code(true) && info->fp16 && info->subgroup_min == 32 && info->subgroup_max == 32 &&
        info->shared_bytes >= 48 * 1024 && (v11.subgroupSupportedOperations & operations) == operations) {
        info->khr_matrix = has_khr_matrix(vk, physical);
        info->cooperative_matrix = info->khr_matrix || (GPU_MATRICES == GPU_MATRICES_NV && has_nv_matrix(vk, physical));
    }
    fault_describe(info);
}
