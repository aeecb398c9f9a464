/* Residual streams. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/scatter.comp and gather_gated.comp. */
#define SCATTER_GROUP 128u

static bool is_possible(struct gpu *gpu, uint32_t count, uint32_t rows)
{
    if (count > 0 && count <= STREAMS_MAX && rows <= GPU_MAX_GROUPS)
        return true;
    gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u streams of %u rows", count, rows);
    return false;
}

void gpu_gather(struct gpu *gpu, const struct gpu_streams *s)
{
    if (!is_possible(gpu, s->count, s->rows))
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
    if (!is_possible(gpu, s->count, s->rows))
        return;
    const struct {
        uint64_t streams, coefficients, branch;
        uint32_t width;
    } push = {gpu_address(s->streams), gpu_address(s->coefficients), gpu_address(s->row), s->width};
    const uint32_t constants[] = {s->count, s->sinkhorn > 0};
    gpu_launch(gpu, KERNEL_scatter, constants, COUNT_OF(constants), &push, sizeof push,
               (s->width + SCATTER_GROUP - 1) / SCATTER_GROUP, s->rows, 1);
}

void gpu_gather_gated(struct gpu *gpu, const struct gpu_gated_gather *g)
{
    const bool returns = g->inject.buffer != NULL;
    if (!is_possible(gpu, g->count, g->rows))
        return;
    const struct {
        uint64_t streams, gates, inject, coefficients, out;
        uint32_t width;
    } push = {gpu_address(g->streams),
              gpu_address(g->gates),
              gpu_address(returns ? g->inject : g->gates),
              gpu_address(returns ? g->coefficients : g->gates),
              gpu_address(g->out),
              g->width};
    const uint32_t constants[] = {g->count, returns};
    gpu_launch(gpu, KERNEL_gather_gated, constants, COUNT_OF(constants), &push, sizeof push,
               (g->width + SCATTER_GROUP - 1) / SCATTER_GROUP, g->rows, 1);
}

void gpu_agree(struct gpu *gpu, const struct gpu_agreement *a)
{
    if (!is_possible(gpu, a->count, a->rows))
        return;
    const struct {
        uint64_t keys, queries, values, out;
        uint32_t streams, width;
    } push = {gpu_address(a->keys), gpu_address(a->queries), gpu_address(a->values),
              gpu_address(a->out),  a->count,                a->width};
    gpu_launch(gpu, KERNEL_agree, NULL, 0, &push, sizeof push, a->count, a->rows, 1);
}
