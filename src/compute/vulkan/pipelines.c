#include "compute/vulkan/gpu_private.h"

#include "compute/vulkan/spirv.h" /* made by meson: the SPIR-V of every kernel, as code_NAME */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    const uint32_t *code;
    size_t bytes;
} kernels[KERNEL_COUNT] = {
#define KERNEL(name) {#name, code_##name, sizeof code_##name},
    GPU_KERNELS(KERNEL)
#undef KERNEL
};

const char *kernel_without_code(bool matrices)
{
    for (size_t kernel = 0; kernel < KERNEL_COUNT; kernel++)
        if (kernels[kernel].bytes == sizeof *kernels[kernel].code &&
            (strstr(kernels[kernel].name, "cooperative") != NULL) == matrices)
            return kernels[kernel].name;
    return NULL;
}

const uint32_t *kernel_code(enum gpu_kernel kernel, size_t *bytes)
{
    *bytes = kernels[kernel].bytes;
    return kernels[kernel].code;
}

/* A kernel with one set of constants, in the list of that kernel. */
struct pipeline {
    struct pipeline *next;
    uint32_t constants[GPU_MAX_CONSTANTS];
    size_t constant_count;
    VkPipeline pipeline;
};

/* Adapts a kernel's code to this device. *code is the result; the caller frees *own. */
static hypura_status adapt(const struct gpu *gpu, const uint32_t **code, size_t *bytes, uint32_t **own,
                           hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    uint32_t *translated = NULL;
    *own = NULL;
    if (gpu->info.khr_matrix && matrices_used(*code, *bytes)) {
        status = matrices_translate(*code, *bytes, &translated, bytes, error);
        *code = *own = translated;
    }
    if (status || gpu->info.kind != GPU_CPU)
        return status;
    status = loads_part(*code, *bytes, own, bytes, error);
    memory_free(translated);
    *code = *own;
    return status;
}

static hypura_status build(struct gpu *gpu, enum gpu_kernel kernel, struct pipeline *pipeline, hypura_error *error)
{
    VkShaderModuleCreateInfo module_create = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
                                              .codeSize = kernels[kernel].bytes,
                                              .pCode = kernels[kernel].code};
    uint32_t *own;
    hypura_status status = adapt(gpu, &module_create.pCode, &module_create.codeSize, &own, error);
    if (status)
        return status;
    VkShaderModule module;
    VkResult result = gpu->vk.vkCreateShaderModule(gpu->device, &module_create, NULL, &module);
    memory_free(own);
    if (!result) {
        VkSpecializationMapEntry entries[GPU_MAX_CONSTANTS];
        for (uint32_t i = 0; i < pipeline->constant_count; i++)
            entries[i] = (VkSpecializationMapEntry){i, i * (uint32_t)sizeof(uint32_t), sizeof(uint32_t)};
        const VkSpecializationInfo special = {(uint32_t)pipeline->constant_count, entries,
                                              pipeline->constant_count * sizeof(uint32_t), pipeline->constants};
        const VkComputePipelineCreateInfo create = {
            .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
            .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                      .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                      .module = module,
                      .pName = "main",
                      .pSpecializationInfo = &special},
            .layout = gpu->layout};
        result = gpu->vk.vkCreateComputePipelines(gpu->device, gpu->cache, 1, &create, NULL, &pipeline->pipeline);
        gpu->vk.vkDestroyShaderModule(gpu->device, module, NULL);
    }
    char doing[96];
    snprintf(doing, sizeof doing, "compiling the kernel %s", kernels[kernel].name);
    return gpu_check(gpu, result, doing, error);
}

hypura_status pipeline_get(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                           VkPipeline *out, hypura_error *error)
{
    for (const struct pipeline *at = gpu->pipelines[kernel]; at; at = at->next) {
        if (at->constant_count == constant_count &&
            (constant_count == 0 || memcmp(at->constants, constants, constant_count * sizeof *constants) == 0)) {
            *out = at->pipeline;
            return HYPURA_OK;
        }
    }
    if (constant_count > GPU_MAX_CONSTANTS)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "GPU: the kernel %s was given %zu constants; expected at most %d", kernels[kernel].name,
                         constant_count, GPU_MAX_CONSTANTS);
    struct pipeline *pipeline;
    hypura_status status = ALLOCATE(&pipeline, 1, "compute pipeline", error);
    if (status)
        return status;
    pipeline->constant_count = constant_count;
    if (constant_count)
        memcpy(pipeline->constants, constants, constant_count * sizeof *constants);
    status = build(gpu, kernel, pipeline, error);
    if (status) {
        memory_free(pipeline);
        return status;
    }
    pipeline->next = gpu->pipelines[kernel];
    gpu->pipelines[kernel] = pipeline;
    gpu->new_pipelines = true;
    *out = pipeline->pipeline;
    return HYPURA_OK;
}

/* ---- the cache on disk ------------------------------------------------------------------------------------------- */

#define CACHE_LIMIT ((size_t)256 << 20)

/* Returns the file's bytes if this same driver wrote them; another driver's cache may crash a driver. */
static void *read_cache(const struct gpu *gpu, const char *path, size_t *size)
{
    *size = 0;
    FILE *file = fopen(path, "rbe");
    if (!file)
        return NULL;
    void *data = NULL;
    long length = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    rewind(file);
    VkPipelineCacheHeaderVersionOne header;
    if (length >= (long)sizeof header && (size_t)length <= CACHE_LIMIT &&
        memory_allocate(&data, (size_t)length, 1, "pipeline cache", NULL) == HYPURA_OK) {
        VkPhysicalDeviceProperties properties;
        gpu->vk.vkGetPhysicalDeviceProperties(gpu->physical, &properties);
        if (fread(data, 1, (size_t)length, file) == (size_t)length)
            *size = (size_t)length;
        memcpy(&header, data, sizeof header);
        if (*size == 0 || header.headerSize != sizeof header ||
            header.headerVersion != VK_PIPELINE_CACHE_HEADER_VERSION_ONE || header.vendorID != properties.vendorID ||
            header.deviceID != properties.deviceID ||
            memcmp(header.pipelineCacheUUID, properties.pipelineCacheUUID, VK_UUID_SIZE) != 0) {
            memory_free(data);
            data = NULL;
            *size = 0;
        }
    }
    fclose(file);
    return data;
}

/* Writes a temporary file and renames it, so that no other process reads half of it. After a failure the next start is
 * only slower. */
static void write_cache(struct gpu *gpu)
{
    size_t size = 0;
    if (gpu->vk.vkGetPipelineCacheData(gpu->device, gpu->cache, &size, NULL) || size == 0 || size > CACHE_LIMIT)
        return;
    void *data;
    if (memory_allocate(&data, size, 1, "pipeline cache", NULL))
        return;
    char part[4096];
    int length = snprintf(part, sizeof part, "%s.%ld", gpu->cache_path, (long)getpid());
    FILE *file = NULL;
    if (gpu->vk.vkGetPipelineCacheData(gpu->device, gpu->cache, &size, data) == VK_SUCCESS && length > 0 &&
        (size_t)length < sizeof part)
        file = fopen(part, "wbe");
    if (file) {
        bool written = fwrite(data, 1, size, file) == size;
        written &= fclose(file) == 0;
        if (!written || rename(part, gpu->cache_path) != 0) {
            log_write(LOG_INFO, "cannot cache the GPU's compiled kernels in %s: %s", gpu->cache_path, strerror(errno));
            remove(part);
        }
    }
    memory_free(data);
}

hypura_status pipelines_create(struct gpu *gpu, const char *cache_path, hypura_error *error)
{
    const VkPushConstantRange range = {VK_SHADER_STAGE_COMPUTE_BIT, 0, GPU_PUSH_BYTES};
    const VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                               .pushConstantRangeCount = 1,
                                               .pPushConstantRanges = &range};
    hypura_status status =
        gpu_check(gpu, gpu->vk.vkCreatePipelineLayout(gpu->device, &layout, NULL, &gpu->layout), "preparing", error);
    if (status)
        return status;
    status = string_copy(&gpu->cache_path, cache_path, error);
    if (status)
        return status;
    size_t size = 0;
    void *data = cache_path ? read_cache(gpu, cache_path, &size) : NULL;
    const VkPipelineCacheCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO, .initialDataSize = size, .pInitialData = data};
    status = gpu_check(gpu, gpu->vk.vkCreatePipelineCache(gpu->device, &create, NULL, &gpu->cache),
                       "making a pipeline cache", error);
    memory_free(data);
    return status;
}

void pipelines_destroy(struct gpu *gpu)
{
    if (gpu->cache_path && gpu->new_pipelines && !atomic_load(&gpu->lost))
        write_cache(gpu);
    for (size_t kernel = 0; kernel < KERNEL_COUNT; kernel++) {
        while (gpu->pipelines[kernel]) {
            struct pipeline *next = gpu->pipelines[kernel]->next;
            gpu->vk.vkDestroyPipeline(gpu->device, gpu->pipelines[kernel]->pipeline, NULL);
            memory_free(gpu->pipelines[kernel]);
            gpu->pipelines[kernel] = next;
        }
    }
    if (gpu->cache)
        gpu->vk.vkDestroyPipelineCache(gpu->device, gpu->cache, NULL);
    if (gpu->layout)
        gpu->vk.vkDestroyPipelineLayout(gpu->device, gpu->layout, NULL);
    memory_free(gpu->cache_path);
}
