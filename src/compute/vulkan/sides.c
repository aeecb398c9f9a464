/* Residual streams in addition to the first, and other operations on rows in Gemma 3n. */
#include "compute/vulkan/gpu_private.h"

void gpu_sides(struct gpu *gpu, const struct gpu_sides *s)
{
    const bool corrects = s->branch.buffer != NULL;
    if (s->sides == 0 || s->sides > SIDES_MAX) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u streams next to the first one", s->sides);
        return;
    }
    /* A prediction does not use branch and scale, but they get an address that the shader may read. */
    const struct {
        uint64_t hidden, sides, branch, out, norm, router, coefficients, scale;
        uint32_t rows, width;
        float epsilon;
    } push = {gpu_address(s->hidden),
              gpu_address(s->side_rows),
              gpu_address(corrects ? s->branch : s->hidden),
              gpu_address(corrects ? s->out : s->hidden),
              gpu_address(s->norm),
              gpu_address(s->router),
              gpu_address(s->coefficients),
              gpu_address(corrects ? s->scale : s->norm),
              s->rows,
              s->width,
              s->epsilon};
    const uint32_t constants[] = {s->sides + 1, corrects};
    gpu_launch(gpu, KERNEL_sides, constants, COUNT_OF(constants), &push, sizeof push, MIN(s->rows, GPU_MAX_GROUPS), 1,
               1);
}

void gpu_sparse(struct gpu *gpu, struct gpu_range values, uint32_t rows, uint32_t width, float deviations)
{
    const struct {
        uint64_t values;
        uint32_t rows, width;
        float deviations;
    } push = {gpu_address(values), rows, width, deviations};
    gpu_launch(gpu, KERNEL_sparse, NULL, 0, &push, sizeof push, MIN(rows, GPU_MAX_GROUPS), 1, 1);
}

void gpu_match_lengths(struct gpu *gpu, struct gpu_range values, struct gpu_range by, uint32_t rows, uint32_t parts,
                       uint32_t width)
{
    const struct {
        uint64_t values, by;
        uint32_t parts, width;
    } push = {gpu_address(values), gpu_address(by), parts, width};
    gpu_launch(gpu, KERNEL_lengths, NULL, 0, &push, sizeof push, parts, rows, 1);
}
