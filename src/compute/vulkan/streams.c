/* Residual streams. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/scatter.comp. */
#define SCATTER_GROUP 128u

static bool is_possible(struct gpu *gpu, const struct gpu_streams *s)
{
    if (s->count > 0 && s->count <= STREAMS_MAX && s->rows <= GPU_MAX_GROUPS)
        return true;
    gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u streams of %u rows", s->count, s->rows);
    return false;
}

void gpu_gather(struct gpu *gpu, const struct gpu_streams *s)
{
    if (!is_possible(gpu, s))
        return;
    const struct {
        uint64_t streams, coefficients, scale, base, out;
        uint32_t rows, width, rounds;
        float norm_epsilon, epsilon, back_epsilon, magnitude;
    } push = {gpu_address(s->streams),
              gpu_address(s->coefficients),
              gpu_address(s->scale),
              gpu_address(s->base),
              gpu_address(s->row),
              s->rows,
              s->width,
              s->sinkhorn,
              s->norm_epsilon,
              s->epsilon,
              s->back_epsilon,
              s->magnitude};
    const uint32_t constants[] = {s->count, s->returns, s->sinkhorn > 0};
    gpu_launch(gpu, KERNEL_gather, constants, COUNT_OF(constants), &push, sizeof push, s->rows, 1, 1);
}

void gpu_scatter(struct gpu *gpu, const struct gpu_streams *s)
{
    if (!is_possible(gpu, s))
        return;
    const struct {
        uint64_t streams, coefficients, branch;
        uint32_t width;
    } push = {gpu_address(s->streams), gpu_address(s->coefficients), gpu_address(s->row), s->width};
    const uint32_t constants[] = {s->count, s->sinkhorn > 0};
    gpu_launch(gpu, KERNEL_scatter, constants, COUNT_OF(constants), &push, sizeof push,
               (s->width + SCATTER_GROUP - 1) / SCATTER_GROUP, s->rows, 1);
}
