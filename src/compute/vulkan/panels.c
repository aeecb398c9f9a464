/* Products from panels, on the matrix units of NVIDIA's Hopper (H100, H200).
 *
 * Hopper's fast instructions read both operands from shared memory while the next ones arrive. No extension of GLSL
 * offers that, so this kernel is PTX (ptx/panels.ptx), which the driver compiles and runs by VK_NVX_binary_import. The
 * extension has no specification; it takes PTX as well as binaries, and 48 KiB of shared memory per work group.
 *
 * What binds such products is the way from the second-level cache. Neighbouring halves of a row fill a quarter of a
 * cache line per step, which halves the speed. In panels, what a work group reads per step lies together.
 *
 * As nothing is promised, a small product is tried when a device is opened. If the driver refuses, or the result is
 * wrong, or the device is lost, products go through tiles. HYPURA_GPU_PANELS=0 does the same. */
#include "compute/vulkan/gpu_private.h"

#include <stdlib.h>
#include <string.h>

static const char code[] = {
#include "compute/vulkan/panels.ptx.inc"
};

#define THREADS 256u
#define SHARED_BYTES 49152u

/* The kernel's parameter. */
struct panels_job {
    uint64_t weights, in, out, bias;
    uint32_t rows, tokens, steps, out_stride, accumulate, unused;
    uint64_t groups, slots, slot_step; /* groups: 0 for one matrix; the rest is for experts only */
    uint32_t experts, first_slot, slot_count, unused_too;
};

uint64_t panels_bytes(uint32_t rows, uint32_t columns)
{
    return align_up(align_up((uint64_t)rows, GPU_PANEL_ROWS) * columns * 2, GPU_ALIGNMENT);
}

bool panels_fit(const struct gpu *gpu, const struct gpu_matmul *job)
{
    return gpu->info.panels && halves_suit_panels(job->weights.type, job->weights.columns) &&
           gpu_address(job->out) % 8 == 0 && job->out_stride % 2 == 0;
}

static uint32_t row_tiles(uint32_t rows)
{
    return (rows + PANELS_ROWS - 1) / PANELS_ROWS;
}

static void launch(struct gpu *gpu, const struct panels_job *job, uint32_t across, uint32_t down)
{
    if (gpu->recording.status || !gpu->open)
        return;
    const void *parameters[] = {job};
    const VkCuLaunchInfoNVX launch = {.sType = VK_STRUCTURE_TYPE_CU_LAUNCH_INFO_NVX,
                                      .function = gpu->panels_function,
                                      .gridDimX = across,
                                      .gridDimY = down,
                                      .gridDimZ = 1,
                                      .blockDimX = THREADS,
                                      .blockDimY = 1,
                                      .blockDimZ = 1,
                                      .sharedMemBytes = SHARED_BYTES,
                                      .paramCount = 1,
                                      .pParams = parameters};
    barrier_before_unchained(gpu);
    gpu->vk.vkCmdCuLaunchKernelNVX(gpu->open->commands, &launch);
    times_add(gpu, gpu_weight_type(TENSOR_F16)->cooperative);
}

void panels_multiply(struct gpu *gpu, const struct gpu_matmul *job, struct gpu_range inputs)
{
    const struct panels_job panels = {.weights = gpu_address(job->weights.data),
                                      .in = gpu_address(inputs),
                                      .out = gpu_address(job->out),
                                      .bias = gpu_address(job->bias),
                                      .rows = job->weights.rows,
                                      .tokens = job->tokens,
                                      .steps = job->weights.columns / GPU_PANEL_COLUMNS,
                                      .out_stride = job->out_stride,
                                      .accumulate = job->accumulate};
    launch(gpu, &panels, (job->tokens + PANELS_TOKENS - 1) / PANELS_TOKENS, row_tiles(panels.rows));
}

void panels_multiply_experts(struct gpu *gpu, const struct gpu_expert_matmul *job, struct gpu_range inputs,
                             struct gpu_range weights, uint32_t first_slot, uint32_t slots)
{
    const struct panels_job panels = {.weights = gpu_address(weights),
                                      .in = gpu_address(inputs),
                                      .out = gpu_address(job->out),
                                      .bias = gpu_address(job->bias),
                                      .rows = job->weights.rows,
                                      .steps = job->weights.columns / GPU_PANEL_COLUMNS,
                                      .out_stride = gpu_expert_out_stride(job),
                                      .groups = gpu_address(job->groups),
                                      .slots = gpu_address(job->slots),
                                      .slot_step = panels_bytes(job->weights.rows, job->weights.columns),
                                      .experts = job->experts,
                                      .first_slot = first_slot,
                                      .slot_count = slots};
    launch(gpu, &panels,
           (uint32_t)expert_most_tiles(PANELS_TOKENS, job->experts, job->used, job->tokens) * row_tiles(panels.rows),
           1);
}

/* ---- whether the device has them --------------------------------------------------------------------------------- */

/* Hopper has 64 warps per multiprocessor, as few other cards; those refuse the module. */
#define WARPS 64u

bool panels_possible(const struct gpu *gpu)
{
    const char *wanted = getenv("HYPURA_GPU_PANELS");
    VkPhysicalDeviceShaderSMBuiltinsPropertiesNV multiprocessors = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                              .pNext = &multiprocessors};
    if ((wanted && strcmp(wanted, "0") == 0) || !gpu->info.cooperative_matrix ||
        !gpu_device_has(&gpu->vk, gpu->physical, PANELS_EXTENSION) ||
        !gpu_device_has(&gpu->vk, gpu->physical, VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME))
        return false;
    gpu->vk.vkGetPhysicalDeviceProperties2(gpu->physical, &properties);
    return multiprocessors.shaderWarpsPerSM == WARPS;
}

static bool make_function(struct gpu *gpu)
{
    const VkCuModuleCreateInfoNVX module = {
        .sType = VK_STRUCTURE_TYPE_CU_MODULE_CREATE_INFO_NVX, .dataSize = sizeof code, .pData = code};
    VkCuFunctionCreateInfoNVX function = {.sType = VK_STRUCTURE_TYPE_CU_FUNCTION_CREATE_INFO_NVX,
                                          .pName = "panels_multiply"};
    if (!gpu->vk.vkCreateCuModuleNVX || !gpu->vk.vkCreateCuFunctionNVX || !gpu->vk.vkCmdCuLaunchKernelNVX ||
        gpu->vk.vkCreateCuModuleNVX(gpu->device, &module, NULL, &gpu->panels_module))
        return false;
    function.module = gpu->panels_module;
    return gpu->vk.vkCreateCuFunctionNVX(gpu->device, &function, NULL, &gpu->panels_function) == VK_SUCCESS;
}

/* A product of two panels of rows with one of tokens, for a tile with a part outside the matrix. The elements of step s
 * are 2^s, and 2^(last - s) in the second panel. So each step adds another value to the sums of the first one. */
#define TRIED_ROWS 72u
#define TRIED_TOKENS 40u
#define TRIED_STEPS 10u
#define PANEL_BYTES ((uint64_t)GPU_PANEL_ROWS * GPU_PANEL_COLUMNS * 2)
#define FIRST_SUM (GPU_PANEL_COLUMNS * (((1u << 2 * TRIED_STEPS) - 1) / 3))
#define LAST_SUM (GPU_PANEL_COLUMNS * TRIED_STEPS * (1u << (TRIED_STEPS - 1)))

static void fill_panel(struct gpu *gpu, struct gpu_buffer *memory, uint64_t panel, uint32_t power)
{
    const uint32_t half = (power + 15) << 10;
    gpu->vk.vkCmdFillBuffer(gpu->open->commands, memory->buffer, panel * PANEL_BYTES, PANEL_BYTES, half << 16 | half);
}

static hypura_status try_product(struct gpu *gpu, struct gpu_buffer *memory, struct gpu_buffer *result,
                                 hypura_error *error)
{
    const uint64_t in = 2 * TRIED_STEPS * PANEL_BYTES, out = 3 * TRIED_STEPS * PANEL_BYTES;
    const struct panels_job job = {.weights = memory->address,
                                   .in = memory->address + in,
                                   .out = memory->address + out,
                                   .rows = TRIED_ROWS,
                                   .tokens = TRIED_TOKENS,
                                   .steps = TRIED_STEPS,
                                   .out_stride = TRIED_ROWS};
    gpu_ticket ticket = 0;
    gpu_begin(gpu);
    for (uint32_t s = 0; s < TRIED_STEPS && gpu->open; s++) {
        fill_panel(gpu, memory, s, s);
        fill_panel(gpu, memory, TRIED_STEPS + s, TRIED_STEPS - 1 - s);
        fill_panel(gpu, memory, 2 * TRIED_STEPS + s, s);
    }
    gpu_barrier(gpu);
    launch(gpu, &job, 1, 1);
    gpu_barrier(gpu);
    gpu_copy(gpu, (struct gpu_range){result, 0}, (struct gpu_range){memory, out},
             TRIED_ROWS * TRIED_TOKENS * sizeof(float));
    hypura_status status = gpu_submit(gpu, &ticket, 0, error);
    return status ? status : gpu_wait(gpu, ticket, error);
}

static bool is_right(const float *sums)
{
    for (uint32_t i = 0; i < TRIED_ROWS * TRIED_TOKENS; i++)
        if (sums[i] != (float)(i % TRIED_ROWS < GPU_PANEL_ROWS ? FIRST_SUM : LAST_SUM))
            return false;
    return true;
}

hypura_status panels_create(struct gpu *gpu, hypura_error *error)
{
    struct gpu_buffer *memory = NULL, *result = NULL;
    const uint64_t sums = TRIED_ROWS * TRIED_TOKENS * sizeof(float);
    const uint64_t bytes = 3 * TRIED_STEPS * PANEL_BYTES + sums;
    if (!make_function(gpu))
        return HYPURA_OK;
    hypura_status status = gpu_buffer_create(gpu, &memory, bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(gpu, &result, sums, GPU_READBACK, error);
    if (!status)
        status = try_product(gpu, memory, result, error);
    gpu->info.panels = !status && is_right(gpu_buffer_mapped(result));
    if (!status && !gpu->info.panels)
        log_write(LOG_INFO, "%s computes a wrong product from panels: prompts go through tiles", gpu->info.name);
    gpu_buffer_destroy(gpu, memory);
    gpu_buffer_destroy(gpu, result);
    return status;
}

void panels_destroy(struct gpu *gpu)
{
    if (gpu->panels_function)
        gpu->vk.vkDestroyCuFunctionNVX(gpu->device, gpu->panels_function, NULL);
    if (gpu->panels_module)
        gpu->vk.vkDestroyCuModuleNVX(gpu->device, gpu->panels_module, NULL);
}
