/* Kernels on rows of floats. */
#include "compute/vulkan/gpu_private.h"

void gpu_rms_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight, uint32_t rows,
                  uint32_t columns, float epsilon)
{
    const struct {
        uint64_t out, in, weight;
        uint32_t rows, columns;
        float epsilon;
    } push = {gpu_address(out), gpu_address(in), gpu_address(weight), rows, columns, epsilon};
    gpu_launch(gpu, KERNEL_rms_norm, NULL, 0, &push, sizeof push, MIN(rows, GPU_MAX_GROUPS), 1, 1);
}
